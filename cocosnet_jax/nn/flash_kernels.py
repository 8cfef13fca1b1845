"""The kernels of `flash`, for one block of queries and one block of keys.

A kernel holds a block transposed, keys x queries: the softmax then reduces over sublanes, which is
cheap, and what a query has one of (its sum, its scale) is a row of lanes. The products of all pairs
of single positions, neighbours above and below included, are written first. A product of
neighbourhoods is their sum along both grids at once: over rows it adds parts of that array, which
are aligned; over positions in a row it shifts the result by single lanes and sublanes.
"""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from cocosnet_jax.nn.flash_layout import NEVER, Layout

# How float32 is multiplied by units for bfloat16: in six products of three parts each, exactly as
# float32 (`float32`), in three products of two parts each (`bf16x3`), or rounded to bfloat16.
Products = Literal["float32", "bf16x3", "bfloat16"]


def multiply(
    a: Array, b: Array, axes: tuple[int, int], products: Products
) -> Float[Array, "rows columns"]:
    """Product of two matrices, summed over these axes."""
    dot = functools.partial(
        jax.lax.dot_general,
        dimension_numbers=(((axes[0],), (axes[1],)), ((), ())),
        preferred_element_type=jnp.float32,
    )
    if products == "bfloat16":
        return dot(a.astype(jnp.bfloat16), b.astype(jnp.bfloat16))
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    if products == "float32":
        return dot(a, b, precision=jax.lax.Precision.HIGHEST)

    def parts(x: Array) -> tuple[Array, Array]:
        high = x.astype(jnp.bfloat16)
        return high, (x - high.astype(jnp.float32)).astype(jnp.bfloat16)

    (a, a_rest), (b, b_rest) = parts(a), parts(b)
    return dot(a_rest, b) + dot(a, b_rest) + dot(a, b)


