"""Pairs the files of a translation, checks them, and reads them.

`find_pairs` pairs inputs with exemplars, `check` reads every file once, and `read` reads a pair as
arrays for the networks. Messages name the flags of the translating commands (`--input`,
`--exemplar`, ...). This module needs neither TensorFlow nor JAX.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from cocosnet_jax.data import exemplars, images, inputs, problems
from cocosnet_jax.data.labels import pose_canvas
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import POSE_DATASETS, DataSettings


class Pair(NamedTuple):
    """The files of one translation; those that the model does not use are None."""

    label: Path
    exemplar: Path | None
    exemplar_label: Path | None
    output: Path


def find_pairs(
    places: Pair, list_file: str, data: DataSettings, *, needs_label: bool
) -> list[Pair]:
    """Pairs inputs with exemplars.

    Args:
      places: the user's files or folders. With a list, `exemplar` is a folder of photographs, and
        `exemplar_label` a folder of their label maps (same names, .png) or poses.
      list_file: exemplar list, or empty.
      data: the model's data settings, which determine the kind of input.
      needs_label: whether the model takes the exemplar's label map.

    Raises:
      UserError: a file is missing, or the arguments contradict each other.
    """
    labels, exemplar, exemplar_label, output = places
    if not labels.exists():
        raise UserError(f"--input={labels} does not exist; name a file or a folder of inputs")
    if not labels.is_dir():
        if list_file:
            raise UserError(
                f"--list needs a folder of inputs, but --input={labels} is a file; leave --list"
                " out, or name a folder"
            )
        if output.is_dir():
            output = output / f"{labels.stem}.png"
        if output.suffix.lower() != ".png":
            raise UserError(f"--output={output} must end in .png, or be a folder that exists")
        label = _exemplar_label(exemplar, exemplar_label, data, needs_label)
        return [Pair(labels, exemplar, label, output)]
    names = _inputs_in(labels, data)
    if not names:
        raise UserError(f"--input={labels} contains no inputs for a model of {data.dataset}")
    if output.suffix.lower() in images.EXTENSIONS or output.is_file():
        raise UserError(f"--output={output} must be a folder, because --input={labels} is one")
    if list_file:
        return _listed_pairs(places, names, list_file, data, needs_label)
    if exemplar is not None and exemplar.is_dir():
        raise UserError(
            f"--exemplar={exemplar} is a folder; name one photograph for all inputs, or give each"
            " input its exemplar with --list"
        )
    label = _exemplar_label(exemplar, exemplar_label, data, needs_label)
    return [
        Pair(labels / name, exemplar, label, (output / name).with_suffix(".png")) for name in names
    ]


def _listed_pairs(
    places: Pair, names: list[str], list_file: str, data: DataSettings, needs_label: bool
) -> list[Pair]:
    """The pairs of an exemplar list, for inputs with these names."""
    labels, exemplar, exemplar_label, output = places
    if exemplar is None or not exemplar.is_dir():
        raise UserError(f"--exemplar={exemplar} must be a folder, because --list is given")
    if exemplar_label is not None and not exemplar_label.is_dir():
        raise UserError(
            f"--exemplar-label={exemplar_label} must be a folder, because --list is given"
        )
    photographs = [
        name for name in files_below(exemplar) if name.lower().endswith(images.EXTENSIONS)
    ]
    # A .png beside a photograph of the same name is its label map.
    others = {str(Path(name).with_suffix("")) for name in photographs if not name.endswith(".png")}
    photographs = [
        name
        for name in photographs
        if not name.endswith(".png") or str(Path(name).with_suffix("")) not in others
    ]
    keys = [inputs.list_name(data, name) for name in names]
    pairing = exemplars.resolve(
        list_file, keys, photographs, first_only=True, place=f"--exemplar={exemplar}"
    )
    exemplars.require_match(list_file, pairing, names, "inputs")
    if note := exemplars.left_out_note(list_file, pairing, names, "inputs"):
        print(note)
    pairs = []
    for index, (reference, *_) in pairing.references.items():
        photograph = Path(photographs[reference])
        given = inputs.annotation_in(data, exemplar_label, photograph) if exemplar_label else None
        label = _exemplar_label(exemplar / photograph, given, data, needs_label)
        target = (output / names[index]).with_suffix(".png")
        pairs.append(Pair(labels / names[index], exemplar / photograph, label, target))
    return pairs


def _exemplar_label(
    photograph: Path | None, given: Path | None, data: DataSettings, needs_label: bool
) -> Path | None:
    """The file of an exemplar's map: the given one, or the photograph if its layout leads to it."""
    if photograph is None or given is not None or not needs_label:
        return given
    if inputs.has_annotation(data, photograph):
        return photograph
    raise UserError(
        "--exemplar-label is missing; this checkpoint needs the exemplar's label map"
        " (model.mask_input). Runs of configs/ade20k.py and configs/ade20k.py:noise do not"
    )


def _inputs_in(folder: Path, data: DataSettings) -> list[str]:
    """The inputs below a folder, without the pose files of photographs that are inputs."""
    names = [name for name in files_below(folder) if inputs.is_input(data, folder / name)]
    paths = {(folder / name).absolute() for name in names}
    return [name for name in names if inputs.photograph_of(data, folder / name) not in paths]


