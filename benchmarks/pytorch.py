r"""Comparison with plain PyTorch: the same networks and losses in both frameworks.

    pip install torch
    python -m benchmarks.pytorch [--passes=translate,train] [--size=256] [--calls=3] [--rounds=2]

measures `configs/ade20k.py:released` on CPUs, batch 1, float32, in `benchmarks.plain_pytorch` and
in this project, alternately for several rounds, each in its own process. Prints seconds per image
(the fastest call), peak memory (the lowest), and the ratio of this project to PyTorch.
Weights are random; an assertion checks that both have equally many parameters.
"""

import argparse
import multiprocessing
from collections.abc import Callable
from typing import Any


def measure_pytorch(case: dict[str, Any]) -> dict[str, Any]:
    """One pass in PyTorch."""
    from benchmarks import plain_pytorch

    return plain_pytorch.measure(case)


def measure_jax(case: dict[str, Any]) -> dict[str, Any]:
    """The same pass in this project."""
    from benchmarks import model

    return model.measure(case)


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

    def in_new_process(function: Callable[..., Any], case: dict[str, Any]) -> dict[str, Any]:
        with spawn.Pool(1) as pool:
            return pool.apply(function, (case,))

    print(
        "| pass | PyTorch, s | this project, s | ratio | PyTorch, GiB | this project, GiB | ratio |"
        "\n" + "|---" * 7 + "|",
        flush=True,
    )
    for name in arguments.passes.split(","):
        case = {
            "config": "configs/ade20k.py:released",
            "pass": name,
            "size": arguments.size,
            "dtype": "float32",
            "correlation": "auto",
            "modulation": "plain",
            "rematerialise": "elementwise",
            "batch": 1,
            "accumulate": 1,
            "calls": arguments.calls,
        }
        torch_runs, jax_runs = [], []
        for _ in range(arguments.rounds):
            torch_runs.append(in_new_process(measure_pytorch, case))
            jax_runs.append(in_new_process(measure_jax, case))
        for network, count in torch_runs[0]["learned"].items():
            expected = jax_runs[0]["learned"][network]
            assert count == expected, f"{network}: {count}, not {expected}"
        columns = []
        for key in ("seconds", "peak_gib"):
            theirs, ours = (min(run[key] for run in runs) for runs in (torch_runs, jax_runs))
            columns.append(f"{theirs:.2f} | {ours:.2f} | {ours / theirs:.2f}")
        print(f"| {name} | {' | '.join(columns)} |", flush=True)


if __name__ == "__main__":
    main()