class Block(NamedTuple):
    """How a block of the correlation is computed on the chip.

    Attributes:
      queries, keys: the layouts of the positions.
      temperature: divides the cosines.
      products: how float32 is multiplied.
    """

    queries: Layout
    keys: Layout
    temperature: float
    products: Products

    @property
    def means(self) -> int:
        """Rows of the marks that hold means."""
        return self.keys.side**2 if self.keys.side > 1 else 0

    def multiply(self, a: Array, b: Array, over: tuple[int, int] = (1, 0)) -> Array:
        return multiply(a, b, over, self.products)

    def chunk(self, step: jax.Array) -> Any:
        """The keys of one step."""
        return pl.ds(pl.multiple_of(step * self.keys.step, self.keys.step), self.keys.step)

    def write_products(self, queries: Any, keys: Any, pairs: Any) -> None:
        """Products of single positions, of the whole windows."""

        def one(step: jax.Array, _: None) -> None:
            keys_here = self.chunk(step)
            pairs[keys_here] = self.multiply(keys[0, keys_here], queries[0])

        jax.lax.fori_loop(0, self.keys.window // self.keys.step, one, None)

    def across(self, x: Float[Array, "step size"]) -> Float[Array, "step size"]:
        """Adds up the neighbours in a grid row; it is its own transpose."""

        def mask(layout: Layout, axis: int, offset: int) -> Array:
            """1 where the neighbour at -offset lies in the same grid row, else 0."""
            shape = (x.shape[0], 1) if axis == 0 else (1, x.shape[1])
            place = jax.lax.broadcasted_iota(jnp.int32, shape, axis)
            if layout.row < shape[axis]:
                whole = layout.row & (layout.row - 1)
                place = place % layout.row if whole else place & (layout.row - 1)
            inside = (place >= offset) & (place < layout.row + offset)
            return jnp.where(inside, 1.0, 0.0)

        total = x
        reach = self.keys.reach
        for offset in (*range(-reach, 0), *range(1, reach + 1)):
            moved = pltpu.roll(x, offset % x.shape[1], 1) * mask(self.queries, 1, offset)
            moved = pltpu.roll(moved, offset % x.shape[0], 0) * mask(self.keys, 0, offset)
            total = total + moved
        return total

    def correlate(
        self, step: jax.Array, marks_q: Any, marks_k: Any, pairs: Any
    ) -> tuple[Array, Array, Array]:
        """The keys of one step against all queries, before and after scaling.

        Returns:
          (step, size) products of neighbourhoods; (step, 1) scales of the keys; (step, size)
          logits (equations 3 and 4).
        """
        size = self.queries.size
        down = [
            pairs[self.chunk(step + i), i * self.queries.step : i * self.queries.step + size]
            for i in range(self.keys.side)
        ]
        summed = self.across(functools.reduce(jnp.add, down))
        own = marks_k[0, :, self.chunk(step)].T
        if self.means:
            rows = marks_q[0]
            row = jax.lax.broadcasted_iota(jnp.int32, rows.shape, 0)
            summed += self.multiply(own, jnp.where(row < self.means, rows, 0.0))
        scale = own[:, self.means : self.means + 1]
        never = own[:, self.means + 1 : self.means + 2]
        scale_q = marks_q[0, self.means : self.means + 1] / self.temperature
        return summed, scale, summed * scale * scale_q + never


def forward_kernel(
    queries: Any,
    marks_q: Any,
    keys: Any,
    marks_k: Any,
    values: Any,
    out: Any,
    log_sum: Any,
    entropy: Any,
    pairs: Any,
    top: Any,
    total: Any,
    below: Any,
    *,
    block: Block,
) -> None:
    """One block of keys: the softmax's maximum, sum and entropy, and the weighted values."""
    first, last = pl.program_id(2) == 0, pl.program_id(2) == pl.num_programs(2) - 1
    size, steps = block.queries.size, block.keys.steps

    @pl.when(first)
    def _() -> None:
        top[:] = jnp.full_like(top, NEVER)
        total[:] = jnp.zeros_like(total)
        below[:] = jnp.zeros_like(below)
        out[:] = jnp.zeros_like(out)

    block.write_products(queries, keys, pairs)

    def logits(step: jax.Array, highest: Array) -> Array:
        _, _, found = block.correlate(step, marks_q, marks_k, pairs)
        # The steps that follow do not read these products again.
        pairs[block.chunk(step), :size] = found
        return jnp.maximum(highest, found.max(0, keepdims=True))

    highest = jax.lax.fori_loop(0, steps, logits, top[:])

    def weights(step: jax.Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        gaps = pairs[block.chunk(step), :size] - highest
        found = jnp.exp(gaps)
        pairs[block.chunk(step), :size] = found
        added = found.sum(0, keepdims=True), (found * gaps).sum(0, keepdims=True)
        return sums[0] + added[0], sums[1] + added[1]

    rescale = jnp.exp(top[:] - highest)
    moved = (below[:] + total[:] * (top[:] - highest)) * rescale
    start = total[:] * rescale, moved
    total[:], below[:] = jax.lax.fori_loop(0, steps, weights, start)
    top[:] = highest
    added = block.multiply(values[0], pairs[: block.keys.size, :size])
    out[0] = out[0] * rescale + added

    @pl.when(last)
    def _() -> None:
        out[0] = out[0] / total[:]
        log_sum[0] = top[:] + jnp.log(total[:])
        entropy[0] = jnp.log(total[:]) - below[:] / total[:]


def _recompute(
    block: Block, step: jax.Array, marks_q: Any, marks_k: Any, values: Any, pairs: Any, back: Any
) -> tuple[Array, Array, Array, Array, Array]:
    """What both gradients need of the keys of one step.

    Returns:
      products of neighbourhoods, scales of the keys, softmax weights, gradients of the logits and
      of the products.
    """
    grad, log_sum, common = back
    products, scale, logits = block.correlate(step, marks_q, marks_k, pairs)
    weights = jnp.exp(logits - log_sum[0])
    to_weights = block.multiply(values[0, :, block.chunk(step)].T, grad[0])
    to_logits = weights * (to_weights - common[0])
    scale_q = marks_q[0, block.means : block.means + 1] / block.temperature
    return products, scale, weights, to_logits, to_logits * scale * scale_q


def _spread(block: Block, step: jax.Array, to_products: Array, to_pairs: Any) -> None:
    """The transpose of the sum over neighbours."""
    to_products = block.across(to_products)
    for i in range(block.keys.side):
        place = block.chunk(step + i), pl.ds(i * block.queries.step, block.queries.size)
        to_pairs[place] += to_products


def queries_kernel(
    queries: Any,
    marks_q: Any,
    keys: Any,
    marks_k: Any,
    values: Any,
    grad: Any,
    log_sum: Any,
    common: Any,
    to_queries: Any,
    to_marks: Any,
    pairs: Any,
    to_pairs: Any,
    *,
    block: Block,
) -> None:
    """Gradient of a block of queries: adds what one block of keys gives."""

    @pl.when(pl.program_id(2) == 0)
    def _() -> None:
        to_queries[:] = jnp.zeros_like(to_queries)
        to_marks[:] = jnp.zeros_like(to_marks)

    block.write_products(queries, keys, pairs)
    to_pairs[:] = jnp.zeros_like(to_pairs)
    row = jax.lax.broadcasted_iota(jnp.int32, to_marks.shape[1:], 0)

    def one(step: jax.Array, nothing: None) -> None:
        found = _recompute(block, step, marks_q, marks_k, values, pairs, (grad, log_sum, common))
        products, scale, _weights, to_logits, to_products = found
        if block.means:
            to_means = block.multiply(marks_k[0, :, block.chunk(step)], to_products)
            to_scale = jnp.sum(to_logits * products * scale, 0, keepdims=True) / block.temperature
            added = jnp.where(row < block.means, to_means, 0.0)
            to_marks[0] += jnp.where(row == block.means, to_scale, added)
        _spread(block, step, to_products, to_pairs)

    jax.lax.fori_loop(0, block.keys.steps, one, None)

    def back(step: jax.Array, _: None) -> None:
        here = block.chunk(step)
        to_queries[0, 0] += block.multiply(keys[0, here].T, to_pairs[here])

    jax.lax.fori_loop(0, block.keys.window // block.keys.step, back, None)


def keys_kernel(
    queries: Any,
    marks_q: Any,
    keys: Any,
    marks_k: Any,
    values: Any,
    grad: Any,
    log_sum: Any,
    common: Any,
    to_keys: Any,
    to_marks: Any,
    to_values: Any,
    pairs: Any,
    to_pairs: Any,
    *,
    block: Block,
) -> None:
    """Gradients of a block of keys and of its values: adds what one block of queries gives."""

    @pl.when(pl.program_id(2) == 0)
    def _() -> None:
        to_keys[:] = jnp.zeros_like(to_keys)
        to_marks[:] = jnp.zeros_like(to_marks)
        to_values[:] = jnp.zeros_like(to_values)

    block.write_products(queries, keys, pairs)
    to_pairs[:] = jnp.zeros_like(to_pairs)
    shape = to_marks.shape[1], block.keys.step
    row = jax.lax.broadcasted_iota(jnp.int32, shape, 0)

    def one(step: jax.Array, nothing: None) -> None:
        here = block.chunk(step)
        found = _recompute(block, step, marks_q, marks_k, values, pairs, (grad, log_sum, common))
        products, _scale, weights, to_logits, to_products = found
        to_values[0, :, here] += block.multiply(grad[0], weights, (1, 1))
        if block.means:
            # One product makes the sums over queries and turns them into a row.
            scale_q = marks_q[0, block.means : block.means + 1] / block.temperature
            ones = jnp.broadcast_to(scale_q, (shape[0], block.queries.size))
            to_scale = block.multiply(ones, to_logits * products, (1, 1))
            to_means = block.multiply(marks_q[0], to_products, (1, 1))
            added = jnp.where(row < block.means, to_means, 0.0)
            to_marks[0, :, here] += jnp.where(row == block.means, to_scale, added)
        _spread(block, step, to_products, to_pairs)

    jax.lax.fori_loop(0, block.keys.steps, one, None)

    def back(step: jax.Array, _: None) -> None:
        here = block.chunk(step)
        to_keys[0, 0, here] += block.multiply(to_pairs[here], queries[0], (1, 1))

    jax.lax.fori_loop(0, block.keys.window // block.keys.step, back, None)
