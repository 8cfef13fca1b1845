"""Evaluation of a run's checkpoint on the validation split."""

import dataclasses
import hashlib
import itertools
import re
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import jax
import tqdm
from etils import epath

from cocosnet_jax import (
    best,
    checkpoint,
    files,
    measure,
    mesh,
    pictures,
    report,
    subjects,
    validation,
    vgg,
    weights_file,
    yardsticks,
)
from cocosnet_jax.data import pipeline
from cocosnet_jax.data.dataset import Dataset
from cocosnet_jax.data.keypoints import PairPoints
from cocosnet_jax.data.labels import label_maps
from cocosnet_jax.distributed import is_lead, say, wait_for_all
from cocosnet_jax.fit import compile_to_fit
from cocosnet_jax.hooks import TensorBoard
from cocosnet_jax.preparation import prepare_data
from cocosnet_jax.settings import Settings
from cocosnet_jax.translated import Translated, to_rows

# Of the kept counts; a change of what is counted makes another number.
_VERSION = 1


def check_checkpoint(path: str | epath.Path) -> None:
    """Raises a UserError unless there is a checkpoint, or a file of weights; reads neither."""
    if not weights_file.is_one(path):
        checkpoint.find(checkpoint.absolute(path))


def networks_of(
    settings: Settings, inception: str, lpips: str, lpips_vgg: str
) -> yardsticks.Yardsticks:
    """The networks that a run is measured with; the arguments are those of `yardsticks.load`.

    Raises:
      UserError: a file is missing or wrong.
    """
    # Untrained weights judge nothing.
    judge = "" if settings.vgg.weights == "random" else settings.vgg.weights
    flag = "config.vgg.weights"
    return yardsticks.load(inception, judge, lpips, lpips_vgg, vgg_flag=flag)


def evaluate(
    settings: Settings,
    folder: epath.Path,
    networks: yardsticks.Yardsticks,
    keypoints_file: str = "",
    *,
    checkpoint_path: str = "",
    picture_format: Literal["png", "jpeg"] = "png",
) -> epath.Path:
    """Translates every validation image once, measures, and writes what came out.

    `folder`/evaluation/step_N gets what `report.write` writes, `grid.png` with the first batch
    beside its inputs, and every translation in `outputs/`. For a checkpoint of another run, or a
    file of weights, the folder is named after it instead. An interrupted evaluation goes on where
    it stopped.

    Args:
      settings: of the run; the data are read by them.
      folder: its workdir.
      networks: what to measure with.
      keypoints_file: points whose true correspondence is known (`data.keypoints`); empty for the
        file that the dataset has beside its photographs, if it has one.
      checkpoint_path: what to evaluate, as `checkpoint.restore_for_inference` takes it; empty for
        the run's newest checkpoint.
      picture_format: of the translations; they are measured as they are in it.

    Returns:
      The folder of the results.

    Raises:
      UserError: there is no checkpoint, it is of another model, the data or points do not fit, or a
        batch is too large for the devices' memory.
    """
    devices = mesh.make()
    restored = checkpoint.restore_for_inference(checkpoint_path or folder, mesh.replicated(devices))
    checkpoint.check_model(restored, settings)
    # How the networks are computed is this command's to say; all else is the checkpoint's.
    ways = ("correlation", "modulation", "rematerialise")
    way = {name: getattr(settings.model, name) for name in ways}
    known = dataclasses.replace(restored.settings.model, **way)
    restored = restored._replace(settings=dataclasses.replace(restored.settings, model=known))
    name = str(restored.folder).removeprefix(f"{folder}/")
    say(f"evaluating checkpoint {name} (step {restored.step})")
    own = _is_own(restored, folder)
    target = folder / "evaluation" / f"step_{restored.step:07d}"
    if not own:
        target = folder / "evaluation" / _file_name(restored.folder, folder)
        say(f"it is not this workdir's own, so its results go to {target}")
    dataset = prepare_data(settings.data)
    label_maps.check_same_colours(restored.settings.data, dataset.settings)
    subject = subjects.of_run(
        dataset,
        target / "outputs",
        picture_format,
        settings.data.condition != "channels",
        f"{name} {_written(restored.folder)}",
    )
    points = validation.points_of(dataset, settings, keypoints_file)
    counted = _translate(restored, settings, dataset, points, networks, subject, target)
    wait_for_all("translations are written")
    batch_size = mesh.round_up(settings.train.evaluation_batch_size)
    measured = measure.measure(subject, networks, _rows_folder(folder), batch_size)
    if is_lead():
        numbers = {"step": restored.step, "checkpoint": name, "images": len(subject.keys)}
        content = report.write(target, measured, subject, numbers | counted)
        _show(content, target)
        if own:  # The curves are the run's.
            board = TensorBoard(folder / "tensorboard")
            scalars = {f"evaluation/{k}": v for k, v in content.items() if isinstance(v, float)}
            board.scalars(restored.step, scalars)
            board.close()
    return target


