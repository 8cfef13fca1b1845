"""Reads layers of strokes: pictures with transparency."""

import numpy as np
from jaxtyping import UInt8

from cocosnet_jax.data import images
from cocosnet_jax.errors import UserError


def read_layer(path: images.FileName) -> UInt8[np.ndarray, "rows columns 4"]:
    """The layer as RGBA, turned upright by its EXIF orientation as photographs are.

    Raises:
      UserError: the file is missing, damaged or no picture, or has no transparency.
    """
    image, orientation = images.read_stored(path)
    if not image.has_transparency_data:
        raise UserError(
            f"{path} has no transparency; save the strokes alone, as a PNG with an alpha channel"
        )
    return images.upright(image.convert("RGBA"), orientation)
