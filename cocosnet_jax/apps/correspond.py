"""Shows which place of the exemplar belongs to which place of the input (figures 6, 8 and 17)."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from cocosnet_jax.inference import Translator


class Shown(NamedTuple):
    """Matches of points, and what shows them.

    Attributes:
      matches: x, y in pixels of the other picture, and the confidence, 0 to 1, of each point.
      picture: both pictures side by side with numbered points.
      warped_exemplar: the exemplar, warped to the input, S x S.
      warped_input: the input's picture, warped to the exemplar, S x S.
    """

    matches: Float[np.ndarray, "points 3"]
    picture: UInt8[np.ndarray, "rows columns 3"]
    warped_exemplar: UInt8[np.ndarray, "height width 3"]
    warped_input: UInt8[np.ndarray, "height width 3"]


def correspond(
    translator: Translator,
    label: UInt8[np.ndarray, "height width planes"],
    exemplar: UInt8[np.ndarray, "rows columns 3"],
    exemplar_label: UInt8[np.ndarray, "height width planes"] | None,
    points: Float[np.ndarray, "points 2"],
    *,
    picture: UInt8[np.ndarray, "input_rows input_columns 3"] | None = None,
    back: bool = False,
) -> Shown:
    """Finds the matches of points, and draws them.

    Args:
      translator: of S x S pixels.
      label: the input at S x S.
      exemplar: of any size.
      exemplar_label: its label map at S x S, if the networks take it.
      points: x, y in pixels of the input's picture, or with `back` of the exemplar; may be none.
      picture: shows the input, in any size; None for one made from `label`.
      back: match points of the exemplar to the input.

    Raises:
      UserError: a point lies outside of its picture.
    """
    raise NotImplementedError


def heat_map(
    translator: Translator,
    label: UInt8[np.ndarray, "height width planes"],
    exemplar: UInt8[np.ndarray, "rows columns 3"],
    exemplar_label: UInt8[np.ndarray, "height width planes"] | None,
    point: tuple[float, float],
    *,
    picture: UInt8[np.ndarray, "input_rows input_columns 3"] | None = None,
    back: bool = False,
) -> UInt8[np.ndarray, "drawn_rows drawn_columns 3"]:
    """Draws one point, and beside it how much it belongs to each place of the other picture.

    Arguments and errors as in `correspond`.
    """
    raise NotImplementedError
