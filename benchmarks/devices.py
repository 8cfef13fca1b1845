r"""Translation on 1, 2, 4, 8 ... devices: a folder of pictures, and one large picture.

    python -m benchmarks.devices                    # on a machine with several GPUs or TPU chips
    python -m benchmarks.devices --simulate=8       # on CPUs: memory and work, no times
    python -m benchmarks.devices --topology=v5e:2x4 # for TPU chips that this machine lacks
    python -m benchmarks.devices --simulate=8 --run --size=128 --large=256 \
        --checkpoint=cocosnet_jax/pretrained/drawn.safetensors

prints two tables. In the first, every device translates whole pictures, `--each` at a time, as
`cocosnet_jax.translate` does with a folder. In the second, all devices share the rows of a single
picture, as it does with one. For each number of devices the tables have

- memory per device, as XLA plans it: weights, inputs, results and temporary memory;
- work per device, XLA's count of operations for a picture (a loop's body counts once);
- MiB of each device's collectives for a picture;
- the time: pictures per second or seconds per picture, the best of `--calls`, from arrays in the
  machine's memory to arrays there; and the ratio of pictures per second to one device's;
- the largest difference from one device's results, whose values are in [-1, 1]. Where nothing of a
  picture is shared, only the order of sums in a batch of another size can differ.

The networks are those of `--config` with random weights, or those of `--checkpoint`. With
`--simulate`, the CPU plays all devices; nothing runs unless `--run` is given, and then times mean
nothing and are left out. With `--topology` (see `cocosnet_jax.compile_check`) nothing can run.
"""

import argparse
import dataclasses
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from benchmarks import configs
from cocosnet_jax.errors import UserError

if TYPE_CHECKING:
    from cocosnet_jax.checkpoint import Restored


class Figures(NamedTuple):
    """A line of a table.

    Attributes:
      pictures: translated at once.
      memory: bytes per device.
      operations: per device and picture.
      moved: bytes of each device's collectives, per picture.
      seconds: of the fastest call; None if nothing was timed.
      images: the results of `most` pictures, batch by batch; None if nothing ran.
    """

    pictures: int
    memory: int
    operations: float
    moved: float
    seconds: float | None
    images: np.ndarray | None


def there(arguments: argparse.Namespace) -> list[Any]:
    """All devices: this machine's, or those of a slice that it lacks."""
    import jax

    from cocosnet_jax.compile_check import slice_devices

    return slice_devices(arguments.topology) if arguments.topology else jax.devices()


def networks(arguments: argparse.Namespace) -> "Restored":
    """Those of the checkpoint, or random ones: their shapes alone where nothing runs."""
    import jax

    from cocosnet_jax import mesh, partition, settings, state
    from cocosnet_jax.checkpoint import Restored, restore_for_inference

    if arguments.checkpoint:
        return restore_for_inference(arguments.checkpoint)
    config = configs.load(arguments.config)
    config.model.dtype = arguments.dtype or config.model.dtype
    described = settings.from_mapping(config.to_dict())
    if arguments.run:
        one = mesh.make(jax.devices()[:1])
        found = partition.initial_state(described, one, 1000)
    else:
        found = state.state_shapes(described)
    return Restored(described, found, 0, Path(arguments.config))


