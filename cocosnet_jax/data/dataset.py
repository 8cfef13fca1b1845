"""A prepared dataset: its splits, and the exemplars of each image.

A program opens it once and passes it on, so that all parts use the same records and lists.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from cocosnet_jax.data import builders, exemplars, problems, records
from cocosnet_jax.data.pair_builder import PairBuilder
from cocosnet_jax.data.records import Split
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import DataSettings

# The first word of the NumPy seeds for validation exemplars.
_VALIDATION = 2


class Dataset:
    """The records of a dataset and its exemplar lists; each is read when first needed.

    Attributes:
      settings: the data settings, with the fields that the dataset's own files determine (classes
        and their colours). A checkpoint stores them, so translation needs no dataset.
    """

    def __init__(self, settings: DataSettings, builder: PairBuilder):
        """The records of `builder` must exist (`records.check_prepared`)."""
        from_files = builder.info.metadata.get("settings", {})
        self.settings = dataclasses.replace(settings, **from_files)
        self._builder = builder
        self._splits: dict[str, Split] = {}
        self._evaluations: dict[str, EvaluationPairs] = {}

    @property
    def folder(self) -> str:
        """The folder of the records."""
        return str(self._builder.data_dir)

    @property
    def lengths(self) -> dict[str, int]:
        """The number of pairs of every split."""
        return {split: len(keys) for split, keys in self._metadata["keys"].items()}

    @property
    def content(self) -> str:
        """A digest of the files that the records come from; empty for generated data."""
        # The first version kept a digest of names, sizes and times only.
        return self._metadata.get("content", self._metadata.get("fingerprint", ""))

    def split(self, name: str) -> Split:
        """Opens `train`, `validation` or `exemplars`.

        Raises:
          UserError: the dataset has no such split, or its records cannot be read.
        """
        if name not in self._splits:
            self._splits[name] = records.open_split(self._builder, name)
        return self._splits[name]

    @functools.cached_property
    def training(self) -> "TrainingPairs":
        """The images of a training epoch, and their possible exemplars.

        Raises:
          UserError: a list does not match the images.
        """
        settings, split = self.settings, self.split("train")
        views = _self_pairs(settings.self_pair_list, split.keys)
        all_images = np.arange(len(split))
        if settings.exemplar_probability == 0:
            return TrainingPairs(all_images, {}, views)
        if settings.exemplar_list == "random":
            return TrainingPairs(all_images, None, views)
        listed, note = _resolve(settings.exemplar_list, "training images", split, split.keys)
        return TrainingPairs(np.array(list(listed)), listed, views, note)

    def evaluation(self, name: str = "validation") -> "EvaluationPairs":
        """The images for evaluation on a split, and their exemplars.

        Raises:
          UserError: the list does not match the images.
        """
        if name not in self._evaluations:
            self._evaluations[name] = self._evaluation_pairs(name)
        return self._evaluations[name]

    @property
    def notes(self) -> list[str]:
        """Lines for the user about images without a line in the exemplar lists."""
        notes = self.training.note, self.evaluation("validation").note
        return [note for note in notes if note]

    def points_of(self, key: str, side: int) -> np.ndarray | None:
        """See `PairBuilder.points_of`."""
        return self._builder.points_of(key, side)

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
        first: dict[int, int | None] = {index: refs[0] for index, refs in listed.items()}
        return EvaluationPairs(images, pool, first, note)


@dataclasses.dataclass(frozen=True)
class TrainingPairs:
    """Images and exemplars for training; its length is the number of images in an epoch.

    Attributes:
      images: positions of the images of an epoch.
      listed: image position -> positions of its exemplars; None: any other image is an exemplar.
      views: image position -> positions of its other views, from `self_pair_list`; images without
        another view are absent.
      note: a line about images that the list leaves out, or None.
    """

    images: Int[np.ndarray, "images"]
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
    """Images and exemplars for evaluation; its length is the number of images.

    Attributes:
      images: the split.
      pool: the records that exemplars come from.
      references: image position -> position of its exemplar in `pool`, or None: the image itself.
      note: a line about images that the list leaves out, or None.
    """

    images: Split
    pool: Pool
    references: dict[int, int | None]
    note: str | None = None

    def __len__(self) -> int:
        return len(self.references)


def open_dataset(settings: DataSettings) -> Dataset:
    """Opens a prepared dataset; see `cocosnet_jax.data.open`."""
    builder = builders.open_builder(settings)
    records.check_prepared(builder)
    return Dataset(settings, builder)


def prepare(settings: DataSettings) -> Dataset:
    """Writes missing records and checks the lists; see `cocosnet_jax.data.prepare`."""
    builder = builders.open_builder(settings)
    # Before the records, which can take hours.
    _check_lists_readable(settings)
    records.prepare(builder)
    # A new builder, because another process may have written the records.
    dataset = open_dataset(settings)
    # Resolves all lists, so that one that does not match is an error now.
    _ = dataset.notes
    return dataset


def check(settings: DataSettings) -> None:
    """Checks lists and folders; see `cocosnet_jax.data.check`."""
    builder = builders.open_builder(settings)
    _check_lists_readable(settings)
    if not records.is_prepared(builder):
        records.check_can_prepare(builder)


def _check_lists_readable(settings: DataSettings) -> None:
    """Raises a `UserError` for exemplar lists that cannot be read; needs no prepared data."""
    lists = {
        "exemplar_list": settings.exemplar_list if settings.exemplar_probability else "",
        "validation_exemplar_list": settings.validation_exemplar_list,
        "self_pair_list": settings.self_pair_list,
    }
    wrong = []
    for field, path in lists.items():
        # Keywords, not files.
        if path in ("", "names" if field == "self_pair_list" else "random"):
            continue
        try:
            exemplars.read_list(path)
        except UserError as error:
            wrong.append(f"{field}: {error}")
    problems.raise_if_any("config.data", wrong)


def _self_pairs(path: str, keys: list[str]) -> dict[int, tuple[int, ...]]:
    """Image position -> positions of its other views, from `self_pair_list`.

    Names of images outside the split are ignored: DeepFashion's lists cover training and validation
    images.

    Raises:
      UserError: the list is malformed, or matches no image.
    """
    if not path:
        return {}
    views_of: dict[int, tuple[int, ...]] = {}
    if path == "names":
        looks: dict[str, list[int]] = {}
        for index, key in enumerate(keys):
            if (look := exemplars.same_look(key)) is not None:
                looks.setdefault(look, []).append(index)
        for group in looks.values():
            views_of |= {index: tuple(i for i in group if i != index) for index in group}
        # A single view per look is fine; no name in either form is not.
        matches = bool(looks)
    else:
        listed = exemplars.resolve(path, keys, keys, pass_missing=True).references
        views_of = {i: tuple(view for view in views if view != i) for i, views in listed.items()}
        matches = bool(listed)
    if not matches:
        raise UserError(
            f"config.data.self_pair_list is {path!r}, which matches none of the {len(keys)}"
            f" training images ({keys[0]}, ...); name DeepFashion's list, or set it to ''"
        )
    return {index: views for index, views in views_of.items() if views}


def _resolve(
    path: str, what: str, split: Split, references: list[str], *, first_only: bool = False
) -> tuple[dict[int, tuple[int, ...]], str | None]:
    """Listed image position -> exemplar positions, and a note about unlisted images or None."""
    pairing = exemplars.resolve(path, split.keys, references, first_only=first_only)
    exemplars.require_match(path, pairing, split.keys, what)
    return pairing.references, exemplars.left_out_note(path, pairing, split.keys, what)
