"""Softmax attention computed block by block, in memory that does not grow with rows x columns.

Rows and columns are compared by unit vectors, or by neighbourhoods of positions in two grids.

Longer than other files: forward pass, both kinds of comparison and their gradients are one
algorithm.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

from cocosnet_jax.nn.neighbourhoods import centre
from cocosnet_jax.nn.platform import by_platform
from cocosnet_jax.nn.tiles import Tile, divisors, spread_neighbours, sum_neighbours

_Precision = jax.lax.Precision | None
# Logits are cosines times 100, so products in bfloat16 or TF32 would change them by tenths.
PRECISION = jax.lax.Precision.HIGHEST
# Up to this number of positions (256 x 256 pixels at stride 4), attention holds all pairs.
DENSE_POSITIONS = 4096
# Approximate rows and columns of a block.
BLOCK = 2048
# On CPUs, the weights of a block stay relative to the maxima of an earlier one, as long as each
# row's sum of weights is smaller than this. In float32, values of up to 1e18 then do not overflow.
LARGEST_SUM = 1e20


class Compared(NamedTuple):
    """Features by which positions are compared: of a whole grid, or of a tile as a line.

    Attributes:
      features: unit vectors; or the vectors in neighbourhoods, whose tiles include neighbours.
      mean: of each neighbourhood, less the offset; None for unit vectors.
      scale: 1 / length of each centred neighbourhood; None for unit vectors.
      offset: one number for each sample, to subtract from the features, padding included; None for
        unit vectors, and where it is subtracted.
    """

    features: Float[Array, "b *positions k"]
    mean: Float[Array, "b *inner 1"] | None = None
    scale: Float[Array, "b *inner 1"] | None = None
    offset: Float[Array, "b 1 1 1"] | None = None

    def take(self, tile: Tile, index: jax.Array) -> "Compared":
        """The part for one tile."""
        features = tile.take_around(self.features, index)
        if self.mean is None or self.scale is None or self.offset is None:
            return Compared(features)
        features = features.astype(self.mean.dtype) - self.offset[:, 0]
        return Compared(features, tile.take(self.mean, index), tile.take(self.scale, index))

    def add(self, tile: Tile, part: "Compared", index: jax.Array) -> "Compared":
        """Adds to one tile; the neighbours of tiles overlap."""

        def inner(x: Array | None, more: Array | None) -> Array | None:
            return None if x is None or more is None else tile.add(x, more, index)

        return self._replace(
            features=tile.add_around(self.features, part.features, index),
            mean=inner(self.mean, part.mean),
            scale=inner(self.scale, part.scale),
        )


def _centring(x: Float[Array, "b h w k"], side: int) -> tuple[Array, Array, Array]:
    """Mean, scale and offset of `Compared`.

    The product of two neighbourhoods is the sum of their vectors' products. Centring over channels
    subtracts the product of their means times the number of their channels.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    # Subtracting one constant from all numbers, padding included, changes no centred vector, and
    # makes the products of means small, so that little is lost by cancellation.
    offset = jax.lax.stop_gradient(x.mean((1, 2, 3), keepdims=True))
    found = centre(x, side)
    return (found.means - offset).mean(-1, keepdims=True), found.scale, offset


