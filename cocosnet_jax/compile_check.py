r"""Compiles the training step for accelerators that are not there: does it fit, at what cost.

    pip install libtpu==0.0.52
    JAX_OPTIMIZATION_LEVEL=O1 python -m cocosnet_jax.compile_check --config=configs/ade20k.py \
        --topology=v5e:2x4 --config.train.batch_size=64

`--topology=here` takes the devices of this machine. The batch size is that of all chips together.
For a TPU slice this takes 2 to 18 minutes, by size and machine; without O1, several times as long.
A line every half minute says that it is at work. A step that does not fit is an error, which says
what to set. Nothing is read or written: neither data nor weights need be there.
"""

import collections
import math
import os
import re
import threading
import time
from typing import Any

from absl import flags

from cocosnet_jax import command
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import Settings

_SETTINGS = command.define_config(trains=False)
_TOPOLOGY = flags.DEFINE_string(
    "topology", "", "what to compile for: v5e:2x4 and the like, or `here` for this machine"
)

HEARTBEAT = 30.0  # seconds between signs of life
_STEPS_PER_EPOCH = 1000  # only schedules depend on it
_COLLECTIVE = re.compile(
    r"= (\(?[a-z0-9]+\[.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)"
    r"(-start)?\("
)
_ARRAY = re.compile(r"([a-z]+)(\d+)?\[([\d,]*)\]")


def main() -> None:
    """Compiles and reports."""
    settings = _SETTINGS()
    if not _TOPOLOGY.value:
        raise UserError("--topology is missing; for example --topology=v5e:2x4, or here")
    if not settings.data.channels:
        raise UserError("config.data.channels is 0; say how many classes there are")
    import jax

    from cocosnet_jax import mesh

    devices = jax.devices() if _TOPOLOGY.value == "here" else _slice(_TOPOLOGY.value)
    over = mesh.make(devices)
    settings = settings.on_devices(len(devices))
    kind = devices[0].device_kind
    batch = settings.train.batch_size
    mesh.check_batch(batch, len(devices), group_size=settings.loss.group_size)
    size = settings.data.image_size
    print(
        f"{len(devices)} x {kind}, {batch // len(devices)} per chip at {size} x {size},"
        f" {settings.model.dtype}",
        flush=True,
    )
    from cocosnet_jax import partition  # slow to import

    began = time.monotonic()
    with _Heartbeat():
        compiled = partition.compile_step(settings, over, _STEPS_PER_EPOCH, _shapes(settings))
    print(f"compiled in {time.monotonic() - began:.0f} s")
    print(report(compiled, batch // len(devices)))


def _slice(topology: str) -> list[Any]:
    """Devices of a TPU slice that need not be there."""
    import jax
    from jax.experimental import topologies

    # What is compiled for is given; what this machine has is of no interest. libtpu, which looks
    # for chips all the same, complains without host names, and where it runs twice it ends the
    # second process.
    jax.config.update("jax_platforms", "cpu")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    # A v4 chip is two devices unless told otherwise, and JAX makes no mesh of those.
    options = {"chip_config_name": "megacore"} if topology.startswith("v4:") else {}
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options)
    except Exception as error:  # the plugin raises what it likes
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"--topology={topology} cannot be compiled for ({first}); it needs libtpu (pip install"
            " libtpu==0.0.52) and a slice that exists, such as v5e:2x4 or v4:2x2x1"
        ) from error
    return list(found.devices)


def _shapes(settings: Settings) -> tuple[Any, Any, Any]:
    """Shapes of what a training step takes: state, VGG weights, batch."""
    import jax
    import jax.numpy as jnp

    from cocosnet_jax import state
    from cocosnet_jax.pretrained import vgg as vgg_weights
    from cocosnet_jax.types import Batch

    data, b = settings.data, settings.train.batch_size

    def empty() -> tuple[Any, Any, Any]:
        picture, plane = (
            jnp.zeros((b, data.image_size, data.image_size, channels), jnp.uint8)
            for channels in (3, data.planes)
        )
        return (
            state.create_state(settings, jax.random.key(0), _STEPS_PER_EPOCH),
            vgg_weights.load("random", settings.vgg.width),
            Batch(picture, picture, plane, plane, jnp.zeros(b)),
        )

    return jax.eval_shape(empty)


def report(compiled: Any, samples: int) -> str:
    """What one step costs each chip.

    Args:
      compiled: a `jax.stages.Compiled`.
      samples: images per chip and step.
    """
    from cocosnet_jax.fit import GIB, planned

    (held, peak), cost = planned(compiled), compiled.cost_analysis()
    operations, moved = cost["flops"], cost["bytes accessed"]
    lines = [
        f"memory per chip: {peak / GIB:.2f} GiB ({held / GIB:.2f} state and inputs,"
        f" {(peak - held) / GIB:.2f} temporary)",
        f"per chip and step: {operations / 1e12:.2f} TFLOP, {moved / GIB:.1f} GiB moved"
        f" ({moved / GIB / samples:.1f} GiB per image)",
    ]
    found = collectives(compiled.as_text())
    lines += [
        f"{name}: {len(sizes)}, {sum(sizes) / 2**20:.1f} MiB"
        f" (the largest: {', '.join(f'{size / 2**20:.1f}' for size in sorted(sizes)[:-5:-1])})"
        for name, sizes in sorted(found.items())
    ]
    return "\n".join(lines if found else [*lines, "no collectives"])


def collectives(text: str) -> dict[str, list[int]]:
    """Kind of collective -> bytes that each of them yields, from a compiled program's text."""
    found = collections.defaultdict(list)
    for shape, name, start in _COLLECTIVE.findall(text):
        size, arrays = 0, _ARRAY.findall(shape)
        if start and name != "all-reduce":
            # (operands, results), and of a permutation two numbers of its own.
            arrays = arrays[1:2] if name == "collective-permute" else arrays[len(arrays) // 2 :]
        for kind, bits, sides in arrays:
            width = 8 if kind == "pred" else int(bits or 0)
            size += width // 8 * math.prod(int(side) for side in sides.split(",") if side)
        found[name].append(size)
    return dict(found)


class _Heartbeat:
    """Says every half minute that the compiler is still at work."""

    def __enter__(self) -> None:
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _beat(self) -> None:
        began = time.monotonic()
        while not self._done.wait(HEARTBEAT):
            print(f"compiling ... {time.monotonic() - began:.0f} s", flush=True)


def run() -> None:
    """The command `cocosnet-compile-check`."""
    command.run(main, __doc__)


if __name__ == "__main__":
    run()
