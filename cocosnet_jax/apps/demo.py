"""Translates drawn scenes with the model that comes with the program, shows and measures it.

    python -m cocosnet_jax.apps.demo --folder=runs/demo
    python -m cocosnet_jax.apps.demo --checkpoint=runs/colours --scenes=256 --folder=runs/measured

The first is what `make demo` runs, the second measures another model of drawn scenes. It draws
label maps of the validation split, which no training has seen, each with two exemplars: other
layouts of that split, in other styles. It writes into the folder

    demo.png                  input, then exemplar, warped exemplar, result and truth, twice
    demo.json                 the figures that it prints
    input.png, exemplar.png   the first row's, to try `cocosnet_jax.translate` with
    pairs/                    every picture, for `cocosnet_jax.evaluate` (docs/learning.md)

The truth is the input's layout drawn in the exemplar's style. Its figures are

- warp accuracy: share of positions where the warp brings the input's class, among those whose class
  the exemplar has; chance is a warp to random positions;
- PCK@0.1: share of named points (a door, a tree's top, ...) that the correspondence moves to within
  a tenth of the picture's side of the same point in the exemplar; by wide neighbourhoods, as points
  are matched (`matching`), and by those of the warp. Beside them are matchers that look at the
  position, the colour (of the scene in a style of its own) or the class alone, and one that
  compares wide neighbourhoods of both label maps, of which the networks see one;
- colour distance: between mean colours of classes, root of the summed squares of R, G, B, 0 to 255;
- mean absolute error to the truth, 0 to 255.
"""

import json
import os
import sys
import time
from typing import NamedTuple

import jax
import numpy as np
import tqdm
from absl import flags
from etils import epath
from jaxtyping import UInt8
from PIL import Image

from cocosnet_jax import checkpoint, command, files, pictures, workdir
from cocosnet_jax.apps import named_points
from cocosnet_jax.apps.drawn_pairs import EXEMPLARS, Pair, draw_pairs
from cocosnet_jax.data.drawn.scene import Scene
from cocosnet_jax.data.drawn.splits import VALIDATION_SCENES
from cocosnet_jax.data.drawn.things import CLASS_COLOURS, NUM_CLASSES
from cocosnet_jax.errors import UserError
from cocosnet_jax.inference import Translator
from cocosnet_jax.metrics import by_class, warp_accuracy
from cocosnet_jax.metrics.colours import class_colours, distance, mean_absolute_error
from cocosnet_jax.pretrained import CHECKPOINT_FLAG, SHIPPED

_CHECKPOINT = flags.DEFINE_string("checkpoint", "", CHECKPOINT_FLAG)
_FOLDER = flags.DEFINE_string("folder", "runs/demo", "folder to write; made where missing")
_SCENES = flags.DEFINE_integer(
    "scenes",
    16,
    f"scenes to translate and to measure, of {VALIDATION_SCENES}",
    lower_bound=2,
    upper_bound=VALIDATION_SCENES,
)

ROWS = 6  # scenes in the picture
BATCH = 8  # pairs that are translated at once
# Scenes come first in the picture whose exemplars have the classes of this share of their area.
COVER = 0.95


class Result(NamedTuple):
    """A translation.

    Attributes:
      image: the result.
      warped: the warped exemplar.
      place: row and column of the exemplar's position that belongs to each position.
      place_in_warp: the same by the neighbourhoods that the warp compares.
    """

    image: UInt8[np.ndarray, "height width 3"]
    warped: UInt8[np.ndarray, "height width 3"]
    place: np.ndarray
    place_in_warp: np.ndarray


def main() -> None:
    """Draws, translates, measures, prints."""
    began = time.monotonic()
    folder = checkpoint.absolute(_FOLDER.value)
    workdir.check_writable(folder, "folder")
    # It compiles in less time. The user's flags come last, and so take precedence.
    os.environ["XLA_FLAGS"] = (
        f"--xla_backend_optimization_level=1 {os.environ.get('XLA_FLAGS', '')}"
    )
    translator = Translator(_CHECKPOINT.value or SHIPPED)
    known = translator.settings
    if known.data.dataset != "drawn_scenes" or not known.model.needs_exemplar:
        raise UserError(
            f"--checkpoint={_CHECKPOINT.value} is no model that translates label maps of drawn"
            f" scenes by an exemplar, but one of {known.data.dataset}; give one of"
            " configs/drawn.py, or leave the flag out"
        )
    pairs = draw_pairs(_SCENES.value, translator.size)
    results, accuracy = translate(translator, pairs)
    measured = {
        **accuracy,
        **found_points(pairs, results, translator.reading_kernel),
        **differences(pairs, results),
    }
    write_pairs(folder / "pairs", pairs, results)
    rows = choose_rows(pairs)
    pictures.write_png(folder / "demo.png", sheet(pairs, results, rows))
    pictures.write_png(folder / "exemplar.png", pairs[rows[0]].exemplar.image)
    pictures.write_png(folder / "input.png", palette_map(pairs[rows[0]].scene))
    measured["seconds"] = time.monotonic() - began
    files.write(folder / "demo.json", (json.dumps(measured, indent=2) + "\n").encode())
    report(measured, _SCENES.value)
    python = min(sys.executable, os.path.relpath(sys.executable), key=len)
    print(
        f"\nlook at {folder / 'demo.png'}; translate a label map yourself:\n\n"
        f"    {python} -m cocosnet_jax.translate --input={_FOLDER.value}/input.png \\\n"
        f"        --exemplar={_FOLDER.value}/exemplar.png --output={_FOLDER.value}/result.png\n\n"
        "or paint one in a web page:\n\n"
        "    make page"
    )


