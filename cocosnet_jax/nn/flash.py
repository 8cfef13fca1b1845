"""Softmax attention of the correlation and of the non-local block as Pallas kernels for TPUs.

The same as `streaming`, which is the plain version: softmax(rows columns^T / temperature) values by
a running maximum and sum (equations 3 and 4; FlashAttention), forward and backward, for vectors and
for neighbourhoods centred over channels. A block of the correlation never leaves the chip. Rows of
the correlation are called queries in the kernels, and columns keys.

XLA cannot split a kernel over devices. Where devices split the samples, each runs the kernels on
its own ones.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from cocosnet_jax.nn.flash_call import Call, Output
from cocosnet_jax.nn.flash_kernels import (
    Block,
    Products,
    forward_kernel,
    keys_kernel,
    queries_kernel,
)
from cocosnet_jax.nn.flash_layout import Compared, Layout, as_read, by_neighbourhood, by_vector
from cocosnet_jax.nn.kernels import on_each
from cocosnet_jax.nn.streaming import Measured


@flax.struct.dataclass
class Side:
    """The rows or the columns of a correlation matrix."""

    compared: Compared
    layout: Layout = flax.struct.field(pytree_node=False)

    @classmethod
    def of_vectors(cls, x: Float[Array, "b n k"]) -> "Side":
        """Positions that are compared by these vectors, unchanged."""
        layout = Layout.of_vectors(x.shape[1])
        return cls(by_vector(x, layout), layout)

    @classmethod
    def of_neighbourhoods(cls, x: Float[Array, "b h w k"], side: int) -> "Side":
        """Positions that are compared by `warp.matching_features` of x, centred over channels.

        Raises:
          ValueError: the side is even, so that neighbourhoods have no centre.
        """
        # The backward pass keeps x, and recomputes the other arrays of that size.
        compared = jax.checkpoint(by_neighbourhood, static_argnums=1)(x, side)
        return cls(compared, Layout(x.shape[1], x.shape[2], side))


def _measure(
    queries: Compared,
    keys: Compared,
    values: Float[Array, "b v m"],
    block: Block,
    interpret: bool,
) -> tuple[Array, ...]:
    """Weighted values (b, v, length), logarithms of the sums and entropies (b, 1, length)."""
    call = Call(block, keys_first=False)
    rows, channels, v = queries.marks.shape[1], queries.features.shape[-1], values.shape[1]
    size, length = block.queries.size, block.queries.length
    return call.run(
        forward_kernel,
        (queries.features.swapaxes(1, 2), queries.marks, *keys, values),
        call.inputs(rows, channels, v),
        [
            Output(call.of_queries(v), (v, length), values.dtype),
            *2 * [Output(call.of_queries(1), (1, length))],
        ],
        [(block.keys.window, block.queries.window), *3 * [(1, size)]],
        interpret,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _attend(
    queries: Compared,
    keys: Compared,
    values: Float[Array, "b v m"],
    block: Block,
    interpret: bool,
) -> Float[Array, "b v n"]:
    """The weighted values of `_measure`, with a derivative."""
    return _measure(queries, keys, values, block, interpret)[0]


def _attend_forward(
    queries: Compared, keys: Compared, values: Array, block: Block, interpret: bool
) -> tuple[Array, tuple[Any, ...]]:
    out, log_sum, _ = _measure(queries, keys, values, block, interpret)
    return out, (queries, keys, values, out, log_sum)


def _attend_backward(
    block: Block, interpret: bool, residuals: tuple[Any, ...], grad: Array
) -> tuple[Compared, Compared, Array]:
    queries, keys, values, out, log_sum = residuals
    # The term of the softmax's derivative that all keys of a query share.
    common = jnp.sum(grad.astype(jnp.float32) * out.astype(jnp.float32), 1, keepdims=True)
    rows, channels, v = queries.marks.shape[1], queries.features.shape[-1], values.shape[1]
    arguments = (queries.features.swapaxes(1, 2), queries.marks, *keys, values)
    arguments = (*arguments, grad, log_sum, common)
    scratch = 2 * [(block.keys.window, block.queries.window)]

    def run(kernel: Callable[..., None], keys_first: bool, outputs: Callable[..., Any]) -> Any:
        call = Call(block, keys_first)
        inputs = [*call.inputs(rows, channels, v), *map(call.of_queries, (v, 1, 1))]
        return call.run(kernel, arguments, inputs, outputs(call), scratch, interpret)

    def of_window(call: Call, layout: Layout, shape: tuple[int, int], side: Compared) -> Output:
        spec = call.spec((1, 1, *shape), lambda b, i, j: (b, j if call.keys_first else i, 0, 0))
        return Output(spec, (layout.blocks, *shape), side.features.dtype)

    to_queries, to_marks_q = run(
        queries_kernel,
        False,
        lambda call: [
            of_window(call, block.queries, (channels, block.queries.window), queries),
            Output(call.of_queries(rows), queries.marks.shape[1:]),
        ],
    )
    to_keys, to_marks_k, to_values = run(
        keys_kernel,
        True,
        lambda call: [
            of_window(call, block.keys, (block.keys.window, channels), keys),
            Output(call.of_keys(rows), keys.marks.shape[1:]),
            Output(call.of_keys(v), values.shape[1:], values.dtype),
        ],
    )
    return (
        Compared(block.queries.sum_windows(to_queries.swapaxes(2, 3)), to_marks_q),
        Compared(block.keys.sum_windows(to_keys), to_marks_k),
        to_values,
    )


_attend.defvjp(_attend_forward, _attend_backward)


def attend(
    rows: Side,
    columns: Side,
    values: Float[Array, "b m v"],
    temperature: float,
    *,
    products: Products = "float32",
    mesh: Mesh | None = None,
    interpret: bool = False,
) -> Float[Array, "b n v"]:
    """softmax(rows columns^T / temperature) values, without the n x m matrix.

    The backward pass recomputes the blocks from the logarithm of each row's sum. Sums, logits and
    weights are float32; the result has the values' type, at most float32.

    Args:
      rows: the n rows.
      columns: the m columns, of the same kind as the rows.
      values: one vector for each column.
      temperature: divides the products.
      products: how float32 is multiplied.
      mesh: devices, on one axis, that split the samples; their number divides that of the samples.
      interpret: run the kernels as plain JAX, on any device, for tests.

    Raises:
      ValueError: rows and columns have neighbourhoods of different sides.
    """
    block, line = _prepare(rows, columns, values, temperature, products)
    run = on_each(lambda q, k, v: _attend(q, k, v, block, interpret), mesh)
    out = run(rows.compared, columns.compared, line)
    return _from_lines(out, rows.layout)[..., : values.shape[-1]]


def measure(
    rows: Side,
    columns: Side,
    values: Float[Array, "b m v"],
    temperature: float,
    *,
    products: Products = "float32",
    mesh: Mesh | None = None,
    interpret: bool = False,
) -> Measured:
    """`attend`, with the sums and the entropies of its softmax; it has no derivative."""
    block, line = _prepare(rows, columns, values, temperature, products)
    run = on_each(lambda q, k, v: _measure(q, k, v, block, interpret), mesh)
    found = run(rows.compared, columns.compared, line)
    out, log_sum, entropy = (_from_lines(x, rows.layout) for x in found)
    return Measured(out[..., : values.shape[-1]], log_sum, entropy)


def usable(count: int, mesh: Mesh | None, samples: Mesh | None) -> bool:
    """Whether devices can run the kernels for a batch of `count` samples.

    They cannot share the positions of a sample (`mesh`); each of `samples` needs as many samples.
    """
    shared = mesh is not None and mesh.size > 1
    return not shared and (samples is None or count % samples.size == 0)


def _prepare(
    rows: Side, columns: Side, values: Float[Array, "b m v"], temperature: float, products: Products
) -> tuple[Block, Float[Array, "b v_padded length"]]:
    """The block, and the values in the line of the columns, padded to whole registers."""
    values = as_read(values)
    if rows.layout.side != columns.layout.side:
        raise ValueError(
            f"rows have neighbourhoods of side {rows.layout.side}, columns of {columns.layout.side}"
        )
    layout = columns.layout
    b, _, v = values.shape
    grid = values.reshape(b, layout.height, layout.width, v)
    sublanes = 32 // values.dtype.itemsize
    line = layout.in_line(jnp.pad(grid, ((0, 0), (0, 0), (0, 0), (0, -v % sublanes))))
    return Block(rows.layout, layout, temperature, products), line.swapaxes(1, 2)


def _from_lines(x: Float[Array, "b v length"], layout: Layout) -> Float[Array, "b n v"]:
    """Takes the positions of the grid out of lines, one for each value."""
    return layout.from_line(x.swapaxes(1, 2))
