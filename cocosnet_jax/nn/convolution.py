"""Convolution of a map with a kernel: how it is computed on each device, and its gradients."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from cocosnet_jax.nn import winograd
from cocosnet_jax.nn.padding import reflect_pad
from cocosnet_jax.nn.remat import PRODUCT

# Pixels of zeros on every side, or one reflected pixel.
Padding = int | Literal["reflect"]


def convolve(
    x: Float[Array, "b height width cin"],
    kernel: Float[Array, "kh kw cin cout"],
    stride: int = 1,
    padding: Padding = 0,
    *,
    keep: bool = False,
) -> Float[Array, "b h w cout"]:
    """Cross-correlation of a map, which is padded on every side.

    The backward pass pads x again, so that no padded copy is held. With `keep`, rematerialisation
    of elementwise operations keeps x instead of computing it again; for an x that a kernel wrote.

    In float64, patches are multiplied by the kernel as a matrix: on CPUs, where the parity tests
    run, XLA has no fast float64 convolution. On CPUs, 3 x 3 kernels of many channels are convolved
    with fewer multiplications (`nn.winograd`), and so is the gradient of x.
    """
    if x.dtype == jnp.float64:
        return _convolve_patches(_pad(x, padding), kernel, stride)
    return _convolve(x, kernel, stride, padding, keep)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _convolve(
    x: Float[Array, "b height width cin"],
    kernel: Float[Array, "kh kw cin cout"],
    stride: int,
    padding: Padding,
    keep: bool,
) -> Float[Array, "b h w cout"]:
    del keep  # The backward pass's alone.

    def plain(x: Array, kernel: Array) -> Array:
        return _plainly(x, kernel, stride, padding)

    def by_tiles(x: Array, kernel: Array) -> Array:
        return winograd.convolve(_pad(x, padding), kernel)

    if stride == 1 and winograd.pays(x, kernel):
        return jax.lax.platform_dependent(x, kernel, cpu=by_tiles, default=plain)
    return plain(x, kernel)


def _pad(x: Array, padding: Padding) -> Float[Array, "b height width cin"]:
    if padding == "reflect":
        return reflect_pad(x)
    return jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))


def _plainly(x: Array, kernel: Array, stride: int, padding: Padding) -> Float[Array, "b h w cout"]:
    if padding == "reflect":
        x, padding = reflect_pad(x), 0
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _convolve_forward(
    x: Array, kernel: Array, stride: int, padding: Padding, keep: bool
) -> tuple[Array, tuple[Array, Array]]:
    y = _convolve(x, kernel, stride, padding, keep)
    # Named here, for the backward pass alone. On what is kept and read in the forward pass, too,
    # JAX calls `reduce_precision`, and XLA writes the same numbers to memory again.
    return y, (checkpoint_name(x, PRODUCT) if keep else x, kernel)


def _convolve_backward(
    stride: int, padding: Padding, keep: bool, residuals: tuple[Array, Array], grad: Array
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
        to_padded = _convolve(grad, turned, 1, around, keep=False)
        if padding == "reflect":
            [to_padded] = jax.vjp(reflect_pad, x)[1](to_padded)
        return to_padded, to_kernel

    return jax.lax.platform_dependent(*residuals, grad, cpu=late, default=plain)


_convolve.defvjp(_convolve_forward, _convolve_backward)


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