def measure(
    restored: "Restored",
    size: int,
    devices: int,
    batch: int,
    most: int,
    arguments: argparse.Namespace,
) -> Figures:
    """Compiles a translation for some devices, and runs it on `most` pictures."""
    from cocosnet_jax import encode
    from cocosnet_jax.compile_check import collectives
    from cocosnet_jax.fit import planned
    from cocosnet_jax.inference import Translator

    translator = Translator(restored, size, devices=there(arguments)[:devices])
    compiled = translator.compile(batch)
    moved = sum(map(sum, collectives(compiled.as_text()).values()))
    cost: Any = compiled.cost_analysis()
    # A device computes this many pictures, or its share of one.
    own = max(1, batch // devices)
    seconds = images = None
    if arguments.run:
        data = dataclasses.replace(restored.settings.data, image_size=size, load_size=size)
        noise = encode.random_batch(data, most)
        pictures = noise.label, noise.exemplar, noise.exemplar_label

        def translate(start: int) -> np.ndarray:
            part = (array[start : start + batch] for array in pictures)
            return np.asarray(translator.translate(*part).image)

        images = np.concatenate([translate(start) for start in range(0, most, batch)])
        times = []
        for _ in range(0 if arguments.simulate else arguments.calls):
            began = time.perf_counter()
            translate(0)
            times.append(time.perf_counter() - began)
        seconds = min(times, default=None)
    memory = planned(compiled)[1]
    return Figures(batch, memory, cost["flops"] / own, moved / own, seconds, images)


def row(devices: int, found: Figures, one: Figures, *, folder: bool) -> str:
    """A line of a table, beside the first one."""
    from cocosnet_jax.fit import GIB

    timed = "| not timed | "
    if found.seconds is not None and one.seconds is not None:
        rate, alone = found.pictures / found.seconds, one.pictures / one.seconds
        timed = f"| {rate if folder else found.seconds:.3g} | {rate / alone:.2f}"
    differ = ""
    if found.images is not None and one.images is not None:
        differ = f"{np.abs(found.images - one.images).max():.1e}"
    return (
        f"| {devices} | {found.pictures} | {found.memory / GIB:.2f} |"
        f" {found.operations / 1e12:.4f} | {found.moved / 2**20:.1f} {timed} | {differ} |"
    )


def table(
    restored: "Restored", counts: Sequence[int], size: int, each: int, arguments: argparse.Namespace
) -> None:
    """Prints a table; `each` is the number of pictures per device, or 0 for a single picture."""
    head = "| devices | pictures at once | GiB per device | TFLOP per device and picture"
    head += f" | MiB of collectives per picture | {'pictures/s' if each else 'seconds'} | ratio"
    print(f"{head} | difference |\n" + "|---" * 8 + "|", flush=True)
    one = None
    most = each * math.lcm(*counts) or 1
    for n in counts:
        try:
            found = measure(restored, size, n, n * each or 1, most, arguments)
        except UserError as error:
            print(f"| {n} | {n * each or 1} | {error} |" + " |" * 5, flush=True)
            continue
        one = one or found
        print(row(n, found, one, folder=each > 0), flush=True)


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/ade20k.py:released")
    parser.add_argument("--checkpoint", default="", help="these networks instead")
    parser.add_argument("--dtype", default="", help="float32 or bfloat16; as in the config")
    parser.add_argument("--devices", default="1,2,4,8", help="those that are there")
    parser.add_argument(
        "--size", type=int, default=256, help="of the folder's pictures; 0: no table"
    )
    parser.add_argument("--each", type=int, default=0, help="pictures per device; 1 on CPUs, 8")
    parser.add_argument("--large", default="512,1024", help="sizes of single pictures")
    parser.add_argument("--calls", type=int, default=5)
    parser.add_argument("--simulate", type=int, default=0, help="devices that the CPU plays")
    parser.add_argument("--topology", default="", help="a TPU slice to compile for: v5e:2x4")
    parser.add_argument("--run", action="store_true", help="also run what is simulated")
    arguments = parser.parse_args()
    if arguments.simulate:
        flag = f"--xla_force_host_platform_device_count={arguments.simulate}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"
        os.environ["JAX_PLATFORMS"] = "cpu"
    arguments.run = arguments.run or not (arguments.simulate or arguments.topology)
    devices = there(arguments)
    restored = networks(arguments)
    counts = [n for n in map(int, arguments.devices.split(",")) if n <= len(devices)]
    each = arguments.each or (1 if devices[0].platform == "cpu" else 8)
    kind = f"{len(devices)} x {devices[0].device_kind}, {restored.settings.model.dtype}"
    if arguments.simulate:
        kind += ", simulated: times would mean nothing"
    print(kind, flush=True)
    if arguments.size:
        print(f"\na folder of pictures of {arguments.size}, {each} per device\n")
        table(restored, counts, arguments.size, each, arguments)
    for size in map(int, filter(None, arguments.large.split(","))):
        print(f"\none picture of {size}, whose rows all devices share\n")
        table(restored, counts, size, 0, arguments)


if __name__ == "__main__":
    main()
