"""The kernels of `modulation`.

A kernel holds one row of the maps of all pictures, as (columns, pictures, channels): XLA on a TPU
stores maps with pictures beside channels, where a shift by one column costs nothing. It computes in
float32, whatever the type of the arrays. Each row of a padded map is written once; its gradient is
read once, with the first and the last row beside the rows that these repeat.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from cocosnet_jax.nn.activation import SLOPE
from cocosnet_jax.nn.norms import EPS

# Of the 128 MiB of on-chip memory that TPUs v4 to v6e have.
VMEM = 100 * 2**20
# Pictures that lie beside each other in a register of TPUs.
PICTURES = 8


class Modulation(NamedTuple):
    """Gamma and beta of one SPADE layer.

    Attributes:
      joined: gamma and beta one after the other, without their biases.
      bias: of both.
    """

    joined: Float[Array, "b h w 2c"]
    bias: Float[Array, "1 2c"]


Modulations = tuple[Modulation, ...]
# Whether each layer's result goes through leaky ReLU and one pixel of reflection padding.
Padded = tuple[bool, ...]


def _normalise(x: Float[Array, "w b c"]) -> tuple[Array, Array]:
    """The positional norm of a row, and what it multiplies deviations by."""
    centred = x - x.mean(-1, keepdims=True)
    variance = jnp.square(centred).sum(-1, keepdims=True) / (x.shape[-1] - 1)
    inverse = 1 / jnp.sqrt(variance + EPS)
    return centred * inverse, inverse


def _wide(row: Any) -> Float[Array, "w b c"]:
    return row[0].astype(jnp.float32)


def _gamma_beta(joined: Any, bias: Any) -> tuple[Float[Array, "w b c"], Float[Array, "w b c"]]:
    """1 + gamma, and beta."""
    c = joined.shape[-1] // 2
    gamma, beta = joined[0, :, :, :c], joined[0, :, :, c:]
    return 1 + (gamma.astype(jnp.float32) + bias[:, :c]), beta.astype(jnp.float32) + bias[:, c:]


def _forward_kernel(x: Any, joined: Any, biases: Any, outputs: Any, *, padded: Padded) -> None:
    normed, _ = _normalise(_wide(x))
    for i, pad in enumerate(padded):
        scale, beta = _gamma_beta(joined[i], biases[i])
        y, out = normed * scale + beta, outputs[i]
        if not pad:
            out[0] = y.astype(out.dtype)
            continue
        y = jnp.where(y >= 0, y, SLOPE * y).astype(out.dtype)
        width = y.shape[0]
        out[0, 1 : width + 1] = y
        out[0, :1] = y[1:2]
        out[0, width + 1 :] = y[width - 2 : width - 1]


def _backward_kernel(
    x: Any,
    joined: Any,
    biases: Any,
    grads: Any,
    edges: Any,
    through: Any,
    to_x: Any,
    to_joined: Any,
    to_biases: Any,
    *,
    padded: Padded,
) -> None:
    row, last = pl.program_id(0), pl.num_programs(0) - 1
    _, width, _, c = x.shape
    normed, inverse = _normalise(_wide(x))
    to_normed = jnp.zeros_like(normed)
    for i, pad in enumerate(padded):
        scale, beta = _gamma_beta(joined[i], biases[i])
        grad = _wide(grads[i])
        if pad:
            # The second row and the last but one are the first and the last of the padded map, too.
            at_edge = (row == 1) | (row == last - 1)
            grad = grad + jnp.where(at_edge, _wide(edges[i]), 0)
            column = jax.lax.broadcasted_iota(jnp.int32, (width, 1, 1), 0)
            inner = grad[1 : width + 1] + jnp.where(column == 1, grad[:1], 0)
            grad = inner + jnp.where(column == width - 2, grad[width + 1 :], 0)
            grad = jnp.where(normed * scale + beta >= 0, grad, SLOPE * grad)
        to_gamma = grad * normed
        to_joined[i][0, :, :, :c] = to_gamma.astype(to_joined[i].dtype)
        to_joined[i][0, :, :, c:] = grad.astype(to_joined[i].dtype)

        @pl.when(row == 0)
        def _(to_bias: Any = to_biases[i]) -> None:
            to_bias[:] = jnp.zeros_like(to_bias)

        to_biases[i][:, :c] += to_gamma.sum(0).sum(0, keepdims=True)
        to_biases[i][:, c:] += grad.sum(0).sum(0, keepdims=True)
        to_normed = to_normed + grad * scale
    # Through the mean, and through the variance.
    along = (to_normed * normed).sum(-1, keepdims=True) / (c - 1)
    found = to_normed - to_normed.mean(-1, keepdims=True) - normed * along
    found = found * inverse
    if through is not None:
        found = found + _wide(through)
    to_x[0] = found.astype(to_x.dtype)


class _Part(NamedTuple):
    """What one program of a kernel sees of an array.

    Attributes:
      array: of rows, or its shape and type, if it is a result.
      row: which row the i-th program sees; None if all of them see the whole array.
    """

    array: Any
    row: Callable[[Any], Any] | None

    @property
    def spec(self) -> pl.BlockSpec:
        shape, row = self.array.shape, self.row
        if row is None:
            return pl.BlockSpec(shape, lambda i: (0,) * len(shape))
        return pl.BlockSpec((1, *shape[1:]), lambda i: (row(i), 0, 0, 0))


def _run(
    kernel: Callable[..., None], programs: int, inputs: Any, outputs: Any, interpret: bool
) -> Any:
    """Runs a kernel's programs: on (lists of) `_Part`s that they read, and that they write."""

    def each(read: Callable[[_Part], Any], parts: Any) -> Any:
        return jax.tree.map(read, parts, is_leaf=lambda part: isinstance(part, _Part))

    arrays, results = each(lambda part: part.array, (inputs, outputs))
    # An array that is given twice, for other rows, is moved once.
    moved = {id(x): x.size * x.dtype.itemsize for x in jax.tree.leaves((arrays, results))}
    return pl.pallas_call(
        kernel,
        grid=(programs,),
        in_specs=each(lambda part: part.spec, inputs),
        out_specs=each(lambda part: part.spec, outputs),
        out_shape=results,
        # XLA counts no bytes by itself. The operations are few beside those of convolutions.
        cost_estimate=pl.CostEstimate(
            flops=0, transcendentals=0, bytes_accessed=sum(moved.values())
        ),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary",), vmem_limit_bytes=VMEM
        ),
        interpret=interpret,
    )(*arrays)


