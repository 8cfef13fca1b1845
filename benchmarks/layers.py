"""Layers that are computed in a faster way on CPUs, compared with the plain way.

    python -m benchmarks.layers [--calls=5]

prints milliseconds per call of both ways, forward and with all gradients, in float32, for shapes of
the generator where the difference matters. Each line names the faster way first:

- many channels: fewer multiplications (Winograd), or a convolution;
- one-hot maps: sum rows of the kernel, or multiply one-hot channels;
- reflection padding of SPADE's output: gather by index, or concatenate slices;
- instance norm, and a bias: average over one axis after the other, or sum over both at once;
- spectral norm: divide the output by sigma, or the kernel;
- gamma and beta of a small map: two convolutions, or one with concatenated kernels.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp

from cocosnet_jax.nn import norms
from cocosnet_jax.nn.activation import leaky_relu
from cocosnet_jax.nn.condition import Condition, convolve_condition
from cocosnet_jax.nn.conv import Weights, concatenate_weights
from cocosnet_jax.nn.convolution import convolve
from cocosnet_jax.nn.padding import reflect_pad
from cocosnet_jax.nn.positions import spread

Way = Callable[..., jax.Array]


def normal(seed: int, *shape: int) -> jax.Array:
    """Standard normal numbers."""
    return jax.random.normal(jax.random.key(seed), shape)


def traced_as_for_accelerators() -> AbstractContextManager[Any]:
    """Makes functions that are traced in this context take the code path of accelerators."""

    def other(*arrays: Any, cpu: Way, default: Way) -> Any:
        del cpu
        return default(*arrays)

    return mock.patch.object(jax.lax, "platform_dependent", other)


def ways() -> Iterator[tuple[str, Way, Way | None, tuple[jax.Array, ...]]]:
    """Yields name, faster way, plain way and arguments of each comparison.

    If the plain way is None, it is the code path of accelerators.
    """
    for side, cin, cout in ((64, 512, 512), (256, 128, 256)):
        both = normal(0, 1, side + 2, side + 2, cin), normal(1, 3, 3, cin, cout)
        yield f"convolution, {side} x {side}, {cin} to {cout}", convolve, None, both

    image = normal(0, 1, 256, 256, 3)
    # Squares of 16 x 16 pixels, since label maps of photographs have regions.
    labels = jax.random.randint(jax.random.key(1), (1, 16, 16), 0, 151)
    labels = labels.repeat(16, 1).repeat(16, 2)

    def read(kernel: jax.Array) -> jax.Array:
        condition = Condition(image, labels, 151)
        return convolve_condition(condition, Weights(kernel, None, None), "reflect")

    kernel = normal(2, 3, 3, 154, 384)
    yield "one-hot map, 256 x 256, 154 to 384", read, None, (kernel,)

    def padded(x: jax.Array, gamma: jax.Array, beta: jax.Array) -> jax.Array:
        return reflect_pad(leaky_relu(x * (1 + gamma) + beta))

    maps = tuple(normal(seed, 1, 256, 256, 128) for seed in range(3))
    yield "reflect padding, 256 x 256 x 128", padded, None, maps

    def plain_norm(x: jax.Array) -> jax.Array:
        centred = x - x.mean((1, 2), keepdims=True)
        variance = jnp.square(centred).mean((1, 2), keepdims=True)
        return centred / jnp.sqrt(variance + norms.EPS)

    x = normal(0, 2, 64, 64, 512)
    yield "instance norm, 2 x 64 x 64 x 512", norms.instance_norm, plain_norm, (x,)

    def biased(x: jax.Array, bias: jax.Array) -> jax.Array:
        return x + spread(bias, x.shape)

    x = normal(0, 1, 64, 64, 1024)
    yield "bias, 64 x 64 x 1024", biased, jnp.add, (x, normal(1, 1024))

    def normalised(*, divide_output: bool) -> Way:
        def convolved(x: jax.Array, kernel: jax.Array, sigma: jax.Array) -> jax.Array:
            weights = Weights(kernel, sigma, None)
            return weights.convolve(
                lambda kernel: convolve(x, kernel), x.dtype, divide_output=divide_output
            )

        return convolved

    name, x = "spectral norm, 16 x 16, 1024 to 1024", normal(0, 1, 18, 18, 1024)
    arrays = x, normal(1, 3, 3, 1024, 1024), jnp.asarray(96.0)
    yield name, normalised(divide_output=True), normalised(divide_output=False), arrays

    def apart(x: jax.Array, gamma: jax.Array, beta: jax.Array) -> jax.Array:
        return convolve(x, gamma) * convolve(x, beta)

    def together(x: jax.Array, gamma: jax.Array, beta: jax.Array) -> jax.Array:
        weights = concatenate_weights([Weights(kernel, None, None) for kernel in (gamma, beta)])
        made = jnp.split(convolve(x, weights.kernel), 2, -1)
        return made[0] * made[1]

    kernels = normal(1, 3, 3, 128, 1024), normal(2, 3, 3, 128, 1024)
    yield (
        "gamma and beta, 32 x 32, 128 to 1024",
        apart,
        together,
        (normal(0, 1, 34, 34, 128), *kernels),
    )


def milliseconds(function: Callable[..., Any], arrays: tuple[jax.Array, ...], calls: int) -> float:
    """Milliseconds of the fastest of several calls."""
    compiled = jax.jit(function).lower(*arrays).compile()
    best = float("inf")
    for _ in range(calls):
        began = time.perf_counter()
        jax.block_until_ready(compiled(*arrays))
        best = min(best, time.perf_counter() - began)
    return best * 1000


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=5)
    arguments = parser.parse_args()
    print("| layer | forward, ms | plain | ratio | with gradients, ms | plain | ratio |")
    print("|---" * 7 + "|")
    for name, way, plain, arrays in ways():
        columns = []
        for gradients in (False, True):
            times = []
            for function in (way, plain):
                used = function or way

                def loss(*arrays: jax.Array, used: Way = used) -> jax.Array:
                    return jnp.vdot(made := used(*arrays), made)

                # A new function each time, since JAX would reuse the trace of an old one.
                def forward(*arrays: jax.Array, used: Way = used) -> jax.Array:
                    return used(*arrays)

                measured = jax.value_and_grad(loss, range(len(arrays))) if gradients else forward
                with nullcontext() if function else traced_as_for_accelerators():
                    times.append(milliseconds(measured, arrays, arguments.calls))
            columns += [f"{times[0]:.1f} | {times[1]:.1f} | {times[0] / times[1]:.2f}"]
        print(f"| {name} | {' | '.join(columns)} |", flush=True)


if __name__ == "__main__":
    main()
