"""Evaluation of a run's newest checkpoint on the validation split."""

import itertools
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import jax
import tqdm
from etils import epath

from cocosnet_jax import (
    checkpoint,
    files,
    measure,
    mesh,
    pictures,
    report,
    subjects,
    validation,
    vgg,
    yardsticks,
)
from cocosnet_jax.data import pipeline
from cocosnet_jax.data.labels import label_maps
from cocosnet_jax.distributed import is_lead, say, wait_for_all
from cocosnet_jax.fit import compile_to_fit
from cocosnet_jax.hooks import TensorBoard
from cocosnet_jax.preparation import prepare_data
from cocosnet_jax.settings import Settings


def evaluate(
    settings: Settings,
    folder: epath.Path,
    keypoints_file: str = "",
    *,
    inception: str = "",
    lpips: str = "",
    lpips_vgg: str = "",
    picture_format: Literal["png", "jpeg"] = "png",
) -> int:
    """Translates every validation image once, measures, and writes what came out.

    `folder`/evaluation/step_N gets what `report.write` writes, `grid.png` with the first batch
    beside its inputs, and every translation in `outputs/`.

    Args:
      settings: of the run; the data are read by them.
      folder: its workdir.
      keypoints_file: points whose true correspondence is known (`data.keypoints`); empty for the
        file that the dataset has beside its photographs, if it has one.
      inception: weights of FID's Inception, or empty.
      lpips: LPIPS's heads, or empty.
      lpips_vgg: LPIPS's VGG-16, where config.vgg.weights is another network.
      picture_format: of the translations; they are measured as they are in it.

    Returns:
      The exit status.

    Raises:
      UserError: there is no checkpoint, it is of another model, the data, points or weights do not
        fit, or a batch is too large for the devices' memory.
    """
    # Untrained weights judge nothing.
    judge = "" if settings.vgg.weights == "random" else settings.vgg.weights
    networks = yardsticks.load(inception, judge, lpips, lpips_vgg)
    devices = mesh.make()
    restored = checkpoint.restore_for_inference(folder, mesh.replicated(devices))
    checkpoint.check_model(restored, settings)
    dataset = prepare_data(settings.data)
    label_maps.check_same_colours(restored.settings.data, dataset.settings)
    batch_size = mesh.round_up(settings.train.evaluation_batch_size)
    batches = pipeline.evaluation_batches(
        dataset,
        batch_size=batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    images = len(dataset.evaluation("validation"))
    target = folder / "evaluation" / f"step_{restored.step:07d}"

    points = validation.points_of(dataset, settings, keypoints_file)
    metrics = validation.metrics_of(restored.settings, points)
    weights = jax.device_put(_baseline(networks), mesh.replicated(devices))
    say("compiling ...")
    first = next(batches)
    predict = compile_to_fit(
        validation.predict_and_count(restored.settings, devices, metrics),
        (restored.state, weights, *validation.place(devices, points, *first)),
        devices,
        settings.data.image_size,
        f"config.train.evaluation_batch_size is {settings.train.evaluation_batch_size}; set a"
        " smaller one, or evaluate where devices have more memory",
    )
    counted = []
    for number, (batch, valid, keys) in enumerate(
        tqdm.tqdm(
            itertools.chain([first], batches),
            total=-(-images // batch_size),
            desc="evaluating",
            disable=not is_lead(),
            file=sys.stdout,
        )
    ):
        outputs, sums = predict(
            restored.state, weights, *validation.place(devices, points, batch, valid, keys)
        )
        counted.append(jax.device_get(sums))
        outputs = jax.tree.map(mesh.to_local, outputs)
        for key, image, real in zip(keys, outputs.image, valid, strict=True):
            if real:
                path = subjects.output_file(target / "outputs", key, picture_format)
                pictures.write(path, pictures.to_bytes(image))
        if number == 0 and is_lead():
            truth, shown = jax.tree.map(lambda rows: rows[valid], (batch, outputs))  # noqa: B023
            grid = pictures.grid(truth, shown, settings.data.condition)
            pictures.write_png(target / "grid.png", grid)
    numbers: dict[str, float] = {"step": restored.step, "images": images}
    numbers |= validation.results(metrics, counted)
    wait_for_all("translations are written")
    subject = subjects.of_run(
        dataset,
        target / "outputs",
        picture_format,
        settings.data.condition != "channels",
        f"{restored.folder} {restored.folder.stat().mtime}",
    )
    measured = measure.measure(subject, networks, _rows_folder(folder), batch_size)
    if is_lead():
        content = report.write(target, measured, subject, numbers)
        _show(content, target)
        board = TensorBoard(folder / "tensorboard")
        scalars = {f"evaluation/{k}": v for k, v in content.items() if isinstance(v, float)}
        board.scalars(restored.step, scalars)
        board.close()
    return 0


def _rows_folder(folder: epath.Path) -> Path:
    """Where features are kept: with the run, or on this machine where the run is in a bucket."""
    if files.is_url(folder):
        return Path(tempfile.gettempdir()) / "cocosnet_jax-features"
    return Path(folder) / "evaluation" / "features"


def _baseline(networks: yardsticks.Yardsticks) -> vgg.VggWeights | None:
    """The VGG whose features the correspondence is compared with."""
    if networks.vgg is None:
        say("no trained VGG (config.vgg.weights): nearest VGG features are left out as a baseline")
    return networks.vgg


def _show(content: dict[str, Any], target: epath.Path) -> None:
    for name, value in content.items():
        if isinstance(value, int | float):
            print(f"{name:<42}{value:.4f}" if isinstance(value, float) else f"{name:<42}{value}")
    for name, missing in content["left_out"].items():
        print(f"not measured: {name}: {missing}")
    print(f"pictures and metrics.json: {target}")
