"""Condition maps, which SPADE and the adaptors read, and how to convolve them.

A 3 x 3 convolution of one-hot channels is the sum of nine rows of its kernel.
"""

from typing import Literal

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from cocosnet_jax.nn.conv import Dtype, Weights, positions_of
from cocosnet_jax.nn.convolution import convolve
from cocosnet_jax.nn.padding import reflect_pad
from cocosnet_jax.nn.platform import by_platform
from cocosnet_jax.nn.resize import nearest, resize

# On CPUs, one-hot channels of fewer classes are multiplied, too: that runs faster than summing the
# kernel's rows, whose gradient is nine programs for XLA to compile, besides.
ROWS_PAY = 32


@flax.struct.dataclass
class Condition:
    """A map with dense channels, followed by one-hot channels that are stored as class labels.

    Dense channels and labels may differ in size until `resize` makes both as large by `nearest`.
    All else needs one size.

    Attributes:
      dense: (b, h, w, k), the dense channels; k may be 0.
      labels: (b, height, width), the class at each position, or None without one-hot channels. A
        label outside of 0 to classes - 1 stands for zeros in all of them.
      classes: number of one-hot channels.
    """

    dense: Float[Array, "b h w k"]
    labels: Int[Array, "b height width"] | None = None
    classes: int = flax.struct.field(pytree_node=False, default=0)

    @property
    def channels(self) -> int:
        return self.dense.shape[-1] + self.classes

    def tensor(self) -> Float[Array, "b h w channels"]:
        """All channels as one array, one-hot channels included."""
        if self.labels is None:
            return self.dense
        one_hot = jax.nn.one_hot(self.labels, self.classes, dtype=self.dense.dtype)
        return jnp.concatenate([self.dense, one_hot], -1)

    def resize(
        self, height: int, width: int, method: Literal["nearest", "bilinear"]
    ) -> "Condition":
        """Resizes the map; `bilinear` makes the one-hot channels: labels cannot be averaged."""
        if self.labels is None or method == "bilinear":
            return Condition(resize(self.tensor(), height, width, method))
        dense, labels = (nearest(x, height, width) for x in (self.dense, self.labels))
        return Condition(dense, labels, self.classes)


def convolve_condition(
    condition: Condition,
    weights: Weights,
    padding: Literal[1, "reflect"],
    dtype: Dtype | None = None,
    *,
    in_parts: bool = False,
) -> Float[Array, "b h w cout"]:
    """3 x 3 cross-correlation of a condition map, padded by one pixel on every side.

    The one-hot channels get no gradient.

    Args:
      condition: the map.
      weights: with a 3 x 3 kernel for all of its channels.
      padding: 1 for zeros in all channels, or `reflect`.
      dtype: of the product; None for the promoted type of the dense channels and the kernel.
      in_parts: see `convolve`.
    """
    dtype = dtype or jnp.result_type(condition.dense, weights.kernel)
    dense, labels = condition.dense.astype(dtype), condition.labels

    def pad(x: Array, value: int) -> Array:
        if padding == "reflect":
            return reflect_pad(x)
        return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=value)

    def product(kernel: Float[Array, "3 3 channels cout"]) -> Float[Array, "b h w cout"]:
        if labels is None:
            return convolve(dense, kernel, padding=padding, in_parts=in_parts)
        padded = pad(labels[..., None], condition.classes)[..., 0]
        return _convolve(pad(dense, 0), padded, kernel)

    # With labels, sigma divides the sum of rows: otherwise XLA fuses that sum with a mean that
    # follows it, and adds up nine times as many numbers.
    divide_output = labels is not None or weights.rows > positions_of(condition.dense)
    return weights.convolve(product, dtype, divide_output=divide_output)


@jax.custom_vjp
def _convolve(
    dense: Float[Array, "b height width k"],
    labels: Int[Array, "b height width"],
    kernel: Float[Array, "3 3 channels cout"],
) -> Float[Array, "b h w cout"]:
    """Convolves a padded map. On CPUs, summing rows of 154 classes takes a tenth of the time."""
    on_cpus = _by_rows if kernel.shape[2] - dense.shape[-1] >= ROWS_PAY else _by_product
    return by_platform(dense, labels, kernel, cpu=on_cpus, default=_by_product)


def _by_product(dense: Array, labels: Array, kernel: Array) -> Float[Array, "b h w cout"]:
    classes = kernel.shape[2] - dense.shape[-1]
    return convolve(Condition(dense, labels, classes).tensor(), kernel)


def _by_rows(dense: Array, labels: Array, kernel: Array) -> Float[Array, "b h w cout"]:
    k = dense.shape[-1]
    # The added row of zeros is for labels that are no class.
    rows = jnp.pad(kernel[:, :, k:], ((0, 0), (0, 0), (0, 1), (0, 0)))
    index = _row_index(labels, rows.shape[2])
    # One sum over an axis: XLA would recompute a chain of additions, or keep all of its terms.
    summed = jnp.take(rows.reshape(-1, rows.shape[-1]), index, 0, mode="clip").sum(-2)
    return summed if k == 0 else summed + convolve(dense, kernel[:, :, :k])


def _row_index(labels: Int[Array, "b height width"], rows: int) -> Int[Array, "b h w 9"]:
    """Indices of the nine kernel rows that each position sums, of 9 * rows.

    The last of each `rows` is for labels that are no class.
    """
    h, w = labels.shape[1] - 2, labels.shape[2] - 2
    labels = jnp.where((labels >= 0) & (labels < rows), labels, rows - 1)
    # Slices, although XLA compiles each: it would make one gather again for each channel of a sum.
    shifts = [labels[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
    return jnp.stack(shifts, -1) + rows * np.arange(9, dtype=np.int32)


def _forward(dense: Array, labels: Array, kernel: Array) -> tuple[Array, tuple[Array, ...]]:
    return _convolve(dense, labels, kernel), (dense, labels, kernel)


def _backward(residuals: tuple[Array, ...], grad: Array) -> tuple[Array, None, Array]:
    dense, labels, kernel = residuals
    k = dense.shape[-1]

    def by_rows(dense: Array, labels: Array, grad: Array) -> Float[Array, "3 3 channels cout"]:
        rows = kernel.shape[2] - k + 1
        index, flat = _row_index(labels, rows).reshape(-1, 9), grad.reshape(-1, grad.shape[-1])
        # segment_sum adds one number at a time: a large bfloat16 sum would stop growing.
        flat = flat.astype(jnp.promote_types(flat.dtype, jnp.float32))
        sums = [jax.ops.segment_sum(flat, index[:, i] - i * rows, rows) for i in range(9)]
        to_rows = jnp.stack(sums).reshape(3, 3, rows, -1)[:, :, :-1].astype(grad.dtype)
        if k == 0:
            return to_rows
        pull = jax.vjp(lambda kernel: convolve(dense, kernel), kernel[:, :, :k])[1]
        return jnp.concatenate([*pull(grad), to_rows], 2)

    def by_product(dense: Array, labels: Array, grad: Array) -> Float[Array, "3 3 channels cout"]:
        return jax.vjp(lambda kernel: _by_product(dense, labels, kernel), kernel)[1](grad)[0]

    on_cpus = by_rows if kernel.shape[2] - k >= ROWS_PAY else by_product
    to_kernel = by_platform(dense, labels, grad, cpu=on_cpus, default=by_product)
    if k == 0:
        return jnp.zeros_like(dense), None, to_kernel
    [to_dense] = jax.vjp(lambda dense: convolve(dense, kernel[:, :, :k]), dense)[1](grad)
    return to_dense, None, to_kernel


_convolve.defvjp(_forward, _backward)
