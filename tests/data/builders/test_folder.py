import dataclasses
import json
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from cocosnet_jax import data
from cocosnet_jax.data import builders, images, pipeline, preview
from cocosnet_jax.data.labels import edges, pose_drawing
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import DataSettings
from tests.data.conftest import CLASSES, colours, draw_label
from tests.data.labels.test_label_maps import in_palette, rgb

NAMES = [f"holiday/photo {i} ü" for i in range(4)] + ["e"]


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


@pytest.fixture
def own(tmp_path):
    """Five photographs with label maps of 6 classes."""
    for i, name in enumerate(NAMES):
        label = draw_label(i)
        label[0, :CLASSES] = range(CLASSES)
        save(tmp_path / f"own/images/{name}.jpg", colours(label), quality=100, subsampling=0)
        save(tmp_path / f"own/labels/{name}.png", label)
    return tmp_path / "own"


@pytest.fixture
def settings(own, tmp_path):
    return DataSettings(
        dataset="folder",
        source=str(own),
        data_dir=str(tmp_path / "prepared"),
        image_size=32,
        load_size=32,
        channels=CLASSES,
        exemplar_list="random",
        validation_exemplar_list="random",
    )


def problems(settings):
    with pytest.raises(UserError) as error:
        data.prepare(settings)
    return str(error.value)


def test_label_maps(settings):
    data.prepare(settings)
    train, validation = (data.open(settings).split(name) for name in ("train", "validation"))
    # Every tenth from the first on is for validation.
    assert validation.keys == ["images/e.jpg"]
    assert train.keys == [f"images/{name}.jpg" for name in NAMES[:4]]
    y = ((np.arange(32) + 0.5) * 90 / 32).astype(int)
    x = ((np.arange(32) + 0.5) * 120 / 32).astype(int)
    for i in range(4):
        image, label = train[i]
        np.testing.assert_array_equal(label[..., 0], draw_label(i)[np.ix_(y, x)])
        assert np.median(np.abs(image.astype(int) - colours(label[..., 0]))) <= 2


def test_lists_choose_the_splits(settings, own):
    (own / "val.txt").write_text(f"{NAMES[2]}.jpg\nimages\\{NAMES[0]}.jpg\r\n")
    data.prepare(settings)
    assert len(data.open(settings).split("train")) == 3
    keys = data.open(settings).split("validation").keys
    assert keys == [f"images/{NAMES[2]}.jpg", f"images/{NAMES[0]}.jpg"]


def test_classes_are_counted(settings, own):
    pixels = data.count_classes(dataclasses.replace(settings, channels=0))
    maps = [np.asarray(Image.open(own / f"labels/{name}.png")) for name in NAMES]
    np.testing.assert_array_equal(pixels, np.bincount(np.concatenate(maps).ravel()))
    assert len(pixels) == CLASSES
    assert "config.data.channels, the number of classes, is not set; set" in (
        message := problems(dataclasses.replace(settings, channels=0))
    )
    assert "config.data.channels=6" in message


def test_classes_are_not_counted_for_a_folder_that_cannot_be_written(settings, monkeypatch):
    monkeypatch.setattr(builders.Folder, "count_classes", lambda _: pytest.fail("counted"))
    with pytest.raises(UserError, match="prepared data cannot be written to /proc/1/"):
        data.count_classes(dataclasses.replace(settings, channels=0, data_dir="/proc/1/data"))


def test_only_own_label_maps_may_be_uncounted(settings):
    with pytest.raises(UserError, match=r"config\.data\.channels is 0; it must be between 1 and"):
        dataclasses.replace(settings, dataset="flickr", channels=0)


def test_named_classes_must_agree(settings, own):
    (own / "classes.txt").write_text("unknown\nsky\nsea\nsand\nrock\ntree\nboat\n")
    assert len(data.count_classes(dataclasses.replace(settings, channels=0))) == 7
    save(own / "labels/stray.png", draw_label(0))
    assert "has no photograph images/stray.jpg" in problems(
        dataclasses.replace(settings, channels=7)
    )
    (own / "labels/stray.png").unlink()
    assert "channels is 6, but" in problems(settings)
    data.prepare(dataclasses.replace(settings, channels=7))
    (own / "classes.txt").write_text("unknown\nsky\n")
    with pytest.raises(
        UserError, match=r"e\.png contains the values 2 \(\d+ pixels\), 3 "
    ) as error:
        data.count_classes(dataclasses.replace(settings, channels=0))
    assert f"add a line for every class to {own}/classes.txt" in str(error.value)
    assert "config.data.channels" not in str(error.value)


def test_maps_of_one_class_are_refused(settings, own):
    for number in (0, 3):
        for name in NAMES:
            save(own / f"labels/{name}.png", np.full((90, 120), number, np.uint8))
        for channels in (0, CLASSES):
            assert problems(dataclasses.replace(settings, channels=channels)) == (
                f"dataset {own}: all label maps contain only class {number}, so there is nothing to"
                " learn; correct the maps, classes.txt or config.data.value_255"
            )


