"""A prepared dataset: its splits, and who is whose exemplar in them.

It is opened once and handed on, so that every part of a program sees the same records and lists.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from cocosnet_jax.data import builders, exemplars, problems, records
from cocosnet_jax.data.pair_builder import PairBuilder
from cocosnet_jax.data.records import Split
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import DataSettings

# The first word of the NumPy seeds that draw validation exemplars.
_VALIDATION = 2


class Dataset:
    """The records of a dataset and its exemplar lists; each is read when it is first needed.

    Attributes:
      settings: of the data, with those fields that the dataset's own files decide. Translation from
        a checkpoint has only the settings: classes and their colours travel in them.
    """

    def __init__(self, settings: DataSettings, builder: PairBuilder):
        """`builder`'s records must be there (`records.check_prepared`)."""
        found = builder.info.metadata.get("settings", {})
        self.settings = dataclasses.replace(settings, **found)
        self._builder = builder
        self._splits: dict[str, Split] = {}
        self._evaluations: dict[str, EvaluationPairs] = {}

    @property
    def folder(self) -> str:
        """Where the records lie."""
        return str(self._builder.data_dir)

    @property
    def lengths(self) -> dict[str, int]:
        """The number of pairs of every split."""
        return {split: len(keys) for split, keys in self._metadata["keys"].items()}

    @property
    def content(self) -> str:
        """A digest of the files that the records were made of; empty where they are drawn."""
        # Records of the first version have a digest of names, sizes and times alone.
        return self._metadata.get("content", self._metadata.get("fingerprint", ""))

    def split(self, name: str) -> Split:
        """The pairs of `train`, `validation` or `exemplars`, by position.

        Raises:
          UserError: there is no such split, or its records cannot be read.
        """
        if name not in self._splits:
            self._splits[name] = records.open_split(self._builder, name)
        return self._splits[name]

    @functools.cached_property
    def training(self) -> "TrainingPairs":
        """The images of an epoch of training, and what may be their exemplars.

        Raises:
          UserError: a list does not fit.
        """
        settings, split = self.settings, self.split("train")
        views = _self_pairs(settings.self_pair_list, split.keys)
        every = np.arange(len(split))
        if settings.exemplar_probability == 0:
            return TrainingPairs(every, {}, views)
        if settings.exemplar_list == "random":
            return TrainingPairs(every, None, views)
        listed, note = _resolve(settings.exemplar_list, "training images", split, split.keys)
        return TrainingPairs(np.array(list(listed)), listed, views, note)

    def evaluation(self, name: str = "validation") -> "EvaluationPairs":
        """The images of an evaluation of a split, and their exemplars.

        Raises:
          UserError: the list does not fit.
        """
        if name not in self._evaluations:
            self._evaluations[name] = self._evaluation_pairs(name)
        return self._evaluations[name]

    @property
    def notes(self) -> list[str]:
        """Lines for the user: which images the exemplar lists leave out."""
        notes = self.training.note, self.evaluation("validation").note
        return [note for note in notes if note]

    def replace(self, **fields: Any) -> "Dataset":
        """The same records with other settings."""
        return Dataset(dataclasses.replace(self.settings, **fields), self._builder)

    @property
    def _metadata(self) -> Any:
        return self._builder.info.metadata

    def _evaluation_pairs(self, name: str) -> "EvaluationPairs":
        settings = self.settings
        if name == "train" and settings.load_size != settings.image_size:
            raise ValueError("the training images at image_size are the split 'exemplars'")
        images = self.split(name)
        if settings.validation_exemplar_list in ("", "random"):
            alone = not settings.validation_exemplar_list or len(images) == 1
            references: dict[int, int | None] = {}
            for index in range(len(images)):
                other = int(
                    np.random.default_rng((_VALIDATION, index)).integers(max(len(images) - 1, 1))
                )
                references[index] = None if alone else other + (other >= index)
            return EvaluationPairs(images, Pool([images]), references)
        others = {"validation", "exemplars"} & images.siblings - {name}
        pool = Pool([images, *(self.split(other) for other in sorted(others))])
        path, what = settings.validation_exemplar_list, f"{name} images"
        listed, note = _resolve(path, what, images, pool.keys, first_only=True)
        first: dict[int, int | None] = {index: found[0] for index, found in listed.items()}
        return EvaluationPairs(images, pool, first, note)


