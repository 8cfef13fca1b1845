"""Dense correspondence: comparing positions, and carrying values by the soft match.

Positions of the input are n (rows of the correlation), positions of the exemplar m (columns).

Two ways compute the same: `Warp` holds the whole n x m correlation; `StreamingWarp` makes it block
by block, forward and backward, in memory that does not grow with n x m.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

from cocosnet_jax.nn.norms import unit_length

_Precision = jax.lax.Precision | None
# Logits are cosines times 100: rounding a product to bf16 or TF32 would move them by tenths.
PRECISION = jax.lax.Precision.HIGHEST
# Up to so many positions (256 x 256 pixels at stride 4) the whole correlation is held.
DENSE_POSITIONS = 4096
# Most rows and columns of a streamed block.
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


def matching_features(
    x: Float[Array, "b h w k"], match_kernel: int, centre: Literal["channels", "positions"]
) -> Float[Array, "b n k_match"]:
    """Centred unit vectors whose products are the correlation (equation 3, SPEC section 3).

    Args:
      x: theta or phi.
      match_kernel: side of the neighbourhood that stands for a position.
      centre: subtract each position's mean over channels, or each channel's over positions.

    Returns:
      (b, h * w, k * match_kernel^2), float32 or wider.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    x = neighbourhoods(x, match_kernel)
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    x = x - x.mean(-1 if centre == "channels" else 1, keepdims=True)
    return unit_length(x)


def correlation_logits(
    theta: Float[Array, "b n k"],
    phi: Float[Array, "b m k"],
    temperature: float,
    precision: _Precision = PRECISION,
) -> Float[Array, "b n m"]:
    """Cosines of all pairs, divided by the temperature (equations 3 and 4)."""
    return jnp.einsum("bnk,bmk->bnm", theta, phi, precision=precision) / temperature


class SoftMatch(Protocol):
    """A soft match, ready to carry values."""

    def to_input(self, values: Float[Array, "b m k"]) -> Float[Array, "b n k"]:
        """Values of the exemplar's positions, at the input's (equation 4)."""
        ...

    def to_exemplar(self, values: Float[Array, "b n k"]) -> Float[Array, "b m k"]:
        """Values of the input's positions, at the exemplar's (equation 12)."""
        ...


def soft_match(
    theta: Float[Array, "b n k"],
    phi: Float[Array, "b m k"],
    temperature: float,
    correlation: Literal["auto", "dense", "streaming"] = "auto",
    over: Mesh | None = None,
) -> SoftMatch:
    """The match of unit vectors.

    Args:
      theta: of the input's positions.
      phi: of the exemplar's.
      temperature: divides the cosines.
      correlation: hold all pairs, or make them block by block; `auto` does the latter where one
        side has more than DENSE_POSITIONS.
      over: devices that share the positions, when they are made block by block; None where
        they share the batch.
    """
    if correlation == "auto":
        small = max(theta.shape[1], phi.shape[1]) <= DENSE_POSITIONS
        correlation = "dense" if small else "streaming"
    if correlation == "dense":
        return Warp(correlation_logits(theta, phi, temperature))
    return StreamingWarp(theta, phi, temperature, over=over)


class Warp(NamedTuple):
    """A soft match that holds the whole correlation.

    Attributes:
      logits: (b, n, m).
    """

    logits: Float[Array, "b n m"]

    def to_input(self, values: Float[Array, "b m k"]) -> Float[Array, "b n k"]:
        weights = jax.nn.softmax(self.logits, -1)
        return jnp.einsum("bnm,bmk->bnk", weights, values, precision=PRECISION)

    def to_exemplar(self, values: Float[Array, "b n k"]) -> Float[Array, "b m k"]:
        weights = jax.nn.softmax(self.logits, 1)
        return jnp.einsum("bnm,bnk->bmk", weights, values, precision=PRECISION)


class StreamingWarp(NamedTuple):
    """A soft match that makes the correlation anew, in blocks, wherever it is needed.

    Attributes:
      theta, phi: unit vectors of input (b, n, k) and exemplar (b, m, k).
      temperature: divides the cosines.
      block: most rows and columns of one block.
      over: devices that share the rows of the result, or None.
    """

    theta: Float[Array, "b n k"]
    phi: Float[Array, "b m k"]
    temperature: float
    block: int = BLOCK
    over: Mesh | None = None

    def to_input(self, values: Float[Array, "b m k"]) -> Float[Array, "b n k"]:
        return self._carry(self.theta, self.phi, values)

    def to_exemplar(self, values: Float[Array, "b n k"]) -> Float[Array, "b m k"]:
        return self._carry(self.phi, self.theta, values)

    def _carry(
        self,
        queries: Float[Array, "b n k"],
        keys: Float[Array, "b m k"],
        values: Float[Array, "b m v"],
    ) -> Float[Array, "b n v"]:
        carry = functools.partial(attend, temperature=self.temperature, block=self.block)
        if self.over is None or queries.shape[1] % self.over.size:
            return carry(queries, keys, values)
        rows, all_of_it = PartitionSpec(None, self.over.axis_names[0]), PartitionSpec()
        split = jax.shard_map(
            carry,
            mesh=self.over,
            in_specs=(rows, all_of_it, all_of_it),
            out_specs=rows,
            # What the loops start from is the same on all devices, what they yield is not.
            check_vma=False,
        )
        return split(queries, keys, values)


