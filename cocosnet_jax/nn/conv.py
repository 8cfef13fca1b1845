"""Convolution with zero or reflection padding and spectral norm (SPEC section 2)."""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import export
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Shaped

from cocosnet_jax.nn.convolution import convolve
from cocosnet_jax.nn.initial import blank
from cocosnet_jax.nn.positions import mean_over_positions, spread
from cocosnet_jax.nn.remat import PRODUCT, SPECTRAL

Dtype = jnp.dtype | type


def activation_dtype(name: Literal["float32", "bfloat16"]) -> Dtype | None:
    """The type of activations that a setting names; None promotes inputs and parameters."""
    return jnp.bfloat16 if name == "bfloat16" else None


SPECTRAL_EPS = 1e-12


def positions_of(x: Shaped[Array, "b height width *c"]) -> int:
    """Number of positions in the whole batch.

    Counts one sample if the batch is symbolic (`jax.export`). What is chosen by this number changes
    speed and rounding only.
    """
    batch, height, width = x.shape[:3]
    return (1 if export.is_symbolic_dim(batch) else batch) * height * width


class Weights(NamedTuple):
    """The weights of a convolution, before spectral normalisation.

    Attributes:
      kernel: (kh, kw, cin, cout), as learned.
      sigma: the kernel's largest singular value, by which it is to be divided, or one value per
        output channel; None without spectral norm.
      bias: (cout,) or None.
    """

    kernel: Float[Array, "kh kw cin cout"]
    sigma: Float[Array, "..."] | None
    bias: Float[Array, "cout"] | None

    @property
    def rows(self) -> int:
        """Number of products that are summed for each output number, kh * kw * cin."""
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
          product: convolves with a kernel of type `dtype`.
          dtype: of the product and of the output.
          divide_output: whether sigma divides the output instead of the kernel, which is less
            work if the kernel has more `rows` than the output has positions.
        """
        kernel, sigma, bias = self
        if sigma is not None and not divide_output:
            kernel, sigma = kernel * (1 / sigma), None
        y = product(kernel.astype(dtype))
        if sigma is not None:
            shift = jnp.zeros(()) if bias is None else bias
            return _divide_and_add(y, *(jnp.broadcast_to(v, y.shape[-1:]) for v in (sigma, shift)))
        if bias is not None:
            y = y + spread(bias, y.shape).astype(y.dtype)
        # Named with its bias, so that the backward pass keeps the array that the next layer reads.
        return checkpoint_name(y.astype(dtype), PRODUCT)


@jax.custom_vjp
def _divide_and_add(
    y: Float[Array, "b h w c"], sigma: Float[Array, "c"], bias: Float[Array, "c"]
) -> Float[Array, "b h w c"]:
    """Y / sigma + bias, a `PRODUCT`; the backward pass keeps the result alone."""
    return _divide_and_add_forward(y, sigma, bias)[0]


def _divide_and_add_forward(
    y: Array, sigma: Array, bias: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
    result = checkpoint_name((y * (1 / sigma) + bias).astype(y.dtype), PRODUCT)
    return result, (result, sigma, bias)


def _divide_and_add_backward(
    residuals: tuple[Array, Array, Array], grad: Array
) -> tuple[Array, Array, Array]:
    result, sigma, bias = residuals
    wide = grad.astype(jnp.promote_types(grad.dtype, jnp.float32))
    positions = grad.shape[1] * grad.shape[2]
    to_bias = positions * mean_over_positions(wide).sum((0, 1, 2))
    products = positions * mean_over_positions(wide * result.astype(wide.dtype)).sum((0, 1, 2))
    # The sum of grad * y / sigma is that of grad * (result - bias).
    to_sigma = -(products - bias * to_bias) / sigma
    return (
        (grad * (1 / sigma)).astype(grad.dtype),
        to_sigma.astype(sigma.dtype),
        to_bias.astype(bias.dtype),
    )


_divide_and_add.defvjp(_divide_and_add_forward, _divide_and_add_backward)


def concatenate_weights(layers: Sequence[Weights]) -> Weights:
    """Weights of one convolution whose output is the layers' outputs, concatenated."""
    kernels, sigmas, biases = zip(*layers, strict=True)

    def join(parts: Sequence[Float[Array, "..."] | None]) -> Float[Array, "cout"] | None:
        per_output = [
            jnp.broadcast_to(part, kernel.shape[-1:])
            for part, kernel in zip(parts, kernels, strict=True)
            if part is not None
        ]
        assert len(per_output) in (0, len(layers))
        return jnp.concatenate(per_output) if per_output else None

    return Weights(jnp.concatenate(kernels, -1), join(sigmas), join(biases))


