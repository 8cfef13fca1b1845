"""Time and memory of the ways to compute the warp, forward and backward.

    python -m benchmarks.warp [--sides=64,128] [--match-kernel=3] [--channels=256] [--values=154]
        [--correlations=dense,streaming]

prints one line for each number of positions N = side x side and each way: seconds per call, the
memory that it needs besides inputs and outputs (as XLA plans it), and the ratio of its time to that
of streaming's matrix products alone, measured in the same run. These are products of single
positions, whatever the neighbourhood. The dense warp is skipped if one N x N matrix is larger than
`--dense-limit` GiB. On a TPU, `pallas` and `pallas-bf16x3` are the kernels of `nn.flash`.

    python -m benchmarks.warp --topology=v5e:2x2 --correlations=dense,streaming,pallas

compiles for a TPU that need not be there (pip install libtpu==0.0.52) and runs nothing: seconds to
compile, memory, the products' operations with all iterations of loops, the seconds that these take
at the chip's peak (a product of float32 is six of bfloat16), and the bytes moved by XLA's account,
where the body of a loop counts once, and a kernel's arguments and results count once.
"""

import argparse
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cocosnet_jax import compile_check, operations, warp
from cocosnet_jax.nn import streaming

TEMPERATURE = 0.01
GIB = 2**30
WAYS = ("dense", "streaming", "pallas", "pallas-bf16x3")


def measure(function: Callable[..., Any], *arguments: jax.Array) -> tuple[float, float]:
    """Seconds of the fastest of several calls, and GiB of temporary memory."""
    compiled = jax.jit(function).lower(*arguments).compile()
    jax.block_until_ready(compiled(*arguments))
    best, spent = float("inf"), 0.0
    while spent < 3:
        began = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        seconds = time.perf_counter() - began
        best, spent = min(best, seconds), spent + seconds
    return best, temporary(compiled)


def temporary(compiled: Any) -> float:
    """GiB that a program needs besides its inputs and outputs."""
    memory = compiled.memory_analysis()
    assert memory is not None
    return memory.temp_size_in_bytes / GIB


def gradients(correlation: Any, match_kernel: int) -> Callable[..., Any]:
    """Forward and backward pass of one warp."""
    name, _, products = correlation.partition("-")

    def loss(theta: jax.Array, phi: jax.Array, values: jax.Array) -> jax.Array:
        match = warp.soft_match(
            theta, phi, TEMPERATURE, match_kernel=match_kernel, correlation=name
        )
        if products:
            assert isinstance(match, warp.PallasWarp)
            match = dataclasses.replace(match, products=products)
        return jnp.sum(jnp.square(match.to_input(values)))

    return jax.value_and_grad(loss, argnums=(0, 1, 2))


