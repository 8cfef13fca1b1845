"""The training loop."""

import contextlib
import dataclasses
import itertools
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import NamedTuple

import jax
from etils import epath

from cocosnet_jax import (
    compile_cache,
    fine_tuning,
    hooks,
    interrupt,
    kept_step,
    mesh,
    partition,
    workdir,
    yardsticks,
)
from cocosnet_jax.alarms import Alarms
from cocosnet_jax.best import PeriodicValidation
from cocosnet_jax.checkpoint import Checkpoints, Restored
from cocosnet_jax.data import pipeline
from cocosnet_jax.data.dataset import Dataset
from cocosnet_jax.distributed import is_lead, say
from cocosnet_jax.errors import UserError
from cocosnet_jax.preparation import prepare_data
from cocosnet_jax.pretrained import inception as inception_files
from cocosnet_jax.pretrained import vgg as vgg_weights
from cocosnet_jax.profiling import Profile
from cocosnet_jax.settings import Settings
from cocosnet_jax.state import TrainState, all_finite, parameter_table
from cocosnet_jax.types import Batch
from cocosnet_jax.vgg import VggWeights
from cocosnet_jax.watchdog import Watchdog
from cocosnet_jax.watching import Goodput, Speed


class Run(NamedTuple):
    """A training run.

    Attributes:
      settings: of the run, completed by the dataset.
      dataset: training and validation data.
      folder: the workdir.
      steps_per_epoch: determines learning rate and mask warm-up.
      last: the last step.
      began: when this start began, in seconds since 1970.
      kept: the compiled step of an earlier start, which is being read.
      inception: weights of FID's Inception, for measuring during training; None without them.
    """

    settings: Settings
    dataset: Dataset
    folder: epath.Path
    steps_per_epoch: int
    last: int
    began: float
    kept: Future[kept_step.Kept | None]
    inception: inception_files.Inception | None = None


