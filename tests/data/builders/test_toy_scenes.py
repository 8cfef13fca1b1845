import zlib

import numpy as np
import pytest

from cocosnet_jax.data import pair_builder
from cocosnet_jax.data.builders import toy_classes, toy_scenes
from cocosnet_jax.data.builders.toy_classes import NUM_CLASSES
from cocosnet_jax.data.builders.toy_scenes import draw_scene
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import DataSettings


@pytest.mark.parametrize(
    ("seed", "size", "style", "image_sum", "label_sum"),
    [
        (0, 64, None, 1034804054, 3026764256),
        (7, 73, None, 2772815874, 1741796940),
        (7, 73, 3, 2148586432, 1741796940),
        (1_000_003, 256, None, 2573176722, 3681786142),
    ],
)
def test_scenes_are_the_same_on_every_machine(seed, size, style, image_sum, label_sum):
    image, label = draw_scene(seed, size, style)
    assert (image.shape, image.dtype) == ((size, size, 3), np.uint8)
    assert (label.shape, label.dtype) == ((size, size), np.uint8)
    assert zlib.crc32(label.tobytes()) == label_sum
    assert zlib.crc32(image.tobytes()) == image_sum


def test_style_changes_the_image_and_not_the_layout():
    scenes = [draw_scene(5, 64, style) for style in range(8)]
    labels = np.stack([label for _, label in scenes])
    assert (labels == labels[0]).all()
    images = np.stack([image for image, _ in scenes]).astype(np.float64)
    for label in np.unique(labels[0]):
        means = images[:, labels[0] == label].mean(1)  # (styles, 3)
        distances = np.abs(means[:, None] - means[None]).mean(-1)[np.triu_indices(8, 1)]
        assert distances.mean() > 20, toy_classes.CLASS_NAMES[label]


def test_style_tells_the_colour_of_a_class_whatever_the_layout():
    # The mean colour of a class is nearer to that of the same style than of another style.
    styles, layouts = range(10), (20, 21, 22)
    for label in (toy_classes.SKY, toy_classes.FIELD, toy_classes.TREE):
        means = np.full((len(styles), len(layouts), 3), np.nan)
        for i, style in enumerate(styles):
            for j, layout in enumerate(layouts):
                image, classes = draw_scene(layout, 64, style)
                means[i, j] = image[classes == label].mean(0)
        centres = means.mean(1)
        own = np.abs(means - centres[:, None]).mean()
        other = np.abs(centres[:, None] - centres[None]).mean(-1)[np.triu_indices(10, 1)].mean()
        assert other > 3 * own, toy_classes.CLASS_NAMES[label]


def test_layouts_share_classes():
    shares = np.stack(
        [np.bincount(draw_scene(s, 32)[1].ravel(), minlength=NUM_CLASSES) for s in range(60)]
    )
    present = (shares > 0).mean(0)
    assert shares.shape[1] == NUM_CLASSES == len(toy_classes.CLASS_NAMES)
    assert present[toy_classes.UNKNOWN] == 0
    assert present[toy_classes.SKY] == present[toy_classes.FIELD] == 1
    assert present[toy_classes.TREE] > 0.9
    assert present[[toy_classes.WATER, toy_classes.MOUNTAIN]].min() > 0.6
    assert present[1:].min() > 0.3
    assert (shares[:, toy_classes.SKY] + shares[:, toy_classes.CLOUD]).min() > 0.1 * 32 * 32


def test_a_scene_is_the_same_picture_at_every_size():
    small, small_label = draw_scene(3, 64)
    large, large_label = draw_scene(3, 192)
    reduced = large.reshape(64, 3, 64, 3, 3).mean((1, 3))
    assert np.abs(reduced - small).mean() < 3
    assert (large_label[1::3, 1::3] == small_label).mean() > 0.99


@pytest.mark.parametrize("arguments", [(-1, 64), (0, 15), (0, 64, -1)])
def test_impossible_arguments(arguments):
    with pytest.raises(ValueError, match="or more"):
        draw_scene(*arguments)


def test_builder_prepares_disjoint_splits(tmp_path, monkeypatch):
    monkeypatch.setattr(toy_scenes, "TRAIN_SCENES", 3)
    monkeypatch.setattr(toy_scenes, "VALIDATION_SCENES", 2)
    settings = DataSettings(
        image_size=32, load_size=36, channels=NUM_CLASSES, exemplar_list="random"
    )
    builder = toy_scenes.ToyScenes(
        config=pair_builder.pair_config(settings), data_dir=tmp_path, file_format="array_record"
    )
    builder.check()
    builder.download_and_prepare()
    keys = builder.info.metadata["keys"]
    assert keys["train"] == ["scene-0000000", "scene-0000001", "scene-0000002"]
    assert set(keys["train"]).isdisjoint(keys["validation"])
    examples = list(builder.as_data_source("validation"))
    assert [example["key"].decode() for example in examples] == keys["validation"]
    image, label = draw_scene(1_000_001, 32)
    np.testing.assert_array_equal(examples[1]["image"], image)
    np.testing.assert_array_equal(examples[1]["label"][..., 0], label)


def test_builder_refuses_another_number_of_classes(tmp_path):
    settings = DataSettings(image_size=32, load_size=36, channels=7, exemplar_list="random")
    builder = toy_scenes.ToyScenes(config=pair_builder.pair_config(settings), data_dir=tmp_path)
    with pytest.raises(UserError, match=r"config\.data\.channels is 7, but toy_scenes has 11"):
        builder.check()
