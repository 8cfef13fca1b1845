r"""Speed and memory of the whole model: translation and training step.

    python -m benchmarks.model --config=configs/ade20k.py:released \
        [--passes=translate,train] [--sizes=256,512,1024] [--dtypes=float32,bfloat16]
        [--correlations=auto] [--modulations=plain] [--rematerialise=elementwise] [--batch=1]
        [--accumulate=1] [--calls=3]

prints a table with a line per combination: seconds to compile, seconds per image (the fastest
call), peak memory of the process (on GPUs, of the device), memory as XLA plans it (arguments,
results and temporary), operations of matrix products and convolutions (`cocosnet_jax.operations`),
bytes as XLA counts them, and the share of the time that these would take at the machine's full
speed, which is measured in the same run: for operations by a large matrix product, for bytes by a
large copy. The larger share shows what limits a pass. The last column is MFU, operations by the
data sheet's bfloat16 peak, where that is known. XLA counts the bytes of a loop's body only once, so
above 256 x 256 they include little of the correlation and the non-local block, and with
`--accumulate=8` they are those of one of eight small batches. On CPUs, XLA's bytes include those
that caches serve, and their share may exceed 1.

Weights are random. Each line is measured in its own process, so that peak memory is its own. A line
that does not fit in memory says so. `--jsonl=FILE` appends the figures to a file.
"""

import argparse
import itertools
import json
import multiprocessing
import resource
import time
from collections.abc import Callable
from typing import Any

