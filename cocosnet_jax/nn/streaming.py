"""Softmax attention computed block by block, in memory that does not grow with rows x columns.

Rows and columns are compared by unit vectors, or by neighbourhoods of positions in two grids.

Longer than other files: forward pass, both kinds of comparison and their gradients are one
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
# Logits are cosines times 100, so products in bfloat16 or TF32 would change them by tenths.
PRECISION = jax.lax.Precision.HIGHEST
# Up to this number of positions (256 x 256 pixels at stride 4), attention holds all pairs.
DENSE_POSITIONS = 4096
# Approximate rows and columns of a block; with neighbourhoods, blocks have twice the columns.
BLOCK = 2048


def neighbourhoods(x: Float[Array, "b h w k"], side: int) -> Float[Array, "b h w k_side"]:
    """Concatenates the vectors of each position's side x side neighbourhood, with zero padding."""
    if side == 1:
        return x
    reach = side // 2
    h, w = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    shifts = [padded[:, i : i + h, j : j + w] for i in range(side) for j in range(side)]
    return jnp.concatenate(shifts, -1)


class _Grid(NamedTuple):
    """A grid of positions, flattened to one line for comparison by neighbourhoods.

    Each grid row is followed by the padding that a neighbourhood reaches beyond its centre, and the
    line has as much padding at both ends as the first and the last neighbourhood need. A neighbour
    then has the same offset in the line from every position.
    """

    height: int
    width: int
    side: int  # of the neighbourhood

    @property
    def stride(self) -> int:
        return self.width + self.side // 2

    @property
    def length(self) -> int:
        """Length of the line, without the padding at its ends."""
        return self.height * self.stride

    @property
    def halo(self) -> int:
        """Positions that a block reads besides its own, before and after it together."""
        return (self.side - 1) * (self.stride + 1)

    def in_line(self, x: Float[Array, "b n k"]) -> Float[Array, "b length k"]:
        b, _, k = x.shape
        x = x.reshape(b, self.height, self.width, k)
        return jnp.pad(x, ((0, 0), (0, 0), (0, self.side // 2), (0, 0))).reshape(b, -1, k)

    def from_line(self, x: Float[Array, "b length k"]) -> Float[Array, "b n k"]:
        b, _, k = x.shape
        return x.reshape(b, self.height, self.stride, k)[:, :, : self.width].reshape(b, -1, k)

    def block(self, near: int, parts: int = 1) -> int:
        """Length of a block of whole grid rows, about `near` positions, that divides each part."""
        rows = min(
            _divisors(self.height // parts),
            key=lambda rows: abs(math.log(rows * self.width / near)),
        )
        return rows * self.stride


class _Compared(NamedTuple):
    """Features by which the positions of a line are compared.

    Attributes:
      features: (b, before + length + after, k), unit vectors, or the vectors in neighbourhoods.
      mean: (b, length, 1), mean of each neighbourhood; None for unit vectors.
      scale: (b, length, 1), 1 / length of each centred neighbourhood; None for unit vectors.
    """

    features: Float[Array, "b before_length_after k"]
    mean: Float[Array, "b length 1"] | None = None
    scale: Float[Array, "b length 1"] | None = None


def _by_neighbourhood(x: Float[Array, "b h w k"], side: int) -> _Compared:
    """Prepares products of `warp.matching_features`, centred over channels, without making those.

    The product of two neighbourhoods is the sum of their vectors' products. Centring subtracts the
    product of their means times the number of their channels.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    b, h, w, k = x.shape
    grid = _Grid(h, w, side)
    # Subtracting one constant from all numbers, padding included, changes no centred vector, and
    # makes the products of means small, so that little is lost by cancellation.
    offset = jax.lax.stop_gradient(x.mean((1, 2, 3), keepdims=True))

    def neighbours(y: Float[Array, "b h w"]) -> Float[Array, "b n side_side"]:
        return neighbourhoods(y[..., None], side).reshape(b, h * w, -1)

    # Squared length of the centred neighbourhood, as a sum of squares, without cancellation.
    own = x.mean(-1)
    means = neighbours(own) - offset[..., 0]
    mean = means.mean(-1, keepdims=True)
    within = neighbours(jnp.sum(jnp.square(x - own[..., None]), -1))
    square = jnp.sum(within + k * jnp.square(means - mean), -1, keepdims=True)
    # In a constant neighbourhood, only rounding errors remain: they are not scaled to length 1.
    rounding = jnp.finfo(x.dtype).eps * (jnp.abs(mean) + jnp.abs(offset[..., 0]))
    contrast = square > k * side**2 * jnp.square(rounding)
    length = jnp.sqrt(jnp.where(contrast, square, 1)) + FLOAT64_EPS
    scale = jnp.where(contrast, 1 / length, 1)

    reach = grid.halo // 2
    line = jnp.pad(grid.in_line(x.reshape(b, h * w, k)), ((0, 0), (reach, reach), (0, 0)))
    return _Compared(line - offset[:, 0], grid.in_line(mean), grid.in_line(scale))


@flax.struct.dataclass
class Side:
    """The rows or the columns of a correlation matrix."""

    compared: _Compared
    grid: _Grid = flax.struct.field(pytree_node=False)

    @classmethod
    def of_vectors(cls, x: Float[Array, "b n k"]) -> "Side":
        """Positions that are compared by these vectors, unchanged."""
        return cls(_Compared(x), _Grid(x.shape[1], 1, 1))

    @classmethod
    def of_neighbourhoods(cls, x: Float[Array, "b h w k"], side: int) -> "Side":
        """Positions that are compared by `warp.matching_features` of x, centred over channels.

        Raises:
          ValueError: the side is even, so that neighbourhoods have no centre.
        """
        if side % 2 == 0:
            raise ValueError(f"the side of a neighbourhood must be odd, not {side}")
        # The backward pass keeps x, and recomputes the other arrays of that size.
        compared = jax.checkpoint(_by_neighbourhood, static_argnums=1)(x, side)
        return cls(compared, _Grid(x.shape[1], x.shape[2], side))


class _Blocks(NamedTuple):
    """How the correlation matrix is split into blocks, and how a block is computed.

    Attributes:
      high, wide: number of rows and columns of a block.
      rows, columns: the grids of the positions; a block consists of whole grid rows of both.
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
        """One block of the correlation, divided by the temperature (equations 3 and 4)."""
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
    """Sum of `count` windows of x, each `down` rows and `right` columns beyond the last."""
    high, wide = x.shape[1] - (count - 1) * down, x.shape[2] - (count - 1) * right
    windows = (x[:, i * down : i * down + high, i * right : i * right + wide] for i in range(count))
    # Without the barrier, XLA would recompute the sum for each product that reads it.
    return jax.lax.optimization_barrier(functools.reduce(jnp.add, windows))


def _sum_windows(
    x: Float[Array, "b h w"], rows: _Grid, columns: _Grid
) -> Float[Array, "b high wide"]:
    """Sums over neighbours in a row, then over rows: 2 * side windows instead of side * side."""
    x = _sum_along_diagonals(x, rows.side, 1, 1)
    return _sum_along_diagonals(x, rows.side, rows.stride, columns.stride)


# The derivative is written by hand: JAX's would pad every window to full size before adding them.
@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _sum_neighbours(
    products: Float[Array, "b high_halo wide_halo"], rows: _Grid, columns: _Grid
) -> Float[Array, "b high wide"]:
    """Products of neighbourhoods, from the products of single positions."""
    return _sum_windows(products, rows, columns)


def _sum_neighbours_forward(products: Array, rows: _Grid, columns: _Grid) -> tuple[Array, None]:
    return _sum_neighbours(products, rows, columns), None


def _sum_neighbours_backward(rows: _Grid, columns: _Grid, _: None, grad: Array) -> tuple[Array]:
    # Neighbourhoods are symmetric, so the transpose sums over the same windows.
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
    """The part of x for one block of positions; its features include the halo."""
    block = jax.tree.map(lambda y: _rows(y, index, size), x)
    return block._replace(features=_rows(x.features, index, size, halo))


def _add(x: _Compared, block: _Compared, index: jax.Array, size: int) -> _Compared:
    """Adds `block` to the part of x that `_take` returns; the halos of blocks overlap."""

    def add(y: Array, rows: Array) -> Array:
        old = _rows(y, index, size, rows.shape[1] - size)
        return jax.lax.dynamic_update_slice_in_dim(y, old + rows, index * size, 1)

    return jax.tree.map(add, x, block)


class Measured(NamedTuple):
    """What attention returns, and how its softmax is spread.

    Attributes:
      values: (b, n, v), the weighted means of the values.
      log_sum: (b, n, 1), logarithm of the sum of the logits' exponentials.
      entropy: (b, n, 1), of the softmax, in nats: 0 if one column has all the weight, log(m) if all
        m have the same.
    """

    values: Float[Array, "b n v"]
    log_sum: Float[Array, "b n 1"]
    entropy: Float[Array, "b n 1"]


def attend(
    rows: Side,
    columns: Side,
    values: Float[Array, "b m v"],
    temperature: float,
    *,
    precision: _Precision = PRECISION,
    mesh: Mesh | None = None,
) -> Float[Array, "b n v"]:
    """softmax(rows columns^T / temperature) values, without the n x m matrix.

    The softmax over m uses a running maximum and sum. The forward pass keeps the result and the
    logarithm of each row's sum, from which the backward pass recomputes the blocks.

    Args:
      rows: the n rows, float32 or float64 as the columns are.
      columns: the m columns, of the same kind as the rows.
      values: one vector for each column.
      temperature: divides the products.
      precision: of the matrix products.
      mesh: devices, on one axis, that split the rows if their number divides the height of the
        rows' grid; otherwise, or with None, every device computes all rows.

    Raises:
      ValueError: rows and columns have neighbourhoods of different sides.
    """
    return _by_blocks(_attend, rows, columns, values, temperature, precision, mesh)


def measure(
    rows: Side,
    columns: Side,
    values: Float[Array, "b m v"],
    temperature: float,
    *,
    precision: _Precision = PRECISION,
    mesh: Mesh | None = None,
) -> Measured:
    """`attend`, with the sums and the entropies of its softmax; it has no derivative."""
    return _by_blocks(_measure, rows, columns, values, temperature, precision, mesh)


def _by_blocks(
    function: Callable[..., Any],
    rows: Side,
    columns: Side,
    values: Float[Array, "b m v"],
    temperature: float,
    precision: _Precision,
    mesh: Mesh | None,
) -> Any:
    """Chooses the blocks, and calls `_attend` or `_measure` on all rows or on each device's."""
    if rows.grid.side != columns.grid.side:
        raise ValueError(
            f"rows have neighbourhoods of side {rows.grid.side}, columns of {columns.grid.side}"
        )
    values = values.astype(jnp.promote_types(values.dtype, columns.compared.features.dtype))
    parts = 1 if mesh is None or rows.grid.height % mesh.size else mesh.size
    # The halo costs products. It is a smaller share of a wider block, which takes less memory than
    # a larger square.
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
    if mesh is None or parts == 1:
        return jax.tree.map(rows.grid.from_line, function(*arguments, blocks))
    axis = mesh.axis_names[0]

    def part(queries: _Compared, keys: _Compared, values: Array) -> Any:
        size = rows.grid.length // parts
        own = _take(queries, jax.lax.axis_index(axis), size, rows.grid.halo)
        return function(own, keys, values, blocks)

    in_parts = jax.shard_map(
        part,
        mesh=mesh,
        in_specs=PartitionSpec(),
        out_specs=PartitionSpec(None, axis),
        # The loops' initial values are the same on all devices, their results are not.
        check_vma=False,
    )
    return jax.tree.map(rows.grid.from_line, in_parts(*arguments))


def map_rows(
    function: Callable[[Float[Array, "b rows k"]], Float[Array, "b rows *v"]],
    x: Float[Array, "b n k"],
    most: int,
) -> Float[Array, "b n *v"]:
    """Applies a function that treats rows independently to at most `most` rows at a time.

    The backward pass recomputes the function.
    """
    b, n, k = x.shape
    size = max(size for size in _divisors(n) if size <= max(most, 1))
    if size == n:
        return function(x)
    blocks = x.reshape(b, n // size, size, k).swapaxes(0, 1)
    mapped = jax.lax.map(jax.checkpoint(function), blocks).swapaxes(0, 1)
    return mapped.reshape(b, n, *mapped.shape[3:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _attend(
    queries: _Compared, keys: _Compared, values: Float[Array, "b m v"], blocks: _Blocks
) -> Float[Array, "b n v"]:
    return _attend_forward(queries, keys, values, blocks)[0]


def _attend_forward(
    queries: _Compared, keys: _Compared, values: Float[Array, "b m v"], blocks: _Blocks
) -> tuple[Float[Array, "b n v"], tuple[Any, ...]]:
    """The result, and the residuals for the backward pass."""
    out, log_sum, _ = _measure(queries, keys, values, blocks, with_entropy=False)
    return out, (queries, keys, values, out, log_sum)


def _measure(
    queries: _Compared,
    keys: _Compared,
    values: Float[Array, "b m v"],
    blocks: _Blocks,
    *,
    with_entropy: bool = True,
) -> Measured:
    """The forward pass; without `with_entropy`, the entropy is meaningless."""
    high, wide = blocks.high, blocks.wide
    b, m, channels = values.shape
    row_halo, column_halo = blocks.rows.halo, blocks.columns.halo
    n = queries.features.shape[1] - row_halo
    dtype = values.dtype

    def row(i: jax.Array, results: Measured) -> Measured:
        q = _take(queries, i, high, row_halo)

        def column(j: jax.Array, running: tuple[Array, ...]) -> tuple[Array, ...]:
            top, total, below, weighted = running
            logits = blocks.logits(q, _take(keys, j, wide, column_halo))
            new_top = jnp.maximum(top, logits.max(-1, keepdims=True))
            gaps = logits - new_top
            weights, rescale = jnp.exp(gaps), jnp.exp(top - new_top)
            v = _rows(values, j, wide)
            added = jnp.einsum("bnm,bmv->bnv", weights, v, precision=blocks.precision)
            if with_entropy:
                # Padding has weight 0 and an infinite gap; so have all columns before the first.
                moved = jnp.where(total > 0, total * (top - new_top), 0)
                own = jnp.where(weights > 0, weights * gaps, 0).sum(-1, keepdims=True)
                below = (below + moved) * rescale + own
            total = total * rescale + weights.sum(-1, keepdims=True)
            return new_top, total, below, weighted * rescale + added

        zeros = jnp.zeros((b, high, 1), dtype)
        start = zeros - jnp.inf, zeros, zeros, jnp.zeros((b, high, channels), dtype)
        # `below` is the sum of weights times gaps to the top.
        top, total, below, weighted = jax.lax.fori_loop(0, m // wide, column, start)
        found = Measured(weighted / total, top + jnp.log(total), jnp.log(total) - below / total)
        return Measured(*(_put(*x, i) for x in zip(results, found, strict=True)))

    zeros = jnp.zeros((b, n, 1), dtype)
    empty = Measured(jnp.zeros((b, n, channels), dtype), zeros, zeros)
    return jax.lax.fori_loop(0, n // high, row, empty)


def _attend_backward(
    blocks: _Blocks, residuals: tuple[Any, ...], grad: Float[Array, "b n v"]
) -> tuple[_Compared, _Compared, Float[Array, "b m v"]]:
    queries, keys, values, out, log_sum = residuals
    high, wide = blocks.high, blocks.wide
    row_halo, column_halo = blocks.rows.halo, blocks.columns.halo
    n, m = out.shape[1], values.shape[1]
    einsum = functools.partial(jnp.einsum, precision=blocks.precision)
    # The term of the softmax's derivative that all columns of a row share.
    common = jnp.sum(grad * out, -1, keepdims=True)

    def column(j: jax.Array, grads: tuple[Any, Any, Array]) -> tuple[Any, Any, Array]:
        to_queries, to_keys, to_values = grads
        k, v = _take(keys, j, wide, column_halo), _rows(values, j, wide)

        def row(i: jax.Array, running: tuple[Any, Any, Array]) -> tuple[Any, Any, Array]:
            to_queries, to_k, to_v = running
            q, g = _take(queries, i, high, row_halo), _rows(grad, i, high)
            logits, pull = jax.vjp(blocks.logits, q, k)
            weights = jnp.exp(logits - _rows(log_sum, i, high))
            to_v += einsum("bnm,bnv->bmv", weights, g)
            to_weights = einsum("bnv,bmv->bnm", g, v)
            more_to_q, more_to_k = pull(weights * (to_weights - _rows(common, i, high)))
            to_queries = _add(to_queries, more_to_q, i, high)
            return to_queries, jax.tree.map(jnp.add, to_k, more_to_k), to_v

        start = to_queries, jax.tree.map(jnp.zeros_like, k), jnp.zeros_like(v)
        to_queries, to_k, to_v = jax.lax.fori_loop(0, n // high, row, start)
        return to_queries, _add(to_keys, to_k, j, wide), _put(to_values, to_v, j)

    zeros = jax.tree.map(jnp.zeros_like, (queries, keys, values))
    return jax.lax.fori_loop(0, m // wide, column, zeros)


_attend.defvjp(_attend_forward, _attend_backward)
