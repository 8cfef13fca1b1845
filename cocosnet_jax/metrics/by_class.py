"""Matchers that know the class of every pixel of both pictures, and nothing else.

A point is matched with a random pixel of its class, or with the nearest one; or by the classes
around it. They read the exemplar's label map, which the networks do not see.
"""

import numpy as np
from jaxtyping import Bool, Float, Int, Integer

from cocosnet_jax.matching import best_match
from cocosnet_jax.metrics.pck import ALPHAS

NEAREST, RANDOM = "nearest_of_same_class", "random_of_same_class"
BOTH_MAPS = "both_label_maps"  # by `match_maps`


def shares(
    points: Float[np.ndarray, "points 2"],
    truth: Float[np.ndarray, "points 2"],
    label: Integer[np.ndarray, "size size"],
    exemplar_label: Integer[np.ndarray, "size size"],
) -> dict[str, Float[np.ndarray, "alphas points"]]:
    """The probability that each point is matched correctly (`pck.ALPHAS`).

    Args:
      points: x and y in pixels of the input, inside of it.
      truth: the same points in the exemplar.
      label: classes of the input's pixels.
      exemplar_label: classes of the exemplar's pixels. If a point's class is not among them, all
        pixels count as its class.
    """
    size = len(label)
    rows, columns = np.divmod(np.arange(size * size), size)
    x, y = np.clip(np.floor(points.T + 0.5).astype(int), 0, size - 1)
    same: Bool[np.ndarray, "points pixels"] = exemplar_label.ravel() == label[y, x][:, None]
    same[~same.any(1)] = True

    def squared(of: Float[np.ndarray, "points 2"]) -> Float[np.ndarray, "points pixels"]:
        return np.square(columns - of[:, :1]) + np.square(rows - of[:, 1:])

    bounds = np.square(np.array(ALPHAS) * size)[:, None, None]
    right = squared(truth) <= bounds
    nearest = np.argmin(np.where(same, squared(points), np.inf), 1)
    return {
        NEAREST: np.take_along_axis(right, nearest[None, :, None], 2)[..., 0].astype(float),
        RANDOM: (right & same).sum(2) / same.sum(1),
    }


def match_maps(
    label: Integer[np.ndarray, "size size"],
    exemplar_label: Integer[np.ndarray, "size size"],
    classes: int,
    grid: int,
    side: int,
) -> Int[np.ndarray, "grid grid 2"]:
    """Matches the cells of a grid as the networks' are matched, by neighbourhoods.

    Compared are the shares of the classes in each cell.

    Args:
      label: classes of the input's pixels.
      exemplar_label: classes of the exemplar's pixels.
      classes: their number; a pixel of another class counts as of none.
      grid: rows and columns of both grids; divides `size`.
      side: of the neighbourhoods, in cells.

    Returns:
      Row and column of the exemplar's cell that belongs to each cell.
    """

    def cells(label: Integer[np.ndarray, "size size"]) -> Float[np.ndarray, "1 grid grid classes"]:
        step = len(label) // grid
        one_hot = label.reshape(1, grid, step, grid, step, 1) == np.arange(classes)
        return one_hot.mean((2, 4), dtype=np.float32)

    return np.asarray(best_match(cells(label), cells(exemplar_label), 1.0, side).place[0])
