"""Datasets whose own folder lists the validation photographs in `val.txt`.

Such a folder holds photographs, annotations of them, and `val.txt` with one photograph per line.
Training takes the photographs of `train.txt` where there is one, else all others. A folder of one's
own (`cocosnet_jax.data.folder`) may do without `val.txt`.
"""

import abc
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cocosnet_jax.data import exemplars, images, problems
from cocosnet_jax.data.records import PairBuilder
from cocosnet_jax.errors import UserError


class ListedBuilder(PairBuilder):
    """A dataset with `val.txt`. A subclass names the folders and makes the input maps.

    Attributes:
      title: the dataset's name in messages.
      photographs, annotations: its two folders, below the source folder.
      channels: what `data.channels` must be.
      held_out: without `val.txt`, one photograph in so many is for validation; 0 asks for one.
    """

    title: ClassVar[str]
    photographs: ClassVar[str]
    annotations: ClassVar[str]
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
        keys, found = self._split_keys
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
        """Reads every file; raises a `UserError` that lists what is wrong with any."""
        self.check_channels()
        keys, found = self._split_keys
        every = [*keys["train"], *keys["validation"]]
        found = [*found, *self.stray_files(), *problems.find(self._problem, every, "photographs")]
        problems.raise_if_any(f"dataset {self.builder_config.source}", found)

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
        folders = [self.root / name for name in (self.photographs, self.annotations)]
        found = [
            Path(name)
            for folder in folders
            if folder.is_dir()
            for name, _ in files_below(folder)
            if name.lower().endswith((*images.EXTENSIONS, ".json", ".txt"))
        ]
        lists = [self.root / name for name in ("train.txt", "val.txt")]
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
        for root in (Path(source), *sorted(Path(source).iterdir())):
            if self.holds_dataset(root):
                return root
        raise UserError(
            f"{source} does not hold the folders {self.photographs} and {self.annotations} of"
            f" {self.title}; set config.data.source (or --source) to the folder that does"
        )

    def holds_dataset(self, root: Path) -> bool:
        """Whether a folder holds the dataset's own folders."""
        return (root / self.photographs).is_dir() and (root / self.annotations).is_dir()

    @functools.cached_property
    def _split_keys(self) -> tuple[dict[str, list[str]], list[str]]:
        """The keys of every split, and what is wrong with the lists."""
        every = sorted(
            self._photographs(),
            # Numbered names count: 2994 comes before 14721.
            key=lambda key: (len(Path(key).stem) if Path(key).stem.isdecimal() else 0, key),
        )
        index = exemplars.KeyIndex(every)
        found: list[str] = []

        def listed(name: str) -> list[str]:
            keys = []
            for number, line in enumerate(read_lines(self.root / name), 1):
                if not line:
                    continue
                position = index.find(line)
                if position is None or position < 0:
                    what = "no photograph" if position is None else "several photographs"
                    found.append(f"{self.root / name}, line {number}: {line!r} means {what}")
                else:
                    keys.append(every[position])
            return list(dict.fromkeys(keys))

        if (self.root / "val.txt").exists():
            validation = listed("val.txt")
        elif self.held_out:
            validation = every[:: self.held_out] if len(every) > 1 else []
        else:
            raise UserError(
                f"{self.root} has no val.txt; write one with a photograph per line, for example"
                f" {every[0] if every else self.photographs + '/NAME.jpg'}: these become the"
                " validation split, all others the training split"
            )
        if (self.root / "train.txt").exists():
            train = listed("train.txt")
            twice = set(train) & set(validation)
            found += [f"{key} is both in train.txt and in val.txt" for key in sorted(twice)]
        else:
            held_out = set(validation)
            train = [key for key in every if key not in held_out]
        for keys, what in ((train, "training"), (validation, "validation")):
            if not keys:
                found.append(f"there are no photographs for the {what} split")
        return {"train": train, "validation": validation, "exemplars": train}, found

    def _photographs(self) -> Iterator[str]:
        for name, _ in files_below(self.root / self.photographs):
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


def files_below(folder: str | Path, above: tuple[int, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every file below a folder with its size and time (`os.stat`), in alphabetical order.

    Links are followed, but not into a folder that one is in already (inode numbers `above`). A
    link to nothing counts as a file, so that whoever reads it says so.
    """
    here = (*above, os.stat(folder).st_ino)
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_dir():
                if entry.stat().st_ino not in here:
                    yield from files_below(entry.path, here)
            elif entry.is_file() or entry.is_symlink():
                yield entry.path, entry.stat(follow_symlinks=entry.is_file())


def read_lines(path: Path) -> list[str]:
    """The lines of a text file without spaces around them; raises a `UserError`."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as UTF-8 text ({error}); replace it") from None
