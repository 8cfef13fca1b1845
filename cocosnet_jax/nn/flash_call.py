"""Calls the kernels of `flash`: which parts of arrays their programs see, and what they write."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array

from cocosnet_jax.nn.flash_kernels import Block
from cocosnet_jax.nn.kernels import VMEM


class Output(NamedTuple):
    """A result of a kernel.

    Attributes:
      spec: the part that one program of the grid sees.
      shape: of all, without samples.
      dtype: what it is written in; kernels add up in float32.
    """

    spec: pl.BlockSpec
    shape: tuple[int, ...]
    dtype: jnp.dtype | type = jnp.float32

    @property
    def narrow(self) -> bool:
        return jnp.dtype(self.dtype) != jnp.float32

    @property
    def part(self) -> tuple[int, ...]:
        """The shape of what one program sees."""
        return cast(tuple[int, ...], self.spec.block_shape)


def _add_up_apart(kernel: Callable[..., None], inputs: int, outputs: list[Output]) -> Any:
    """Gives a kernel float32 scratch for its narrow outputs, and rounds once, at the last block."""

    def run(*references: Any, block: Block) -> None:
        written = references[inputs : inputs + len(outputs)]
        scratch = list(references[inputs + len(outputs) :])
        sums = [scratch.pop(0) if o.narrow else x for o, x in zip(outputs, written, strict=True)]
        kernel(*references[:inputs], *sums, *scratch, block=block)

        @pl.when(pl.program_id(2) == pl.num_programs(2) - 1)
        def _() -> None:
            for output, total, result in zip(outputs, sums, written, strict=True):
                if output.narrow:
                    result[:] = total[:].astype(result.dtype)

    return run


class Call(NamedTuple):
    """A kernel's place in memory: which parts of the arrays one program of its grid sees.

    Attributes:
      block: the block.
      keys_first: whether the outer loop is over keys, not over queries.
    """

    block: Block
    keys_first: bool

    def spec(
        self, shape: tuple[Any, ...], index: Callable[[Any, Any, Any], tuple[Any, ...]]
    ) -> pl.BlockSpec:
        """A block's part, whose place is a function of sample, block of queries, block of keys."""
        if self.keys_first:
            return pl.BlockSpec(shape, lambda b, j, i: index(b, i, j))
        return pl.BlockSpec(shape, index)

    def of_queries(self, rows: int) -> pl.BlockSpec:
        """Rows of numbers, one number for each query of a block."""
        return self.spec((1, rows, self.block.queries.size), lambda b, i, j: (b, 0, i))

    def of_keys(self, rows: int) -> pl.BlockSpec:
        """Rows of numbers, one number for each key of a block."""
        return self.spec((1, rows, self.block.keys.size), lambda b, i, j: (b, 0, j))

    def inputs(self, rows: int, channels: int, values: int) -> list[pl.BlockSpec]:
        """Of queries, their marks, keys, their marks, and values."""
        queries, keys = self.block.queries, self.block.keys
        return [
            self.spec(
                (pl.Element(1), pl.Element(channels), pl.Element(queries.window)),
                lambda b, i, j: (b, 0, i * queries.size),
            ),
            self.of_queries(rows),
            self.spec(
                (pl.Element(1), pl.Element(keys.window), pl.Element(channels)),
                lambda b, i, j: (b, j * keys.size, 0),
            ),
            self.of_keys(rows),
            self.of_keys(values),
        ]

    def run(
        self,
        kernel: Callable[..., None],
        arguments: tuple[Array, ...],
        inputs: list[pl.BlockSpec],
        outputs: list[Output],
        scratch: list[tuple[int, int]],
        interpret: bool,
    ) -> tuple[Array, ...]:
        """Runs a kernel for all samples and blocks.

        Args:
          kernel: takes references to its inputs, outputs and scratch, and the block.
          arguments: whole arrays, samples first.
          inputs: the part of each that one program sees.
          outputs: the results.
          scratch: shapes of float32 arrays on the chip.
          interpret: run it as plain JAX.
        """
        block = self.block
        grid = (block.queries.blocks, block.keys.blocks)
        b = arguments[0].shape[0]
        results = tuple(jax.ShapeDtypeStruct((b, *x.shape), x.dtype) for x in outputs)
        moved = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves((arguments, results)))
        sums = [x.part for x in outputs if x.narrow]
        if sums:
            kernel = _add_up_apart(kernel, len(inputs), outputs)
        return pl.pallas_call(
            functools.partial(kernel, block=block),
            grid=(b, *(grid[::-1] if self.keys_first else grid)),
            in_specs=inputs,
            out_specs=tuple(x.spec for x in outputs),
            out_shape=results,
            scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in (*sums, *scratch)],
            # XLA counts no bytes by itself.
            cost_estimate=pl.CostEstimate(flops=0, transcendentals=0, bytes_accessed=moved),
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "parallel", "arbitrary"), vmem_limit_bytes=VMEM
            ),
            interpret=interpret,
        )(*arguments)