def _dot(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.dot(a, b, precision=jax.lax.Precision.HIGHEST)


def _unit(x: Float[Array, "k"]) -> Float[Array, "k"]:
    return x * (1 / jnp.maximum(jnp.sqrt(_dot(x, x)), SPECTRAL_EPS))


@jax.custom_vjp
def _as_singular_value(
    sigma: Float[Array, ""],
    matrix: Float[Array, "rest cout"],
    u: Float[Array, "cout"],
    v: Float[Array, "rest"],
) -> Float[Array, ""]:
    """Returns sigma, which is v^T matrix u, with its gradient for the matrix alone."""
    del matrix, u, v
    return sigma


def _singular_value_forward(
    sigma: Array, matrix: Array, u: Array, v: Array
) -> tuple[Array, tuple[Array, Array]]:
    del matrix
    return sigma, (u, v)


def _singular_value_backward(
    vectors: tuple[Array, Array], grad: Array
) -> tuple[None, Array, None, None]:
    u, v = vectors
    return None, grad * v[:, None] * u, None, None


_as_singular_value.defvjp(_singular_value_forward, _singular_value_backward)


class Conv(nn.Module):
    """A convolution, optionally with spectral norm.

    Spectral norm divides the kernel by its largest singular value (SPEC section 2). Each training
    call makes one power iteration from the stored vector `u` and stores `u` and `v` in the
    collection `spectral`; evaluation uses the stored vectors unchanged. Linen's own `SpectralNorm`
    iterates in evaluation too.

    Attributes:
      features: output channels.
      kernel: side of the square kernel.
      stride: step between output positions.
      padding: pixels of zeros on every side, or `reflect` for one reflected pixel.
      use_bias: whether a bias is added.
      spectral: whether the kernel has spectral norm.
      dtype: of the product; None for the promoted type of input and kernel.
      keep_input: see `convolve`.
      add_bias: whether the bias is added; if not, it is a parameter without effect, for a layer
        before a norm that cancels it.
    """

    features: int
    kernel: int
    stride: int = 1
    padding: int | Literal["reflect"] = 0
    use_bias: bool = True
    spectral: bool = False
    dtype: Dtype | None = None
    keep_input: bool = False
    add_bias: bool = True

    @nn.compact
    def weights(self, channels: int, *, train: bool) -> Weights:
        """The weights for an input with this number of channels."""
        shape = (self.kernel, self.kernel, channels, self.features)
        kernel = self.param("kernel", blank, shape)
        sigma = self._sigma(kernel.reshape(-1, self.features), train) if self.spectral else None
        bias = self.param("bias", blank, (self.features,)) if self.use_bias else None
        return Weights(kernel, sigma, bias)

    def __call__(
        self, x: Float[Array, "b height width cin"], *, train: bool
    ) -> Float[Array, "b h w cout"]:
        weights = self.weights(x.shape[-1], train=train)
        return self._convolve(x, weights if self.add_bias else weights._replace(bias=None))

    def without_bias(
        self, x: Float[Array, "b height width cin"], *, train: bool
    ) -> tuple[Float[Array, "b h w cout"], Float[Array, "cout"]]:
        """The map before the bias is added, and the bias, for a kernel that adds it."""
        weights = self.weights(x.shape[-1], train=train)
        assert weights.bias is not None
        return self._convolve(x, weights._replace(bias=None)), weights.bias

    def _convolve(
        self, x: Float[Array, "b height width cin"], weights: Weights
    ) -> Float[Array, "b h w cout"]:
        dtype = self.dtype or jnp.result_type(x, weights.kernel)
        x = x.astype(dtype)
        positions = positions_of(x) // self.stride**2

        def product(kernel: Float[Array, "kh kw cin cout"]) -> Float[Array, "b h w cout"]:
            return convolve(x, kernel, self.stride, self.padding, keep=self.keep_input)

        return weights.convolve(product, dtype, divide_output=weights.rows > positions)

    def _sigma(self, matrix: Float[Array, "rest cout"], train: bool) -> Float[Array, ""]:
        """Estimates the largest singular value from `u` and `v`, which get no gradient."""
        u = self.variable("spectral", "u", blank, matrix.shape[1:])
        v = self.variable("spectral", "v", blank, matrix.shape[:1])
        fixed = jax.lax.stop_gradient(matrix)
        new_u, new_v = u.value, v.value
        if train:
            new_v = _unit(_dot(fixed, new_u))
            rows = _dot(new_v, fixed)
            new_u = _unit(rows)
            if not self.is_initializing():
                u.value, v.value = new_u, new_v
        else:
            rows = _dot(new_v, fixed)
        # Recomputed in the backward pass, sigma would be fused with sums of the kernel's gradient,
        # and the gradients' all-reduces would wait for one another.
        new_u, new_v = (checkpoint_name(vector, SPECTRAL) for vector in (new_u, new_v))
        sigma = _as_singular_value(_dot(rows, new_u), matrix, new_u, new_v)
        return checkpoint_name(sigma, SPECTRAL)
