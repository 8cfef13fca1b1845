"""The training loop, nothing else."""

import contextlib
import dataclasses
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import jax
import numpy as np
from clu import metric_writers
from etils import epath
from jax.sharding import Mesh
from jaxtyping import PyTree

from cocosnet_jax import checkpoint, data, fine_tuning, mesh, pictures, rng, workdir
from cocosnet_jax.checkpoint import Checkpoints, Restored
from cocosnet_jax.data import pipeline
from cocosnet_jax.data.dataset import Dataset
from cocosnet_jax.errors import StorageError, UserError
from cocosnet_jax.fit import compile_to_fit
from cocosnet_jax.pretrained import vgg as vgg_weights
from cocosnet_jax.settings import Settings
from cocosnet_jax.state import TrainState, create_state
from cocosnet_jax.steps import Metrics, PredictStep, predict_step, train_step
from cocosnet_jax.types import Batch
from cocosnet_jax.vgg import VggWeights


def train(settings: Settings, folder: epath.Path, init_from: str = "") -> int:
    """Trains to the end of the schedule, or to `train.stop_after`, from the newest checkpoint.

    Args:
      settings: of the run.
      folder: its workdir, checked by `workdir.check`.
      init_from: a checkpoint whose weights a new run starts from, or empty.

    Returns:
      The exit status: 0, or 128 + the signal's number if the run was interrupted.

    Raises:
      UserError: batch, weights, checkpoint or data do not fit, the folder is in use, a loss is not
        finite, or the disk is full.
    """
    mesh.check_batch(settings.train.batch_size, group_size=settings.loss.group_size)
    weights = vgg_weights.load(settings.vgg.weights, settings.vgg.width)
    if settings.vgg.weights == "random":
        _say("losses use an untrained VGG (config.vgg.weights=random): fine for trying things out")
    # Before data are prepared, which takes long.
    origin = _origin(settings, folder, init_from) if init_from else None
    dataset = prepare_data(settings)
    settings = dataclasses.replace(settings, data=dataset.settings)
    workdir.check_colours(folder, settings)
    steps_per_epoch = max(1, len(dataset.training) // settings.train.batch_size)
    total = settings.epochs * steps_per_epoch
    last = min(total, settings.train.stop_after or total)
    leads = jax.process_index() == 0
    with workdir.in_use(folder) if leads else contextlib.nullcontext():
        return _train(settings, dataset, folder, weights, origin, steps_per_epoch, last)


def _origin(settings: Settings, folder: epath.Path, init_from: str) -> Restored | None:
    """The checkpoint that a new run starts from; None where the run has one of its own."""
    if own := checkpoint.steps(folder / checkpoint.FOLDER):
        _say(f"--init_from is not read: {folder} has checkpoints of its own, up to step {own[0]}")
        return None
    everywhere = mesh.replicated(mesh.make())
    origin = checkpoint.restore_for_inference(init_from, everywhere, all_networks=True)
    # One's own classes may have to be counted first, which the check of the data says.
    if settings.data.channels:
        _say(fine_tuning.check(checkpoint.abstract_state(settings, everywhere), origin))
        if note := fine_tuning.other_settings(origin, settings):
            _say(note)
    if origin.state.ema is None:
        return origin
    # The average is taken over; beside it, parameters would fill devices for the whole run.
    params = {"discriminator": origin.state.params["discriminator"]}
    return origin._replace(state=dataclasses.replace(origin.state, params=params))


def _train(
    settings: Settings,
    dataset: Dataset,
    folder: epath.Path,
    weights: VggWeights,
    origin: Restored | None,
    steps_per_epoch: int,
    last: int,
) -> int:
    checkpoints = Checkpoints(folder, settings)
    devices = mesh.make()
    start = 0
    # Weights that were converted are a checkpoint of step 0.
    if checkpoints.latest_step is not None:
        # Also where nothing is to do, to be sure of the last one.
        start, state = checkpoints.restore(mesh.replicated(devices))
        if start >= last:
            _say(f"nothing to do: {folder} has {start} of {last} steps")
            return 0
        _say(f"resuming at step {start} from {folder}")
    else:
        _say(f"new run of {last} steps ({steps_per_epoch} per epoch) in {folder}")
        with _ends_at_once():
            state = initial_state(settings, devices, steps_per_epoch)
        if origin is not None:
            state = fine_tuning.take_over(state, origin)
    loop = _Loop(settings, dataset, folder, checkpoints, devices, steps_per_epoch, start, last)
    try:
        return loop.run(state, weights)
    finally:
        # Whatever ended the loop, a checkpoint that is being written is finished.
        checkpoints.close()


def prepare_data(settings: Settings) -> Dataset:
    """Makes the dataset's records where they are missing; the first process goes first.

    Says which images the exemplar lists leave out.

    Returns:
      The dataset.
    """
    if jax.process_count() == 1:
        # Not at once: what is half prepared is removed.
        before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
        try:
            dataset = data.prepare(settings.data)
        finally:
            signal.signal(signal.SIGTERM, before)
        for note in dataset.notes:
            _say(note)
        return dataset
    try:
        if jax.process_index() == 0:
            dataset = data.prepare(settings.data)
            for note in dataset.notes:
                _say(note)
    finally:
        # What is wrong with the data the others find as well, and all end with that.
        mesh.wait_for_all("the first has prepared its data")
    if jax.process_index() != 0:
        # Finds the work done where the folder is shared, and does it where hosts have their own.
        dataset = data.prepare(settings.data)
    mesh.wait_for_all("all have prepared their data")
    return dataset


def initial_state(settings: Settings, devices: Mesh, steps_per_epoch: int) -> TrainState:
    """Returns the state at step 0, made on every device at once."""

    def create(key: jax.Array) -> TrainState:
        state = create_state(settings, key, steps_per_epoch)
        # Constants are weakly typed, a step's results are not: without this the step would be
        # compiled for both.
        return jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), state)

    return jax.jit(create, out_shardings=mesh.replicated(devices))(
        rng.key(settings.train.seed, "init")
    )


