"""Checks and reads the files of translations.

`check` reads every file once, `Reader` reads a pair as arrays for the networks. Messages name the
flags of `cocosnet_jax.translate`. This module needs neither TensorFlow nor JAX.
"""

import functools
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from cocosnet_jax.data import images, inputs, problems
from cocosnet_jax.data.labels import pose_canvas
from cocosnet_jax.data.pairing import Pair
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import POSE_DATASETS, DataSettings

# Photographs and maps of exemplars that a reader keeps: all inputs have the same few.
_KEPT = 64
_QUIET_S = 1  # Shorter checks show no progress.


class Extra(NamedTuple):
    """What is written beside each result."""

    warped: bool = False
    confidence: bool = False


def files_of(output: Path, extra: Extra) -> dict[str, Path]:
    """The files of one result: `image`, and `warped` and `confidence` if they are written.

    Confidence is always PNG, so that its values are exact.
    """
    found = {"image": output}
    if extra.warped:
        found["warped"] = output.with_name(f"{output.stem}_warped{output.suffix}")
    if extra.confidence:
        found["confidence"] = output.with_name(f"{output.stem}_confidence.png")
    return found


def beside_results(names: Sequence[str]) -> set[str]:
    """What is no result among the pictures below a folder of results; the inverse of `files_of`.

    Also the sheets of a grid: `grid.png`, or `grid_1.png` and so on, above the folders of results.

    Args:
      names: relative paths of all pictures below the folder.
    """
    paths = {Path(name) for name in names}
    stems = {path.with_suffix("") for path in paths}
    found = set()
    for path in paths:
        base, _, kind = path.stem.rpartition("_")
        if not base:
            continue
        if (kind == "warped" and path.with_name(f"{base}{path.suffix}") in paths) or (
            kind == "confidence" and path.suffix == ".png" and path.with_name(base) in stems
        ):
            found.add(path)
    above = {path for path in paths if len(path.parts) == 1}
    if above != paths and all(re.fullmatch(r"grid(_\d+)?", path.stem) for path in above):
        found |= above
    return {path.as_posix() for path in found}


def check(
    pairs: Sequence[Pair],
    data: DataSettings,
    *,
    extra: Extra = Extra(),  # noqa: B008
    sheets: Sequence[Path] = (),
    pose_size: str = "",
) -> None:
    """Reads every file once, and checks that no output replaces an input.

    Args:
      pairs: the translations.
      data: the model's data settings.
      extra: what is written beside the results.
      sheets: further files that are written.
      pose_size: `--pose-size`, for the inputs.

    Raises:
      UserError: lists files that cannot be read or would be overwritten; or poses seem to have been
        detected in pictures smaller than their photographs.
    """
    wrong = _overwritten(pairs, data, extra, sheets)
    photographs = sorted({path for pair in pairs for path in pair.exemplars})
    maps = {
        (label, photograph)
        for pair in pairs
        for label, photograph in zip(pair.exemplar_labels, pair.exemplars, strict=False)
    }
    # By name, because files are read in any order.
    reaches: dict[Path, pose_canvas.Reach | None] = {}
    exemplar_reaches: dict[Path, pose_canvas.Reach | None] = {}

    def read_own(path: Path) -> None:
        reaches[path] = inputs.read_input(data, path, pose_size=pose_size).reach

    def read_map_of(path: Path, exemplar: Path) -> None:
        exemplar_reaches[path] = inputs.read_input(data, path, photograph=exemplar).reach

    reads: list[Callable[[], Any]]
    reads = [partial(read_own, path) for path in sorted({pair.label for pair in pairs})]
    # Label maps are also read alone; poses always need their photograph.
    alone = {path for path, _ in maps} if data.dataset not in POSE_DATASETS else set()
    reads += [partial(inputs.read_input, data, path) for path in sorted(alone)]
    reads += [partial(images.read_photograph, path) for path in photographs]
    reads += [partial(read_map_of, path, exemplar) for path, exemplar in sorted(maps)]

    def problem_of(read: Callable[[], Any]) -> str | None:
        try:
            read()
        except UserError as error:
            return str(error)
        return None

    found = problems.find(problem_of, reads, "files", quiet_s=_QUIET_S)
    # A map may be read twice.
    problems.raise_if_any("the translation", list(dict.fromkeys([*wrong, *found])))
    in_order = [reach for _, reach in sorted(reaches.items()) if reach]
    pose_canvas.check_reach(in_order, "--pose-size")
    of_exemplars = [reach for _, reach in sorted(exemplar_reaches.items()) if reach]
    corner = next((reach for reach in of_exemplars if reach.in_corner), None)
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