def _block_size(positions: int, most: int) -> int:
    """The largest divisor that is not above `most`."""
    return max(size for size in range(1, min(positions, most) + 1) if positions % size == 0)


def _rows(x: Float[Array, "b n k"], index: jax.Array, size: int) -> Float[Array, "b size k"]:
    return jax.lax.dynamic_slice_in_dim(x, index * size, size, 1)


def _put(
    x: Float[Array, "b n k"], rows: Float[Array, "b size k"], index: jax.Array
) -> Float[Array, "b n k"]:
    return jax.lax.dynamic_update_slice_in_dim(x, rows, index * rows.shape[1], 1)


def attend(
    queries: Float[Array, "b n k"],
    keys: Float[Array, "b m k"],
    values: Float[Array, "b m v"],
    temperature: float,
    *,
    block: int = BLOCK,
    precision: _Precision = PRECISION,
) -> Float[Array, "b n v"]:
    """softmax(queries keys^T / temperature) values, without the n x m matrix.

    The softmax runs over m with a running maximum and sum; the backward pass makes the blocks
    again from what the forward pass keeps: the result and each row's log of the sum.

    Args:
      queries: what rows are compared by, float32 or float64 as keys and values are.
      keys: what columns are compared by.
      values: what is carried, of every column.
      temperature: divides the products.
      block: most rows and columns of one block of the matrix.
      precision: of the matrix products.
    """
    return _attend(queries, keys, values, temperature, block, precision)


def over_rows(
    function: Callable[[Float[Array, "b rows k"]], Float[Array, "b rows *v"]],
    x: Float[Array, "b n k"],
    most: int,
) -> Float[Array, "b n *v"]:
    """function(x) of a function that treats every row alone, at most `most` rows at a time.

    The backward pass makes what belongs to the rows anew.
    """
    b, n, k = x.shape
    size = _block_size(n, most)
    if size == n:
        return function(x)
    blocks = x.reshape(b, n // size, size, k).swapaxes(0, 1)
    found = jax.lax.map(jax.checkpoint(function), blocks).swapaxes(0, 1)
    return found.reshape(b, n, *found.shape[3:])


# Takes what `_attend_forward` takes; of its arguments, the last three are no arrays.
@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _attend(*arguments: Any) -> Float[Array, "b n v"]:
    return _attend_forward(*arguments)[0]


def _attend_forward(
    queries: Array,
    keys: Array,
    values: Array,
    temperature: float,
    block: int,
    precision: _Precision,
) -> tuple[Float[Array, "b n v"], tuple[Array, ...]]:
    """The result, and what the backward pass reads."""
    b, n, _ = queries.shape
    m = keys.shape[1]
    high, wide = _block_size(n, block), _block_size(m, block)
    dtype, channels = values.dtype, values.shape[-1]

    def row(i: jax.Array, found: tuple[Array, Array]) -> tuple[Array, Array]:
        q = _rows(queries, i, high)

        def column(j: jax.Array, so_far: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            top, total, carried = so_far
            logits = correlation_logits(q, _rows(keys, j, wide), temperature, precision)
            new_top = jnp.maximum(top, logits.max(-1, keepdims=True))
            weights, fade = jnp.exp(logits - new_top), jnp.exp(top - new_top)
            added = jnp.einsum("bnm,bmv->bnv", weights, _rows(values, j, wide), precision=precision)
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
    temperature: float,
    block: int,
    precision: _Precision,
    kept: tuple[Array, ...],
    grad: Float[Array, "b n v"],
) -> tuple[Array, Array, Array]:
    queries, keys, values, out, log_sum = kept
    n, m = queries.shape[1], keys.shape[1]
    high, wide = _block_size(n, block), _block_size(m, block)
    einsum = functools.partial(jnp.einsum, precision=precision)
    # Of the softmax's derivative: what all columns of a row have in common.
    common = jnp.sum(grad * out, -1, keepdims=True)

    def column(j: jax.Array, found: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        k, v = _rows(keys, j, wide), _rows(values, j, wide)

        def row(i: jax.Array, so_far: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            to_queries, to_k, to_v = so_far
            q, g = _rows(queries, i, high), _rows(grad, i, high)
            logits = correlation_logits(q, k, temperature, precision)
            weights = jnp.exp(logits - _rows(log_sum, i, high))
            to_v += einsum("bnm,bnv->bmv", weights, g)
            to_weights = einsum("bnv,bmv->bnm", g, v)
            to_logits = weights * (to_weights - _rows(common, i, high)) / temperature
            to_q = _rows(to_queries, i, high) + einsum("bnm,bmk->bnk", to_logits, k)
            to_k += einsum("bnm,bnk->bmk", to_logits, q)
            return _put(to_queries, to_q, i), to_k, to_v

        to_queries, to_keys, to_values = found
        start = to_queries, jnp.zeros_like(k), jnp.zeros_like(v)
        to_queries, to_k, to_v = jax.lax.fori_loop(0, n // high, row, start)
        return to_queries, _put(to_keys, to_k, j), _put(to_values, to_v, j)

    zeros = jnp.zeros_like(queries), jnp.zeros_like(keys), jnp.zeros_like(values)
    return jax.lax.fori_loop(0, m // wide, column, zeros)


_attend.defvjp(_attend_forward, _attend_backward)
