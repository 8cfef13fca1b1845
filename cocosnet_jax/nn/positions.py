"""Means over the positions of a map, and their transpose, one axis after the other.

On CPUs, XLA sums over one axis and then the other in a fraction of the time of a sum over both. It
merges two successive sums into one, but not two means (`python -m benchmarks.layers`).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def mean_over_positions(x: Float[Array, "b h w c"]) -> Float[Array, "b 1 1 c"]:
    """Mean of each channel of each sample over height and width."""
    return x.mean(2, keepdims=True).mean(1, keepdims=True)


def spread(x: Float[Array, "..."], shape: tuple[int, ...]) -> Float[Array, "b h w c"]:
    """Broadcasts `x` to all positions of a map; the gradient sums over the positions.

    Differentiable in reverse mode only.

    Args:
      x: broadcasts to (b, 1, 1, c).
      shape: (b, h, w, c).
    """
    b, h, w, c = shape
    # The gradient sums over positions before samples: if samples are sharded, devices exchange
    # (b, c) numbers instead of whole maps.
    return _spread(jnp.broadcast_to(x, (b, 1, 1, c)), h, w)


def _to_positions(x: Array, h: int, w: int) -> Array:
    return jnp.broadcast_to(x, (x.shape[0], h, w, x.shape[3]))


def _forward(x: Array, h: int, w: int) -> tuple[Array, None]:
    return _to_positions(x, h, w), None


def _backward(h: int, w: int, _: None, grad: Array) -> tuple[Array]:
    return (mean_over_positions(grad) * (h * w),)


_spread = jax.custom_vjp(_to_positions, nondiff_argnums=(1, 2))
_spread.defvjp(_forward, _backward)