def test_numbers_of_smoothed_edges_are_a_note(settings, own, capsys):
    data.prepare(settings)
    assert "note" not in capsys.readouterr().out
    for i, name in enumerate(NAMES):
        small = Image.fromarray(draw_label(i, 60, 80) * 8)
        small.resize((120, 90), Image.Resampling.BICUBIC).save(own / f"labels/{name}.png")
    shutil.rmtree(builders.open_builder(settings).data_dir)
    data.prepare(dataclasses.replace(settings, channels=60))
    assert "note: the numbers 1, 2, 3, 4, 5, 6, 7, " in capsys.readouterr().out


def test_classes_in_a_file_of_capital_letters(settings, own):
    (own / "Classes.txt").write_text(CLASSES_TXT)
    write_in_colour(own)
    data.prepare(settings)
    assert_prepared(settings)


def test_values_out_of_range_name_file_value_and_pixels(settings, own):
    label = draw_label(0).astype(np.uint16)
    label[:3, :7] = 1000
    label[50, 50] = 6
    save(own / "labels/e.png", label)  # 16 bits
    expected = (
        f"dataset {own}: {own}/labels/e.png contains the values 6 (1 pixels), 1000 (21 pixels);"
        " allowed are 0 to 5: correct the map (class numbers end at 254)"
    )
    assert problems(settings) == expected
    label[label == 1000] = 7
    save(own / "labels/e.png", label)
    assert problems(settings).endswith("correct the map, or set config.data.channels=8")
    label[:3, :7] = 1000
    save(own / "labels/e.png", label)
    with pytest.raises(UserError, match=r"1000 \(21 pixels\); allowed are 0 to 254"):
        data.count_classes(dataclasses.replace(settings, channels=0))


def test_everything_wrong_is_reported_at_once(settings, own):
    (own / "labels/e.png").unlink()
    save(own / "labels/stray.png", draw_label(0))
    save(own / f"images/{NAMES[0]}.png", colours(draw_label(0)))
    save(own / f"labels/{NAMES[1]}.png", colours(draw_label(1)))
    save(own / f"labels/{NAMES[2]}.png", draw_label(2)[:50])
    lines = problems(settings).splitlines()
    assert lines[0] == f"dataset {own} has 5 problems:"
    for part in [
        f"images/{NAMES[0]}.jpg and images/{NAMES[0]}.png have the same name",
        "labels/stray.png has no photograph images/stray.jpg",
        "images/e.jpg has no labels/e.png; add it, or remove images/e.jpg",
        f"{NAMES[1]}.png is a colour image",
        "has 120x90 pixels (width x height), but its label map",
    ]:
        assert sum(part in line for line in lines) == 1, part


