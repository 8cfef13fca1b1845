"""Convolution of a map with a kernel: how it is computed on each device, and its gradients."""

import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from cocosnet_jax.nn import winograd
from cocosnet_jax.nn.padding import fold_edges, reflect_pad
from cocosnet_jax.nn.platform import by_platform
from cocosnet_jax.nn.remat import PRODUCT

# Numbers of a picture's gradient; eight pictures take a TPU a few microseconds to read and write.
_LARGE = 2**17

# Pixels of zeros on every side, or one reflected pixel.
Padding = int | Literal["reflect"]


def convolve(
    x: Float[Array, "b height width cin"],
    kernel: Float[Array, "kh kw cin cout"],
    stride: int = 1,
    padding: Padding = 0,
    *,
    keep: bool = False,
    in_parts: bool = False,
) -> Float[Array, "b h w cout"]:
    """Cross-correlation of a map, which is padded on every side.

    The backward pass pads x again, so that no padded copy is held. With `keep`, rematerialisation
    of elementwise operations keeps x instead of computing it again; for an x that a kernel wrote.
    `in_parts` says that the caller takes the channels of the result apart, so that their gradients
    come in parts.

    In float64, patches are multiplied by the kernel as a matrix: on CPUs, where the parity tests
    run, XLA has no fast float64 convolution. On CPUs, 3 x 3 kernels of many channels are convolved
    with fewer multiplications (`nn.winograd`), and so is the gradient of x.
    """
    if x.dtype == jnp.float64:
        return _convolve_patches(_pad(x, padding), kernel, stride)
    return _convolve(x, kernel, stride, padding, keep, in_parts)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _convolve(
    x: Float[Array, "b height width cin"],
    kernel: Float[Array, "kh kw cin cout"],
    stride: int,
    padding: Padding,
    keep: bool,
    in_parts: bool,
) -> Float[Array, "b h w cout"]:
    del keep, in_parts  # The backward pass's alone.

    def plain(x: Array, kernel: Array) -> Array:
        return _plainly(x, kernel, stride, padding)

    def by_tiles(x: Array, kernel: Array) -> Array:
        return winograd.convolve(_pad(x, padding), kernel)

    if stride == 1 and winograd.pays(x, kernel):
        return by_platform(x, kernel, cpu=by_tiles, default=plain)
    return plain(x, kernel)


def _pad(x: Array, padding: Padding) -> Float[Array, "b height width cin"]:
    if padding == "reflect":
        return reflect_pad(x)
    return jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))


def _plainly(x: Array, kernel: Array, stride: int, padding: Padding) -> Float[Array, "b h w cout"]:
    if padding == "reflect":
        x, padding = reflect_pad(x), 0
    return _product(x, kernel, stride, (padding, padding))


