"""Datasets of photographs and annotations whose own files say what trains and what validates.

Lists name the splits: `train.txt`, `val.txt` and `test.txt`, with one photograph per line. So do
folders right within the photographs' one: `images/train`, `images/val`, `images/test`. Where both
name a split, the list counts.

`val` validates, or `test` where there is no `val`. Where there are both, `test` is left out. Where
there is neither, what is not in `train.txt` validates. Where there is no `train`, all other
photographs train. A folder of one's own (`cocosnet_jax.data.builders.folder`) may do without any
of this.
"""

import abc
import functools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from cocosnet_jax.data import downloads, exemplars, images, problems
from cocosnet_jax.data.pair_builder import PairBuilder
from cocosnet_jax.data.source_files import files_below, read_text
from cocosnet_jax.errors import UserError

_LISTS = {"train": "train.txt", "validation": "val.txt", "test": "test.txt"}
LIST_FILES = tuple(_LISTS.values())
# What folders call a split.
_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}


def split_of(folder: str) -> str:
    """The split that a folder's name means, in any case, as `val` or `val2017`; empty if none."""
    return _SPLIT_NAMES.get(re.sub(r"[-_]?\d+$", "", folder.lower()), "")


class Place(NamedTuple):
    """Two folders that belong together, named below the dataset's own folder.

    Attributes:
      photographs, annotations: the folders.
      split: `train`, `validation` or `test`; empty where folders within them may say it.
    """

    photographs: str
    annotations: str
    split: str = ""


class _Splits(NamedTuple):
    """The keys of every split, what is wrong with them, and how they came about in one line."""

    keys: dict[str, list[str]]
    problems: list[str]
    summary: str


