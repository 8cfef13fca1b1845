"""PCK of pairs of drawn scenes, beside matchers that look at single pixels."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from cocosnet_jax.data.drawn.scene import Scene
from cocosnet_jax.metrics import baselines, by_class
from cocosnet_jax.metrics.pck import ALPHAS, Pck
from cocosnet_jax.types import Batch, Outputs

ALPHA = 0.1
_PIXEL_MATCHERS = ("nearest_colour", by_class.RANDOM, by_class.NEAREST)


def pck(
    scenes: Sequence[Scene], exemplars: Sequence[Scene], places: Int[np.ndarray, "n h w 2"]
) -> dict[str, float]:
    """PCK@0.1 over all points of all pairs.

    Args:
      scenes: the inputs.
      exemplars: their exemplars.
      places: row and column of the exemplar's position that belongs to each position.

    Returns:
      `pck@0.1`, and the same with `_by_` and the name of a matcher.
    """
    count, side = places.shape[:2]
    size = len(scenes[0].label)
    same = baselines.same_position(count, side, side)
    matches = {
        "": same._replace(place=places[..., 0] * side + places[..., 1]),
        "same_position": same,
    }
    points, truth = (np.stack([scene.points for scene in some]) for some in (scenes, exemplars))
    # The metric reads the points and the size of the images.
    image, label = np.zeros((count, size, size, 3), np.uint8), np.zeros((count, size, size, 1))
    batch = Batch(image, image, label, label, np.zeros(count, np.float32), points, truth)
    metric = Pck()
    counts = metric.count(batch, Outputs(image, None, None, matches), jnp.ones(count, bool))
    numbers = metric.result(counts)
    name = f"pck@{ALPHA}"
    found = {
        f"{name}{by}": numbers[f"{name}{by}"] for by in ("", "_by_same_position", "_by_chance")
    }
    shares = np.concatenate([_by_pixels(*pair) for pair in zip(scenes, exemplars, strict=True)])
    for place, matcher in enumerate(_PIXEL_MATCHERS):
        found[f"{name}_by_{matcher}"] = float(shares[:, place].mean())
    return found


def _by_pixels(scene: Scene, exemplar: Scene) -> Float[np.ndarray, "points matchers"]:
    """Whether the matchers of `_PIXEL_MATCHERS` find each point that both scenes have.

    They take the exemplar's pixel of the nearest colour, a random pixel of the same class (here the
    probability that it is right), and the nearest pixel of the same class.
    """
    there = ~np.isnan([scene.points, exemplar.points]).any((0, 2))
    points, truth = scene.points[there], exemplar.points[there]
    shares = by_class.shares(points, truth, scene.label, exemplar.label)
    size = len(scene.label)
    hits = []
    for point, wanted in zip(points, truth, strict=True):
        x, y = np.floor(point + 0.5).astype(int)
        gap = np.abs(exemplar.image.astype(int) - scene.image[y, x]).sum(-1)
        row, column = divmod(int(np.argmin(gap)), size)
        hits.append(np.hypot(column - wanted[0], row - wanted[1]) <= ALPHA * size)
    of_class = [shares[name][ALPHAS.index(ALPHA)] for name in (by_class.RANDOM, by_class.NEAREST)]
    return np.column_stack([np.array(hits, float), *of_class])
