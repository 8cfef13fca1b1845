import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cocosnet_jax import data
from cocosnet_jax.data import builders, images, preview, records
from cocosnet_jax.data.builders import ade20k
from cocosnet_jax.errors import UserError
from tests.data.conftest import CLASSES, colours, draw_label, write_pair
from tests.data.labels.test_label_maps import in_palette


def problems(settings):
    """The error of a preparation that must leave nothing behind."""
    with pytest.raises(UserError) as error:
        data.prepare(settings)
    assert not [path for path in Path(settings.data_dir).rglob("*") if path.is_file()]
    return str(error.value)


def test_prepared_pairs_are_the_files_resized(settings, source):
    data.prepare(settings)
    for split, folder, name, side in [
        ("train", "training", "ADE_train_3", 48),
        ("exemplars", "training", "ADE_train_3", 32),
        ("validation", "validation", "ADE_val_3", 32),
    ]:
        prepared = data.open(settings).split(split)
        assert prepared.keys[3] == f"{folder}/{name}.jpg"
        image, label = prepared[3]
        with Image.open(source / folder / f"{name}.jpg") as file:
            expected = file.resize((side, file.height), Image.Resampling.BICUBIC)
            expected = expected.resize((side, side), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(image, np.asarray(expected))
        drawn = draw_label(3 if folder == "training" else 103)
        y = ((np.arange(side) + 0.5) * 90 / side).astype(int)
        x = ((np.arange(side) + 0.5) * 120 / side).astype(int)
        np.testing.assert_array_equal(label[..., 0], drawn[np.ix_(y, x)])
    counts = [len(data.open(settings).split(s)) for s in ("train", "exemplars", "validation")]
    assert counts == [5, 5, 4]


@pytest.mark.parametrize("above", [False, True])
def test_the_datasets_own_layout(settings, source, tmp_path, above):
    root = tmp_path / "own"
    for folder in ("training", "validation"):
        for path in (source / folder).iterdir():
            kind = "annotations" if path.suffix == ".png" else "images"
            target = root / "ADEChallengeData2016" / kind / folder / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    own = root if above else root / "ADEChallengeData2016"
    moved = dataclasses.replace(settings, source=str(own))
    data.prepare(settings)
    data.prepare(moved)
    ours, theirs = data.open(moved).split("train"), data.open(settings).split("train")
    assert ours.keys == [f"images/{key}" for key in theirs.keys]
    for index in range(5):
        for a, b in zip(ours[index], theirs[index], strict=True):
            np.testing.assert_array_equal(a, b)


def test_unmarked_pixels_take_the_last_class(settings, source):
    label = draw_label(0)
    label[:45] = 255
    Image.fromarray(label).save(source / "training/ADE_train_0.png")
    data.prepare(settings)
    prepared = data.open(settings).split("train")[0][1][..., 0]
    np.testing.assert_array_equal(prepared[:24], CLASSES - 1)


def test_grey_and_transparent_photographs_are_taken(settings, source):
    for name, mode in [("ADE_train_0", "L"), ("ADE_train_1", "CMYK")]:
        path = source / f"training/{name}.jpg"
        Image.open(path).convert(mode).save(path)
    own = source / "training/ADE_train_2.jpg"  # a PNG with alpha under the name of a JPEG
    Image.open(own).convert("RGBA").save(own, format="png")
    data.prepare(settings)
    split = data.open(settings).split("train")
    grey = split[0][0]
    np.testing.assert_array_equal(grey[..., 0], grey[..., 2])
    drawn = colours(split[1][1][..., 0]).astype(int)
    assert np.median(np.abs(split[1][0] - drawn)) <= 2


def test_missing_folders(settings, source, tmp_path):
    gone = dataclasses.replace(settings, source=str(tmp_path / "gone"))
    assert "config.data.source is" in problems(gone)
    assert f"{str(tmp_path / 'gone')!r}, which is not a folder" in problems(gone)
    empty = dataclasses.replace(settings, source="")
    assert problems(empty).startswith("config.data.source is empty; set it")
    (tmp_path / "other").mkdir()
    other = dataclasses.replace(settings, source=str(tmp_path / "other"))
    assert "contains neither images/training" in problems(other)


@pytest.mark.parametrize("folder", ["images/training/a/abbey", "images/ADE/training/abbey"])
@pytest.mark.parametrize("dataset", ["ade20k", "ade20k_outdoor"])
def test_the_full_ade20k_is_told(settings, tmp_path, folder, dataset):
    stem = tmp_path / "full" / folder / "ADE_train_00000001"
    write_pair(stem.parent, stem.name, draw_label(0))
    stem.with_suffix(".png").rename(f"{stem}_seg.png")
    full = dataclasses.replace(settings, dataset=dataset, source=str(tmp_path / "full"))
    message = problems(full)
    assert message.startswith(f"{stem}_seg.png belongs to the full ADE20K")
    assert "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip" in message


def test_palettes_that_differ(settings, source):
    for index, colours_of in enumerate(([0x000000, 0xC81E3C], [0xC81E3C, 0x000000])):
        label = draw_label(index) % 2
        in_palette(label, *colours_of).save(source / f"training/ADE_train_{index}.png")
    assert "palettes differ between maps: number 0 is #000000 in" in problems(settings)


def test_an_empty_split(settings, source):
    shutil.rmtree(source / "validation")
    assert problems(settings) == (
        f"dataset {source}: the folder validation contains no photographs (.jpg, .jpeg)"
    )


def test_everything_wrong_with_the_files_is_reported_at_once(settings, source):
    train, validation = source / "training", source / "validation"
    (train / "ADE_train_0.png").unlink()
    (validation / "ADE_val_0.jpg").unlink()
    whole = (train / "ADE_train_1.jpg").read_bytes()
    (train / "ADE_train_1.jpg").write_bytes(whole[: len(whole) // 2])
    (train / "ADE_train_2.png").write_text("no image")
    label = draw_label(3)
    label[:2, :5] = 9
    label[4, 0] = 250
    Image.fromarray(label).save(train / "ADE_train_3.png")
    Image.fromarray(draw_label(4)[:60]).save(train / "ADE_train_4.png")
    (validation / "ADE_val_1.jpg").unlink()
    (validation / "ADE_val_1.jpg").symlink_to(source / "gone.jpg")
    lines = problems(settings).splitlines()
    assert lines[0] == f"dataset {source} has 7 problems:"
    starts = [
        f"  {train}/ADE_train_0.jpg has no label map ADE_train_0.png",
        f"  {validation}/ADE_val_0.png has no photograph ADE_val_0.jpg",
        f"  {train}/ADE_train_1.jpg cannot be read as an image (",
        f"  {train}/ADE_train_2.png cannot be read as an image (",
        f"  {train}/ADE_train_3.png contains the values 9 (10 pixels), 250 (1 pixels); allowed are"
        " 0 to 5, and 255",
        f"  {train}/ADE_train_4.jpg has 120x90 pixels (width x height), but its label map"
        f" {train}/ADE_train_4.png has 120x60",
        f"  {validation}/ADE_val_1.jpg does not exist",
    ]
    assert len(lines) == 8
    for line, start in zip(lines[1:], starts, strict=True):
        assert line.startswith(start)


def test_thousands_of_broken_files_are_counted(settings, source):
    for index in range(2000):
        (source / "training" / f"broken_{index}.jpg").write_bytes(b"")
        (source / "training" / f"broken_{index}.png").write_bytes(b"")
    lines = problems(settings).splitlines()
    assert lines[0].endswith("has 2000 problems:")
    assert len(lines) == 12
    assert lines[-1] == "  ... and 1990 more"


def test_long_and_foreign_names(settings, source):
    name = "ü山" * 40  # 200 bytes and more
    write_pair(source / "training", name, draw_label(9))
    data.prepare(settings)
    assert data.open(settings).split("train").keys[-1] == f"training/{name}.jpg"


def test_a_name_that_no_list_can_hold(settings, source):
    write_pair(source / "training", "beach, sunset", draw_label(9))
    assert "'training/beach, sunset.jpg' contains a comma" in problems(settings)


def test_an_interrupted_preparation_counts_for_nothing_and_can_be_repeated(settings, monkeypatch):
    make_pair, calls = ade20k.Ade20k.make_pair, []

    def interrupted(self, split, key):
        calls.append(key)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return make_pair(self, split, key)

    monkeypatch.setattr(ade20k.Ade20k, "make_pair", interrupted)
    with pytest.raises(KeyboardInterrupt):
        data.prepare(settings)
    assert not [path for path in Path(settings.data_dir).rglob("*") if path.is_file()]
    with pytest.raises(UserError, match="no prepared data"):
        data.open(settings).split("train")
    data.prepare(settings)
    assert len(data.open(settings).split("train")) == 5


@pytest.mark.parametrize("folder", ["/proc/1", "file"])
def test_a_folder_that_cannot_be_written_is_said_before_files_are_checked(
    settings, tmp_path, monkeypatch, folder
):
    (tmp_path / "file").touch()
    monkeypatch.setattr(ade20k.Ade20k, "check", lambda _: pytest.fail("files are checked"))
    with pytest.raises(UserError) as error:
        data.prepare(dataclasses.replace(settings, data_dir=str(tmp_path / folder / "data")))
    assert str(error.value).startswith(f"prepared data cannot be written to {tmp_path / folder}/")
    assert str(error.value).endswith(
        f" in {tmp_path / folder}; change its permissions, or choose another folder with"
        " config.data.data_dir"
    )


def test_a_disk_that_becomes_full(settings, monkeypatch):
    def full(self, split, key):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ade20k.Ade20k, "make_pair", full)
    assert "cannot be written to" in (message := problems(settings))
    assert "No space left on device" in message


def test_a_disk_that_is_full(settings, monkeypatch):
    def full(self):
        raise RuntimeError('Failed to finalize writing of split "train": No space left on device')

    monkeypatch.setattr(ade20k.Ade20k, "download_and_prepare", full)
    assert "cannot be written to" in (message := problems(settings))
    assert "No space left on device" in message


def test_sources_never_mix_and_changes_are_noticed(settings, source, tmp_path):
    shutil.copytree(source, tmp_path / "two" / "ade")
    two = dataclasses.replace(settings, source=str(tmp_path / "two" / "ade"))
    folders = {str(builders.open_builder(s).data_dir) for s in (settings, two)}
    sizes = [dataclasses.replace(settings, load_size=40), dataclasses.replace(settings, channels=7)]
    folders |= {str(builders.open_builder(s).data_dir) for s in sizes}
    assert len(folders) == 4

    data.prepare(settings)
    data.prepare(settings)  # Prepared already: nothing to do.
    write_pair(source / "training", "ADE_train_9", draw_label(9))
    with pytest.raises(UserError, match=r"have changed since they were prepared; delete .*1\.0\.0"):
        data.prepare(settings)
    shutil.rmtree(builders.open_builder(settings).data_dir)
    data.prepare(settings)
    assert len(data.open(settings).split("train")) == 6
    # Where the source has gone, what was prepared from it remains.
    shutil.rmtree(source)
    data.prepare(settings)
    assert len(data.open(settings).split("train")) == 6


def test_two_processes_may_prepare_at_once(settings, monkeypatch):
    first, second = (builders.open_builder(settings) for _ in range(2))
    generate = type(second)._split_generators

    def overtaken(dl_manager):
        records.prepare(first)
        return generate(second, dl_manager)

    monkeypatch.setattr(second, "_split_generators", overtaken)
    records.prepare(second)
    assert len(records.open_split(second, "train")) == 5


def test_contact_sheet_shows_the_pipelines_samples(settings):
    data.prepare(settings)
    settings = dataclasses.replace(settings, distortion="geometric")
    sheet = preview.contact_sheet(data.open(settings), rows=3)
    assert sheet.shape == (16 + 3 * 32, 5 * 32, 3)
    image, exemplar, itself = (sheet[16:, i * 32 : (i + 1) * 32].astype(int) for i in (1, 2, 3))
    assert np.abs(image - exemplar).mean() > 10
    # Equal colours in a column of label colours are equal classes in the picture beside it.
    for inputs, picture in [(sheet[16:, :32], image), (sheet[16:, 128:], itself)]:
        classes = np.rint(picture[..., 0] / 40)
        for colour in np.unique(inputs.reshape(-1, 3), axis=0):
            where = (inputs == colour).all(-1)
            values, counts = np.unique(classes[where], return_counts=True)
            assert counts.max() > 0.7 * where.sum(), (colour, values)


CONFIG = """
from ml_collections import ConfigDict
from cocosnet_jax import settings

def get_config():
    config = ConfigDict(settings.to_mapping(settings.Settings()))
    config.data.dataset = "ade20k"
    config.data.image_size, config.data.load_size, config.data.channels = 64, 72, 6
    config.data.exemplar_list = ""
    return config
"""


def test_the_command_line(program, source, tmp_path):
    (tmp_path / "config.py").write_text(CONFIG)

    def prepare(folder):
        flags = {
            "config": tmp_path / "config.py",
            "config.data.data_dir": tmp_path / "prepared",
            "source": folder,
            "preview": tmp_path / "sheet.png",
        }
        return program.run("prepare", *(f"--{name}={value}" for name, value in flags.items()))

    done = prepare(source)
    assert done.returncode == 0, done.stderr
    assert "5 train, 4 validation, 5 exemplars" in done.stdout
    assert "5/5" in done.stderr  # progress
    assert images.read_photograph(tmp_path / "sheet.png").shape == (16 + 8 * 64, 5 * 64, 3)
    failed = prepare(tmp_path / "gone")
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: config.data.source is")
    assert len(failed.stderr.splitlines()) == 1


def test_outdoor_scenes_are_whole_categories(settings, source):
    # Class 3 is sky, 5 tree, 1 wall, 4 floor: beach and hall are mixed, and taken as a whole.
    scenes = {"train_0": ("beach", 3), "train_1": ("beach", 1), "train_2": ("hall", 4),
              "train_3": ("hall", 3), "train_4": ("wood", 5), "val_0": ("beach", 3),
              "val_1": ("hall", 1), "val_2": ("wood", 5), "val_3": ("wood", 5)}  # fmt: skip
    for name, (_, value) in scenes.items():
        folder = "training" if name.startswith("train") else "validation"
        write_pair(source / folder, f"ADE_{name}", np.full((30, 30), value, np.uint8))
    rows = [f"ADE_{name} {category}" for name, (category, _) in scenes.items()]
    (source / "sceneCategories.txt").write_text("\n".join(rows))
    settings = dataclasses.replace(settings, dataset="ade20k_outdoor")
    data.prepare(settings)
    train, exemplars, validation = (
        data.open(settings).split(name).keys for name in ("train", "exemplars", "validation")
    )
    assert train == exemplars == [f"training/ADE_train_{i}.jpg" for i in (0, 1, 4)]
    assert validation == [f"validation/ADE_val_{i}.jpg" for i in (0, 2, 3)]
    (source / "sceneCategories.txt").write_text("\n".join(rows).replace("hall", "wood"))
    with pytest.raises(UserError, match="have changed since they were prepared"):
        data.prepare(settings)


def test_outdoor_needs_every_scene_category(settings, source):
    settings = dataclasses.replace(settings, dataset="ade20k_outdoor")
    assert "sceneCategories.txt cannot be read" in problems(settings)
    rows = [f"ADE_train_{i} beach" for i in range(4)] + [f"ADE_val_{i} beach" for i in range(4)]
    (source / "sceneCategories.txt").write_text("\n".join(rows))
    assert problems(settings) == (
        f"dataset {source}: training/ADE_train_4.jpg has no line in sceneCategories.txt; add"
        " 'NAME category'"
    )
    (source / "sceneCategories.txt").write_text("ADE_train_0\nADE_train_1 a b")
    assert "has 2 problems" in problems(settings)