def files_below(folder: Path) -> list[str]:
    """All files below a folder, as relative paths in alphabetical order."""
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def check(
    pairs: list[Pair], data: DataSettings, *, warped: bool = False, pose_size: str = ""
) -> None:
    """Reads every file once, and checks that no output replaces an input.

    Args:
      pairs: the translations.
      data: the model's data settings.
      warped: whether warped exemplars are written as well.
      pose_size: `--pose-size`, for the inputs.

    Raises:
      UserError: lists files that cannot be read or would be overwritten; or poses seem to have been
        detected in pictures smaller than their photographs.
    """
    wrong = _overwritten(pairs, data, warped)
    photographs = sorted({pair.exemplar for pair in pairs if pair.exemplar})
    maps = {
        (pair.exemplar_label, pair.exemplar)
        for pair in pairs
        if pair.exemplar_label and pair.exemplar
    }
    reaches: list[pose_canvas.Reach | None] = []
    exemplar_reaches: list[pose_canvas.Reach | None] = []

    def read_own(path: Path) -> None:
        reaches.append(inputs.read_input(data, path, pose_size=pose_size).reach)

    def read_map_of(path: Path, exemplar: Path) -> None:
        exemplar_reaches.append(inputs.read_input(data, path, photograph=exemplar).reach)

    reads: list[Callable[[], Any]]
    reads = [partial(read_own, path) for path in sorted({pair.label for pair in pairs})]
    # Label maps are also read alone; poses always need their photograph.
    alone = {path for path, _ in maps} if data.dataset not in POSE_DATASETS else set()
    reads += [partial(inputs.read_input, data, path) for path in sorted(alone)]
    reads += [partial(images.read_photograph, path) for path in photographs]
    reads += [partial(read_map_of, path, exemplar) for path, exemplar in sorted(maps)]
    for read in reads:
        try:
            read()
        except UserError as error:
            if str(error) not in wrong:
                wrong.append(str(error))
    problems.raise_if_any("the translation", wrong)
    pose_canvas.check_reach([reach for reach in reaches if reach], "--pose-size")
    corner = next((reach for reach in exemplar_reaches if reach and reach.in_corner), None)
    if corner is not None:
        print(
            f"note: all joints of an exemplar are in one corner of it ({corner.text}). If its pose"
            " was detected in a smaller picture, detect it in the file of --exemplar instead"
        )
    computed = [pair.label for pair in pairs if inputs.computes_edges(data, pair.label)]
    if computed:
        print(
            f"note: {computed[0]}{' and others' if computed[1:] else ''}: a photograph in a folder"
            " images without a folder edges beside it; its edges are detected by Canny"
        )


def _overwritten(pairs: list[Pair], data: DataSettings, warped: bool) -> list[str]:
    """Problems of outputs that would replace an input or another output."""
    given = {path for pair in pairs for path in pair[:-1] if path is not None}
    # The size of a pose's canvas may come from its photograph.
    given |= {path for pair in pairs if (path := inputs.photograph_of(data, pair.label))}
    read = {path.resolve() for path in given}
    folders = {inputs.annotations_of(data, pair.label) for pair in pairs}
    annotations = [folder.resolve() for folder in folders if folder is not None]
    inputs_of: dict[Path, Path] = {}
    wrong = []
    for pair in pairs:
        for path in (pair.output, *([warped_file(pair.output)] if warped else [])):
            full = path.expanduser().resolve()
            if full in read or any(full.is_relative_to(folder) for folder in annotations):
                wrong.append(
                    f"--output: {path} would replace an input file; choose another --output"
                )
            elif full in inputs_of:
                wrong.append(
                    f"{inputs_of[full]} and {pair.label} would both be written to {path}; rename"
                    " one of them"
                )
            inputs_of.setdefault(full, pair.label)
    return wrong


def warped_file(output: Path) -> Path:
    """The file of the warped exemplar that belongs to an output."""
    return output.with_name(f"{output.stem}_warped.png")


class Planes(NamedTuple):
    """A pair as arrays: a batch of one, at the size S of the translation.

    Attributes:
      label: (1, S, S, p), as in `Batch.label`.
      exemplar: (1, S, S, 3), or None.
      exemplar_label: (1, S, S, p), or None.
      original_size: (height, width) of the input's file.
    """

    label: UInt8[np.ndarray, "1 height width planes"]
    exemplar: UInt8[np.ndarray, "1 height width 3"] | None
    exemplar_label: UInt8[np.ndarray, "1 height width planes"] | None
    original_size: tuple[int, int]


def read(pair: Pair, data: DataSettings, size: int, *, pose_size: str = "") -> Planes:
    """Reads the files of a pair.

    Args:
      pair: the files, which `check` has read before.
      data: the model's data settings.
      size: S.
      pose_size: `--pose-size`, for the inputs.

    Raises:
      UserError: a file cannot be read.
    """
    exemplar = exemplar_label = None
    if pair.exemplar is not None:
        photograph = images.read_photograph(pair.exemplar)
        exemplar = images.resize_photograph(photograph, (size, size))[None]
    given = inputs.read_input(data, pair.label, size, pose_size=pose_size)
    if pair.exemplar_label is not None:
        exemplar_label = inputs.read_input(
            data, pair.exemplar_label, size, photograph=pair.exemplar
        ).planes[None]
    return Planes(given.planes[None], exemplar, exemplar_label, given.size)
