"""SPADE's positional norm, modulation, leaky ReLU and reflection padding in one pass, for TPUs.

Forward, Pallas kernels read x, gamma and beta once and write what the next convolution reads;
backward, they read these and the gradient once, and write all gradients. XLA reads x for the
statistics and again for the values. `plain` is the same in plain JAX, for other devices.

XLA cannot split a kernel over devices. Where devices split the samples, each runs the kernels on
its own ones.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh
from jaxtyping import Array, Float

from cocosnet_jax.nn.activation import leaky_relu
from cocosnet_jax.nn.kernels import PICTURES, on_each, together
from cocosnet_jax.nn.modulation_kernels import Modulation, Modulations, Padded, backward, forward
from cocosnet_jax.nn.norms import positional_norm
from cocosnet_jax.nn.padding import reflect_pad
from cocosnet_jax.nn.platform import by_platform
from cocosnet_jax.nn.positions import spread
from cocosnet_jax.nn.remat import PRODUCT
from cocosnet_jax.nn.resize import upsample

# Numbers of one row of x that a kernel can hold, with some twenty arrays of that size.
_LARGEST_ROW = 2**19


def plain(
    x: Float[Array, "b height width c"],
    bias: Float[Array, "1 c"] | None,
    modulations: Modulations,
    padded: Padded,
) -> tuple[Float[Array, "b ..."], ...]:
    """`modulate` in plain JAX."""
    if bias is not None:
        x = x + spread(bias, x.shape).astype(x.dtype)
    if x.shape[1] < modulations[0].joined.shape[1]:
        x = upsample(x)
    normed, found = positional_norm(x), []
    for (joined, both), pad in zip(modulations, padded, strict=True):
        gamma, beta = (
            part + spread(own, part.shape).astype(part.dtype)
            for part, own in zip(jnp.split(joined, 2, -1), jnp.split(both, 2, -1), strict=True)
        )
        y = normed * (1 + gamma) + beta
        found.append(reflect_pad(leaky_relu(y)) if pad else y)
    return tuple(found)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _modulate(
    x: Array,
    bias: Array | None,
    modulations: Modulations,
    padded: Padded,
    with_x: bool,
    interpret: bool,
) -> tuple[Array, ...]:
    """The kernels on TPUs, or interpreted; `plain` on other devices."""
    kernel = functools.partial(forward, padded=padded, interpret=interpret)
    if interpret:
        found = kernel(x, bias, modulations)
    else:
        other = functools.partial(plain, padded=padded)
        found = by_platform(x, bias, modulations, tpu=kernel, default=other)
    return (*found, x) if with_x else found


def _modulate_forward(
    x: Array,
    bias: Array | None,
    modulations: Modulations,
    padded: Padded,
    with_x: bool,
    interpret: bool,
) -> tuple[Any, Any]:
    # Named for the backward pass alone, see `convolution.convolve`.
    kept = checkpoint_name(x, PRODUCT), bias, modulations
    return _modulate(x, bias, modulations, padded, with_x, interpret), kept


def _modulate_backward(
    padded: Padded, with_x: bool, interpret: bool, kept: Any, grads: tuple[Array, ...]
) -> Any:
    kernel = functools.partial(backward, padded=padded, interpret=interpret)
    x, bias, modulations = kept
    grads, through = (grads[:-1], grads[-1]) if with_x else (grads, None)
    if interpret:
        return kernel(x, bias, modulations, grads, through)

    def other(
        x: Array, bias: Array | None, modulations: Modulations, grads: Any, through: Array | None
    ) -> Any:
        pull = jax.vjp(functools.partial(plain, padded=padded), x, bias, modulations)[1]
        to_x, *others = pull(grads)
        return to_x if through is None else to_x + through, *others

    arguments = (x, bias, modulations, grads, through)
    return by_platform(*arguments, tpu=kernel, default=other)


_modulate.defvjp(_modulate_forward, _modulate_backward)


def fits(x: Float[Array, "b h w c"] | jax.ShapeDtypeStruct, samples: Mesh | None) -> bool:
    """Whether the kernels can run for x, and a step moves fewer bytes with them.

    Args:
      x: the activations.
      samples: devices that split the batch, or None.
    """
    b, h, w, c = x.shape
    pictures, rest = divmod(b, 1 if samples is None else samples.size)
    return (
        rest == 0
        and together(pictures) > 0
        and min(h, w) >= 4
        # Below, kernels of gamma and beta are larger than the maps, and cost more to join.
        and pictures * h * w >= 18 * c
        and w * max(pictures, PICTURES) * max(c, 128) <= _LARGEST_ROW
        and x.dtype in (jnp.float32, jnp.bfloat16)
    )


def modulate(
    x: Float[Array, "b height width c"],
    modulations: Modulations,
    padded: Padded,
    *,
    bias: Float[Array, "c"] | None = None,
    with_x: bool = False,
    samples: Mesh | None = None,
    interpret: bool = False,
) -> tuple[Float[Array, "b ..."], ...]:
    """The positional norm of x, modulated by each of several SPADE layers that read it.

    Args:
      x: the activations, of a size that `fits`; or of half the size of gamma and beta, if twice its
        size `fits`: it is then upsampled to the nearest.
      modulations: of the layers.
      padded: whether a layer's result goes through leaky ReLU and one pixel of reflection padding,
        as before a 3 x 3 convolution.
      bias: is added to x first, or None. Not for an x of half the size, and not `with_x`.
      with_x: whether to return x, too, for whatever else reads it. The backward pass then adds that
        gradient to x's own while it writes it.
      samples: devices, on one axis, that split the batch, or None.
      interpret: run the kernels as plain JAX, on any device, for tests.
    """
    row = None if bias is None else bias[None]
    assert row is None or not (with_x or x.shape[1] < modulations[0].joined.shape[1])

    def run(x: Array, row: Array | None, modulations: Modulations) -> tuple[Array, ...]:
        return _modulate(x, row, modulations, padded, with_x, interpret)

    def of_each(bias: Array) -> Array:
        """A bias of each device's own, so that XLA adds up their gradients with all others."""
        return jnp.broadcast_to(bias, (1 if samples is None else samples.size, bias.shape[-1]))

    row = None if row is None else of_each(row)
    modulations = tuple(Modulation(joined, of_each(both)) for joined, both in modulations)
    return on_each(run, samples)(x, row, modulations)
