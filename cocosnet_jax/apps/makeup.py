r"""Carries makeup, or any strokes, from one portrait to others (paper section 5).

    python -m cocosnet_jax.apps.makeup --checkpoint=runs/faces --portrait=face.jpg \
        --strokes=strokes.png --portraits=faces --labels=masks --output=made_up

`--strokes` is a picture with transparency (RGBA) of the portrait's size, painted on a layer of its
own. `--made-up` is the portrait with its makeup instead: the strokes are then what differs between
the two, in the most transparent colours that turn one into the other. So a rouge stays a veil of
red, and does not bring the skin along.

The strokes follow the correspondence to every portrait below `--portraits` (or to one file), and
are blended in that portrait's own size. `--labels` has the label maps of the portraits (the same
names, .png) or poses. It may be left out where the dataset's layout leads from a portrait to its
annotations, and where the label map NAME.png is beside NAME.jpg. The first portrait needs no label
map, unless the networks read the exemplar's (`--portrait-label`).
"""

import sys
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import tqdm
from jaxtyping import Float, UInt8

from cocosnet_jax import checkpoint, command, pictures
from cocosnet_jax.apps import reading
from cocosnet_jax.data import images, inputs, layers, pairing, problems
from cocosnet_jax.errors import UserError
from cocosnet_jax.inference import Translator
from cocosnet_jax.settings import DataSettings

# Differences of a made-up version that are noise, such as JPEG's, in levels of 255.
NOISE = 8
# Layers are carried in at most this many times the networks' resolution.
FINEST = 8


