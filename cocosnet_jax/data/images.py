"""Reads and resizes single photographs and label maps, exactly as Pillow does.

Preparation and translation share these functions, so a file gives the same pixels in both
(SPEC section 1). This module needs neither TensorFlow nor JAX.
"""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Integer, Shaped, UInt8
from PIL import Image, UnidentifiedImageError

from cocosnet_jax.errors import UserError

# Or the content of a file, whose str() is what messages call it.
FileName = str | os.PathLike[str] | io.BytesIO
Photograph = UInt8[np.ndarray, "height width 3"]
ClassMap = Int32[np.ndarray, "height width"]  # Class numbers, or colours.

# EXIF orientation -> function that turns an array (H, W) or (H, W, channels) upright. From 5 on,
# they swap width and height.
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda a: np.flip(a, 1),
    3: lambda a: np.rot90(a, 2),
    4: lambda a: np.flip(a, 0),
    5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.swapaxes(np.rot90(a, 2), 0, 1),
    8: lambda a: np.rot90(a),
}
_ORIENTATION = 0x0112
# Class maps are stored in bytes, and one-hot maps of more classes do not fit any accelerator.
MAX_CLASSES = 255
# Extensions of photographs and maps.
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def read_stored(path: FileName) -> tuple[Image.Image, int]:
    """The decoded image as stored, and its EXIF orientation."""
    try:
        with Image.open(path) as image:
            image.load()
            return image, int(image.getexif().get(_ORIENTATION, 1))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check the name, or put the file there") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; name an image file") from None
    except Image.DecompressionBombError as error:
        raise UserError(
            f"{path} has more pixels than Pillow accepts ({error}); make the picture smaller"
        ) from None
    except UnidentifiedImageError:
        advice = "of no known format); save it as PNG, a photograph as PNG or JPEG"
        raise UserError(f"{path} cannot be read as an image ({advice}") from None
    # Damaged files make Pillow's decoders raise nearly anything.
    except Exception as error:
        reason = str(error).replace(str(path), "").strip() or type(error).__name__
        raise UserError(
            f"{path} cannot be read as an image ({reason}); replace it or remove it"
        ) from None


def upright(image: Image.Image, orientation: int) -> np.ndarray:
    """The pixels, turned upright. Pillow's own function rewrites EXIF data and fails if damaged."""
    array = np.asarray(image)
    turn = _TURNS.get(orientation)
    return array if turn is None else np.ascontiguousarray(turn(array))


def read_photograph(path: FileName) -> Photograph:
    """A photograph as (H, W, 3) uint8 RGB, turned upright by its EXIF orientation.

    Grey, palette, CMYK and 16-bit images are converted; an alpha channel is dropped.

    Raises:
      UserError: the file is missing, truncated or no image, or has no defined white level.
    """
    image, orientation = read_stored(path)
    if image.mode in ("F", "I"):
        numbers = "floating-point numbers" if image.mode == "F" else "32-bit integers"
        raise UserError(
            f"{path} contains {numbers} (mode {image.mode}), which have no defined white level;"
            " save it as an 8-bit picture"
        )
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return upright(image.convert("RGB"), orientation)


def decode_photograph(content: bytes) -> np.ndarray:
    """The pixels (H, W, 3) uint8 of a file that this program wrote."""
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


class LabelImage(NamedTuple):
    """A label map as stored in its file.

    Attributes:
      numbers: (H, W) int32; grey levels, indices into the palette, or 0 and 1 of a 1-bit image.
      palette: (256, 3) uint8 RGB, the colour of each index; None without a palette.
      bilevel: whether it is a 1-bit black-and-white image.
    """

    numbers: ClassMap
    palette: UInt8[np.ndarray, "256 3"] | None
    bilevel: bool


class ColourError(UserError):
    """A label map is in colour, but class numbers are required."""


