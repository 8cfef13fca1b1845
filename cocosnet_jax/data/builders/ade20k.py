"""ADE20k scenes: photographs with maps of 150 classes (SPEC section 1).

The dataset is `ADEChallengeData2016` of http://sceneparsing.csail.mit.edu. Accepted layouts, in the
source folder or in its subfolder `ADEChallengeData2016`:

    images/{training,validation}/*.jpg, annotations/{training,validation}/*.png
    {training,validation}/*.jpg with *.png beside them

ADE20k-outdoor contains the photographs of the outdoor scene categories in the dataset's own
`sceneCategories.txt`, in the same folder. A category is outdoors if, in the label maps of all its
photographs together, outdoor classes (`_OUTDOORS`) cover more pixels than floors, walls and
ceilings (`_INDOORS`).
"""

import collections
import concurrent.futures
import functools
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tqdm

from cocosnet_jax.data import downloads, exemplars, images, problems
from cocosnet_jax.data.labels.survey import Survey
from cocosnet_jax.data.maps import VOID_VALUES
from cocosnet_jax.data.pair_builder import ImagePair, PairBuilder
from cocosnet_jax.data.source_files import files_below
from cocosnet_jax.errors import UserError

_FOLDERS = {"train": "training", "validation": "validation"}
_PHOTOGRAPHS = (".jpg", ".jpeg")
_LABELS = (".png",)
_VOID = VOID_VALUES["ade20k"]
# Sky, tree, road, grass, pavement, earth, mountain, water, sea, field.
_OUTDOORS = (3, 5, 7, 10, 12, 14, 17, 22, 27, 30)
# Wall, floor, ceiling.
_INDOORS = (1, 4, 6)
_SCENES = "sceneCategories.txt"


class _Pair(NamedTuple):
    photograph: Path
    label: Path


class Ade20k(PairBuilder):
    """ADE20k: label 0 is unknown, 1 to 150 are the classes; 255 in a file becomes 150."""

    def split_keys(self) -> Mapping[str, Sequence[str]]:
        """Photographs' paths below the dataset's folder, in alphabetical order."""
        train, validation = (list(self._pairs[split]) for split in _FOLDERS)
        return {"train": train, "validation": validation, "exemplars": train}

    def make_pair(self, split: str, key: str) -> ImagePair:
        """Image (S, S, 3) and class map (S, S, 1), resized to a square."""
        pair = self._pairs["validation" if split == "validation" else "train"][key]
        image, label = images.read_pair(*pair)
        label[label == _VOID] = self.builder_config.classes - 1
        size = (self.side(split), self.side(split))
        label = images.resize_label(label, size).astype(np.uint8)
        return images.resize_photograph(image, size), label[..., None]

    def own_files(self) -> Sequence[Path]:
        """Photographs and label maps; empty if the source folder does not exist."""
        if not os.path.isdir(self.builder_config.source):
            return ()
        pairs = [pair for by_key in self._pairs.values() for pair in by_key.values()]
        return list(itertools.chain.from_iterable(pairs))

    def check(self) -> None:
        """Reads every file; raises a `UserError` that lists all problems."""
        faults: list[str] = []
        pairs: list[_Pair] = []
        for split, folder in _FOLDERS.items():
            photographs, labels = self._files(split)
            if not photographs and not labels:
                faults.append(
                    f"the folder {folder} contains no photographs ({', '.join(_PHOTOGRAPHS)})"
                )
            for name in sorted(photographs.keys() - labels.keys()):
                faults.append(f"{photographs[name]} has no label map {Path(name).name}.png")
            for name in sorted(labels.keys() - photographs.keys()):
                faults.append(f"{labels[name]} has no photograph {Path(name).name}.jpg")
            if faults and (message := downloads.wrong_download(self.root)):
                raise UserError(message)
            faults += filter(None, map(exemplars.problem_of_name, self._pairs[split]))
            pairs += self._pairs[split].values()
        survey = Survey()
        check = functools.partial(_check_pair, self.builder_config.classes, survey)
        faults += problems.find(check, pairs, "pairs")
        if conflict := survey.conflict():
            faults.append(f"{conflict}; save class numbers as 8-bit grey PNG")
        problems.raise_if_any(f"dataset {self.builder_config.source}", faults)

    @functools.cached_property
    def root(self) -> Path:
        """The folder that contains `training` and `validation`."""
        source = self.builder_config.source
        if not source:
            raise UserError(
                "config.data.source is empty; set it (or --source) to the folder of ADE20k"
            )
        if not os.path.isdir(source):
            raise UserError(
                f"config.data.source is {source!r}, which is not a folder; set it (or --source) to"
                " the folder of ADE20k"
            )
        for root in (Path(source), Path(source) / "ADEChallengeData2016"):
            if (root / "images").is_dir() or any((root / f).is_dir() for f in _FOLDERS.values()):
                return root
        raise UserError(
            downloads.wrong_download(Path(source))
            or f"{source} contains neither images/training and annotations/training nor training"
            " with label maps beside the photographs; set config.data.source (or --source) to the"
            " folder that does"
        )

    def _files(self, split: str) -> tuple[dict[str, Path], dict[str, Path]]:
        """Photographs and label maps of a split, by relative path without extension."""
        folder = _FOLDERS[split]
        if (self.root / "images").is_dir():
            places = self.root / "images" / folder, self.root / "annotations" / folder
        else:
            places = self.root / folder, self.root / folder
        return _find(places[0], _PHOTOGRAPHS), _find(places[1], _LABELS)

    @functools.cached_property
    def _pairs(self) -> dict[str, dict[str, _Pair]]:
        """The pairs of `train` and `validation` by key, in order of the keys."""
        pairs = {}
        for split in _FOLDERS:
            photographs, labels = self._files(split)
            pairs[split] = {
                photographs[name].relative_to(self.root).as_posix(): _Pair(
                    photographs[name], labels[name]
                )
                for name in sorted(photographs.keys() & labels.keys())
            }
        return pairs


