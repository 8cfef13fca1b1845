"""What a match is worth that no network of the run has made, of the same pairs.

Each baseline but the first compares the truth with the exemplar, two photographs, which is easier
than the networks' task: they see the input's map in place of the truth.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cocosnet_jax import vgg
from cocosnet_jax.encode import unit_image
from cocosnet_jax.nn.norms import unit_length
from cocosnet_jax.nn.resize import average_pool, bilinear
from cocosnet_jax.types import Batch, Match
from cocosnet_jax.warp import match_both_ways

VGG_LAYER = "relu4_2"
# Scores' softmax is not read.
_TEMPERATURE = 1.0


def matches(
    batch: Batch, h: int, w: int, weights: vgg.VggWeights | None = None
) -> dict[str, Match]:
    """The baselines' matches by name, on grids of h x w positions.

    Args:
      batch: the pairs.
      h: rows of both grids.
      w: columns.
      weights: of the VGG whose features are compared; None leaves that baseline out.

    Returns:
      `same_position`; `colour`, nearest mean RGB; and such as `VGG-16_relu4_2`, highest cosine of
      that layer, brought to h x w bilinearly.
    """
    truth, exemplar = (unit_image(jnp.asarray(x)) for x in (batch.image, batch.exemplar))
    found = {
        "same_position": same_position(len(truth), h, w),
        "colour": by_colour(truth, exemplar, h),
    }
    if weights is not None:
        rows, columns = (
            unit_length(bilinear(vgg.features(weights, x, (VGG_LAYER,))[VGG_LAYER], h, w))
            for x in (truth, exemplar)
        )
        found[f"{weights.network}_{VGG_LAYER}"] = match_both_ways(rows, columns, _TEMPERATURE)
    return found


def same_position(b: int, h: int, w: int) -> Match:
    """Every position at its own place."""
    place = jnp.broadcast_to(jnp.arange(h * w).reshape(h, w), (b, h, w))
    grid = np.stack(np.meshgrid(np.arange(h), np.arange(w), indexing="ij"), -1)
    mean_place = jnp.broadcast_to(jnp.asarray(grid, jnp.float32), (b, h, w, 2))
    nothing = jnp.zeros((b, h, w))
    return Match(place, place, nothing, mean_place, nothing)


def by_colour(
    truth: Float[Array, "b height width 3"], exemplar: Float[Array, "b height width 3"], h: int
) -> Match:
    """The nearest mean RGB of the pixels of a position; the score is minus the squared distance."""
    a, b = (average_pool(x, x.shape[1] // h) for x in (truth, exemplar))
    one = jnp.ones_like(a[..., :1])
    rows = jnp.concatenate([2 * a, -jnp.sum(a**2, -1, keepdims=True), one], -1)
    columns = jnp.concatenate([b, one, -jnp.sum(b**2, -1, keepdims=True)], -1)
    return match_both_ways(rows, columns, _TEMPERATURE)
