"""Trains on drawn landscapes, then shows and measures that style follows the exemplar.

    python -m cocosnet_jax.apps.train_demo --workdir=runs/train-demo

is what `make train-demo` runs; `--seed=1` draws other weights. It trains `configs/toy.py`,
translates validation scenes with three exemplars each, writes `demo.png` and `demo.json` into the
workdir and prints what it measured:

- warp accuracy: share of positions at which the warp brings the right class, among those whose
  class the exemplar has; after the warm-up with the exemplar's mask given, at the end with noise in
  its place; and the share that a warp to random positions would get right;
- colour distance, at the end: how far a result's mean colour of each class is from that class's
  mean colour in its exemplar, and in another one (0 to 255, root of the summed squares of R, G, B).
"""

import dataclasses
import json
import math
import os
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import UInt8

from cocosnet_jax import checkpoint, command, data, files, pictures, validation, workdir
from cocosnet_jax.data.builders import toy_scenes
from cocosnet_jax.inference import Translator
from cocosnet_jax.metrics import warp_accuracy
from cocosnet_jax.metrics.colours import class_colours, distance
from cocosnet_jax.settings import Settings

_WORKDIR = flags.DEFINE_string(
    "workdir", "runs/train-demo", "folder of the run; made where missing"
)
_SEED = flags.DEFINE_integer("seed", 0, "of the weights and of the order", lower_bound=0)

EXEMPLARS = 3  # per scene
ROWS = 5  # scenes in the picture
# An exemplar suits a scene if it has the classes of at least this share of the scene's area.
COVER = 0.95


class Scenes(NamedTuple):
    """The validation scenes: images (n, H, W, 3) and class maps (n, H, W), as bytes."""

    images: UInt8[np.ndarray, "n height width 3"]
    labels: UInt8[np.ndarray, "n height width"]


def main() -> int:
    """Trains, translates, measures, prints."""
    # Compiling takes a quarter less time, and steps as long as before. The user's flags come last,
    # and so take precedence.
    os.environ["XLA_FLAGS"] = (
        f"--xla_backend_optimization_level=1 {os.environ.get('XLA_FLAGS', '')}"
    )

    settings = recipe(_SEED.value)
    # Slow to import.
    from cocosnet_jax import train

    began = time.monotonic()
    folder = workdir.check(_WORKDIR.value, settings)
    status = train.train(settings, folder)
    if status:
        return status
    minutes = (time.monotonic() - began) / 60

    dataset = data.open(settings.data)
    split = dataset.split("validation")
    pairs = [split[i] for i in range(len(split))]
    scenes = Scenes(
        np.stack([i for i, _ in pairs]), np.stack([label[..., 0] for _, label in pairs])
    )
    chosen = choose_exemplars(scenes)
    print(
        f"translating {len(scenes.images)} scenes with {EXEMPLARS} exemplars each ...", flush=True
    )
    steps_per_epoch = len(dataset.training) // settings.train.batch_size
    warmed_up = folder / checkpoint.FOLDER / str(settings.model.mask_epochs * steps_per_epoch)
    given, blind = (
        translate(Translator(path), scenes, chosen, give_mask=give_mask)
        for give_mask, path in ((True, warmed_up), (False, folder))
    )
    measured = {
        "warp_accuracy_with_mask": given.accuracy,
        "warp_accuracy_without_mask": blind.accuracy,
        "warp_accuracy_by_chance": given.chance,
        **colour_distances(scenes, chosen, blind.images),
        "minutes_of_training": minutes,
    }
    picture = folder / "demo.png"
    pictures.write_png(picture, sheet(scenes, chosen, blind.images))
    files.write(folder / "demo.json", (json.dumps(measured, indent=2) + "\n").encode())
    report(measured, len(scenes.images))
    print(f"\nlook at {picture}")
    return 0


def recipe(seed: int) -> Settings:
    """The settings of `configs/toy.py`, for this machine."""
    settings = command.project_settings("toy")
    # The recipe's batch, or its next multiple that splits over this machine's devices. A multiple
    # splits into the recipe's groups of samples, too (`loss.group_size`).
    batch_size = math.lcm(settings.train.batch_size, jax.device_count())
    train = dataclasses.replace(
        settings.train,
        seed=seed,
        batch_size=batch_size,
        # One per epoch, as in the recipe; one of them is at the end of the warm-up.
        checkpoint_every=toy_scenes.TRAIN_SCENES // batch_size,
    )
    return dataclasses.replace(settings, train=train)


