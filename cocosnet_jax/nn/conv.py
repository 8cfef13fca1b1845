"""Convolution with the release's padding, initialisation and spectral norm."""

import functools
import math
from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from cocosnet_jax.nn.remat import PRODUCT

Dtype = jnp.dtype | type
SPECTRAL_EPS = 1e-12
# Kernel and bias of one convolution.
Weights = tuple[Float[Array, "kh kw cin cout"], Float[Array, "cout"] | None]


def xavier_deviation(shape: Sequence[int]) -> float:
    """Standard deviation of Xavier normal weights with gain 0.02 (SPEC section 2), for HWIO."""
    area = math.prod(shape[:-2])
    return 0.02 * math.sqrt(2 / (area * (shape[-2] + shape[-1])))


def xavier(key: jax.Array, shape: Sequence[int], dtype: Dtype = jnp.float32) -> jax.Array:
    """Initial convolution weights."""
    return xavier_deviation(shape) * jax.random.normal(key, shape, dtype)


def convolve(
    x: Float[Array, "b height width cin"],
    kernel: Float[Array, "kh kw cin cout"],
    stride: int = 1,
    padding: int = 0,
) -> Float[Array, "b h w cout"]:
    """Cross-correlation with `padding` zeros on every side.

    In float64 it is written as patches and one matrix product: XLA has no fast float64
    convolution on CPUs, where the parity tests run.
    """
    if x.dtype == jnp.float64:
        x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
        convolved = _convolve_patches(x, kernel, stride)
    else:
        convolved = jax.lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            [(padding, padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
    return checkpoint_name(convolved, PRODUCT)


# Patches are several times as large as the image: the backward pass makes them again.
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


def reflect_pad(x: Float[Array, "b height width c"]) -> Float[Array, "b h w c"]:
    """One mirrored pixel on every side; a border is repeated only where there is nothing else."""
    for axis in (1, 2):
        last = x.shape[axis] - 1
        before = jax.lax.slice_in_dim(x, min(1, last), min(1, last) + 1, axis=axis)
        after = jax.lax.slice_in_dim(x, max(last - 1, 0), max(last - 1, 0) + 1, axis=axis)
        x = jnp.concatenate([before, x, after], axis)
    return x


def _unit(x: Float[Array, "k"]) -> Float[Array, "k"]:
    return x / jnp.maximum(jnp.sqrt(jnp.sum(jnp.square(x))), SPECTRAL_EPS)


class Conv(nn.Module):
    """A convolution whose weight may be divided by its largest singular value.

    Spectral norm (SPEC section 2): in training each call makes one power iteration from the
    stored vector `u` and stores `u` and `v` in the collection `spectral`; in evaluation the
    stored vectors are used as they are. Linen's own `SpectralNorm` iterates in evaluation too.

    Attributes:
      features: output channels.
      kernel: side of the square kernel.
      stride: step between output positions.
      padding: zeros added on every side, in pixels, or `reflect`: one mirrored pixel.
      use_bias: whether a bias is added.
      spectral: whether the weight is normalised.
      dtype: of the product; None computes in the promoted type of input and weight.
    """

    features: int
    kernel: int
    stride: int = 1
    padding: int | Literal["reflect"] = 0
    use_bias: bool = True
    spectral: bool = False
    dtype: Dtype | None = None

    @nn.compact
    def weights(self, channels: int, *, train: bool) -> Weights:
        """Kernel, normalised, and bias, for an input of so many channels."""
        shape = (self.kernel, self.kernel, channels, self.features)
        kernel = self.param("kernel", xavier, shape)
        if self.spectral:
            kernel = kernel / self._sigma(kernel.reshape(-1, self.features), train)
        bias = (
            self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else None
        )
        return kernel, bias

    def __call__(
        self, x: Float[Array, "b height width cin"], *, train: bool
    ) -> Float[Array, "b h w cout"]:
        kernel, bias = self.weights(x.shape[-1], train=train)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        if self.padding == "reflect":
            x = convolve(reflect_pad(x), kernel, self.stride)
        else:
            x = convolve(x, kernel, self.stride, self.padding)
        return x if bias is None else x + bias

    def _sigma(self, matrix: Float[Array, "rest cout"], train: bool) -> Float[Array, ""]:
        """The largest singular value, as the stored vectors see it; they carry no gradient."""

        def random_unit(size: int) -> Float[Array, "k"]:
            return _unit(jax.random.normal(self.make_rng("params"), (size,), matrix.dtype))

        u = self.variable("spectral", "u", lambda: random_unit(matrix.shape[1]))
        v = self.variable("spectral", "v", lambda: random_unit(matrix.shape[0]))
        fixed = jax.lax.stop_gradient(matrix)
        highest = jax.lax.Precision.HIGHEST
        new_u, new_v = u.value, v.value
        if train:
            new_v = _unit(jnp.dot(fixed, new_u, precision=highest))
            new_u = _unit(jnp.dot(new_v, fixed, precision=highest))
            if not self.is_initializing():
                u.value, v.value = new_u, new_v
        return jnp.dot(new_v, jnp.dot(matrix, new_u, precision=highest), precision=highest)