def translate(translator: Translator, pairs: list[Pair]) -> tuple[list[Result], dict[str, float]]:
    """Returns all translations, and the warp accuracy."""
    results, counts = [], []
    print("compiling ...", flush=True)
    starts = range(0, len(pairs), BATCH)
    for start in tqdm.tqdm(starts, desc="translating", unit=" batches", file=sys.stdout):
        part = pairs[start : start + BATCH]
        # The last batch is filled up, because another size would need another compilation.
        full = [*part, *[part[0]] * (BATCH - len(part))]
        label, exemplar_label = (
            np.stack([getattr(pair, name).label for pair in full])[..., None]
            for name in ("scene", "exemplar")
        )
        exemplar = np.stack([pair.exemplar.image for pair in full])
        outputs = translator.translate(label, exemplar, exemplar_label, with_mask=True)
        places = [
            np.asarray(translator.match(label, exemplar, match_kernel=side).place)
            for side in (0, translator.settings.model.match_kernel)
        ]
        valid = np.arange(BATCH) < len(part)
        counted = warp_accuracy.count(
            jax.numpy.asarray(outputs.warped_mask),
            jax.numpy.asarray(label[..., 0]),
            jax.numpy.asarray(exemplar_label[..., 0]),
            jax.numpy.asarray(valid),
        )
        counts.append(jax.tree.map(lambda x: np.asarray(x, np.float64), counted))
        image, warped = (
            pictures.to_bytes(np.asarray(x)) for x in (outputs.image, outputs.warped_exemplar)
        )
        results += [Result(*x) for x in zip(image, warped, *places, strict=True)][: len(part)]
    total = jax.tree.map(lambda *x: np.sum(x, 0), *counts)
    found = warp_accuracy.WarpAccuracy().result(total)
    return results, {name: found[name] for name in ("warp_accuracy", "warp_accuracy_by_chance")}


def found_points(pairs: list[Pair], results: list[Result], side: int) -> dict[str, float]:
    """PCK@0.1 of the correspondence and of simple matchers, over all points of all pairs.

    `side` is that of the neighbourhoods by which points are matched.
    """
    places, in_warp = (
        np.stack([getattr(result, name) for result in results])
        for name in ("place", "place_in_warp")
    )
    scenes, exemplars = ([getattr(pair, name) for pair in pairs] for name in ("scene", "exemplar"))
    found = named_points.pck(scenes, exemplars, places)
    grid = places.shape[1]
    by_maps = [
        by_class.match_maps(pair.scene.label, pair.exemplar.label, NUM_CLASSES, grid, side)
        for pair in pairs
    ]
    others = {"in_the_warp": in_warp, f"by_{by_class.BOTH_MAPS}": np.stack(by_maps)}
    for name, other in others.items():
        found[f"pck@0.1_{name}"] = named_points.pck(scenes, exemplars, other)["pck@0.1"]
    return found


def differences(pairs: list[Pair], results: list[Result]) -> dict[str, float]:
    """Colour distances and errors, the mean of all pairs."""
    of = {
        name: [
            class_colours(getattr(pair, name).image, getattr(pair, name).label) for pair in pairs
        ]
        for name in ("exemplar", "truth")
    }
    rows: list[dict[str, float]] = []
    for i, (pair, result) in enumerate(zip(pairs, results, strict=True)):
        label = pair.scene.label
        drawn, warped = (class_colours(x, label) for x in (result.image, result.warped))
        own, truth = of["exemplar"][i], of["truth"][i]
        # The next exemplar of the same scene.
        other = of["exemplar"][i - i % EXEMPLARS + (i + 1) % EXEMPLARS]
        true = pair.truth.image

        all_three = drawn.keys() & own.keys() & other.keys()
        to_own, to_other = (distance(drawn, x, label, all_three) for x in (own, other))
        shared = drawn.keys() & own.keys()
        rows.append(
            {
                "colour_distance_to_exemplar": distance(drawn, own, label, shared),
                "colour_distance_of_truth_to_exemplar": distance(truth, own, label, shared),
                "colour_distance_of_warped_exemplar": distance(warped, own, label, shared),
                "colour_distance_to_truth": distance(drawn, truth, label, shared),
                "colour_distance_to_another_exemplar": to_other,
                "nearer_to_own_exemplar": float(to_own < to_other),
                "error_to_truth": mean_absolute_error(result.image, true),
                "error_to_truth_of_warped_exemplar": mean_absolute_error(result.warped, true),
                "error_to_truth_of_exemplar": mean_absolute_error(pair.exemplar.image, true),
            }
        )
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def palette_map(scene: Scene) -> Image.Image:
    """The scene's label map, shown in the classes' colours."""
    label = Image.fromarray(scene.label)
    label.putpalette(CLASS_COLOURS.tobytes())
    return label


