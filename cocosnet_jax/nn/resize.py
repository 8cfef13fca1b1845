"""Resizing, pooling and patches of maps, NHWC."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from cocosnet_jax.nn.platform import by_platform


def nearest(x: Shaped[Array, "b height width *c"], height: int, width: int) -> Shaped[Array, "..."]:
    """Nearest resize: output i takes index floor(i * in / out), as in PyTorch (SPEC, symbols)."""
    for axis, size in ((1, height), (2, width)):
        old = x.shape[axis]
        if size == old:
            continue
        if size % old == 0:
            x = jnp.repeat(x, size // old, axis)
        elif old % size == 0:
            step = old // size
            x = x[:, ::step] if axis == 1 else x[:, :, ::step]
        else:
            x = jnp.take(x, np.arange(size) * old // size, axis)
    return x


def upsample(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Nearest resize to twice the size; rows and columns at once, so that TPUs write one array."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)


def bilinear(
    x: Float[Array, "b height width c"], height: int, width: int
) -> Float[Array, "b new_height new_width c"]:
    """Bilinear resize with half-pixel centres and no antialiasing."""
    shape = (x.shape[0], height, width, x.shape[-1])
    return jax.image.resize(x, shape, "bilinear", antialias=False)


def resize(
    x: Float[Array, "b height width c"],
    height: int,
    width: int,
    method: Literal["nearest", "bilinear"],
) -> Float[Array, "b new_height new_width c"]:
    """Resizes by the method of this name."""
    return (nearest if method == "nearest" else bilinear)(x, height, width)


def average_pool(x: Float[Array, "b height width c"], side: int) -> Float[Array, "b h w c"]:
    """Averages side x side blocks."""
    return nn.avg_pool(x, (side, side), (side, side))


@jax.custom_vjp
def max_pool(x: Float[Array, "b height width c"]) -> Float[Array, "b h w c"]:
    """The maxima of 2 x 2 blocks; an odd last row or column is left out.

    XLA's own gradient is a scatter on CPUs, which is slow to compile and to run. On TPUs it reads
    and writes less than ours.
    """
    return nn.max_pool(x, (2, 2), (2, 2))


def _max_pool_forward(x: Array) -> tuple[Array, tuple[Array, Array]]:
    highest = max_pool(x)
    return highest, (x, highest)


def _max_pool_backward(residuals: tuple[Array, Array], grad: Array) -> tuple[Array]:
    x, highest = residuals
    by_place, by_xla = _max_pool_backward_by_place, _max_pool_backward_by_xla
    return (by_platform(x, highest, grad, tpu=by_xla, default=by_place),)


def _max_pool_backward_by_xla(x: Array, highest: Array, grad: Array) -> Array:
    del highest
    return jax.vjp(lambda x: nn.max_pool(x, (2, 2), (2, 2)), x)[1](grad)[0]


def _max_pool_backward_by_place(x: Array, highest: Array, grad: Array) -> Array:
    b, h, w, c = highest.shape
    blocks = x[:, : 2 * h, : 2 * w].reshape(b, h, 2, w, 2, c)
    # The first of a block's highest pixels gets the gradient.
    first = jnp.full(highest.shape, 3)
    for place in (2, 1, 0):
        first = jnp.where(blocks[:, :, place // 2, :, place % 2] == highest, place, first)
    places = jnp.arange(4).reshape(2, 1, 2, 1)
    chosen = first[:, :, None, :, None] == places
    to_x = jnp.where(chosen, grad[:, :, None, :, None], 0).reshape(b, 2 * h, 2 * w, c)
    odd = ((0, 0), (0, x.shape[1] - 2 * h), (0, x.shape[2] - 2 * w), (0, 0))
    return jnp.pad(to_x, odd)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def to_patches(x: Float[Array, "b height width c"], side: int) -> Float[Array, "b h w k"]:
    """Flattens each side x side patch to a vector of side * side * c numbers."""
    b, height, width, c = x.shape
    x = x.reshape(b, height // side, side, width // side, side, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, height // side, width // side, -1)


def from_patches(x: Float[Array, "b h w k"], side: int) -> Float[Array, "b height width c"]:
    """The inverse of `to_patches`."""
    b, h, w, k = x.shape
    x = x.reshape(b, h, w, side, side, k // (side * side))
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h * side, w * side, -1)
