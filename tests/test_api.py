"""The Python API: its results are those of the translator, for every way to give a picture."""

import re
import subprocess
import sys

import numpy as np
import pytest
from etils import epath
from PIL import Image

import cocosnet_jax
from cocosnet_jax import pictures, weights_file
from cocosnet_jax.data import images, inputs
from cocosnet_jax.settings import DataSettings, LossSettings, ModelSettings, Settings
from tests.conftest import LIMIT_S, PLAIN_LOSS, PLAIN_MODEL, ROOT
from tests.untrained import untrained

SIZE = 64
DATA = DataSettings(
    dataset="ade20k", channels=6, exemplar_list="random", image_size=SIZE, load_size=SIZE
)
SETTINGS = Settings(data=DATA, model=ModelSettings(base_filters=2, mask_input="none"))
NUMBERS = np.random.default_rng(0).integers(0, 6, (80, 100), np.uint8)
PHOTOGRAPH = np.random.default_rng(1).integers(0, 256, (90, 60, 3), np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with what README's lines name: a checkpoint, a label map, a photograph."""
    path = tmp_path_factory.mktemp("api")
    weights_file.write(epath.Path(path) / "runs/ade20k", SETTINGS, untrained(SETTINGS))
    Image.fromarray(NUMBERS).save(path / "label.png")
    # Upright, it is 60 wide and 90 high.
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(PHOTOGRAPH)).save(path / "photo.jpg", quality=95, exif=exif)
    return path


@pytest.fixture(scope="module")
def model(folder):
    return cocosnet_jax.load(folder / "runs/ade20k")


@pytest.fixture(scope="module")
def arrays(folder):
    """The pair as files are read."""
    label = inputs.read_input(DATA, folder / "label.png", SIZE).planes
    photograph = images.read_photograph(folder / "photo.jpg")
    return label[None], images.resize_photograph(photograph, (SIZE, SIZE))[None]


@pytest.fixture(scope="module")
def outputs(model, arrays):
    return model.translator.translate(*arrays)


def test_the_lines_of_the_readme(folder, monkeypatch, outputs):
    section = (ROOT / "README.md").read_text().split("\n## From Python\n")[1].split("\n## ")[0]
    lines = re.findall(r"^    (.+)$", section, re.MULTILINE)
    assert lines[0] == "import cocosnet_jax"
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    exec("\n".join(lines), names)
    np.testing.assert_array_equal(names["result"], pictures.to_bytes(outputs.image[0]))
    assert names["warped"].size == (SIZE, SIZE)
    assert names["matches"].points.shape == (1, 2)


def test_every_way_to_give_a_picture_gives_the_same(folder, model, outputs):
    label, photo = folder / "label.png", folder / "photo.jpg"
    expected = pictures.to_bytes(outputs.image[0])
    for own, exemplar in (
        (str(label), str(photo)),
        (Image.open(label), Image.open(photo)),
        (NUMBERS, images.read_photograph(photo)),
    ):
        found = model.translate(own, exemplar)
        assert found.mode == "RGB"
        np.testing.assert_array_equal(found, expected)
    larger = model.translate(label, photo, original_size=True)
    np.testing.assert_array_equal(larger, images.resize_photograph(expected, (80, 100)))


def test_warp(folder, model, outputs):
    expected = pictures.to_bytes(outputs.warped_exemplar[0])
    found = np.asarray(model.warp(folder / "label.png", folder / "photo.jpg"), int)
    assert np.abs(found - expected).max() <= 1
    larger = model.warp(folder / "label.png", folder / "photo.jpg", original_size=True)
    assert larger.size == (100, 80)


