"""Spatially adaptive denormalisation, SPADE, and the residual block made of it (SPEC section 2)."""

from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cocosnet_jax.nn.condition import Condition, convolve_condition
from cocosnet_jax.nn.conv import Conv, Dtype, Weights, put_together
from cocosnet_jax.nn.norms import BatchNorm, positional_norm

SLOPE = 0.2  # of every leaky ReLU


def leaky_relu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Leaky ReLU with the slope that all networks use."""
    return nn.leaky_relu(x, SLOPE)


class Spade(nn.Module):
    """norm(x) * (1 + gamma) + beta, gamma and beta read from a condition map (equation 5).

    The condition is read outside, by `reading()`'s weights: what several layers read from one map
    takes one convolution.

    Attributes:
      features: channels of x.
      hidden: channels between the condition and gamma, beta.
      norm: positional norm, or batch norm in its place.
      spectral: spectral norm on the three convolutions; the release has none here.
      dtype: of the activations.
    """

    features: int
    hidden: int
    norm: Literal["positional", "batch"] = "positional"
    spectral: bool = False
    dtype: Dtype | None = None

    def setup(self) -> None:
        def conv(features: int) -> Conv:
            return Conv(features, 3, 1, "reflect", spectral=self.spectral, dtype=self.dtype)

        self.shared = conv(self.hidden)
        self.gamma, self.beta = conv(self.features), conv(self.features)
        if self.norm == "batch":
            self.batch_norm = BatchNorm()

    def reading(self, channels: int, *, train: bool) -> Weights:
        """What turns a condition of so many channels into `hidden`."""
        return self.shared.weights(channels, train=train)

    def __call__(
        self, x: Float[Array, "b h w c"], shared: Float[Array, "b h w hidden"], *, train: bool
    ) -> Float[Array, "b h w c"]:
        """Modulates x by what was read from the condition, after its ReLU."""
        if self.norm == "positional":
            normed = positional_norm(x)
        else:
            normed = self.batch_norm(x, train=train)
        layers = [layer.weights(self.hidden, train=train) for layer in (self.gamma, self.beta)]
        gamma, beta = convolve_together(Condition(shared), layers, self.dtype)
        return normed * (1 + gamma) + beta


def convolve_together(
    x: Condition, layers: Sequence[Weights], dtype: Dtype | None
) -> list[Float[Array, "b h w k"]]:
    """The outputs of several reflect-padded convolutions of one map.

    They are one convolution, unless the map has no classes and the kernels are larger than it: then
    they are dearer to put together than the map is to read again.
    """
    kernels = [layer.kernel for layer in layers]
    if x.labels is None and sum(kernel.size for kernel in kernels) > x.dense.size:
        return [convolve_condition(x, layer, "reflect", dtype) for layer in layers]
    ends = np.cumsum([kernel.shape[-1] for kernel in kernels])
    together = convolve_condition(x, put_together(layers), "reflect", dtype)
    return jnp.split(together, ends[:-1].tolist(), -1)


class SpadeBlock(nn.Module):
    """Residual block of two SPADE-conditioned convolutions, cin -> features.

    Attributes:
      features: output channels; where they differ from the input's, the shortcut is a 1x1
        convolution with a SPADE of its own.
      condition_resize: how the condition comes to the size of the activation.
      spectral_everywhere: also on SPADE's own convolutions.
      hidden, norm, dtype: see `Spade`.
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
        condition: Condition,
        *,
        train: bool,
    ) -> Float[Array, "b h w features"]:
        channels = x.shape[-1]
        middle = min(channels, self.features)
        widths = {"norm_0": channels, "norm_1": middle}
        if channels != self.features:
            widths["norm_s"] = channels
        spades = {
            name: Spade(
                width, self.hidden, self.norm, self.spectral_everywhere, self.dtype, name=name
            )
            for name, width in widths.items()
        }
        condition = condition.resize(x.shape[1], x.shape[2], self.condition_resize)
        read = convolve_together(
            condition,
            [spade.reading(condition.channels, train=train) for spade in spades.values()],
            self.dtype,
        )
        shared = {name: nn.relu(y) for name, y in zip(spades, read, strict=True)}

        def modulate(name: str, y: Float[Array, "b h w k"]) -> Float[Array, "b h w k"]:
            return spades[name](y, shared[name], train=train)

        def conv(features: int, name: str) -> Conv:
            return Conv(features, 3, 1, "reflect", spectral=True, dtype=self.dtype, name=name)

        shortcut = x
        if channels != self.features:
            to_features = Conv(
                self.features, 1, use_bias=False, spectral=True, dtype=self.dtype, name="conv_s"
            )
            shortcut = to_features(modulate("norm_s", x), train=train)
        dx = conv(middle, "conv_0")(leaky_relu(modulate("norm_0", x)), train=train)
        dx = conv(self.features, "conv_1")(leaky_relu(modulate("norm_1", dx)), train=train)
        return shortcut + dx
