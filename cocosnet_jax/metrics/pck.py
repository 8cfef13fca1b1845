"""PCK: the share of points that the correspondence finds again, where the truth is known.

A point of the input is found if its match in the exemplar lies within alpha * max(H, W) of the same
point there, in pixels of the square pictures that the networks see. A point keeps its place within
the grid cell that it lies in: the cell's match moves it by whole cells. What is counted is points,
over all pairs whose exemplar is another photograph; a point counts where both pictures have it.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from cocosnet_jax.metrics.correspondence import suffix
from cocosnet_jax.settings import Settings
from cocosnet_jax.types import Batch, Match, Outputs

ALPHAS = (0.05, 0.1)
# The 68 points of a face (300-W). Where the jaw ends is loosely defined: it is counted by itself.
FACE_GROUPS = {"jaw": slice(0, 17), "parts": slice(17, 68)}


class Counts(NamedTuple):
    """Sums over pairs, point by point.

    Attributes:
      right: method -> how often each point was found, for each alpha.
      seen: how often each point was looked for.
      pairs: how many pairs have points.
    """

    right: dict[str, Float[Array, "alphas points"]]
    seen: Float[Array, "points"]
    pairs: Float[Array, ""]


def moved(
    match: Match, points: Float[Array, "b points 2"], size: int, *, softmax: bool = False
) -> Float[Array, "b points 2"]:
    """Where points of the input lie in the exemplar by a match, x and y in pixels.

    Args:
      match: of the pictures' positions.
      points: x and y in pixels; must lie in the picture.
      size: side of the pictures.
      softmax: the softmax's mean place for the most alike one; it lies between the places where
        two are alike.
    """
    b, h, w = match.place.shape
    cells = _cells(points, h, w, size)
    index = cells[..., 1] * w + cells[..., 0]
    if softmax:
        found = match.mean_place.reshape(b, h * w, 2)
        rows, columns = jnp.moveaxis(jnp.take_along_axis(found, index[..., None], 1), -1, 0)
    else:
        place = jnp.take_along_axis(match.place.reshape(b, -1), index, 1)
        rows, columns = jnp.divmod(place, match.back.shape[2])
    steps = jnp.stack([columns - cells[..., 0], rows - cells[..., 1]], -1)
    return points + steps * jnp.asarray([size / w, size / h], points.dtype)


def _cells(points: Float[Array, "b points 2"], h: int, w: int, size: int) -> Array:
    """Column and row of the grid cells that points lie in."""
    shares = (points + 0.5) / size
    cells = jnp.floor(shares * jnp.asarray([w, h])).astype(int)
    return jnp.clip(cells, 0, jnp.asarray([w - 1, h - 1]))


def by_chance(
    points: Float[Array, "b points 2"],
    truth: Float[Array, "b points 2"],
    h: int,
    w: int,
    size: int,
) -> Float[Array, "alphas b points"]:
    """How likely a cell drawn at random finds each point: exactly, from all h x w of them."""
    column, row = jnp.moveaxis(_cells(points, h, w, size), -1, 0)

    def squared(axis: int, own: Array, count: int) -> Float[Array, "b points count"]:
        steps = (jnp.arange(count) - own[..., None]) * (size / count)
        return jnp.square(points[..., axis, None] + steps - truth[..., axis, None])

    distance = squared(1, row, h)[..., :, None] + squared(0, column, w)[..., None, :]
    return jnp.stack(
        [jnp.mean(distance <= (alpha * size) ** 2, (-2, -1), dtype=jnp.float32) for alpha in ALPHAS]
    )


class Pck:
    """PCK of every method in `Outputs.matches`, of the networks' softmax, and of chance."""

    def applies(self, settings: Settings) -> bool:
        """Where the networks look at an exemplar."""
        return settings.model.generator_condition != "input"

    def count(self, batch: Batch, outputs: Outputs, valid: Bool[Array, "b"]) -> Counts:
        """See `Metric`; the batch must have points."""
        assert outputs.matches is not None
        assert batch.points is not None
        assert batch.exemplar_points is not None
        size = batch.image.shape[1]
        points, truth = jnp.asarray(batch.points), jnp.asarray(batch.exemplar_points)
        inside = [jnp.all((x >= -0.5) & (x < size - 0.5), -1) for x in (points, truth)]
        other = valid & (jnp.asarray(batch.self_reference) == 0)
        seen = inside[0] & inside[1] & other[:, None]
        points, truth = (jnp.where(seen[..., None], x, 0) for x in (points, truth))

        def right(found: Float[Array, "b points 2"]) -> Float[Array, "alphas points"]:
            distance = jnp.sum(jnp.square(found - truth), -1)
            bounds = jnp.square(jnp.asarray(ALPHAS) * size)
            return jnp.sum(seen & (distance <= bounds[:, None, None]), 1, dtype=jnp.float32)

        own = outputs.matches[""]
        _, h, w = own.place.shape
        random = by_chance(points, truth, h, w, size)
        found = {name: right(moved(m, points, size)) for name, m in outputs.matches.items()}
        found["softmax"] = right(moved(own, points, size, softmax=True))
        found["chance"] = jnp.sum(jnp.where(seen, random, 0), 1)
        pairs = jnp.sum(seen.any(1), dtype=jnp.float32)
        return Counts(found, jnp.sum(seen, 0, dtype=jnp.float32), pairs)

    def result(self, sums: Any) -> dict[str, float]:
        """`pck@0.05` and `pck@0.1`; of faces `pck_parts@...` and `pck_jaw@...`.

        Returns:
          Also `pck_pairs` and `pck_points`, how many were looked at.
        """
        seen = np.asarray(sums.seen)
        whole = {"": slice(None)}
        groups = {f"_{k}": v for k, v in FACE_GROUPS.items()} if len(seen) == 68 else whole
        numbers: dict[str, float] = {"pck_pairs": int(sums.pairs), "pck_points": int(seen.sum())}
        for group, points in groups.items():
            count = seen[points].sum()
            for alpha, bound in enumerate(ALPHAS) if count else ():
                for method, right in sums.right.items():
                    share = np.asarray(right)[alpha, points].sum() / count
                    numbers[f"pck{group}@{bound:g}{suffix(method)}"] = float(share)
        return numbers
