"""Evaluation of a run's newest checkpoint on the validation split."""

import itertools
import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Array, Bool

from cocosnet_jax import checkpoint, files, mesh, pictures
from cocosnet_jax.data import pipeline
from cocosnet_jax.data.labels import label_maps
from cocosnet_jax.fit import compile_to_fit
from cocosnet_jax.metrics import warp_accuracy
from cocosnet_jax.settings import Settings
from cocosnet_jax.state import TrainState
from cocosnet_jax.steps import predict_step
from cocosnet_jax.train import prepare_data
from cocosnet_jax.types import Batch, Outputs


def evaluate(settings: Settings, folder: epath.Path) -> int:
    """Translates every validation image once, measures, and writes what came out.

    `folder`/evaluation/step_N gets `metrics.json`, `grid.png` with the first batch beside its
    inputs, and every translation in `outputs/`.

    Args:
      settings: of the run; the data are read by them.
      folder: its workdir.

    Returns:
      The exit status.

    Raises:
      UserError: there is no checkpoint, it is of another model, the data do not fit, or a batch is
        too large for the devices' memory.
    """
    devices = mesh.make()
    restored = checkpoint.restore_for_inference(folder, mesh.replicated(devices))
    checkpoint.check_model(restored, settings)
    dataset = prepare_data(settings)
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

    if jax.process_index() == 0:
        print("compiling ...", flush=True)
    first = next(batches)
    predict = compile_to_fit(
        _predict_and_count(restored.settings, devices),
        (restored.state, *place(*first[:2])),
        devices,
        settings.data.image_size,
        f"config.train.evaluation_batch_size is {settings.train.evaluation_batch_size}; set a"
        " smaller one, or evaluate where devices have more memory",
    )
    counts = []
    for number, (batch, valid, keys) in enumerate(
        tqdm.tqdm(
            itertools.chain([first], batches),
            total=-(-images // batch_size),
            desc="evaluating",
            disable=jax.process_index() != 0,
            file=sys.stdout,
        )
    ):
        outputs, found = predict(restored.state, *place(batch, valid))
        counts.append(jax.device_get(found))
        outputs = jax.tree.map(mesh.to_local, outputs)
        for key, image, real in zip(keys, outputs.image, valid, strict=True):
            if real:
                name = epath.Path("outputs") / key
                pictures.write_png(target / name.with_suffix(".png"), pictures.to_bytes(image))
        if number == 0 and jax.process_index() == 0:
            truth, shown = jax.tree.map(lambda rows: rows[valid], (batch, outputs))  # noqa: B023
            grid = pictures.grid(truth, shown, settings.data.condition)
            pictures.write_png(target / "grid.png", grid)
    if jax.process_index() == 0:
        _report(target, restored.step, images, counts)
    return 0


def _predict_and_count(settings: Settings, devices: Mesh) -> Any:
    """Returns the jitted (state, batch, valid) -> (outputs less the mask, counts or None)."""
    predict = predict_step(settings, with_mask=True)

    def step(
        state: TrainState, batch: Batch, valid: Bool[Array, "b"]
    ) -> tuple[Outputs, warp_accuracy.Counts | None]:
        outputs = predict(state, batch)
        counts = None
        if outputs.warped_mask is not None:
            label, exemplar_label = jnp.asarray(batch.label), jnp.asarray(batch.exemplar_label)
            counts = warp_accuracy.count(
                jnp.asarray(outputs.warped_mask), label[..., 0], exemplar_label[..., 0], valid
            )
        # The mask is large, and only its counts are read on the host.
        return outputs._replace(warped_mask=None), counts

    return jax.jit(step, out_shardings=(mesh.split(devices), mesh.replicated(devices)))


def _report(
    target: epath.Path, step: int, images: int, counts: list[warp_accuracy.Counts | None]
) -> None:
    metrics: dict[str, float] = {"step": step, "images": images}
    if counts and counts[0] is not None:
        right, expected, positions = np.sum(np.array(counts, np.float64), axis=0)
        metrics["positions"] = int(positions)
        if positions:
            metrics["warp_accuracy"] = right / positions
            metrics["warp_accuracy_by_chance"] = expected / positions
    files.write(target / "metrics.json", (json.dumps(metrics, indent=2) + "\n").encode())
    for name, value in metrics.items():
        print(f"{name:<26}{value:.4f}" if isinstance(value, float) else f"{name:<26}{value}")
    print(f"pictures and metrics.json: {target}")
