"""Takes the pictures that a Python program gives: files, Pillow images and NumPy arrays.

They are read as files are (`data.inputs`, `data.images`), with the same results. This module needs
neither TensorFlow nor JAX.
"""

import dataclasses
import io
import os
from pathlib import Path

import numpy as np
from PIL import Image

from cocosnet_jax import files
from cocosnet_jax.data import inputs, maps
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import POSE_DATASETS, DataSettings

Picture = str | os.PathLike[str] | Image.Image | np.ndarray

_ORIENTATION = 0x0112  # of EXIF


class InMemory(io.BytesIO):
    """A picture in memory as the content of a file; its str() is what messages call it."""

    def __init__(self, image: Image.Image, name: str):
        """Writes the picture as TIFF, which keeps every kind of number.

        Args:
          image: the picture, turned as its EXIF orientation says when it is read.
          name: of the argument.

        Raises:
          UserError: TIFF has no such pictures.
        """
        super().__init__()
        self._name = name
        try:
            # Before its orientation is read: Pillow turns TIFF's pixels itself here.
            image.load()
        except Exception as error:  # Damaged files make Pillow raise nearly anything.
            raise UserError(f"{name} cannot be read ({error}); replace it") from None
        exif = Image.Exif()
        exif[_ORIENTATION] = image.getexif().get(_ORIENTATION, 1)
        try:
            image.save(self, "tiff", exif=exif)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{name} is a picture of mode {image.mode} with {image.width}x{image.height}"
                f" pixels, which cannot be read ({error}); convert it to RGB, or a label map to L"
            ) from error

    def __str__(self) -> str:
        return self._name


def source(given: object, name: str) -> Path | InMemory:
    """What the functions that read files take: the file's path, or the picture as a file.

    Args:
      given: a path, a Pillow image, or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of whole
        numbers; those with colours must be uint8.
      name: of the argument, for messages.

    Raises:
      UserError: it is none of these.
    """
    if isinstance(given, Image.Image):
        return InMemory(given, name)
    if isinstance(given, np.ndarray):
        return InMemory(_image(given, name), name)
    if isinstance(given, (str, os.PathLike)):
        return files.local(given, name)
    raise UserError(
        f"{name} is of type {type(given).__name__}; give a file's path, a Pillow image or a NumPy"
        " array"
    )


def _image(array: np.ndarray, name: str) -> Image.Image:
    flat = array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array
    in_colour = flat.ndim == 3 and flat.shape[-1] in (3, 4) and flat.dtype == np.uint8
    if not array.size or not (in_colour or (flat.ndim == 2 and flat.dtype.kind in "bui")):
        raise UserError(
            f"{name} is an array {array.shape} of {array.dtype}; give class numbers or grey levels"
            " as whole numbers (height, width), colours as uint8 (height, width, 3)"
        )
    if flat.dtype.kind in "ui" and flat.dtype != np.uint8:
        limits = np.iinfo(np.int32)
        flat = np.clip(flat, limits.min, limits.max).astype(np.int32)
    return Image.fromarray(np.ascontiguousarray(flat))


def read_label(
    data: DataSettings,
    given: object,
    name: str,
    side: int,
    photograph: Path | InMemory | None = None,
    pose_size: str = "",
) -> inputs.Input:
    """Reads the input of a translation, or the map of its exemplar.

    Args:
      data: the model's data settings, which determine the kind of input.
      given: a path of what `inputs.read_input` reads, or the picture of a label map or edge
        map. An array (H, W) contains class numbers, even for a model whose maps are in colour.
      name: of the argument, for messages.
      side: S of the planes.
      photograph: of the map, if known, which must have its size.
      pose_size: as `--pose-size`; of the input alone.

    Raises:
      UserError: it cannot be read, is of the wrong kind, or contains classes or colours that the
        model does not know.
    """
    file = source(given, name)
    if isinstance(file, Path) and data.condition != "labels":
        of_map = photograph if isinstance(photograph, Path) else None
        return inputs.read_input(data, file, side, photograph=of_map, pose_size=pose_size)
    if data.dataset in (*POSE_DATASETS, "celebahqedge"):
        raise UserError(
            f"{name} is a picture in memory, but this model takes files of {data.dataset}: give the"
            " path of OpenPose's file, or of a photograph in the dataset's layout"
        )
    size = side, side
    if data.condition == "channels":
        return inputs.Input(*maps.read_edges(file, size))
    if isinstance(given, Image.Image) and given.format in ("JPEG", "MPO"):
        raise UserError(
            f"{name} was read from a JPEG file, and lossy compression changes class numbers and"
            " colours; give the original map"
        )
    if isinstance(given, np.ndarray) and (given.ndim == 2 or given.shape[-1] == 1):
        # Numbers need no colours.
        number = "" if data.value_255 == "class_1" else data.value_255
        data = dataclasses.replace(data, classes="", value_255=number)
    return inputs.Input(*maps.read_labels(data, file, size, photograph))
