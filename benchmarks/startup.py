r"""Seconds to the first training step, cold and warm, and where the time to compile goes.

    python -m benchmarks.startup [--rounds=1]
    python -m benchmarks.startup --compile=toy,ade20k:released [--topology=v5e:2x4]

The first starts `cocosnet_jax.main` with `configs/toy.py` twice per round: cold, a new run without
compiled programs, and warm, the same command again, which resumes from the checkpoint of the first
and finds the compiled programs. It prints the seconds from the start of the process until the first
step is done, and the CPU seconds of the whole process, which depend less on what else the machine
does. Data are prepared before.

The second traces, lowers and compiles the training step of each config, without the cache, for this
machine or for a TPU slice that it need not have (one image per device; `pip install libtpu==0.0.52`
for slices). It prints seconds of each part, CPU seconds of all, and counts: equations of the traced
step, operations of the lowered one, instructions of the compiled one, and its fusions, of which
XLA compiles those that differ.
"""

import argparse
import collections
import gc
import multiprocessing
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import configs

FIRST_STEP = "first step done"


def start(folder: Path, steps: int) -> tuple[float, float]:
    """Trains the toy config to `steps`; returns seconds to the first step, and CPU seconds."""
    command = [
        *(sys.executable, "-m", "cocosnet_jax.main", "--config=toy"),
        f"--workdir={folder / 'run'}",
        f"--config.data.data_dir={folder / 'data'}",
        f"--config.train.stop_after={steps}",
    ]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(folder / "programs")}
    before, began = _cpu_seconds(), time.perf_counter()
    reached = 0.0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if FIRST_STEP in line:
                reached = time.perf_counter() - began
    if process.returncode or not reached:
        raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}")
    return reached, _cpu_seconds() - before


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def starts(rounds: int) -> None:
    """Prints the table of starts."""
    print(
        "| start | seconds to the first step | share of the cold start | CPU s |\n|---|---|---|---|"
    )
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            prepare = [sys.executable, "-m", "cocosnet_jax.prepare", "--config=toy"]
            subprocess.run([*prepare, f"--config.data.data_dir={folder / 'data'}"], check=True)
            cold, cold_cpu = start(folder, 1)
            print(f"| cold | {cold:.1f} | 1 | {cold_cpu:.0f} |", flush=True)
            warm, warm_cpu = start(folder, 2)
            print(f"| warm | {warm:.1f} | {warm / cold:.2f} | {warm_cpu:.0f} |", flush=True)


def compile_figures(name: str, topology: str) -> dict[str, Any]:
    """Seconds and counts of one config's training step; to be called in a fresh process."""
    import jax

    from cocosnet_jax import command, compile_check, encode, mesh, partition, state
    from cocosnet_jax.pretrained import vgg
    from cocosnet_jax.settings import from_mapping

    gc.set_threshold(command.NEW_OBJECTS)
    jax.config.update("jax_enable_compilation_cache", False)
    devices = compile_check.slice_devices(topology) if topology else jax.devices()
    config = configs.load(name)
    settings = from_mapping(config.to_dict())
    shapes = (
        state.state_shapes(settings),
        jax.eval_shape(lambda: vgg.load("random", settings.vgg.width)),
        encode.batch_shapes(settings.data, len(devices)),
    )
    step = partition.jitted_step(settings, mesh.make(devices), 1000)
    cpu, times = time.process_time(), [time.perf_counter()]
    traced = step.trace(*shapes)
    times.append(time.perf_counter())
    lowered = traced.lower()
    times.append(time.perf_counter())
    compiled = lowered.compile()
    times.append(time.perf_counter())
    cpu = time.process_time() - cpu
    text = compiled.as_text()
    fused = fusions(text)
    return {
        "trace s": f"{times[1] - times[0]:.1f}",
        "lower s": f"{times[2] - times[1]:.1f}",
        "compile s": f"{times[3] - times[2]:.1f}",
        "CPU s": f"{cpu:.0f}",
        "equations": equations(traced.jaxpr.jaxpr),
        "operations": len(re.findall(r"= \"?(?:stablehlo|chlo)\.", lowered.as_text())),
        "instructions": len(re.findall(r"^ .* = ", text, re.MULTILINE)),
        "fusions": fused.total(),
        "different fusions": len(fused),
    }


def equations(jaxpr: Any) -> int:
    """Number of equations of a jaxpr, those of inner ones included."""
    inner = (
        getattr(value, "jaxpr", value)
        for equation in jaxpr.eqns
        for parameter in equation.params.values()
        for value in (parameter if isinstance(parameter, list | tuple) else [parameter])
    )
    return len(jaxpr.eqns) + sum(equations(value) for value in inner if hasattr(value, "eqns"))


def fusions(text: str) -> collections.Counter[str]:
    """The fused computations of a compiled program, without names, and how often each is called.

    Each that differs is a function that XLA compiles on CPUs.
    """
    computations = re.findall(r"^%?(\S+) \([^\n]*\{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL)
    bodies = dict(computations)
    found: collections.Counter[str] = collections.Counter()
    for called in re.findall(r" fusion\([^\n]*calls=%?([\w.\-]+)", text):
        names: dict[str, str] = {}
        body = re.sub(r", (metadata|backend_config)=.*", "", bodies[called])
        body = re.sub(r"(to_apply|calls)=%?[\w.\-]+", "", body)

        def rename(match: re.Match[str], names: dict[str, str] = names) -> str:
            return names.setdefault(match[0], f"%{len(names)}")

        found[re.sub(r"%[\w.\-]+", rename, body)] += 1
    return found


def compilations(names: list[str], topology: str) -> None:
    """Prints the table of compilations, each in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    for index, name in enumerate(names):
        with spawn.Pool(1) as pool:
            figures = pool.apply(compile_figures, (name, topology))
        if not index:
            print(f"| config | {' | '.join(figures)} |\n|---{'|---' * len(figures)}|")
        print(f"| {name} | {' | '.join(map(str, figures.values()))} |", flush=True)


def main() -> None:
    """Prints one of the two tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--compile", default="", help="configs with their variants after a colon")
    parser.add_argument("--topology", default="", help="a TPU slice, such as v5e:2x4")
    arguments = parser.parse_args()
    if arguments.compile:
        compilations(arguments.compile.split(","), arguments.topology)
    else:
        starts(arguments.rounds)


if __name__ == "__main__":
    main()
