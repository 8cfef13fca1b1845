"""Trains a short run on drawn scenes and measures it; for `ablations` and `learning`.

It trains as `cocosnet_jax.main` does, with the same batches, random numbers and checkpoints, but
for two points. Epochs are as short as the caller says. And the seed is an argument of the compiled
programs, so runs that differ in nothing else share them (with JAX's persistent cache, between
processes as well).
"""

import dataclasses
import functools
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from cocosnet_jax import files, measure, mesh, pictures, rng, steps, subjects, validation, workdir
from cocosnet_jax.apps import named_points
from cocosnet_jax.apps.drawn_pairs import Pair
from cocosnet_jax.checkpoint import Checkpoints
from cocosnet_jax.data import pipeline
from cocosnet_jax.data.dataset import Dataset
from cocosnet_jax.errors import UserError
from cocosnet_jax.metrics import warp_accuracy
from cocosnet_jax.metrics.colours import mean_absolute_error
from cocosnet_jax.settings import Settings
from cocosnet_jax.state import TrainState, all_finite, create_state
from cocosnet_jax.types import Batch
from cocosnet_jax.vgg import VggWeights
from cocosnet_jax.yardsticks import Yardsticks

LOSSES = "losses.json"
# Steps whose losses are averaged in `LOSSES`.
AVERAGED = 10
# Pairs that are translated at once.
BATCH = 16


class Trained(NamedTuple):
    """What training leaves.

    Attributes:
      state: of the last step.
      losses: mean weighted losses of every `AVERAGED` steps, in order.
    """

    state: TrainState
    losses: list[dict[str, float]]


def train(
    settings: Settings,
    dataset: Dataset,
    weights: VggWeights,
    folder: epath.Path,
    epoch: int,
    advance: Callable[[int], object],
) -> Trained:
    """Trains from the newest checkpoint to the end of the schedule, or to `train.stop_after`.

    Args:
      settings: of the run; a step's losses are kept by `train.checkpoint_every`, a multiple of
        `AVERAGED`.
      dataset: its data.
      weights: VGG of the losses.
      folder: the workdir.
      epoch: steps of an epoch.
      advance: called with the number of steps that were done since its last call.

    Raises:
      UserError: the folder is of another run, a loss is not finite, or the disk is full.
    """
    workdir.check(str(folder), settings)
    workdir.claim(folder, settings)
    devices = mesh.make()
    whole, seed = mesh.replicated(devices), settings.train.seed
    total = settings.epochs * epoch
    last = min(total, settings.train.stop_after or total)
    checkpoints = Checkpoints(folder, settings)
    start, losses = 0, []
    if checkpoints.latest_step is not None:
        start, state = checkpoints.restore(whole)
        losses = json.loads((folder / LOSSES).read_text())[: start // AVERAGED]
    else:
        create = functools.partial(create_state, settings, steps_per_epoch=epoch)
        state = jax.jit(create, out_shardings=whole)(rng.key(seed, "init"))
        # As the step returns it, so that the step is compiled once.
        state = jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), state)
    advance(start)
    step_fn = jax.jit(steps.train_step(settings, epoch), donate_argnums=0, out_shardings=whole)
    weights = jax.device_put(weights, whole)
    batches = pipeline.training_batches(
        dataset, seed=seed, batch_size=settings.train.batch_size, start_step=start
    )
    recent: list[Any] = []
    for step in range(start + 1, last + 1):
        key = rng.key(seed, "train", step - 1)
        state, found = step_fn(state, weights, mesh.to_global(devices, next(batches)), key)
        recent.append(found)
        if step % AVERAGED == 0:
            losses.append(_mean(jax.device_get(recent), step))
            recent = []
        advance(1)
        if step % settings.train.checkpoint_every == 0 or step == last:
            if not all_finite(state):
                raise UserError(f"training of {folder} stopped: a parameter is not finite")
            files.write(folder / LOSSES, json.dumps(losses).encode())
            checkpoints.save(step, state, force=True)
    checkpoints.close()
    return Trained(state, losses)


def _mean(recent: Sequence[dict[str, np.ndarray]], step: int) -> dict[str, float]:
    mean = {name: float(np.mean([losses[name] for losses in recent])) for name in recent[0]}
    for name, value in mean.items():
        if not np.isfinite(value):
            raise UserError(f"training stopped: the loss {name} is {value} up to step {step}")
    return mean


