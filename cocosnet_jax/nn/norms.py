"""Norms without learned scale or shift (SPEC section 2); statistics are float32 or wider."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cocosnet_jax.nn.initial import blank
from cocosnet_jax.nn.positions import mean_over_positions, spread

EPS = 1e-5
# What the release adds to an L2 norm before it divides, in every precision.
FLOAT64_EPS = float(jnp.finfo(jnp.float64).eps)


def _widen(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def positional_norm(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Normalises each position over its channels, unbiased variance (paper section 3.2)."""
    wide = _widen(x)
    centred = wide - wide.mean(-1, keepdims=True)
    variance = jnp.square(centred).sum(-1, keepdims=True) / (x.shape[-1] - 1)
    return (centred * (1 / jnp.sqrt(variance + EPS))).astype(x.dtype)


def instance_norm(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Normalises each channel of each sample over its positions, biased variance."""
    wide = _widen(x)
    centred = wide - spread(mean_over_positions(wide), x.shape)
    variance = mean_over_positions(jnp.square(centred))
    return (centred * spread(1 / jnp.sqrt(variance + EPS), x.shape)).astype(x.dtype)


def unit_length(x: Float[Array, "... k"]) -> Float[Array, "... k"]:
    """Divides vectors on the last axis by their L2 norm plus float64's epsilon.

    A zero vector is divided by 1: it stays zero, and its gradient is finite.
    """
    square = jnp.sum(jnp.square(x), -1, keepdims=True)
    positive = square > 0
    norm = jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)
    return x / (norm + jnp.where(positive, FLOAT64_EPS, 1))


class BatchNorm(nn.Module):
    """Batch norm over the global batch, without learned scale and shift.

    Running statistics move by a tenth of the difference per training call; the running variance
    is unbiased, the batch's own is not (SPEC section 2). Under `jit` over a mesh the means
    are over all devices: this is synchronised batch norm.
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
