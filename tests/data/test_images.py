import os
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from cocosnet_jax.data import images
from cocosnet_jax.errors import UserError
from tests.conftest import LIMIT_S, ROOT


def gradient(height=6, width=10):
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 20, y * 40, x * 0 + 90], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1"])
def test_photograph_of_any_mode_becomes_rgb(tmp_path, mode):
    image = Image.fromarray(gradient()).convert(mode)
    image.save(tmp_path / "a.png")
    read = images.read_photograph(tmp_path / "a.png")
    assert (read.shape, read.dtype) == ((6, 10, 3), np.uint8)
    if mode == "RGBA":
        np.testing.assert_array_equal(read, gradient())
    elif mode in ("L", "LA"):
        weights = np.array([0.299, 0.587, 0.114])
        assert np.abs(read - (gradient() @ weights)[..., None]).max() <= 0.51


def test_transparency_does_not_change_the_colours(tmp_path):
    alpha = np.linspace(0, 255, 60).reshape(6, 10, 1).astype(np.uint8)
    Image.fromarray(np.concatenate([gradient(), alpha], -1)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(images.read_photograph(tmp_path / "a.png"), gradient())


def test_16_bit_grey_keeps_its_upper_byte(tmp_path):
    Image.fromarray(np.array([[0, 257, 65535]], np.uint16)).save(tmp_path / "a.png")
    read = images.read_photograph(tmp_path / "a.png")
    np.testing.assert_array_equal(read[0, :, 0], [0, 1, 255])


@pytest.mark.parametrize(("kind", "mode"), [(np.float32, "F"), (np.int32, "I")])
def test_numbers_without_a_white_are_no_photograph(tmp_path, kind, mode):
    # A float of 1 would be read as black, an integer of 65535 as white.
    Image.fromarray(np.array([[0, 1, 65535]], kind)).save(tmp_path / "a.tif")
    with pytest.raises(
        UserError, match=rf"a\.tif contains .* \(mode {mode}\), .*; save it as an 8"
    ):
        images.read_photograph(tmp_path / "a.tif")


def test_cmyk_is_converted(tmp_path):
    Image.new("CMYK", (8, 8), (255, 0, 0, 0)).save(tmp_path / "a.jpg")
    cyan = images.read_photograph(tmp_path / "a.jpg")[4, 4].astype(int)
    assert np.abs(cyan - [0, 255, 255]).max() <= 2


# What each EXIF orientation means, as the place of the upright picture's pixel (y, x) in the file.
STORED = {
    1: lambda y, x, h, w: (y, x),
    2: lambda y, x, h, w: (y, w - 1 - x),
    3: lambda y, x, h, w: (h - 1 - y, w - 1 - x),
    4: lambda y, x, h, w: (h - 1 - y, x),
    5: lambda y, x, h, w: (x, y),
    6: lambda y, x, h, w: (w - 1 - x, y),
    7: lambda y, x, h, w: (w - 1 - x, h - 1 - y),
    8: lambda y, x, h, w: (x, h - 1 - y),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("label_drawn_on", ["upright", "stored"])
def test_exif_rotation_keeps_label_and_photograph_aligned(tmp_path, orientation, label_drawn_on):
    upright = gradient()
    h, w = upright.shape[:2]
    stored = np.zeros((h, w, 3) if orientation < 5 else (w, h, 3), np.uint8)
    for y in range(h):
        for x in range(w):
            stored[STORED[orientation](y, x, h, w)] = upright[y, x]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(images.read_photograph(tmp_path / "a.png"), upright)
    if label_drawn_on == "stored" and orientation < 5:
        return  # Of the same size either way: taken as upright.
    drawn = upright if label_drawn_on == "upright" else stored
    Image.fromarray(drawn[..., 0]).save(tmp_path / "label.png")
    image, label = images.read_pair(tmp_path / "a.png", tmp_path / "label.png")
    np.testing.assert_array_equal(image, upright)
    np.testing.assert_array_equal(label, upright[..., 0])


def test_what_else_an_exif_block_says_does_not_matter(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a maker of cameras"
    Image.fromarray(gradient()).save(tmp_path / "a.png", exif=exif)
    upright = images.read_photograph(tmp_path / "a.png")
    # The maker as one rational number, not 19 letters: it is read, but Pillow cannot write it.
    damaged = exif.tobytes().replace(
        struct.pack(">HHL", 0x010F, 2, 19), struct.pack(">HHL", 0x010F, 5, 1)
    )
    assert damaged != exif.tobytes()
    Image.fromarray(gradient()).save(tmp_path / "a.png", exif=damaged)
    np.testing.assert_array_equal(images.read_photograph(tmp_path / "a.png"), upright)


@pytest.mark.parametrize("kind", ["grey", "palette", "16-bit", "grey in RGB"])
def test_label_map_yields_class_numbers(tmp_path, kind):
    label = np.array([[0, 1, 2], [150, 7, 255]])
    image = Image.fromarray(label.astype(np.uint8))
    if kind == "palette":
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
        assert image.mode == "P"
    elif kind == "16-bit":
        label[0, 0] = 999
        image = Image.fromarray(label.astype(np.uint16))
    elif kind == "grey in RGB":
        image = image.convert("RGB")
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(images.read_label_map(tmp_path / "a.png"), label)


def test_colour_label_map_is_refused(tmp_path):
    Image.fromarray(gradient()).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png is a colour image \(mode RGB\)"):
        images.read_label_map(tmp_path / "a.png")


def test_a_jpeg_is_no_label_map(tmp_path):
    Image.fromarray(gradient()[..., 0]).save(tmp_path / "a.jpg")
    with pytest.raises(
        UserError, match=r"a\.jpg is stored as JPEG, and lossy compression changes class"
    ):
        images.read_label_map(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("name", "options", "kind"),
    [
        ("a.webp", {"quality": 70}, "lossy WebP"),
        # With EXIF or an alpha channel, other parts stand before the pixels.
        ("a.webp", {"quality": 70, "exif": b"Exif\0\0"}, "lossy WebP"),
        ("a.tif", {"compression": "jpeg"}, "TIFF with JPEG compression"),
        ("a.webp", {"lossless": True}, ""),
        ("a.webp", {"lossless": True, "exif": b"Exif\0\0"}, ""),
        ("a.tif", {"compression": "tiff_lzw"}, ""),
    ],
)
def test_lossy_pictures_are_no_label_maps(tmp_path, name, options, kind):
    label = np.random.default_rng(0).integers(0, 6, (16, 16)).astype(np.uint8)
    Image.fromarray(np.dstack([label] * 3)).save(tmp_path / name, **options)
    if not kind:
        np.testing.assert_array_equal(images.read_label_map(tmp_path / name), label)
        return
    for read in (images.read_label_map, images.read_colours):
        with pytest.raises(
            UserError, match=rf"{name} is stored as {kind}, and lossy compression changes"
        ):
            read(tmp_path / name)


@pytest.mark.parametrize("read", [images.read_photograph, images.read_label_map])
def test_files_that_cannot_be_read(tmp_path, read):
    with pytest.raises(UserError, match=r"gone\.jpg does not exist"):
        read(tmp_path / "gone.jpg")
    with pytest.raises(UserError, match="is a folder"):
        read(tmp_path)
    (tmp_path / "text.png").write_text("no image")
    message = r"text\.png cannot be read as an image \(of no known format\); save it as PNG"
    with pytest.raises(UserError, match=message):
        read(tmp_path / "text.png")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    for name in ("cut.png", "cut.jpg"):
        Image.fromarray(noise).save(tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UserError, match=rf"{name} cannot be read as an image \(.*truncated"):
            read(tmp_path / name)


def bicubic_weights(source: int, target: int) -> np.ndarray:
    """Keys's cubic (a = -1/2), stretched by the scale when shrinking: (target, source)."""
    scale = source / target
    stretch = max(scale, 1.0)
    centre = (np.arange(target) + 0.5) * scale - 0.5
    t = np.abs(np.arange(source)[None] - centre[:, None]) / stretch
    near = 1.5 * t**3 - 2.5 * t**2 + 1
    far = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    weights = np.where(t < 1, near, np.where(t < 2, far, 0.0))
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("size", [(17, 20), (64, 23), (60, 50)])
def test_photographs_are_resized_by_the_bicubic_formula(size):
    image = np.random.default_rng(0).integers(0, 256, (41, 30, 3), np.uint8)
    rows, columns = bicubic_weights(41, size[0]), bicubic_weights(30, size[1])
    middle = np.clip(np.floor(np.einsum("xw,hwc->hxc", columns, image) + 0.5), 0, 255)
    expected = np.clip(np.einsum("yh,hxc->yxc", rows, middle), 0, 255)
    assert np.abs(images.resize_photograph(image, size) - expected).max() <= 1.1


def test_label_maps_are_resized_to_the_nearest_pixel():
    label = np.random.default_rng(0).integers(0, 60000, (41, 30)).astype(np.int32)
    y = ((np.arange(17) + 0.5) * 41 / 17).astype(int)
    x = ((np.arange(40) + 0.5) * 30 / 40).astype(int)
    np.testing.assert_array_equal(images.resize_label(label, (17, 40)), label[np.ix_(y, x)])


def test_a_picture_of_too_many_pixels_is_said(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    with pytest.raises(UserError, match=r"huge\.png has more pixels than Pillow accepts .*smaller"):
        images.read_photograph(tmp_path / "huge.png")


LARGE = """
from PIL import Image
from cocosnet_jax import command
from cocosnet_jax.data import images
Image.MAX_IMAGE_PIXELS = 15
command.run(lambda: print(images.read_photograph("photo.png").shape), "")
"""


def test_commands_read_a_large_photograph_without_a_warning(tmp_path):
    Image.new("RGB", (5, 4)).save(tmp_path / "photo.png")
    done = subprocess.run(
        [sys.executable, "-c", LARGE],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert (done.stdout, done.stderr) == ("(4, 5, 3)\n", "")
