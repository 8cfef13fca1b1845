"""Datasets of photographs and annotations whose own files define the splits.

The lists `train.txt`, `val.txt` and `test.txt` define splits, with one photograph per line. So do
subfolders of the photographs' folder: `images/train`, `images/val`, `images/test`. Other common
names are accepted, see `cocosnet_jax.data.builders.splits`. A list takes precedence over a folder.

The validation split is `val`, or `test` without `val`; if there are both, `test` is left out. If
there is neither, photographs that are not in `train.txt` are for validation. Without `train`, all
other photographs are for training. `cocosnet_jax.data.builders.folder` needs none of this.
"""

import abc
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import UInt8

from cocosnet_jax.data import downloads, exemplars, images, problems
from cocosnet_jax.data.builders import splits
from cocosnet_jax.data.pair_builder import ImagePair, PairBuilder
from cocosnet_jax.data.source_files import files_below
from cocosnet_jax.errors import UserError


class Place(NamedTuple):
    """A folder of photographs and the folder of their annotations.

    Attributes:
      photographs, annotations: the folders, relative to the dataset's folder.
      split: `train`, `validation` or `test`; empty if subfolders may define it.
    """

    photographs: str
    annotations: str
    split: str = ""


class _Splits(NamedTuple):
    """The keys of every split, problems with them, and a line on how they were determined."""

    keys: dict[str, list[str]]
    problems: list[str]
    summary: str


