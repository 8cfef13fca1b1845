"""Evaluation of a run's newest checkpoint on the validation split."""

import itertools
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tqdm
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Array, Bool, PyTree

from cocosnet_jax import checkpoint, files, measure, mesh, pictures, report, subjects, yardsticks
from cocosnet_jax.data import pipeline
from cocosnet_jax.data.labels import label_maps
from cocosnet_jax.distributed import is_lead, say, wait_for_all
from cocosnet_jax.fit import compile_to_fit
from cocosnet_jax.hooks import TensorBoard
from cocosnet_jax.metrics import Metric
from cocosnet_jax.metrics.warp_accuracy import WarpAccuracy
from cocosnet_jax.preparation import prepare_data
from cocosnet_jax.settings import Settings
from cocosnet_jax.state import TrainState
from cocosnet_jax.steps import predict_step
from cocosnet_jax.types import Batch, Outputs

METRICS: tuple[Metric, ...] = (WarpAccuracy(),)


def evaluate(
    settings: Settings,
    folder: epath.Path,
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
      inception: weights of FID's Inception, or empty.
      lpips: LPIPS's heads, or empty.
      lpips_vgg: LPIPS's VGG-16, where config.vgg.weights is another network.
      picture_format: of the translations; they are measured as they are in it.

    Returns:
      The exit status.

    Raises:
      UserError: there is no checkpoint, it is of another model, the data or weights do not fit, or
        a batch is too large for the devices' memory.
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

    def place(batch: Batch, valid: np.ndarray) -> tuple[Batch, jax.Array]:
        rows = jax.make_array_from_process_local_data(mesh.split(devices), valid)
        return mesh.to_global(devices, batch), rows

    metrics = [metric for metric in METRICS if metric.applies(restored.settings)]
    say("compiling ...")
    first = next(batches)
    predict = compile_to_fit(
        _predict_and_count(restored.settings, devices, metrics),
        (restored.state, *place(*first[:2])),
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
        outputs, sums = predict(restored.state, *place(batch, valid))
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
    total = jax.tree.map(lambda *some: np.sum(some, dtype=np.float64), *counted)
    numbers: dict[str, float] = {"step": restored.step, "images": images}
    for metric, sums in zip(metrics, total, strict=True):
        numbers |= metric.result(sums)
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


def _predict_and_count(settings: Settings, devices: Mesh, metrics: list[Metric]) -> Any:
    """Returns the jitted (state, batch, valid) -> (outputs less the mask, each metric's sums)."""
    predict = predict_step(settings, with_mask=True)

    def step(
        state: TrainState, batch: Batch, valid: Bool[Array, "b"]
    ) -> tuple[Outputs, list[PyTree]]:
        outputs = predict(state, batch)
        sums = [metric.count(batch, outputs, valid) for metric in metrics]
        # The mask is large, and only the metrics read it.
        return outputs._replace(warped_mask=None), sums

    return jax.jit(step, out_shardings=(mesh.split(devices), mesh.replicated(devices)))


def _show(content: dict[str, Any], target: epath.Path) -> None:
    for name, value in content.items():
        if isinstance(value, int | float):
            print(f"{name:<42}{value:.4f}" if isinstance(value, float) else f"{name:<42}{value}")
    for name, missing in content["left_out"].items():
        print(f"not measured: {name}: {missing}")
    print(f"pictures and metrics.json: {target}")
