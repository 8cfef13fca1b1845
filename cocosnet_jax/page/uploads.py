"""Reads what a client uploaded, within limits; reads nothing else.

A client names an uploaded file by its path, and could name any. Only files in the page's own folder
of uploads are read. Before anything is decoded, a file's size and its header are checked: a small
file may claim to be a huge picture.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from cocosnet_jax.data import images, inputs, layers
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import DataSettings

_T = TypeVar("_T")

MAX_BYTES = 32 * 2**20  # of one file
# Of one picture: those of phones and most cameras. Reading one takes 14 bytes per pixel.
MAX_PIXELS = 32_000_000
# Decodes one file after another, so that many large ones at once do not fill the memory.
_DECODER = ThreadPoolExecutor(1, "decoder")
# The longer side by the shorter: all pictures are shown at one height, so a strip would be huge.
MAX_ASPECT = 16
# Pillow knows more formats, some of which start other programs.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")


def path_of(payload: Any, folder: Path, what: str) -> Path | None:
    """The file that a client's value of a picture names, or None if there is no picture.

    Args:
      payload: as Gradio's picture has it, a mapping with `path`; not to be trusted.
      folder: the folder of uploads.
      what: name of the picture for messages, such as "the exemplar".

    Raises:
      UserError: it names something else than a file that was uploaded.
    """
    if payload is None:
        return None
    given = payload.get("path") if isinstance(payload, dict) else None
    if not isinstance(given, str) or not is_uploaded(given, folder):
        raise UserError(f"{what} is not an uploaded file; upload it to this page")
    return Path(given).resolve()


def is_uploaded(path: str, folder: Path) -> bool:
    """Whether a path is that of a file in the folder of uploads."""
    try:
        place = Path(path).resolve()
        return place.is_relative_to(folder.resolve()) and place.is_file()
    except (OSError, ValueError, RuntimeError):  # A name that no file can have.
        return False


def check_picture(path: Path, what: str) -> None:
    """Checks a picture's size by its header; decodes nothing.

    Raises:
      UserError: the file is too large, is no picture of a known format, or has too many pixels.
    """
    if (size := path.stat().st_size) > MAX_BYTES:
        raise UserError(
            f"{what} has {size / 2**20:.1f} MB; the page takes up to {MAX_BYTES // 2**20} MB: save"
            " it smaller"
        )
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
    except Image.DecompressionBombError:
        raise UserError(f"{what} {_too_many()}") from None
    # Damaged files make Pillow's readers raise nearly anything.
    except Exception:
        raise UserError(
            f"{what} cannot be read as a picture; use PNG, JPEG, WebP, BMP or TIFF"
        ) from None
    if width * height > MAX_PIXELS:
        raise UserError(f"{what} of {width}x{height} pixels {_too_many()}")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UserError(
            f"{what} of {width}x{height} pixels is too long and narrow; crop it until its longer"
            f" side is at most {MAX_ASPECT} times the shorter one"
        )


def _too_many() -> str:
    return (
        f"has too many pixels; the page takes up to {MAX_PIXELS / 1e6:.0f} million: save it smaller"
    )


def _decoded(read: Callable[..., _T], *arguments: Any, **named: Any) -> _T:
    """What a function returns that decodes a file."""
    # Without a name for the future: an error would refer to it, and it to the error, and both to
    # the pixels that were decoded.
    return _DECODER.submit(read, *arguments, **named).result()


def read_photograph(path: Path, what: str) -> images.Photograph:
    """The pixels of an uploaded photograph.

    Raises:
      UserError: it cannot be read, or is too large.
    """
    check_picture(path, what)
    try:
        return _decoded(images.read_photograph, path)
    except UserError as error:
        raise _by_name(error, path, what) from None


def read_layer(path: Path, what: str) -> UInt8[np.ndarray, "rows columns 4"]:
    """The pixels of an uploaded picture with transparency, RGBA.

    Raises:
      UserError: it cannot be read, is too large, or has no transparency.
    """
    check_picture(path, what)
    try:
        return _decoded(layers.read_layer, path)
    except UserError as error:
        raise _by_name(error, path, what) from None


def read_map(
    path: Path, what: str, data: DataSettings, size: int, photograph: Path | None = None
) -> UInt8[np.ndarray, "side side planes"]:
    """An uploaded label map or edge map, as the networks take it.

    Args:
      path: the file.
      what: its name for messages.
      data: the model's data settings.
      size: S of the planes.
      photograph: the photograph that it must fit, if known.

    Raises:
      UserError: it cannot be read, is too large, or has classes that the model does not know.
    """
    check_picture(path, what)
    try:
        return _decoded(inputs.read_input, data, path, size, photograph=photograph).planes
    except UserError as error:
        raise _by_name(error, path, what, photograph) from None


def _by_name(error: UserError, path: Path, what: str, photograph: Path | None = None) -> UserError:
    """The error as the user of a page knows the file: by what it is, not by its place here."""
    text = str(error).replace(str(path), what)
    if photograph is not None:
        text = text.replace(str(photograph), "the photograph")
    return UserError(text)
