"""Resizing, pooling and patches of maps, NHWC."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped


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
