"""Baselines of the correspondence: simple matches of the same pairs.

The colour and VGG baselines compare the truth with the exemplar, two photographs. The networks have
a harder task, because they see the input's map instead of the truth.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cocosnet_jax import vgg
from cocosnet_jax.encode import unit_image
from cocosnet_jax.matching import match_both_ways
from cocosnet_jax.nn.norms import unit_length
from cocosnet_jax.nn.resize import average_pool, bilinear
from cocosnet_jax.nn.streaming import Side
from cocosnet_jax.types import Batch, Match

VGG_LAYER = "relu4_2"
# No metric reads the softmax of a baseline.
_TEMPERATURE = 1.0


def matches(
    batch: Batch, h: int, w: int, weights: vgg.VggWeights | None = None
) -> dict[str, Match]:
    """Computes the baselines' matches on grids of h x w positions.

    Args:
      batch: pairs of images.
      h: rows of both grids.
      w: columns of both grids.
      weights: of the VGG baseline; None leaves it out.

    Returns:
      Name -> match: `same_position`; `colour`, the nearest mean RGB; and `VGG-16_relu4_2` or
      `VGG-19_relu4_2`, the highest cosine of that layer's features, resized to h x w.
    """
    truth, exemplar = (unit_image(jnp.asarray(x)) for x in (batch.image, batch.exemplar))
    found = {
        "same_position": same_position(len(truth), h, w),
        "colour": by_colour(truth, exemplar, h),
    }
    if weights is not None:
        rows, columns = (
            Side.of_grid(
                unit_length(bilinear(vgg.features(weights, x, (VGG_LAYER,))[VGG_LAYER], h, w))
            )
            for x in (truth, exemplar)
        )
        found[f"{weights.network}_{VGG_LAYER}"] = match_both_ways(rows, columns, _TEMPERATURE)
    return found


def same_position(b: int, h: int, w: int) -> Match:
    """Matches every position with the same position of the exemplar."""
    place = jnp.broadcast_to(jnp.arange(h * w).reshape(h, w), (b, h, w))
    grid = np.stack(np.meshgrid(np.arange(h), np.arange(w), indexing="ij"), -1)
    mean_place = jnp.broadcast_to(jnp.asarray(grid, jnp.float32), (b, h, w, 2))
    nothing = jnp.zeros((b, h, w))
    return Match(place, place, nothing, mean_place, nothing)


def by_colour(
    truth: Float[Array, "b height width 3"], exemplar: Float[Array, "b height width 3"], h: int
) -> Match:
    """Matches the nearest mean RGB of a cell; the score is the negative squared distance."""
    a, b = (average_pool(x, x.shape[1] // h) for x in (truth, exemplar))
    one = jnp.ones_like(a[..., :1])
    rows = jnp.concatenate([2 * a, -jnp.sum(a**2, -1, keepdims=True), one], -1)
    columns = jnp.concatenate([b, one, -jnp.sum(b**2, -1, keepdims=True)], -1)
    return match_both_ways(Side.of_grid(rows), Side.of_grid(columns), _TEMPERATURE)