def read_label_image(path: FileName) -> LabelImage:
    """Reads a label map whose pixels are class numbers.

    Raises:
      ColourError: it is in colour.
      UserError: the file is missing, truncated, no image, lossy, or a mask in an alpha channel.
    """
    image, orientation = _read_lossless(path)
    palette = None
    if image.mode == "P":
        palette = np.zeros((256, 3), np.uint8)
        colours = np.array(image.getpalette(), np.uint8).reshape(-1, 3)
        palette[: len(colours)] = colours
    array = upright(image, orientation)
    if array.ndim == 3 and image.mode in ("LA", "PA"):
        array = array[..., 0]
    elif array.ndim == 3 and np.array_equal(array[..., 0], array[..., 1]):
        # Some tools save a grey image in three equal channels.
        array = array[..., 0] if np.array_equal(array[..., 0], array[..., 2]) else array
    if array.ndim != 2 or array.dtype.kind not in "bui":
        raise ColourError(
            f"{path} is a colour image (mode {image.mode}), but a label map has one channel with"
            " the class number of each pixel; save the numbers as an 8-bit grey PNG"
        )
    return LabelImage(array.astype(np.int32), palette, image.mode == "1")


def read_label_map(path: FileName) -> ClassMap:
    """The numbers of `read_label_image`, (H, W) int32; raises what it raises."""
    return read_label_image(path).numbers


def read_colours(path: FileName) -> ClassMap:
    """Reads a label map of any kind as colours, (H, W) int32: red * 65536 + green * 256 + blue.

    Grey levels become colours with three equal channels; an alpha channel is dropped.

    Raises:
      UserError: the file is missing, truncated, no image, lossy, a mask in an alpha channel, or
        contains numbers that are not 8-bit levels.
    """
    image, orientation = _read_lossless(path)
    if image.mode.startswith("I"):
        numbers = np.asarray(image)
        # 8-bit levels, stored as such or scaled to 16 bits.
        levels, rest = np.divmod(numbers, 257 if numbers.max() > 255 else 1)
        if not rest.any() and levels.min() >= 0 and levels.max() <= 255:
            image = Image.fromarray(levels.astype(np.uint8))
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
        raise UserError(
            f"{path} contains numbers (mode {image.mode}), but colours are required; save it as"
            " an 8-bit colour picture"
        )
    red, green, blue = np.moveaxis(
        upright(image.convert("RGB"), orientation).astype(np.int32), 2, 0
    )
    return (red << 16) + (green << 8) + blue


def _read_lossless(path: FileName) -> tuple[Image.Image, int]:
    """A label map's image as stored, and its EXIF orientation."""
    image, orientation = read_stored(path)
    if kind := _lossy_kind(path, image):
        raise UserError(
            f"{path} is stored as {kind}, and lossy compression changes class numbers and colours;"
            " export the original map as PNG"
        )
    if image.mode in ("LA", "RGBA"):
        *colours, alpha = image.split()
        uniform = all(len(set(band.getextrema())) == 1 for band in colours)
        if uniform and len(set(alpha.getextrema())) == 2:
            raise UserError(
                f"{path} has its mask in the alpha channel, which is not read; save the mask as a"
                " grey PNG without alpha channel"
            )
    return image, orientation


def _lossy_kind(path: FileName, image: Image.Image) -> str:
    """The name of a file's lossy format; empty if it is lossless."""
    if image.format in ("JPEG", "MPO"):
        return "JPEG"
    if image.format == "TIFF" and image.info.get("compression") in ("jpeg", "tiff_jpeg"):
        return "TIFF with JPEG compression"
    if image.format == "WEBP":
        content = path.getvalue() if isinstance(path, io.BytesIO) else Path(path).read_bytes()
        return "lossy WebP" if b"VP8 " in _chunks(content) else ""
    return ""


def _chunks(webp: bytes) -> list[bytes]:
    """The names of a WebP file's chunks; lossy pixels are in `VP8 `, lossless ones in `VP8L`."""
    names, place = [], 12
    while place + 8 <= len(webp):
        names.append(webp[place : place + 4])
        length = int.from_bytes(webp[place + 4 : place + 8], "little")
        place += 8 + length + length % 2
    return names


