import numpy as np
import pytest

from cocosnet_jax.data import dataset, records
from cocosnet_jax.data.builders import drawn_scenes
from cocosnet_jax.data.builders.drawn_scenes import DrawnEdges, DrawnScenes
from cocosnet_jax.data.drawn.scene import draw_scene
from cocosnet_jax.data.labels import edges
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import DataSettings


def settings_for(tmp_path, **fields):
    return DataSettings(
        **{
            "dataset": "drawn_scenes",
            "image_size": 32,
            "load_size": 36,
            "channels": 14,
            "exemplar_list": "random",
            "self_pair_list": "names",
            "data_dir": str(tmp_path),
        }
        | fields
    )


def seeds(split):
    keys = records.open_builder(DrawnScenes, DataSettings(exemplar_list="random")).split_keys()
    return [drawn_scenes.seeds_of(key) for key in keys[split]]


def test_no_layout_and_no_style_is_trained_on_and_validated():
    (train, train_styles), (validation, validation_styles) = (
        map(set, zip(*seeds(split), strict=True)) for split in ("train", "validation")
    )
    assert (len(train), len(validation)) == (5120, 256)
    assert (len(train_styles), len(validation_styles)) == (1280, 64)
    assert train.isdisjoint(validation)
    assert train_styles.isdisjoint(validation_styles)


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(drawn_scenes, "TRAIN_SCENES", 5)
    monkeypatch.setattr(drawn_scenes, "VALIDATION_SCENES", 2)


def test_records_hold_the_scenes_and_who_shares_a_style(tmp_path, few):
    prepared = dataset.prepare(settings_for(tmp_path))
    split = prepared.split("train")
    assert split.keys[3:] == ["style-0000000/scene-0000003", "style-0000001/scene-0000004"]
    image, label = split[3]
    drawn = draw_scene(3, 0, 36)
    np.testing.assert_array_equal(image, drawn.image)
    np.testing.assert_array_equal(label, drawn.label[..., None])
    image, label = prepared.split("validation")[1]
    drawn = draw_scene(1_000_001, 1_000_000, 32)
    np.testing.assert_array_equal(image, drawn.image)
    # Of four in a style, each has three others; the fifth is alone.
    assert prepared.training.views == {i: tuple(j for j in range(4) if j != i) for i in range(4)}


def test_outlines_do_not_depend_on_the_style(tmp_path, few):
    prepared = dataset.prepare(
        settings_for(tmp_path, dataset="drawn_edges", condition="channels", channels=2)
    )
    _, planes = prepared.split("train")[4]
    seen = draw_scene(4, 900, 36).things
    assert set(np.unique(planes[..., 0])) == {0, 255}
    np.testing.assert_array_equal(planes[..., 0] == 255, edges.mask_edge(seen))
    np.testing.assert_array_equal(planes[..., 1], edges.distance_map(edges.mask_edge(seen)))


@pytest.mark.parametrize(("builder", "wanted"), [(DrawnScenes, 14), (DrawnEdges, 2)])
def test_another_number_of_channels_is_refused(tmp_path, builder, wanted):
    opened = records.open_builder(builder, settings_for(tmp_path, channels=7))
    with pytest.raises(UserError, match=rf"channels is 7, but drawn_\w+ has {wanted}"):
        opened.check()


def test_keys_of_other_datasets_are_refused():
    with pytest.raises(ValueError, match="no key of a drawn scene"):
        drawn_scenes.seeds_of("scene-0000001")
