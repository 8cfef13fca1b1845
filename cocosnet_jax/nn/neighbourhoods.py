"""Neighbourhoods of positions in a grid, which represent a position in the correlation."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from cocosnet_jax.nn.norms import FLOAT64_EPS


def neighbourhoods(x: Float[Array, "b h w k"], side: int) -> Float[Array, "b h w k_side"]:
    """Concatenates the vectors of each position's side x side neighbourhood, with zero padding."""
    if side == 1:
        return x
    reach = side // 2
    h, w = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    shifts = [padded[:, i : i + h, j : j + w] for i in range(side) for j in range(side)]
    return jnp.concatenate(shifts, -1)


class Centred(NamedTuple):
    """What centring over channels and scaling to length 1 need of each neighbourhood.

    Attributes:
      own: mean over channels of each position.
      means: the same of each position of a neighbourhood.
      scale: 1 / length of the centred neighbourhood.
    """

    own: Float[Array, "b h w 1"]
    means: Float[Array, "b h w side_side"]
    scale: Float[Array, "b h w 1"]


def centre(x: Float[Array, "b h w k"], side: int) -> Centred:
    """Measures the neighbourhoods of x, float32 or wider, without making them.

    The squared length is a sum of squares, so nothing is lost by cancellation: of the deviations
    within each position, and of the positions' means from the mean of the neighbourhood.

    Raises:
      ValueError: the side is even, so that neighbourhoods have no centre.
    """
    if side % 2 == 0:
        raise ValueError(f"the side of a neighbourhood must be odd, not {side}")
    k = x.shape[-1]
    own = x.mean(-1, keepdims=True)
    means = neighbourhoods(own, side)
    within = neighbourhoods(jnp.sum(jnp.square(x - own), -1, keepdims=True), side)
    between = jnp.square(means - means.mean(-1, keepdims=True))
    square = jnp.sum(within + k * between, -1, keepdims=True)
    # In a constant neighbourhood, only rounding errors remain: they are not scaled to length 1.
    rounding = 4 * jnp.finfo(x.dtype).eps * jnp.abs(means).max(-1, keepdims=True)
    contrast = square > k * side**2 * jnp.square(rounding)
    length = jnp.sqrt(jnp.where(contrast, square, 1)) + FLOAT64_EPS
    return Centred(own, means, jnp.where(contrast, 1 / length, 1))