def jitted_step(settings: Settings, devices: Mesh, steps_per_epoch: int) -> Any:
    """Returns the jitted training step, (state, VGG weights, batch) -> (state, losses).

    The state is donated. Keys follow from the step, so no key is carried.
    """
    everywhere, rows = mesh.replicated(devices), mesh.split(devices)
    step = train_step(settings, steps_per_epoch)

    def keyed(state: TrainState, weights: VggWeights, batch: Batch) -> tuple[TrainState, Metrics]:
        return step(state, weights, batch, rng.key(settings.train.seed, "train", state.step))

    options = {}
    if devices.devices.flat[0].platform == "cpu":
        # Otherwise XLA merges what the backward pass computes again with what it is to replace.
        options["xla_disable_hlo_passes"] = "cse_barrier_expander"
    # Said for results too: a state placed otherwise would be compiled for a second time.
    return jax.jit(
        keyed,
        donate_argnums=0,
        in_shardings=(everywhere, everywhere, rows),
        out_shardings=everywhere,
        compiler_options=options,
    )


def compile_step(
    settings: Settings, devices: Mesh, steps_per_epoch: int, arguments: tuple[Any, ...]
) -> Any:
    """Returns the training step compiled for (state, VGG weights, batch), or for their shapes.

    Raises:
      UserError: it does not fit in a device's memory; the message says what would.
    """
    return compile_to_fit(
        jitted_step(settings, devices, steps_per_epoch),
        arguments,
        devices,
        settings.data.image_size,
        "set config.data.image_size to {size}, or a smaller config.train.batch_size, or"
        " config.model.rematerialise=blocks, or config.model.dtype=bfloat16",
    )


def all_finite(tree: PyTree) -> bool:
    """Whether every number of a tree is finite.

    Looked at on the host: a checkpoint brings the state there anyway, and a program that reduces
    some thousand arrays takes XLA long to compile.
    """
    return all(np.isfinite(leaf.addressable_data(0)).all() for leaf in jax.tree.leaves(tree))