def _is_own(restored: checkpoint.Restored, folder: epath.Path) -> bool:
    """Whether a checkpoint is one of the run in `folder`, not of another run or a file."""
    homes = (folder, folder / checkpoint.FOLDER, folder / best.FOLDER)
    return restored.folder.parent in homes and restored.folder.name == str(restored.step)


def _file_name(checkpoint_path: epath.Path, folder: epath.Path) -> str:
    """A checkpoint's path, seen from beside the workdir, as a name: `other_checkpoints_1000`."""
    seen = str(checkpoint_path).removeprefix(f"{folder}/").removeprefix(f"{folder.parent}/")
    return re.sub(r"[:/\\]+", "_", seen).strip("_")


def _written(checkpoint_path: epath.Path) -> float:
    """When a checkpoint, or a file of weights, was written; folders in buckets have no time."""
    inside = checkpoint_path / "settings/metadata"
    return (inside if inside.exists() else checkpoint_path).stat().mtime


def _translate(
    restored: checkpoint.Restored,
    settings: Settings,
    dataset: Dataset,
    points: PairPoints | None,
    networks: yardsticks.Yardsticks,
    subject: subjects.Subject,
    target: epath.Path,
) -> dict[str, float]:
    """Translates what is not translated yet.

    Returns:
      The numbers of the correspondence; only the first process has them.
    """
    devices = mesh.make()
    batch_size = mesh.round_up(settings.train.evaluation_batch_size)
    known = "" if points is None else hashlib.sha256(points.of(subject.keys).tobytes()).hexdigest()
    translated = Translated(
        target, [_VERSION, subject.identity, known, networks.vgg_name], subject.outputs
    )
    remaining = translated.remaining(batch_size)
    if translated.done:
        say(f"{translated.done} of {len(subject.keys)} pictures are translated already")
    batches = pipeline.evaluation_batches(
        dataset,
        batch_size=batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        # The first batch says at least how the counts are arranged.
        only=remaining or [0],
    )
    metrics = validation.metrics_of(restored.settings, points)
    weights = jax.device_put(_baseline(networks), mesh.replicated(devices))
    step = validation.predict_and_count(restored.settings, devices, metrics)
    first = next(batches)
    arguments = restored.state, weights, *validation.place(devices, points, *first)
    if not remaining:
        counts = jax.eval_shape(step, *arguments)[1]
        return validation.results(metrics, [translated.total(counts)]) if is_lead() else {}
    say("compiling ...")
    predict = compile_to_fit(
        step,
        arguments,
        devices,
        settings.data.image_size,
        f"config.train.evaluation_batch_size is {settings.train.evaluation_batch_size}; set a"
        " smaller one, or evaluate where devices have more memory",
    )
    outputs_of = dict(zip(subject.keys, subject.outputs, strict=True))
    bar = tqdm.tqdm(
        itertools.chain([first], batches),
        total=len(remaining),
        desc="translating",
        disable=not is_lead(),
        file=sys.stdout,
    )
    for number, (batch, valid, keys) in zip(remaining, bar, strict=True):
        placed = validation.place(devices, points, batch, valid, keys)
        outputs, counts = predict(restored.state, weights, *placed)
        outputs = jax.tree.map(mesh.to_local, outputs)
        for key, image, real in zip(keys, outputs.image, valid, strict=True):
            if real:
                pictures.write(outputs_of[key], pictures.to_bytes(image))
        # Counted pictures are there: a restart takes a picture with its counts as finished.
        wait_for_all(f"batch {number} of {target} is written")
        if not is_lead():
            continue
        if number == 0:
            truth, shown = jax.tree.map(lambda rows: rows[valid], (batch, outputs))  # noqa: B023
            grid = pictures.grid(truth, shown, settings.data.condition)
            pictures.write_png(target / "grid.png", grid)
        start = number * batch_size
        rows = to_rows(jax.device_get(counts), batch_size)
        translated.add(start, rows[: len(subject.keys) - start])
    return validation.results(metrics, [translated.total(counts)]) if is_lead() else {}


def _rows_folder(folder: epath.Path) -> Path:
    """Where features are kept: with the run, or on this machine where the run is in a bucket."""
    if files.is_url(folder):
        digest = hashlib.sha256(str(folder).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"cocosnet_jax-features-{digest}"
    return Path(folder) / "evaluation" / "features"


def _baseline(networks: yardsticks.Yardsticks) -> vgg.VggWeights | None:
    """The VGG whose features the correspondence is compared with."""
    if networks.vgg is None:
        say("no trained VGG (config.vgg.weights): nearest VGG features are left out as a baseline")
    return networks.vgg


def _show(content: dict[str, Any], target: epath.Path) -> None:
    for name, value in content.items():
        if isinstance(value, int | float):
            print(f"{name:<42} {value:.4f}" if isinstance(value, float) else f"{name:<42} {value}")
    for name, missing in content["left_out"].items():
        print(f"not measured: {name}: {missing}")
    print(f"pictures and metrics.json: {target}")
