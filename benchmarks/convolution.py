"""Convolution speed of this machine: XLA's own code, its default library, and PyTorch.

    python -m benchmarks.convolution [--calls=5]

prints GFLOP/s of 3 x 3 convolutions without padding, forward and for the weights' gradient, in
three shapes of the generator, batch 1, float32; and of a 2048 x 2048 matrix product. Columns: XLA
with the flags that `cocosnet_jax` sets; XLA with its defaults, which on CPUs use YNNPACK; and
PyTorch, if it is installed (`pip install torch`). Each column is measured in its own process.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

# Side of the output, channels in and out.
SHAPES = ((256, 128, 256), (128, 128, 512), (64, 512, 512))
PRODUCT = 2048
OWN, LIBRARY, TORCH = "XLA's own", "XLA by default", "PyTorch"


def rate(call: Callable[[], Any], operations: float, calls: int) -> float:
    """GFLOP/s of the fastest of several calls, after a first one that is not counted."""
    call()
    best = float("inf")
    for _ in range(calls):
        began = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - began)
    return operations / best / 1e9


def measure_xla(calls: int) -> list[float]:
    """The column of XLA, with the flags in the environment."""
    import jax
    import jax.numpy as jnp

    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def to_weights(x: jax.Array, kernel: jax.Array, grad: jax.Array) -> jax.Array:
        return jax.vjp(lambda k: convolve(x, k), kernel)[1](grad)[0]

    def timed(function: Callable[..., jax.Array], *arrays: jax.Array) -> Callable[[], Any]:
        compiled = jax.jit(function).lower(*arrays).compile()
        return lambda: jax.block_until_ready(compiled(*arrays))

    rates = []
    for side, cin, cout in SHAPES:
        x, grad = jnp.ones((1, side + 2, side + 2, cin)), jnp.ones((1, side, side, cout))
        kernel, operations = jnp.ones((3, 3, cin, cout)), 18 * side**2 * cin * cout
        rates.append(rate(timed(convolve, x, kernel), operations, calls))
        rates.append(rate(timed(to_weights, x, kernel, grad), operations, calls))
    square = jnp.ones((PRODUCT, PRODUCT))
    return [*rates, rate(timed(jnp.matmul, square, square), 2 * PRODUCT**3, calls)]


def measure_torch(calls: int) -> list[float]:
    """The column of PyTorch."""
    import torch

    rates = []
    for side, cin, cout in SHAPES:
        x, grad = torch.ones(1, cin, side + 2, side + 2), torch.ones(1, cout, side, side)
        kernel = torch.ones(cout, cin, 3, 3, requires_grad=True)
        operations = 18 * side**2 * cin * cout
        with torch.no_grad():
            forward = rate(lambda: torch.nn.functional.conv2d(x, kernel), operations, calls)  # noqa: B023
        out = torch.nn.functional.conv2d(x, kernel)
        rates += [
            forward,
            rate(
                lambda: torch.autograd.grad(out, kernel, grad, retain_graph=True),  # noqa: B023
                operations,
                calls,
            ),
        ]
    square = torch.ones(PRODUCT, PRODUCT)
    return [*rates, rate(lambda: square @ square, 2 * PRODUCT**3, calls)]


def column(name: str, calls: int) -> list[float]:
    """Measures one column in its own process."""
    environment = dict(os.environ)
    if name == OWN:
        # As importing cocosnet_jax sets it.
        environment["XLA_FLAGS"] = "--xla_cpu_experimental_ynn_fusion_type="
    command = [sys.executable, "-m", "benchmarks.convolution", f"--column={name}"]
    done = subprocess.run(
        [*command, f"--calls={calls}"], env=environment, check=True, stdout=subprocess.PIPE
    )
    rates: list[float] = json.loads(done.stdout)
    return rates


def main() -> None:
    """Prints the table, or one column's figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=5)
    parser.add_argument("--column", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.column:
        measure = measure_torch if arguments.column == TORCH else measure_xla
        print(json.dumps(measure(arguments.calls)))
        return
    names = [OWN, LIBRARY, *([TORCH] if importlib.util.find_spec("torch") else [])]
    columns = [column(name, arguments.calls) for name in names]
    labels = [
        f"{side} x {side}, {cin} to {cout}, {what}"
        for side, cin, cout in SHAPES
        for what in ("forward", "weights' gradient")
    ]
    print("| GFLOP/s | " + " | ".join(names) + " |\n" + "|---" * (len(names) + 1) + "|")
    for label, *rates in zip([*labels, "matrix product"], *columns, strict=True):
        print(f"| {label} | " + " | ".join(f"{rate:.0f}" for rate in rates) + " |")


if __name__ == "__main__":
    main()