def measured(
    settings: Settings, state: TrainState, pairs: Sequence[Pair], networks: Yardsticks
) -> dict[str, float]:
    """Measures the translations of drawn pairs.

    The truth of a pair is the input's layout in the exemplar's style.

    Args:
      settings: of the run.
      state: its networks.
      pairs: of the validation split, as `apps.drawn_pairs.draw_pairs` draws them.
      networks: what `cocosnet_jax.measure` judges with; what needs a missing one is left out.

    Returns:
      `warp_accuracy`, `pck@0.1` and its baselines, unless the networks have no exemplar;
      `error_to_truth`, the mean absolute error, 0 to 255; and the numbers of `measure`.
    """
    images, numbers = _translate(settings, state, pairs)
    errors = [
        mean_absolute_error(image, pair.truth.image)
        for image, pair in zip(images, pairs, strict=True)
    ]
    numbers["error_to_truth"] = float(np.mean(errors))
    subject = subjects.Subject(
        keys=[str(place) for place in range(len(pairs))],
        real_count=len(pairs),
        generated=lambda place: images[place],
        real=lambda place: pairs[place].truth.image,
        label=lambda place: pairs[place].scene.label,
        exemplar=lambda place: pairs[place].exemplar.image,
        exemplar_label=lambda place: pairs[place].exemplar.label,
        others=(),
        paired=True,
        size=images[0].shape[:2],
        identity="short run",
        real_identity="short run",
        protocol={},
    )
    # Rows of features are small, and serve this measuring alone.
    with tempfile.TemporaryDirectory() as rows:
        return numbers | measure.measure(subject, networks, Path(rows), BATCH).numbers


def _translate(
    settings: Settings, state: TrainState, pairs: Sequence[Pair]
) -> tuple[list[np.ndarray], dict[str, float]]:
    """Translations as bytes, and the numbers of the correspondence."""
    has_exemplar = settings.model.needs_exemplar
    predict = jax.jit(steps.predict_step(settings, with_mask=has_exemplar, with_match=has_exemplar))
    # Optimisers and discriminator are no part of the compiled program.
    state = dataclasses.replace(state, opt_state={})
    images, places, counts = [], [], []
    for start in range(0, len(pairs), BATCH):
        part = list(pairs[start : start + BATCH])
        valid = np.arange(BATCH) < len(part)
        # The last batch is filled up, because another size would need another compilation.
        part += [part[0]] * (BATCH - len(part))
        label, exemplar_label = (
            np.stack([getattr(pair, name).label for pair in part]) for name in ("scene", "exemplar")
        )
        truth, exemplar = (
            np.stack([getattr(pair, name).image for pair in part]) for name in ("truth", "exemplar")
        )
        outputs = predict(
            state,
            Batch(
                truth,
                exemplar,
                label[..., None],
                exemplar_label[..., None],
                np.zeros(BATCH, np.float32),
            ),
        )
        images += list(pictures.to_bytes(np.asarray(outputs.image))[valid])
        if has_exemplar:
            place = np.asarray(outputs.matches[""].place)[valid]
            places.append(np.stack(np.divmod(place, place.shape[-1]), -1))
            counted = warp_accuracy.count(
                outputs.warped_mask,
                jnp.asarray(label),
                jnp.asarray(exemplar_label),
                jnp.asarray(valid),
            )
            counts.append(jax.device_get(counted))
    if not has_exemplar:
        return images, {}
    warped = warp_accuracy.WarpAccuracy().result(validation.summed(counts))
    found = named_points.pck(
        [pair.scene for pair in pairs], [pair.exemplar for pair in pairs], np.concatenate(places)
    )
    return images, found | {
        name: warped[name] for name in ("warp_accuracy", "warp_accuracy_by_chance")
    }


def run(main: Callable[[], int]) -> None:
    """Exits with the status of `main`; prints an error that the user can fix as one line."""
    try:
        sys.exit(main())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.status)
    except KeyboardInterrupt:
        print("interrupted: run the same command again", file=sys.stderr)
        sys.exit(130)