def products(n: int, channels: int, values: int) -> float:
    """Seconds of the matrix products of streaming, on blocks of its size."""
    size, blocks = min(n, streaming.BLOCK), 4
    barrier = jax.lax.optimization_barrier

    def einsum(formula: str, *arrays: jax.Array) -> jax.Array:
        return barrier(jnp.einsum(formula, *arrays, precision=streaming.PRECISION))

    def block(_: Any, arrays: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        # Forward: logits, result. Backward: logits again, and four gradients. Each block changes
        # the next one's factors, so that none can be left out, and no large array leaves the loop,
        # which would need new memory each time.
        q, k, v, g = arrays
        result = einsum("nm,mv->nv", einsum("nk,mk->nm", q, k), v)
        q, g = q + 1e-9 * jnp.mean(result), g + 1e-9 * result
        logits, to_logits = einsum("nk,mk->nm", q, k), einsum("nv,mv->nm", g, v)
        to_v = einsum("nv,nm->vm", g, logits).T
        to_q, to_k = einsum("nm,mk->nk", to_logits, k), einsum("nk,nm->km", q, to_logits).T
        return q + 1e-9 * to_q, k + 1e-9 * to_k, v + 1e-9 * to_v, g

    def run(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        return jax.lax.fori_loop(0, blocks, block, arrays)

    sizes = ((size, channels), (size, channels), (size, values), (size, values))
    keys = jax.random.split(jax.random.key(1), 4)
    arrays = [0.01 * jax.random.normal(k, s) for k, s in zip(keys, sizes, strict=True)]
    return measure(run, *arrays)[0] / blocks * (n / size) ** 2


def shapes(side: int, channels: int, values: int) -> list[jax.ShapeDtypeStruct]:
    """Of theta, phi and the values."""
    sizes = (1, side, side, channels), (1, side, side, channels), (1, side * side, values)
    return [jax.ShapeDtypeStruct(size, jnp.float32) for size in sizes]


def compile_for(device: Any, way: str, function: Callable[..., Any], inputs: list[Any]) -> str:
    """A line of the table for a device that need not be there."""
    on_device = jax.sharding.SingleDeviceSharding(device)
    began = time.perf_counter()
    traced = jax.jit(function, in_shardings=on_device, out_shardings=on_device).trace(*inputs)
    counted = operations.count(traced.jaxpr, "tpu").products
    compiled = traced.lower().compile()
    seconds = time.perf_counter() - began
    passes = 1 if way == "pallas-bf16x3" else 6
    peak = operations.peak(device)
    predicted = counted * passes / peak if peak else float("nan")
    moved = compiled.cost_analysis()["bytes accessed"] / GIB
    return (
        f"{seconds:9.0f}  {temporary(compiled):6.3f}  {counted / 1e12:6.2f}  {predicted:9.4f}"
        f"  {moved:9.2f}"
    )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", default="64,128", help="of the square grids of positions")
    parser.add_argument("--match-kernel", type=int, default=3, help="side of a neighbourhood")
    parser.add_argument("--channels", type=int, default=256, help="numbers per position")
    parser.add_argument("--values", type=int, default=154)
    parser.add_argument("--correlations", default="dense,streaming")
    parser.add_argument("--topology", default="", help="compile for this TPU slice, run nothing")
    parser.add_argument("--dense-limit", type=float, default=1.0)
    arguments = parser.parse_args()
    ways = arguments.correlations.split(",")
    if unknown := set(ways) - set(WAYS):
        parser.error(f"--correlations has {', '.join(sorted(unknown))}; it takes {', '.join(WAYS)}")
    if arguments.topology:
        device = compile_check.slice_devices(arguments.topology)[0]
        print(f"{device.device_kind}, float32, compiled only")
        print("N       way            compile s     GiB   TFLOP  s at peak  GiB moved")
    else:
        device = jax.devices()[0]
        if device.platform != "tpu" and any(way.startswith("pallas") for way in ways):
            parser.error(f"pallas needs a TPU; on {device.device_kind} it streams")
        print(f"{device.device_kind}, {jax.local_device_count()} device(s), float32")
        print("N       way            s          GiB  of the products' time")
    for side in map(int, arguments.sides.split(",")):
        n = side * side
        inputs = shapes(side, arguments.channels, arguments.values)
        if not arguments.topology:
            floor = products(n, arguments.channels, arguments.values)
            keys = jax.random.split(jax.random.key(0), 3)
            *features, values = inputs
            filled = [
                *(jax.random.normal(key, x.shape) for key, x in zip(keys, features, strict=False)),
                jax.random.uniform(keys[2], values.shape),
            ]
        for way in ways:
            if way == "dense" and n * n * 4 / GIB > arguments.dense_limit:
                continue
            function = gradients(way, arguments.match_kernel)
            if arguments.topology:
                line = compile_for(device, way, function, inputs)
            else:
                seconds, gib = measure(function, *filled)
                line = f"{seconds:7.3f}  {gib:7.2f}  {seconds / floor:21.2f}"
            print(f"{n:<7} {way:<13}  {line}", flush=True)


if __name__ == "__main__":
    main()