def choose_exemplars(scenes: Scenes) -> np.ndarray:
    """Returns (n, EXEMPLARS) indices: other scenes that have a scene's classes, unlike each other.

    The first is the fit scene that covers most; each further one is that whose mean colour is
    farthest from those before it.
    """
    classes = int(scenes.labels.max()) + 1
    area = np.stack([np.bincount(x.ravel(), minlength=classes) for x in scenes.labels])
    share = area / area.sum(1, keepdims=True)
    cover = share @ (area > 0).T
    np.fill_diagonal(cover, -1)
    mean = scenes.images.reshape(len(area), -1, 3).mean(1)
    chosen = []
    for row in cover:
        # If too few scenes are suitable, the best of the others are taken.
        fit = np.flatnonzero(row >= min(COVER, np.sort(row)[-EXEMPLARS]))
        picked = [int(fit[np.argmax(row[fit])])]
        while len(picked) < EXEMPLARS:
            gap = np.linalg.norm(mean[fit, None] - mean[None, picked], axis=-1).min(1)
            picked.append(int(fit[np.argmax(gap)]))
        chosen.append(picked)
    return np.array(chosen)


class Results(NamedTuple):
    """Translations (n, EXEMPLARS, H, W, 3) in bytes, their warp accuracy and that of chance."""

    images: UInt8[np.ndarray, "n exemplars height width 3"]
    accuracy: float
    chance: float


def translate(
    translator: Translator, scenes: Scenes, chosen: np.ndarray, *, give_mask: bool
) -> Results:
    """Translates every scene with each of its exemplars, with the exemplar's mask or with noise."""
    images, counts = [], []
    for column in chosen.T:
        rows = []
        for start in range(0, len(column), 16):
            inputs = slice(start, start + 16)
            label, exemplar_label = scenes.labels[inputs], scenes.labels[column[inputs]]
            outputs = translator.translate(
                label[..., None],
                scenes.images[column[inputs]],
                exemplar_label[..., None],
                give_mask=give_mask,
                with_mask=True,
            )
            counted = warp_accuracy.count(
                jnp.asarray(outputs.warped_mask),
                jnp.asarray(label),
                jnp.asarray(exemplar_label),
                jnp.ones(len(label), bool),
            )
            counts.append(jax.device_get(counted))
            rows.append(pictures.to_bytes(np.asarray(outputs.image)))
        images.append(np.concatenate(rows))
    found = warp_accuracy.WarpAccuracy().result(validation.summed(counts))
    accuracy, chance = found["warp_accuracy"], found["warp_accuracy_by_chance"]
    return Results(np.stack(images, 1), accuracy, chance)


def colour_distances(
    scenes: Scenes, chosen: np.ndarray, images: UInt8[np.ndarray, "n exemplars height width 3"]
) -> dict[str, float]:
    """Distances of results to their own exemplar and to another one of the same scene.

    Per result and other exemplar, over the classes that scene and both exemplars have, each
    weighed by its area in the scene. `nearer_to_own` is the share of comparisons that the own
    exemplar wins.
    """
    colours = [class_colours(*pair) for pair in zip(*scenes, strict=True)]
    own: list[float] = []
    other: list[float] = []
    for i, exemplars in enumerate(chosen):
        label = scenes.labels[i]
        for j, mine in enumerate(exemplars):
            drawn = class_colours(images[i, j], label)
            for theirs in exemplars[np.arange(EXEMPLARS) != j]:
                shared = drawn.keys() & colours[mine].keys() & colours[theirs].keys()
                own.append(distance(drawn, colours[mine], label, shared))
                other.append(distance(drawn, colours[theirs], label, shared))
    return {
        "colour_distance_to_own_exemplar": float(np.mean(own)),
        "colour_distance_to_another": float(np.mean(other)),
        "nearer_to_own": float(np.mean(np.array(own) < np.array(other))),
    }


def sheet(
    scenes: Scenes, chosen: np.ndarray, images: UInt8[np.ndarray, "n exemplars height width 3"]
) -> UInt8[np.ndarray, "rows columns 3"]:
    """One row per scene: its input, then exemplar and result, three times."""
    rows = []
    # The scenes with most classes show most.
    richest = np.argsort([-len(np.unique(label)) for label in scenes.labels], kind="stable")[:ROWS]
    for i in richest:
        row = [pictures.show_input(scenes.labels[i][None, ..., None], "labels")[0]]
        for j, exemplar in enumerate(chosen[i]):
            row += [scenes.images[exemplar], images[i, j]]
        rows.append(row)
    return pictures.sheet(rows, ["input", *["exemplar", "result"] * EXEMPLARS])


def report(measured: dict[str, float], scenes: int) -> None:
    """Prints the measured numbers, one in a line."""
    m = measured
    print(
        f"\nmeasured on {scenes} scenes that were not trained on, {EXEMPLARS} exemplars each\n"
        f"  warp finds the right class, mask given       {m['warp_accuracy_with_mask']:.3f}\n"
        f"  the same without it, at the end of training  {m['warp_accuracy_without_mask']:.3f}\n"
        f"  the same by chance                           {m['warp_accuracy_by_chance']:.3f}\n"
        f"  colour distance to its exemplar              "
        f"{m['colour_distance_to_own_exemplar']:.1f}\n"
        f"  colour distance to another exemplar          {m['colour_distance_to_another']:.1f}\n"
        f"  nearer to its own exemplar                   {100 * m['nearer_to_own']:.0f} of 100"
    )


def run() -> None:
    """The command `cocosnet-train-demo`."""
    command.run(main, __doc__)


if __name__ == "__main__":
    run()
