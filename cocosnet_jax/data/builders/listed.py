"""Datasets of photographs and annotations whose own files say what trains and what validates.

Lists name the splits: `train.txt`, `val.txt` and `test.txt`, with one photograph per line. So do
folders right within the photographs' one: `images/train`, `images/val`, `images/test`. Other usual
names, in `cocosnet_jax.data.builders.splits`, do as well. Where both name a split, the list counts.

`val` validates, or `test` where there is no `val`. Where there are both, `test` is left out. Where
there is neither, what is not in `train.txt` validates. Where there is no `train`, all other
photographs train. A folder of one's own (`cocosnet_jax.data.builders.folder`) may do without any
of this.
"""

import abc
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from cocosnet_jax.data import downloads, exemplars, images, problems
from cocosnet_jax.data.builders import splits
from cocosnet_jax.data.pair_builder import PairBuilder
from cocosnet_jax.data.source_files import files_below
from cocosnet_jax.errors import UserError


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
    """

    title: ClassVar[str]
    photographs: ClassVar[str]
    annotations: ClassVar[str]
    needs_annotations: ClassVar[bool] = True
    channels: ClassVar[int]
    held_out: ClassVar[int] = 0

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
        keys, found, _ = self._splits
        problems.raise_if_any(f"dataset {self.builder_config.source}", found)
        return keys

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
        return [*found, *self.side_files()]

    def side_files(self) -> list[Path]:
        """The files beside the folders that decide what is prepared."""
        return list(self.lists.values())

    @functools.cached_property
    def lists(self) -> dict[str, Path]:
        """The lists beside the folders by split, `train` first."""
        return splits.find_lists(self.root)

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
            f" {self.title}{self._instead(Path(source))}; set config.data.source (or --source) to"
            " the folder that does"
        )

    def _instead(self, source: Path) -> str:
        """The folders that are there instead, for a message."""
        names = sorted(path.name for path in source.iterdir() if path.is_dir())
        if not names:
            return ", nor any other folder"
        text = f", but {', '.join(names[:8])}{', ...' if names[8:] else ''}"
        wanted = {self.photographs, self.annotations}
        if other := next((name for name in names if name.lower() in wanted - {name}), None):
            text += f" (rename {other} to {other.lower()}: names are in small letters)"
        return text

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
        lists = splits.read_lists(self.lists, every, found)
        named = dict(lists)
        if not {"train", "validation"} <= lists.keys():
            in_list = {key for keys in lists.values() for key in keys}
            for split, keys in self._split_folders(every, found).items():
                named.setdefault(split, [key for key in keys if key not in in_list])
        source = Path(self.builder_config.source)
        found += splits.lists_elsewhere(self.root, source, {*named, *self.lists})
        if not named:
            found += self._folders_like_splits(every)
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
            problems.raise_if_any(f"dataset {self.builder_config.source}", found)
            raise UserError(
                f"{self.root} has no val.txt; write one with a photograph per line, for example"
                f" {every[0] if every else self.photographs + '/NAME.jpg'}: these become the"
                " validation split, all others the training split"
            )
        others = {*validation, *test}
        train = named.get("train", [key for key in every if key not in others])
        for split, keys in lists.items():
            twice = set(lists.get("train", [])) & set(keys) if split != "train" else ()
            found += [
                f"{key} is both in {self.lists['train'].name} and in {self.lists[split].name}"
                for key in sorted(twice)
            ]
        # Of a list that names nothing, that is said already.
        if not train and lists.get("train") != []:
            found.append("there are no photographs for the training split")
        if not validation and lists.get("validation", lists.get("test")) != []:
            why = ""
            if "train" in lists and len(train) == len(every):
                why = f": {self.lists['train'].name} names all there are, so write val.txt too"
            found.append(f"there are no photographs for the validation split{why}")
        by = [self.lists[split].name for split in lists]
        by += ["the names of folders"] if named.keys() - lists.keys() else []
        summary = (
            f"{self.title}: {len(train)} photographs train and {len(validation)} validate, by"
            f" {', '.join(by) or f'the rule that one in {self.held_out} validates'}"
        )
        if out := len(set(every) - {*train, *validation}):
            summary += f"; left out: {out}" + (f" (test: {len(test)})" if test else "")
        keys_of = {"train": train, "validation": validation, "exemplars": train}
        return _Splits(keys_of, found, summary)

    def _folders_like_splits(self, every: Sequence[str]) -> list[str]:
        """What is wrong with folders right within the photographs' that seem to name splits."""
        folders = set()
        for key in every:
            photographs = self.place_of(key).photographs
            folder, _, name = key.removeprefix(f"{photographs}/").partition("/")
            if name and splits.seems_a_split(folder):
                folders.add(f"{photographs}/{folder}")
        return [
            f"{self.root / folder} seems to name a split, but means none: rename it (train, val,"
            f" test), with that of its annotations, or list the splits in {self.root}/train.txt and"
            " val.txt"
            for folder in sorted(folders)
        ]

    def _split_folders(self, every: Sequence[str], found: list[str]) -> dict[str, list[str]]:
        """The keys in folders that name a split, by split; adds what is beside them to `found`.

        A folder `train` alone names none: it may be one of trains, beside one of buses.
        """
        keys: dict[str, list[str]] = {}
        for key in every:
            place = self.place_of(key)
            folder, _, name = key.removeprefix(f"{place.photographs}/").partition("/")
            split = place.split or splits.split_of(folder if name else "")
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
