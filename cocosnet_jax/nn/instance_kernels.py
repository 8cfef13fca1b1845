"""The kernels of `instance`.

A kernel holds one channel block of the maps of some pictures, as (rows, columns, pictures,
channels): XLA on a TPU stores maps with pictures beside channels. All positions are on the chip, so
statistics and values take one reading of the map. It computes in float32, whatever the type of the
arrays, and goes through them row by row.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from cocosnet_jax.nn.kernels import VMEM, by_rows, from_rows, together
from cocosnet_jax.nn.norms import EPS

# Bytes of maps that a kernel holds at most; what is left is for rows in float32, of which some ten,
# of 1 MiB each, exist at a time.
MOST = 88 * 2**20
WIDEST = 256
# Channels that lie beside each other in a register of TPUs.
_CHANNELS = 128


def _row(maps: Any, i: Any) -> Float[Array, "w b c"]:
    return maps[i].astype(jnp.float32)


def _mean(rows: int, values: Callable[[Any], Float[Array, "w b c"]]) -> Float[Array, "b c"]:
    """The mean of a map of which `values` gives a row."""
    like = jax.eval_shape(values, 0)
    zero = jnp.zeros(like.shape[1:], like.dtype)
    total = jax.lax.fori_loop(0, rows, lambda i, found: found + values(i).sum(0), zero)
    return total / (rows * like.shape[0])


def _statistics(x: Any) -> tuple[Float[Array, "b c"], Float[Array, "b c"]]:
    """The mean, and what the norm multiplies deviations by."""
    mean = _mean(x.shape[0], lambda i: _row(x, i))
    variance = _mean(x.shape[0], lambda i: jnp.square(_row(x, i) - mean))
    return mean, 1 / jnp.sqrt(variance + EPS)


def _forward_kernel(slope: Any, x: Any, skip: Any, out: Any, *, padded: bool) -> None:
    mean, inverse = _statistics(x)
    h, w = x.shape[:2]

    def write(i: Any, to: Any) -> None:
        y = (_row(x, i) - mean) * inverse
        if skip is not None:
            y = y + _row(skip, i)
        y = jnp.where(y >= 0, y, slope[0, 0] * y).astype(out.dtype)
        if not padded:
            out[to] = y
            return
        out[to, 1 : w + 1] = y
        out[to, :1] = y[1:2]
        out[to, w + 1 :] = y[w - 2 : w - 1]

    @pl.loop(0, h)
    def _(i: Any) -> None:
        write(i, i + padded)

    if padded:
        write(1, 0)
        write(h - 2, h + 1)


def _backward_kernel(
    slope: Any,
    x: Any,
    skip: Any,
    grad: Any,
    to_x: Any,
    to_skip: Any,
    to_slope: Any,
    *,
    padded: bool,
) -> None:
    mean, inverse = _statistics(x)
    h, w = x.shape[:2]

    def arriving(i: Any) -> Float[Array, "w b c"]:
        """The gradient of row i before padding."""
        if not padded:
            return _row(grad, i)
        found = _row(grad, i + 1)
        # The second row and the last but one are the first and the last of the padded map, too.
        found = found + jnp.where(i == 1, _row(grad, 0), 0)
        found = found + jnp.where(i == h - 2, _row(grad, h + 1), 0)
        column = jax.lax.broadcasted_iota(jnp.int32, (w, 1, 1), 0)
        inner = found[1 : w + 1] + jnp.where(column == 1, found[:1], 0)
        return inner + jnp.where(column == w - 2, found[w + 1 :], 0)

    def through_prelu(i: Any) -> tuple[Array, Array, Array]:
        """The normalised row, its gradient, and what the slope's gradient sums."""
        normed = (_row(x, i) - mean) * inverse
        y = normed if skip is None else normed + _row(skip, i)
        found = arriving(i)
        return normed, jnp.where(y >= 0, found, slope[0, 0] * found), found * jnp.minimum(y, 0)

    def add(i: Any, sums: tuple[Array, ...]) -> tuple[Array, ...]:
        normed, found, of_slope = through_prelu(i)
        rows = (found, found * normed, of_slope)
        return tuple(total + row.sum(0) for total, row in zip(sums, rows, strict=True))

    zero = jnp.zeros(x.shape[2:], jnp.float32)
    all_of_it, along, of_slope = jax.lax.fori_loop(0, h, add, (zero, zero, zero))

    @pl.when(pl.program_id(1) == 0)
    def _() -> None:
        to_slope[:] = jnp.zeros_like(to_slope)

    to_slope[:] += of_slope.sum(0, keepdims=True)

    @pl.loop(0, h)
    def _(i: Any) -> None:
        normed, found, _ = through_prelu(i)
        if to_skip is not None:
            to_skip[i] = found.astype(to_skip.dtype)
        # Through the mean, and through the variance.
        found = found - (all_of_it + normed * along) / (h * w)
        to_x[i] = (found * inverse).astype(to_x.dtype)


