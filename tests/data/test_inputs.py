import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cocosnet_jax.data import inputs
from cocosnet_jax.data.labels import edges, pose_drawing
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import DataSettings
from tests.data.conftest import draw_label
from tests.data.labels.test_label_maps import in_palette, rgb

SHARED = Path(__file__).parents[2] / ".." / "shared"


def of(dataset, channels=6, size=32):
    return DataSettings(
        dataset=dataset,
        channels=channels,
        image_size=size,
        load_size=size,
        exemplar_probability=0.0,
    )


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def nearest(label, size=32):
    y = ((np.arange(size) + 0.5) * label.shape[0] / size).astype(int)
    x = ((np.arange(size) + 0.5) * label.shape[1] / size).astype(int)
    return label[np.ix_(y, x)]


@pytest.mark.skipif(not SHARED.exists(), reason="the sample photographs are not here")
@pytest.mark.parametrize(
    ("dataset", "channels"),
    [("ade20k", 151), ("celebahq", 19), ("celebahqedge", 15), ("deepfashion", 20)],
)
def test_inputs_equal_the_releases_tensors(dataset, channels):
    reference = np.load(SHARED / f"reference/labels_{dataset}.npz")
    for name, theirs in zip(reference["names"], reference["label"], strict=True):
        path = SHARED / "samples" / str(name)
        if dataset == "ade20k":
            path = path.with_suffix(".png")
        found = inputs.read_input(of(dataset, channels, 256), path)
        planes = theirs.astype(np.float64).transpose(1, 2, 0)
        if dataset in ("celebahqedge", "deepfashion"):
            planes = np.rint(planes * 255)
        np.testing.assert_array_equal(found.planes[..., : planes.shape[-1]], planes)


@pytest.mark.parametrize("dataset", ["ade20k", "flickr", "folder"])
def test_label_maps(tmp_path, dataset):
    label = draw_label(0)
    path = save(tmp_path / "a.png", label)
    found = inputs.read_input(of(dataset), path)
    np.testing.assert_array_equal(found.planes[..., 0], nearest(label))
    assert found.size == (90, 120)
    label[0, :4] = 255
    save(path, label)
    if dataset == "folder":
        with pytest.raises(
            UserError, match=r"a\.png contains the values 255 \(4 pixels\); allowed"
        ):
            inputs.read_input(of(dataset), path)
    else:
        assert inputs.read_input(of(dataset), path).planes[0, 0, 0] == 5


CLASSES_TXT = "unknown #000000\nred thing #C81E3C\ngreen #14DC28\nblue #0000FF"
PALETTE = "0 #000000\n1 #C81E3C\n2 #14DC28"


def test_label_maps_by_the_trainings_colours(tmp_path):
    label = draw_label(0) % 4
    shown = rgb(0x000000, 0xC81E3C, 0x14DC28, 0x0000FF)[label]
    settings = dataclasses.replace(of("folder", 4), classes=CLASSES_TXT)
    in_palette(3 - label, 0x0000FF, 0x14DC28, 0xC81E3C, 0x000000).save(tmp_path / "palette.png")
    save(tmp_path / "rgb.png", shown)
    for name in ("palette", "rgb"):
        found = inputs.read_input(settings, tmp_path / f"{name}.png")
        np.testing.assert_array_equal(found.planes[..., 0], nearest(label))
    shown[0, 0] = 1, 2, 3
    with pytest.raises(UserError, match=r"#010203 \(1 pixels\), which no class of the model has"):
        inputs.read_input(settings, save(tmp_path / "rgb.png", shown))
    white = dataclasses.replace(of("folder", 2), value_255="class_1")
    for model in (settings, white):
        with pytest.raises(UserError) as error:
            inputs.read_input(model, save(tmp_path / "numbers.png", label))
        # Whoever translates has no classes.txt, and no settings of the training.
        advice = "; if these are class numbers, draw the map in the colours of the training maps"
        assert str(error.value).endswith(advice)