def test_palette_maps_and_turned_photographs(settings, own):
    label = draw_label(8)
    palette = Image.fromarray(label, "L")
    palette.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    palette.save(own / f"labels/{NAMES[0]}.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned; a viewer turns it right by 90 degrees
    stored = np.rot90(colours(label))
    save(own / f"images/{NAMES[0]}.jpg", stored, quality=100, subsampling=0, exif=exif)
    data.prepare(settings)
    image, found = data.open(settings).split("train")[0]
    assert (np.rint(image[..., 0] / 40) == found[..., 0]).mean() > 0.85
    y = ((np.arange(32) + 0.5) * 90 / 32).astype(int)
    x = ((np.arange(32) + 0.5) * 120 / 32).astype(int)
    np.testing.assert_array_equal(found[..., 0], label[np.ix_(y, x)])


def test_links_out_of_the_folder_are_followed_and_loops_end(settings, own, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    for kind, end in (("images", ".jpg"), ("labels", ".png")):
        shutil.move(own / kind / f"e{end}", tmp_path / f"elsewhere/e{end}")
        (own / kind / f"e{end}").symlink_to(tmp_path / f"elsewhere/e{end}")
        (own / kind / "holiday/loop").symlink_to(own / kind)
    data.prepare(settings)
    assert data.open(settings).split("validation").keys == ["images/e.jpg"]
    # The folders were not listed again below themselves.
    assert len(data.open(settings).split("train")) == 4
    (tmp_path / "elsewhere/e.jpg").unlink()
    moved = dataclasses.replace(settings, data_dir=str(tmp_path / "other"))
    assert "images/e.jpg does not exist" in problems(moved)


def test_very_long_names(settings, own):
    name = "山" * 80  # 240 bytes: a file system's limit is 255
    save(own / f"images/{name}.jpg", colours(draw_label(0)))
    save(own / f"labels/{name}.png", draw_label(0))
    data.prepare(settings)
    assert f"images/{name}.jpg" in data.open(settings).split("train").keys


def test_thousands_of_broken_files_are_counted(settings, own):
    for i in range(1500):
        (own / f"images/{i}.jpg").write_bytes(b"")
    lines = problems(settings).splitlines()
    assert lines[0] == f"dataset {own} has 1500 problems:"
    assert len(lines) == 12


def test_edge_maps(settings, own):
    shutil.rmtree(own / "labels")
    settings = dataclasses.replace(
        settings, dataset="folder_edges", condition="channels", channels=2
    )
    # A line of one pixel outlives a resizing to a third.
    line = np.zeros((90, 120), np.uint8)
    line[47] = 200
    for name in NAMES:
        save(own / f"edges/{name}.png", line)
    data.prepare(settings)
    label = data.open(settings).split("train")[0][1]
    assert label.shape == (32, 32, 2)
    rows = label[:, 0, 0] == 200
    assert 1 <= rows.sum() <= 2
    assert rows[16]
    np.testing.assert_array_equal(label, np.broadcast_to(label[:, :1], label.shape))
    away = np.abs(np.arange(32)[:, None] - np.flatnonzero(rows)).min(1)
    np.testing.assert_array_equal(label[:, 0, 1], away // 3)
    save(own / "edges/e.png", 255 - line)
    shutil.rmtree(builders.open_builder(settings).data_dir)
    assert "edges/e.png is mostly white; edge maps have white lines on black" in problems(settings)


def test_edges_from_photographs_alone(settings, own):
    shutil.rmtree(own / "labels")
    settings = dataclasses.replace(
        settings, dataset="folder_edges", condition="channels", channels=2
    )
    data.prepare(settings)
    label = data.open(settings).split("validation")[0][1]
    photograph = images.read_photograph(own / "images/e.jpg")
    expected = edges.photograph_edges(photograph, (32, 32))
    assert 10 < expected.sum() < 400
    np.testing.assert_array_equal(label[..., 0], expected * 255)
    distance = cv2.distanceTransform((~expected).astype(np.uint8), cv2.DIST_L1, 3)
    np.testing.assert_array_equal(label[..., 1], (distance / 3).astype(np.uint8))
    # A contact sheet shows edges as lines, whatever plane follows.
    alone = dataclasses.replace(settings, exemplar_list="", exemplar_probability=0.0)
    shown = preview.contact_sheet(data.open(alone), rows=2)[16:, :32]
    batch = next(pipeline.training_batches(data.open(alone), seed=0, batch_size=2))
    np.testing.assert_array_equal(shown.reshape(2, 32, 32, 3)[..., :1], batch.label[..., :1])


def test_poses_in_json_and_text(settings, own):
    shutil.rmtree(own / "labels")
    (own / "poses/holiday").mkdir(parents=True)
    rng = np.random.default_rng(0)
    joints = {}
    for i, name in enumerate(NAMES):
        joints[name] = rng.uniform(5, 85, (18, 2))
        triples = np.column_stack([joints[name], np.ones(18)])
        person = {"people": [{"pose_keypoints_2d": triples.ravel().tolist()}]}
        if i < 2:
            ending = "_keypoints.json" if i else ".json"
            (own / f"poses/{name}{ending}").write_text(json.dumps(person))
        else:
            rows = np.column_stack([joints[name], np.ones(18), np.arange(18)])
            np.savetxt(own / f"poses/{name}_candidate.txt", rows)
            np.savetxt(own / f"poses/{name}_subset.txt", [[*range(18), 20.0, 18]])
    settings = dataclasses.replace(
        settings, dataset="folder_poses", condition="channels", channels=20
    )
    data.prepare(settings)
    for split, names in (("train", NAMES[:4]), ("validation", NAMES[4:])):
        prepared = data.open(settings).split(split)
        for i, name in enumerate(names):
            expected = pose_drawing.draw_pose(joints[name], (90, 120), (32, 32))
            np.testing.assert_array_equal(prepared[i][1], expected)
    (own / "poses/e_subset.txt").unlink()
    (own / f"poses/{NAMES[0]}.json").write_text('{"people": []}')
    (own / f"poses/{NAMES[1]}_keypoints.json").write_text('{"version": 1}')
    moved = dataclasses.replace(settings, data_dir=settings.data_dir + "2")
    lines = problems(moved).splitlines()
    assert lines[0].endswith("has 3 problems:")
    for part in ("e_subset.txt does not exist", ".json contains no person", "not OpenPose's JSON"):
        assert sum(part in line for line in lines) == 1, part


COLOURS = (0x000000, 0xC81E3C, 0x14DC28, 0x808080, 0xFFFFFF, 0x0000FF)
CLASSES_TXT = """unknown #000000
red thing 200 30 60
green #14DC28
grey #808080
white #FFFFFF
blue #0000FF
"""


def assert_prepared(settings):
    """Every prepared map shows the classes that were drawn, whatever the file held."""
    train, validation = (data.open(settings).split(name) for name in ("train", "validation"))
    y = ((np.arange(32) + 0.5) * 90 / 32).astype(int)
    x = ((np.arange(32) + 0.5) * 120 / 32).astype(int)
    for split, numbers in ((train, range(4)), (validation, [4])):
        for index, number in enumerate(numbers):
            expected = draw_label(number)
            expected[0, :CLASSES] = range(CLASSES)
            np.testing.assert_array_equal(split[index][1][..., 0], expected[np.ix_(y, x)])


def write_in_colour(own):
    """Palette images with four orders of one palette, and an image in RGB."""
    for i, name in enumerate(NAMES):
        path = own / f"labels/{name}.png"
        label = np.asarray(Image.open(path))
        if i == 4:
            Image.fromarray(rgb(*COLOURS)[label]).save(path)
            continue
        order = np.random.default_rng(i).permutation(CLASSES)
        in_palette(np.argsort(order)[label].astype(np.uint8), *np.array(COLOURS)[order]).save(path)


def test_palettes_that_differ_are_read_by_colour(settings, own):
    write_in_colour(own)
    for channels in (0, CLASSES):
        message = problems(dataclasses.replace(settings, channels=channels))
        assert "palettes differ between maps: number" in message
        assert f"List the colours in {own}/classes.txt" in message
    # The lines that the message ends with are a list that works.
    lines = message.splitlines()[1:]
    assert len(lines) == CLASSES
    (own / "classes.txt").write_text("\n".join(lines))
    data.prepare(settings)
    (own / "classes.txt").write_text(CLASSES_TXT)
    with pytest.raises(UserError, match="have changed since they were prepared"):
        data.prepare(settings)
    shutil.rmtree(builders.open_builder(settings).data_dir)
    pixels = data.count_classes(dataclasses.replace(settings, channels=0))
    assert len(pixels) == CLASSES
    data.prepare(settings)
    assert_prepared(settings)
    found = data.open(settings).settings
    assert found.classes.splitlines()[1] == "red thing #C81E3C"
    assert found.palette == ""


def test_a_common_palette_stays_numbers(settings, own):
    for name in NAMES:
        path = own / f"labels/{name}.png"
        in_palette(np.asarray(Image.open(path)), *COLOURS).save(path)
    data.prepare(settings)
    assert_prepared(settings)
    found = data.open(settings).settings
    assert found.classes == ""
    assert found.palette.splitlines()[1] == "1 #C81E3C"


def test_colour_masks_without_a_list(settings, own):
    for name in NAMES:
        path = own / f"labels/{name}.png"
        Image.fromarray(rgb(*COLOURS)[np.asarray(Image.open(path))]).save(path)
    message = problems(settings)
    assert message.startswith(f"dataset {own}: 5 of 5 label maps are in colour, for example {own}")
    assert sorted(line[-7:] for line in message.splitlines()[1:]) == sorted(
        f"#{colour:06X}" for colour in COLOURS
    )
    (own / "classes.txt").write_text(CLASSES_TXT.replace("blue #0000FF\n", ""))
    message = problems(dataclasses.replace(settings, channels=CLASSES - 1))
    assert "e.png contains the colours #0000FF (" in message
    assert f", which {own}/classes.txt does not list; correct the map or the list" in message


def test_masks_of_0_and_255(settings, own):
    masks = {name: draw_label(i) > 2 for i, name in enumerate(NAMES)}
    for name, mask in masks.items():
        save(own / f"labels/{name}.png", mask.astype(np.uint8) * 255)
    for channels in (0, 2, CLASSES):
        message = problems(dataclasses.replace(settings, channels=channels))
        assert "label maps contain only 0 and 255" in message
        assert "set --config.data.value_255=class_1" in message
        assert "config.data.channels" not in message
    with pytest.raises(UserError, match="value_255=class_1 makes 2 classes, black and white"):
        dataclasses.replace(settings, value_255="class_1")
    white = dataclasses.replace(settings, value_255="class_1", channels=0)
    total = sum(mask.sum() for mask in masks.values())
    np.testing.assert_array_equal(data.count_classes(white), [5 * 90 * 120 - total, total])
    white = dataclasses.replace(white, channels=2)
    data.prepare(white)
    shares = [(data.open(white).split("train")[i][1] == 1).mean() for i in range(4)]
    np.testing.assert_allclose(shares, [masks[name].mean() for name in NAMES[:4]], atol=0.02)


def test_void_of_255(settings, own):
    void = draw_label(0)
    void[:45] = 255
    save(own / f"labels/{NAMES[0]}.png", void)
    for channels in (0, CLASSES):
        message = problems(dataclasses.replace(settings, channels=channels))
        assert f"1 of 5 label maps contain 255, for example {own}/labels/{NAMES[0]}.png" in message
        assert "set --config.data.value_255=unknown, which makes them class 0" in message
    unknown = dataclasses.replace(settings, value_255="unknown", channels=0)
    assert len(data.count_classes(unknown)) == CLASSES
    unknown = dataclasses.replace(unknown, channels=CLASSES)
    data.prepare(unknown)
    label = data.open(unknown).split("train")[0][1][..., 0]
    np.testing.assert_array_equal(label[:16], 0)
    assert label[17:].max() == void[48:].max()
    # Another meaning of 255 is other data.
    assert builders.open_builder(unknown).data_dir != builders.open_builder(settings).data_dir


def test_only_own_label_maps_have_a_meaning_of_255(settings):
    with pytest.raises(UserError, match=r"value_255 is 'unknown', but it applies only to"):
        dataclasses.replace(settings, dataset="flickr", channels=151, value_255="unknown")


def test_colours_and_a_meaning_of_255_exclude_each_other(settings, own):
    (own / "classes.txt").write_text(CLASSES_TXT)
    message = problems(dataclasses.replace(settings, value_255="unknown"))
    assert "value_255 is 'unknown', which applies to maps of class numbers, but" in message


def write_tree(root, *names, photographs="images", maps="labels"):
    for name in names:
        save(root / f"{photographs}/{name}.jpg", colours(draw_label(len(name))))
        save(root / f"{maps}/{name}.png", draw_label(len(name)))


def splits(settings, root, capsys):
    """The keys of both splits, and the line that tells how they came about."""
    settings = dataclasses.replace(settings, source=str(root))
    data.prepare(settings)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("your data: ")]
    keys = (data.open(settings).split(name).keys for name in ("train", "validation"))
    return *keys, *said


def test_folders_name_the_splits(settings, tmp_path, capsys):
    root = tmp_path / "split"
    write_tree(root, "Train/a", "Train/b", "VALID/a", "test/c")
    assert splits(settings, root, capsys) == (
        ["images/Train/a.jpg", "images/Train/b.jpg"],
        ["images/VALID/a.jpg"],
        "your data: 2 photographs for training and 1 for validation, by the names of"
        " folders; left out: 1 (test: 1)",
    )


def test_test_validates_where_there_is_no_val(settings, tmp_path, capsys):
    write_tree(tmp_path / "split", "training/a", "training/b", "testing/c")
    train, validation, _ = splits(settings, tmp_path / "split", capsys)
    assert train == ["images/training/a.jpg", "images/training/b.jpg"]
    assert validation == ["images/testing/c.jpg"]


def test_folders_of_splits_may_have_a_number(settings, tmp_path, capsys):
    write_tree(tmp_path / "split", "train2017/a", "train2017/b", "val2017/c")
    train, validation, _ = splits(settings, tmp_path / "split", capsys)
    assert train == ["images/train2017/a.jpg", "images/train2017/b.jpg"]
    assert validation == ["images/val2017/c.jpg"]


def test_photographs_beside_folders_of_splits(settings, tmp_path, capsys):
    root = tmp_path / "split"
    write_tree(root, "train/a", "train/b", "val/c", "d", "more/e")
    assert problems(dataclasses.replace(settings, source=str(root))) == (
        f"dataset {root}: 2 photographs are outside the folders of the splits (train, val, test),"
        " for example images/d.jpg; move them into one, or list the splits in train.txt and val.txt"
    )
    (root / "train.txt").write_text("d\na\n")
    (root / "val.txt").write_text("c\n")
    assert splits(settings, root, capsys) == (
        ["images/d.jpg", "images/train/a.jpg"],
        ["images/val/c.jpg"],
        "your data: 2 photographs for training and 1 for validation, by train.txt, val.txt;"
        " left out: 2",
    )


def test_a_folder_of_trains_is_no_split(settings, tmp_path, capsys):
    write_tree(tmp_path / "split", "bus/a", "train/b", "train/c")
    train, validation, said = splits(settings, tmp_path / "split", capsys)
    assert train == ["images/train/b.jpg", "images/train/c.jpg"]
    assert validation == ["images/bus/a.jpg"]
    assert said.endswith("by the default rule (one in 10 for validation)")


def test_a_list_counts_for_more_than_a_folder(settings, tmp_path, capsys):
    root = tmp_path / "split"
    write_tree(root, "train/a", "train/b", "val/c")
    (root / "val.txt").write_text("a\n")
    train, validation, said = splits(settings, root, capsys)
    # What a folder calls validation is not trained on.
    assert (train, validation) == (["images/train/b.jpg"], ["images/train/a.jpg"])
    assert "by val.txt, the names of folders; left out: 1" in said


@pytest.mark.parametrize(
    ("photographs", "maps"),
    [
        ("{}_img", "{}_label"),
        ("{}/images", "{}/labels"),
        ("{}2017/images", "{}2017/labels"),
    ],
)
def test_two_folders_for_every_split(settings, tmp_path, capsys, photographs, maps):
    root = tmp_path / "split"
    for split, names in (("train", "ab"), ("val", "a"), ("test", "z")):
        write_tree(root, *names, photographs=photographs.format(split), maps=maps.format(split))
    save(root / "train_inst/a.png", draw_label(0))
    train, validation, said = splits(settings, root, capsys)
    assert train == [f"{photographs.format('train')}/{name}.jpg" for name in "ab"]
    assert validation == [f"{photographs.format('val')}/a.jpg"]
    assert said.endswith("by the names of folders; left out: 1 (test: 1)")
    shutil.rmtree(root / maps.format("val"))
    moved = dataclasses.replace(settings, source=str(root), data_dir=settings.data_dir + "2")
    assert f"has no folder {root / maps.format('val')} beside it" in problems(moved)


def test_edges_have_splits_too(settings, tmp_path, capsys):
    settings = dataclasses.replace(
        settings, dataset="folder_edges", condition="channels", channels=2
    )
    write_tree(tmp_path / "alone", "train/a", "train/b", "val/c")
    train, validation, _ = splits(settings, tmp_path / "alone", capsys)
    assert (len(train), validation) == (2, ["images/val/c.jpg"])
    line = np.zeros((90, 120), np.uint8)
    line[47] = 200
    for split, names in (("train", "ab"), ("val", "a")):
        for name in names:
            save(tmp_path / f"spade/{split}_img/{name}.jpg", colours(draw_label(0)))
            save(tmp_path / f"spade/{split}_edge/{name}.png", line)
    train, validation, _ = splits(settings, tmp_path / "spade", capsys)
    assert (len(train), validation) == (2, ["val_img/a.jpg"])
    dataset = data.open(dataclasses.replace(settings, source=str(tmp_path / "spade")))
    label = dataset.split("validation")[0][1]
    assert label[:, 0, 0].max() == 200


def test_poses_have_splits_too(settings, tmp_path, capsys):
    settings = dataclasses.replace(
        settings, dataset="folder_poses", condition="channels", channels=20
    )
    joints = np.random.default_rng(0).uniform(5, 85, (18, 2))
    triples = np.column_stack([joints, np.ones(18)]).ravel().tolist()
    for split, names in (("train", "ab"), ("val", "a")):
        (tmp_path / f"spade/{split}_pose").mkdir(parents=True)
        for name in names:
            save(tmp_path / f"spade/{split}_img/{name}.jpg", colours(draw_label(0)))
            text = json.dumps({"people": [{"pose_keypoints_2d": triples}]})
            (tmp_path / f"spade/{split}_pose/{name}.json").write_text(text)
    train, validation, _ = splits(settings, tmp_path / "spade", capsys)
    assert (len(train), validation) == (2, ["val_img/a.jpg"])


LISTS = [
    ({"train": "012"}, "012", "34", "by train.txt"),
    ({"train": "012", "test": "3"}, "012", "3", "by train.txt, test.txt; left out: 1"),
    ({"test": "3"}, "0124", "3", "by test.txt"),
    ({"val": "3", "test": "4"}, "012", "3", "by val.txt, test.txt; left out: 1 (test: 1)"),
    (
        {"train": "01", "val": "3", "test": "4"},
        "01",
        "3",
        "by train.txt, val.txt, test.txt; left out: 2 (test: 1)",
    ),
]


@pytest.mark.parametrize(("lists", "train", "validation", "says"), LISTS)
def test_any_lists_make_splits(settings, tmp_path, capsys, lists, train, validation, says):
    root = tmp_path / "listed"
    write_tree(root, *"01234")
    for name, keys in lists.items():
        (root / f"{name}.txt").write_text("".join(f"{key}.jpg\n" for key in keys))
    found_train, found_validation, said = splits(settings, root, capsys)
    assert found_train == [f"images/{key}.jpg" for key in train]
    assert found_validation == [f"images/{key}.jpg" for key in validation]
    assert said.endswith(says)


def test_lists_that_leave_a_split_empty_or_share_photographs(settings, tmp_path):
    root = tmp_path / "listed"
    write_tree(root, *"012")
    settings = dataclasses.replace(settings, source=str(root))
    (root / "train.txt").write_text("0\n1\n2\n")
    assert problems(settings) == (
        f"dataset {root}: there are no photographs for the validation split: train.txt lists all"
        " photographs; write val.txt too"
    )
    (root / "test.txt").write_text("1\n")
    assert problems(settings) == f"dataset {root}: images/1.jpg is in both train.txt and test.txt"


@pytest.mark.parametrize("names", [("Train.txt", "Val.txt"), ("train.txt", "validation.TXT")])
@pytest.mark.parametrize("more", ["", "dev"])
def test_lists_under_other_names(settings, tmp_path, capsys, names, more):
    root = tmp_path / "listed"
    write_tree(root, *"01234")
    names = (names[0], f"{more}.txt" if more else names[1])
    (root / names[0]).write_text("4\n1\n")
    (root / names[1]).write_text("3\n")
    assert splits(settings, root, capsys) == (
        ["images/4.jpg", "images/1.jpg"],
        ["images/3.jpg"],
        f"your data: 2 photographs for training and 1 for validation, by {', '.join(names)};"
        " left out: 2",
    )


@pytest.mark.parametrize("folder", ["lists", "images", "ImageSets/Main", ".."])
def test_lists_in_other_places(settings, tmp_path, folder):
    root = tmp_path / "source/listed"
    write_tree(root, *"012")
    source = root.parent if folder == ".." else root
    settings = dataclasses.replace(settings, source=str(source))
    path = source / "val.txt" if folder == ".." else root / folder / "val.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("1\n")
    assert problems(settings) == (
        f"dataset {source}: {path} is in the wrong place, since lists must be in the"
        f" dataset's folder; move it to {root}/val.txt, or remove it"
    )
    # Once the split is known, lists elsewhere are ignored.
    (root / "val.txt").write_text("2\n")
    data.prepare(settings)
    assert data.open(settings).split("validation").keys == ["images/2.jpg"]


def test_two_lists_of_a_split_and_an_empty_one(settings, tmp_path):
    root = tmp_path / "listed"
    write_tree(root, *"012")
    settings = dataclasses.replace(settings, source=str(root))
    (root / "val.txt").touch()
    assert problems(settings) == (
        f"dataset {root}: {root}/val.txt is empty; list photographs in it, one per line, or remove"
        " it"
    )
    (root / "dev.txt").write_text("1\n")
    assert problems(settings) == (
        f"{root}/dev.txt and {root}/val.txt both list the validation split; remove one of them"
    )


@pytest.mark.parametrize(
    ("train", "other"),
    [
        ("train", "dev"),
        ("Train", "Eval"),
        ("trainA", "testA"),
        ("train_A", "test_A"),
        ("training", "development"),
    ],
)
def test_other_names_of_the_splits(settings, tmp_path, capsys, train, other):
    root = tmp_path / "split"
    write_tree(root, f"{train}/a", f"{train}/b", f"{other}/c")
    assert splits(settings, root, capsys) == (
        [f"images/{train}/a.jpg", f"images/{train}/b.jpg"],
        [f"images/{other}/c.jpg"],
        "your data: 2 photographs for training and 1 for validation, by the names of folders",
    )


def test_folders_that_seem_to_name_splits(settings, tmp_path):
    root = tmp_path / "split"
    write_tree(root, "train_old/a", "testset/b", "VALLEY/c", "trains/d", "devices/e")
    settings = dataclasses.replace(settings, source=str(root))
    assert problems(settings) == "\n".join(
        [
            f"dataset {root} has 2 problems:",
            *(
                f"  {root}/images/{name} resembles the name of a split but is none; rename it and"
                " its annotation folder (train, val, test), or list the splits in"
                f" {root}/train.txt and val.txt"
                for name in ("testset", "train_old")
            ),
        ]
    )
    (root / "val.txt").write_text("b\n")
    data.prepare(settings)
    assert data.open(settings).split("validation").keys == ["images/testset/b.jpg"]


def test_folders_in_capital_letters_are_named(settings, tmp_path):
    write_tree(tmp_path / "capital", "a", photographs="Images", maps="Labels")
    message = problems(dataclasses.replace(settings, source=str(tmp_path / "capital")))
    assert (
        "images and labels of your data, but Images, Labels (rename Images to images: " in message
    )


def test_a_changed_test_list_is_seen(settings, tmp_path):
    write_tree(tmp_path / "listed", *"012")
    settings = dataclasses.replace(settings, source=str(tmp_path / "listed"))
    data.prepare(settings)
    (tmp_path / "listed/test.txt").write_text("1\n")
    assert "have changed since they were prepared" in problems(settings)


def test_a_folder_of_several_datasets(settings, tmp_path):
    for name in ("first", "second"):
        write_tree(tmp_path / "many" / name, *"01")
    many = dataclasses.replace(settings, source=str(tmp_path / "many"))
    assert "contains 2 datasets, first, second; set config.data.source" in problems(many)


@pytest.mark.parametrize("dataset", ["folder", "folder_edges"])
@pytest.mark.parametrize("folder", ["images/training/a/abbey", "ADE20K/images/ADE/training/abbey"])
def test_the_full_ade20k_is_told(settings, tmp_path, dataset, folder):
    stem = tmp_path / "full" / folder / "ADE_train_00000001"
    save(stem.with_suffix(".jpg"), colours(draw_label(0)))
    save(stem.with_name(f"{stem.name}_seg.png"), colours(draw_label(0)))
    full = dataclasses.replace(settings, dataset=dataset, source=str(tmp_path / "full"))
    if dataset == "folder_edges":
        full = dataclasses.replace(full, condition="channels", channels=2)
    message = problems(full)
    assert f"{stem}_seg.png belongs to the full ADE20K" in message
    assert "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip" in message


def write_poses(folder, sizes, reach=(1, 1)):
    """Photographs of `sizes` (W, H), with people in their middle, `reach` times larger."""
    for i, (width, height) in enumerate(sizes):
        save(folder / f"images/{i}.png", np.zeros((height, width, 3), np.uint8))
        joints = np.linspace((0.3 * width, 0.1 * height), (0.7 * width, 0.9 * height), 18) * reach
        person = np.column_stack([joints, np.ones(18)]).ravel().tolist()
        (folder / "poses").mkdir(exist_ok=True)
        (folder / f"poses/{i}.json").write_text(
            json.dumps({"people": [{"pose_keypoints_2d": person}]})
        )


def drawn_at(label):
    """Where a pose's drawing begins and ends, as parts of width and height."""
    y, x = np.nonzero(label[..., :3].any(-1))
    return np.array([x.min(), y.min(), x.max() + 1, y.max() + 1]) / label.shape[0]


@pytest.mark.parametrize("dataset", ["folder_poses", "deepfashion"])
def test_poses_of_smaller_pictures_are_a_question(tmp_path, dataset):
    """Photographs of 200 x 300 pixels, poses of the same people in pictures of 100 x 100."""
    own = tmp_path / "own"
    write_poses(own, [(200, 300)] * 5, reach=(1 / 2, 1 / 3))
    if dataset == "deepfashion":
        (own / "images").rename(own / "img")
        (own / "poses").rename(own / "pose")
        (own / "val.txt").write_text("0.png\n")
    settings = DataSettings(
        dataset=dataset,
        source=str(own),
        data_dir=str(tmp_path / "prepared"),
        image_size=64,
        load_size=64,
        condition="channels",
        channels=20,
        exemplar_probability=0.0,
    )
    folder = "pose" if dataset == "deepfashion" else "poses"
    said = problems(settings)
    assert said.startswith(
        "in 5 of 5 poses all joints are in the upper left 60% of the photograph's width and height"
        f" ({own}/{folder}/"
    )
    assert "up to (70, 90) of 200x300 pixels" in said
    assert "for example config.data.pose_size=256x256." in said
    assert said.endswith("If they are correct, set config.data.pose_size=photograph")
    assert not (tmp_path / "prepared").exists()
    # With their size, the people stand in the middle again, each in its place.
    sized = dataclasses.replace(settings, pose_size="100x100")
    data.prepare(sized)
    for image in range(4):
        place = drawn_at(data.open(sized).split("train")[image][1])
        np.testing.assert_allclose(place, [0.26, 0.06, 0.75, 0.95], atol=0.02)
    # As they are, they stay in the corner; records of the other setting are not reused.
    as_they_are = dataclasses.replace(settings, pose_size="photograph")
    data.prepare(as_they_are)
    place = drawn_at(data.open(as_they_are).split("train")[0][1])
    np.testing.assert_allclose(place, [0.13, 0.02, 0.37, 0.32], atol=0.03)
    # Of another size, some joints are outside.
    message = problems(dataclasses.replace(settings, pose_size="80x80"))
    assert "has a joint at" in message
    assert "outside config.data.pose_size of 80x80 pixels" in message


def test_poses_none_of_which_reaches_far_are_a_question(tmp_path):
    """People up to 70% and 90% of pictures that have 3/4 of their photographs' sides."""
    settings = DataSettings(
        dataset="folder_poses",
        source=str(tmp_path / "own"),
        data_dir=str(tmp_path / "prepared"),
        image_size=64,
        load_size=64,
        condition="channels",
        channels=20,
        exemplar_probability=0.0,
    )
    write_poses(tmp_path / "own", [(200, 300)] * 8, reach=(3 / 4, 3 / 4))
    said = problems(settings)
    assert said.startswith(
        "in 8 of 8 poses all joints are in the upper left 70% of the photograph's width and height"
    )
    assert "up to (105, 202) of 200x300 pixels" in said
    sized = dataclasses.replace(settings, pose_size="150x225")
    data.prepare(sized)
    place = drawn_at(data.open(sized).split("train")[0][1])
    np.testing.assert_allclose(place, [0.28, 0.08, 0.73, 0.92], atol=0.03)
    # One that reaches further is as good as a proof.
    write_poses(tmp_path / "own", [(200, 300)])
    data.prepare(settings)


def test_some_people_may_stand_in_a_corner(tmp_path):
    write_poses(tmp_path / "own", [(200, 300)] * 4, reach=(1 / 2, 1 / 3))
    for i in range(2):
        save(tmp_path / f"own/images/{i}.png", np.zeros((100, 100, 3), np.uint8))
    settings = DataSettings(
        dataset="folder_poses",
        source=str(tmp_path / "own"),
        data_dir=str(tmp_path / "prepared"),
        image_size=32,
        load_size=32,
        condition="channels",
        channels=20,
        exemplar_probability=0.0,
    )
    data.prepare(settings)
    # Poses of larger pictures: joints are outside, and the message names the setting as well.
    write_poses(tmp_path / "own", [(60, 60)] * 4, reach=(4, 4))
    message = problems(dataclasses.replace(settings, data_dir=str(tmp_path / "other")))
    assert "outside its photograph of 60x60 pixels" in message
    assert "or set config.data.pose_size to the size of the pictures in which" in message


def test_only_datasets_of_poses_have_a_pose_size(settings):
    with pytest.raises(UserError, match=r"pose_size is '9x9', but folder has no poses"):
        dataclasses.replace(settings, pose_size="9x9")
    with pytest.raises(UserError, match=r"data\.pose_size is '256'; it must be WIDTHxHEIGHT, for"):
        dataclasses.replace(settings, dataset="folder_poses", pose_size="256")


def test_flickr_takes_ade20ks_label_maps(settings, own):
    label = draw_label(0)
    label[:45] = 255
    save(own / f"labels/{NAMES[0]}.png", label)
    settings = dataclasses.replace(settings, dataset="flickr", channels=151)
    data.prepare(settings)
    found = data.open(settings).split("train")[0][1][..., 0]
    np.testing.assert_array_equal(found[:16], 150)
    assert found[16:].max() < CLASSES


def test_the_command_line_counts_classes(program, own, tmp_path):
    for name in NAMES:
        path = own / f"labels/{name}.png"
        save(path, np.asarray(Image.open(path)) * 40)
    flags = {
        "config": "configs/folder.py",
        "source": own,
        "config.data.data_dir": tmp_path / "prepared",
        "config.data.image_size": 64,
        "config.data.load_size": 64,
    }
    done = program.run("prepare", *(f"--{name}={value}" for name, value in flags.items()))
    assert done.returncode == 0, done.stderr
    assert "found 201 classes; share of pixels by class: 0 " in done.stdout
    assert "only 6 of the numbers 0 to 200 occur" in done.stdout
    assert "add --config.data.channels=201" in done.stdout
    assert "4 train, 1 validation" in done.stdout
