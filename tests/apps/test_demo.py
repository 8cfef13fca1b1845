"""The demo on two scenes, and the shipped model's numbers in it."""

import dataclasses
import json
import types

import numpy as np
import pytest
from etils import epath
from PIL import Image

from cocosnet_jax import checkpoint, pictures, weights_file
from cocosnet_jax.apps import demo
from cocosnet_jax.data import inputs
from cocosnet_jax.data.drawn.things import NUM_CLASSES
from cocosnet_jax.errors import UserError
from cocosnet_jax.pretrained import SHIPPED
from cocosnet_jax.settings import DataSettings

SIZE = 128
DATA = DataSettings(
    dataset="drawn_scenes", channels=NUM_CLASSES, image_size=SIZE, exemplar_list="random"
)


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The folder of a run, and what its translations were."""
    folder = tmp_path_factory.mktemp("demo")
    results: list[demo.Result] = []

    def translate(translator, pairs):
        found = keep(translator, pairs)
        results.extend(found[0])
        return found

    keep = demo.translate
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", "")
        patch.setattr(demo, "BATCH", 3)  # four pairs: the second batch is filled up
        patch.setattr(demo, "translate", translate)
        patch.setattr(demo, "_CHECKPOINT", types.SimpleNamespace(value=""))
        patch.setattr(demo, "_FOLDER", types.SimpleNamespace(value=str(folder)))
        patch.setattr(demo, "_SCENES", types.SimpleNamespace(value=2))
        demo.main()
    return folder, results


def test_every_picture_is_there_to_be_measured(shown):
    folder, results = shown
    pairs = demo.draw_pairs(2, SIZE)
    wanted = {
        "results": [result.image for result in results],
        "warped": [result.warped for result in results],
        "truths": [pair.truth.image for pair in pairs],
        "labels": [pair.scene.label for pair in pairs],
        "exemplars": [pair.exemplar.image for pair in pairs],
        "exemplar_labels": [pair.exemplar.label for pair in pairs],
    }
    assert {path.name for path in (folder / "pairs").iterdir()} == wanted.keys()
    for kind, images in wanted.items():
        names = sorted((folder / "pairs" / kind).iterdir())
        assert [path.name for path in names] == ["000.png", "001.png", "002.png", "003.png"]
        for path, image in zip(names, images, strict=True):
            np.testing.assert_array_equal(np.asarray(Image.open(path)), image)
    # An earlier run's do not stay among them, the user's own do.
    (folder / "pairs/mine.png").write_bytes(b"mine")
    demo.write_pairs(epath.Path(folder / "pairs"), pairs[:1], results[:1])
    assert len(list((folder / "pairs").rglob("*.png"))) == len(wanted) + 1


def test_the_shipped_model_draws_what_it_did(shown):
    # Recorded with the run's own float32 checkpoint: mean colours of the picture's quarters.
    recorded = [
        [[66.04, 49.18, 66.16], [88.70, 75.94, 67.09]],
        [[112.75, 79.26, 62.67], [110.05, 71.35, 61.71]],
    ]
    means = shown[1][0].image.reshape(2, 64, 2, 64, 3).mean((1, 3))
    np.testing.assert_allclose(means, recorded, atol=0.5)


def test_it_measures_what_it_shows(shown):
    folder, results = shown
    measured = json.loads((folder / "demo.json").read_text())
    assert measured["warp_accuracy"] > 0.96 > 0.3 > measured["warp_accuracy_by_chance"]
    others = {name: value for name, value in measured.items() if name.startswith("pck@0.1_by_")}
    del others["pck@0.1_by_both_label_maps"]
    assert len(others) == 5
    assert measured["pck@0.1"] > measured["pck@0.1_in_the_warp"] > max(others.values())
    assert measured["nearer_to_own_exemplar"] == 1
    assert len(results) == 4


def test_it_writes_a_sheet_and_files_to_translate(shown):
    folder, _ = shown
    side = 2 * SIZE + 4
    sheet = np.asarray(Image.open(folder / "demo.png"))
    assert sheet.shape == (2 * side + 4 + pictures.HEADER, 9 * side + 4, 3)
    first = demo.choose_rows(demo.draw_pairs(2, SIZE))[0]
    pair = demo.draw_pairs(2, SIZE)[first]
    label = inputs.read_input(DATA, folder / "input.png").planes[..., 0]
    np.testing.assert_array_equal(label, pair.scene.label)
    exemplar = np.asarray(Image.open(folder / "exemplar.png"))
    np.testing.assert_array_equal(exemplar, pair.exemplar.image)


def test_a_model_of_other_pictures_is_refused(tmp_path, monkeypatch):
    shipped = checkpoint.restore_for_inference(SHIPPED)
    data = dataclasses.replace(shipped.settings.data, dataset="folder")
    other = tmp_path / "other.safetensors"
    of_folder = dataclasses.replace(shipped.settings, data=data)
    weights_file.write(epath.Path(other), of_folder, shipped.state)
    monkeypatch.setenv("XLA_FLAGS", "")
    for name, value in (("CHECKPOINT", other), ("FOLDER", tmp_path / "demo"), ("SCENES", 2)):
        monkeypatch.setattr(demo, f"_{name}", types.SimpleNamespace(value=str(value)))
    with pytest.raises(UserError, match=r"other\.safetensors is no model that .* one of folder;"):
        demo.main()


def test_points_of_a_perfect_correspondence_are_found():
    pair = demo.draw_pairs(2, SIZE)[0]
    same = pair._replace(exemplar=pair.scene)
    grid = np.moveaxis(np.mgrid[:32, :32], 0, -1)
    result = demo.Result(pair.scene.image, pair.scene.image, grid, grid)
    found = demo.found_points([same], [result], 9)
    assert found["pck@0.1"] == found["pck@0.1_by_same_position"] == 1
    assert found["pck@0.1_by_nearest_of_same_class"] == 1
    # Everything a fifth of the side too far to the right.
    shifted = result._replace(place=grid + np.array([0, 6]))
    found = demo.found_points([same], [shifted], 9)
    assert (found["pck@0.1"], found["pck@0.1_in_the_warp"]) == (0, 1)
    assert found["pck@0.1_by_both_label_maps"] == 1


def test_unknown_classes_are_said_by_name(tmp_path):
    Image.fromarray(np.full((8, 8), 77, np.uint8)).save(tmp_path / "label.png")
    with pytest.raises(UserError, match=r"77 \(64 pixels\).*1 sky, 2 cloud.*--checkpoint"):
        inputs.read_input(DATA, tmp_path / "label.png")


def test_points_are_counted_by_hand():
    pairs = demo.draw_pairs(3, SIZE)
    side = SIZE // 4
    rng = np.random.default_rng(0)
    # Near the same position, so that some points are right and some are wrong.
    steps = rng.integers(-4, 5, (len(pairs), side, side, 2))
    places = np.clip(np.moveaxis(np.indices((side, side)), 0, -1) + steps, 0, side - 1)
    results = [
        demo.Result(pair.scene.image, pair.scene.image, place, place)
        for pair, place in zip(pairs, places, strict=True)
    ]
    rights = []
    rows, columns = np.mgrid[:SIZE, :SIZE]
    for pair, place in zip(pairs, places, strict=True):
        for point, truth in zip(pair.scene.points, pair.exemplar.points, strict=True):
            if np.isnan([*point, *truth]).any():
                continue
            x, y = np.floor(point + 0.5).astype(int)
            cell = y // 4, x // 4
            moved = point + 4 * (place[cell] - cell)[::-1]
            near = np.hypot(columns - truth[0], rows - truth[1]) <= SIZE / 10
            gap = np.abs(pair.exemplar.image.astype(int) - pair.scene.image[y, x]).sum(-1)
            same = pair.exemplar.label == pair.scene.label[y, x]
            rights.append(
                {
                    "": np.hypot(*(moved - truth)) <= SIZE / 10,
                    "_by_nearest_colour": near.flat[np.argmin(gap)],
                    "_by_random_of_same_class": near[same].mean(),
                    "_by_chance": near.mean(),
                }
            )
    found = demo.found_points(pairs, results, 9)
    assert 0 < found["pck@0.1"] < 1
    for name in rights[0]:
        # Evaluation's chance takes a cell, and this one a pixel.
        tolerance = 1e-2 if name == "_by_chance" else 1e-6
        wanted = np.mean([right[name] for right in rights])
        assert found[f"pck@0.1{name}"] == pytest.approx(wanted, rel=tolerance)