def together(pictures: int) -> int:
    """How many pictures lie beside each other, as XLA stores maps; 0 where no kernel runs.

    A program of a kernel of instance norm holds as many.
    """
    if pictures % PICTURES == 0:
        return PICTURES
    return pictures if pictures in (2, 4) else 0


def by_rows(x: Float[Array, "b h w c"]) -> Float[Array, "h w b c"]:
    """A map as the kernels see it."""
    return x.transpose(1, 2, 0, 3)


def from_rows(x: Float[Array, "h w b c"]) -> Float[Array, "b h w c"]:
    """The inverse of `by_rows`."""
    return x.transpose(2, 0, 1, 3)


def _same(i: Any) -> Any:
    return i


def _inputs(
    x: Array, modulations: Modulations, row: Callable[[Any], Any]
) -> tuple[_Part, tuple[_Part, ...], tuple[_Part, ...]]:
    """What both kernels read: this row of x and of gamma and beta, and all biases."""
    return (
        _Part(by_rows(x), row),
        tuple(_Part(by_rows(each.joined), row) for each in modulations),
        tuple(_Part(each.bias.astype(jnp.float32), None) for each in modulations),
    )


def forward(
    x: Float[Array, "b h w c"], modulations: Modulations, padded: Padded, interpret: bool
) -> tuple[Float[Array, "b ..."], ...]:
    """The layers' results, as `modulation.modulate` describes them."""
    b, h, w, c = x.shape

    def inner(i: Any) -> Any:
        """The row of x that is shown in row i of a padded map."""
        return jnp.where(i == 0, 1, jnp.where(i == h + 1, h - 2, i - 1))

    outputs = tuple(
        _Part(jax.ShapeDtypeStruct((h + 2, w + 2, b, c), x.dtype), _same)
        if pad
        else _Part(jax.ShapeDtypeStruct((h, w, b, c), x.dtype), inner)
        for pad in padded
    )
    kernel = functools.partial(_forward_kernel, padded=padded)
    found = _run(kernel, h + 2, _inputs(x, modulations, inner), (outputs,), interpret)
    return tuple(map(from_rows, found[0]))


def backward(
    x: Float[Array, "b h w c"],
    modulations: Modulations,
    grads: tuple[Float[Array, "b ..."], ...],
    through: Float[Array, "b h w c"] | None,
    padded: Padded,
    interpret: bool,
) -> tuple[Float[Array, "b h w c"], Modulations]:
    """The gradients of x and of gamma and beta, from those of the layers' results.

    `through` is the gradient of x from its other readers, or None.
    """
    h = x.shape[1]
    rows = [by_rows(grad) for grad in grads]
    inputs = _inputs(x, modulations, _same)
    outputs = jax.tree.map(
        lambda part: part._replace(array=jax.ShapeDtypeStruct(part.array.shape, part.array.dtype)),
        inputs,
        is_leaf=lambda part: isinstance(part, _Part),
    )

    def below(i: Any) -> Any:
        return i + 1

    def edge(i: Any) -> Any:
        """The first or the last row of a padded map, whichever is nearer."""
        return jnp.where(i < h // 2, 0, h + 1)

    of_row = tuple(
        _Part(grad, below if pad else _same) for grad, pad in zip(rows, padded, strict=True)
    )
    edges = tuple(
        _Part(grad, edge) if pad else None for grad, pad in zip(rows, padded, strict=True)
    )
    of_through = None if through is None else _Part(by_rows(through), _same)
    read = (*inputs, of_row, edges, of_through)
    kernel = functools.partial(_backward_kernel, padded=padded)
    to_x, to_joined, to_biases = _run(kernel, h, read, outputs, interpret)
    return from_rows(to_x), tuple(
        Modulation(from_rows(joined), bias.astype(each.bias.dtype))
        for each, joined, bias in zip(modulations, to_joined, to_biases, strict=True)
    )
