"""Spatially adaptive denormalisation, SPADE, and the residual block made of it (SPEC section 2)."""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from cocosnet_jax.nn.conv import Conv, Dtype, convolve, reflect_pad
from cocosnet_jax.nn.norms import BatchNorm, positional_norm
from cocosnet_jax.nn.resize import resize

SLOPE = 0.2  # of every leaky ReLU


def leaky_relu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Leaky ReLU with the slope that all networks use."""
    return nn.leaky_relu(x, SLOPE)


class Spade(nn.Module):
    """norm(x) * (1 + gamma) + beta, gamma and beta read from a condition map (equation 5).

    Attributes:
      hidden: channels between the condition and gamma, beta.
      norm: positional norm, or batch norm in its place.
      condition_resize: how the condition comes to the size of the activation.
      spectral: spectral norm on the three convolutions; the release has none here.
      dtype: of the activations.
    """

    hidden: int
    norm: Literal["positional", "batch"] = "positional"
    condition_resize: Literal["nearest", "bilinear"] = "nearest"
    spectral: bool = False
    dtype: Dtype | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        condition: Float[Array, "b height width k"],
        *,
        train: bool,
    ) -> Float[Array, "b h w c"]:
        def conv(features: int, name: str) -> Conv:
            return Conv(
                features, 3, 1, "reflect", spectral=self.spectral, dtype=self.dtype, name=name
            )

        normed = positional_norm(x) if self.norm == "positional" else BatchNorm()(x, train=train)
        condition = resize(condition, x.shape[1], x.shape[2], self.condition_resize)
        shared = nn.relu(conv(self.hidden, "shared")(condition, train=train))
        # gamma and beta read the same map: one convolution makes both.
        layers = [
            conv(x.shape[-1], name).weights(self.hidden, train=train) for name in ("gamma", "beta")
        ]
        both = [jnp.concatenate(parts, -1) for parts in zip(*layers, strict=True)]
        shared, kernel, bias = nn.dtypes.promote_dtype(shared, *both, dtype=self.dtype)
        gamma, beta = jnp.split(convolve(reflect_pad(shared), kernel) + bias, 2, -1)
        return normed * (1 + gamma) + beta


class SpadeBlock(nn.Module):
    """Residual block of two SPADE-conditioned convolutions, cin -> features.

    Attributes:
      features: output channels; where they differ from the input's, the shortcut is a 1x1
        convolution with a SPADE of its own.
      spectral_everywhere: also on SPADE's own convolutions.
      hidden, norm, condition_resize, dtype: see `Spade`.
    """

    features: int
    hidden: int
    norm: Literal["positional", "batch"] = "positional"
    condition_resize: Literal["nearest", "bilinear"] = "nearest"
    spectral_everywhere: bool = False
    dtype: Dtype | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        condition: Float[Array, "b height width k"],
        *,
        train: bool,
    ) -> Float[Array, "b h w features"]:
        def spade(name: str) -> Spade:
            return Spade(
                self.hidden,
                self.norm,
                self.condition_resize,
                self.spectral_everywhere,
                self.dtype,
                name=name,
            )

        def conv(features: int, name: str) -> Conv:
            return Conv(features, 3, 1, "reflect", spectral=True, dtype=self.dtype, name=name)

        shortcut = x
        if x.shape[-1] != self.features:
            shortcut = spade("norm_s")(x, condition, train=train)
            shortcut = Conv(
                self.features, 1, use_bias=False, spectral=True, dtype=self.dtype, name="conv_s"
            )(shortcut, train=train)
        middle = min(x.shape[-1], self.features)
        dx = leaky_relu(spade("norm_0")(x, condition, train=train))
        dx = conv(middle, "conv_0")(dx, train=train)
        dx = leaky_relu(spade("norm_1")(dx, condition, train=train))
        return shortcut + conv(self.features, "conv_1")(dx, train=train)
