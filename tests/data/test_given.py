"""Pictures that a Python program gives are read as files are."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from cocosnet_jax.data import given, images, inputs, layers
from cocosnet_jax.data.drawn.things import CLASS_COLOURS
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import DataSettings

CLASSES = 6
DATA = DataSettings(
    dataset="ade20k", channels=CLASSES, exemplar_list="random", image_size=64, load_size=64
)
COLOURED = dataclasses.replace(
    DATA, dataset="folder", channels=3, classes="sky #0000FF\ngrass #00FF00\nroad 128 128 128"
)
DRAWN = dataclasses.replace(DATA, dataset="drawn_scenes", channels=len(CLASS_COLOURS))
COLOURS = np.array([(0, 0, 255), (0, 255, 0), (128, 128, 128)], np.uint8)
NUMBERS = np.random.default_rng(0).integers(0, 3, (50, 70), np.uint8)
PHOTOGRAPH = np.random.default_rng(1).integers(0, 256, (50, 70, 3), np.uint8)


def label(data, picture, **more):
    return given.read_label(data, picture, "label", 64, **more)


def palette_image(numbers=NUMBERS, palette=bytes(range(256)) * 3):
    image = Image.fromarray(numbers)
    image.putpalette(palette)
    return image


@pytest.mark.parametrize(
    ("data", "picture"),
    [
        (DATA, NUMBERS),
        (DATA, NUMBERS[..., None]),
        (DATA, NUMBERS.astype(np.int64)),
        (DATA, NUMBERS.astype(np.uint16)),
        (DATA, np.repeat(NUMBERS[..., None], 3, -1)),
        (DATA, Image.fromarray(NUMBERS)),
        (DATA, palette_image()),
        (COLOURED, COLOURS[NUMBERS]),
        (COLOURED, Image.fromarray(COLOURS[NUMBERS])),
        # Class numbers, although the model's maps are in colour.
        (COLOURED, NUMBERS),
        (COLOURED, NUMBERS[..., None]),
        # Drawn scenes: numbers, or the colours in which the demo shows their classes.
        (DRAWN, Image.fromarray(NUMBERS)),
        (DRAWN, palette_image()),
        (DRAWN, palette_image(palette=CLASS_COLOURS.tobytes())),
        (DRAWN, palette_image(13 - NUMBERS, CLASS_COLOURS[::-1].tobytes())),
        (DRAWN, CLASS_COLOURS[NUMBERS]),
        (DRAWN, Image.fromarray(CLASS_COLOURS[NUMBERS]).convert("RGBA")),
    ],
)
def test_a_label_map_in_memory_is_read_as_its_file(tmp_path, data, picture):
    Image.fromarray(NUMBERS).save(tmp_path / "map.png")
    expected = inputs.read_input(DATA, tmp_path / "map.png", 64)
    found = label(data, picture)
    np.testing.assert_array_equal(found.planes, expected.planes)
    # Nearest: pixel i shows pixel floor((i + 0.5) * size / 64).
    rows, columns = (np.floor((np.arange(64) + 0.5) * size / 64).astype(int) for size in (50, 70))
    np.testing.assert_array_equal(found.planes[..., 0], NUMBERS[rows][:, columns])
    assert found.size == expected.size == (50, 70)
    # The given array is unchanged.
    assert NUMBERS.max() == 2


def test_void_becomes_the_last_class():
    found = label(DATA, np.full((8, 8), 255, np.uint8))
    assert (found.planes == CLASSES - 1).all()


def test_black_and_white_maps_as_numbers_and_as_levels():
    data = dataclasses.replace(DATA, dataset="folder", channels=2, value_255="class_1")
    mask = NUMBERS > 0
    for picture in (mask, mask.astype(np.uint8), Image.fromarray(mask * np.uint8(255))):
        assert set(np.unique(label(data, picture).planes)) == {0, 1}
        np.testing.assert_array_equal(label(data, picture).planes, label(data, mask).planes)


def test_faces_have_their_glasses_in_a_second_plane():
    data = dataclasses.replace(
        DATA, dataset="celebahq", channels=19, condition="labels_glasses", load_size=64
    )
    numbers = np.where(NUMBERS == 2, 16, NUMBERS).astype(np.uint8)
    planes = label(data, numbers).planes
    np.testing.assert_array_equal(planes[..., 1], planes[..., 0] == 16)


def test_edges(tmp_path):
    data = dataclasses.replace(DATA, dataset="folder_edges", channels=2, condition="channels")
    lines = np.zeros((50, 70), np.uint8)
    lines[20] = 255
    Image.fromarray(lines).save(tmp_path / "edges.png")
    expected = inputs.read_input(data, tmp_path / "edges.png", 64).planes
    for picture in (lines, lines > 0, Image.fromarray(lines)):
        np.testing.assert_array_equal(label(data, picture).planes, expected)


def test_photographs(tmp_path):
    expected = PHOTOGRAPH
    alpha = np.concatenate([PHOTOGRAPH, np.zeros((50, 70, 1), np.uint8)], -1)
    for picture in (PHOTOGRAPH, alpha, Image.fromarray(PHOTOGRAPH), Image.fromarray(alpha)):
        found = images.read_photograph(given.source(picture, "exemplar"))
        np.testing.assert_array_equal(found, expected)
    grey = images.read_photograph(given.source(PHOTOGRAPH[..., 0], "exemplar"))
    np.testing.assert_array_equal(grey, np.repeat(PHOTOGRAPH[..., :1], 3, -1))


@pytest.mark.parametrize("kind", ["png", "jpg", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_a_picture_in_memory_as_its_file(tmp_path, orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / f"photo.{kind}"
    Image.fromarray(PHOTOGRAPH).save(file, exif=exif)
    expected = images.read_photograph(file)
    picture = Image.open(file)
    found = images.read_photograph(given.source(picture, "exemplar"))
    np.testing.assert_array_equal(found, expected)
    # As layers of strokes are.
    if kind == "png":
        layer = np.dstack([PHOTOGRAPH, PHOTOGRAPH[..., :1]])
        Image.fromarray(layer).save(file, exif=exif)
        read = layers.read_layer(file)
        np.testing.assert_array_equal(read[..., :3], expected)
        np.testing.assert_array_equal(read[..., 3], expected[..., 0])
    # And a map in its size, as displayed or as stored.
    turned = NUMBERS if expected.shape == PHOTOGRAPH.shape else np.rot90(NUMBERS)
    label(DATA, np.ascontiguousarray(turned), photograph=given.source(picture, "exemplar"))


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (3, "label is of type int; give a file's path, a Pillow image or a NumPy array"),
        (NUMBERS.astype(float), r"label is an array \(50, 70\) of float64; give class numbers"),
        (NUMBERS[0], r"label is an array \(70,\) of uint8"),
        (NUMBERS[:0], r"label is an array \(0, 70\) of uint8"),
        (PHOTOGRAPH.astype(np.int32), r"label is an array \(50, 70, 3\) of int32"),
        (PHOTOGRAPH, r"label is a colour image \(mode RGB\), but a label map has one channel"),
        (NUMBERS + 6, r"label contains the values 6 \(.*; allowed are 0 to 5: the model knows no"),
        (NUMBERS.astype(np.int64) - 1, r"label contains the values -1 \("),
        (np.full((2, 2), 2**40), "label contains the values 2147483647"),
        (Image.new("HSV", (4, 4)), "label is a picture of mode HSV with 4x4 pixels, which cannot"),
        ("none.png", "none.png does not exist"),
        ("gs://bucket/map.png", "label=gs://bucket/map.png is in a bucket"),
    ],
)
def test_what_is_no_label_map_is_refused_by_name(picture, message):
    with pytest.raises(UserError, match=message):
        label(DATA, picture)


def test_a_colour_of_no_class_is_refused_by_name():
    with pytest.raises(UserError, match=r"label contains .*, which no class of the model"):
        label(COLOURED, PHOTOGRAPH)


def test_a_colour_of_no_class_of_drawn_scenes_is_refused_with_the_list_of_colours():
    painted = CLASS_COLOURS[NUMBERS]
    painted[0, :5] = 1, 2, 3
    message = (
        r"^label contains the colours #010203 \(5 pixels\), but this model knows unknown #000000,"
        " sky #96C8EB, .*, fence #FAEB5A; correct the map, or name another model with --checkpoint$"
    )
    with pytest.raises(UserError, match=message):
        label(DRAWN, painted)


def test_a_label_map_from_a_jpeg_file_is_refused(tmp_path):
    Image.fromarray(NUMBERS).save(tmp_path / "map.jpg")
    with pytest.raises(UserError, match="label was read from a JPEG file"):
        label(DATA, Image.open(tmp_path / "map.jpg"))


def test_a_map_of_another_size_than_its_photograph_is_refused(tmp_path):
    photograph = given.source(PHOTOGRAPH[1:], "exemplar")
    with pytest.raises(UserError, match=r"exemplar has 70x49 .* label map label has 70x50"):
        label(DATA, NUMBERS, photograph=photograph)
    Image.fromarray(NUMBERS).save(tmp_path / "map.png")
    with pytest.raises(UserError, match=r"exemplar has 70x49 .* map .*map.png has 70x50"):
        label(DATA, tmp_path / "map.png", photograph=photograph)


def test_poses_are_files():
    data = dataclasses.replace(DATA, dataset="folder_poses", channels=18, condition="channels")
    with pytest.raises(UserError, match="label is a picture in memory, but this model takes files"):
        label(data, NUMBERS)