def test_a_palette_that_is_not_the_trainings(tmp_path):
    label = draw_label(0) % 3
    settings = dataclasses.replace(of("folder", 3), palette=PALETTE)
    path = tmp_path / "a.png"
    in_palette(label, 0x000000, 0xC81E3C, 0x14DC28).save(path)
    np.testing.assert_array_equal(inputs.read_input(settings, path).planes[..., 0], nearest(label))
    # Grey numbers have no palette that could differ.
    save(path, label)
    np.testing.assert_array_equal(inputs.read_input(settings, path).planes[..., 0], nearest(label))
    in_palette(2 - label, 0x14DC28, 0xC81E3C, 0x000000).save(path)
    with pytest.raises(UserError, match=r"here 0 is #14DC28, there 0 is #000000"):
        inputs.read_input(settings, path)
    # A number that training did not see, in the colour of another class.
    in_palette(np.where(label == 2, 5, label), *[0x000000, 0xC81E3C] * 2, 1, 0x14DC28).save(path)
    settings = dataclasses.replace(settings, channels=6)
    with pytest.raises(UserError, match=r"here 5 is #14DC28, there #14DC28 is 2"):
        inputs.read_input(settings, path)


def test_what_255_means_is_what_it_meant_in_training(tmp_path):
    label = draw_label(0) % 2
    white = save(tmp_path / "white.png", label * 255)
    settings = dataclasses.replace(of("folder", 2), value_255="class_1")
    np.testing.assert_array_equal(inputs.read_input(settings, white).planes[..., 0], nearest(label))
    settings = dataclasses.replace(of("folder", 2), value_255="unknown")
    void = save(tmp_path / "void.png", np.where(label == 0, 255, label).astype(np.uint8))
    np.testing.assert_array_equal(inputs.read_input(settings, void).planes[..., 0], nearest(label))