@flax.struct.dataclass
class Side:
    """The rows or the columns of a correlation matrix.

    Attributes:
      compared: their features, in a grid.
      side: of the neighbourhoods, 1 for vectors.
    """

    compared: Compared
    side: int = flax.struct.field(pytree_node=False)

    @classmethod
    def of_vectors(cls, x: Float[Array, "b n k"]) -> "Side":
        """Positions that are compared by these vectors, unchanged."""
        return cls.of_grid(x[:, :, None])

    @classmethod
    def of_grid(cls, x: Float[Array, "b h w k"]) -> "Side":
        """`of_vectors` of positions in a grid."""
        return cls(Compared(x), 1)

    @classmethod
    def of_neighbourhoods(cls, x: Float[Array, "b h w k"], side: int) -> "Side":
        """Positions that are compared by `warp.matching_features` of x, centred over channels.

        Raises:
          ValueError: the side is even, so that neighbourhoods have no centre.
        """
        # The backward pass keeps x, and recomputes the other arrays of that size.
        return cls(Compared(x, *jax.checkpoint(_centring, static_argnums=1)(x, side)), side)

    @property
    def dtype(self) -> jnp.dtype:
        """Of products: float32 or wider."""
        return jnp.promote_types(self.compared.features.dtype, jnp.float32)

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width."""
        _, height, width, _ = self.compared.features.shape
        return height, width


class Blocks(NamedTuple):
    """How the correlation matrix is split into blocks, and how a block is computed.

    Attributes:
      rows, columns: the tiles whose positions a block compares.
      temperature: divides the cosines.
      precision: of the matrix products.
    """

    rows: Tile
    columns: Tile
    temperature: float
    precision: _Precision

    def einsum(self, formula: str, *arrays: Array) -> Array:
        return jnp.einsum(formula, *arrays, precision=self.precision)

    def dots(
        self, queries: Compared, keys: Compared
    ) -> Float[Array, "b rows_around columns_around"]:
        """Products of the features."""
        return self.einsum("bnk,bmk->bnm", queries.features, keys.features)

    def products(
        self,
        dots: Float[Array, "b rows_around columns_around"],
        queries: Compared,
        keys: Compared,
    ) -> Float[Array, "b rows columns"]:
        """Products of unit vectors, or of centred neighbourhoods before scaling."""
        if queries.mean is None or keys.mean is None:
            return dots
        count = self.rows.side**2 * queries.features.shape[-1]
        summed = sum_neighbours(dots, self.rows, self.columns)
        return summed - count * queries.mean * keys.mean.swapaxes(1, 2)

    def scales(self, queries: Compared, keys: Compared) -> tuple[Array | float, Array | float]:
        """What the products are multiplied by: a column over the temperature, and a row."""
        if queries.scale is None or keys.scale is None:
            return 1 / self.temperature, 1.0
        return queries.scale / self.temperature, keys.scale.swapaxes(1, 2)

    def logits(
        self, products: Float[Array, "b rows columns"], queries: Compared, keys: Compared
    ) -> Float[Array, "b rows columns"]:
        """One block of the correlation, divided by the temperature (equations 3 and 4)."""
        column, row = self.scales(queries, keys)
        padding = np.where(self.columns.in_padding(), -np.inf, 0).astype(products.dtype)
        return products * column * row + padding

    def pull(
        self,
        grad: Float[Array, "b rows columns"],
        products: Float[Array, "b rows columns"],
        queries: Compared,
        keys: Compared,
    ) -> tuple[Compared, Compared]:
        """Gradients of queries and keys from those of the logits.

        Those of the keys' features are (b, k, columns): XLA on CPUs is slow where it has to
        transpose the larger of two matrices.
        """
        column, row = self.scales(queries, keys)
        grad = grad * column * row
        to_queries, to_keys = Compared(grad), Compared(grad)
        if queries.mean is not None and keys.mean is not None:
            assert queries.scale is not None
            assert keys.scale is not None
            # XLA's own sums over these arrays take longer than products with a vector.
            count = self.rows.side**2 * queries.features.shape[-1]
            over_columns = self.einsum("bnm,bmo->bno", grad, count * keys.mean)
            over_rows = self.einsum("bnm,bno->bmo", grad, count * queries.mean)
            weighted = grad * products
            for_scale_q = self.einsum("bnm,bmo->bno", weighted, jnp.ones_like(keys.mean))
            for_scale_k = self.einsum("bnm,bno->bmo", weighted, jnp.ones_like(queries.mean))
            to_queries = Compared(grad, -over_columns, _divide(for_scale_q, queries.scale))
            to_keys = Compared(grad, -over_rows, _divide(for_scale_k, keys.scale))
            grad = spread_neighbours(grad, self.rows, self.columns)
        return (
            to_queries._replace(features=self.einsum("bnm,bmk->bnk", grad, keys.features)),
            to_keys._replace(features=self.einsum("bnk,bnm->bkm", queries.features, grad)),
        )


def _divide(x: Float[Array, "b n 1"], scale: Float[Array, "b n 1"]) -> Float[Array, "b n 1"]:
    """Quotients; 0 in padding, whose scale is 0."""
    return jnp.where(scale == 0, 0, x / jnp.where(scale == 0, 1, scale))


class _Weights(NamedTuple):
    """Exponentials of gaps between a block's logits and a number for each row; their sums."""

    gaps: Float[Array, "b rows columns"]
    each: Float[Array, "b rows columns"]
    total: Float[Array, "b rows 1"]

    @classmethod
    def of(cls, gaps: Float[Array, "b rows columns"]) -> "_Weights":
        each = jnp.exp(gaps)
        return cls(gaps, each, each.sum(-1, keepdims=True))


