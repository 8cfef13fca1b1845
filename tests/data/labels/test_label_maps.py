from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cocosnet_jax.data.labels import label_maps
from cocosnet_jax.data.labels.label_maps import ClassList
from cocosnet_jax.data.labels.survey import Survey
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import DataSettings

BLACK, WHITE, RED, GREEN = 0x000000, 0xFFFFFF, 0xC81E3C, 0x14DC28
LISTED = ClassList(("unknown", "red thing", "green"), ((BLACK,), (RED,), (GREEN,)))
NUMBERS = np.array([[0, 1, 2, 2], [1, 1, 0, 2]], np.uint8)


def rgb(*colours):
    return np.array([[c >> 16, c >> 8 & 255, c & 255] for c in colours], np.uint8)


def in_palette(numbers, *colours):
    image = Image.fromarray(numbers)
    image.putpalette(rgb(*colours).ravel().tolist())
    return image


def parse(text):
    return label_maps.parse_classes(text, "classes.txt")


@pytest.mark.parametrize(
    "text",
    [
        "unknown #000000\nred thing #C81E3C\ngreen #14DC28",
        "\n unknown 0 0 0 \n\nred thing: 200,30,60\n  20 220\t40   green\n",
        "#000000 unknown\n#c81e3c red thing\ngreen, #14dc28",
    ],
)
def test_colours_stand_before_or_behind_a_name(text):
    assert parse(text) == LISTED
    assert parse(LISTED.text()) == LISTED


def test_a_class_may_have_several_colours_and_a_name_numbers():
    found = parse("unknown #000000 #FFFFFF\nroad 66 200 30 60\nroad 67 20 220 40")
    assert found.names == ("unknown", "road 66", "road 67")
    assert found.colours == ((BLACK, WHITE), (RED,), (GREEN,))


def test_names_alone_may_repeat():
    text = "unknown\nsky\nroad 1\nunused\nunused\nC# minor"
    assert parse(text) == ClassList(tuple(text.splitlines()))
    assert parse(parse(text).text()) == parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a #000000\nb c\nd #000001", "'b c' has no colour, but 2 other classes have"),
        ("a #000000\nb #00000", "line 2, 'b #00000', has an invalid colour; write six digits"),
        ("a 0 0 0\nb 0 0 256", "line 2, 'b 0 0 256', has a number above 255 in its colour"),
        ("a #000000\nb 0 0 0", "#000000 is in line 1 and in line 2"),
        ("a #000000\na #000001", "'a' is in line 1 and in line 2"),
        ("#000000 a #000001\n0 0 2 b", "'#000000 a #000001', has colours before and after"),
        ("1 2 3 4 5 6\n0 0 2 b", "line 1, '1 2 3 4 5 6', has colours before and after"),
        ("a #000000\n#000001", "line 2, '#000001', has no name"),
        ("0 9 9 9 sky\n1 8 8 8 sea", "line 1, '0 9 9 9 sky', has more than three numbers before"),
    ],
)
def test_lines_that_are_wrong(text, message):
    with pytest.raises(UserError, match=message):
        parse(text)


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "palette", "another palette"])
def test_maps_are_read_by_colour(tmp_path, kind):
    path = tmp_path / "a.png"
    if kind in ("RGB", "RGBA"):
        Image.fromarray(rgb(BLACK, RED, GREEN)[NUMBERS]).convert(kind).save(path)
    elif kind == "palette":
        in_palette(NUMBERS, BLACK, RED, GREEN).save(path)
    else:
        in_palette(2 - NUMBERS, GREEN, RED, BLACK).save(path)
    found = label_maps.read(path, LISTED, "", "which ...")
    np.testing.assert_array_equal(found, NUMBERS)


