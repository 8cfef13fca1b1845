r"""Compiles the training step for accelerators that this machine need not have.

The report has the memory per device, the operations, and the traffic between devices.

    pip install libtpu==0.0.52
    JAX_OPTIMIZATION_LEVEL=O1 python -m cocosnet_jax.compile_check --config=configs/ade20k.py \
        --topology=v5e:2x4 --config.train.batch_size=64

`--topology=here` compiles for the devices of this machine. The batch size is that of all chips
together. For a TPU slice this takes 2 to 18 minutes, depending on size and machine, and several
times as long without O1; every half minute a line is printed. If the step does not fit in memory,
the error suggests settings. Neither data nor weights are needed, and nothing is written.

Operations and bytes are the compiler's figures for one chip and step; a loop's body counts once.
For TPU v5e, the shortest time that the chip's rates allow is predicted as well: see `predicted`.
"""

import collections
import math
import os
import re
import threading
import time
from typing import Any, NamedTuple

from absl import flags

from cocosnet_jax import command
from cocosnet_jax.errors import UserError

_SETTINGS = command.define_config(trains=False)
_TOPOLOGY = flags.DEFINE_string(
    "topology", "", "what to compile for: a TPU slice such as v5e:2x4, or `here` for this machine"
)

HEARTBEAT = 30.0  # seconds between progress lines
_STEPS_PER_EPOCH = 1000  # affects only schedules
_COLLECTIVE = re.compile(
    r"= (\(?[a-z0-9]+\[.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)"
    r"(-start)?\("
)
# Of one chip of TPU v5e, https://cloud.google.com/tpu/docs/v5e: bfloat16 operations, bytes of
# memory, and bytes that one of its four links sends (1,600 Gbit/s together), each per second.
_V5E_OPERATIONS, _V5E_MEMORY, _V5E_LINK = 197e12, 819e9, 1600e9 / 8 / 4
_V5E_TORUS = 16  # An axis of a slice is a ring if it is the whole pod's; shorter ones are lines.
_ARRAY = re.compile(r"([a-z]+)(\d+)?\[([\d,]*)\]")


def main() -> None:
    """Compiles and reports."""
    settings = _SETTINGS()
    if not _TOPOLOGY.value:
        raise UserError(
            "--topology is missing; give a TPU slice, for example --topology=v5e:2x4, or here"
        )
    if not settings.data.channels:
        raise UserError("config.data.channels is 0; set it to the number of classes")
    import jax

    from cocosnet_jax import mesh

    devices = jax.devices() if _TOPOLOGY.value == "here" else slice_devices(_TOPOLOGY.value)
    settings = settings.on_devices(len(devices))
    kind = devices[0].device_kind
    batch = settings.train.batch_size
    accumulate = settings.train.accumulate
    mesh.check_batch(
        batch, len(devices), group_size=settings.loss.group_size, accumulate=accumulate
    )
    size = settings.data.image_size
    print(
        f"{len(devices)} x {kind}, {batch // len(devices)} per chip at {size} x {size},"
        f" {settings.model.dtype}",
        flush=True,
    )
    from cocosnet_jax import encode, partition, state  # slow to import
    from cocosnet_jax.pretrained import vgg as vgg_weights

    began = time.monotonic()
    with _Heartbeat():
        shapes = (
            state.state_shapes(settings),
            jax.eval_shape(lambda: vgg_weights.load("random", settings.vgg.width)),
            encode.batch_shapes(settings.data, batch, accumulate),
        )
        compiled = partition.compile_step(settings, mesh.make(devices), _STEPS_PER_EPOCH, shapes)
    print(f"compiled in {time.monotonic() - began:.0f} s")
    if products := partition.products(settings, mesh.make(devices), _STEPS_PER_EPOCH, shapes):
        # XLA's count below takes a loop's body once.
        tflop = products / len(devices) / 1e12
        print(f"products per chip and step, with all iterations of loops: {tflop:.2f} TFLOP")
    sides = re.fullmatch(r"v5e:(\d+)x(\d+)", _TOPOLOGY.value)
    parameters = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes[0].params))
    print(
        report(
            compiled, batch // len(devices), parameters, sides and (int(sides[1]), int(sides[2]))
        )
    )