def _product(
    x: Array, kernel: Array, stride: int, zeros: tuple[int, int]
) -> Float[Array, "b h w cout"]:
    """Convolves x, with this many zeros above and below, and left and right."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(n, n) for n in zeros],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _convolve_forward(
    x: Array, kernel: Array, stride: int, padding: Padding, keep: bool, in_parts: bool
) -> tuple[Array, tuple[Array, Array]]:
    y = _convolve(x, kernel, stride, padding, keep, in_parts)
    # Named here, for the backward pass alone. On what is kept and read in the forward pass, too,
    # JAX calls `reduce_precision`, and XLA writes the same numbers to memory again.
    return y, (checkpoint_name(x, PRODUCT) if keep else x, kernel)


def _convolve_backward(
    stride: int,
    padding: Padding,
    keep: bool,
    in_parts: bool,
    residuals: tuple[Array, Array],
    grad: Array,
) -> tuple[Array, Array]:
    del keep

    def plain(x: Array, kernel: Array, grad: Array) -> tuple[Array, Array]:
        return jax.vjp(lambda x, k: _plainly(x, k, stride, padding), x, kernel)[1](grad)

    def late(x: Array, kernel: Array, grad: Array) -> tuple[Array, Array]:
        # On CPUs, XLA transposes x and the kernel for the gradients. Without the barrier it might
        # do so before the backward pass, and hold the results.
        x, kernel, grad = jax.lax.optimization_barrier((x, kernel, grad))
        zeros = 0 if padding == "reflect" else padding
        around = kernel.shape[0] - 1 - zeros
        turned = kernel[::-1, ::-1].swapaxes(2, 3)
        if stride > 1 or around < 0 or not winograd.pays(grad, turned):
            return plain(x, kernel, grad)
        [to_kernel] = jax.vjp(lambda kernel: _plainly(x, kernel, 1, padding), kernel)[1](grad)
        # One gradient after the other: each pads or transposes a copy of `grad`.
        grad, to_kernel = jax.lax.optimization_barrier((grad, to_kernel))
        to_padded = _convolve(grad, turned, 1, around, False, False)
        if padding == "reflect":
            [to_padded] = jax.vjp(reflect_pad, x)[1](to_padded)
        return to_padded, to_kernel

    def by_edges(x: Array, kernel: Array, grad: Array) -> tuple[Array, Array]:
        [to_kernel] = jax.vjp(lambda kernel: _plainly(x, kernel, 1, padding), kernel)[1](grad)
        return _to_reflected(x.shape, kernel, grad), to_kernel

    # For a smaller gradient of x, the edges' convolutions, which read the kernel, cost more than
    # they save. The size of one picture decides: on many devices, the batch is that of all.
    x, kernel = residuals
    large = math.prod(x.shape[1:]) >= max(kernel.size // 2, _LARGE)
    # For the edges of a gradient that comes in parts, XLA would join the parts in memory.
    pays = padding == "reflect" and stride == 1 and not in_parts and large
    on_tpus = {"tpu": by_edges} if pays else {}
    return by_platform(x, kernel, grad, cpu=late, default=plain, **on_tpus)


_convolve.defvjp(_convolve_forward, _convolve_backward)


def _to_reflected(
    shape: tuple[int, ...], kernel: Float[Array, "k k cin cout"], grad: Float[Array, "b h w cout"]
) -> Float[Array, "b height width cin"]:
    """Gradient of x, padded by reflection, of this shape, without that of the padded x.

    XLA adds the gradients of the padding's rows and columns, which are convolutions of their own,
    while it writes the gradient of x, with what else is computed from it.
    """
    b, h, w, channels = shape

    def gradient(
        size: tuple[int, int], kernel: Array, zeros: tuple[int, int], grad: Array
    ) -> Float[Array, "b ..."]:
        x = jax.ShapeDtypeStruct((b, *size, channels), grad.dtype)
        return jax.linear_transpose(lambda x: _product(x, kernel, 1, zeros), x)(grad)[0]

    # Without the barrier, each of these convolutions would read all of `grad`.
    left, right, top, bottom = jax.lax.optimization_barrier(
        (grad[:, :, :1], grad[:, :, -1:], grad[:, :1], grad[:, -1:])
    )
    return fold_edges(
        # Padded by zeros instead, x has the same gradient, but for what the edges add.
        gradient((h, w), kernel, (1, 1), grad),
        columns=[
            gradient((h, 1), kernel[:, :1], (1, 0), left),
            gradient((h, 1), kernel[:, -1:], (1, 0), right),
        ],
        rows=[
            gradient((1, w + 2), kernel[:1], (0, 0), top),
            gradient((1, w + 2), kernel[-1:], (0, 0), bottom),
        ],
    )


# Patches are several times as large as the image, so the backward pass recomputes them.
@functools.partial(jax.checkpoint, static_argnums=2)
def _convolve_patches(
    x: Float[Array, "b height width cin"], kernel: Float[Array, "kh kw cin cout"], stride: int
) -> Float[Array, "b h w cout"]:
    kh, kw = kernel.shape[:2]
    h = (x.shape[1] - kh) // stride + 1
    w = (x.shape[2] - kw) // stride + 1
    patches = [
        x[:, i : i + stride * (h - 1) + 1 : stride, j : j + stride * (w - 1) + 1 : stride]
        for i in range(kh)
        for j in range(kw)
    ]
    return jnp.concatenate(patches, -1) @ kernel.reshape(-1, kernel.shape[-1])