def test_grey_levels_are_colours(tmp_path):
    levels = parse("ground #000000\nmiddle #808080\nobject #FFFFFF")
    grey = np.array([0, 128, 255], np.uint8)[NUMBERS]
    for number, array in enumerate((grey, grey.astype(np.uint16) * 257)):
        Image.fromarray(array).save(tmp_path / f"{number}.png")
        found = label_maps.read(tmp_path / f"{number}.png", levels, "", "which ...")
        np.testing.assert_array_equal(found, NUMBERS)
    # 300 is no level of 8 bits: read by its upper byte, it would be black.
    Image.fromarray(np.full((4, 4), 300, np.uint16)).save(tmp_path / "300.png")
    with pytest.raises(
        UserError, match=r"300\.png contains numbers \(mode I;16\), but colours are"
    ):
        label_maps.read(tmp_path / "300.png", levels, "", "which ...")


def test_a_colour_that_no_class_has(tmp_path):
    picture = rgb(BLACK, RED, GREEN)[NUMBERS]
    picture[0, :2] = 1, 2, 3
    Image.fromarray(picture).save(tmp_path / "a.png")
    with pytest.raises(
        UserError, match=r"a\.png contains the colours #010203 \(2 pixels\), which x"
    ):
        label_maps.read(tmp_path / "a.png", LISTED, "", "which x")
    Image.fromarray(NUMBERS).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"if these are class numbers, remove the colours from cl"):
        label_maps.read(tmp_path / "a.png", LISTED, "", "which x")
    noise = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    with pytest.raises(
        UserError, match=r"and 76 more, which x; this many colours usually come from smoothed"
    ):
        label_maps.read(tmp_path / "a.png", LISTED, "", "which x")