def test_a_label_map_lies_as_its_photograph(tmp_path):
    """Drawn on the stored pixels of a photograph that a viewer turns."""
    label = draw_label(0)
    stored = save(tmp_path / "a.png", label)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((*label.shape, 3), np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    found = inputs.read_input(of("folder"), stored, photograph=tmp_path / "a.jpg")
    np.testing.assert_array_equal(found.planes[..., 0], nearest(np.rot90(label, -1)))
    save(tmp_path / "b.jpg", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(UserError, match=r"b\.jpg has 8x8 pixels .* but its label map .* 120x90"):
        inputs.read_input(of("folder"), stored, photograph=tmp_path / "b.jpg")


def test_faces(tmp_path):
    label = draw_label(0)
    label[:45] = 16  # glasses
    found = inputs.read_input(of("celebahq", 19), save(tmp_path / "map.png", label))
    np.testing.assert_array_equal(found.planes[..., 0], nearest(label))
    np.testing.assert_array_equal(found.planes[..., 1], nearest(label) == 16)
    photograph = save(tmp_path / "CelebA-HQ-img/7.png", np.zeros((64, 64, 3), np.uint8))
    masks = tmp_path / "CelebAMask-HQ-mask-anno/0"
    skin = np.zeros((32, 32), np.uint8)
    skin[8:24, 8:24] = 255
    save(masks / "00007_skin.png", skin)
    save(masks / "00007_eye_g.png", np.roll(skin, 4, 0))
    found = inputs.read_input(of("celebahq", 19), photograph)
    np.testing.assert_array_equal(found.planes[..., 0], skin > 0)
    np.testing.assert_array_equal(found.planes[..., 1], np.roll(skin, 4, 0) > 0)
    assert inputs.has_annotation(of("celebahq", 19), photograph)
    parts = {"skin": skin > 0, "eye_g": np.roll(skin, 4, 0) > 0}
    found = inputs.read_input(of("celebahqedge", 15), photograph)
    expected = edges.face_edges(np.zeros((64, 64, 3), np.uint8), parts, (32, 32))
    np.testing.assert_array_equal(found.planes, expected)
    elsewhere = save(tmp_path / "other/7.png", skin)
    assert not inputs.has_annotation(of("celebahqedge", 15), elsewhere)
    with pytest.raises(UserError, match="is not in a folder CelebA-HQ-img with"):
        inputs.read_input(of("celebahqedge", 15), elsewhere)


@pytest.mark.parametrize(
    ("dataset", "folders"),
    [("deepfashion", ("img", "pose")), ("folder_poses", ("images", "poses"))],
)
def test_poses(tmp_path, dataset, folders):
    joints = np.random.default_rng(0).uniform(0, 30, (18, 2))
    person = np.column_stack([joints, np.ones(18)]).ravel().tolist()
    text = json.dumps({"people": [{"pose_keypoints_2d": person}]})
    (tmp_path / folders[1] / "id_1").mkdir(parents=True)
    pose = tmp_path / folders[1] / "id_1/a_keypoints.json"
    pose.write_text(text)
    image = save(tmp_path / folders[0] / "id_1/a.jpg", np.zeros((60, 40, 3), np.uint8))
    found = inputs.read_input(of(dataset, 20), image)
    np.testing.assert_array_equal(found.planes, pose_drawing.draw_pose(joints, (60, 40), (32, 32)))
    assert found.size == (60, 40)
    # The file alone is drawn as large as its photograph, which the layout tells.
    alone = inputs.read_input(of(dataset, 20), pose)
    np.testing.assert_array_equal(alone.planes, found.planes)
    assert alone.size == (60, 40)
    # Drawn larger, the person stays where it is.
    found = inputs.read_input(of(dataset, 20), pose, side=64)
    np.testing.assert_array_equal(found.planes, pose_drawing.draw_pose(joints, (60, 40), (64, 64)))
    with pytest.raises(UserError, match="is a photograph without a pose"):
        inputs.read_input(of(dataset, 20), save(tmp_path / "a.jpg", np.zeros((9, 9, 3), np.uint8)))
    names = ["a.json", "a_candidate.txt", "a.jpg", "a_subset.txt", "list.txt"]
    is_input = [inputs.is_input(of(dataset, 20), Path(name)) for name in names]
    assert is_input == [True, True, True, False, False]


@pytest.mark.parametrize(
    ("dataset", "wanted"),
    [("ade20k", [True, True, False]), ("drawn_edges", [True, True, True])],
)
def test_a_folder_takes_what_a_single_file_may_be(dataset, wanted):
    names = ["a.png", "a.TIF", "a.jpg"]
    assert [inputs.is_input(of(dataset), Path(name)) for name in names] == wanted


def write_pose(path, first, last, **also):
    """A pose on a line from the joint `first` to the joint `last`, (x, y)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    joints = np.linspace(first, last, 18)
    person = np.column_stack([joints, np.ones(18)]).ravel().tolist()
    path.write_text(json.dumps({"people": [{"pose_keypoints_2d": person}], **also}))
    return path


def drawn_at(found):
    """Where the drawing of a pose begins and ends in its picture, as parts of width and height."""
    y, x = np.nonzero(found.planes[..., :3].any(-1))
    side = found.planes.shape[0]
    return [value / side for value in (x.min(), y.min(), x.max(), y.max())]


# Joints from (40, 30) to (99, 150) in 128 x 192 pixels; a joint's circle has a radius of 4.
FIRST, LAST = (40, 30), (99, 150)
PLACE = [36 / 128, 26 / 192, 103 / 128, 154 / 192]


@pytest.mark.parametrize("dataset", ["deepfashion", "folder_poses"])
@pytest.mark.parametrize(
    ("pose", "photograph"),
    [
        ("poses/b/a_keypoints.json", "images/b/a.jpg"),
        ("pose/b/a_keypoints.json", "img/b/a.PNG"),
        ("a.json", "a.jpg"),
    ],
)
def test_a_pose_alone_is_drawn_where_it_lies_in_its_photograph(tmp_path, dataset, pose, photograph):
    path = write_pose(tmp_path / pose, FIRST, LAST)
    save(tmp_path / photograph, np.zeros((192, 128, 3), np.uint8))
    for side in (64, 128):
        found = inputs.read_input(of(dataset, 20), path, side)
        np.testing.assert_allclose(drawn_at(found), PLACE, atol=2 / side)
        assert found.size == (192, 128)
    # The photograph, named itself, is the same input.
    itself = inputs.read_input(of(dataset, 20), tmp_path / photograph, 128)
    np.testing.assert_array_equal(itself.planes, found.planes)
    assert inputs.has_annotation(of(dataset, 20), tmp_path / photograph)


@pytest.mark.parametrize("dataset", ["deepfashion", "folder_poses"])
def test_a_pose_without_photograph(tmp_path, dataset):
    settings = of(dataset, 20)
    path = write_pose(tmp_path / "a.json", FIRST, LAST)
    with pytest.raises(
        UserError, match=r"a\.json does not state its picture's size.* --pose-size=WIDTHxH"
    ):
        inputs.read_input(settings, path)
    found = inputs.read_input(settings, path, 128, pose_size="128x192")
    np.testing.assert_allclose(drawn_at(found), PLACE, atol=0.015)
    assert found.size == (192, 128)
    write_pose(path, FIRST, LAST, canvas_width=128, canvas_height=192)
    found = inputs.read_input(settings, path, 128)
    np.testing.assert_allclose(drawn_at(found), PLACE, atol=0.015)
    assert found.size == (192, 128)
    # It says more than a checkpoint whose poses were detected in pictures of one size.
    for said in ("256x256", "photograph"):
        found = inputs.read_input(dataclasses.replace(settings, pose_size=said), path, 128)
        np.testing.assert_allclose(drawn_at(found), PLACE, atol=0.015)
    write_pose(path, FIRST, LAST)
    found = inputs.read_input(dataclasses.replace(settings, pose_size="128x192"), path, 128)
    np.testing.assert_allclose(drawn_at(found), PLACE, atol=0.015)
    # The canvas of an exemplar's pose is the exemplar, wherever its file is.
    write_pose(path, FIRST, LAST)
    exemplar = save(tmp_path / "elsewhere/b.jpg", np.zeros((192, 128, 3), np.uint8))
    found = inputs.read_input(settings, path, 128, photograph=exemplar)
    np.testing.assert_allclose(drawn_at(found), PLACE, atol=0.015)
    with pytest.raises(UserError, match=r"joint at .* outside --pose-size of 64x64 pixels"):
        inputs.read_input(settings, path, pose_size="64x64")
    for canvas in ({}, {"canvas_width": 128, "canvas_height": 192}):
        write_pose(path, FIRST, LAST, **canvas)
        given = dataclasses.replace(settings, pose_size="256x256")
        with pytest.raises(
            UserError, match=r"is photograph, but .*a\.json has no photograph; put a\.jpg"
        ):
            inputs.read_input(given, path, pose_size="photograph")
    path.write_text("{")
    with pytest.raises(UserError, match=r"a\.json is not OpenPose's JSON"):
        inputs.read_input(settings, path)


def test_the_size_of_what_poses_were_detected_in_comes_with_the_checkpoint(tmp_path):
    photograph = save(tmp_path / "images/a.jpg", np.zeros((576, 384, 3), np.uint8))
    path = write_pose(tmp_path / "poses/a.json", FIRST, LAST)
    settings = of("folder_poses", 20)
    found = inputs.read_input(settings, photograph, 128)
    assert found.reach.text == f"{path}: up to (99, 150) of 384x576 pixels"
    settings = dataclasses.replace(settings, pose_size="128x192")
    for given in (photograph, path):
        found = inputs.read_input(settings, given, 128)
        np.testing.assert_allclose(drawn_at(found), PLACE, atol=0.015)
        assert (found.size, found.reach) == ((576, 384), None)
    # A pose of one's own may lie in its photograph all the same.
    write_pose(path, (120, 90), (297, 450))
    with pytest.raises(UserError, match=r"outside the checkpoint.s config\.data\.pose_size of 12"):
        inputs.read_input(settings, path)
    found = inputs.read_input(settings, path, 128, pose_size="photograph")
    place = [116 / 384, 86 / 576, 301 / 384, 454 / 576]
    np.testing.assert_allclose(drawn_at(found), place, atol=0.015)


def test_a_photograph_smaller_than_the_checkpoints_pose_size_is_a_question(tmp_path):
    photograph = save(tmp_path / "images/a.jpg", np.zeros((192, 128, 3), np.uint8))
    path = write_pose(tmp_path / "poses/a.json", FIRST, LAST)
    settings = dataclasses.replace(of("folder_poses", 20), pose_size="256x256")
    for given in (photograph, path):
        with pytest.raises(UserError, match=r"photograph of 128x192 pixels .* picture of 256x256"):
            inputs.read_input(settings, given)
        found = inputs.read_input(settings, given, 128, pose_size="photograph")
        np.testing.assert_allclose(drawn_at(found), PLACE, atol=0.015)
        found = inputs.read_input(settings, given, 128, pose_size="256x256")
        place = [36 / 256, 26 / 256, 103 / 256, 154 / 256]
        np.testing.assert_allclose(drawn_at(found), place, atol=0.015)
    # A joint outside of the photograph decides it.
    write_pose(path, FIRST, (198, 200))
    place = [36 / 256, 26 / 256, 202 / 256, 204 / 256]
    found = inputs.read_input(settings, path, 128)
    np.testing.assert_allclose(drawn_at(found), place, atol=0.015)


def test_a_files_own_canvas_tells_where_its_joints_lie(tmp_path):
    photograph = save(tmp_path / "images/a.jpg", np.zeros((576, 384, 3), np.uint8))
    path = write_pose(tmp_path / "poses/a.json", FIRST, LAST, canvas_width=128, canvas_height=192)
    settings = of("folder_poses", 20)
    found = inputs.read_input(settings, photograph, 128)
    np.testing.assert_allclose(drawn_at(found), PLACE, atol=0.015)
    assert (found.size, found.reach) == ((576, 384), None)
    write_pose(path, FIRST, LAST, canvas_width=192, canvas_height=192)
    with pytest.raises(UserError, match=r"canvas of 192x192 .* has 384x576, .* set --pose-size"):
        inputs.read_input(settings, photograph)
    write_pose(path, FIRST, LAST, canvas_width="192")
    with pytest.raises(UserError, match=r"a\.json has canvas_height None; it must be a whole"):
        inputs.read_input(settings, photograph)


def test_edges(tmp_path):
    line = np.zeros((32, 32), np.uint8)
    line[10] = 255
    drawn = save(tmp_path / "line.png", line)
    photograph = save(tmp_path / "images/a.png", np.stack([255 - line] * 3, -1))
    settings = of("folder_edges", 2)
    np.testing.assert_array_equal(inputs.read_input(settings, drawn).planes[..., 0], line)
    # A photograph without edge maps beside it: Canny's edges.
    found = inputs.read_input(settings, photograph).planes[..., 0]
    expected = edges.photograph_edges(np.stack([255 - line] * 3, -1), (32, 32))
    np.testing.assert_array_equal(found, expected * 255)
    found_in = [inputs.computes_edges(settings, path) for path in (photograph, drawn)]
    assert found_in == [True, False]
    save(tmp_path / "edges/a.png", line.T)
    np.testing.assert_array_equal(inputs.read_input(settings, photograph).planes[..., 0], line.T)
    assert not inputs.computes_edges(settings, photograph)
    with pytest.raises(UserError, match=r"white\.png is mostly white"):
        inputs.read_input(settings, save(tmp_path / "white.png", 255 - line))
