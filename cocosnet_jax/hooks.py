"""Output of a run in progress: log lines, TensorBoard and pictures."""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from clu import metric_writers
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Bool, UInt8

from cocosnet_jax import mesh, pictures
from cocosnet_jax.data import pipeline
from cocosnet_jax.data.dataset import Dataset
from cocosnet_jax.distributed import is_lead, say
from cocosnet_jax.errors import StorageError
from cocosnet_jax.settings import Settings
from cocosnet_jax.state import TrainState
from cocosnet_jax.steps import Metrics, PredictStep, predict_step
from cocosnet_jax.types import Batch


class TensorBoard:
    """Writes TensorBoard files, from the lead process; errors do not stop the run."""

    def __init__(self, folder: epath.Path):
        self._writer: metric_writers.MetricWriter | None = None
        if is_lead():
            self._try(self._open, folder)

    def _open(self, folder: epath.Path) -> None:
        self._writer = metric_writers.AsyncWriter(metric_writers.SummaryWriter(str(folder)))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Writes scalars by name."""
        if self._writer:
            self._try(self._writer.write_scalars, step, values)

    def image(self, step: int, name: str, image: UInt8[np.ndarray, "height width 3"]) -> None:
        """Writes an image, (H, W, 3) uint8."""
        if self._writer:
            self._try(self._writer.write_images, step, {name: image[None]})

    def flush(self) -> None:
        """Writes what is waiting in memory."""
        if self._writer:
            self._try(self._writer.flush)

    def close(self) -> None:
        """Waits until everything is written."""
        if self._writer:
            self._try(self._writer.close)

    def _try(self, write: Callable[..., object], *arguments: object) -> None:
        try:
            write(*arguments)
        # clu wraps errors of its writing thread, whatever their type.
        except Exception as error:
            self._writer = None
            cause = error.__cause__ or error
            say(f"TensorBoard files are no longer written: {cause}")


class Pictures:
    """Translates the first batch of validation images and writes the results as a picture."""

    def __init__(self, settings: Settings, dataset: Dataset, folder: epath.Path, devices: Mesh):
        self._settings = settings
        self._dataset = dataset
        self._folder = folder / "pictures"
        self._devices = devices
        self._predict: PredictStep = jax.jit(
            predict_step(settings), out_shardings=mesh.split(devices)
        )
        self._batch: Batch | None = None
        self._valid = np.zeros(0, bool)

    def __call__(self, step: int, state: TrainState, board: TensorBoard) -> None:
        if self._batch is None:
            self._batch, self._valid = self._first_batch()
        outputs = self._predict(state, mesh.to_global(self._devices, self._batch))
        if not is_lead():
            return
        outputs = jax.tree.map(mesh.to_local, outputs)
        batch, outputs = jax.tree.map(lambda rows: rows[self._valid], (self._batch, outputs))
        grid = pictures.grid(batch, outputs, self._settings.data.condition)
        try:
            pictures.write_png(self._folder / f"step_{step:07d}.png", grid)
        except StorageError as error:
            # Only checkpoints are worth stopping the run for.
            say(f"pictures: {error}")
        board.image(step, " | ".join(pictures.COLUMNS), grid)

    def _first_batch(self) -> tuple[Batch, Bool[np.ndarray, "b"]]:
        batches: Iterator[Any] = pipeline.evaluation_batches(
            self._dataset,
            batch_size=mesh.round_up(self._settings.train.evaluation_batch_size),
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        batch, valid, _ = next(batches)
        return batch, valid


class Progress:
    """Collects losses, and logs their means and the speed since the last log line."""

    def __init__(self, start: int, last: int, batch_size: int):
        """Starts after step `start` of a run that ends at step `last`."""
        self._last = last
        self._batch_size = batch_size
        # Of the latest steps, up to `_step`; they stay on the device until they are read.
        self._losses: list[Any] = []
        self._step = start
        self._logged_step, self._logged_time = start, 0.0

    def add(self, losses: Metrics) -> None:
        """Adds the losses of the next step."""
        self._losses.append(losses)
        self._step += 1

    def start_clock(self) -> None:
        """Starts measuring speed, after the first step, which includes compilation."""
        self._logged_step, self._logged_time = self._step, time.monotonic()

    def not_finite(self) -> str:
        """Describes the first loss that is not finite; empty if all are finite."""
        self._losses = jax.device_get(self._losses)
        first = self._step - len(self._losses) + 1
        for step, losses in enumerate(self._losses, first):
            for name, value in losses.items():
                if not np.isfinite(value):
                    return f"the loss {name} is {value} at step {step}"
        return ""

    def log(self, board: TensorBoard) -> None:
        """Logs mean losses and speed since the last call, as a line and to TensorBoard."""
        recent, self._losses = jax.device_get(self._losses), []
        mean = {name: float(np.mean([losses[name] for losses in recent])) for name in recent[0]}
        step, now = self._step, time.monotonic()
        steps, seconds = step - self._logged_step, now - self._logged_time
        self._logged_step, self._logged_time = step, now
        line = f"step {step}/{self._last} ({100 * step // self._last} %)"
        if steps:
            rate = steps * self._batch_size / seconds
            left = (self._last - step) * seconds / steps
            line += f"  {rate:.3g} images/s  {_clock(left)} left"
            board.scalars(step, {"images_per_second": rate})
        line += "  " + "  ".join(f"{name} {value:.4g}" for name, value in mean.items())
        board.scalars(step, {f"loss/{name}": value for name, value in mean.items()})
        say(line)


def _clock(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "?"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}"
