r"""The whole model in one run: translation and training step, beside what the machine can do.

    python -m benchmarks.model --config=configs/ade20k.py:released \
        [--passes=translate,train] [--sizes=256,512,1024] [--dtypes=float32,bfloat16]
        [--correlations=auto] [--rematerialise=elementwise] [--batch=1] [--calls=3]

writes a table, a line per combination: seconds to compile, seconds per image (the best call), peak
memory of the process (of the device, on GPUs), operations and bytes as XLA counts them, and what
share of the time they would take at the machine's own speed, measured in the same run: operations
at the rate of a large matrix product, bytes at that of a large copy. The larger share says what
bounds a pass. XLA counts a loop's body once: above 256 x 256 little of the correlation and of the
non-local block is in its figures. On CPUs, bytes that caches serve count too, and their share may
be above 1.

Weights are random; each line has a process of its own, so that one line's memory is not another's.
What does not fit is said in its line. `--jsonl=FILE` also keeps the figures.
"""

import argparse
import importlib
import itertools
import json
import multiprocessing
import resource
import time
from collections.abc import Callable
from typing import Any


def cell(wanted: dict[str, Any]) -> dict[str, Any]:
    """One line of the table, measured in a fresh process."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from cocosnet_jax import mesh, partition, settings, steps
    from cocosnet_jax.fit import GIB, compile_to_fit, planned
    from cocosnet_jax.pretrained import vgg as vgg_weights
    from cocosnet_jax.types import Batch

    file, _, variant = wanted["config"].partition(":")
    module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    config = module.get_config(variant) if variant else module.get_config()
    size, b = wanted["size"], wanted["batch"]
    config.data.image_size = config.data.load_size = size
    config.data.exemplar_list = "random"
    config.data.channels = config.data.channels or 151
    config.model.dtype = wanted["dtype"]
    config.model.correlation = wanted["correlation"]
    config.train.batch_size = b
    config.model.rematerialise = wanted["rematerialise"]
    s = settings.from_mapping(config.to_dict())

    one = mesh.make(jax.devices()[:1])
    state = jax.block_until_ready(partition.initial_state(s, one, 1000))
    rng = np.random.default_rng(0)

    def drawn(high: int, channels: int) -> np.ndarray:
        return rng.integers(0, high, (b, size, size, channels), np.uint8)

    classes = {"labels": s.data.channels, "labels_glasses": 2, "channels": 256}[s.data.condition]
    batch = Batch(
        drawn(256, 3),
        drawn(256, 3),
        drawn(classes, s.data.planes),
        drawn(classes, s.data.planes),
        np.ones(b, np.float32),
    )
    batch = jax.device_put(batch, mesh.replicated(one))
    began = time.perf_counter()
    if wanted["pass"] == "train":
        weights = jax.device_put(vgg_weights.load("random"), mesh.replicated(one))
        compiled = partition.compile_step(s, one, 1000, (state, weights, batch))
    else:
        predict = jax.jit(steps.predict_step(s))
        compiled = compile_to_fit(predict, (state, batch), one, size, "set --sizes to {size}")
    found: dict[str, Any] = {"compile_s": time.perf_counter() - began}
    found["learned"] = {
        name: sum(leaf.size for leaf in jax.tree.leaves(params))
        for name, params in state.params.items()
    }

    best = float("inf")
    for _ in range(wanted["calls"]):
        began = time.perf_counter()
        if wanted["pass"] == "train":
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

    def fastest(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> float:
        """Seconds of the best of ten calls."""
        call = jax.jit(function).lower(x).compile()
        times = []
        for _ in range(10):
            began = time.perf_counter()
            jax.block_until_ready(call(x))
            times.append(time.perf_counter() - began)
        return min(times)

    n = 8192 if jax.default_backend() != "cpu" else 2048
    square = jnp.ones((n, n), wanted["dtype"])
    line = jnp.ones(GIB // 4, jnp.float32)
    return found | {
        "seconds": best / b,
        "peak_gib": peak / GIB,
        "planned_gib": planned(compiled)[1] / GIB,
        "tflop": cost["flops"] / b / 1e12,
        "moved_gib": cost["bytes accessed"] / b / GIB,
        "machine_tflops": 2 * n**3 / fastest(lambda a: a @ a, square) / 1e12,
        # Read and written.
        "machine_gib_per_s": 2 / fastest(lambda a: a + 1, line),
        "device": jax.devices()[0].device_kind,
    }


def guarded(wanted: dict[str, Any]) -> dict[str, Any]:
    """`cell`, or why there is none."""
    from cocosnet_jax.errors import UserError

    try:
        return cell(wanted)
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
    parser.add_argument("--rematerialise", default="elementwise")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--calls", type=int, default=3)
    parser.add_argument("--jsonl", default="")
    arguments = parser.parse_args()
    print(f"{arguments.config}, batch {arguments.batch}")
    print(
        "| pass | size | type | correlation | remat | compile s | s per image | peak GiB"
        " | TFLOP | GiB moved | share of operations | share of bytes |\n" + "|---" * 12 + "|",
        flush=True,
    )
    combinations = itertools.product(
        arguments.passes.split(","),
        map(int, arguments.sizes.split(",")),
        arguments.dtypes.split(","),
        arguments.correlations.split(","),
        arguments.rematerialise.split(","),
    )
    spawn = multiprocessing.get_context("spawn")
    for name, size, dtype, correlation, remat in combinations:
        wanted = {
            "config": arguments.config,
            "pass": name,
            "size": size,
            "dtype": dtype,
            "correlation": correlation,
            "rematerialise": remat,
            "batch": arguments.batch,
            "calls": arguments.calls,
        }
        with spawn.Pool(1) as pool:
            found = pool.apply(guarded, (wanted,))
        shown = f"| {name} | {size} | {dtype} | {correlation} | {remat} | "
        if "error" in found:
            shown += found["error"] + " |" * 7
        else:
            operations = found["tflop"] / found["machine_tflops"] / found["seconds"]
            moved = found["moved_gib"] / found["machine_gib_per_s"] / found["seconds"]
            shown += (
                f"{found['compile_s']:.0f} | {found['seconds']:.2f} | {found['peak_gib']:.1f} |"
                f" {found['tflop']:.2f} | {found['moved_gib']:.1f} | {operations:.2f} |"
                f" {moved:.2f} |"
            )
        print(shown, flush=True)
        if arguments.jsonl:
            with open(arguments.jsonl, "a") as file:
                file.write(json.dumps(wanted | found) + "\n")


if __name__ == "__main__":
    main()