@pytest.mark.parametrize("kind", ["L", "1", "LA", "RGB", "RGBA", "16-bit", "palette", "inverse"])
def test_white_is_class_1(tmp_path, kind):
    mask = np.array([[0, 255, 255], [255, 0, 0]], np.uint8)
    if kind == "16-bit":
        image = Image.fromarray(mask.astype(np.uint16) * 257)
    elif kind == "palette":
        image = in_palette(mask // 255, BLACK, WHITE)
    elif kind == "inverse":
        image = in_palette(1 - mask // 255, WHITE, BLACK)
    else:
        image = Image.fromarray(mask).convert(kind)
    image.save(tmp_path / "a.png")
    found = label_maps.read(tmp_path / "a.png", ClassList(), "class_1", "")
    np.testing.assert_array_equal(found, mask > 0)


@pytest.mark.parametrize("kind", [np.int32, np.uint16])
@pytest.mark.parametrize("white", [255, 65535])
def test_white_of_many_bits(tmp_path, kind, white):
    mask = np.array([[0, white, white], [white, 0, 0]], kind)
    Image.fromarray(mask).save(tmp_path / "a.tif")
    found = label_maps.read(tmp_path / "a.tif", ClassList(), "class_1", "")
    np.testing.assert_array_equal(found, mask > 0)
    Image.fromarray(mask + (mask == 0) * kind(300)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=r"contains numbers \(mode I.*\), but colours are required"):
        label_maps.read(tmp_path / "a.tif", ClassList(), "class_1", "")


def test_a_mask_in_the_alpha_channel_is_not_read_as_one_class(tmp_path):
    alpha = np.array([[0, 255]], np.uint8)
    Image.fromarray(np.dstack([alpha * 0] * 3 + [alpha])).save(tmp_path / "a.png")
    for classes in (ClassList(), LISTED):
        with pytest.raises(UserError, match=r"a\.png has its mask in"):
            label_maps.read(tmp_path / "a.png", classes, "", "")


@pytest.mark.parametrize("bits", [8, 16])
def test_void_is_unknown(tmp_path, bits):
    void = np.where(NUMBERS == 2, 2**bits - 1, NUMBERS.astype(f"uint{bits}"))
    Image.fromarray(void).save(tmp_path / "a.png")
    found = label_maps.read(tmp_path / "a.png", ClassList(), "unknown", "")
    np.testing.assert_array_equal(found, np.where(NUMBERS == 2, 0, NUMBERS))


def survey(folder, *pictures):
    found = Survey()
    for number, picture in enumerate(pictures):
        image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
        image.save(folder / f"{number}.png")
        try:
            found.add(folder / f"{number}.png")
        except UserError:
            assert image.mode == "RGB"
    return found


def test_palettes_that_differ(tmp_path):
    ones = np.minimum(NUMBERS, 1)
    found = survey(
        tmp_path,
        in_palette(NUMBERS, BLACK, RED, GREEN),
        in_palette(NUMBERS, BLACK, GREEN, RED),
    ).conflict()
    assert f"number 1 is #C81E3C in {tmp_path}/0.png and #14DC28 in {tmp_path}/1.png" in found
    # No number has two colours here, but one colour two numbers.
    found = survey(
        tmp_path, in_palette(ones, BLACK, RED), in_palette(2 * ones, BLACK, GREEN, RED)
    ).conflict()
    assert f"#C81E3C is number 1 in {tmp_path}/0.png and number 2 in {tmp_path}/1.png" in found


def test_palettes_that_agree(tmp_path):
    ones = np.minimum(NUMBERS, 1)
    found = survey(
        tmp_path,
        in_palette(NUMBERS, BLACK, RED, GREEN),
        # What is not used may be anything, or be left out.
        in_palette(2 * ones, BLACK, WHITE, GREEN),
        in_palette(ones, BLACK, RED),
        # Numbers without palette say nothing of colours.
        NUMBERS,
    )
    assert found.conflict() is None
    assert found.palette() == {0: BLACK, 1: RED, 2: GREEN}
    assert label_maps.parse_palette(label_maps.palette_text(found.palette())) == found.palette()
    # One palette with one colour for two classes.
    twice = [in_palette(numbers, BLACK, RED, RED) for numbers in (ones, 2 * ones)]
    assert survey(tmp_path, *twice).conflict() is None


def test_the_lines_to_write(tmp_path):
    few = np.where(NUMBERS == 1, 0, NUMBERS)
    found = survey(tmp_path, rgb(BLACK, RED, GREEN)[NUMBERS], rgb(BLACK, RED, GREEN)[few])
    assert found.in_colour().startswith("2 of 2 label maps are in colour, for example")
    text, *lines = found.list_to_write(Path("x/classes.txt")).splitlines()
    assert "List the colours in x/classes.txt" in text
    # Black is on 7 pixels, green on 6, red on 3.
    assert lines == ["class_0 #000000", "class_1 #14DC28", "class_2 #C81E3C"]
    assert parse("\n".join(lines)).colours == ((BLACK,), (GREEN,), (RED,))
    noise = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    assert "more than 255 colours" in survey(tmp_path, noise).list_to_write(Path("x/classes.txt"))


def test_some_maps_in_colour_are_no_list_of_colours(tmp_path):
    assert survey(tmp_path, NUMBERS, NUMBERS, rgb(BLACK, RED, GREEN)[NUMBERS]).in_colour() is None


CLASS_1 = "--config.data.value_255=class_1"
UNKNOWN = "--config.data.value_255=unknown"


@pytest.mark.parametrize(
    ("values", "says", "says_not"),
    [
        ([0, 255], [CLASS_1], [UNKNOWN, "grey levels"]),
        ([0, 65535], [CLASS_1], [UNKNOWN, "grey levels"]),
        ([0, 1, 2, 255], [UNKNOWN, "and also 1, 2"], [CLASS_1, "grey levels"]),
        ([0, 1, 255], [UNKNOWN, "means the same as 1"], [CLASS_1, "grey levels"]),
        ([0, 128, 255], [UNKNOWN, "grey levels"], [CLASS_1]),
    ],
)
def test_what_255_may_be(tmp_path, values, says, says_not):
    kind = np.uint16 if max(values) > 255 else np.uint8
    maps = [np.array(values, kind)[None], np.array([values[0], values[-1]], kind)[None]]
    found = survey(tmp_path, *maps).marks_255("", Path("classes.txt"))
    for part in says:
        assert part in found
    for part in says_not:
        assert part not in found


def test_smoothed_masks_are_told_as_such(tmp_path):
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 16:48] = 255
    smoothed = Image.fromarray(mask).resize((96, 96), Image.Resampling.BICUBIC)
    found = survey(tmp_path, mask, mask, smoothed).marks_255("", Path("classes.txt"))
    assert "are smoothed edges of black and white masks" in found
    assert f"(the last in {tmp_path}/2.png)" in found


def test_255_as_it_is_set(tmp_path):
    mask = np.array([[0, 255]], np.uint8)
    assert "leaves nothing but class 0; set" in survey(tmp_path, mask).marks_255(
        "unknown", Path("classes.txt")
    )
    assert survey(tmp_path, mask, mask // 255 * 7).marks_255("unknown", Path("classes.txt")) is None
    assert survey(tmp_path, NUMBERS).marks_255("", Path("classes.txt")) is None
    # Black and white images of 1 bit need no setting, and do not hide the others.
    bits = Image.fromarray(mask).convert("1")
    assert survey(tmp_path, bits).marks_255("", Path("classes.txt")) is None
    assert CLASS_1 in survey(tmp_path, bits, mask).marks_255("", Path("classes.txt"))
    # Pillow keeps 0 and 255 as the numbers of a grey palette.
    assert CLASS_1 in survey(tmp_path, Image.fromarray(mask).convert("P")).marks_255(
        "", Path("classes.txt")
    )


def test_255_in_colour_is_a_class_of_the_list(tmp_path):
    mask = np.array([[0, 255, 255]], np.uint8)
    picture = in_palette(mask, *[BLACK] * 255, RED)
    for value_255 in ("", "unknown"):
        found = survey(tmp_path, picture).marks_255(value_255, Path("x/classes.txt"))
        assert found.startswith("label maps contain only 0 and 255, which is #C81E3C, for example")
        assert ("leave out config.data.value_255" in found) == bool(value_255)
        assert found.splitlines()[1:] == ["class_0 #C81E3C", "class_1 #000000"]


def test_void_of_16_bits_is_called_so(tmp_path):
    void = np.where(NUMBERS == 2, 65535, NUMBERS.astype(np.uint16))
    found = survey(tmp_path, void).marks_255("", Path("classes.txt"))
    assert found.startswith("1 of 1 label maps contain 65535, for example")


def test_numbers_of_smoothed_edges_are_told(tmp_path):
    drawn = np.zeros((64, 64), np.uint8)
    drawn[8:30, 8:40], drawn[40:60, 20:60] = 9, 40
    drawn[:, 62] = 3
    drawn[62] = 5
    assert survey(tmp_path, drawn).smoothed() is None
    smoothed = Image.fromarray(drawn).resize((100, 100), Image.Resampling.BILINEAR)
    made = set(np.unique(np.asarray(smoothed))) - {0, 9, 40}
    found = survey(tmp_path, smoothed).smoothed()
    assert len(made) > 8
    assert found.startswith(f"note: the numbers {', '.join(map(str, sorted(made)[:2]))}, ")
    assert f"of {len(made) + 3}) occur in label maps almost only as lines" in found


def test_a_run_keeps_its_colours():
    def of(classes="", palette=""):
        return DataSettings(classes=classes, palette=palette, exemplar_probability=0.0)

    before = of("sky #0000FF\nsea 0 255 0")
    label_maps.check_same_colours(before, of("Sky #0000FF\nthe sea #00FF00"))
    label_maps.check_same_colours(before, of())
    label_maps.check_same_colours(of(), before)
    with pytest.raises(UserError, match="class 0 is #00FF00 in the label maps, but was #0000FF"):
        label_maps.check_same_colours(before, of("sea #00FF00\nsky #0000FF"))
    with pytest.raises(UserError, match="class 1 is #00FF00 in the label maps, but was #0000FF"):
        label_maps.check_same_colours(of("", "0 #000000\n1 #0000FF"), of("", "1 #00FF00"))
