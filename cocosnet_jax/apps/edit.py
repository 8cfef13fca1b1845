"""Edits a photograph by its label map: the photograph is its own exemplar (paper section 5)."""

import numpy as np
from jaxtyping import Bool, UInt8

from cocosnet_jax.inference import Translator

SEAM = 12  # pixels


def edit(
    translator: Translator,
    photograph: UInt8[np.ndarray, "rows columns 3"],
    label: UInt8[np.ndarray, "height width planes"],
    edited_label: UInt8[np.ndarray, "height width planes"],
    *,
    paste: bool = False,
    seam: int = SEAM,
    changed: Bool[np.ndarray, "rows columns"] | None = None,
) -> UInt8[np.ndarray, "rows columns 3"]:
    """Returns the photograph with the content of its edited label map, in its own size.

    Args:
      translator: of S x S pixels.
      photograph: of any size.
      label: its label map at S x S, in the format of `types.Batch`.
      edited_label: the edited label map, likewise.
      paste: paste untouched regions of the photograph back.
      seam: pixels of the photograph over which the edit blends into it.
      changed: where the photograph's labels changed, if they are known at its own size.

    Raises:
      UserError: the label maps do not differ.
    """
    raise NotImplementedError
