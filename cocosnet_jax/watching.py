"""Where a run's time goes: data, host and device; speed, MFU, memory and goodput."""

import json
import time
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import jax
from etils import epath

from cocosnet_jax import files, operations
from cocosnet_jax.distributed import is_lead, say
from cocosnet_jax.errors import StorageError

FILE = "goodput.json"
# A run that resumes from an older checkpoint looks up the seconds of that step.
_STEPS_KEPT = 100

T = TypeVar("T")


class Split(NamedTuple):
    """How the time of some steps is divided, in seconds.

    Attributes:
      data: waiting for the next batch.
      host: everything else that the program does: dispatching the step, and at some steps logging,
        saving, pictures and measurements (`pause`).
      device: waiting for the devices.
      pause: the part of `host` between steps.
    """

    data: float = 0.0
    host: float = 0.0
    device: float = 0.0
    pause: float = 0.0

    @property
    def total(self) -> float:
        return self.data + self.host + self.device


class Clock:
    """Splits time between data, host and device, without waiting for the step just begun.

    A step is dispatched before the one before it has ended, so the device always has work. Waiting
    for the one before then shows how long the host would have been idle: the device's share. If
    the device waits for data, no time is left to wait for the device.
    """

    def __init__(self) -> None:
        self._spent = Split()
        self._mark = time.monotonic()
        self._pending: Any = None  # Results of the newest step.
        self.computed = 0.0  # Seconds of all steps since the start, without data and pauses.

    def start(self) -> None:
        """Sets all times to 0, and starts the clock."""
        self._spent, self._mark, self.computed = Split(), time.monotonic(), 0.0

    def batches(self, batches: Iterator[T]) -> Iterator[T]:
        """The same batches; waiting for them is measured."""
        while True:
            self._add(host=(passed := self._lap()), pause=passed)
            try:
                batch = next(batches)
            except StopIteration:
                return
            self._add(data=self._lap())
            yield batch

    def dispatched(self, results: Any) -> None:
        """Notes that a step was dispatched; waits until the one before it has ended."""
        host = self._lap()
        jax.block_until_ready(self._pending)
        self._pending = results
        device = self._lap()
        self._add(host=host, device=device)
        self.computed += host + device

    def wait(self) -> None:
        """Waits until the newest step has ended."""
        self._add(host=(passed := self._lap()), pause=passed)
        jax.block_until_ready(self._pending)
        self._add(device=(passed := self._lap()))
        self.computed += passed

    def take(self) -> Split:
        """What was spent since the last call."""
        self._add(host=(passed := self._lap()), pause=passed)
        spent, self._spent = self._spent, Split()
        return spent

    def _lap(self) -> float:
        now = time.monotonic()
        passed, self._mark = now - self._mark, now
        return passed

    def _add(self, **seconds: float) -> None:
        more = Split(**seconds)
        self._spent = Split(*(a + b for a, b in zip(self._spent, more, strict=True)))


class Goodput:
    """Share of the time since a run first started that went into steps that it still has.

    All other time is lost: starting, compiling, restoring, waiting for data, saving, measuring, the
    time between two starts, and steps that a restart had to repeat. The workdir's goodput.json
    keeps it
    over restarts: when the run first started, and the seconds that were computed up to each save.
    """

    def __init__(self, folder: epath.Path, start: int, began: float):
        """Continues the run's file after step `start`, or begins one if it is missing or damaged.

        Args:
          folder: the workdir.
          start: step of the restored checkpoint.
          began: time of this start in seconds since 1970.
        """
        self._file = folder / FILE
        self._began, self._seconds = began, {0: 0.0}
        if is_lead() and self._file.exists():
            try:
                content = json.loads(self._file.read_text())
                steps = {int(step): float(s) for step, s in content["seconds"].items()}
                self._began = float(content["began"])
                self._seconds |= {step: s for step, s in steps.items() if step <= start}
            except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
                say(f"{self._file} cannot be read ({error}): goodput is counted from this start")
        self._before = self._seconds[max(self._seconds)]

    def save(self, step: int, computed: float) -> None:
        """Writes the file; what is computed after this step is not kept until the next save.

        Args:
          step: that is saved.
          computed: seconds computed since this start.
        """
        if not is_lead():
            return
        self._seconds[step] = self._before + computed
        newest = sorted(self._seconds)[-_STEPS_KEPT:]
        content = {"began": self._began, "seconds": {str(s): self._seconds[s] for s in newest}}
        try:
            files.write(self._file, json.dumps(content).encode())
        except StorageError as error:
            # Only checkpoints are worth stopping the run for.
            say(f"goodput: {error}")

    def share(self, computed: float) -> float:
        """The goodput now, 0 to 1, if every step since the restored one is kept."""
        passed = max(time.time() - self._began, self._before + computed, 1e-9)
        return (self._before + computed) / passed


class Speed:
    """Measures a run's speed: see the numbers of `report`."""

    def __init__(self, batch_size: int, goodput: Goodput, products: float | None = None):
        """Measures from `clock.start` on.

        Args:
          batch_size: samples per step over all devices.
          goodput: of the run.
          products: operations of a step's products over all devices; None if unknown.
        """
        self.clock = Clock()
        self._batch_size, self._goodput, self._products = batch_size, goodput, products

    def save(self, step: int) -> None:
        """Notes that a step is being saved."""
        self._goodput.save(step, self.clock.computed)

    def report(self, steps: int) -> dict[str, float]:
        """The numbers of the steps since the last call, by their names in TensorBoard.

        Args:
          steps: how many there were, 1 or more.
        """
        spent = self.clock.take()
        chips, rate = jax.device_count(), steps * self._batch_size / spent.total
        numbers = {
            "images_per_second": rate,
            "images_per_second_per_chip": rate / chips,
            "seconds_per_step": spent.total / steps,
            "seconds_per_step/data": spent.data / steps,
            "seconds_per_step/host": spent.host / steps,
            "seconds_per_step/device": spent.device / steps,
            "data_share": spent.data / spent.total,
            "goodput": self._goodput.share(self.clock.computed),
        }
        peak = operations.peak(jax.devices()[0])
        if peak and self._products:
            numbers["mfu"] = self._products * steps / spent.total / (peak * chips)
        return numbers | memory()


def describe(numbers: dict[str, float]) -> str:
    """The numbers of `Speed.report` for a log line."""
    parts = [f"{numbers['images_per_second']:.3g} images/s"]
    if jax.device_count() > 1:
        parts[0] += f" ({numbers['images_per_second_per_chip']:.3g} per chip)"
    step = numbers["seconds_per_step"]
    shares = (
        f"{name} {100 * numbers[f'seconds_per_step/{name}'] / step:.0f} %"
        for name in ("data", "host", "device")
    )
    parts.append(f"{step:.3g} s/step ({', '.join(shares)})")
    if "mfu" in numbers:
        parts.append(f"MFU {numbers['mfu']:.1%}")
    if "memory/peak_gib" in numbers:
        parts.append(f"memory {numbers['memory/peak_gib']:.1f} GiB")
    parts.append(f"goodput {numbers['goodput']:.0%}")
    return "  ".join(parts)


def memory() -> dict[str, float]:
    """Current and peak GiB in use on this process's fullest device; empty if not known."""
    statistics = [device.memory_stats() or {} for device in jax.local_devices()]
    names = {"memory/in_use_gib": "bytes_in_use", "memory/peak_gib": "peak_bytes_in_use"}
    return {
        name: max(found) / 2**30
        for name, key in names.items()
        if (found := [some[key] for some in statistics if key in some])
    }