def carry(
    translator: Translator,
    portrait: UInt8[np.ndarray, "rows columns 3"],
    portrait_label: UInt8[np.ndarray, "height width planes"] | None,
    layer: UInt8[np.ndarray, "rows columns 4"],
    target: UInt8[np.ndarray, "target_rows target_columns 3"],
    target_label: UInt8[np.ndarray, "height width planes"],
) -> UInt8[np.ndarray, "target_rows target_columns 3"]:
    """Returns another portrait with the strokes of the first, in its own size.

    Args:
      translator: of S x S pixels.
      portrait: the portrait that the strokes were painted on, of any size.
      portrait_label: its label map at S x S, if the networks take the exemplar's.
      layer: the strokes, RGBA, in the size of `portrait`.
      target: the other portrait, of any size.
      target_label: its label map at S x S.

    Raises:
      UserError: the layer has another size than its portrait.
    """
    check_sizes(portrait, layer, "the layer of strokes")
    sides = max(portrait.shape[:2]), max(target.shape[:2])
    times = min(-(-min(sides) // translator.size), FINEST)
    side = times * translator.size
    # Colours times opacity, so that what is transparent has no colour to mix with.
    opacity = layer[..., 3:].astype(np.float32) / 255
    colours = _resized(np.concatenate([layer[..., :3] * opacity, opacity], -1), (side, side))
    warped = translator.warp(
        target_label[None],
        reading.at_size(portrait, translator),
        None if portrait_label is None else portrait_label[None],
        layer=colours[None],
    )[0]
    carried = _resized(np.asarray(warped), (target.shape[0], target.shape[1]))
    blended = target * (1 - carried[..., 3:]) + carried[..., :3]
    return np.rint(np.clip(blended, 0, 255)).astype(np.uint8)


def difference(
    bare: UInt8[np.ndarray, "rows columns 3"], made_up: UInt8[np.ndarray, "rows columns 3"]
) -> UInt8[np.ndarray, "rows columns 4"]:
    """Returns the RGBA layer that turns a bare portrait into its made-up version.

    Its colours are as transparent as they can be: of the opacities a for which there is a colour c
    in 0 to 255 with bare * (1 - a) + c * a = made_up, a is the smallest. Where the two differ by
    less than `NOISE`, it is transparent.

    Raises:
      UserError: the two have different sizes, or do not differ.
    """
    check_sizes(bare, made_up, "the made-up version")
    change = made_up.astype(np.float32) - bare
    room = np.where(change > 0, 255.0 - bare, bare)  # how far an opaque stroke could go
    opacity = np.max(np.abs(change) / np.maximum(room, 1), -1, keepdims=True)
    opacity[np.abs(change).max(-1) < NOISE] = 0
    if not opacity.any():
        raise UserError(
            "the made-up version does not differ from the portrait; name the one with makeup"
        )
    opacity = np.ceil(opacity * 255) / 255  # A smaller one would need a colour beyond 255.
    colour = bare + change / np.where(opacity > 0, opacity, 1)
    layer = np.concatenate([np.where(opacity > 0, colour, 0), opacity * 255], -1)
    return np.rint(np.clip(layer, 0, 255)).astype(np.uint8)


def check_sizes(
    portrait: UInt8[np.ndarray, "rows columns 3"],
    other: UInt8[np.ndarray, "other_rows other_columns channels"],
    name: str,
) -> None:
    """Raises a `UserError` if `other`, which the message calls `name`, has another size."""
    if portrait.shape[:2] != other.shape[:2]:
        (rows, columns), (height, width) = portrait.shape[:2], other.shape[:2]
        raise UserError(
            f"{name} has {width}x{height} pixels (width x height), but its portrait has"
            f" {columns}x{rows}; save it in the portrait's size"
        )


def _resized(
    layer: Float[np.ndarray, "rows columns 4"], size: tuple[int, int]
) -> Float[np.ndarray, "new_rows new_columns 4"]:
    """Averages where the layer becomes smaller, and interpolates where it becomes larger."""
    if layer.shape[:2] == size:
        return layer
    smaller = size[0] * size[1] < layer.shape[0] * layer.shape[1]
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(layer, size[::-1], interpolation=how))


class Target(NamedTuple):
    """The files of a portrait that gets the strokes: itself, its label map, and the result."""

    photograph: Path
    label: Path
    output: Path


def find_targets(
    data: DataSettings, portraits: Path, labels: Path | None, output: Path
) -> list[Target]:
    """The portraits below a folder, or one, with their label maps.

    Args:
      data: the model's data settings.
      portraits: the folder, or one portrait.
      labels: the folder of label maps, or the portrait's; None to find them by the layout.
      output: the folder to write; for one portrait, it may be a PNG file.

    Raises:
      UserError: there is no portrait, or a label map is not found.
    """
    if not portraits.exists():
        raise UserError(f"--portraits={portraits} does not exist; name a folder of portraits")
    if not portraits.is_dir():
        label = labels or _label_of(data, portraits)
        if output.suffix.lower() != ".png":
            output = output / f"{portraits.stem}.png"
        return [Target(portraits, label, output)]
    if output.suffix.lower() in images.EXTENSIONS or output.is_file():
        raise UserError(
            f"--output={output} must be a folder, because --portraits={portraits} is one"
        )
    targets = []
    for name in map(Path, pairing.photographs_in(portraits, output)):
        photograph = portraits / name
        if labels is None:
            label = _label_of(data, photograph)
        else:
            label = inputs.annotation_in(data, labels, name, portraits)
        targets.append(Target(photograph, label, (output / name).with_suffix(".png")))
    if not targets:
        raise UserError(f"--portraits={portraits} contains no pictures; name a folder of portraits")
    return targets


def _label_of(data: DataSettings, photograph: Path) -> Path:
    """The file from which the label map of a photograph is read."""
    if inputs.has_annotation(data, photograph):
        return photograph
    folder, name = photograph.parent, Path(photograph.name)
    beside = inputs.annotation_in(data, folder, name, folder)
    if beside != photograph and beside.is_file():
        return beside
    raise UserError(f"{photograph} has no label map beside it; name their folder with --labels")


def check(data: DataSettings, targets: list[Target]) -> None:
    """Reads every file once; raises a `UserError` that lists those that cannot be read."""

    def problem_of(target: Target) -> str | None:
        try:
            images.read_photograph(target.photograph)
            inputs.read_input(data, target.label, photograph=target.photograph)
        except UserError as error:
            return str(error)
        return None

    found = problems.find(problem_of, targets, "portraits", quiet_s=1)
    problems.raise_if_any("--portraits", found)


def read_layer(
    portrait: UInt8[np.ndarray, "rows columns 3"],
) -> UInt8[np.ndarray, "rows columns 4"]:
    """The layer of `--strokes` or `--made-up`.

    Raises:
      UserError: not one of them is given, or it has no strokes or another size.
    """
    if bool(reading.given("strokes")) == bool(reading.given("made-up")):
        raise UserError(
            "name the portrait with its makeup with --made-up, or a transparent picture of the"
            " strokes with --strokes: one of the two"
        )
    if reading.given("made-up"):
        return difference(portrait, images.read_photograph(reading.file("made-up")))
    path = reading.file("strokes")
    layer = layers.read_layer(path)
    check_sizes(portrait, layer, f"--strokes={path}")
    if not layer[..., 3].any():
        raise UserError(f"--strokes={path} is transparent all over; paint strokes in it")
    return layer


def main() -> None:
    """Reads the flags, checks every file, carries the strokes to each portrait."""
    portrait_file = reading.file("portrait", "the portrait that the strokes belong to")
    portraits = reading.file("portraits", "a folder of portraits that get the strokes")
    output = reading.file("output", "a folder to write")
    portrait = images.read_photograph(portrait_file)
    layer = read_layer(portrait)
    translator = reading.open_translator()
    data, size = translator.settings.data, translator.size
    portrait_label = None
    if translator.settings.model.needs_exemplar_label:
        label_file = reading.file("portrait-label")
        if not reading.given("portrait-label"):
            label_file = _label_of(data, portrait_file)
        read = inputs.read_input(data, label_file, size, photograph=portrait_file)
        portrait_label = read.planes
    labels = reading.file("labels") if reading.given("labels") else None
    targets = find_targets(data, portraits, labels, output)
    check(data, targets)
    own = [reading.file(name) for name in ("strokes", "made-up") if reading.given(name)]
    inputs_read = [portrait_file, *own, *(path for target in targets for path in target[:2])]
    reading.check_outputs([target.output for target in targets], inputs_read)
    print(f"compiling for {translator.size} x {translator.size} ...", flush=True)
    unreached = []
    for target in tqdm.tqdm(targets, desc="carrying", unit=" portraits", file=sys.stdout):
        label = inputs.read_input(data, target.label, size, photograph=target.photograph).planes
        photograph = images.read_photograph(target.photograph)
        result = carry(translator, portrait, portrait_label, layer, photograph, label)
        pictures.write_png(checkpoint.absolute(target.output), result)
        if np.abs(result.astype(int) - photograph).max() < NOISE:
            unreached.append(target.photograph.name)
    print(f"{len(targets)} portrait(s) in {output}")
    if unreached:
        names = ", ".join(unreached[:5]) + (" ..." if len(unreached) > 5 else "")
        print(
            f"note: the strokes cannot be seen in {len(unreached)} of them ({names}): none of their"
            " places match those that were painted"
        )


def run() -> None:
    """The command `cocosnet-makeup`."""
    reading.define_flags(
        portrait="the portrait that the strokes belong to",
        portrait_label="its label map, if the networks read the exemplar's",
        strokes="the layer of strokes: a picture with transparency, in the portrait's size",
        made_up="the portrait with its makeup, instead of --strokes",
        portraits="portraits that get the strokes: a folder, or one file",
        labels="their label maps or poses: a folder, or one file",
        output="folder to write",
    )
    command.run(main, __doc__)


if __name__ == "__main__":
    run()
