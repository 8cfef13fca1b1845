r"""Edits a photograph by its label map: moves, adds or removes what it shows (paper section 5).

    python -m cocosnet_jax.apps.edit --checkpoint=runs/ade20k --photograph=photo.jpg \
        --label=photo.png --edited=edited.png --output=result.png --paste

`--label` is the photograph's label map, `--edited` a copy of it that you have changed in a painting
program. The photograph is its own exemplar: the result shows the edited content in the photograph's
style and in its size. `--label` may be left out where the dataset's layout leads from the
photograph to its annotations.

With `--paste`, the photograph is pasted back where its labels did not change. Around changed
labels, the edit blends into the photograph over `--seam` pixels; what is farther away is the
photograph, to the byte. Edges and poses are lines: what lies between changed lines counts as
changed, and the seam should be as wide as what a line stands for.
"""

from pathlib import Path

import numpy as np
from absl import flags
from jaxtyping import Bool, UInt8
from scipy import ndimage

from cocosnet_jax import checkpoint, command, pictures
from cocosnet_jax.apps import reading
from cocosnet_jax.data import images, inputs
from cocosnet_jax.errors import UserError
from cocosnet_jax.inference import Translator


def edit(
    translator: Translator,
    photograph: UInt8[np.ndarray, "rows columns 3"],
    label: UInt8[np.ndarray, "height width planes"],
    edited_label: UInt8[np.ndarray, "height width planes"],
    *,
    paste: bool = False,
    seam: int | None = None,
    changed: Bool[np.ndarray, "rows columns"] | None = None,
) -> UInt8[np.ndarray, "rows columns 3"]:
    """Returns the photograph with the content of its edited label map, in its own size.

    Args:
      translator: of S x S pixels.
      photograph: of any size.
      label: its label map at S x S, in the format of `types.Batch`.
      edited_label: the edited label map, likewise.
      paste: paste untouched regions of the photograph back.
      seam: pixels of the photograph over which the edit blends into it; None for `default_seam`.
      changed: where the photograph's labels changed, if that is known at its own size.

    Raises:
      UserError: the label maps do not differ.
    """
    check_edited(label, edited_label)
    size = photograph.shape[0], photograph.shape[1]
    exemplar = reading.at_size(photograph, translator)
    outputs = translator.translate(edited_label[None], exemplar, label[None])
    drawn = pictures.to_bytes(np.asarray(outputs.image[0]))
    result = images.resize_photograph(drawn, size)
    if not paste:
        return result
    if changed is None:
        small = changes(label, edited_label, translator.settings.data.condition)
        changed = images.resize_label(small, size)
    return blend(photograph, result, changed, default_seam(size) if seam is None else seam)


def default_seam(size: tuple[int, int]) -> int:
    """A sixteenth of the photograph's longer side, in pixels."""
    return -(-max(size) // 16)


def check_edited(
    label: UInt8[np.ndarray, "height width planes"],
    edited_label: UInt8[np.ndarray, "height width planes"],
) -> None:
    """Raises a `UserError` if two label maps do not differ."""
    if np.array_equal(label, edited_label):
        height, width, _ = label.shape
        raise UserError(
            "the edited label map equals the photograph's at the"
            f" {width} x {height} pixels that the networks see; change something in it, or"
            " something larger"
        )


def changes(
    label: UInt8[np.ndarray, "height width planes"],
    edited_label: UInt8[np.ndarray, "height width planes"],
    condition: str,
) -> Bool[np.ndarray, "height width"]:
    """Where a label map was edited.

    Args:
      label: of the photograph, in the format of `types.Batch`.
      edited_label: the edited one.
      condition: `data.condition`. In `channels`, what lines show is compared, not the distance
        maps, which change far from a line; places enclosed by changed lines count as changed.
    """
    if condition != "channels":
        return (label != edited_label).any(-1)
    old, new = (pictures.show_input(x[None], condition)[0] for x in (label, edited_label))
    return ndimage.binary_fill_holes((old != new).any(-1))


def blend(
    photograph: UInt8[np.ndarray, "rows columns 3"],
    edited: UInt8[np.ndarray, "rows columns 3"],
    changed: Bool[np.ndarray, "rows columns"],
    seam: int,
) -> UInt8[np.ndarray, "rows columns 3"]:
    """Pastes a photograph over its edited version, except where it changed.

    Args:
      photograph: the original.
      edited: its edited version.
      changed: where the edited version is kept.
      seam: distance in pixels at which the photograph is back, unchanged.
    """
    if not changed.any():
        return photograph.copy()
    distance = ndimage.distance_transform_edt(~changed)
    near = np.clip(1 - distance / max(seam, 1), 0, 1)
    weight = (near * near * (3 - 2 * near))[..., None]  # smooth at both ends
    return np.rint(photograph + weight * (edited.astype(float) - photograph)).astype(np.uint8)


def main() -> None:
    """Reads the flags and files, edits, writes."""
    photograph_file = reading.file("photograph", "the photograph to edit")
    edited_file = reading.file("edited", "the edited label map")
    output = reading.file("output", "the picture to write")
    if output.suffix.lower() != ".png":
        raise UserError(f"--output={output} must end in .png")
    seam = flags.FLAGS["seam"].value
    translator = reading.open_translator()
    data = translator.settings.data
    label_file = reading.file("label")
    if not reading.given("label"):
        if not inputs.has_annotation(data, photograph_file):
            raise UserError("--label is missing; name the photograph's label map")
        label_file = photograph_file
    photograph = images.read_photograph(photograph_file)
    size = photograph.shape[0], photograph.shape[1]

    def read(path: Path, side: int | tuple[int, int]) -> inputs.Input:
        return inputs.read_input(data, path, side, photograph=photograph_file)

    label, edited = (read(path, translator.size) for path in (label_file, edited_file))
    if label.size != edited.size:
        raise UserError(
            f"--edited={edited_file} has {edited.size[1]}x{edited.size[0]} pixels (width x height),"
            f" but --label={label_file} has {label.size[1]}x{label.size[0]}; save the edited map"
            " in the size of the original"
        )
    check_edited(label.planes, edited.planes)
    reading.check_outputs([output], [photograph_file, label_file, edited_file])
    paste = bool(flags.FLAGS["paste"].value)
    changed = None
    if paste:
        own, other = (read(path, size).planes for path in (label_file, edited_file))
        changed = changes(own, other, data.condition)
    print(f"compiling for {translator.size} x {translator.size} ...", flush=True)
    result = edit(
        translator,
        photograph,
        label.planes,
        edited.planes,
        paste=paste,
        seam=seam,
        changed=changed,
    )
    pictures.write_png(checkpoint.absolute(output), result)
    print(f"edited picture in {output}")


def run() -> None:
    """The command `cocosnet-edit`."""
    reading.define_flags(
        photograph="the photograph to edit",
        label="its label map, edges or pose",
        edited="the edited label map, edges or pose",
        output="picture to write (.png)",
    )
    flags.DEFINE_bool("paste", False, "paste the photograph back where its labels did not change")
    flags.DEFINE_integer(
        "seam",
        None,
        "pixels of the photograph over which the edit blends into it; by default a sixteenth of"
        " its longer side",
        lower_bound=0,
    )
    command.run(main, __doc__)


if __name__ == "__main__":
    run()
