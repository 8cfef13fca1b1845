"""Numbers that show known failures: a translation that copies its exemplar, a collapsed match.

They are measured on a few validation pairs, together with the pictures of a run. Pairs whose
exemplar is the image itself, or another view of it, do not count: there a copy is right.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from cocosnet_jax.metrics.correspondence import used_share
from cocosnet_jax.nn.resize import average_pool
from cocosnet_jax.types import Batch, Match, Outputs

# Images are compared by cells of this share of their side: a line that moves a little stays there.
_CELLS = 32


def measure(batch: Batch, outputs: Outputs, valid: Bool[Array, "b"]) -> dict[str, Float[Array, ""]]:
    """Means over the pairs of two different photographs.

    Args:
      batch: with bytes, as the pipeline makes it.
      outputs: of the translation of this batch, if possible with the network's own match.
      valid: whether a sample is no filler.

    Returns:
      Five numbers, NaN if the batch has no such pair. The last three are left out without a match,
      and all for a network without exemplar.

      - `like_exemplar`, `like_truth`: correlation of the translation's edges with those of exemplar
        and truth (`edge_correlation`), -1 to 1.
      - `match_entropy`: entropy of the softmax in shares of log(positions): 0 if one position has
        all the weight, 1 if all have the same.
      - `matched_places`: share of the exemplar's positions that are any position's best match.
      - `matched_in_place`: share of positions whose best match is at their own place, or beside it.
    """
    if outputs.warped_exemplar is None:
        return {}
    translated = jnp.asarray(outputs.image)
    numbers = {
        "like_exemplar": edge_correlation(translated, jnp.asarray(batch.exemplar)),
        "like_truth": edge_correlation(translated, jnp.asarray(batch.image)),
    }
    if outputs.matches is not None:
        match = outputs.matches[""]
        positions = math.prod(match.back.shape[1:])
        numbers |= {
            "match_entropy": jnp.asarray(match.entropy).mean((1, 2)) / math.log(positions),
            "matched_places": used_share(match),
            "matched_in_place": in_place_share(match),
        }
    counts = valid & (jnp.asarray(batch.self_reference) == 0)
    return {
        name: jnp.sum(jnp.where(counts, values, 0)) / jnp.sum(counts)
        for name, values in numbers.items()
    }


def edge_correlation(
    a: Shaped[Array, "b height width 3"], b: Shaped[Array, "b height width 3"]
) -> Float[Array, "b"]:
    """Pearson's correlation of where two images have edges, whatever their colours are.

    The strength of an edge is the length of the brightness's gradient, averaged over cells of
    1/32 of the image. Images without edges correlate with nothing (0).

    Args:
      a: images in any range, numbers or bytes.
      b: likewise.
    """
    a, b = (_edges(x) for x in (a, b))
    a, b = (x - x.mean((1, 2), keepdims=True) for x in (a, b))
    lengths = jnp.sqrt(jnp.sum(a**2, (1, 2)) * jnp.sum(b**2, (1, 2)))
    return jnp.sum(a * b, (1, 2)) / jnp.maximum(lengths, 1e-6)


def _edges(x: Shaped[Array, "b height width 3"]) -> Float[Array, "b cells cells"]:
    grey = jnp.asarray(x, jnp.float32).mean(-1)
    down = jnp.diff(grey, axis=1, append=grey[:, -1:])
    right = jnp.diff(grey, axis=2, append=grey[:, :, -1:])
    strength = jnp.hypot(down, right)
    return average_pool(strength[..., None], max(1, x.shape[1] // _CELLS))[..., 0]


def in_place_share(match: Match) -> Float[Array, "b"]:
    """Share of positions whose best match is at their own place of the grid, or next to it."""
    _, h, w = match.place.shape
    h_m, w_m = match.back.shape[1:]
    rows, columns = jnp.divmod(jnp.asarray(match.place), w_m)
    # Both grids cover the same square.
    own_rows = jnp.arange(h)[:, None] * h_m // h
    own_columns = jnp.arange(w) * w_m // w
    near = (jnp.abs(rows - own_rows) <= 1) & (jnp.abs(columns - own_columns) <= 1)
    return near.mean((1, 2))