class _Loop:
    """One start of a run: from step `start` to step `last`."""

    def __init__(
        self,
        settings: Settings,
        dataset: Dataset,
        folder: epath.Path,
        checkpoints: Checkpoints,
        devices: Mesh,
        steps_per_epoch: int,
        start: int,
        last: int,
    ):
        self.settings = settings
        self.dataset = dataset
        self.folder = folder
        self.checkpoints = checkpoints
        self.devices = devices
        self.steps_per_epoch = steps_per_epoch
        self.start = start
        self.last = last
        self.leads = jax.process_index() == 0
        # Losses of the steps since the last log line, still on the device.
        self.recent: list[Metrics] = []
        self.logged_step, self.logged_time = start, 0.0

    def run(self, state: TrainState, weights: VggWeights) -> int:
        """Steps, looks, saves; returns the exit status."""
        train = self.settings.train
        host_batches = pipeline.training_batches(
            self.dataset,
            seed=train.seed,
            batch_size=train.batch_size,
            start_step=self.start,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        batches = (mesh.to_global(self.devices, batch) for batch in host_batches)
        weights = jax.device_put(weights, mesh.replicated(self.devices))
        show = _Pictures(self.settings, self.dataset, self.folder, self.devices)
        _say(
            f"compiling for {jax.device_count()} {jax.devices()[0].device_kind} device(s) ..."
            " (Ctrl-C now ends at once and loses nothing)"
        )
        began = time.monotonic()
        with _ends_at_once():
            first = next(batches)
            step_fn = compile_step(
                self.settings, self.devices, self.steps_per_epoch, (state, weights, first)
            )
        board = _TensorBoard(self.folder / "tensorboard")
        with _Interruption() as interruption, contextlib.closing(board):
            for step in range(self.start + 1, self.last + 1):
                batch = first if step == self.start + 1 else next(batches)
                state, losses = step_fn(state, weights, batch)
                self.recent.append(losses)
                if step == self.start + 1:
                    jax.block_until_ready(losses)
                    _say(f"compiled, first step done after {time.monotonic() - began:.0f} s")
                    self.logged_step, self.logged_time = step, time.monotonic()
                    if self.leads:
                        # Not before: what does not fit in memory may be set, and started again.
                        workdir.claim(self.folder, self.settings)
                stop = step == self.last or interruption.signal or self.checkpoints.preempted(step)
                if stop or self.checkpoints.due(step):
                    self._save(step, state, force=bool(stop))
                if step % train.log_every == 0 or stop:
                    self._log(step, board)
                if train.images_every and (step % train.images_every == 0 or step == self.last):
                    show(step, state, board)
                if stop:
                    break
            self.checkpoints.wait()
        if step == self.last:
            _say(f"finished at step {step}; checkpoints, pictures and TensorBoard: {self.folder}")
            return 0
        _say(f"interrupted and saved at step {step}; run the same command again to go on")
        return 128 + (interruption.signal or signal.SIGTERM)

    def _save(self, step: int, state: TrainState, *, force: bool) -> None:
        # Looked at before every checkpoint, so that the newest one is always a good one.
        self._check_losses(step)
        if not all_finite(state):
            raise self._not_finite("a parameter is not finite", step)
        self.checkpoints.save(step, state, force=force)

    def _check_losses(self, step: int) -> list[dict[str, float]]:
        """Returns and forgets the recent steps' losses; raises UserError if one is not finite."""
        first = step - len(self.recent) + 1
        recent = jax.device_get(self.recent)
        for offset, losses in enumerate(recent):
            for name, value in losses.items():
                if not np.isfinite(value):
                    raise self._not_finite(f"the loss {name} is {value}", first + offset)
        return recent

    def _not_finite(self, what: str, step: int) -> UserError:
        good = self.checkpoints.latest_step
        kept = "there is no checkpoint yet" if good is None else f"checkpoint {good} is good"
        return UserError(
            f"training stopped: {what} at step {step}; {kept}. In another --workdir, try a lower"
            " config.optimiser.generator_rate and discriminator_rate, or config.model.dtype=float32"
        )

    def _log(self, step: int, board: "_TensorBoard") -> None:
        recent = self._check_losses(step)
        self.recent = []
        mean = {name: float(np.mean([losses[name] for losses in recent])) for name in recent[0]}
        now = time.monotonic()
        steps, seconds = step - self.logged_step, now - self.logged_time
        self.logged_step, self.logged_time = step, now
        line = f"step {step}/{self.last} ({100 * step // self.last} %)"
        if steps:
            rate = steps * self.settings.train.batch_size / seconds
            left = (self.last - step) * seconds / steps
            line += f"  {rate:.3g} images/s  {_clock(left)} left"
            board.scalars(step, {"images_per_second": rate})
        line += "  " + "  ".join(f"{name} {value:.4g}" for name, value in mean.items())
        board.scalars(step, {f"loss/{name}": value for name, value in mean.items()})
        _say(line)


class _TensorBoard:
    """TensorBoard files of the first process; where they cannot be written, the run goes on."""

    def __init__(self, folder: epath.Path):
        self._writer: metric_writers.MetricWriter | None = None
        if jax.process_index() == 0:
            self._try(self._open, folder)

    def _open(self, folder: epath.Path) -> None:
        self._writer = metric_writers.AsyncWriter(metric_writers.SummaryWriter(str(folder)))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Writes numbers by name."""
        if self._writer:
            self._try(self._writer.write_scalars, step, values)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Writes a picture, (H, W, 3) in bytes."""
        if self._writer:
            self._try(self._writer.write_images, step, {name: image[None]})

    def close(self) -> None:
        """Waits for what is being written."""
        if self._writer:
            self._try(self._writer.close)

    def _try(self, write: Callable[..., object], *arguments: object) -> None:
        try:
            write(*arguments)
        # What a file system or network raises comes from another thread, in a wrapper of clu's.
        except Exception as error:
            self._writer = None
            cause = error.__cause__ or error
            _say(f"TensorBoard's files are not written any more: {cause}")


class _Pictures:
    """Translations of the same few validation images, while the run goes on."""

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

    def __call__(self, step: int, state: TrainState, board: _TensorBoard) -> None:
        if self._batch is None:
            self._batch, self._valid = self._first()
        outputs = self._predict(state, mesh.to_global(self._devices, self._batch))
        if jax.process_index() != 0:
            return
        outputs = jax.tree.map(mesh.to_local, outputs)
        batch, outputs = jax.tree.map(lambda rows: rows[self._valid], (self._batch, outputs))
        grid = pictures.grid(batch, outputs, self._settings.data.condition)
        try:
            pictures.write_png(self._folder / f"step_{step:07d}.png", grid)
        except StorageError as error:
            # What is learned matters more: checkpoints say so themselves.
            _say(f"pictures: {error}")
        board.image(step, " | ".join(pictures.COLUMNS), grid)

    def _first(self) -> tuple[Batch, np.ndarray]:
        batches: Iterator[Any] = pipeline.evaluation_batches(
            self._dataset,
            batch_size=mesh.round_up(self._settings.train.evaluation_batch_size),
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        batch, valid, _ = next(batches)
        return batch, valid


@contextlib.contextmanager
def _ends_at_once() -> Iterator[None]:
    """Lets Ctrl-C end the program where Python would not hear of it, in minutes of XLA's compiler.

    SIGTERM does that by itself; with several processes JAX has caught it, and the first step is
    taken and saved before the program ends.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _Interruption:
    """Ctrl-C or SIGTERM: the step is finished first; a second one ends the program at once.

    With several processes JAX catches SIGTERM itself and lets all processes agree on a step
    (`Checkpoints.preempted`); Ctrl-C is turned into it.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_Interruption":
        caught = [signal.SIGINT] if jax.process_count() > 1 else [signal.SIGINT, signal.SIGTERM]
        self._before = {number: signal.signal(number, self._note) for number in caught}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        if jax.process_index() == 0:
            # Not print, which raises where the signal came while another line was being printed.
            with contextlib.suppress(OSError):
                os.write(
                    1,
                    b"interrupted: finishing this step and saving;"
                    b" once more ends the program unsaved\n",
                )
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self.signal = number


def _clock(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "?"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}"


def _say(line: str) -> None:
    """Prints a line at once, once for all processes.

    Where nobody reads it any more, the run goes on: Ctrl-C ends `| tee` first.
    """
    if jax.process_index() == 0:
        try:
            print(line, flush=True)
        except OSError:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
