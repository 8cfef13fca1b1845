"""PCK: the percentage of correct keypoints, for pairs whose true correspondence is known.

A keypoint of the input is correct if its match lies within alpha * max(H, W) of the same keypoint
in the exemplar, in pixels of the square images that the networks see. The match of a grid cell
moves a keypoint by whole cells, so it keeps its place within the cell. All keypoints of all pairs
count alike, if both images have them and the exemplar is not the image itself.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from cocosnet_jax.metrics.correspondence import suffix
from cocosnet_jax.settings import Settings
from cocosnet_jax.types import Batch, Match, Outputs

ALPHAS = (0.05, 0.1)
# The 68 points of a face (300-W). Those of the jaw correspond only loosely, and are counted apart.
FACE_GROUPS = {"jaw": slice(0, 17), "parts": slice(17, 68)}


class Counts(NamedTuple):
    """Sums over pairs.

    Attributes:
      right: name of a match -> how often each point was correct, for each alpha.
      seen: how often each point was in both images.
      pairs: number of pairs with at least one such point.
    """

    right: dict[str, Float[Array, "alphas points"]]
    seen: Float[Array, "points"]
    pairs: Float[Array, ""]


def moved(
    match: Match, points: Float[Array, "b points 2"], size: int, *, softmax: bool = False
) -> Float[Array, "b points 2"]:
    """Moves points of the input to the exemplar by a match.

    Args:
      match: match of the two images.
      points: x and y in pixels, within the image.
      size: side of the images in pixels.
      softmax: use the mean position of the softmax instead of the best match.
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
    """Returns column and row of the grid cells that contain the points."""
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
    """Probability that a random match is correct, for each point: computed from all h x w cells."""
    column, row = jnp.moveaxis(_cells(points, h, w, size), -1, 0)

    def squared(axis: int, own: Array, count: int) -> Float[Array, "b points count"]:
        steps = (jnp.arange(count) - own[..., None]) * (size / count)
        return jnp.square(points[..., axis, None] + steps - truth[..., axis, None])

    distance = squared(1, row, h)[..., :, None] + squared(0, column, w)[..., None, :]
    return jnp.stack(
        [jnp.mean(distance <= (alpha * size) ** 2, (-2, -1), dtype=jnp.float32) for alpha in ALPHAS]
    )


def correct(
    found: Float[Array, "#b #points 2"], truth: Float[Array, "#b #points 2"], size: int
) -> Bool[Array, "alphas _ _"]:
    """Whether points are correct, for each alpha.

    Args:
      found: x and y in pixels.
      truth: the true places.
      size: side of the images in pixels.
    """
    distance = jnp.sum(jnp.square(found - truth), -1)
    bounds = jnp.square(jnp.asarray(ALPHAS) * size)
    return distance <= bounds[:, None, None]


class Pck:
    """PCK of all matches in `Outputs.matches`, of the networks' softmax, and of random matches."""

    def applies(self, settings: Settings) -> bool:
        """True if the networks have an exemplar."""
        return settings.model.needs_exemplar

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
            return jnp.sum(seen & correct(found, truth, size), 1, dtype=jnp.float32)

        own = outputs.matches[""]
        _, h, w = own.place.shape
        random = by_chance(points, truth, h, w, size)
        found = {name: right(moved(m, points, size)) for name, m in outputs.matches.items()}
        found["softmax"] = right(moved(own, points, size, softmax=True))
        found["chance"] = jnp.sum(jnp.where(seen, random, 0), 1)
        pairs = jnp.sum(seen.any(1), dtype=jnp.float32)
        return Counts(found, jnp.sum(seen, 0, dtype=jnp.float32), pairs)

    def result(self, sums: Any) -> dict[str, float]:
        """Returns `pck@0.05` and `pck@0.1`, for faces `pck_parts@...` and `pck_jaw@...`.

        Also returns the numbers of pairs and points, `pck_pairs` and `pck_points`.
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
