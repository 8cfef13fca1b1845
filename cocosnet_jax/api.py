"""The Python API: what `cocosnet_jax.load` returns.

    model = cocosnet_jax.load("runs/ade20k")
    result = model.translate("label.png", "photo.jpg")
    warped = model.warp("label.png", "photo.jpg")
    found = model.match("label.png", "photo.jpg", [(120, 80)])

Pictures are files' paths, Pillow images or NumPy arrays of any size; results are Pillow images.
Everything is read and resized as `cocosnet_jax.translate` does. `Translator` (`model.translator`)
takes whole batches of arrays. This module does not import TensorFlow.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image

from cocosnet_jax import pictures
from cocosnet_jax.data import classes, given, images, inputs
from cocosnet_jax.data import points as points_lib
from cocosnet_jax.data.given import Picture
from cocosnet_jax.errors import UserError
from cocosnet_jax.inference import Translator
from cocosnet_jax.pretrained import SHIPPED
from cocosnet_jax.settings import is_pose_size


class Matches(NamedTuple):
    """The places of an exemplar that belong to points of an input.

    Attributes:
      points: x, y in pixels of the exemplar, with fractions; whole numbers are pixels' middles.
      confidence: 0 to 1, 1 - entropy / log(positions) of the softmax (equation 4): 1 if one
        position has all the weight, near 0 if many are about as similar (`warp.confidence`).
    """

    points: Float[np.ndarray, "points 2"]
    confidence: Float[np.ndarray, "points"]


class _Pair(NamedTuple):
    """A batch of one for the translator, and the sizes (height, width) of the user's pictures."""

    arrays: tuple[np.ndarray, np.ndarray | None, np.ndarray | None]
    size: tuple[int, int]
    exemplar_size: tuple[int, int]


class Model:
    """Translates, warps and matches single pictures with the networks of one checkpoint.

    In all methods,

    - `label` is the input: a label map, edge map or pose, of the kind that the networks were
      trained with. A label map is a picture of class numbers (grey or palette PNG), a picture in
      the colours of the classes if the model has such, or an array (height, width) of class
      numbers. Poses, and photographs in CelebA-HQ's or DeepFashion's layout, are given as paths.
    - `exemplar` is a photograph: a path, a Pillow image, or an array (height, width, 3) of uint8,
      RGB. EXIF orientation is applied. A plain translation network takes none, and ignores it.
    - `exemplar_label` is the exemplar's own map, in its size. Only networks that read it need it,
      and others ignore it.

    The first call of each method compiles, which takes seconds to minutes. All raise UserError,
    which names the argument: it is missing, cannot be read, or contains classes or colours that the
    model does not know.

    Attributes:
      translator: does the same for batches of arrays.
      classes: the names of the classes, in the order of their numbers; empty if not known.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None = None, size: int = 0, pose_size: str = ""
    ):
        """Reads the networks; arguments and errors as of `cocosnet_jax.load`."""
        if not is_pose_size(pose_size):
            raise UserError(
                f"pose_size={pose_size} must be WIDTHxHEIGHT, for example 128x192, or photograph"
            )
        self.translator = Translator(
            SHIPPED if path is None else path, size, advice="load the model with size={size}"
        )
        self.classes = classes.class_names(self.translator.settings.data)
        self._pose_size = pose_size

    @property
    def size(self) -> int:
        """Side of the square pictures that the networks draw, in pixels."""
        return self.translator.size

    def translate(
        self,
        label: Picture,
        exemplar: Picture | None = None,
        exemplar_label: Picture | None = None,
        *,
        original_size: bool = False,
    ) -> Image.Image:
        """Returns the input in the style of the exemplar.

        Args:
          label: the input.
          exemplar: the photograph whose style the result takes.
          exemplar_label: the exemplar's own map.
          original_size: resize the result to the input's own width and height; otherwise it has
            `size` x `size` pixels.
        """
        pair = self._read(label, exemplar, exemplar_label)
        outputs = self.translator.translate(*pair.arrays)
        return _picture(np.asarray(outputs.image), pair.size if original_size else None)

    def warp(
        self,
        label: Picture,
        exemplar: Picture,
        exemplar_label: Picture | None = None,
        *,
        original_size: bool = False,
    ) -> Image.Image:
        """Returns the exemplar, warped to the input; arguments as of `translate`."""
        pair = self._read(label, exemplar, exemplar_label, compares=True)
        found, photograph, other = pair.arrays
        assert photograph is not None
        warped = self.translator.warp(found, photograph, other)
        return _picture(warped, pair.size if original_size else None)

    def match(
        self,
        label: Picture,
        exemplar: Picture,
        points: Sequence[tuple[float, float]] | Float[np.ndarray, "points 2"],
        exemplar_label: Picture | None = None,
    ) -> Matches:
        """Returns where points of the input lie in the exemplar.

        Args:
          label: the input.
          exemplar: the photograph to match it with.
          points: x, y in pixels of the input, as large as it was given; 0, 0 is its upper left
            pixel. A point keeps its place within the matched cell of the grid, 4 x 4 pixels of what
            the networks see.
          exemplar_label: the exemplar's own map.
        """
        pair = self._read(label, exemplar, exemplar_label, compares=True)
        try:
            asked = np.asarray(points, float) if len(points) else np.zeros((0, 2))
            if asked.ndim != 2 or asked.shape[1] != 2:
                raise ValueError(f"they are an array of shape {asked.shape}")
        except (TypeError, ValueError) as error:
            raise UserError(f"points must be pairs of numbers, x and y ({error})") from error
        points_lib.check(asked, pair.size, "input")
        found, photograph, other = pair.arrays
        assert photograph is not None
        match = self.translator.match(found, photograph, other)
        place, confidence = (np.asarray(x[0]) for x in (match.place, match.confidence))
        moved = points_lib.move(asked, place, confidence, pair.size, pair.exemplar_size)
        return Matches(moved[:, :2], moved[:, 2])

    def _read(
        self,
        label: Picture,
        exemplar: Picture | None,
        exemplar_label: Picture | None,
        *,
        compares: bool = False,
    ) -> _Pair:
        """Reads what the networks take; `compares` if a plain translation network is an error."""
        settings, side = self.translator.settings, self.size
        own = given.read_label(settings.data, label, "label", side, pose_size=self._pose_size)
        planes = own.planes[None]
        if not settings.model.needs_exemplar:
            if compares:
                raise UserError("this model is a plain translation network: it compares nothing")
            return _Pair((planes, None, None), own.size, own.size)
        if exemplar is None:
            raise UserError("exemplar is missing; give the photograph whose style the result takes")
        file = given.source(exemplar, "exemplar")
        photograph = images.read_photograph(file)
        other = None
        if settings.model.needs_exemplar_label:
            if exemplar_label is None and isinstance(file, Path):
                exemplar_label = file if inputs.has_annotation(settings.data, file) else None
            if exemplar_label is None:
                raise UserError("exemplar_label is missing; this model reads the exemplar's map")
            other = given.read_label(
                settings.data, exemplar_label, "exemplar_label", side, photograph=file
            ).planes[None]
        resized = images.resize_photograph(photograph, (side, side))[None]
        exemplar_size = photograph.shape[0], photograph.shape[1]
        return _Pair((planes, resized, other), own.size, exemplar_size)


def _picture(
    image: Float[np.ndarray, "1 rows columns 3"], size: tuple[int, int] | None
) -> Image.Image:
    """The only picture of a batch, in this size (height, width)."""
    picture = pictures.to_bytes(image[0])
    return Image.fromarray(images.resize_photograph(picture, size) if size else picture)
