"""Folders of translations, with a translator whose results are known."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from cocosnet_jax import pictures, translations
from cocosnet_jax.data import images
from cocosnet_jax.data.pair_files import Extra, Reader, files_of
from cocosnet_jax.data.pairing import Places, find_pairs
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import DataSettings
from cocosnet_jax.translations import Options, Sheets, Translations
from cocosnet_jax.types import Outputs
from tests.data.conftest import colours, draw_label, write_pair

SIZE = 64
DATA = DataSettings(dataset="ade20k", channels=6, exemplar_list="random", image_size=SIZE)
BOTH = Extra(warped=True, confidence=True)
INPUTS = 5


@dataclasses.dataclass
class Mixing:
    """Stands for a Translator: half of its result is the input's colours, half the exemplars'.

    Its warped exemplars are black, and their confidence grows from the first row to the last.
    """

    digest: str = "weights"
    stop_after: int = 99
    fits: int = 99
    size: int = SIZE
    device_count: int = 1
    batches: list = dataclasses.field(default_factory=list)

    def round_up(self, count):
        return -(-count // self.device_count) * self.device_count

    def compile(self, count, exemplars=1, *, with_confidence=False):
        del exemplars, with_confidence
        if count > self.fits:
            raise UserError("does not fit")

    def translate(self, label, exemplar, exemplar_label, *, with_confidence):
        if len(self.batches) == self.stop_after:
            raise KeyboardInterrupt
        self.batches.append(len(label))
        assert exemplar_label is None
        both = np.stack([colours(label[..., 0]), exemplar.mean(1)]).mean(0)
        grid = np.linspace(0, 1, 16)[:, None].repeat(16, 1)[None].repeat(len(label), 0)
        confidence = grid if with_confidence else None
        return Outputs(both / 127.5 - 1, 0 * both - 1, None, None, confidence)


@pytest.fixture
def folder(tmp_path):
    for index in range(INPUTS):
        write_pair(tmp_path / "inputs", f"in_{index}", draw_label(index))
    for index in range(2):
        write_pair(tmp_path / "exemplars", f"ex_{index}", draw_label(10 + index))
    return tmp_path


def pairs_of(folder, output="out", exemplar="exemplars/ex_0.jpg", labels="inputs", ending=".png"):
    places = Places(folder / labels, (folder / exemplar,), (), folder / output)
    return find_pairs(places, "", DATA, needs_label=False, ending=ending)


def make(pairs, translator, options=Options(), batch_size=2):
    """Like the command: what is missing is made. Returns the names of what was made."""
    made = Translations(translator, Reader(DATA, SIZE), options)
    missing = made.missing(pairs)
    if missing:
        made.write(missing, made.compile(pairs, batch_size))
    return [pair.output.stem for pair in missing]


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}


@pytest.mark.parametrize("original_size", [False, True])
def test_each_file_of_a_result(folder, original_size):
    translator = Mixing()
    pairs = pairs_of(folder)
    make(pairs, translator, Options(BOTH, original_size))
    assert translator.batches == [2, 2, 2]  # The last one is filled up.
    exemplar = images.read_photograph(folder / "exemplars/ex_0.jpg")
    exemplar = images.resize_photograph(exemplar, (SIZE, SIZE)).astype(float)
    for i, pair in enumerate(pairs):
        label = images.resize_label(draw_label(i), (SIZE, SIZE))
        image = np.rint((colours(label) + exemplar) / 2).astype(np.uint8)
        confidence = np.rint(np.linspace(0, 255, 16)).astype(np.uint8).repeat(4)
        confidence = confidence[:, None].repeat(SIZE, 1)
        if original_size:
            image = images.resize_photograph(image, (90, 120))
            confidence = images.resize_label(confidence, (90, 120))
        files = files_of(pair.output, BOTH)
        found = {kind: np.asarray(Image.open(path)) for kind, path in files.items()}
        assert files["confidence"].name == f"in_{i}_confidence.png"
        # Half a level may be rounded either way, and bicubic weights are larger than 1.
        np.testing.assert_allclose(found["image"], image, atol=1 + original_size)
        np.testing.assert_array_equal(found["confidence"], confidence)
        assert found["warped"].shape == image.shape
        assert found["warped"].max() == 0


def test_what_was_stopped_goes_on(folder):
    make(pairs_of(folder, "whole"), Mixing())
    pairs = pairs_of(folder, "stopped")
    with pytest.raises(KeyboardInterrupt):
        make(pairs, Mixing(stop_after=2))
    before = {path: path.stat().st_mtime_ns for path in (folder / "stopped").iterdir()}
    assert len(before) == 4
    assert make(pairs, Mixing()) == ["in_4"]
    assert contents(folder / "stopped") == contents(folder / "whole")
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    untouched = Mixing()
    assert make(pairs, untouched) == []
    assert untouched.batches == []


def test_what_has_changed_is_made_anew(folder):
    pairs = pairs_of(folder)
    names = [pair.output.stem for pair in pairs]
    assert make(pairs, Mixing()) == names
    Image.fromarray(draw_label(77)).save(folder / "inputs/in_1.png")
    pairs[3].output.write_bytes(b"")  # as after a power failure
    pairs[4].output.unlink()
    assert make(pairs, Mixing()) == ["in_1", "in_3", "in_4"]
    assert make(pairs, Mixing(digest="another checkpoint")) == names
    assert make(pairs, Mixing()) == names
    write_pair(folder / "exemplars", "ex_0", draw_label(78))
    assert make(pairs, Mixing()) == names
    assert make(pairs, Mixing(), Options(Extra(confidence=True))) == names
    assert make(pairs, Mixing(), Options(Extra(confidence=True))) == []
    assert make(pairs, Mixing(), Options(original_size=True)) == names
    # A file that another program wrote is not taken for a result.
    Image.fromarray(np.zeros((SIZE, SIZE, 3), np.uint8)).save(pairs[2].output)
    assert make(pairs, Mixing(), Options(original_size=True)) == ["in_2"]


def test_a_batch_that_does_not_fit_is_halved_unless_its_size_is_given(folder, monkeypatch):
    pairs = pairs_of(folder)
    assert Translations(Mixing(), Reader(DATA, SIZE), Options()).compile(pairs, 0) == 1
    monkeypatch.setattr(translations.jax, "default_backend", lambda: "gpu")
    made = Translations(Mixing(fits=3), Reader(DATA, SIZE), Options())
    assert made.compile(pairs, 0) == 2
    assert made.compile(pairs, 3) == 3
    with pytest.raises(UserError):
        made.compile(pairs, 4)


@pytest.mark.parametrize(
    ("devices", "fits", "given", "batch"),
    [
        *((1, 99, 0, 1), (2, 99, 0, 2), (4, 99, 0, 4), (8, 99, 0, 8)),
        *((2, 99, 3, 4), (2, 99, 5, 6)),
        # What does not fit as whole pictures: the devices share the rows of one.
        (4, 3, 0, 1),
    ],
)
def test_all_devices_take_part(folder, devices, fits, given, batch):
    """On CPUs, with one picture for each; a last batch that is not full is filled up."""
    translator = Mixing(device_count=devices, fits=fits)
    pairs = pairs_of(folder)
    assert len(make(pairs, translator, batch_size=given)) == INPUTS
    assert translator.batches == [batch] * -(-INPUTS // batch)


@pytest.mark.parametrize("ending", [".png", ".jpg"])
def test_a_sheet_has_exemplars_above_and_inputs_beside(folder, ending):
    pairs = pairs_of(folder, exemplar="exemplars", ending=ending)
    make(pairs, Mixing())
    sheets, reader = Sheets(pairs, folder / "out", ending, SIZE), Reader(DATA, SIZE)
    [path] = sheets.files
    assert path == folder / f"out/grid{ending}"
    sheets.write(reader, DATA, False)
    sheet = np.asarray(Image.open(path)).astype(int)
    step = SIZE + 4
    assert sheet.shape == ((INPUTS + 1) * step + 4, 3 * step + 4, 3)

    def cell(row, column):
        return sheet[row * step + 4 :, column * step + 4 :][:SIZE, :SIZE]

    near = 0 if ending == ".png" else 12  # on average, where colours have edges
    assert np.abs(cell(0, 0) - 255).mean() <= near
    for j in range(2):
        photograph = images.read_photograph(folder / f"exemplars/ex_{j}.jpg")
        shown = images.resize_photograph(photograph, (SIZE, SIZE))
        assert np.abs(cell(0, 1 + j) - shown).mean() <= near
        for i in range(INPUTS):
            result = images.read_photograph(folder / f"out/in_{i}/ex_{j}{ending}")
            assert np.abs(cell(1 + i, 1 + j) - result).mean() <= near
    label = images.resize_label(draw_label(4), (SIZE, SIZE))
    assert np.abs(cell(5, 0) - pictures.palette(256)[label]).mean() <= near

    time = path.stat().st_mtime_ns
    sheets.write(reader, DATA, False)
    assert path.stat().st_mtime_ns == time
    write_pair(folder / "exemplars", "ex_1", draw_label(78))
    make(pairs, Mixing())
    sheets.write(Reader(DATA, SIZE), DATA, False)
    assert path.stat().st_mtime_ns > time


def test_sheets_show_pictures_of_their_own_proportions(folder):
    pairs = pairs_of(folder, exemplar="exemplars", labels="inputs/in_0.png")
    make(pairs, Mixing(), Options(original_size=True))
    sheets = Sheets(pairs, folder / "out", ".png", SIZE)
    sheets.write(Reader(DATA, SIZE), DATA, True)
    sheet = np.asarray(Image.open(folder / "out/grid.png"))
    for row, column in ((0, 1), (1, 0), (1, 1)):
        cell = sheet[row * 68 + 4 :, column * 68 + 4 :][:SIZE, :SIZE]
        is_white = (cell == 255).all((1, 2))
        # 120 x 90 becomes 64 x 48.
        assert (np.flatnonzero(~is_white)[[0, -1]] == [8, 55]).all()


def test_many_inputs_have_several_sheets(folder, monkeypatch):
    monkeypatch.setattr(translations, "_SHEET_PIXELS", 3 * 3 * SIZE**2)
    pairs = pairs_of(folder, exemplar="exemplars")
    sheets = Sheets(pairs, folder / "out", ".png", SIZE)
    assert [path.name for path in sheets.files] == ["grid_1.png", "grid_2.png", "grid_3.png"]
    assert [len(rows) for rows in sheets.files.values()] == [2, 2, 1]
