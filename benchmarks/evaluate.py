"""Time per picture and memory of `cocosnet_jax.measure`, beside Inception alone.

    python -m benchmarks.evaluate --pictures=10000 [--vgg] [--folder=FOLDER]

Pictures of 256 x 256 are drawn and written as PNG, as many real as generated. Networks have random
weights, which cost what trained ones do. FID, KID and SWD are measured, and with `--vgg`
consistency and relevance. Memory is the process's own (Linux's RssAnon, sampled while it works),
JAX and all; pages of mapped files, which the system takes back at will, apart. CPU time is that of
all threads, so it hardly depends on what else the machine does.

10,000 pictures need 10 GB of disk and an hour and a half on two cores. With `--folder`, pictures
and features stay there, and the same command goes on where it was interrupted.
"""

import argparse
import concurrent.futures
import contextlib
import os
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from benchmarks.memory import Memory
from cocosnet_jax import measure, mesh, subjects, yardsticks
from cocosnet_jax.data import picture_sets
from cocosnet_jax.encode import unit_image
from cocosnet_jax.metrics import inception
from cocosnet_jax.pretrained import inception as inception_files
from cocosnet_jax.pretrained import vgg as vgg_files

SIDE = 256


def main() -> None:
    """Draws, times Inception alone, then a whole evaluation."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=int, default=1000, help="of each set")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--vgg", action="store_true", help="consistency and relevance as well")
    parser.add_argument("--folder", type=Path, help="for pictures and features, which stay there")
    arguments = parser.parse_args()
    count, batch = arguments.pictures, mesh.round_up(arguments.batch)
    network = _inception()
    alone = _alone(network.params, batch)
    given = yardsticks.Yardsticks(inception=network)
    if arguments.vgg:
        given = yardsticks.Yardsticks(network, vgg_files.load("random"), "VGG-19, random")
    with contextlib.ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        _draw(folder, count)
        sets = picture_sets.find(
            folder / "generated",
            folder / "real",
            labels=folder / "labels",
            exemplar_folder=folder / "real",
            exemplar_labels=folder / "labels",
        )
        rows = folder / "rows"
        there = _rows_in(rows)
        with Memory() as memory:
            clock = Clock()
            sets = picture_sets.check(sets, 0, "png")
            checked = clock()
            subject = subjects.of_folders(sets, "")
            measure.measure(subject, given, rows, batch)
            whole = clock()
            # Now the features are there.
            found = measure.measure(subject, given, rows, batch)
            distances = clock()
        new = _rows_in(rows) - there
        disk = sum(path.stat().st_size for path in rows.iterdir()) / 2**20
    print(f"measured: {', '.join(found.protocols)}")
    print(f"Inception alone, per picture: {alone / batch}")
    print(f"checking files first, per picture: {checked / (2 * count)}")
    print(
        f"features, with reading and compiling, per picture, of {new} pictures:"
        f" {(whole - distances) / max(1, new)}"
    )
    print(f"distances of the sets: {distances}")
    print(
        f"memory: {memory.peak:.0f} MiB at most, {memory.before:.0f} before; rows: {disk:.0f} MiB"
    )
    print(f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")


class Seconds(NamedTuple):
    """Time on the clock and on all CPU cores, in seconds."""

    wall: float
    cpu: float

    def __sub__(self, other: "Seconds") -> "Seconds":
        return Seconds(self.wall - other.wall, self.cpu - other.cpu)

    def __truediv__(self, count: float) -> "Seconds":
        return Seconds(self.wall / count, self.cpu / count)

    def __str__(self) -> str:
        return f"{self.wall:.4f} s, {self.cpu:.4f} s of CPU"


class Clock:
    """Each call returns what passed since the one before."""

    def __init__(self) -> None:
        self._last = Seconds(time.perf_counter(), time.process_time())

    def __call__(self) -> Seconds:
        before, self._last = self._last, Seconds(time.perf_counter(), time.process_time())
        return self._last - before


def _rows_in(folder: Path) -> int:
    """Pictures whose features are there."""
    return sum(int(path.read_text()) for path in folder.glob("*.done"))


def _inception() -> inception_files.Inception:
    rng = np.random.default_rng(0)
    tensors = {}
    for layer, shape in inception_files.shapes().items():
        deviation = np.float32(np.sqrt(2 / np.prod(shape[1:])))
        tensors[f"{layer}.conv.weight"] = deviation * rng.standard_normal(shape, np.float32)
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            value = float(leaf in ("weight", "running_var"))
            tensors[f"{layer}.bn.{leaf}"] = np.full(shape[0], value, np.float32)
    return inception_files.Inception(inception_files.from_torch(tensors), "random")


def _alone(params: Any, batch: int) -> Seconds:
    """Time per batch of the network itself, compiled, with pictures on the devices."""
    devices = mesh.make(jax.local_devices())
    params = jax.device_put(params, mesh.replicated(devices))
    images = np.zeros((batch, SIDE, SIDE, 3), np.uint8)
    image = jax.device_put(images, mesh.split(devices))

    @jax.jit
    def run(params: inception.Params, image: jax.Array) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            return inception.pool3(params, unit_image(image))

    run(params, image).block_until_ready()
    times = []
    for _ in range(5):
        clock = Clock()
        run(params, image).block_until_ready()
        times.append(clock())
    return Seconds(*np.median(times, 0))


def _draw(folder: Path, count: int) -> None:
    """Noise of several scales, with label maps of quarters."""
    for name in ("generated", "real", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    quarters = np.arange(1, 5, dtype=np.uint8).reshape(2, 2).repeat(SIDE // 2, 0)
    quarters = quarters.repeat(SIDE // 2, 1)

    def draw(index: int) -> None:
        if (folder / "labels" / f"{index}.png").exists():
            return
        rng = np.random.default_rng(index)
        for name in ("generated", "real"):
            coarse, fine = (rng.integers(0, 128, (n, n, 3), np.uint8) for n in (16, SIDE))
            picture = coarse.repeat(SIDE // 16, 0).repeat(SIDE // 16, 1) + fine
            Image.fromarray(picture).save(folder / name / f"{index}.png", compress_level=1)
        Image.fromarray(np.roll(quarters, index, 0)).save(folder / "labels" / f"{index}.png")

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(draw, range(count)))


if __name__ == "__main__":
    main()
