"""Evaluation of a run's newest checkpoint on the validation split."""

import itertools
import json
import sys

import jax
import tqdm
from etils import epath

from cocosnet_jax import checkpoint, files, mesh, pictures, validation, vgg
from cocosnet_jax.data import pipeline
from cocosnet_jax.data.labels import label_maps
from cocosnet_jax.distributed import is_lead, say
from cocosnet_jax.fit import compile_to_fit
from cocosnet_jax.preparation import prepare_data
from cocosnet_jax.pretrained import vgg as vgg_weights
from cocosnet_jax.settings import Settings


def evaluate(settings: Settings, folder: epath.Path, keypoints_file: str = "") -> int:
    """Translates every validation image once, measures, and writes what came out.

    `folder`/evaluation/step_N gets `metrics.json`, `grid.png` with the first batch beside its
    inputs, and every translation in `outputs/`.

    Args:
      settings: of the run; the data are read by them.
      folder: its workdir.
      keypoints_file: points whose true correspondence is known (`data.keypoints`); empty for the
        file that the dataset has beside its photographs, if it has one.

    Returns:
      The exit status.

    Raises:
      UserError: there is no checkpoint, it is of another model, the data, points or VGG do not fit,
        or a batch is too large for the devices' memory.
    """
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
    weights = jax.device_put(_baseline(settings), mesh.replicated(devices))
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
                name = epath.Path("outputs") / key
                pictures.write_png(target / name.with_suffix(".png"), pictures.to_bytes(image))
        if number == 0 and is_lead():
            truth, shown = jax.tree.map(lambda rows: rows[valid], (batch, outputs))  # noqa: B023
            grid = pictures.grid(truth, shown, settings.data.condition)
            pictures.write_png(target / "grid.png", grid)
    if is_lead():
        numbers: dict[str, float] = {"step": restored.step, "images": images}
        _report(target, numbers | validation.results(metrics, counted))
    return 0


def _baseline(settings: Settings) -> vgg.VggWeights | None:
    """The VGG whose features the correspondence is compared with; untrained ones say nothing."""
    if settings.vgg.weights in ("", "random"):
        say("no trained VGG (config.vgg.weights): nearest VGG features are left out as a baseline")
        return None
    return vgg_weights.load(settings.vgg.weights, settings.vgg.width)


def _report(target: epath.Path, numbers: dict[str, float]) -> None:
    files.write(target / "metrics.json", (json.dumps(numbers, indent=2) + "\n").encode())
    for name, value in numbers.items():
        print(f"{name:<44}{value:.4f}" if isinstance(value, float) else f"{name:<44}{value}")
    print(f"pictures and metrics.json: {target}")
