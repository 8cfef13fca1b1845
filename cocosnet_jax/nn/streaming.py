"""Softmax attention made block by block, in memory that does not grow with rows x columns.

Rows are compared with columns by unit vectors, or by the neighbourhoods of two grids of positions.

Longer than other files: the forward pass, both ways to compare and their gradients are one
algorithm.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

from cocosnet_jax.nn.norms import FLOAT64_EPS

_Precision = jax.lax.Precision | None
# Logits are cosines times 100: rounding a product to bf16 or TF32 would move them by tenths.
PRECISION = jax.lax.Precision.HIGHEST
# Up to so many rows (256 x 256 pixels at stride 4) all pairs are held.
DENSE_POSITIONS = 4096
# Above it: about how many rows and columns a block has; of neighbourhoods, twice the columns.
BLOCK = 2048


def neighbourhoods(x: Float[Array, "b h w k"], side: int) -> Float[Array, "b h w k_side"]:
    """Each position's side x side neighbourhood, zero padded, stacked into one vector."""
    if side == 1:
        return x
    reach = side // 2
    h, w = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    shifts = [padded[:, i : i + h, j : j + w] for i in range(side) for j in range(side)]
    return jnp.concatenate(shifts, -1)


class _Grid(NamedTuple):
    """A grid of positions, laid out in one line for comparison by neighbourhoods.

    After each of its rows comes as much padding as a neighbourhood reaches beyond its centre, and
    before and after all of them as much as the first and last neighbourhoods need. So a neighbour
    lies at the same distance from every position.
    """

    height: int
    width: int
    side: int  # of the neighbourhood

    @property
    def stride(self) -> int:
        return self.width + self.side // 2

    @property
    def length(self) -> int:
        """Positions in line, without the padding before and after."""
        return self.height * self.stride

    @property
    def halo(self) -> int:
        """How many positions more than its own a block looks at, before and after together."""
        return (self.side - 1) * (self.stride + 1)

    def in_line(self, x: Float[Array, "b n k"]) -> Float[Array, "b length k"]:
        b, _, k = x.shape
        x = x.reshape(b, self.height, self.width, k)
        return jnp.pad(x, ((0, 0), (0, 0), (0, self.side // 2), (0, 0))).reshape(b, -1, k)

    def from_line(self, x: Float[Array, "b length k"]) -> Float[Array, "b n k"]:
        b, _, k = x.shape
        return x.reshape(b, self.height, self.stride, k)[:, :, : self.width].reshape(b, -1, k)

    def block(self, near: int, parts: int = 1) -> int:
        """Positions in line of one block: whole grid rows that divide a part, `near` so many."""
        rows = min(
            _divisors(self.height // parts),
            key=lambda rows: abs(math.log(rows * self.width / near)),
        )
        return rows * self.stride


class _Compared(NamedTuple):
    """What positions in line are compared by.

    Attributes:
      features: (b, before + length + after, k), unit vectors or what neighbourhoods are made of.
      mean: (b, length, 1), of each neighbourhood; None for unit vectors.
      scale: (b, length, 1), by which each neighbourhood, centred, becomes a unit vector, or None.
    """

    features: Float[Array, "b before_length_after k"]
    mean: Float[Array, "b length 1"] | None = None
    scale: Float[Array, "b length 1"] | None = None


def _by_neighbourhood(x: Float[Array, "b h w k"], side: int) -> _Compared:
    """What gives the products of `matching_features` centred over channels, without making them.

    The product of two neighbourhoods is the sum, over neighbours, of their own vectors' products.
    What centring takes off it is the product of the means, as often as there are numbers.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    b, h, w, k = x.shape
    grid = _Grid(h, w, side)
    # A constant added to all numbers, padding included, is taken off by centring: without what
    # positions have in common little is left for the products of means to cancel.
    offset = jax.lax.stop_gradient(x.mean((1, 2, 3), keepdims=True))

    def neighbours(y: Float[Array, "b h w"]) -> Float[Array, "b n side_side"]:
        return neighbourhoods(y[..., None], side).reshape(b, h * w, -1)

    # The squared length from differences, where nothing cancels.
    own = x.mean(-1)
    means = neighbours(own) - offset[..., 0]
    mean = means.mean(-1, keepdims=True)
    within = neighbours(jnp.sum(jnp.square(x - own[..., None]), -1))
    square = jnp.sum(within + k * jnp.square(means - mean), -1, keepdims=True)
    # What rounding leaves of a neighbourhood without contrast has no direction.
    rounding = jnp.finfo(x.dtype).eps * (jnp.abs(mean) + jnp.abs(offset[..., 0]))
    contrast = square > k * side**2 * jnp.square(rounding)
    length = jnp.sqrt(jnp.where(contrast, square, 1)) + FLOAT64_EPS
    scale = jnp.where(contrast, 1 / length, 1)

    reach = grid.halo // 2
    line = jnp.pad(grid.in_line(x.reshape(b, h * w, k)), ((0, 0), (reach, reach), (0, 0)))
    return _Compared(line - offset[:, 0], grid.in_line(mean), grid.in_line(scale))


@flax.struct.dataclass
class Side:
    """Rows or columns of a correlation."""

    compared: _Compared
    grid: _Grid = flax.struct.field(pytree_node=False)

    @classmethod
    def of_vectors(cls, x: Float[Array, "b n k"]) -> "Side":
        """What is compared by vectors as they are."""
        return cls(_Compared(x), _Grid(x.shape[1], 1, 1))

    @classmethod
    def of_neighbourhoods(cls, x: Float[Array, "b h w k"], side: int) -> "Side":
        """What is compared by `warp.matching_features` of x, centred over channels.

        Raises:
          ValueError: neighbourhoods of an even side have no centre.
        """
        if side % 2 == 0:
            raise ValueError(f"side is {side}; a neighbourhood with a centre has an odd one")
        # The backward pass keeps x, and makes again what else is as large.
        compared = jax.checkpoint(_by_neighbourhood, static_argnums=1)(x, side)
        return cls(compared, _Grid(x.shape[1], x.shape[2], side))


class _Blocks(NamedTuple):
    """How the correlation is cut into blocks, and what one is made of.

    Attributes:
      high, wide: rows and columns of one block.
      rows, columns: the grids that they are positions of; a block holds whole grid rows of both.
      temperature: divides the cosines.
      precision: of the matrix products.
    """

    high: int
    wide: int
    rows: _Grid
    columns: _Grid
    temperature: float
    precision: _Precision

    def logits(self, queries: _Compared, keys: _Compared) -> Float[Array, "b high wide"]:
        """One block: equations 3 and 4."""
        products = jnp.einsum(
            "bnk,bmk->bnm", queries.features, keys.features, precision=self.precision
        )
        if queries.mean is None or keys.mean is None:
            return products / self.temperature
        assert queries.scale is not None
        assert keys.scale is not None
        summed = _sum_neighbours(products, self.rows, self.columns)
        count = self.rows.side**2 * queries.features.shape[-1]
        common = count * queries.mean * keys.mean.swapaxes(1, 2)
        cosines = (summed - common) * queries.scale * keys.scale.swapaxes(1, 2)
        padding = np.arange(self.wide) % self.columns.stride >= self.columns.width
        return cosines / self.temperature + np.where(padding, -np.inf, 0).astype(products.dtype)


def _sum_along_diagonals(
    x: Float[Array, "b h w"], count: int, down: int, right: int
) -> Float[Array, "b high wide"]:
    """Sum of `count` windows of x, each further down and right than the one before."""
    high, wide = x.shape[1] - (count - 1) * down, x.shape[2] - (count - 1) * right
    windows = (x[:, i * down : i * down + high, i * right : i * right + wide] for i in range(count))
    # A sum that several products read is made once.
    return jax.lax.optimization_barrier(functools.reduce(jnp.add, windows))


def _sum_windows(
    x: Float[Array, "b h w"], rows: _Grid, columns: _Grid
) -> Float[Array, "b high wide"]:
    """The neighbourhood's columns first, then its rows: 2 * side windows for side * side."""
    x = _sum_along_diagonals(x, rows.side, 1, 1)
    return _sum_along_diagonals(x, rows.side, rows.stride, columns.stride)


# Written out for its derivative: XLA would pad every window by itself, and add what it padded.
@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _sum_neighbours(
    products: Float[Array, "b high_halo wide_halo"], rows: _Grid, columns: _Grid
) -> Float[Array, "b high wide"]:
    """The products of neighbourhoods, from those of single positions."""
    return _sum_windows(products, rows, columns)


def _sum_neighbours_forward(products: Array, rows: _Grid, columns: _Grid) -> tuple[Array, None]:
    return _sum_neighbours(products, rows, columns), None


def _sum_neighbours_backward(rows: _Grid, columns: _Grid, _: None, grad: Array) -> tuple[Array]:
    # A neighbourhood is symmetric: who has a position for a neighbour is its neighbour.
    padding = [(0, 0), *((grid.halo, grid.halo) for grid in (rows, columns))]
    return (_sum_windows(jnp.pad(grad, padding), rows, columns),)


_sum_neighbours.defvjp(_sum_neighbours_forward, _sum_neighbours_backward)


def _divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]


def _rows(
    x: Float[Array, "b n k"], index: jax.Array, size: int, halo: int = 0
) -> Float[Array, "b size_halo k"]:
    return jax.lax.dynamic_slice_in_dim(x, index * size, size + halo, 1)


def _put(
    x: Float[Array, "b n k"], rows: Float[Array, "b size k"], index: jax.Array
) -> Float[Array, "b n k"]:
    return jax.lax.dynamic_update_slice_in_dim(x, rows, index * rows.shape[1], 1)


def _take(x: _Compared, index: jax.Array, size: int, halo: int) -> _Compared:
    """What a block of positions is compared by: the features have a halo."""
    block = jax.tree.map(lambda y: _rows(y, index, size), x)
    return block._replace(features=_rows(x.features, index, size, halo))


def _add(x: _Compared, block: _Compared, index: jax.Array, size: int) -> _Compared:
    """Adds `block` to what `_take` takes of x, where neighbouring blocks overlap."""

    def add(y: Array, rows: Array) -> Array:
        old = _rows(y, index, size, rows.shape[1] - size)
        return jax.lax.dynamic_update_slice_in_dim(y, old + rows, index * size, 1)

    return jax.tree.map(add, x, block)


def attend(
    rows: Side,
    columns: Side,
    values: Float[Array, "b m v"],
    temperature: float,
    *,
    precision: _Precision = PRECISION,
    over: Mesh | None = None,
) -> Float[Array, "b n v"]:
    """softmax(rows columns^T / temperature) values, without the n x m matrix.

    The softmax runs over m with a running maximum and sum; the backward pass makes the blocks
    again from what the forward pass keeps: the result and each row's log of the sum.

    Args:
      rows: what the n rows are compared by, float32 or float64 as columns are.
      columns: what the m columns are compared by, in the same way.
      values: what is carried, of every column.
      temperature: divides the products.
      precision: of the matrix products.
      over: devices of a mesh with one axis, which share the rows if they divide the height of the
        rows' grid; if not, or without a mesh, every device computes all.

    Raises:
      ValueError: rows and columns are compared by neighbourhoods of different sides.
    """
    if rows.grid.side != columns.grid.side:
        raise ValueError(f"neighbourhoods differ: {rows.grid.side} and {columns.grid.side}")
    values = values.astype(jnp.promote_types(values.dtype, columns.compared.features.dtype))
    parts = 1 if over is None or rows.grid.height % over.size else over.size
    # What a block looks at beyond its own costs products: of more columns it is a smaller share,
    # for less memory than in larger squares.
    wide = BLOCK if columns.grid.side == 1 else 2 * BLOCK
    blocks = _Blocks(
        rows.grid.block(BLOCK, parts),
        columns.grid.block(wide),
        rows.grid,
        columns.grid,
        temperature,
        precision,
    )
    arguments = rows.compared, columns.compared, columns.grid.in_line(values)
    if over is None or parts == 1:
        return rows.grid.from_line(_attend(*arguments, blocks))
    axis = over.axis_names[0]

    def part(queries: _Compared, keys: _Compared, values: Array) -> Float[Array, "b part v"]:
        size = rows.grid.length // parts
        own = _take(queries, jax.lax.axis_index(axis), size, rows.grid.halo)
        return _attend(own, keys, values, blocks)

    shared = jax.shard_map(
        part,
        mesh=over,
        in_specs=PartitionSpec(),
        out_specs=PartitionSpec(None, axis),
        # What the loops start from is the same on all devices, what they yield is not.
        check_vma=False,
    )
    return rows.grid.from_line(shared(*arguments))


def over_rows(
    function: Callable[[Float[Array, "b rows k"]], Float[Array, "b rows *v"]],
    x: Float[Array, "b n k"],
    most: int,
) -> Float[Array, "b n *v"]:
    """function(x) of a function that treats every row alone, at most `most` rows at a time.

    The backward pass makes what belongs to the rows anew.
    """
    b, n, k = x.shape
    size = max(size for size in _divisors(n) if size <= max(most, 1))
    if size == n:
        return function(x)
    blocks = x.reshape(b, n // size, size, k).swapaxes(0, 1)
    found = jax.lax.map(jax.checkpoint(function), blocks).swapaxes(0, 1)
    return found.reshape(b, n, *found.shape[3:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _attend(
    queries: _Compared, keys: _Compared, values: Float[Array, "b m v"], blocks: _Blocks
) -> Float[Array, "b n v"]:
    return _attend_forward(queries, keys, values, blocks)[0]


def _attend_forward(
    queries: _Compared, keys: _Compared, values: Float[Array, "b m v"], blocks: _Blocks
) -> tuple[Float[Array, "b n v"], tuple[Any, ...]]:
    """The result, and what the backward pass reads."""
    high, wide = blocks.high, blocks.wide
    b, m, channels = values.shape
    row_halo, column_halo = blocks.rows.halo, blocks.columns.halo
    n = queries.features.shape[1] - row_halo
    dtype = values.dtype

    def row(i: jax.Array, found: tuple[Array, Array]) -> tuple[Array, Array]:
        q = _take(queries, i, high, row_halo)

        def column(j: jax.Array, so_far: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            top, total, carried = so_far
            logits = blocks.logits(q, _take(keys, j, wide, column_halo))
            new_top = jnp.maximum(top, logits.max(-1, keepdims=True))
            weights, fade = jnp.exp(logits - new_top), jnp.exp(top - new_top)
            v = _rows(values, j, wide)
            added = jnp.einsum("bnm,bmv->bnv", weights, v, precision=blocks.precision)
            total = total * fade + weights.sum(-1, keepdims=True)
            return new_top, total, carried * fade + added

        nothing = (
            jnp.full((b, high, 1), -jnp.inf, dtype),
            jnp.zeros((b, high, 1), dtype),
            jnp.zeros((b, high, channels), dtype),
        )
        top, total, carried = jax.lax.fori_loop(0, m // wide, column, nothing)
        return _put(found[0], carried / total, i), _put(found[1], top + jnp.log(total), i)

    empty = jnp.zeros((b, n, channels), dtype), jnp.zeros((b, n, 1), dtype)
    out, log_sum = jax.lax.fori_loop(0, n // high, row, empty)
    return out, (queries, keys, values, out, log_sum)


def _attend_backward(
    blocks: _Blocks, kept: tuple[Any, ...], grad: Float[Array, "b n v"]
) -> tuple[_Compared, _Compared, Float[Array, "b m v"]]:
    queries, keys, values, out, log_sum = kept
    high, wide = blocks.high, blocks.wide
    row_halo, column_halo = blocks.rows.halo, blocks.columns.halo
    n, m = out.shape[1], values.shape[1]
    einsum = functools.partial(jnp.einsum, precision=blocks.precision)
    # Of the softmax's derivative: what all columns of a row have in common.
    common = jnp.sum(grad * out, -1, keepdims=True)

    def column(j: jax.Array, found: tuple[Any, Any, Array]) -> tuple[Any, Any, Array]:
        k, v = _take(keys, j, wide, column_halo), _rows(values, j, wide)

        def row(i: jax.Array, so_far: tuple[Any, Any, Array]) -> tuple[Any, Any, Array]:
            to_queries, to_k, to_v = so_far
            q, g = _take(queries, i, high, row_halo), _rows(grad, i, high)
            logits, pull = jax.vjp(blocks.logits, q, k)
            weights = jnp.exp(logits - _rows(log_sum, i, high))
            to_v += einsum("bnm,bnv->bmv", weights, g)
            to_weights = einsum("bnv,bmv->bnm", g, v)
            more_to_q, more_to_k = pull(weights * (to_weights - _rows(common, i, high)))
            to_queries = _add(to_queries, more_to_q, i, high)
            return to_queries, jax.tree.map(jnp.add, to_k, more_to_k), to_v

        to_queries, to_keys, to_values = found
        start = to_queries, jax.tree.map(jnp.zeros_like, k), jnp.zeros_like(v)
        to_queries, to_k, to_v = jax.lax.fori_loop(0, n // high, row, start)
        return to_queries, _add(to_keys, to_k, j, wide), _put(to_values, to_v, j)

    zeros = jax.tree.map(jnp.zeros_like, (queries, keys, values))
    return jax.lax.fori_loop(0, m // wide, column, zeros)


_attend.defvjp(_attend_forward, _attend_backward)
