"""Files of a translation: which input takes which exemplar, and whether all can be read.

`find_pairs` matches files, `check` reads every one of them once, `read` reads a pair as what the
networks take. The messages name the flags of the commands that translate (`--input`, `--exemplar`,
...). Neither TensorFlow nor JAX is needed here.
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
    """One translation to make, as files; what the model does not take is None."""

    label: Path
    exemplar: Path | None
    exemplar_label: Path | None
    output: Path


def find_pairs(
    labels: Path,
    exemplar: Path | None,
    exemplar_label: Path | None,
    list_file: str,
    output: Path,
    data: DataSettings,
    *,
    needs_label: bool,
) -> list[Pair]:
    """Matches inputs with exemplars.

    Args:
      labels: an input, or a folder of them.
      exemplar: a photograph, or a folder that `list_file` names photographs in; None where the
        model takes none.
      exemplar_label: the same of its label maps, under the photographs' names with .png, or poses.
      list_file: exemplar list, or empty.
      output: where to write.
      data: of the model, which say what an input is.
      needs_label: whether the model takes the exemplar's label map.

    Raises:
      UserError: something is missing or does not fit together.
    """
    if not labels.exists():
        raise UserError(f"--input={labels} does not exist")

    def map_of(photograph: Path | None, given: Path | None) -> Path | None:
        if photograph is None or given is not None or not needs_label:
            return given
        if inputs.stands_for_itself(data, photograph):
            return photograph
        raise UserError(
            "--exemplar-label is missing: this checkpoint matches label maps as well as pictures"
            " (model.mask_input), so it takes the exemplar's label map; a run of"
            " configs/ade20k.py:noise or configs/ade20k.py needs none"
        )

    if not labels.is_dir():
        if list_file:
            raise UserError(f"--list goes with a folder of inputs, and --input={labels} is a file")
        if output.is_dir():
            output = output / f"{labels.stem}.png"
        return [Pair(labels, exemplar, map_of(exemplar, exemplar_label), _as_png(output))]

    names = _inputs_in(labels, data)
    if not names:
        raise UserError(f"--input={labels} holds no inputs for a model of {data.dataset}")
    if output.suffix.lower() in images.EXTENSIONS or output.is_file():
        raise UserError(f"--output={output} must be a folder, because --input={labels} is one")
    if not list_file:
        if exemplar is not None and exemplar.is_dir():
            raise UserError(
                f"--exemplar={exemplar} is a folder: name one photograph for all inputs, or say"
                " with --list which input takes which"
            )
        its_map = map_of(exemplar, exemplar_label)
        return [
            Pair(labels / name, exemplar, its_map, (output / name).with_suffix(".png"))
            for name in names
        ]

    if exemplar is None or not exemplar.is_dir():
        raise UserError(f"--exemplar={exemplar} must be a folder, because --list is given")
    if exemplar_label is not None and not exemplar_label.is_dir():
        raise UserError(f"--exemplar-label={exemplar_label} must be a folder: --list is given")
    photographs = [
        name for name in files_below(exemplar) if name.lower().endswith(images.EXTENSIONS)
    ]
    # A label map that lies beside its photograph is no photograph.
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
    exemplars.require_any(list_file, pairing, names, "inputs")
    if note := exemplars.left_out(list_file, pairing, names, "inputs"):
        print(note)
    pairs = []
    for place, (found, *_) in pairing.references.items():
        photograph = Path(photographs[found])
        given = inputs.annotation_in(data, exemplar_label, photograph) if exemplar_label else None
        label = map_of(exemplar / photograph, given)
        target = (output / names[place]).with_suffix(".png")
        pairs.append(Pair(labels / names[place], exemplar / photograph, label, target))
    return pairs


def _inputs_in(folder: Path, data: DataSettings) -> list[str]:
    """The inputs below a folder; the pose of a photograph that is an input itself is none."""
    names = [name for name in files_below(folder) if inputs.is_input(data, folder / name)]
    every = {(folder / name).absolute() for name in names}
    return [name for name in names if inputs.photograph_of(data, folder / name) not in every]


def _as_png(output: Path) -> Path:
    if output.suffix.lower() != ".png":
        raise UserError(f"--output={output} must end in .png, or be a folder that exists")
    return output


def files_below(folder: Path) -> list[str]:
    """Paths below a folder, relative to it, in alphabetical order."""
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def check(
    pairs: list[Pair], data: DataSettings, *, warped: bool = False, pose_size: str = ""
) -> None:
    """Reads every file once, and looks at where results go.

    Args:
      pairs: what to translate.
      data: of the model.
      warped: whether warped exemplars are written as well.
      pose_size: of the inputs, `--pose-size`.

    Raises:
      UserError: lists what cannot be read, and what would be written over; or poses seem to be of
        smaller pictures than their photographs.
    """
    wrong = _written_over(pairs, data, warped)
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
    # A pose is nothing without its photograph.
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
    problems.raise_if_any("this translation", wrong)
    pose_canvas.check_reach([reach for reach in reaches if reach], "--pose-size")
    corner = next((reach for reach in exemplar_reaches if reach and reach.in_corner), None)
    if corner is not None:
        print(
            f"note: the joints of an exemplar lie in a corner of it ({corner.text}): if its pose"
            " was detected in a smaller picture, detect it in --exemplar itself"
        )
    found = [pair.label for pair in pairs if inputs.finds_edges(data, pair.label)]
    if found:
        print(
            f"note: {found[0]}{' and others' if found[1:] else ''} in a folder images, without"
            " edges beside it: taken for photographs, in which edges are found"
        )


def _written_over(pairs: list[Pair], data: DataSettings, warped: bool) -> list[str]:
    """Files that a result would replace: what is read, or another result."""
    given = {path for pair in pairs for path in pair[:-1] if path is not None}
    # A pose is drawn in its photograph's size.
    given |= {path for pair in pairs if (path := inputs.photograph_of(data, pair.label))}
    read = {path.resolve() for path in given}
    found = {inputs.annotations_of(data, pair.label) for pair in pairs}
    annotations = [folder.resolve() for folder in found if folder is not None]
    inputs_of: dict[Path, Path] = {}
    wrong = []
    for pair in pairs:
        for path in (pair.output, *([warped_file(pair.output)] if warped else [])):
            full = path.expanduser().resolve()
            if full in read or any(full.is_relative_to(folder) for folder in annotations):
                wrong.append(f"--output: {path} would replace a file that is read")
            elif full in inputs_of:
                wrong.append(
                    f"{inputs_of[full]} and {pair.label} would both become {path}; rename one"
                )
            inputs_of.setdefault(full, pair.label)
    return wrong


def warped_file(output: Path) -> Path:
    """Where the warped exemplar of a result goes."""
    return output.with_name(f"{output.stem}_warped.png")


class Planes(NamedTuple):
    """A pair of files as a batch of one, at the size S that is drawn.

    Attributes:
      label: (1, S, S, p), as in `Batch.label`.
      exemplar: (1, S, S, 3), or None.
      exemplar_label: (1, S, S, p), or None.
      original_size: (height, width) of the input itself.
    """

    label: UInt8[np.ndarray, "1 height width planes"]
    exemplar: UInt8[np.ndarray, "1 height width 3"] | None
    exemplar_label: UInt8[np.ndarray, "1 height width planes"] | None
    original_size: tuple[int, int]


def read(pair: Pair, data: DataSettings, size: int, *, pose_size: str = "") -> Planes:
    """Reads the files of a pair.

    Args:
      pair: which `check` has found readable.
      data: of the model.
      size: S.
      pose_size: of the inputs, `--pose-size`.

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
