"""Reflection padding by one pixel, and its gradient."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from cocosnet_jax.nn.platform import by_platform


@jax.custom_vjp
def reflect_pad(x: Shaped[Array, "b height width c"]) -> Shaped[Array, "b h w c"]:
    """Pads by one reflected pixel on every side; an axis of length 1 repeats its only pixel.

    On a CPU pixels are gathered by index, which XLA fuses with the computation of x, so that
    nothing is copied. The gradient, and accelerators, use slices: gathering would be slow there.
    So do simulated devices: if they shared the rows of x, each would gather all of them.
    """
    by_index = _pad_by_index if jax.local_device_count() == 1 else _pad_by_slices
    return by_platform(x, cpu=by_index, default=_pad_by_slices)


def _mirrored(size: int) -> tuple[int, int]:
    """Indices of the pixels that pad an axis before its first and after its last pixel."""
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
    # The transpose of `_pad_by_slices` would pad each slice to the whole size: XLA compiles four
    # programs for it instead of two.
    h, w = (size - 2 for size in grad.shape[1:3])
    inner = grad[:, 1 : h + 1]
    return (
        fold_edges(
            inner[:, :, 1 : w + 1],
            columns=[inner[:, :, :1], inner[:, :, w + 1 :]],
            rows=[grad[:, :1], grad[:, h + 1 :]],
        ),
    )


def fold_edges(
    inner: Float[Array, "b h w c"],
    *,
    columns: Sequence[Float[Array, "b h 1 c"]],
    rows: Sequence[Float[Array, "b 1 w+2 c"]],
) -> Float[Array, "b h w c"]:
    """The gradient of `reflect_pad` from parts of its output's gradient.

    Columns and rows are added at once, so that one loop makes all.

    Args:
      inner: what belongs to the pixels themselves.
      columns: the first and the last column, without the corners.
      rows: the first and the last row, with the corners.
    """
    w = inner.shape[2]
    inner = _add_edges(inner, columns, 2)
    rows = [_add_edges(x[:, :, 1 : w + 1], [x[:, :, :1], x[:, :, w + 1 :]], 2) for x in rows]
    return _add_edges(inner, rows, 1)


def _add_edges(x: Array, edges: Sequence[Array], axis: int) -> Array:
    """Adds the gradients of the first and the last pixel to those of the pixels they repeat."""
    size = x.shape[axis]
    places = jnp.arange(size).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    for edge, place in zip(edges, _mirrored(size), strict=True):
        x = x + jnp.where(places == place, edge, 0)
    return x


reflect_pad.defvjp(_reflect_pad_forward, _reflect_pad_backward)
