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
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

from cocosnet_jax.nn.activation import leaky_relu
from cocosnet_jax.nn.modulation_kernels import (
    PICTURES,
    Modulation,
    Modulations,
    Padded,
    backward,
    forward,
    together,
)
from cocosnet_jax.nn.norms import positional_norm
from cocosnet_jax.nn.padding import reflect_pad
from cocosnet_jax.nn.positions import spread
from cocosnet_jax.nn.remat import PRODUCT

# Numbers of one row of x that a kernel can hold, with some twenty arrays of that size.
_LARGEST_ROW = 2**19


def plain(
    x: Float[Array, "b h w c"], modulations: Modulations, padded: Padded
) -> tuple[Float[Array, "b ..."], ...]:
    """`modulate` in plain JAX."""
    normed, found = positional_norm(x), []
    for (joined, bias), pad in zip(modulations, padded, strict=True):
        gamma, beta = (
            part + spread(own, part.shape).astype(part.dtype)
            for part, own in zip(jnp.split(joined, 2, -1), jnp.split(bias, 2, -1), strict=True)
        )
        y = normed * (1 + gamma) + beta
        found.append(reflect_pad(leaky_relu(y)) if pad else y)
    return tuple(found)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _modulate(
    x: Array, modulations: Modulations, padded: Padded, with_x: bool, interpret: bool
) -> tuple[Array, ...]:
    """The kernels on TPUs, or interpreted; `plain` on other devices."""
    kernel = functools.partial(forward, padded=padded, interpret=interpret)
    if interpret:
        found = kernel(x, modulations)
    else:
        other = functools.partial(plain, padded=padded)
        found = jax.lax.platform_dependent(x, modulations, tpu=kernel, default=other)
    return (*found, x) if with_x else found


def _modulate_forward(
    x: Array, modulations: Modulations, padded: Padded, with_x: bool, interpret: bool
) -> tuple[Any, Any]:
    # Named for the backward pass alone, see `convolution.convolve`.
    kept = checkpoint_name(x, PRODUCT), modulations
    return _modulate(x, modulations, padded, with_x, interpret), kept


def _modulate_backward(
    padded: Padded, with_x: bool, interpret: bool, kept: Any, grads: tuple[Array, ...]
) -> Any:
    kernel = functools.partial(backward, padded=padded, interpret=interpret)
    x, modulations = kept
    grads, through = (grads[:-1], grads[-1]) if with_x else (grads, None)
    if interpret:
        return kernel(x, modulations, grads, through)

    def other(x: Array, modulations: Modulations, grads: Any, through: Array | None) -> Any:
        pull = jax.vjp(functools.partial(plain, padded=padded), x, modulations)[1]
        to_x, to_modulations = pull(grads)
        return to_x if through is None else to_x + through, to_modulations

    return jax.lax.platform_dependent(x, modulations, grads, through, tpu=kernel, default=other)


_modulate.defvjp(_modulate_forward, _modulate_backward)


def fits(x: Float[Array, "b h w c"], samples: Mesh | None) -> bool:
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
    x: Float[Array, "b h w c"],
    modulations: Modulations,
    padded: Padded,
    *,
    with_x: bool = False,
    samples: Mesh | None = None,
    interpret: bool = False,
) -> tuple[Float[Array, "b ..."], ...]:
    """The positional norm of x, modulated by each of several SPADE layers that read it.

    Args:
      x: the activations, of a size that `fits`.
      modulations: of the layers.
      padded: whether a layer's result goes through leaky ReLU and one pixel of reflection padding,
        as before a 3 x 3 convolution.
      with_x: whether to return x, too, for whatever else reads it. The backward pass then adds that
        gradient to x's own while it writes it.
      samples: devices, on one axis, that split the batch, or None.
      interpret: run the kernels as plain JAX, on any device, for tests.
    """

    def run(x: Array, modulations: Modulations) -> tuple[Array, ...]:
        return _modulate(x, modulations, padded, with_x, interpret)

    if samples is None or samples.size == 1:
        return run(x, modulations)
    # Each device gets biases of its own, so that XLA adds up their gradients with all others.
    of_each = tuple(
        Modulation(joined, jnp.broadcast_to(bias, (samples.size, bias.shape[-1])))
        for joined, bias in modulations
    )
    split = PartitionSpec(samples.axis_names[0])
    # The kernels' results do not say over which axes they vary.
    split_run = jax.shard_map(run, mesh=samples, in_specs=split, out_specs=split, check_vma=False)
    return split_run(x, of_each)