from benchmarks import configs


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """The figures of one line; to be called in a fresh process."""
    import jax
    import jax.numpy as jnp

    from cocosnet_jax import encode, mesh, operations, partition, settings, steps
    from cocosnet_jax.fit import GIB, compile_to_fit, planned
    from cocosnet_jax.pretrained import vgg as vgg_weights

    config = configs.load(case["config"])
    size, b = case["size"], case["batch"]
    config.data.image_size = config.data.load_size = size
    config.model.dtype = case["dtype"]
    config.model.correlation, config.model.modulation = case["correlation"], case["modulation"]
    config.train.batch_size, config.train.accumulate = b, case["accumulate"]
    config.model.rematerialise = case["rematerialise"]
    s = settings.from_mapping(config.to_dict())

    one = mesh.make(jax.devices()[:1])
    state = jax.block_until_ready(partition.initial_state(s, one, 1000))
    batch = mesh.to_global(one, encode.random_batch(s.data, b), case["accumulate"])
    began = time.perf_counter()
    if case["pass"] == "train":
        weights = jax.device_put(vgg_weights.load("random"), mesh.replicated(one))
        compiled = partition.compile_step(s, one, 1000, (state, weights, batch))
    else:
        predict = jax.jit(steps.predict_step(s))
        compiled = compile_to_fit(predict, (state, batch), one, size, "set --sizes to {size}")
    figures: dict[str, Any] = {"compile_s": time.perf_counter() - began}
    figures["learned"] = {
        name: sum(leaf.size for leaf in jax.tree.leaves(params))
        for name, params in state.params.items()
    }

    best = float("inf")
    for _ in range(case["calls"]):
        began = time.perf_counter()
        if case["pass"] == "train":
            state, result = compiled(state, weights, batch)
        else:
            result = compiled(state, batch)
        jax.block_until_ready(result)
        best = min(best, time.perf_counter() - began)
    cost = compiled.cost_analysis()
    statistics = jax.devices()[0].memory_stats() or {}
    peak = statistics.get("peak_bytes_in_use")
    if peak is None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    # Counted only now, since that takes memory, which a program on CPUs does not need.
    if case["pass"] == "train":
        products = partition.products(s, one, 1000, (state, weights, batch))
    else:
        traced = predict.trace(state, batch)
        products = operations.count(traced.jaxpr, jax.devices()[0].platform).products
    assert products is not None

    def fastest(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> float:
        """Seconds of the fastest of ten calls."""
        call = jax.jit(function).lower(x).compile()
        times = []
        for _ in range(10):
            began = time.perf_counter()
            jax.block_until_ready(call(x))
            times.append(time.perf_counter() - began)
        return min(times)

    n = 8192 if jax.default_backend() != "cpu" else 2048
    square = jnp.ones((n, n), case["dtype"])
    peak_rate = operations.peak(jax.devices()[0])
    line = jnp.ones(GIB // 4, jnp.float32)
    return figures | {
        "seconds": best / b,
        "peak_gib": peak / GIB,
        "planned_gib": planned(compiled)[1] / GIB,
        "tflop": products / b / 1e12,
        "mfu": peak_rate and products / best / peak_rate,
        "moved_gib": cost["bytes accessed"] / b / GIB,
        "machine_tflops": 2 * n**3 / fastest(lambda a: a @ a, square) / 1e12,
        # Read and written.
        "machine_gib_per_s": 2 / fastest(lambda a: a + 1, line),
        "device": jax.devices()[0].device_kind,
    }


def measure_or_error(case: dict[str, Any]) -> dict[str, Any]:
    """Like `measure`, but returns the error if the case does not fit in memory."""
    from cocosnet_jax.errors import UserError

    try:
        return measure(case)
    except UserError as error:
        return {"error": str(error).partition(": ")[0]}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/ade20k.py:released")
    parser.add_argument("--passes", default="translate,train")
    parser.add_argument("--sizes", default="256,512,1024")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--correlations", default="auto")
    parser.add_argument("--modulations", default="plain")
    parser.add_argument("--rematerialise", default="elementwise")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--accumulate", default="1")
    parser.add_argument("--calls", type=int, default=3)
    parser.add_argument("--jsonl", default="")
    arguments = parser.parse_args()
    print(f"{arguments.config}, batch {arguments.batch}")
    print(
        "| pass | size | type | correlation | modulation | remat | small batches | compile s"
        " | s per image | peak GiB | planned GiB | TFLOP | GiB moved | share of operations"
        " | share of bytes | MFU |\n" + "|---" * 16 + "|",
        flush=True,
    )
    combinations = itertools.product(
        arguments.passes.split(","),
        map(int, arguments.sizes.split(",")),
        arguments.dtypes.split(","),
        arguments.correlations.split(","),
        arguments.modulations.split(","),
        arguments.rematerialise.split(","),
        map(int, arguments.accumulate.split(",")),
    )
    spawn = multiprocessing.get_context("spawn")
    for name, size, dtype, correlation, modulation, remat, accumulate in combinations:
        case = {
            "config": arguments.config,
            "pass": name,
            "size": size,
            "dtype": dtype,
            "correlation": correlation,
            "modulation": modulation,
            "rematerialise": remat,
            "batch": arguments.batch,
            "accumulate": accumulate,
            "calls": arguments.calls,
        }
        with spawn.Pool(1) as pool:
            figures = pool.apply(measure_or_error, (case,))
        options = (name, size, dtype, correlation, modulation, remat, accumulate)
        shown = f"| {' | '.join(map(str, options))} | "
        if "error" in figures:
            shown += figures["error"] + " |" * 9
        else:
            operations = figures["tflop"] / figures["machine_tflops"] / figures["seconds"]
            moved = figures["moved_gib"] / figures["machine_gib_per_s"] / figures["seconds"]
            mfu = "" if figures["mfu"] is None else f"{figures['mfu']:.1%}"
            shown += (
                f"{figures['compile_s']:.0f} | {figures['seconds']:.2f} |"
                f" {figures['peak_gib']:.1f} | {figures['planned_gib']:.2f} |"
                f" {figures['tflop']:.2f} | {figures['moved_gib']:.1f} |"
                f" {operations:.2f} | {moved:.2f} | {mfu} |"
            )
        print(shown, flush=True)
        if arguments.jsonl:
            with open(arguments.jsonl, "a") as file:
                file.write(json.dumps(case | figures) + "\n")


if __name__ == "__main__":
    main()
