r"""Beside plain PyTorch: the same networks and losses, in PyTorch as one writes it and in JAX.

    pip install torch
    python -m benchmarks.pytorch [--passes=translate,train] [--size=256] [--calls=3] [--rounds=2]

measures `configs/ade20k.py:released` on CPUs, batch 1, float32, once as `benchmarks.plain_pytorch`
writes it and once as this project does, each in a process of its own, by turns for some rounds.
Prints seconds per image (the best call), peak memory of the process (the least), and this project's
share of PyTorch's. Weights are random; that both learn equally many numbers is checked.
"""

import argparse
import multiprocessing
from collections.abc import Callable
from typing import Any


def in_pytorch(wanted: dict[str, Any]) -> dict[str, Any]:
    """One pass in PyTorch."""
    from benchmarks import plain_pytorch

    return plain_pytorch.measure(wanted)


def in_jax(wanted: dict[str, Any]) -> dict[str, Any]:
    """The same pass in this project."""
    from benchmarks import model

    return model.cell(wanted)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--passes", default="translate,train")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--calls", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")

    def alone(function: Callable[..., Any], wanted: dict[str, Any]) -> dict[str, Any]:
        with spawn.Pool(1) as pool:
            return pool.apply(function, (wanted,))

    print(
        "| pass | PyTorch, s | this project, s | share | PyTorch, GiB | this project, GiB | share |"
        "\n" + "|---" * 7 + "|",
        flush=True,
    )
    for name in arguments.passes.split(","):
        wanted = {
            "config": "configs/ade20k.py:released",
            "pass": name,
            "size": arguments.size,
            "dtype": "float32",
            "correlation": "auto",
            "rematerialise": "elementwise",
            "batch": 1,
            "calls": arguments.calls,
        }
        theirs, ours = [], []
        for _ in range(arguments.rounds):
            theirs.append(alone(in_pytorch, wanted))
            ours.append(alone(in_jax, wanted))
        for network, count in theirs[0]["learned"].items():
            expected = ours[0]["learned"][network]
            assert count == expected, f"{network}: {count}, not {expected}"
        columns = []
        for key in ("seconds", "peak_gib"):
            least, own = (min(found[key] for found in side) for side in (theirs, ours))
            columns.append(f"{least:.2f} | {own:.2f} | {own / least:.2f}")
        print(f"| {name} | {' | '.join(columns)} |", flush=True)


if __name__ == "__main__":
    main()
