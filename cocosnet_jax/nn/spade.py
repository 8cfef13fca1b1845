"""SPADE, spatially adaptive denormalisation, and its residual block (paper 3.2, SPEC section 2)."""

from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from cocosnet_jax.nn import modulation
from cocosnet_jax.nn.activation import leaky_relu, relu
from cocosnet_jax.nn.barrier import barrier
from cocosnet_jax.nn.condition import Condition, convolve_condition
from cocosnet_jax.nn.conv import Conv, Dtype, Weights, concatenate_weights, positions_of
from cocosnet_jax.nn.modulation_kernels import Modulation
from cocosnet_jax.nn.norms import BatchNorm, positional_norm
from cocosnet_jax.nn.positions import spread


class Spade(nn.Module):
    """norm(x) * (1 + gamma) + beta, with gamma and beta computed from a condition map (equation 5).

    The caller convolves the condition map with `shared_weights`, since one convolution can serve
    several layers that read the same map.

    Attributes:
      features: channels of x.
      hidden: channels between the condition map and gamma, beta.
      norm: positional norm (paper), or batch norm.
      spectral: whether the three convolutions have spectral norm; in the release they do not.
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

    def shared_weights(self, channels: int, *, train: bool) -> Weights:
        """Weights of the first convolution, from `channels` of the condition map to `hidden`."""
        return self.shared.weights(channels, train=train)

    def _weights(self, train: bool) -> list[Weights]:
        return [layer.weights(self.hidden, train=train) for layer in (self.gamma, self.beta)]

    def modulation(self, shared: Float[Array, "b h w hidden"], *, train: bool) -> Modulation:
        """Gamma and beta, convolved together, for the kernels of `nn.modulation`."""
        weights = concatenate_weights(self._weights(train))
        unbiased = weights._replace(bias=None)
        joined = convolve_condition(Condition(shared), unbiased, "reflect", self.dtype)
        assert weights.bias is not None
        return Modulation(joined, weights.bias[None])

    def __call__(
        self, x: Float[Array, "b h w c"], shared: Float[Array, "b h w hidden"], *, train: bool
    ) -> Float[Array, "b h w c"]:
        """Modulates x.

        Args:
          x: the activations.
          shared: the condition map after the first convolution and ReLU.
          train: see `Conv` and `BatchNorm`.
        """
        # Gamma and beta come after x, and in the backward pass before all that precedes x. XLA on
        # CPUs might do much of this at once, and hold what it takes.
        x, shared = barrier((x, shared))
        if self.norm == "positional":
            normed = positional_norm(x)
        else:
            normed = self.batch_norm(x, train=train)
        gamma, beta = convolve_together(Condition(shared), self._weights(train), self.dtype)
        return normed * (1 + gamma) + beta


def convolve_together(
    x: Condition, layers: Sequence[Weights], dtype: Dtype | None
) -> list[Float[Array, "b h w k"]]:
    """The outputs of several 3 x 3 convolutions of one map, padded by reflection.

    They are computed as one convolution, except for a dense map that is smaller than the kernels,
    where concatenating the kernels costs more than reading the map again.
    """
    kernels = [layer.kernel for layer in layers]
    size = positions_of(x.dense) * x.channels
    if x.labels is None and sum(kernel.size for kernel in kernels) > size:
        return [convolve_condition(x, layer, "reflect", dtype) for layer in layers]
    ends = np.cumsum([kernel.shape[-1] for kernel in kernels])
    joined = concatenate_weights(layers)._replace(bias=None)
    together = convolve_condition(x, joined, "reflect", dtype, in_parts=True)
    # Biases are added to the parts, so that accelerators do it, and sum their gradients, while they
    # compute with the parts.
    return [
        y if layer.bias is None else y + spread(layer.bias, y.shape).astype(y.dtype)
        for y, layer in zip(jnp.split(together, ends[:-1].tolist(), -1), layers, strict=True)
    ]


def modulated_by_kernels(
    x: Float[Array, "b h w c"] | jax.ShapeDtypeStruct,
    norm: Literal["positional", "batch"],
    samples: Mesh | None,
) -> bool:
    """Whether a block that may use kernels modulates a map of this size by them."""
    return norm == "positional" and modulation.fits(x, samples)


class SpadeBlock(nn.Module):
    """Residual block of two convolutions, each after a SPADE layer.

    Attributes:
      features: output channels; if they differ from the input's, the shortcut has a SPADE layer
        and a 1x1 convolution of its own.
      condition_resize: how the condition map is resized to the activations.
      spectral_everywhere: whether SPADE's own convolutions have spectral norm, too.
      hidden, norm, dtype: see `Spade`.
      kernels: whether TPUs modulate by the kernels of `nn.modulation`, where these pay.
      samples: devices that split the batch, or None. XLA splits all but the kernels by itself.
      upsample: whether the kernels read an x of half the block's size, and upsample it on the chip;
        the upsampled x must fit them, and have other channels than the output.
    """

    features: int
    hidden: int
    norm: Literal["positional", "batch"] = "positional"
    condition_resize: Literal["nearest", "bilinear"] = "nearest"
    spectral_everywhere: bool = False
    dtype: Dtype | None = None
    kernels: bool = False
    samples: Mesh | None = None
    upsample: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b height width c"],
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
        times = 2 if self.upsample else 1
        condition = condition.resize(times * x.shape[1], times * x.shape[2], self.condition_resize)
        convolved = convolve_together(
            condition,
            [spade.shared_weights(condition.channels, train=train) for spade in spades.values()],
            self.dtype,
        )
        shared = {name: relu(y) for name, y in zip(spades, convolved, strict=True)}

        def by_kernels(channels: int) -> bool:
            """Whether kernels modulate a map of the block's size."""
            size = *shared["norm_0"].shape[:3], channels
            large = jax.ShapeDtypeStruct(size, x.dtype)
            return self.kernels and modulated_by_kernels(large, self.norm, self.samples)

        assert not self.upsample or (channels != self.features and by_kernels(channels))

        def modulate(
            y: Float[Array, "b h w k"],
            *names: str,
            bias: Float[Array, "k"] | None = None,
            with_y: bool = False,
        ) -> tuple[Sequence[Float[Array, "b ..."]], Literal[0, "reflect"]]:
            """Y, modulated by these layers; what padding it lacks before a 3 x 3 convolution.

            With `with_y`, y follows: see `modulation.modulate`. Kernels alone add a bias.
            """
            before_conv3 = tuple(name != "norm_s" for name in names)
            if by_kernels(y.shape[-1]):
                found = tuple(spades[name].modulation(shared[name], train=train) for name in names)
                return modulation.modulate(
                    y, found, before_conv3, bias=bias, with_x=with_y, samples=self.samples
                ), 0
            assert bias is None
            each: list[Float[Array, "b h w k"]] = []
            for name in reversed(names):
                if each:
                    # One layer after the other, as in `Spade`.
                    y, each[0] = barrier((y, each[0]))
                each.insert(0, spades[name](y, shared[name], train=train))
            activated = [
                leaky_relu(y) if active else y for y, active in zip(each, before_conv3, strict=True)
            ]
            return [*activated, y] if with_y else activated, "reflect"

        def conv(features: int, padding: Literal[0, "reflect"], name: str) -> Conv:
            return Conv(
                features,
                3,
                1,
                padding,
                spectral=True,
                dtype=self.dtype,
                # A kernel's result.
                keep_input=padding == 0,
                name=name,
            )

        if channels == self.features:
            (dx, shortcut), padding = modulate(x, "norm_0", with_y=True)
        else:
            (dx, to_shortcut), padding = modulate(x, "norm_0", "norm_s")
            to_features = Conv(
                self.features,
                1,
                use_bias=False,
                spectral=True,
                dtype=self.dtype,
                keep_input=padding == 0,
                name="conv_s",
            )
            shortcut = to_features(to_shortcut, train=train)
        conv_0, bias = conv(middle, padding, "conv_0"), None
        if by_kernels(middle):
            dx, bias = conv_0.without_bias(dx, train=train)
        else:
            dx = conv_0(dx, train=train)
        [dx], padding = modulate(dx, "norm_1", bias=bias)
        return shortcut + conv(self.features, padding, "conv_1")(dx, train=train)