class _Running(NamedTuple):
    """The softmax of some rows over the columns so far.

    Attributes:
      top: what the weights are relative to, the largest logit of all columns or of some.
      total: sum of the weights, the exponentials of the gaps between logits and `top`.
      below: sum of weights times gaps.
      weighted: sum of weights times values.
    """

    top: Float[Array, "b n 1"]
    total: Float[Array, "b n 1"]
    below: Float[Array, "b n 1"]
    weighted: Float[Array, "b n v"]


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

    The softmax over m uses running sums, relative to a running maximum or, on CPUs, to an earlier
    one (`LARGEST_SUM`). The forward pass keeps the result and the
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
    if rows.side != columns.side:
        raise ValueError(f"rows have neighbourhoods of side {rows.side}, columns of {columns.side}")
    side = rows.side
    (height, width), (b, _, v) = rows.grid, values.shape
    values = values.astype(jnp.promote_types(values.dtype, columns.dtype))
    parts = 1 if mesh is None or height % mesh.size else mesh.size
    blocks = Blocks(
        Tile.about(BLOCK, height // parts, width, side),
        Tile.about(BLOCK, *columns.grid, side),
        temperature,
        precision,
    )
    grid = values.reshape(b, *columns.grid, v)

    def part(queries: Compared, keys: Compared, values: Array, number: Any) -> Any:
        return function(queries, keys, values, number, height // parts, blocks)

    arguments = rows.compared, columns.compared, grid
    if mesh is None or parts == 1:
        found = part(*arguments, jnp.zeros((), int))
    else:
        axis = mesh.axis_names[0]

        def own_part(queries: Compared, keys: Compared, values: Array) -> Any:
            # Of the type of the loops' numbers, to which it is added.
            return part(queries, keys, values, jax.lax.axis_index(axis).astype(int))

        in_parts = jax.shard_map(
            own_part,
            mesh=mesh,
            in_specs=PartitionSpec(),
            out_specs=PartitionSpec(None, axis),
            # The loops' initial values are the same on all devices, their results are not.
            check_vma=False,
        )
        found = in_parts(*arguments)
    return jax.tree.map(lambda x: x.reshape(b, height * width, -1), found)


def map_rows(
    function: Callable[[Float[Array, "b rows k"]], Float[Array, "b rows *v"]],
    x: Float[Array, "b n k"],
    most: int,
) -> Float[Array, "b n *v"]:
    """Applies a function that treats rows independently to at most `most` rows at a time.

    The backward pass recomputes the function.
    """
    b, n, k = x.shape
    size = max(size for size in divisors(n) if size <= max(most, 1))
    if size == n:
        return function(x)
    blocks = x.reshape(b, n // size, size, k).swapaxes(0, 1)
    mapped = jax.lax.map(jax.checkpoint(function), blocks).swapaxes(0, 1)
    return mapped.reshape(b, n, *mapped.shape[3:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _attend(
    queries: Compared,
    keys: Compared,
    values: Float[Array, "b h w v"],
    part: jax.Array,
    high: int,
    blocks: Blocks,
) -> Float[Array, "b high width v"]:
    """The weighted values of `_measure`, with a derivative."""
    return _attend_forward(queries, keys, values, part, high, blocks)[0]


def _attend_forward(
    queries: Compared,
    keys: Compared,
    values: Float[Array, "b h w v"],
    part: jax.Array,
    high: int,
    blocks: Blocks,
) -> tuple[Float[Array, "b high width v"], tuple[Any, ...]]:
    """The result, and the residuals for the backward pass."""
    out, log_sum, _ = _measure(queries, keys, values, part, high, blocks, with_entropy=False)
    return out, (queries, keys, values, part, out, log_sum)


def _measure(
    queries: Compared,
    keys: Compared,
    values: Float[Array, "b h w v"],
    part: jax.Array,
    high: int,
    blocks: Blocks,
    *,
    with_entropy: bool = True,
) -> Measured:
    """The forward pass for one part of the queries, which has `high` rows of the grid.

    Without `with_entropy`, the entropy is meaningless.
    """
    rows, columns = blocks.rows, blocks.columns
    b, *_, channels = values.shape
    dtype = values.dtype
    tiles = high * rows.width // (rows.high * rows.wide)

    def row(i: jax.Array, results: Measured) -> Measured:
        q = queries.take(rows, part * tiles + i)

        def add(old: _Running, top: Array, weights: _Weights, v: Array) -> _Running:
            rescale, below = jnp.exp(old.top - top), old.below
            if with_entropy:
                # Padding has weight 0 and an infinite gap; so have all columns before the first.
                moved = jnp.where(old.total > 0, old.total * (old.top - top), 0)
                own = jnp.where(weights.each > 0, weights.each * weights.gaps, 0)
                below = (below + moved) * rescale + own.sum(-1, keepdims=True)
            added = blocks.einsum("bnm,bmv->bnv", weights.each, v)
            total = old.total * rescale + weights.total
            return _Running(top, total, below, old.weighted * rescale + added)

        def with_new_top(old: _Running, dots: Array, k: Compared, v: Array) -> _Running:
            logits = blocks.logits(blocks.products(dots, q, k), q, k)
            top = jnp.maximum(old.top, logits.max(-1, keepdims=True))
            return add(old, top, _Weights.of(logits - top), v)

        def with_old_top_if_possible(old: _Running, dots: Array, k: Compared, v: Array) -> _Running:
            logits = blocks.logits(blocks.products(dots, q, k), q, k)
            weights = _Weights.of(logits - old.top)
            # One answer for all rows and samples. It is no if a sum is infinite or NaN.
            return jax.lax.cond(
                jnp.all(old.total + weights.total < LARGEST_SUM),
                lambda: add(old, old.top, weights, v),
                lambda: with_new_top(old, dots, k, v),
            )

        def block(j: jax.Array) -> tuple[Array, Compared, Array]:
            k = keys.take(columns, j)
            return blocks.dots(q, k), k, columns.take(values, j)

        def column(j: jax.Array, old: _Running) -> _Running:
            # Looking for maxima takes CPUs an eighth of the time, and they hardly ever matter.
            return by_platform(old, *block(j), cpu=with_old_top_if_possible, default=with_new_top)

        zeros = jnp.zeros((b, rows.length, 1), dtype)
        nothing = jnp.zeros((b, rows.length, channels), dtype)
        first = _Running(zeros - jnp.inf, zeros, zeros, nothing)
        first = with_new_top(first, *block(jnp.zeros((), int)))
        count = _tiles(values, columns)
        last = first if count == 1 else jax.lax.fori_loop(1, count, column, first)
        log_total = jnp.log(last.total)
        entropy = jnp.maximum(log_total - last.below / last.total, 0)
        found = Measured(last.weighted / last.total, last.top + log_total, entropy)
        return Measured(*(rows.put(*x, i) for x in zip(results, found, strict=True)))

    zeros = jnp.zeros((b, high, rows.width, 1), dtype)
    empty = Measured(jnp.zeros((b, high, rows.width, channels), dtype), zeros, zeros)
    return jax.lax.fori_loop(0, tiles, row, empty)


def _tiles(x: Float[Array, "b h w k"], tile: Tile) -> int:
    """Number of tiles of a grid."""
    return x.shape[1] * x.shape[2] // (tile.high * tile.wide)


def _attend_backward(
    high: int, blocks: Blocks, residuals: tuple[Any, ...], grad: Float[Array, "b high width v"]
) -> tuple[Compared, Compared, Float[Array, "b h w v"], None]:
    queries, keys, values, part, out, log_sum = residuals
    rows, columns = blocks.rows, blocks.columns
    tiles = _tiles(grad, rows)
    # The term of the softmax's derivative that all columns of a row share.
    common = jnp.sum(grad * out, -1, keepdims=True)

    def column(j: jax.Array, grads: tuple[Any, Any, Array]) -> tuple[Any, Any, Array]:
        to_queries, to_keys, to_values = grads
        k, v = keys.take(columns, j), columns.take(values, j)

        def row(i: jax.Array, running: tuple[Any, Any, Array]) -> tuple[Any, Any, Array]:
            to_queries, to_k, to_v = running
            q, g = queries.take(rows, part * tiles + i), rows.take(grad, i)
            products = blocks.products(blocks.dots(q, k), q, k)
            # Padding has weight 0.
            log_sums = rows.take(log_sum, i, padding=np.inf)
            weights = jnp.exp(blocks.logits(products, q, k) - log_sums)
            to_v += blocks.einsum("bnv,bnm->bvm", g, weights)
            to_weights = blocks.einsum("bnv,bmv->bnm", g, v)
            to_logits = weights * (to_weights - rows.take(common, i))
            more_to_q, more_to_k = blocks.pull(to_logits, products, q, k)
            to_queries = to_queries.add(rows, more_to_q, part * tiles + i)
            return to_queries, jax.tree.map(jnp.add, to_k, more_to_k), to_v

        like_k, like_v = k._replace(features=k.features.swapaxes(1, 2)), v.swapaxes(1, 2)
        start = to_queries, *jax.tree.map(jnp.zeros_like, (like_k, like_v))
        to_queries, to_k, to_v = jax.lax.fori_loop(0, tiles, row, start)
        to_keys = to_keys.add(columns, to_k._replace(features=to_k.features.swapaxes(1, 2)), j)
        return to_queries, to_keys, columns.put(to_values, to_v.swapaxes(1, 2), j)

    def zeros(x: Array) -> Array:
        return jnp.zeros(x.shape, values.dtype)

    start = jax.tree.map(zeros, (queries, keys, values))
    grads = jax.lax.fori_loop(0, _tiles(values, columns), column, start)
    to_queries, to_keys, to_values = jax.tree.map(
        lambda grad, x: grad.astype(x.dtype), grads, (queries, keys, values)
    )
    return to_queries, to_keys, to_values, None


_attend.defvjp(_attend_forward, _attend_backward)