def slice_devices(topology: str) -> list[Any]:
    """Returns the devices of a TPU slice, which this machine need not have."""
    import jax
    from jax.experimental import topologies

    # JAX must not look for this machine's accelerators. libtpu looks for chips all the same: it
    # complains without host names, and ends the second of two processes that use it.
    jax.config.update("jax_platforms", "cpu")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    # By default a v4 chip is two devices, from which JAX cannot make a mesh.
    options = {"chip_config_name": "megacore"} if topology.startswith("v4:") else {}
    try:
        description = topologies.get_topology_desc(
            platform="tpu", topology_name=topology, **options
        )
    except Exception as error:  # the plugin's errors have no common type
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"cannot compile for --topology={topology} ({first}); this needs libtpu (pip install"
            " libtpu==0.0.52) and a slice that exists, such as v5e:2x4 or v4:2x2x1"
        ) from error
    return list(description.devices)


def report(
    compiled: Any, samples: int, parameters: int, sides: tuple[int, int] | None = None
) -> str:
    """Memory, operations, collectives and predicted time of one step, per chip.

    Args:
      compiled: a `jax.stages.Compiled`.
      samples: images per chip and step.
      parameters: bytes of the learned parameters.
      sides: chips along each axis of a slice of TPU v5e; None for other devices.
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
    by_kind = collectives(compiled.as_text())
    lines += [
        f"{name}: {len(sizes)}, {sum(sizes) / 2**20:.1f} MiB"
        f" (the largest: {', '.join(f'{size / 2**20:.1f}' for size in sorted(sizes)[:-5:-1])})"
        for name, sizes in sorted(by_kind.items())
    ]
    traffic = sum(map(sum, by_kind.values()))
    lines.append(
        f"collectives: {traffic / 2**20:.1f} MiB, {traffic / parameters:.2f} of the parameters'"
        f" {parameters / 2**20:.1f} MiB"
        if by_kind
        else "no collectives"
    )
    if sides:
        time = predicted(operations, moved, traffic, sides)
        lines.append(
            f"predicted step: {1e3 * time.step:.0f} ms ({1e3 * time.products:.0f} for operations,"
            f" {1e3 * time.memory:.0f} for memory, {1e3 * time.links:.1f} for collectives):"
            f" {samples / time.step:.1f} images/s per chip, {time.products / time.step:.2f} of the"
            f" peak rate, efficiency {time.efficiency:.3f}"
        )
    return "\n".join(lines)


class Predicted(NamedTuple):
    """Seconds that a step takes on one chip, as its rates allow.

    Attributes:
      products: for its operations alone.
      memory: for reading and writing memory alone.
      links: for its collectives alone.
    """

    products: float
    memory: float
    links: float

    @property
    def step(self) -> float:
        """Operations and memory at once; then the collectives, which XLA does not overlap here."""
        return max(self.products, self.memory) + self.links

    @property
    def efficiency(self) -> float:
        """Images per second and chip, as a share of those of a chip alone."""
        return max(self.products, self.memory) / self.step


def predicted(operations: float, moved: float, traffic: float, sides: tuple[int, int]) -> Predicted:
    """The time of a step on a slice of TPU v5e, at the chips' nominal rates.

    In an all-reduce of B bytes over n chips, each chip sends 2 (n - 1) / n B bytes, if the work is
    split as in a ring, over all of its links. The chips in the slice's corners have the fewest
    links and finish last.

    Args:
      operations: per chip and step.
      moved: bytes of memory, per chip and step.
      traffic: bytes of the collectives' results, per chip and step.
      sides: chips along each axis of the slice.
    """
    chips = math.prod(sides)
    links = sum(2 if side == _V5E_TORUS else side > 1 for side in sides)
    sent = 2 * (chips - 1) / chips * traffic
    return Predicted(
        products=operations / _V5E_OPERATIONS,
        memory=moved / _V5E_MEMORY,
        links=sent / (max(links, 1) * _V5E_LINK),
    )


def collectives(text: str) -> dict[str, list[int]]:
    """Parses a compiled program's text: kind of collective -> result sizes in bytes."""
    by_kind = collections.defaultdict(list)
    for shape, name, start in _COLLECTIVE.findall(text):
        size, arrays = 0, _ARRAY.findall(shape)
        if start and name != "all-reduce":
            # The shape is (operands, results), and two more numbers for a permutation.
            arrays = arrays[1:2] if name == "collective-permute" else arrays[len(arrays) // 2 :]
        for kind, bits, sides in arrays:
            width = 8 if kind == "pred" else int(bits or 0)
            size += width // 8 * math.prod(int(side) for side in sides.split(",") if side)
        by_kind[name].append(size)
    return dict(by_kind)


class _Heartbeat:
    """Prints a line every half minute while XLA compiles."""

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
    # The time to compile is part of the result, so no kept program may be used.
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    command.run(main, __doc__)


if __name__ == "__main__":
    run()