def write_pairs(folder: epath.Path, pairs: list[Pair], results: list[Result]) -> None:
    """Writes all pictures into a folder per kind, instead of an earlier run's."""
    for earlier in folder.glob("*/[0-9][0-9][0-9].png"):
        earlier.unlink()
    for number, (pair, result) in enumerate(zip(pairs, results, strict=True)):
        shown: dict[str, np.ndarray | Image.Image] = {
            "results": result.image,
            "warped": result.warped,
            "truths": pair.truth.image,
            "labels": palette_map(pair.scene),
            "exemplars": pair.exemplar.image,
            "exemplar_labels": palette_map(pair.exemplar),
        }
        for kind, picture in shown.items():
            pictures.write_png(folder / kind / f"{number:03}.png", picture)


def choose_rows(pairs: list[Pair]) -> list[int]:
    """The first pairs of the `ROWS` scenes that show most.

    Scenes whose exemplars both have the classes of nearly all of their area come first, and among
    those the ones with most classes.
    """

    def key(start: int) -> tuple[bool, int]:
        area = np.bincount(pairs[start].scene.label.ravel(), minlength=NUM_CLASSES)
        there = [
            np.bincount(pair.exemplar.label.ravel(), minlength=NUM_CLASSES) > 0
            for pair in pairs[start : start + EXEMPLARS]
        ]
        cover = area[np.all(there, 0)].sum() / area.sum()
        return cover < COVER, -int(np.sum(area > 0))

    return sorted(range(0, len(pairs), EXEMPLARS), key=key)[:ROWS]


def sheet(
    pairs: list[Pair], results: list[Result], rows: list[int]
) -> UInt8[np.ndarray, "rows columns 3"]:
    """One row per scene: its input, then four pictures per exemplar."""
    shown = []
    for start in rows:
        row = [CLASS_COLOURS[pairs[start].scene.label]]
        for pair, result in zip(
            pairs[start : start + EXEMPLARS], results[start : start + EXEMPLARS], strict=True
        ):
            row += [pair.exemplar.image, result.warped, result.image, pair.truth.image]
        shown.append(row)
    return pictures.sheet(
        shown, ["input", *["exemplar", "warped exemplar", "result", "truth"] * EXEMPLARS]
    )


def report(measured: dict[str, float], scenes: int) -> None:
    """Prints the measured numbers, one in a line."""
    m = measured
    print(
        f"\nmeasured on {scenes} scenes that were not trained on, {EXEMPLARS} exemplars each,"
        f" in {m['seconds']:.0f} s"
    )
    lines: tuple[tuple[str, str, str], ...] = (
        ("warp finds the right class", "warp_accuracy", ".3f"),
        ("  by chance", "warp_accuracy_by_chance", ".3f"),
        ("named points found, PCK@0.1", "pck@0.1", ".3f"),
        ("  by the warp's own neighbourhoods", "pck@0.1_in_the_warp", ".3f"),
        ("  at the same position", "pck@0.1_by_same_position", ".3f"),
        ("  by nearest colour", "pck@0.1_by_nearest_colour", ".3f"),
        ("  by class, place at random", "pck@0.1_by_random_of_same_class", ".3f"),
        ("  by class, nearest place", "pck@0.1_by_nearest_of_same_class", ".3f"),
        ("  by chance", "pck@0.1_by_chance", ".3f"),
        ("  by both label maps, wide neighbourhoods", "pck@0.1_by_both_label_maps", ".3f"),
        ("colour distance to its exemplar (0 to 255)", "colour_distance_to_exemplar", ".1f"),
        ("  of the truth to its exemplar", "colour_distance_of_truth_to_exemplar", ".1f"),
        ("  of the warped exemplar to the exemplar", "colour_distance_of_warped_exemplar", ".1f"),
        ("  to another exemplar", "colour_distance_to_another_exemplar", ".1f"),
        ("  to the truth", "colour_distance_to_truth", ".1f"),
        ("nearer to its own exemplar", "nearer_to_own_exemplar", ".1%"),
        ("error to the truth (0 to 255)", "error_to_truth", ".1f"),
        ("  of the warped exemplar", "error_to_truth_of_warped_exemplar", ".1f"),
        ("  of the exemplar itself", "error_to_truth_of_exemplar", ".1f"),
    )
    for text, name, shape in lines:
        print(f"  {text:<44}{m[name]:{shape}}")


def run() -> None:
    """The command `cocosnet-apps-demo`."""
    command.run(main, __doc__)


if __name__ == "__main__":
    run()