class ListedBuilder(PairBuilder):
    """A dataset that defines its splits. A subclass names the folders and makes the input maps.

    Attributes:
      title: the dataset's name in messages.
      photographs, annotations: its two folders, relative to the source folder.
      needs_annotations: whether the annotation folder must exist.
      channels: the required value of `data.channels`.
      held_out: without defined splits, one photograph in this many is for validation; 0: an error.
    """

    title: ClassVar[str]
    photographs: ClassVar[str]
    annotations: ClassVar[str]
    needs_annotations: ClassVar[bool] = True
    channels: ClassVar[int]
    held_out: ClassVar[int] = 0

    @abc.abstractmethod
    def read_input(self, key: str, size: tuple[int, int]) -> Any:
        """Reads the annotation of a photograph of `size` (H, W); raises `UserError`."""

    @abc.abstractmethod
    def input_map(
        self, annotation: Any, photograph: images.Photograph, size: tuple[int, int]
    ) -> UInt8[np.ndarray, "h w planes"]:
        """Makes the planes of `Batch.label`, (h, w, p) uint8, from the result of `read_input`."""

    def split_keys(self) -> Mapping[str, Sequence[str]]:
        """Photographs' paths below the dataset's folder; `exemplars` are those of `train`."""
        keys, faults, _ = self._splits
        problems.raise_if_any(f"dataset {self.builder_config.source}", faults)
        return keys

    def make_pair(self, split: str, key: str) -> ImagePair:
        """Image (S, S, 3) and input map (S, S, p), resized to a square."""
        photograph = images.read_photograph(self.root / key)
        size = (self.side(split), self.side(split))
        annotation = self.read_input(key, photograph.shape[:2])
        return images.resize_photograph(photograph, size), self.input_map(
            annotation, photograph, size
        )

    def check(self) -> None:
        """Reads every file, and prints how the splits were determined.

        Raises:
          UserError: lists all problems.
        """
        self.check_channels()
        keys, faults, summary = self._splits
        used = [*keys["train"], *keys["validation"]]
        faults = [*faults, *self.stray_files(), *problems.find(self._problem, used, "photographs")]
        problems.raise_if_any(f"dataset {self.builder_config.source}", faults)
        print(summary, flush=True)

    def stray_files(self) -> list[str]:
        """Problems of files that belong to no pair."""
        return []

    def check_channels(self) -> None:
        """Raises a `UserError` if `data.channels` does not match the dataset."""
        if self.builder_config.classes != self.channels:
            raise UserError(
                f"config.data.channels is {self.builder_config.classes}, but {self.title} has"
                f" {self.channels} channels; set config.data.channels={self.channels}"
            )

    def own_files(self) -> Sequence[Path]:
        """Photographs, annotations and lists; empty if the source folder does not exist."""
        if not os.path.isdir(self.builder_config.source):
            return ()
        folders = [self.root / folder for place in self.places for folder in place[:2]]
        paths = [
            Path(name)
            for folder in folders
            if folder.is_dir()
            for name, _ in files_below(folder)
            if name.lower().endswith((*images.EXTENSIONS, ".json", ".txt"))
        ]
        return [*paths, *self.side_files()]

    def side_files(self) -> list[Path]:
        """The files beside the folders that affect the prepared data."""
        return list(self.lists.values())

    @functools.cached_property
    def lists(self) -> dict[str, Path]:
        """The split lists beside the folders, `train` first."""
        return splits.find_lists(self.root)

    @functools.cached_property
    def root(self) -> Path:
        """The folder that contains the dataset's two folders: the source, or a subfolder."""
        source = self.builder_config.source
        if not source or not os.path.isdir(source):
            raise UserError(
                f"config.data.source is {source!r}, which is not a folder; set it (or --source) to"
                f" the folder of {self.title}"
            )
        if self.find_places(Path(source)):
            return Path(source)
        within = [
            folder
            for folder in sorted(Path(source).iterdir())
            if folder.is_dir() and self.find_places(folder)
        ]
        if len(within) > 1:
            raise UserError(
                f"{source} contains {len(within)} datasets, {within[0].name}, {within[1].name}"
                f"{', ...' if within[2:] else ''}; set config.data.source (or --source) to one"
            )
        if within:
            return within[0]
        raise UserError(
            downloads.wrong_download(Path(source))
            or f"{source} does not contain the folders {self.photographs} and {self.annotations} of"
            f" {self.title}{self._instead(Path(source))}; set config.data.source (or --source) to"
            " the folder that does"
        )

    def _instead(self, source: Path) -> str:
        """The folders in `source`, for a message."""
        names = sorted(path.name for path in source.iterdir() if path.is_dir())
        if not names:
            return ", nor any other folder"
        text = f", but {', '.join(names[:8])}{', ...' if names[8:] else ''}"
        wanted = {self.photographs, self.annotations}
        if other := next((name for name in names if name.lower() in wanted - {name}), None):
            text += f" (rename {other} to {other.lower()}: names must be in lower case)"
        return text

    @functools.cached_property
    def places(self) -> list[Place]:
        """The folders of the dataset."""
        return self.find_places(self.root)

    def find_places(self, root: Path) -> list[Place]:
        """The dataset's folders in `root`; none if `root` is not a dataset."""
        if not (root / self.photographs).is_dir():
            return []
        if self.needs_annotations and not (root / self.annotations).is_dir():
            return []
        return [Place(self.photographs, self.annotations)]

    def place_of(self, key: str) -> Place:
        """The folders of a photograph."""
        return next(p for p in self.places if key.startswith(f"{p.photographs}/"))

    def annotation_stem(self, key: str) -> Path:
        """The path of a photograph's annotation, without the ending of its name."""
        place = self.place_of(key)
        below = Path(key.removeprefix(f"{place.photographs}/"))
        return self.root / place.annotations / below.with_suffix("")

    @functools.cached_property
    def _splits(self) -> _Splits:
        all_keys = sorted(
            self._photographs(),
            # In numerical order: 2994 comes before 14721.
            key=lambda key: (len(Path(key).stem) if Path(key).stem.isdecimal() else 0, key),
        )
        if full_ade20k := next(filter(downloads.is_full_ade20k_label, all_keys), ""):
            raise UserError(downloads.full_ade20k_message(self.root / full_ade20k))
        faults: list[str] = []
        lists = splits.read_lists(self.lists, all_keys, faults)
        named = dict(lists)
        if not {"train", "validation"} <= lists.keys():
            in_list = {key for keys in lists.values() for key in keys}
            for split, keys in self._split_folders(all_keys, faults).items():
                named.setdefault(split, [key for key in keys if key not in in_list])
        source = Path(self.builder_config.source)
        faults += splits.lists_elsewhere(self.root, source, {*named, *self.lists})
        if not named:
            faults += self._folders_like_splits(all_keys)
        test = named.get("test", [])
        if "validation" in named:
            validation = named["validation"]
        elif "test" in named:
            validation, test = test, []
        elif "train" in named:
            listed = set(named["train"])
            validation = [key for key in all_keys if key not in listed]
        elif self.held_out:
            validation = all_keys[:: self.held_out] if len(all_keys) > 1 else []
        else:
            problems.raise_if_any(f"dataset {self.builder_config.source}", faults)
            raise UserError(
                f"{self.root} has no val.txt; list the validation photographs in it, one per line,"
                f" for example {all_keys[0] if all_keys else self.photographs + '/NAME.jpg'}; all"
                " others become the training split"
            )
        others = {*validation, *test}
        train = named.get("train", [key for key in all_keys if key not in others])
        for split, keys in lists.items():
            twice = set(lists.get("train", [])) & set(keys) if split != "train" else ()
            faults += [
                f"{key} is in both {self.lists['train'].name} and {self.lists[split].name}"
                for key in sorted(twice)
            ]
        # An empty list has been reported already.
        if not train and lists.get("train") != []:
            faults.append("there are no photographs for the training split")
        if not validation and lists.get("validation", lists.get("test")) != []:
            why = ""
            if "train" in lists and len(train) == len(all_keys):
                why = f": {self.lists['train'].name} lists all photographs; write val.txt too"
            faults.append(f"there are no photographs for the validation split{why}")
        origin = [self.lists[split].name for split in lists]
        origin += ["the names of folders"] if named.keys() - lists.keys() else []
        by = ", ".join(origin) or f"the default rule (one in {self.held_out} for validation)"
        summary = (
            f"{self.title}: {len(train)} photographs for training and {len(validation)} for"
            f" validation, by {by}"
        )
        if left_out := len(set(all_keys) - {*train, *validation}):
            summary += f"; left out: {left_out}" + (f" (test: {len(test)})" if test else "")
        keys_of = {"train": train, "validation": validation, "exemplars": train}
        return _Splits(keys_of, faults, summary)

    def _folders_like_splits(self, all_keys: Sequence[str]) -> list[str]:
        """Problems of subfolders of the photographs' folders that only resemble split names."""
        folders = set()
        for key in all_keys:
            photographs = self.place_of(key).photographs
            folder, _, name = key.removeprefix(f"{photographs}/").partition("/")
            if name and splits.seems_a_split(folder):
                folders.add(f"{photographs}/{folder}")
        return [
            f"{self.root / folder} resembles the name of a split but is none; rename it and its"
            f" annotation folder (train, val, test), or list the splits in {self.root}/train.txt"
            " and val.txt"
            for folder in sorted(folders)
        ]

    def _split_folders(self, all_keys: Sequence[str], faults: list[str]) -> dict[str, list[str]]:
        """The keys in folders named after splits, by split; appends problems to `faults`.

        A folder `train` alone defines no split: it may contain pictures of trains.
        """
        keys: dict[str, list[str]] = {}
        for key in all_keys:
            place = self.place_of(key)
            folder, _, name = key.removeprefix(f"{place.photographs}/").partition("/")
            split = place.split or splits.split_of(folder if name else "")
            keys.setdefault(split, []).append(key)
        if not {"validation", "test"} & keys.keys():
            return {}
        if loose := keys.pop("", []):
            faults.append(
                f"{len(loose)} photographs are outside the folders of the splits (train, val,"
                f" test), for example {loose[0]}; move them into one, or list the splits in"
                " train.txt and val.txt"
            )
        return keys

    def _photographs(self) -> Iterator[str]:
        for place in self.places:
            for name, _ in files_below(self.root / place.photographs):
                if name.lower().endswith(images.EXTENSIONS):
                    yield Path(name).relative_to(self.root).as_posix()

    def _problem(self, key: str) -> str | None:
        try:
            if problem := exemplars.problem_of_name(key):
                return problem
            size = images.read_photograph(self.root / key).shape[:2]
            self.read_input(key, (size[0], size[1]))
        except UserError as error:
            return str(error)
        return None
