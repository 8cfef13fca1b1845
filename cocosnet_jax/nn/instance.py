"""Instance norm, what skips it, PReLU and reflection padding in one pass, for TPUs.

Forward, a Pallas kernel reads a map once and writes what the next convolution reads; backward,
another reads the map and the gradient once. XLA reads the map for the variance, and again for the
values. `plain` is the same in plain JAX, for other devices.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh
from jaxtyping import Array, Float

from cocosnet_jax.nn.instance_kernels import MOST, WIDEST, backward, forward, held
from cocosnet_jax.nn.kernels import on_each, together
from cocosnet_jax.nn.norms import instance_norm
from cocosnet_jax.nn.padding import reflect_pad
from cocosnet_jax.nn.platform import by_platform
from cocosnet_jax.nn.remat import PRODUCT


def plain(
    x: Float[Array, "b h w c"],
    slope: Float[Array, "1 1"],
    skip: Float[Array, "b h w c"] | None,
    padded: bool,
) -> Float[Array, "b _ _ c"]:
    """`activate` in plain JAX."""
    y = instance_norm(x)
    if skip is not None:
        y = skip + y
    y = jnp.where(y >= 0, y, slope[0, 0].astype(y.dtype) * y)
    return reflect_pad(y) if padded else y


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _activate(
    x: Array, slope: Array, skip: Array | None, padded: bool, interpret: bool
) -> Float[Array, "b _ _ c"]:
    """The kernel on TPUs, or interpreted; `plain` on other devices."""
    kernel = functools.partial(forward, padded=padded, interpret=interpret)
    if interpret:
        return kernel(x, slope, skip)
    other = functools.partial(plain, padded=padded)
    return by_platform(x, slope, skip, tpu=kernel, default=other)


def _activate_forward(
    x: Array, slope: Array, skip: Array | None, padded: bool, interpret: bool
) -> tuple[Array, Any]:
    # Named for the backward pass alone, see `convolution.convolve`.
    x_kept, skip_kept = jax.tree.map(lambda y: checkpoint_name(y, PRODUCT), (x, skip))
    return _activate(x, slope, skip, padded, interpret), (x_kept, slope, skip_kept)


def _activate_backward(padded: bool, interpret: bool, kept: Any, grad: Array) -> Any:
    kernel = functools.partial(backward, padded=padded, interpret=interpret)
    x, slope, skip = kept
    if interpret:
        return kernel(x, slope, skip, grad)

    def other(x: Array, slope: Array, skip: Array | None, grad: Array) -> Any:
        return jax.vjp(functools.partial(plain, padded=padded), x, slope, skip)[1](grad)

    return by_platform(x, slope, skip, grad, tpu=kernel, default=other)


_activate.defvjp(_activate_forward, _activate_backward)


def fits(x: Float[Array, "b h w c"], samples: Mesh | None) -> bool:
    """Whether the kernels can run for x.

    They run for 2, 4 or a multiple of 8 pictures per device, of at least 4 x 4 positions, if the
    maps of 128 channels fit on the chip.

    Args:
      x: the activations, of the type that the kernels will read.
      samples: devices that split the batch, or None.
    """
    b, h, w, _ = x.shape
    pictures, rest = divmod(b, 1 if samples is None else samples.size)
    return (
        rest == 0
        and together(pictures) > 0
        and min(h, w) >= 4
        and x.dtype in (jnp.float32, jnp.bfloat16)
        and held(x, pictures) <= MOST
        and w <= WIDEST
    )


def activate(
    x: Float[Array, "b h w c"],
    slope: Float[Array, ""],
    skip: Float[Array, "b h w c"] | None = None,
    *,
    padded: bool,
    samples: Mesh | None = None,
    interpret: bool = False,
) -> Float[Array, "b _ _ c"]:
    """PReLU of x's instance norm, plus what skips the norm.

    Args:
      x: the activations, of a size that `fits`.
      slope: of PReLU.
      skip: what is added to the norm, or None.
      padded: whether to pad the result by one pixel of reflection, for a 3 x 3 convolution.
      samples: devices, on one axis, that split the batch, or None.
      interpret: run the kernels as plain JAX, on any device, for tests.
    """

    def run(x: Array, slope: Array, skip: Array | None) -> Array:
        return _activate(x, slope, skip, padded, interpret)

    # Each device gets a slope of its own, so that XLA adds up their gradients with all others.
    slopes = jnp.broadcast_to(slope, (1 if samples is None else samples.size, 1))
    return on_each(run, samples)(x, slopes, skip)
