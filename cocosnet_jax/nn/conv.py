"""Convolution with the release's padding and spectral norm."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Shaped

from cocosnet_jax.nn.initial import blank
from cocosnet_jax.nn.positions import spread
from cocosnet_jax.nn.remat import PRODUCT, SPECTRAL

Dtype = jnp.dtype | type
SPECTRAL_EPS = 1e-12


class Weights(NamedTuple):
    """What a convolution multiplies by, divides by and adds.

    Attributes:
      kernel: (kh, kw, cin, cout), as learned.
      sigma: its largest singular value, which the kernel is to be divided by, or one for each
        output; None where there is no spectral norm.
      bias: (cout,) or None.
    """

    kernel: Float[Array, "kh kw cin cout"]
    sigma: Float[Array, "..."] | None
    bias: Float[Array, "cout"] | None

    @property
    def rows(self) -> int:
        """Numbers that make one of an output's."""
        return math.prod(self.kernel.shape[:-1])

    def convolve(
        self,
        product: Callable[[Float[Array, "kh kw cin cout"]], Float[Array, "b h w cout"]],
        dtype: Dtype,
        *,
        divide_output: bool,
    ) -> Float[Array, "b h w cout"]:
        """`product(kernel / sigma) + bias`.

        Args:
          product: a convolution with a kernel of `dtype`.
          dtype: of the product and of the output.
          divide_output: whether sigma divides the output, and not the kernel: less work where a
            kernel has more `rows` than the output has positions.
        """
        kernel, sigma, bias = self
        if sigma is not None and not divide_output:
            kernel, sigma = kernel * (1 / sigma), None
        y = product(kernel.astype(dtype))
        if sigma is not None:
            y = y * spread(1 / sigma, y.shape)
        if bias is not None:
            y = y + spread(bias, y.shape).astype(y.dtype)
        return y.astype(dtype)


def put_together(layers: Sequence[Weights]) -> Weights:
    """What convolves one map with several layers' weights; the outputs lie one behind another."""
    kernels, sigmas, biases = zip(*layers, strict=True)

    def join(parts: Sequence[Float[Array, "..."] | None]) -> Float[Array, "cout"] | None:
        found = [
            jnp.broadcast_to(part, kernel.shape[-1:])
            for part, kernel in zip(parts, kernels, strict=True)
            if part is not None
        ]
        assert len(found) in (0, len(layers))
        return jnp.concatenate(found) if found else None

    return Weights(jnp.concatenate(kernels, -1), join(sigmas), join(biases))


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


@jax.custom_vjp
def reflect_pad(x: Shaped[Array, "b height width c"]) -> Shaped[Array, "b h w c"]:
    """One mirrored pixel on every side; a border is repeated only where there is nothing else.

    On CPUs pixels are picked by index, so that what makes x is computed where it is read and
    nothing is copied; accelerators are slow at that, and CPUs at its gradient.
    """
    return jax.lax.platform_dependent(x, cpu=_pad_by_index, default=_pad_by_slices)


def _mirrored(size: int) -> tuple[int, int]:
    """Which pixels stand before the first and behind the last."""
    return min(1, size - 1), max(size - 2, 0)


def _pad_by_index(x: Shaped[Array, "b height width c"]) -> Shaped[Array, "b h w c"]:
    rows, columns = (np.insert(np.arange(n), [0, n], _mirrored(n)) for n in x.shape[1:3])
    return x[:, rows[:, None], columns]


def _pad_by_slices(x: Shaped[Array, "b height width c"]) -> Shaped[Array, "b h w c"]:
    for axis in (1, 2):
        before, after = (
            jax.lax.slice_in_dim(x, i, i + 1, axis=axis) for i in _mirrored(x.shape[axis])
        )
        x = jnp.concatenate([before, x, after], axis)
    return x


def _reflect_pad_forward(x: Array) -> tuple[Array, None]:
    return reflect_pad(x), None


def _reflect_pad_backward(_: None, grad: Array) -> tuple[Array]:
    b, h, w, c = grad.shape
    x = jax.ShapeDtypeStruct((b, h - 2, w - 2, c), grad.dtype)
    [to_x] = jax.linear_transpose(_pad_by_slices, x)(grad)
    return (to_x,)


reflect_pad.defvjp(_reflect_pad_forward, _reflect_pad_backward)


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
        """What it convolves an input of so many channels with."""
        shape = (self.kernel, self.kernel, channels, self.features)
        kernel = self.param("kernel", blank, shape)
        sigma = self._sigma(kernel.reshape(-1, self.features), train) if self.spectral else None
        bias = self.param("bias", blank, (self.features,)) if self.use_bias else None
        return Weights(kernel, sigma, bias)

    def __call__(
        self, x: Float[Array, "b height width cin"], *, train: bool
    ) -> Float[Array, "b h w cout"]:
        weights = self.weights(x.shape[-1], train=train)
        dtype = self.dtype or jnp.result_type(x, weights.kernel)
        x, padding = x.astype(dtype), self.padding
        positions = x.size // x.shape[-1] // self.stride**2
        if padding == "reflect":
            x, padding = reflect_pad(x), 0

        def of(kernel: Float[Array, "kh kw cin cout"]) -> Float[Array, "b h w cout"]:
            return convolve(x, kernel, self.stride, padding)

        return weights.convolve(of, dtype, divide_output=weights.rows > positions)

    def _sigma(self, matrix: Float[Array, "rest cout"], train: bool) -> Float[Array, ""]:
        """The largest singular value, as the stored vectors see it; they carry no gradient."""
        u = self.variable("spectral", "u", blank, matrix.shape[1:])
        v = self.variable("spectral", "v", blank, matrix.shape[:1])
        fixed = jax.lax.stop_gradient(matrix)
        highest = jax.lax.Precision.HIGHEST
        new_u, new_v = u.value, v.value
        if train:
            new_v = _unit(jnp.dot(fixed, new_u, precision=highest))
            new_u = _unit(jnp.dot(new_v, fixed, precision=highest))
            if not self.is_initializing():
                u.value, v.value = new_u, new_v
        # Computed again, sigma would also be fused with sums of the kernel's gradient: gradients
        # would wait for one another on their way between devices.
        new_u, new_v = (checkpoint_name(vector, SPECTRAL) for vector in (new_u, new_v))
        sigma = jnp.dot(new_v, jnp.dot(matrix, new_u, precision=highest), precision=highest)
        return checkpoint_name(sigma, SPECTRAL)