def _overwritten(
    pairs: Sequence[Pair], data: DataSettings, extra: Extra, sheets: Sequence[Path]
) -> list[str]:
    """Problems of outputs that would replace an input or another output."""
    given = {path for pair in pairs for path in (pair.label, *pair.exemplars)}
    given |= {path for pair in pairs for path in pair.exemplar_labels}
    # The size of a pose's canvas may come from its photograph.
    given |= {path for pair in pairs if (path := inputs.photograph_of(data, pair.label))}
    read = {path.resolve() for path in given}
    folders = {inputs.annotations_of(data, pair.label) for pair in pairs}
    annotations = [folder.resolve() for folder in folders if folder is not None]
    inputs_of: dict[Path, Path] = {}
    wrong = []
    outputs = [
        (pair.label, path) for pair in pairs for path in files_of(pair.output, extra).values()
    ]
    for label, path in [*outputs, *((path, path) for path in sheets)]:
        full = path.expanduser().resolve()
        if full in read or any(full.is_relative_to(folder) for folder in annotations):
            wrong.append(f"--output: {path} would replace an input file; choose another --output")
        elif full in inputs_of:
            wrong.append(
                f"{inputs_of[full]} and {label} would both be written to {path}; rename one of them"
            )
        inputs_of.setdefault(full, label)
    return wrong


class Planes(NamedTuple):
    """A pair as arrays, at the size S of the translation.

    Attributes:
      label: (S, S, p), as in `Batch.label`.
      exemplar: (r, S, S, 3), the r exemplars, or None without one.
      exemplar_label: (r, S, S, p), or None.
      original_size: (height, width) of the input's file.
    """

    label: UInt8[np.ndarray, "side side planes"]
    exemplar: UInt8[np.ndarray, "r side side 3"] | None
    exemplar_label: UInt8[np.ndarray, "r side side planes"] | None
    original_size: tuple[int, int]


class Reader:
    """Reads pairs at one size; several threads may call it.

    It keeps what it has read of exemplars, so files must not change while it is in use.
    """

    def __init__(self, data: DataSettings, size: int, pose_size: str = ""):
        """Keeps how to read.

        Args:
          data: the model's data settings.
          size: S.
          pose_size: `--pose-size`, for the inputs.
        """
        self._data, self._size, self._pose_size = data, size, pose_size
        self._photograph = functools.lru_cache(_KEPT)(self._read_photograph)
        self._map = functools.lru_cache(_KEPT)(self._read_map)

    def read(self, pair: Pair) -> Planes:
        """Reads the files of a pair.

        Raises:
          UserError: a file cannot be read.
        """
        given = inputs.read_input(self._data, pair.label, self._size, pose_size=self._pose_size)
        photographs = [self._photograph(path) for path in pair.exemplars]
        maps = [
            self._map(*paths) for paths in zip(pair.exemplar_labels, pair.exemplars, strict=False)
        ]
        return Planes(
            given.planes,
            np.stack(photographs) if photographs else None,
            np.stack(maps) if maps else None,
            given.size,
        )

    def _read_photograph(self, path: Path) -> UInt8[np.ndarray, "side side 3"]:
        return images.resize_photograph(images.read_photograph(path), (self._size, self._size))

    def _read_map(self, path: Path, photograph: Path) -> UInt8[np.ndarray, "side side planes"]:
        return inputs.read_input(self._data, path, self._size, photograph=photograph).planes