def read_pair(photograph: FileName, label: FileName) -> tuple[Photograph, ClassMap]:
    """Reads a photograph and its label map, which must have the same size.

    If the EXIF orientation turns the photograph by 90 degrees and the label map has the size of the
    stored pixels, the map is turned as well.

    Returns:
      (H, W, 3) uint8 and (H, W) int32.

    Raises:
      UserError: either file cannot be read, or the sizes differ.
    """
    image = read_photograph(photograph)
    return image, align(photograph, (image.shape[0], image.shape[1]), read_label_map(label), label)


def align(
    photograph: FileName,
    size: tuple[int, int],
    array: Shaped[np.ndarray, "rows columns"],
    path: FileName,
) -> Shaped[np.ndarray, "height width"]:
    """Turns a map as its photograph is turned, if needed.

    Args:
      photograph: its file.
      size: (H, W) of the upright photograph.
      array: the map, (H, W) or (W, H).
      path: the map's file, for messages.

    Raises:
      UserError: the map has another size, turned or not.
    """
    if array.shape == size:
        return array
    with Image.open(photograph) as file:
        orientation = int(file.getexif().get(_ORIENTATION, 1))
    if not 5 <= orientation <= 8 or array.shape != size[::-1]:
        raise UserError(
            f"{photograph} has {size[1]}x{size[0]} pixels (width x height), but its label map"
            f" {path} has {array.shape[1]}x{array.shape[0]}; make them the same size"
        )
    return _TURNS[orientation](array)


def check_classes(
    path: FileName,
    label: Integer[np.ndarray, "height width"],
    classes: int,
    also: str = "",
    advice: str = "",
) -> None:
    """Raises a `UserError` if a class map contains values outside 0 to `classes` - 1.

    Args:
      path: the map's file, for the message.
      label: (H, W) integers.
      classes: number of classes.
      also: further allowed values, for the message.
      advice: what the message tells the user to do; by default to correct the map or the setting.
    """
    if label.min() >= 0 and label.max() < classes:
        return
    values, counts = np.unique(label, return_counts=True)
    outside = [
        f"{value} ({count} pixels)"
        for value, count in zip(values, counts, strict=True)
        if not 0 <= value < classes
    ]
    more = f" and {len(outside) - 5} more" if len(outside) > 5 else ""
    if not advice:
        advice = f"correct the map (class numbers end at {MAX_CLASSES - 1})"
        if values[0] >= 0 and values[-1] < MAX_CLASSES:
            advice = f"correct the map, or set config.data.channels={values[-1] + 1}"
    raise UserError(
        f"{path} contains the values {', '.join(outside[:5])}{more}; allowed are 0 to"
        f" {classes - 1}{also}: {advice}"
    )


def resize_photograph(
    image: Photograph, size: tuple[int, int]
) -> UInt8[np.ndarray, "new_height new_width 3"]:
    """Resizes (H, W, 3) uint8 to (h, w, 3) with Pillow's antialiased bicubic filter.

    Along x first, then along y, with rounding in between, as all versions of Pillow did at the time
    of the release; newer ones choose the order by size, which changes a few pixels.
    """
    height, width = size
    rows = Image.fromarray(image).resize((width, image.shape[0]), Image.Resampling.BICUBIC)
    return np.asarray(rows.resize((width, height), Image.Resampling.BICUBIC))


def resize_label(
    label: Shaped[np.ndarray, "height width"], size: tuple[int, int]
) -> Shaped[np.ndarray, "new_height new_width"]:
    """Resizes (H, W) integers to (h, w), same dtype, with Pillow's nearest neighbour."""
    height, width = size
    resized = Image.fromarray(label.astype(np.int32)).resize(
        (width, height), Image.Resampling.NEAREST
    )
    return np.asarray(resized).astype(label.dtype)