class Ade20kOutdoor(Ade20k):
    """ADE20k's outdoor scene categories; labels as in ADE20k."""

    def split_keys(self) -> Mapping[str, Sequence[str]]:
        """The keys of ADE20k in outdoor scene categories."""
        outdoors = self._outdoor_categories
        kept = {
            split: [key for key in keys if self._categories.get(Path(key).stem) in outdoors]
            for split, keys in super().split_keys().items()
        }
        empty = [split for split, keys in kept.items() if not keys]
        if empty:
            raise UserError(
                f"the split {empty[0]} has no photograph of the {len(outdoors)} outdoor categories"
                f" ({', '.join(sorted(outdoors)[:5])}) in {self.root / _SCENES}; use ADE20k's own"
                " file, which lists each photograph's category"
            )
        return kept

    def own_files(self) -> Sequence[Path]:
        """ADE20k's files, and the scene categories."""
        paths = super().own_files()
        return [*paths, self.root / _SCENES] if paths else ()

    def check(self) -> None:
        """Checks as ADE20k does, and that every photograph has a scene category."""
        super().check()
        missing = [
            f"{key} has no line in {_SCENES}; add 'NAME category'"
            for split in _FOLDERS
            for key in self._pairs[split]
            if Path(key).stem not in self._categories
        ]
        problems.raise_if_any(f"dataset {self.builder_config.source}", missing)

    @functools.cached_property
    def _categories(self) -> dict[str, str]:
        """Scene categories by photograph name without extension."""
        path = self.root / _SCENES
        try:
            rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"{path} cannot be read ({error}); copy it from ADEChallengeData2016: it lists the"
                " scene category of each photograph"
            ) from None
        wrong = [
            f"line {number} must be 'NAME category'"
            for number, row in enumerate(rows, 1)
            if row and len(row) != 2
        ]
        problems.raise_if_any(str(path), wrong)
        return {row[0]: row[1] for row in rows if row}

    @functools.cached_property
    def _outdoor_categories(self) -> set[str]:
        pairs = [pair for pairs in self._pairs.values() for pair in pairs.values()]
        balance: collections.Counter[str] = collections.Counter()
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            counts = pool.map(_outdoor_pixels, [pair.label for pair in pairs])
            progress = tqdm.tqdm(counts, total=len(pairs), desc="outdoors?", unit=" maps")
            for pair, count in zip(pairs, progress, strict=True):
                balance[self._categories.get(pair.photograph.stem, "")] += count
        return {category for category, count in balance.items() if count > 0 and category}


def _outdoor_pixels(label: Path) -> int:
    """The number of outdoor pixels of a label map minus that of indoor pixels."""
    counts = np.bincount(images.read_label_map(label).ravel(), minlength=max(_OUTDOORS) + 1)
    return int(counts[list(_OUTDOORS)].sum() - counts[list(_INDOORS)].sum())


def _find(folder: Path, extensions: tuple[str, ...]) -> dict[str, Path]:
    paths = [Path(name) for name, _ in files_below(folder)] if folder.is_dir() else []
    return {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for path in paths
        if path.suffix.lower() in extensions
    }


def _check_pair(classes: int, survey: Survey, pair: _Pair) -> str | None:
    """The problem of a pair, or None."""
    try:
        size = images.read_photograph(pair.photograph).shape[:2]
        label = images.align(pair.photograph, size, survey.add(pair.label), pair.label)
        label[label == _VOID] = 0
        images.check_classes(pair.label, label, classes, f", and {_VOID}")
    except UserError as error:
        return str(error)
    return None
