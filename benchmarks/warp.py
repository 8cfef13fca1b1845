"""Time and memory of the dense and the streaming warp, forward and backward.

    python -m benchmarks.warp [--sides=64,128] [--match-kernel=3] [--channels=256] [--values=154]

prints one line per number of positions N = side x side: seconds per call of both, their ratio, the
memory that each needs besides inputs and outputs (as XLA plans it), and the ratio of streaming's
time to that of its matrix products alone, measured in the same run. These are products of single
positions, whatever the neighbourhood. The dense warp is skipped if one N x N matrix is larger than
`--dense-limit` GiB.
"""

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cocosnet_jax import warp
from cocosnet_jax.nn import streaming

TEMPERATURE = 0.01
GIB = 2**30


def measure(function: Callable[..., Any], *arguments: jax.Array) -> tuple[float, float]:
    """Seconds of the fastest of several calls, and GiB of temporary memory."""
    compiled = jax.jit(function).lower(*arguments).compile()
    memory = compiled.memory_analysis()
    assert memory is not None
    jax.block_until_ready(compiled(*arguments))
    best, spent = float("inf"), 0.0
    while spent < 3:
        began = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        seconds = time.perf_counter() - began
        best, spent = min(best, seconds), spent + seconds
    return best, memory.temp_size_in_bytes / GIB


def gradients(correlation: Any, match_kernel: int) -> Callable[..., Any]:
    """Forward and backward pass of one warp."""

    def loss(theta: jax.Array, phi: jax.Array, values: jax.Array) -> jax.Array:
        match = warp.soft_match(
            theta, phi, TEMPERATURE, match_kernel=match_kernel, correlation=correlation
        )
        return jnp.sum(jnp.square(match.to_input(values)))

    return jax.value_and_grad(loss, argnums=(0, 1, 2))


def products(n: int, channels: int, values: int) -> float:
    """Seconds of the matrix products of streaming, on blocks of its size."""
    size = min(n, streaming.BLOCK)
    einsum = functools.partial(jnp.einsum, precision=streaming.PRECISION)

    def one_block(a: jax.Array, b: jax.Array, p: jax.Array, v: jax.Array) -> Any:
        # Forward: logits, result. Backward: logits again, and four gradients.
        return (
            einsum("nk,mk->nm", a, b),
            einsum("nm,mv->nv", p, v),
            einsum("nk,mk->nm", b, a),
            einsum("nm,nv->mv", p, v),
            einsum("nv,mv->nm", v, v),
            einsum("nm,mk->nk", p, b),
            einsum("nm,nk->mk", p, a),
        )

    keys = jax.random.split(jax.random.key(1), 4)
    shapes = ((size, channels), (size, channels), (size, size), (size, values))
    arrays = [jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]
    return measure(one_block, *arrays)[0] * (n / size) ** 2


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", default="64,128", help="of the square grids of positions")
    parser.add_argument("--match-kernel", type=int, default=3, help="side of a neighbourhood")
    parser.add_argument("--channels", type=int, default=256, help="numbers per position")
    parser.add_argument("--values", type=int, default=154)
    parser.add_argument("--dense-limit", type=float, default=1.0)
    arguments = parser.parse_args()
    print(f"{jax.devices()[0].device_kind}, {jax.local_device_count()} device(s), float32")
    print("N       dense s  GiB    streaming s  GiB    streaming/dense  streaming/products")
    for side in map(int, arguments.sides.split(",")):
        n = side * side
        keys = jax.random.split(jax.random.key(0), 3)
        theta, phi = (
            jax.random.normal(key, (1, side, side, arguments.channels)) for key in keys[:2]
        )
        values = jax.random.uniform(keys[2], (1, n, arguments.values))
        streamed, streamed_gib = measure(
            gradients("streaming", arguments.match_kernel), theta, phi, values
        )
        floor = products(n, arguments.channels, arguments.values)
        dense, dense_gib = float("nan"), float("nan")
        if n * n * 4 / GIB <= arguments.dense_limit:
            dense, dense_gib = measure(
                gradients("dense", arguments.match_kernel), theta, phi, values
            )
        print(
            f"{n:<7} {dense:7.3f}  {dense_gib:5.2f}  {streamed:11.3f}  {streamed_gib:5.2f}"
            f"  {streamed / dense:15.2f}  {streamed / floor:18.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
