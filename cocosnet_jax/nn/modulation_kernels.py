"""The kernels of `modulation`.

A kernel holds one row of the maps of all pictures, as (columns, pictures, channels): XLA on a TPU
stores maps with pictures beside channels, where a shift by one column costs nothing. It computes in
float32, whatever the type of the arrays. Each row of a padded map is written once; its gradient is
read once, with the first and the last row beside the rows that these repeat.

An x of half the size is upsampled on the chip: two rows of gamma and beta share a row of x.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from cocosnet_jax.nn.activation import SLOPE
from cocosnet_jax.nn.kernels import VMEM, by_rows, from_rows
from cocosnet_jax.nn.norms import EPS


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


def _wide(row: Any, bias: Any = None) -> Float[Array, "w b c"]:
    found = row[0].astype(jnp.float32)
    return found if bias is None else found + bias[:]


def _gamma_beta(joined: Any, bias: Any) -> tuple[Float[Array, "w b c"], Float[Array, "w b c"]]:
    """1 + gamma, and beta."""
    c = joined.shape[-1] // 2
    gamma, beta = joined[0, :, :, :c], joined[0, :, :, c:]
    return 1 + (gamma.astype(jnp.float32) + bias[:, :c]), beta.astype(jnp.float32) + bias[:, c:]


def _widen(x: Float[Array, "w b c"], width: int) -> Float[Array, "width b c"]:
    """Repeats the columns of a row that has half of them."""
    w, b, c = x.shape
    if w == width:
        return x
    return jnp.broadcast_to(x[:, None], (w, 2, b, c)).reshape(width, b, c)


def _forward_kernel(
    x: Any, bias: Any, joined: Any, biases: Any, outputs: Any, *, padded: Padded
) -> None:
    normed = _widen(_normalise(_wide(x, bias))[0], joined[0].shape[1])
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
    bias: Any,
    joined: Any,
    biases: Any,
    grads: Any,
    edges: Any,
    through: Any,
    to_x: Any,
    to_bias: Any,
    to_joined: Any,
    to_biases: Any,
    above: Any = None,
    *,
    padded: Padded,
) -> None:
    """With an x of half the size, `above` keeps what the first of two rows gives its gradient."""
    row, last = pl.program_id(0), pl.num_programs(0) - 1
    width, c = joined[0].shape[1], x.shape[-1]
    sums = list(to_biases) if to_bias is None else [*to_biases, to_bias]

    @pl.when(row == 0)
    def start_sums() -> None:
        for each in sums:
            each[:] = jnp.zeros_like(each)

    small, inverse = _normalise(_wide(x, bias))
    normed = _widen(small, width)
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
        to_biases[i][:, :c] += to_gamma.sum(0).sum(0, keepdims=True)
        to_biases[i][:, c:] += grad.sum(0).sum(0, keepdims=True)
        to_normed = to_normed + grad * scale
    if above is not None:
        pairs = to_normed.reshape(width // 2, 2, *to_normed.shape[1:])
        to_normed = pairs[:, 0] + pairs[:, 1]

        @pl.when(jax.lax.rem(row, 2) == 0)
        def start_pair() -> None:
            above[:] = jnp.zeros_like(above)

        # The first of two rows gives a result, too, which the second replaces on the chip.
        to_normed = to_normed + above[:]
        above[:] = to_normed
    # Through the mean, and through the variance.
    along = (to_normed * small).sum(-1, keepdims=True) / (c - 1)
    found = to_normed - to_normed.mean(-1, keepdims=True) - small * along
    found = found * inverse
    if through is not None:
        found = found + _wide(through)
    if to_bias is not None:
        to_bias[:] += found.sum(0).sum(0, keepdims=True)
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
    kernel: Callable[..., None],
    programs: int,
    inputs: Any,
    outputs: Any,
    interpret: bool,
    scratch: Sequence[tuple[int, ...]] = (),
) -> Any:
    """Runs a kernel's programs: on (lists of) `_Part`s that they read, and that they write.

    `scratch` has the shapes of float32 arrays that stay on the chip.
    """

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
        scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in scratch],
        # XLA counts no bytes by itself. The operations are few beside those of convolutions.
        cost_estimate=pl.CostEstimate(
            flops=0, transcendentals=0, bytes_accessed=sum(moved.values())
        ),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary",), vmem_limit_bytes=VMEM
        ),
        interpret=interpret,
    )(*arrays)


def _same(i: Any) -> Any:
    return i


def _inputs(
    x: Array, bias: Array | None, modulations: Modulations, row: Callable[[Any], Any]
) -> tuple[_Part, _Part | None, tuple[_Part, ...], tuple[_Part, ...]]:
    """What both kernels read: this row of x and of gamma and beta, and all biases."""
    half = x.shape[1] < modulations[0].joined.shape[1]
    return (
        _Part(by_rows(x), (lambda i: jax.lax.div(row(i), 2)) if half else row),
        None if bias is None else _Part(bias.astype(jnp.float32), None),
        tuple(_Part(by_rows(each.joined), row) for each in modulations),
        tuple(_Part(each.bias.astype(jnp.float32), None) for each in modulations),
    )


def forward(
    x: Float[Array, "b height width c"],
    bias: Float[Array, "1 c"] | None,
    modulations: Modulations,
    padded: Padded,
    interpret: bool,
) -> tuple[Float[Array, "b ..."], ...]:
    """The layers' results, as `modulation.modulate` describes them."""
    b, h, w, _ = modulations[0].joined.shape
    c = x.shape[-1]

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
    found = _run(kernel, h + 2, _inputs(x, bias, modulations, inner), (outputs,), interpret)
    return tuple(map(from_rows, found[0]))


def backward(
    x: Float[Array, "b height width c"],
    bias: Float[Array, "1 c"] | None,
    modulations: Modulations,
    grads: tuple[Float[Array, "b ..."], ...],
    through: Float[Array, "b height width c"] | None,
    padded: Padded,
    interpret: bool,
) -> tuple[Float[Array, "b height width c"], Float[Array, "1 c"] | None, Modulations]:
    """The gradients of x, of its bias, and of gamma and beta, from those of the layers' results.

    `through` is the gradient of x from its other readers, or None.
    """
    h = modulations[0].joined.shape[1]
    upsampled = h > x.shape[1]
    rows = [by_rows(grad) for grad in grads]
    inputs = _inputs(x, bias, modulations, _same)
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
    of_through = None if through is None else inputs[0]._replace(array=by_rows(through))
    read = (*inputs, of_row, edges, of_through)
    kernel = functools.partial(_backward_kernel, padded=padded)
    scratch = [by_rows(x).shape[1:]] if upsampled else []
    to_x, to_bias, to_joined, to_biases = _run(kernel, h, read, outputs, interpret, scratch)
    return (
        from_rows(to_x),
        None if bias is None else to_bias.astype(bias.dtype),
        tuple(
            Modulation(from_rows(joined), sums.astype(each.bias.dtype))
            for each, joined, sums in zip(modulations, to_joined, to_biases, strict=True)
        ),
    )
