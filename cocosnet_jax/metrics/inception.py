"""The Inception network of FID, up to its 2048 pool3 features (SPEC section 11).

It is the network that TensorFlow published on 2015-12-05, as pytorch-fid runs its weights: average
pools leave out the padding, and the last block pools by maximum. Inference only: batch norm is
folded into the convolutions when the weights are read (`pretrained.inception`).
"""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cocosnet_jax.nn.convolution import convolve
from cocosnet_jax.nn.resize import bilinear

# Every picture is resized to this side.
SIDE = 299
WIDTH = 2048

# `Mixed_5b.branch1x1` ... -> {"kernel": (kh, kw, in, out), "bias": (out,)}
Params = Mapping[str, Mapping[str, Float[Array, "..."]]]
_Map = Float[Array, "b _ _ _"]


def pool3(params: Params, image: Float[Array, "b height width 3"]) -> Float[Array, "b 2048"]:
    """Features of pictures, RGB in [-1, 1] and of any size; the arithmetic follows their type."""
    x = bilinear(image, SIDE, SIDE)
    x = _layer(params, "Conv2d_1a_3x3", x, stride=2, pad=False)
    x = _layer(params, "Conv2d_2a_3x3", x, pad=False)
    x = _layer(params, "Conv2d_2b_3x3", x)
    x = _halve(x)
    x = _layer(params, "Conv2d_3b_1x1", x)
    x = _layer(params, "Conv2d_4a_3x3", x, pad=False)
    x = _halve(x)
    for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        x = _block_5x5(params, name, x)
    x = _reduction_6a(params, "Mixed_6a", x)
    for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        x = _block_7x7(params, name, x)
    x = _reduction_7a(params, "Mixed_7a", x)
    x = _block_split(params, "Mixed_7b", x, _average(x))
    x = _block_split(params, "Mixed_7c", x, nn.max_pool(x, (3, 3), (1, 1), "SAME"))
    return jnp.mean(x, (1, 2))


def _layer(params: Params, name: str, x: _Map, stride: int = 1, pad: bool = True) -> _Map:
    """relu(convolution + bias); with `pad` a stride of 1 keeps the size."""
    kernel, bias = (params[name][leaf].astype(x.dtype) for leaf in ("kernel", "bias"))
    if pad:
        x = jnp.pad(x, ((0, 0), *((side // 2, side // 2) for side in kernel.shape[:2]), (0, 0)))
    return nn.relu(convolve(x, kernel, stride) + bias)


def _chain(params: Params, block: str, x: _Map, *names: str) -> _Map:
    for name in names:
        x = _layer(params, f"{block}.{name}", x)
    return x


def _halve(x: _Map) -> _Map:
    return nn.max_pool(x, (3, 3), (2, 2))


def _average(x: _Map) -> _Map:
    """3 x 3 means that leave out what lies outside of the map."""
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def _block_5x5(params: Params, block: str, x: _Map) -> _Map:
    branches = [
        _chain(params, block, x, "branch1x1"),
        _chain(params, block, x, "branch5x5_1", "branch5x5_2"),
        _chain(params, block, x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
        _chain(params, block, _average(x), "branch_pool"),
    ]
    return jnp.concatenate(branches, -1)


def _reduction_6a(params: Params, block: str, x: _Map) -> _Map:
    double = _chain(params, block, x, "branch3x3dbl_1", "branch3x3dbl_2")
    branches = [
        _layer(params, f"{block}.branch3x3", x, stride=2, pad=False),
        _layer(params, f"{block}.branch3x3dbl_3", double, stride=2, pad=False),
        _halve(x),
    ]
    return jnp.concatenate(branches, -1)


def _block_7x7(params: Params, block: str, x: _Map) -> _Map:
    branches = [
        _chain(params, block, x, "branch1x1"),
        _chain(params, block, x, *(f"branch7x7_{i}" for i in (1, 2, 3))),
        _chain(params, block, x, *(f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5))),
        _chain(params, block, _average(x), "branch_pool"),
    ]
    return jnp.concatenate(branches, -1)


def _reduction_7a(params: Params, block: str, x: _Map) -> _Map:
    one = _chain(params, block, x, "branch3x3_1")
    other = _chain(params, block, x, *(f"branch7x7x3_{i}" for i in (1, 2, 3)))
    branches = [
        _layer(params, f"{block}.branch3x3_2", one, stride=2, pad=False),
        _layer(params, f"{block}.branch7x7x3_4", other, stride=2, pad=False),
        _halve(x),
    ]
    return jnp.concatenate(branches, -1)


def _block_split(params: Params, block: str, x: _Map, pooled: _Map) -> _Map:
    """The last two blocks, whose branches end in a row and a column beside each other."""
    one = _chain(params, block, x, "branch3x3_1")
    double = _chain(params, block, x, "branch3x3dbl_1", "branch3x3dbl_2")
    branches = [
        _chain(params, block, x, "branch1x1"),
        _chain(params, block, one, "branch3x3_2a"),
        _chain(params, block, one, "branch3x3_2b"),
        _chain(params, block, double, "branch3x3dbl_3a"),
        _chain(params, block, double, "branch3x3dbl_3b"),
        _chain(params, block, pooled, "branch_pool"),
    ]
    return jnp.concatenate(branches, -1)