class ListedBuilder(PairBuilder):
    """A dataset with splits of its own. A subclass names the folders and makes the input maps.

    Attributes:
      title: the dataset's name in messages.
      photographs, annotations: its two folders, below the source folder.
      needs_annotations: whether there must be annotations.
      channels: what `data.channels` must be.
      held_out: where nothing names a split, one photograph in so many validates; 0 asks for a list.
      read_files: files beside the folders that decide what is prepared.
    """

    title: ClassVar[str]
    photographs: ClassVar[str]
    annotations: ClassVar[str]
    needs_annotations: ClassVar[bool] = True
    channels: ClassVar[int]
    held_out: ClassVar[int] = 0
    read_files: ClassVar[tuple[str, ...]] = LIST_FILES

    @abc.abstractmethod
    def read_input(self, key: str, size: tuple[int, int]) -> Any:
        """Reads the annotation of a photograph of (H, W) pixels; raises `UserError`."""

    @abc.abstractmethod
    def input_map(
        self, annotation: Any, photograph: np.ndarray, size: tuple[int, int]
    ) -> np.ndarray:
        """The planes of `Batch.label`, (h, w, p) uint8, from what `read_input` has returned."""

    def split_keys(self) -> Mapping[str, Sequence[str]]:
        """Photographs' paths below the dataset's folder; `exemplars` are those of `train`."""
        splits = self._splits
        problems.raise_if_any(f"dataset {self.builder_config.source}", splits.problems)
        return splits.keys

    def make_pair(self, split: str, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Image (S, S, 3) and input map (S, S, p), squeezed to S x S pixels."""
        photograph = images.read_photograph(self.root / key)
        size = (self.side(split), self.side(split))
        annotation = self.read_input(key, photograph.shape[:2])
        return images.resize_photograph(photograph, size), self.input_map(
            annotation, photograph, size
        )

    def check(self) -> None:
        """Reads every file, and says in a line how the splits came about.

        Raises:
          UserError: lists what is wrong with any file.
        """
        self.check_channels()
        keys, found, summary = self._splits
        every = [*keys["train"], *keys["validation"]]
        found = [*found, *self.stray_files(), *problems.find(self._problem, every, "photographs")]
        problems.raise_if_any(f"dataset {self.builder_config.source}", found)
        print(summary, flush=True)

    def stray_files(self) -> list[str]:
        """What is wrong with files beside those that are read."""
        return []

    def check_channels(self) -> None:
        """Raises a `UserError` where `data.channels` does not fit the dataset."""
        if self.builder_config.classes != self.channels:
            raise UserError(
                f"config.data.channels is {self.builder_config.classes}, but {self.title} has"
                f" {self.channels} channels: set config.data.channels={self.channels}"
            )

    def own_files(self) -> Sequence[Path]:
        """Photographs, annotations and lists; empty where the source is not there."""
        if not os.path.isdir(self.builder_config.source):
            return ()
        folders = [self.root / folder for place in self.places for folder in place[:2]]
        found = [
            Path(name)
            for folder in folders
            if folder.is_dir()
            for name, _ in files_below(folder)
            if name.lower().endswith((*images.EXTENSIONS, ".json", ".txt"))
        ]
        lists = [self.root / name for name in self.read_files]
        return [*found, *(path for path in lists if path.exists())]

    @functools.cached_property
    def root(self) -> Path:
        """The folder that holds the dataset's two folders: the source, or one within it."""
        source = self.builder_config.source
        if not source or not os.path.isdir(source):
            raise UserError(
                f"config.data.source is {source!r}, which is no folder; set it (or --source) to"
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
                f"{source} holds {len(within)} datasets, {within[0].name}, {within[1].name}"
                f"{', ...' if within[2:] else ''}: set config.data.source (or --source) to one"
            )
        if within:
            return within[0]
        raise UserError(
            downloads.mistaken(Path(source))
            or f"{source} does not hold the folders {self.photographs} and {self.annotations} of"
            f" {self.title}; set config.data.source (or --source) to the folder that does"
        )

    @functools.cached_property
    def places(self) -> list[Place]:
        """The folders of the dataset."""
        return self.find_places(self.root)

    def find_places(self, root: Path) -> list[Place]:
        """The folders of the dataset that a folder holds; none if it is not the dataset's."""
        if not (root / self.photographs).is_dir():
            return []
        if self.needs_annotations and not (root / self.annotations).is_dir():
            return []
        return [Place(self.photographs, self.annotations)]

    def place_of(self, key: str) -> Place:
        """The folders that a photograph lies in."""
        return next(p for p in self.places if key.startswith(f"{p.photographs}/"))

    def annotation_stem(self, key: str) -> Path:
        """The path of a photograph's annotation, less what its name ends in."""
        place = self.place_of(key)
        below = Path(key.removeprefix(f"{place.photographs}/"))
        return self.root / place.annotations / below.with_suffix("")

    @functools.cached_property
    def _splits(self) -> _Splits:
        every = sorted(
            self._photographs(),
            # Numbered names count: 2994 comes before 14721.
            key=lambda key: (len(Path(key).stem) if Path(key).stem.isdecimal() else 0, key),
        )
        if foreign := next(filter(downloads.of_full_ade20k, every), ""):
            raise UserError(downloads.full_ade20k(self.root / foreign))
        found: list[str] = []
        lists = self._read_lists(every, found)
        named = dict(lists)
        if not {"train", "validation"} <= lists.keys():
            in_list = {key for keys in lists.values() for key in keys}
            for split, keys in self._split_folders(every, found).items():
                named.setdefault(split, [key for key in keys if key not in in_list])
        test = named.get("test", [])
        if "validation" in named:
            validation = named["validation"]
        elif "test" in named:
            validation, test = test, []
        elif "train" in named:
            listed = set(named["train"])
            validation = [key for key in every if key not in listed]
        elif self.held_out:
            validation = every[:: self.held_out] if len(every) > 1 else []
        else:
            raise UserError(
                f"{self.root} has no val.txt; write one with a photograph per line, for example"
                f" {every[0] if every else self.photographs + '/NAME.jpg'}: these become the"
                " validation split, all others the training split"
            )
        others = {*validation, *test}
        train = named.get("train", [key for key in every if key not in others])
        for split, keys in lists.items():
            twice = set(lists.get("train", [])) & set(keys) if split != "train" else ()
            found += [f"{key} is both in train.txt and in {_LISTS[split]}" for key in sorted(twice)]
        if not train:
            found.append("there are no photographs for the training split")
        if not validation:
            why = ""
            if "train" in lists and len(train) == len(every):
                why = ": train.txt names all there are, so write val.txt too"
            found.append(f"there are no photographs for the validation split{why}")
        by = [name for split, name in _LISTS.items() if split in lists]
        by += ["the names of folders"] if named.keys() - lists.keys() else []
        summary = (
            f"{self.title}: {len(train)} photographs train and {len(validation)} validate, by"
            f" {', '.join(by) or f'the rule that one in {self.held_out} validates'}"
        )
        if out := len(set(every) - {*train, *validation}):
            summary += f"; left out: {out}" + (f" (test: {len(test)})" if test else "")
        keys_of = {"train": train, "validation": validation, "exemplars": train}
        return _Splits(keys_of, found, summary)

    def _read_lists(self, every: Sequence[str], found: list[str]) -> dict[str, list[str]]:
        """The keys of every list that there is, by split; adds what is wrong to `found`."""
        index = exemplars.KeyIndex(every)
        lists = {}
        for split, name in _LISTS.items():
            path = self.root / name
            if not path.exists():
                continue
            keys = []
            for number, line in enumerate(map(str.strip, read_text(path).splitlines()), 1):
                if not line:
                    continue
                position = index.find(line)
                if position is None or position < 0:
                    what = "no photograph" if position is None else "several photographs"
                    found.append(f"{path}, line {number}: {line!r} means {what}")
                else:
                    keys.append(every[position])
            lists[split] = list(dict.fromkeys(keys))
        return lists

    def _split_folders(self, every: Sequence[str], found: list[str]) -> dict[str, list[str]]:
        """The keys in folders that name a split, by split; adds what is beside them to `found`.

        A folder `train` alone names none: it may be one of trains, beside one of buses.
        """
        keys: dict[str, list[str]] = {}
        for key in every:
            place = self.place_of(key)
            folder, _, name = key.removeprefix(f"{place.photographs}/").partition("/")
            split = place.split or split_of(folder if name else "")
            keys.setdefault(split, []).append(key)
        if not {"validation", "test"} & keys.keys():
            return {}
        if loose := keys.pop("", []):
            found.append(
                f"beside folders that name a split (train, val, test) there are {len(loose)}"
                f" photographs in none, for example {loose[0]}: move them into one, or list the"
                " splits in train.txt and val.txt"
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
