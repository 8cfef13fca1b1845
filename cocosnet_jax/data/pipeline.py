"""From prepared records to batches (SPEC section 1), by tf.data.

Everything random about a training sample follows from (seed, position), where position =
step * batch_size + row counts samples since the start of training. So a run resumes at any step at
no cost, and the samples do not depend on how many processes share them.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from cocosnet_jax.data import distortions, exemplars, open_split, problems, records
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import DataSettings
from cocosnet_jax.types import Batch

# Random streams, the second word of every NumPy seed.
_ORDER, _SAMPLE, _VALIDATION = range(3)


def training_batches(
    settings: DataSettings,
    *,
    seed: int,
    batch_size: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Training batches without end, from `start_step` on.

    Every epoch takes every image once, in a new order; with an exemplar list, every image that it
    names. Image and label share a random crop of
    image_size out of load_size and a flip, exemplar and exemplar label share another. With
    `exemplar_probability` the exemplar comes from the list; otherwise it is another view of the
    same person by `self_pair_list`, drawn at random where there are several, or the image itself,
    distorted as `settings.distortion` says; `self_reference` is 1 for both.

    Args:
      settings: which data; it must be prepared.
      seed: of everything random.
      batch_size: samples per step over all processes.
      start_step: the first batch is that of this step.
      process_index: this process, of `process_count`; it gets the rows from
        process_index * batch_size / process_count on.
      process_count: how many processes share a batch.

    Returns:
      An iterator of `Batch` with NumPy leaves.

    Raises:
      UserError: the data are not prepared, the list does not fit them, or the batch cannot be
        shared evenly.
    """
    rows = _rows("config.train.batch_size", batch_size, process_index, process_count)
    split = open_split(settings, "train")
    images, listed, _ = _training_images(settings, split)
    views = self_pairs(settings, split)
    size = settings.image_size
    geometric = settings.distortion == "geometric"

    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng((seed, _ORDER, epoch)).permutation(len(images))

    def fetch(position: int) -> tuple[Any, ...]:
        epoch, place = divmod(int(position), len(images))
        index = int(images[order(epoch)[place]])
        rng = np.random.default_rng((seed, _SAMPLE, int(position)))
        reference = _draw_exemplar(settings, listed, index, len(split), rng)
        foreign = reference != index
        crops = rng.integers(0, settings.load_size - size + 1, (2, 2))
        flips = rng.integers(0, 2, 2) * settings.flip
        distortion = distortions.draw(rng)
        if not foreign and index in views:
            reference = int(rng.choice(views[index]))
        return (
            _bytes(split.record(index)),
            _bytes(split.record(reference)),
            np.float32(not foreign),
            reference == index,
            np.stack([*crops.T, flips], axis=1).astype(np.int32),
            *distortion,
        )

    def load(position: tf.Tensor) -> Batch:
        record, reference, self_reference, same, cuts, affine, displacement = tf.numpy_function(
            fetch,
            [position],
            [tf.string, tf.string, tf.float32, tf.bool, tf.int32, tf.float32, tf.float32],
        )
        image, label = _cut(*records.decode(split.features, record), cuts[0], size)
        exemplar, exemplar_label = _cut(*records.decode(split.features, reference), cuts[1], size)
        if geometric:
            grid_of = distortions.Distortion(affine, displacement)

            def distorted() -> tuple[tf.Tensor, tf.Tensor]:
                grid = distortions.sampling_grid(grid_of, size)
                return (
                    tf.ensure_shape(distortions.sample_image(exemplar, grid), (size, size, 3)),
                    distortions.sample_label(exemplar_label, grid),
                )

            # Another view is distorted enough as it is.
            exemplar, exemplar_label = tf.cond(same, distorted, lambda: (exemplar, exemplar_label))
        return Batch(image, exemplar, label, exemplar_label, tf.ensure_shape(self_reference, ()))

    positions = (
        tf.data.Dataset.counter(start_step, dtype=tf.int64)
        .map(lambda step: step * batch_size + rows)
        .unbatch()
    )
    dataset = positions.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.batch(len(rows), drop_remainder=True).prefetch(2)
    return dataset.as_numpy_iterator()


