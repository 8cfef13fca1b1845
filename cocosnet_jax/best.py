"""Measures a run during training, and keeps the checkpoint that is best by one metric.

`best/STEP/` is a checkpoint like any other. `best.json` has the metric and the numbers of the best
checkpoints so far, so that a resumed run can compare with them. It is written first, then the
checkpoint, and only then is the previous one deleted. So a run that is killed at any moment has at
least one of them.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

from etils import epath
from jax.sharding import Mesh

from cocosnet_jax import files
from cocosnet_jax.checkpoint import Checkpoints
from cocosnet_jax.data.dataset import Dataset
from cocosnet_jax.distributed import is_lead, say
from cocosnet_jax.errors import UserError
from cocosnet_jax.hooks import TensorBoard
from cocosnet_jax.metrics import fid, inception
from cocosnet_jax.settings import Settings
from cocosnet_jax.state import TrainState
from cocosnet_jax.validation import Validation

FOLDER = "best"
# Metrics whose lowest number is best, by the start of their name.
_LESS_IS_BETTER = ("cycle_error", "match_entropy", "fid", "kid", "swd")


class Best:
    """The best checkpoint by `train.keep_best`. All processes must call every method."""

    def __init__(self, workdir: epath.Path, settings: Settings):
        """Opens the folder, and reads the number of the best checkpoint so far.

        Renames a damaged checkpoint to `STEP.damaged`: the next one that is measured is the best.

        Raises:
          UserError: `best.json` cannot be read.
        """
        self._metric = settings.train.keep_best
        self._file = workdir / f"{FOLDER}.json"
        self._checkpoints = Checkpoints(workdir, settings, FOLDER, keep_all=True)
        self._checkpoints.move_damaged_aside()
        metric, numbers = self._read()
        self._numbers = numbers if metric == self._metric else {}
        if self.step is not None:
            # The previous best one is still there if the run was killed before its deletion.
            self._delete_all_but(self.step)
        elif self._checkpoints.steps:
            by = f"by {metric}" if metric else f"of unknown number ({self._file.name} is missing)"
            say(f"the best checkpoint {by} is replaced by the first measured")

    def _read(self) -> tuple[str, dict[str, float]]:
        """Metric and numbers in the file; empty without one."""
        if not self._file.exists():
            return "", {}
        try:
            content = json.loads(self._file.read_text())
            return content["metric"], {x: float(y) for x, y in content["numbers"].items()}
        except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
            raise UserError(
                f"{self._file} cannot be read ({error}); restore it from a copy, or delete it: then"
                f" the next checkpoint that is measured replaces the one in {self._file.stem}/"
            ) from error

    @property
    def step(self) -> int | None:
        """The best checkpoint's step; None if there is none, or its metric is another one."""
        measured = [step for step in self._checkpoints.steps if str(step) in self._numbers]
        return max(measured, key=lambda step: self._merit(self._numbers[str(step)]), default=None)

    @property
    def number(self) -> float | None:
        """The best checkpoint's number, None as for `step`."""
        return None if self.step is None else self._numbers[str(self.step)]

    def _merit(self, number: float) -> float:
        """A number of the metric, so that more is better."""
        return -number if self._metric.startswith(_LESS_IS_BETTER) else number

    def check(self, numbers: Mapping[str, float]) -> None:
        """Raises UserError if the metric is not among the measured ones."""
        if self._metric not in numbers:
            raise UserError(
                f"config.train.keep_best is {self._metric!r}, which is not measured; measured are"
                f" {', '.join(numbers)}"
            )

    def improves(self, numbers: Mapping[str, float]) -> bool:
        """Whether these numbers are better than the best checkpoint's."""
        if math.isnan(numbers[self._metric]):
            return False
        return self.number is None or self._merit(numbers[self._metric]) > self._merit(self.number)

    def save(self, step: int, state: TrainState, numbers: Mapping[str, float]) -> None:
        """Saves a checkpoint as the best one. The previous one is deleted when it is complete.

        Raises:
          UserError: it cannot be written.
        """
        # Written before the checkpoint, so that every checkpoint has its number.
        self._numbers = {**self._numbers, str(step): numbers[self._metric]}
        if is_lead():
            content = {"metric": self._metric, "numbers": self._numbers}
            files.write(self._file, json.dumps(content, indent=2).encode())
        # A run that resumed from an older checkpoint repeats steps: this one may be there already,
        # or a later one.
        self._checkpoints.save(step, state, force=True)
        self._checkpoints.wait()
        self._delete_all_but(step)
        say(f"step {step} is the best so far: {self._metric} {numbers[self._metric]:.4f}")

    def _delete_all_but(self, best: int) -> None:
        for step in self._checkpoints.steps:
            if step != best:
                self._checkpoints.delete(step)

    def close(self) -> None:
        """Closes the folder."""
        self._checkpoints.close()


class PeriodicValidation:
    """Measures some validation pairs during training, and keeps the best checkpoint."""

    def __init__(
        self,
        settings: Settings,
        dataset: Dataset,
        folder: epath.Path,
        devices: Mesh,
        network: Mapping[str, Any] | None = None,
    ):
        """Opens the validation pairs and the best checkpoint's folder.

        Args:
          settings: of the run.
          dataset: its data.
          folder: its workdir.
          devices: devices that split a batch.
          network: Inception of FID and KID; None leaves them out.

        Raises:
          UserError: the dataset has a file of points that does not fit.
        """
        self._every = settings.train.evaluate_every
        self._measure = Validation(settings, dataset, devices, network)
        self._best = Best(folder, settings) if settings.train.keep_best else None

    def begin(self, step: int, state: TrainState) -> None:
        """Measures the state that the run starts from, and saves it if it is the best so far.

        A run that was stopped or killed at this step may not have come to that.

        Raises:
          UserError: `train.keep_best` is not a metric of this run.
        """
        numbers = self._measure(state)
        if self._best:
            self._best.check(numbers)
        if "fid" in numbers and (warning := fid.few_pictures(self._measure.count, inception.WIDTH)):
            say(f"warning: {warning}")
        _show(step, numbers)
        if step and step % self._every == 0:
            self._offer(step, state, numbers)

    def __call__(self, step: int, state: TrainState, board: TensorBoard) -> None:
        """Measures the state, which must be finite, and saves it if it is the best so far."""
        numbers = self._measure(state)
        _show(step, numbers)
        board.scalars(step, {f"validation/{name}": value for name, value in numbers.items()})
        self._offer(step, state, numbers)

    def _offer(self, step: int, state: TrainState, numbers: Mapping[str, float]) -> None:
        if self._best and self._best.improves(numbers):
            self._best.save(step, state, numbers)

    def close(self) -> None:
        """Closes the best checkpoint's folder."""
        if self._best:
            self._best.close()


def _show(step: int, numbers: Mapping[str, float]) -> None:
    own = (f"{name} {value:.4g}" for name, value in numbers.items() if "_by_" not in name)
    say(f"step {step}, validation: {'  '.join(own)}")
