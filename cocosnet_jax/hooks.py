"""Output of a run in progress: log lines, TensorBoard and pictures."""

import datetime
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from clu import metric_writers
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, UInt8

from cocosnet_jax import compiler, mesh, pictures
from cocosnet_jax.alarms import Alarms, of_losses
from cocosnet_jax.data import pipeline
from cocosnet_jax.data.dataset import Dataset
from cocosnet_jax.distributed import is_lead, say
from cocosnet_jax.errors import StorageError
from cocosnet_jax.metrics import health
from cocosnet_jax.settings import LossSettings, Settings
from cocosnet_jax.state import TrainState
from cocosnet_jax.steps import Metrics, predict_step
from cocosnet_jax.types import Batch, Outputs
from cocosnet_jax.watching import Speed, describe

# Side of the largest grid whose match is measured: it takes memory beside the training's, 150 MB
# for each picture of 512 x 512 and each side, and four times as much at 1024 x 1024.
MOST_MATCHED = 128


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
    """Translates the first batch of validation images and writes the results as a picture.

    Measures on the same batch whether the networks are healthy (`metrics.health`).
    """

    def __init__(
        self,
        settings: Settings,
        dataset: Dataset,
        folder: epath.Path,
        devices: Mesh,
        alarms: Alarms,
    ):
        self._settings = settings
        self._dataset = dataset
        self._folder = folder / "pictures"
        self._devices = devices
        self._alarms = alarms
        self._predict = jax.jit(
            predict_and_measure(settings, devices),
            out_shardings=(mesh.split(devices), mesh.replicated(devices)),
            compiler_options=compiler.options(devices, compiler.LESS),
        )
        self._batch: Batch | None = None
        self._valid = np.zeros(0, bool)

    def __call__(self, step: int, state: TrainState, board: TensorBoard) -> None:
        if self._batch is None:
            self._batch, self._valid = self._first_batch()
        valid = jax.make_array_from_process_local_data(mesh.split(self._devices), self._valid)
        batch = mesh.to_global(self._devices, self._batch)
        try:
            outputs, numbers = self._predict(state, batch, valid)
        except jax.errors.JaxRuntimeError as error:
            # Such as too little memory: the run goes on, and its checkpoints are written.
            reason = str(error).partition("\n")[0]
            say(f"warning: no picture at step {step}: {reason}")
            return
        # They are NaN if the batch has no pair of different photographs.
        found = {name: float(x) for name, x in numbers.items() if np.isfinite(x)}
        board.scalars(step, {f"health/{name}": value for name, value in found.items()})
        self._alarms.look(step, found)
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


def predict_and_measure(
    settings: Settings, devices: Mesh | None = None
) -> Callable[[TrainState, Batch, Bool[Array, "b"]], tuple[Outputs, dict[str, Float[Array, ""]]]]:
    """(state, batch, valid) -> (outputs without matches, numbers of `health.measure`).

    Args:
      settings: of the run.
      devices: those that split the batch, or None.
    """
    side = settings.data.image_size // settings.model.warp_stride
    predict = predict_step(settings, with_match=side <= MOST_MATCHED, samples=devices)

    def step(
        state: TrainState, batch: Batch, valid: Bool[Array, "b"]
    ) -> tuple[Outputs, dict[str, Float[Array, ""]]]:
        outputs = predict(state, batch)
        return outputs._replace(matches=None), health.measure(batch, outputs, valid)

    return step


class Progress:
    """Collects losses, and logs their means and the speed since the last log line."""

    def __init__(self, start: int, last: int, speed: Speed, weights: LossSettings, alarms: Alarms):
        """Starts counting.

        Args:
          start: step after which this start of the run begins.
          last: the run's last step.
          speed: measures where the time goes.
          weights: of the losses.
          alarms: check what is logged.
        """
        self._last = last
        self._speed, self._weights, self._alarms = speed, weights, alarms
        # Losses of the latest steps, up to `_step`, which stay on the device until they are read.
        self._losses: list[Any] = []
        self._step = start
        self._logged_step = start

    def add(self, losses: Metrics) -> None:
        """Adds the losses of the next step, once the step before it has ended."""
        self._speed.clock.dispatched(losses)
        self._losses.append(losses)
        self._step += 1

    def start_clock(self) -> None:
        """Starts measuring speed, after the first step, which includes compilation."""
        self._logged_step = self._step
        self._speed.clock.start()

    def not_finite(self) -> str:
        """Describes the first loss that is not finite; empty if all are finite."""
        self._speed.clock.wait()
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
        step, steps = self._step, self._step - self._logged_step
        self._logged_step = step
        now = datetime.datetime.now()
        line = f"step {step}/{self._last} ({100 * step // self._last} %)  {now:%Y-%m-%d %H:%M:%S}"
        looked = of_losses(mean, self._weights)
        board.scalars(step, {f"health/{name}": value for name, value in looked.items()})
        if steps:
            speed = self._speed.report(steps)
            left = (self._last - step) * speed["seconds_per_step"]
            line += f"  {describe(speed)}  {_clock(left)} left"
            looked["data_share"] = speed["data_share"]
            board.scalars(step, speed)
        line += "  " + "  ".join(f"{name} {value:.4g}" for name, value in mean.items())
        board.scalars(step, {f"loss/{name}": value for name, value in mean.items()})
        say(line)
        self._alarms.look(step, looked)


def _clock(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "?"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}"