def held(x: Float[Array, "b h w c"], pictures: int) -> int:
    """Most bytes of maps that a program of the backward kernel holds: x, skip, three gradients."""
    h, w = x.shape[1:3]
    positions = 4 * h * w + (h + 2) * (w + 2)
    return positions * together(pictures) * _CHANNELS * x.dtype.itemsize


def _run(
    kernel: Callable[..., None], slope: Array, inputs: Any, outputs: Any, interpret: bool
) -> Any:
    """Runs a kernel's programs, each on `_CHANNELS` channels of some pictures.

    Args:
      kernel: takes slope, inputs and outputs one by one.
      slope: (1, 1).
      inputs: maps by rows; or None.
      outputs: shapes of maps by rows, or of a number for each channel, (1, c); or None.
      interpret: see `instance.activate`.
    """
    _, _, pictures, channels = inputs[0].shape
    # Interpreted, any number of pictures fits.
    block, blocks = together(pictures) or pictures, pl.cdiv(channels, _CHANNELS)
    arrays = jax.tree.leaves((inputs, outputs))
    sizes = [math.prod(x.shape[:-1]) * blocks * _CHANNELS * x.dtype.itemsize for x in arrays]
    # Where two buffers of each array fit, the next program's arrive while one runs.
    twice = 2 * sum(sizes) * block <= MOST * pictures * blocks
    buffers = None if twice or interpret else pl.Buffered(1)

    def spec(x: Any) -> pl.BlockSpec:
        if x.ndim == 2:
            return pl.BlockSpec((1, _CHANNELS), lambda c, n: (0, c))
        shape = (*x.shape[:2], block, _CHANNELS)
        return pl.BlockSpec(shape, lambda c, n: (0, 0, n, c), pipeline_mode=buffers)

    return pl.pallas_call(
        kernel,
        grid=(blocks, pictures // block),
        in_specs=[pl.BlockSpec(memory_space=pltpu.SMEM), *jax.tree.map(spec, inputs)],
        out_specs=jax.tree.map(spec, outputs),
        out_shape=outputs,
        # XLA counts no bytes by itself. The operations are few beside those of convolutions.
        cost_estimate=pl.CostEstimate(flops=0, transcendentals=0, bytes_accessed=sum(sizes)),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary", "arbitrary"), vmem_limit_bytes=VMEM
        ),
        interpret=interpret,
    )(slope, *inputs)


def _like(x: Array, more: int = 0) -> jax.ShapeDtypeStruct:
    h, w, *rest = x.shape
    return jax.ShapeDtypeStruct((h + more, w + more, *rest), x.dtype)


def _rows_of(x: Array | None) -> Array | None:
    return None if x is None else by_rows(x)


def forward(
    x: Float[Array, "b h w c"],
    slope: Float[Array, "1 1"],
    skip: Float[Array, "b h w c"] | None,
    padded: bool,
    interpret: bool,
) -> Float[Array, "b _ _ c"]:
    """The result that `instance.activate` describes."""
    inputs = (by_rows(x), _rows_of(skip))
    kernel = functools.partial(_forward_kernel, padded=padded)
    return from_rows(_run(kernel, slope, inputs, _like(inputs[0], 2 * padded), interpret))


def backward(
    x: Float[Array, "b h w c"],
    slope: Float[Array, "1 1"],
    skip: Float[Array, "b h w c"] | None,
    grad: Float[Array, "b _ _ c"],
    padded: bool,
    interpret: bool,
) -> tuple[Float[Array, "b h w c"], Float[Array, "1 1"], Float[Array, "b h w c"] | None]:
    """The gradients of x, slope and skip, from that of the result."""
    inputs = (by_rows(x), _rows_of(skip), by_rows(grad))
    to_maps = jax.tree.map(_like, inputs[:2])
    of_slope = jax.ShapeDtypeStruct((1, x.shape[-1]), jnp.float32)
    kernel = functools.partial(_backward_kernel, padded=padded)
    to_x, to_skip, to_slope = _run(kernel, slope, inputs, (*to_maps, of_slope), interpret)
    to_skip = None if to_skip is None else from_rows(to_skip)
    return from_rows(to_x), to_slope.sum().reshape(1, 1), to_skip
