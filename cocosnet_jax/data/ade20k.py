"""ADE20k scenes: photographs with maps of 150 classes (SPEC section 1).

The dataset is `ADEChallengeData2016` of http://sceneparsing.csail.mit.edu. Accepted layouts, in the
source folder or in its folder `ADEChallengeData2016`:

    images/{training,validation}/*.jpg, annotations/{training,validation}/*.png
    {training,validation}/*.jpg with *.png beside them
"""

import functools
import hashlib
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cocosnet_jax.data import images, problems
from cocosnet_jax.data.records import PairBuilder
from cocosnet_jax.errors import UserError

_FOLDERS = {"train": "training", "validation": "validation"}
_PHOTOGRAPHS = (".jpg", ".jpeg")
_LABELS = (".png",)
_UNMARKED = 255


class _Pair(NamedTuple):
    photograph: Path
    label: Path


class Ade20k(PairBuilder):
    """ADE20k: label 0 is unknown, 1 to 150 are the classes; 255 in a file becomes 150."""

    def split_keys(self) -> Mapping[str, Sequence[str]]:
        """Photographs' paths below the dataset's folder, in alphabetical order."""
        train, validation = (list(self._pairs[split]) for split in _FOLDERS)
        return {"train": train, "validation": validation, "exemplars": train}

    def make_pair(self, split: str, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Image (S, S, 3) and class map (S, S, 1), squeezed to S x S pixels."""
        pair = self._pairs["validation" if split == "validation" else "train"][key]
        image, label = images.read_pair(*pair)
        label[label == _UNMARKED] = self.builder_config.classes - 1
        size = (self.side(split), self.side(split))
        label = images.resize_label(label, size).astype(np.uint8)
        return images.resize_photograph(image, size), label[..., None]

    def fingerprint(self) -> str:
        """Changes with any file's name, size or time; empty where the source is not there."""
        if not os.path.isdir(self.builder_config.source):
            return ""
        digest = hashlib.sha256()
        for pairs in self._pairs.values():
            for path in itertools.chain.from_iterable(pairs.values()):
                seen = path.stat() if path.exists() else None
                size_and_time = (seen.st_size, seen.st_mtime_ns) if seen else None
                digest.update(f"{os.fsencode(path)!r} {size_and_time}\n".encode())
        return digest.hexdigest()

    def check(self) -> None:
        """Reads every file; raises a `UserError` that lists what is wrong with any."""
        found: list[str] = []
        pairs: list[_Pair] = []
        for split, folder in _FOLDERS.items():
            photographs, labels = self._files(split)
            if not photographs and not labels:
                found.append(f"the {folder} folder has no photographs ({', '.join(_PHOTOGRAPHS)})")
            for name in sorted(photographs.keys() - labels.keys()):
                found.append(f"{photographs[name]} has no label map {Path(name).name}.png")
            for name in sorted(labels.keys() - photographs.keys()):
                found.append(f"{labels[name]} has no photograph {Path(name).name}.jpg")
            pairs += self._pairs[split].values()
        check = functools.partial(_check_pair, self.builder_config.classes)
        found += problems.find(check, pairs, "pairs")
        problems.raise_if_any(f"dataset {self.builder_config.source}", found)

    @functools.cached_property
    def _root(self) -> Path:
        source = self.builder_config.source
        if not source:
            raise UserError(
                "config.data.source is empty; set it (or --source) to the folder of ADE20k"
            )
        if not os.path.isdir(source):
            raise UserError(
                f"config.data.source is {source!r}, which is no folder; set it (or --source) to"
                " the folder of ADE20k"
            )
        for root in (Path(source), Path(source) / "ADEChallengeData2016"):
            if (root / "images").is_dir() or any((root / f).is_dir() for f in _FOLDERS.values()):
                return root
        raise UserError(
            f"{source} holds neither images/training and annotations/training nor training with"
            " label maps beside the photographs; set config.data.source (or --source) to the"
            " folder that does"
        )

    def _files(self, split: str) -> tuple[dict[str, Path], dict[str, Path]]:
        """Photographs and label maps of a split, each by path below its folder, less extension."""
        folder = _FOLDERS[split]
        if (self._root / "images").is_dir():
            places = self._root / "images" / folder, self._root / "annotations" / folder
        else:
            places = self._root / folder, self._root / folder
        return _find(places[0], _PHOTOGRAPHS), _find(places[1], _LABELS)

    @functools.cached_property
    def _pairs(self) -> dict[str, dict[str, _Pair]]:
        """For `train` and `validation`, the pairs by key, in order of the keys."""
        found = {}
        for split in _FOLDERS:
            photographs, labels = self._files(split)
            found[split] = {
                photographs[name].relative_to(self._root).as_posix(): _Pair(
                    photographs[name], labels[name]
                )
                for name in sorted(photographs.keys() & labels.keys())
            }
        return found


def _find(folder: Path, extensions: tuple[str, ...]) -> dict[str, Path]:
    found = {}
    for place, _, names in os.walk(folder, followlinks=True):
        for name in names:
            stem, extension = os.path.splitext(name)
            if extension.lower() in extensions:
                path = Path(place, name)
                found[path.parent.relative_to(folder).joinpath(stem).as_posix()] = path
    return found


def _check_pair(classes: int, pair: _Pair) -> str | None:
    """What is wrong with a pair, or None."""
    try:
        _, label = images.read_pair(*pair)
    except UserError as error:
        return str(error)
    if not str(pair.photograph).isprintable():
        return f"{str(pair.photograph)!r} cannot be written as text; rename it"
    values, counts = np.unique(label, return_counts=True)
    outside = [
        f"{value} ({count} pixels)"
        for value, count in zip(values, counts, strict=True)
        if not 0 <= value < classes and value != _UNMARKED
    ]
    if not outside:
        return None
    more = f" and {len(outside) - 5} more" if len(outside) > 5 else ""
    return (
        f"{pair.label} holds the values {', '.join(outside[:5])}{more}; allowed are 0 to"
        f" {classes - 1}, and {_UNMARKED}: correct the map, or config.data.channels"
    )
