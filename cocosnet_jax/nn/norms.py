"""Positional, instance and batch norm without learned scale or shift (SPEC section 2).

Statistics are computed in float32 or wider.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from cocosnet_jax.nn.initial import blank
from cocosnet_jax.nn.positions import mean_over_positions, spread
from cocosnet_jax.nn.remat import PRODUCT

EPS = 1e-5
# The release adds this to an L2 norm before dividing by it, in every precision.
FLOAT64_EPS = float(jnp.finfo(jnp.float64).eps)


def _widen(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def positional_norm(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Positional norm: normalises each position over its channels (paper section 3.2).

    The variance is unbiased.
    """
    channels = x.shape[-1]
    return _normalise(x, _mean_over_channels, channels / (channels - 1))


def instance_norm(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Normalises each channel of each sample over its positions; the variance is biased."""
    return _normalise(x, mean_over_positions, 1.0)


Average = Callable[[Float[Array, "b h w c"]], Float[Array, "..."]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _normalise(
    x: Float[Array, "b h w c"], average: Average, correction: float
) -> Float[Array, "b h w c"]:
    """(x - mean) / sqrt(variance + EPS), with a gradient that XLA compiles in half the time.

    Args:
      x: the activations.
      average: mean over the axes of the norm, which it keeps.
      correction: variance in units of the mean squared deviation; 1 if it is biased.
    """
    return _normalise_forward(x, average, correction)[0]


def _normalise_forward(
    x: Array, average: Average, correction: float
) -> tuple[Array, tuple[Array, Array]]:
    wide = _widen(x)
    # Both are small, and kept: otherwise the backward pass would read x twice more for them.
    mean = checkpoint_name(average(wide), PRODUCT)
    centred = wide - mean
    if x.dtype == wide.dtype:
        mean_square = average(jnp.square(centred))
    else:
        # One reading of x gives both sums. What float32 loses here is less than x's own rounding.
        mean_square = jnp.maximum(average(jnp.square(wide)) - jnp.square(mean), 0)
    inverse = checkpoint_name(1 / jnp.sqrt(correction * mean_square + EPS), PRODUCT)
    normed = (centred * inverse).astype(x.dtype)
    return normed, (normed, inverse)


def _normalise_backward(
    average: Average, correction: float, residuals: tuple[Array, Array], grad: Array
) -> tuple[Array]:
    normed, inverse = residuals
    wide, y = _widen(grad), _widen(normed)
    # Through the mean, and through the variance; y itself has mean 0.
    to_x = wide - average(wide) - y * (correction * average(wide * y))
    return ((to_x * inverse).astype(grad.dtype),)


_normalise.defvjp(_normalise_forward, _normalise_backward)


def _mean_over_channels(x: Float[Array, "b h w c"]) -> Float[Array, "b h w 1"]:
    return x.mean(-1, keepdims=True)


def unit_length(x: Float[Array, "... k"]) -> Float[Array, "... k"]:
    """Divides each vector of the last axis by its L2 norm plus float64's epsilon.

    A zero vector stays zero, with a finite gradient.
    """
    square = jnp.sum(jnp.square(x), -1, keepdims=True)
    positive = square > 0
    norm = jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)
    return x / (norm + jnp.where(positive, FLOAT64_EPS, 1))


class BatchNorm(nn.Module):
    """Batch norm over the global batch, without learned scale and shift.

    Each training call moves the running statistics by `momentum` times their difference from the
    batch's. The running variance is unbiased; the batch's own is not (SPEC section 2). Under `jit`
    with a mesh this is synchronised batch norm, since means are over all devices.
    """

    momentum: float = 0.1

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w c"]:
        wide = _widen(x)
        c = x.shape[-1]
        running_mean = self.variable("batch_stats", "mean", blank, (c,))
        running_var = self.variable("batch_stats", "var", blank, (c,))
        mean, variance = running_mean.value, running_var.value
        if train:
            mean = mean_over_positions(wide).mean((0, 1, 2))
        centred = wide - spread(mean, x.shape)
        if train:
            count = x.size // c
            variance = mean_over_positions(jnp.square(centred)).mean((0, 1, 2))
            if not self.is_initializing():
                unbiased = variance * (count / max(count - 1, 1))
                running_mean.value += self.momentum * (mean - running_mean.value)
                running_var.value += self.momentum * (unbiased - running_var.value)
        return (centred * spread(1 / jnp.sqrt(variance + EPS), x.shape)).astype(x.dtype)