@dataclasses.dataclass(frozen=True)
class TrainingPairs:
    """What training takes; its length is that of an epoch, in images.

    Attributes:
      images: positions of the images of an epoch.
      listed: for each of them the positions of its exemplars; None where any other image will do.
      views: for each image that has them, the positions of other views by `self_pair_list`.
      note: which images are left out, or None.
    """

    images: np.ndarray
    listed: dict[int, tuple[int, ...]] | None
    views: dict[int, tuple[int, ...]]
    note: str | None = None

    def __len__(self) -> int:
        return len(self.images)


class Pool:
    """Several splits as one sequence of records."""

    def __init__(self, splits: Sequence[Split]):
        self.keys = [key for split in splits for key in split.keys]
        self._splits = splits

    def record(self, index: int) -> bytes:
        for split in self._splits:
            if index < len(split):
                return split.record(index)
            index -= len(split)
        raise IndexError(index)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        for split in self._splits:
            if index < len(split):
                return split[index]
            index -= len(split)
        raise IndexError(index)


@dataclasses.dataclass(frozen=True)
class EvaluationPairs:
    """What an evaluation takes; its length is the number of its images.

    Attributes:
      images: the split.
      pool: what exemplars are taken from.
      references: position of each image -> that of its exemplar in `pool`, or None for the image
        itself.
      note: which images are left out, or None.
    """

    images: Split
    pool: Pool
    references: dict[int, int | None]
    note: str | None = None

    def __len__(self) -> int:
        return len(self.references)


def open_dataset(settings: DataSettings) -> Dataset:
    """The dataset as it was prepared; see `cocosnet_jax.data.open`."""
    builder = builders.open_builder(settings)
    records.check_prepared(builder)
    return Dataset(settings, builder)


def prepare(settings: DataSettings) -> Dataset:
    """Makes what is missing and checks the lists; see `cocosnet_jax.data.prepare`."""
    builder = builders.open_builder(settings)
    # Preparation takes hours.
    _read_lists(settings)
    records.prepare(builder)
    # Anew, because another process may have written the records.
    dataset = open_dataset(settings)
    # Here, so that a list that does not fit is an error before anything else is begun.
    _ = dataset.notes
    return dataset


def _read_lists(settings: DataSettings) -> None:
    """Raises a `UserError` that says which exemplar lists are no lists; needs no prepared data."""
    lists = {
        "exemplar_list": settings.exemplar_list if settings.exemplar_probability else "",
        "validation_exemplar_list": settings.validation_exemplar_list,
        "self_pair_list": settings.self_pair_list,
    }
    wrong = []
    for field, path in lists.items():
        # These are no files.
        if path in ("", "names" if field == "self_pair_list" else "random"):
            continue
        try:
            exemplars.read_list(path)
        except UserError as error:
            wrong.append(f"{field}: {error}")
    problems.raise_if_any("config.data", wrong)


def _self_pairs(path: str, keys: list[str]) -> dict[int, tuple[int, ...]]:
    """For each image that has them, the positions of other views by `self_pair_list`.

    The list may name images outside the split, which are passed over: DeepFashion's lists serve
    training and validation.

    Raises:
      UserError: the list is not as it should be, or fits no image at all.
    """
    if not path:
        return {}
    found: dict[int, tuple[int, ...]] = {}
    if path == "names":
        looks: dict[str, list[int]] = {}
        for index, key in enumerate(keys):
            if (look := exemplars.same_look(key)) is not None:
                looks.setdefault(look, []).append(index)
        for group in looks.values():
            found |= {index: tuple(i for i in group if i != index) for index in group}
        # One view of each is nothing wrong; no such name is.
        fits = bool(looks)
    else:
        listed = exemplars.resolve(path, keys, keys, pass_missing=True).references
        found = {i: tuple(view for view in views if view != i) for i, views in listed.items()}
        fits = bool(listed)
    if not fits:
        raise UserError(
            f"config.data.self_pair_list is {path!r}, which fits none of the {len(keys)} training"
            f" images ({keys[0]}, ...); name DeepFashion's list, or set it to ''"
        )
    return {index: views for index, views in found.items() if views}


def _resolve(
    path: str, what: str, split: Split, references: list[str], *, first_only: bool = False
) -> tuple[dict[int, tuple[int, ...]], str | None]:
    """The images of a split that a list names with their exemplars, and a line on the others."""
    pairing = exemplars.resolve(path, split.keys, references, first_only=first_only)
    exemplars.require_any(path, pairing, split.keys, what)
    return pairing.references, exemplars.left_out(path, pairing, split.keys, what)