def train(settings: Settings, folder: epath.Path, init_from: str = "", inception: str = "") -> int:
    """Trains from the newest checkpoint to the end of the schedule, or to `train.stop_after`.

    Args:
      settings: of the run.
      folder: the workdir, checked by `workdir.check`.
      init_from: a checkpoint whose weights initialise a new run, or empty.
      inception: weights of FID's Inception, for FID and KID during training, or empty.

    Returns:
      The exit status: 0, or 128 + the signal's number if the run was interrupted.

    Raises:
      UserError: batch size, weights, checkpoint or data are invalid, another run uses the folder,
        a loss is not finite, or the disk is full.
    """
    began = time.time()
    mesh.check_batch(
        settings.train.batch_size,
        group_size=settings.loss.group_size,
        accumulate=settings.train.accumulate,
    )
    # Checked before VGG is fetched and data are prepared, which takes long.
    origin = fine_tuning.origin(settings, folder, init_from) if init_from else None
    weights = vgg_weights.load(settings.vgg.weights, settings.vgg.width)
    if settings.vgg.weights == "random":
        say("losses use an untrained VGG (config.vgg.weights=random): fine for trying things out")
    else:
        say(f"losses use {weights.network} from {settings.vgg.weights}")
    network = yardsticks.load(inception).inception
    dataset = prepare_data(settings.data)
    settings = dataclasses.replace(settings, data=dataset.settings)
    workdir.check_colours(folder, settings)
    steps_per_epoch = max(1, len(dataset.training) // settings.train.batch_size)
    total = settings.epochs * steps_per_epoch
    last = min(total, settings.train.stop_after or total)
    # It is read while the checkpoint is restored.
    kept = kept_step.read_ahead(settings, mesh.make(), steps_per_epoch)
    run = Run(settings, dataset, folder, steps_per_epoch, last, began, kept, network)
    with workdir.in_use(folder) if is_lead() else contextlib.nullcontext():
        checkpoints = Checkpoints(folder, settings)
        start, state = _first_state(run, checkpoints, origin)
        if start >= last:
            say(f"nothing to do: {folder} has {start} of {last} steps")
            return 0
        if is_lead():
            workdir.check_space(folder, settings, sum(x.nbytes for x in jax.tree.leaves(state)))
        try:
            return loop(run, checkpoints, start, state, weights)
        finally:
            # Waits for the checkpoint that is being written, even after an error.
            checkpoints.close()


def _first_state(
    run: Run, checkpoints: Checkpoints, origin: Restored | None
) -> tuple[int, TrainState]:
    """Returns step and state of the newest checkpoint, or a new state and step 0."""
    devices = mesh.make()
    # Step 0 counts, too: converted weights are a checkpoint of step 0.
    if checkpoints.latest_step is not None:
        # Restored even if no step is left, which verifies the last checkpoint.
        start, state = checkpoints.restore(mesh.replicated(devices))
        if start < run.last:
            say(f"resuming at step {start} from {run.folder}")
        return start, state
    say(f"new run of {run.last} steps ({run.steps_per_epoch} per epoch) in {run.folder}")
    with interrupt.ctrl_c_ends_at_once():
        state = partition.initial_state(run.settings, devices, run.steps_per_epoch)
    if origin is not None:
        state = fine_tuning.take_over(state, origin)
    say(parameter_table(state.params))
    return 0, state


def loop(
    run: Run, checkpoints: Checkpoints, start: int, state: TrainState, weights: VggWeights
) -> int:
    """Trains after step `start`, logs and saves; returns and raises as `train` does.

    Args:
      run: of this start.
      checkpoints: of the run.
      start: the step of `state`.
      state: on the devices.
      weights: VGG's, for the losses.
    """
    settings, folder, train = run.settings, run.folder, run.settings.train
    devices = mesh.make()
    host_batches = pipeline.training_batches(
        run.dataset,
        seed=train.seed,
        batch_size=train.batch_size,
        start_step=start,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        accumulate=train.accumulate,
    )
    batches: Iterator[Batch] = (
        mesh.to_global(devices, batch, train.accumulate) for batch in host_batches
    )
    weights = jax.device_put(weights, mesh.replicated(devices))
    alarms = Alarms()
    show = hooks.Pictures(settings, run.dataset, folder, devices, alarms)
    validation = None
    if train.evaluate_every:
        network = run.inception.params if run.inception else None
        validation = PeriodicValidation(settings, run.dataset, folder, devices, network)
    _announce_compilation(settings)
    compiling = time.monotonic()
    with interrupt.ctrl_c_ends_at_once():
        first = next(batches)
        # First, since it checks train.keep_best, and the step compiles for long.
        if validation:
            validation.begin(start, state)
        step_fn, products = kept_step.step(
            settings, devices, run.steps_per_epoch, (state, weights, first), run.kept
        )
    speed = Speed(train.batch_size, Goodput(folder, start, run.began), products)
    batches = speed.clock.batches(itertools.chain([first], batches))
    progress = hooks.Progress(start, run.last, speed, settings.loss, alarms)
    board = hooks.TensorBoard(folder / "tensorboard")
    profile = Profile(train.profile, folder, start, run.last)
    with (
        interrupt.Interruption() as interruption,
        contextlib.closing(board),
        contextlib.closing(profile),
        Watchdog(folder, train.hang_minutes) as watchdog,
    ):
        for step in range(start + 1, run.last + 1):
            batch = next(batches)
            profile.before(step)
            # All arguments are on the devices; an accidental transfer would slow down every step.
            with jax.transfer_guard("disallow"):
                state, losses = step_fn(state, weights, batch)
            progress.add(losses)
            profile.after(step, losses)
            watchdog.beat()
            if step == start + 1:
                jax.block_until_ready(losses)
                say(f"compiled, first step done after {time.monotonic() - compiling:.0f} s")
                progress.start_clock()
                if is_lead():
                    # Only now are the settings final: until the first step has fit in memory, the
                    # user may change them and start again.
                    workdir.claim(folder, settings)
                    speed.save(start)
            stop = step == run.last or interruption.signal or checkpoints.preempted(step)
            save = stop or checkpoints.due(step)
            log = stop or step % train.log_every == 0
            measure = validation and (step % train.evaluate_every == 0 or step == run.last)
            draw = train.images_every and (step % train.images_every == 0 or step == run.last)
            if save or log or measure or draw:
                _stop_if(progress.not_finite(), checkpoints)
            # Checked before saving, so that the newest checkpoint is always good.
            if (save or measure) and not all_finite(state):
                _stop_if(f"a parameter is not finite at step {step}", checkpoints)
            if stop and step < run.last:
                # At once: the machine may be about to be taken away.
                checkpoints.save(step, state, force=True)
            if log:
                progress.log(board)
            if draw:
                show(step, state, board)
            if validation and measure:
                # Two checkpoints are not written at a time.
                checkpoints.wait()
                validation(step, state, board)
            if save:
                # Last: a run that is killed and resumes from this checkpoint has lost none of it.
                board.flush()
                checkpoints.save(step, state, force=bool(stop))
                speed.save(step)
            if stop:
                break
        checkpoints.wait()
        if validation:
            validation.close()
    if step == run.last:
        say(f"finished at step {step}; checkpoints, pictures and TensorBoard: {folder}")
        return 0
    say(f"interrupted and saved at step {step}; run the same command again to resume")
    return 128 + (interruption.signal or signal.SIGTERM)


def _announce_compilation(settings: Settings) -> None:
    train, model = settings.train, settings.model
    if kept := compile_cache.folder():
        say(f"compiled programs are kept in {kept}, for the next start")
    say(
        f"compiling for {jax.device_count()} {jax.devices()[0].device_kind} device(s) ..."
        " (Ctrl-C now ends at once and loses nothing)"
    )
    if train.accumulate > 1:
        norms = (model.block_norm, model.feature_norm, model.generator_norm)
        say(
            f"a step has {train.accumulate} small batches of {train.batch_size // train.accumulate}"
            + ("; batch norm takes the statistics of each" if "batch" in norms else "")
        )


def _stop_if(not_finite: str, checkpoints: Checkpoints) -> None:
    """Raises UserError if `not_finite`, which describes the problem, is not empty."""
    if not not_finite:
        return
    good = checkpoints.latest_step
    newest = "there is no checkpoint yet" if good is None else f"checkpoint {good} is good"
    raise UserError(
        f"training stopped: {not_finite}; {newest}. In another --workdir, try a lower"
        " config.optimiser.generator_rate and discriminator_rate, or config.model.dtype=float32"
    )
