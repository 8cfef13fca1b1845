"""Carries makeup, or any strokes, from one portrait to others (paper section 5)."""

import numpy as np
from jaxtyping import UInt8

from cocosnet_jax.inference import Translator


def carry(
    translator: Translator,
    portrait: UInt8[np.ndarray, "rows columns 3"],
    portrait_label: UInt8[np.ndarray, "height width planes"] | None,
    layer: UInt8[np.ndarray, "rows columns 4"],
    target: UInt8[np.ndarray, "target_rows target_columns 3"],
    target_label: UInt8[np.ndarray, "height width planes"],
) -> UInt8[np.ndarray, "target_rows target_columns 3"]:
    """Returns another portrait with the strokes of the first, in its own size.

    Args:
      translator: of S x S pixels.
      portrait: the portrait that the strokes were painted on, of any size.
      portrait_label: its label map at S x S, if the networks take the exemplar's.
      layer: the strokes, RGBA, in the size of `portrait`.
      target: the other portrait, of any size.
      target_label: its label map at S x S.
    """
    raise NotImplementedError


def difference(
    bare: UInt8[np.ndarray, "rows columns 3"], made_up: UInt8[np.ndarray, "rows columns 3"]
) -> UInt8[np.ndarray, "rows columns 4"]:
    """Returns the RGBA layer that turns a bare portrait into its made-up version."""
    raise NotImplementedError