def test_matches_are_in_pixels_of_the_given_pictures(folder, model, arrays):
    grid = SIZE // 4
    match = model.translator.match(*arrays)
    # The middles of some cells of the grid, in the input's pixels.
    cells = np.array([(0, 0), (3, 7), (15, 15)])
    points = (cells[:, ::-1] + 0.5) * (100 / grid, 80 / grid) - 0.5
    found = model.match(folder / "label.png", folder / "photo.jpg", points)
    place = match.place[0][tuple(cells.T)]
    expected = (place[:, ::-1] + 0.5) * (60 / grid, 90 / grid) - 0.5
    np.testing.assert_allclose(found.points, expected, atol=1e-9)
    np.testing.assert_array_equal(found.confidence, match.confidence[0][tuple(cells.T)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"exemplar": None}, "exemplar is missing; give the photograph whose style"),
        ({"exemplar": 1}, "exemplar is of type int"),
        ({"exemplar": PHOTOGRAPH / 255}, r"exemplar is an array \(90, 60, 3\) of float64"),
        ({"exemplar": "none.jpg"}, "none.jpg does not exist"),
        ({"label": NUMBERS + 6}, "label contains the values"),
        ({"points": [(1, 2, 3, 4, 5)]}, "points must be pairs of numbers, x and y"),
        ({"points": [(1, 10, 20), (2, 30, 40)]}, "points must be pairs of numbers, x and y"),
        ({"points": [("a", "b")]}, "points must be pairs of numbers, x and y"),
        ({"points": [(0, 80)]}, "point 1, 0,80, is outside of the input, which has 100x80 pixels"),
    ],
)
def test_errors_name_the_argument(model, arguments, message):
    given = {"label": NUMBERS, "exemplar": PHOTOGRAPH, "points": [(0, 0)]} | arguments
    with pytest.raises(cocosnet_jax.UserError, match=message):
        model.match(**given)


def test_an_exemplars_map_is_asked_for_and_read(model, monkeypatch):
    settings = Settings(data=DATA, model=ModelSettings(mask_input="features"))
    monkeypatch.setattr(model.translator, "settings", settings)
    with pytest.raises(cocosnet_jax.UserError, match="exemplar_label is missing"):
        model.translate(NUMBERS, PHOTOGRAPH)
    with pytest.raises(cocosnet_jax.UserError, match="exemplar_label contains the values"):
        model.translate(NUMBERS, PHOTOGRAPH, np.full((90, 60), 6))
    with pytest.raises(cocosnet_jax.UserError, match="its label map exemplar_label has 100x80"):
        model.translate(NUMBERS, PHOTOGRAPH, NUMBERS)
    pair = model._read(NUMBERS, PHOTOGRAPH, np.full((90, 60), 5))
    assert pair.arrays[2].shape == (1, SIZE, SIZE, 1)
    assert (pair.arrays[2] == 5).all()


def test_a_plain_network_takes_the_input_alone(model, monkeypatch):
    settings = Settings(
        data=DATA, model=ModelSettings(**PLAIN_MODEL), loss=LossSettings(**PLAIN_LOSS)
    )
    monkeypatch.setattr(model.translator, "settings", settings)
    assert model._read(NUMBERS, None, None).arrays[1:] == (None, None)
    with pytest.raises(cocosnet_jax.UserError, match="plain translation network: it compares"):
        model.warp(NUMBERS, PHOTOGRAPH)


def test_the_shipped_model_knows_its_classes():
    model = cocosnet_jax.load()
    assert model.size == 128
    assert model.classes[:3] == ("unknown", "sky", "cloud")
    with pytest.raises(cocosnet_jax.UserError, match="size=100 must be a multiple of 32"):
        cocosnet_jax.load(size=100)
    with pytest.raises(cocosnet_jax.UserError, match="pose_size=wide must be WIDTHxHEIGHT"):
        cocosnet_jax.load(pose_size="wide")
    with pytest.raises(cocosnet_jax.UserError, match="contains no checkpoint"):
        cocosnet_jax.load(ROOT / "docs")


def test_tensorflow_is_not_imported(folder):
    """Nor is anything that defines flags; the package alone does not even import JAX."""
    program = f"""
import sys
import cocosnet_jax
assert not {{"jax", "flax", "numpy", "absl"}} & sys.modules.keys()
model = cocosnet_jax.load({str(folder / "runs/ade20k")!r})
model._read({str(folder / "label.png")!r}, {str(folder / "photo.jpg")!r}, None)
heavy = {{"tensorflow", "tensorflow_datasets", "clu", "ml_collections", "cocosnet_jax.command"}}
assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S
    )
    assert done.returncode == 0, done.stderr