def evaluation_batches(
    settings: DataSettings,
    *,
    batch_size: int,
    split: str = "validation",
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[tuple[Batch, np.ndarray, list[str]]]:
    """Every image of the split exactly once over all processes, uncropped, with its exemplar.

    The exemplar is the first entry of the image's line in `validation_exemplar_list`, and images
    without a line are left out; with `random` it is another image of the split, the same at every
    call; without a list the image itself.

    Args:
      settings: which data; it must be prepared.
      batch_size: samples per step over all processes.
      split: `validation`, or `exemplars` for the training images.
      process_index: as in `training_batches`.
      process_count: as in `training_batches`.

    Returns:
      An iterator over (batch, valid, keys). The last batches are filled up with the last image;
      valid, (b,) bool, is False there, and the key empty. All processes get the same number.

    Raises:
      UserError: as `training_batches`.
    """
    rows = _rows("config.train.evaluation_batch_size", batch_size, process_index, process_count)
    images, pool, references, _ = _evaluation_pairs(settings, split)
    chosen = list(references)

    def fetch(position: int) -> tuple[Any, ...]:
        valid = bool(position < len(chosen))
        index = chosen[int(position) if valid else -1]
        record, reference = images.record(index), references[index]
        return (
            _bytes(record),
            _bytes(record if reference is None else pool.record(reference)),
            np.float32(reference is None),
            valid,
            _bytes(images.keys[index].encode() if valid else b""),
        )

    def load(position: tf.Tensor) -> tuple[Batch, tf.Tensor, tf.Tensor]:
        record, reference, itself, valid, key = tf.numpy_function(
            fetch, [position], [tf.string, tf.string, tf.float32, tf.bool, tf.string]
        )
        image, label = records.decode(images.features, record)
        exemplar, exemplar_label = records.decode(images.features, reference)
        return Batch(image, exemplar, label, exemplar_label, itself), valid, key

    steps = -(-len(chosen) // batch_size)
    positions = tf.data.Dataset.range(steps).map(lambda step: step * batch_size + rows).unbatch()
    dataset = positions.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.batch(len(rows), drop_remainder=True).prefetch(2)
    return (
        (batch, valid, [key.decode() for key in keys])
        for batch, valid, keys in dataset.as_numpy_iterator()
    )


def examples_per_epoch(settings: DataSettings, split: str = "train") -> int:
    """How many images an epoch of training takes, or an evaluation of another split yields.

    Raises:
      UserError: the data are not prepared, or the list does not fit them.
    """
    if split == "train":
        return len(_training_images(settings, open_split(settings, split)).images)
    return len(_evaluation_pairs(settings, split).references)


def read_lists(settings: DataSettings) -> None:
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


def check_lists(settings: DataSettings) -> list[str]:
    """Looks whether exemplar lists fit the prepared data.

    Returns:
      Lines that say which images the lists leave out.

    Raises:
      UserError: a list does not fit.
    """
    split = open_split(settings, "train")
    self_pairs(settings, split)
    notes = (
        _training_images(settings, split).note,
        _evaluation_pairs(settings, "validation").note,
    )
    return [note for note in notes if note]


def _rows(field: str, batch_size: int, process_index: int, process_count: int) -> np.ndarray:
    """The rows of a batch that a process loads."""
    if batch_size % process_count:
        raise UserError(
            f"{field} is {batch_size}, which {process_count} processes cannot share evenly; make"
            f" it a multiple of {process_count}"
        )
    share = batch_size // process_count
    return np.arange(process_index * share, (process_index + 1) * share, dtype=np.int64)


class _TrainingImages(NamedTuple):
    """What training takes.

    Attributes:
      images: positions of the images of an epoch.
      listed: for each of them the positions of its exemplars; None where any other image will do.
      note: which images are left out, or None.
    """

    images: np.ndarray
    listed: dict[int, tuple[int, ...]] | None
    note: str | None = None


def _training_images(settings: DataSettings, split: records.Split) -> _TrainingImages:
    every = np.arange(len(split))
    if settings.exemplar_probability == 0:
        return _TrainingImages(every, {})
    if settings.exemplar_list == "random":
        return _TrainingImages(every, None)
    listed, note = _resolve(settings.exemplar_list, "training images", split, split.keys)
    return _TrainingImages(np.array(list(listed)), listed, note)


def self_pairs(settings: DataSettings, split: records.Split) -> dict[int, tuple[int, ...]]:
    """For each image that has them, the positions of other views by `self_pair_list`.

    The list may name images outside the split, which are passed over: DeepFashion's lists serve
    training and validation.

    Raises:
      UserError: the list is not as it should be, or fits no image at all.
    """
    path = settings.self_pair_list
    if not path:
        return {}
    found: dict[int, tuple[int, ...]] = {}
    if path == "names":
        clothes: dict[str, list[int]] = {}
        for index, key in enumerate(split.keys):
            if (same := exemplars.same_clothes(key)) is not None:
                clothes.setdefault(same, []).append(index)
        for group in clothes.values():
            found |= {index: tuple(i for i in group if i != index) for index in group}
        # One view of each is nothing wrong; no such name is.
        fits = bool(clothes)
    else:
        listed = exemplars.resolve(path, split.keys, split.keys, pass_missing=True).references
        found = {i: tuple(view for view in views if view != i) for i, views in listed.items()}
        fits = bool(listed)
    if not fits:
        raise UserError(
            f"config.data.self_pair_list is {path!r}, which fits none of the {len(split)} training"
            f" images ({split.keys[0]}, ...); name DeepFashion's list, or set it to ''"
        )
    return {index: views for index, views in found.items() if views}


def _resolve(
    path: str, what: str, split: records.Split, references: list[str], *, first_only: bool = False
) -> tuple[dict[int, tuple[int, ...]], str | None]:
    """The images of a split that a list names with their exemplars, and a line on the others."""
    pairing = exemplars.resolve(path, split.keys, references, first_only=first_only)
    exemplars.require_any(path, pairing, split.keys, what)
    return pairing.references, exemplars.left_out(path, pairing, split.keys, what)


def _draw_exemplar(
    settings: DataSettings,
    listed: dict[int, tuple[int, ...]] | None,
    index: int,
    count: int,
    rng: np.random.Generator,
) -> int:
    """The position of the exemplar of image `index`."""
    # All numbers are drawn whether needed or not, so that what follows does not depend on it.
    foreign = rng.random() < settings.exemplar_probability
    hard = rng.random() < settings.hard_probability
    other = int(rng.integers(max(count - 1, 1)))
    if not foreign or count == 1:
        return index
    if listed is None:
        return other + (other >= index)
    return listed[index][-1 if hard else 0]


class _Pool:
    """Several splits as one sequence of records."""

    def __init__(self, splits: Sequence[records.Split]):
        self.keys = [key for split in splits for key in split.keys]
        self._splits = splits

    def record(self, index: int) -> bytes:
        for split in self._splits:
            if index < len(split):
                return split.record(index)
            index -= len(split)
        raise IndexError(index)


class _EvaluationPairs(NamedTuple):
    """What an evaluation takes.

    Attributes:
      images: the split.
      pool: what exemplars are taken from.
      references: position of each image -> that of its exemplar in `pool`, or None for the image
        itself.
      note: which images are left out, or None.
    """

    images: records.Split
    pool: _Pool
    references: dict[int, int | None]
    note: str | None = None


def _evaluation_pairs(settings: DataSettings, split: str) -> _EvaluationPairs:
    if split == "train" and settings.load_size != settings.image_size:
        raise ValueError("the training images at image_size are the split 'exemplars'")
    images = open_split(settings, split)
    if settings.validation_exemplar_list in ("", "random"):
        alone = not settings.validation_exemplar_list or len(images) == 1
        references: dict[int, int | None] = {}
        for index in range(len(images)):
            other = int(
                np.random.default_rng((_VALIDATION, index)).integers(max(len(images) - 1, 1))
            )
            references[index] = None if alone else other + (other >= index)
        return _EvaluationPairs(images, _Pool([images]), references)
    others = {"validation", "exemplars"} & images.siblings - {split}
    pool = _Pool([images, *(open_split(settings, name) for name in sorted(others))])
    path, what = settings.validation_exemplar_list, f"{split} images"
    listed, note = _resolve(path, what, images, pool.keys, first_only=True)
    first: dict[int, int | None] = {index: found[0] for index, found in listed.items()}
    return _EvaluationPairs(images, pool, first, note)


def _bytes(text: bytes) -> np.ndarray:
    # As an object: NumPy's own byte strings lose zeros at their end.
    return np.array(text, dtype=object)


def _cut(
    image: tf.Tensor, label: tf.Tensor, cut: tf.Tensor, size: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Crop and flip of image and label; `cut` is (top, left, flip)."""
    top, left, flip = tf.unstack(tf.ensure_shape(cut, (3,)))

    def apply(array: tf.Tensor) -> tf.Tensor:
        array = array[top : top + size, left : left + size]
        array = tf.ensure_shape(array, (size, size, None))
        return tf.cond(flip > 0, lambda: tf.reverse(array, [1]), lambda: array)

    return apply(image), apply(label)
