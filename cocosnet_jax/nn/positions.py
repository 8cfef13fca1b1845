"""Means over a map's positions, and their transpose, one axis after the other.

On CPUs, XLA's sum over height and width at once takes several times as long. Two sums in a row it
would make into that one; two means it leaves as they are (`python -m benchmarks.layers`).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def mean_over_positions(x: Float[Array, "b h w c"]) -> Float[Array, "b 1 1 c"]:
    """The mean of each channel of each sample."""
    return x.mean(2, keepdims=True).mean(1, keepdims=True)


def spread(x: Float[Array, "..."], shape: tuple[int, ...]) -> Float[Array, "b h w c"]:
    """`x`, the same at all positions of a map; its gradient is a sum over them.

    Differentiable in reverse mode only.

    Args:
      x: what broadcasts to (b, 1, 1, c).
      shape: (b, h, w, c).
    """
    b, h, w, c = shape
    # Samples come last in the gradient's sum: where they lie on several devices, (b, c) numbers are
    # what is added up between these, not whole maps.
    return _spread(jnp.broadcast_to(x, (b, 1, 1, c)), h, w)


def _to_positions(x: Array, h: int, w: int) -> Array:
    return jnp.broadcast_to(x, (x.shape[0], h, w, x.shape[3]))


def _forward(x: Array, h: int, w: int) -> tuple[Array, None]:
    return _to_positions(x, h, w), None


def _backward(h: int, w: int, _: None, grad: Array) -> tuple[Array]:
    return (mean_over_positions(grad) * (h * w),)


_spread = jax.custom_vjp(_to_positions, nondiff_argnums=(1, 2))
_spread.defvjp(_forward, _backward)
