"""Matches: the exemplar's position that is most similar to a position of the input, and back.

The warp compares the small neighbourhoods that the networks were trained with. A point is found
more often by a wide one, in which the places of several things have to agree (`reading_kernel`;
figures in docs/learning.md).
"""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from cocosnet_jax.nn.streaming import PRECISION, Blocks, Compared, Side
from cocosnet_jax.nn.tiles import Tile, divisors
from cocosnet_jax.types import Match
from cocosnet_jax.warp import confidence, matching_features

_Centre = Literal["channels", "positions"]
# The most scores that are held at once, of all samples together.
_SCORES = 2**24


class BestMatch(NamedTuple):
    """The most similar exemplar position for each input position.

    Attributes:
      place: (b, h, w, 2), row and column in the exemplar's grid.
      cosine: (b, h, w), similarity of the two positions, -1 to 1.
      confidence: (b, h, w), how sharp the match is, see `warp.confidence`.
    """

    place: Int[Array, "b h w 2"]
    cosine: Float[Array, "b h w"]
    confidence: Float[Array, "b h w"]


def reading_kernel(side: int, match_kernel: int, centre: _Centre) -> int:
    """Side of the neighbourhoods by which points are matched.

    An odd number near a quarter of the grid's side, and not below the warp's own.

    Args:
      side: of the grid.
      match_kernel: side of the neighbourhoods that the warp compares.
      centre: see `warp.matching_features`. Means over `positions` differ for each neighbour, so
        wide neighbourhoods would take much memory, and the side is the warp's own.
    """
    if centre == "positions":
        return match_kernel
    return max(match_kernel, 2 * round(side / 8) + 1)


def match_both_ways(rows: Side, columns: Side, temperature: float) -> Match:
    """Finds the best match of each position, and measures the softmax of equation 4.

    Compares some rows of the input's grid at a time, so that the whole correlation is never held.

    Args:
      rows: the input's positions.
      columns: the exemplar's positions.
      temperature: divides the scores in the softmax.
    """
    (h, w), (h_m, w_m) = rows.grid, columns.grid
    b = rows.compared.features.shape[0]
    high = max(d for d in divisors(h) if d == 1 or b * d * w * h_m * w_m <= _SCORES)
    tiles = Tile(w, rows.side, high, w), _whole(columns)
    blocks = Blocks(*tiles, temperature=1.0, precision=PRECISION)
    keys = columns.compared.take(blocks.columns, jnp.zeros((), int))
    places = jnp.stack(jnp.divmod(jnp.arange(h_m * w_m), w_m), -1).astype(rows.dtype)

    def of_tile(
        best: tuple[Array, Array], index: Array
    ) -> tuple[tuple[Array, Array], tuple[Array, ...]]:
        top, back = best
        scores = _scores(blocks, rows.compared.take(blocks.rows, index), keys)
        higher = scores.max(1) > top
        back = jnp.where(higher, index * high * w + scores.argmax(1), back)
        score = scores.max(-1)
        logits = (scores - score[..., None]) / temperature
        weights = jnp.exp(logits)
        total = weights.sum(-1)
        weights /= total[..., None]
        entropy = jnp.log(total) - jnp.sum(weights * logits, -1)
        mean_place = jnp.einsum("bnm,mc->bnc", weights, places, precision=PRECISION)
        found = scores.argmax(-1), score, mean_place, entropy
        return (jnp.maximum(top, scores.max(1)), back), found

    start = jnp.full((b, h_m * w_m), -jnp.inf, rows.dtype), jnp.zeros((b, h_m * w_m), int)
    (_, back), found = jax.lax.scan(of_tile, start, jnp.arange(h // high))
    place, score, mean_place, entropy = (
        jnp.moveaxis(x, 0, 1).reshape(b, h, w, *x.shape[3:]) for x in found
    )
    return Match(place, back.reshape(b, h_m, w_m), score, mean_place, entropy)


def full_match(
    theta: Float[Array, "b h w k"],
    phi: Float[Array, "b h_m w_m k"],
    temperature: float,
    match_kernel: int = 1,
    centre: _Centre = "channels",
) -> Match:
    """Matches positions by the correlation (`match_both_ways`); arguments as in `soft_match`."""
    rows, columns = (_side(x, match_kernel, centre) for x in (theta, phi))
    return match_both_ways(rows, columns, temperature)


@functools.partial(jax.jit, static_argnames=("temperature", "match_kernel", "centre"))
def best_match(
    theta: Float[Array, "b h w k"],
    phi: Float[Array, "b h_m w_m k"],
    temperature: float,
    match_kernel: int = 1,
    centre: _Centre = "channels",
) -> BestMatch:
    """Finds the exemplar position of highest correlation; arguments as in `soft_match`."""
    found = full_match(theta, phi, temperature, match_kernel, centre)
    _, h_m, w_m, _ = phi.shape
    place = jnp.stack(jnp.divmod(jnp.asarray(found.place), w_m), -1)
    entropy = jnp.asarray(found.entropy)
    return BestMatch(place, jnp.asarray(found.score), confidence(entropy, h_m * w_m))


def similarity(
    theta: Float[Array, "b h w k"],
    phi: Float[Array, "b h_m w_m k"],
    cells: Int[Array, "b points 2"],
    match_kernel: int = 1,
    centre: _Centre = "channels",
) -> Float[Array, "b points h_m w_m"]:
    """Returns cosines of some input positions and all exemplar positions (equation 3).

    Args:
      theta: features of the input.
      phi: features of the exemplar.
      cells: row and column of the positions in the input's grid.
      match_kernel: side of the neighbourhood that represents a position.
      centre: see `matching_features`.
    """
    rows, columns = (_side(x, match_kernel, centre) for x in (theta, phi))
    _, w = rows.grid
    tiles = Tile(w, rows.side, 1, 1), _whole(columns)
    blocks = Blocks(*tiles, temperature=1.0, precision=PRECISION)

    def of_sample(
        rows: Compared, columns: Compared, cells: Int[Array, "points 2"]
    ) -> Float[Array, "points m"]:
        rows, columns = jax.tree.map(lambda x: x[None], (rows, columns))
        keys = columns.take(blocks.columns, jnp.zeros((), int))

        def of_point(index: Array) -> Float[Array, "m"]:
            return _scores(blocks, rows.take(blocks.rows, index), keys)[0, 0]

        return jax.lax.map(of_point, cells[:, 0] * w + cells[:, 1])

    cosines = jax.vmap(of_sample)(rows.compared, columns.compared, cells)
    return cosines.reshape(*cosines.shape[:2], *columns.grid)


def _side(x: Float[Array, "b h w k"], match_kernel: int, centre: _Centre) -> Side:
    """A grid's positions, which are compared by the cosines of `matching_features`."""
    if match_kernel > 1 and centre == "channels":
        return Side.of_neighbourhoods(x, match_kernel)
    return Side.of_grid(matching_features(x, match_kernel, centre).reshape(*x.shape[:3], -1))


def _whole(side: Side) -> Tile:
    """A whole grid as one tile."""
    return Tile(side.grid[1], side.side, *side.grid)


def _scores(blocks: Blocks, queries: Compared, keys: Compared) -> Float[Array, "b rows columns"]:
    """One block of the correlation, without the padding."""
    products = blocks.products(blocks.dots(queries, keys), queries, keys)
    scores = blocks.logits(products, queries, keys)
    real = [np.flatnonzero(~tile.in_padding()) for tile in (blocks.rows, blocks.columns)]
    return scores[:, real[0]][:, :, real[1]]
