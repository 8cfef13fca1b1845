"""Makes batches from prepared records with tf.data (SPEC section 1).

The random choices for a training sample depend only on (seed, position), where position =
step * batch_size + row counts samples since the start of training. So a run can resume at any step
at no cost, and the samples do not depend on the number of processes.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from jaxtyping import Bool, Int64

from cocosnet_jax.data import distortions, records
from cocosnet_jax.data.dataset import Dataset
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import DataSettings
from cocosnet_jax.types import Batch

# Random streams: the second word of every NumPy seed.
_ORDER, _SAMPLE = range(2)

# Python's `if` never depends on a tensor here. AutoGraph would rewrite the source of each function,
# and leave a file in the temporary folder for each if the process is killed.
_as_written = tf.autograph.experimental.do_not_convert


def training_batches(
    dataset: Dataset,
    *,
    seed: int,
    batch_size: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    accumulate: int = 1,
) -> Iterator[Batch]:
    """Endless training batches, from `start_step` on.

    Every epoch uses every image once, in a new order; with an exemplar list, every image that the
    list names. Image and label share a random flip and a random crop of image_size from load_size;
    exemplar and exemplar label share another. With `exemplar_probability` the exemplar comes from
    the list. Otherwise it is a random other view of the same person from `self_pair_list`, or the
    image itself, distorted according to `settings.distortion`; `self_reference` is 1 for both.

    Args:
      dataset: the data and their settings.
      seed: determines all random choices.
      batch_size: samples per step over all processes.
      start_step: step of the first batch.
      process_index: this process, of `process_count`; it gets the rows from
        process_index * batch_size / process_count on.
      process_count: number of processes that share a batch.
      accumulate: number of small batches, each of consecutive samples, that a batch consists of.
        The process gets its rows of the first, then those of the second, and so on.

    Returns:
      An iterator of `Batch` with NumPy leaves.

    Raises:
      UserError: an exemplar list does not match the data, or the batch size is not a multiple of
        `process_count`.
    """
    rows = rows_of("config.train.batch_size", batch_size, process_index, process_count, accumulate)
    settings, split, pairs = dataset.settings, dataset.split("train"), dataset.training
    size = settings.image_size
    geometric = settings.distortion == "geometric"

    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng((seed, _ORDER, epoch)).permutation(len(pairs))

    def fetch(position: int) -> tuple[Any, ...]:
        epoch, place = divmod(int(position), len(pairs))
        index = int(pairs.images[order(epoch)[place]])
        rng = np.random.default_rng((seed, _SAMPLE, int(position)))
        reference = _draw_exemplar(settings, pairs.listed, index, len(split), rng)
        foreign = reference != index
        crops = rng.integers(0, settings.load_size - size + 1, (2, 2))
        flips = rng.integers(0, 2, 2) * settings.flip
        distortion = distortions.draw(rng)
        if not foreign and index in pairs.views:
            reference = int(rng.choice(pairs.views[index]))
        return (
            _bytes(split.record(index)),
            _bytes(split.record(reference)),
            np.float32(not foreign),
            reference == index,
            np.stack([*crops.T, flips], axis=1).astype(np.int32),
            *distortion,
        )

    @_as_written
    def load(position: tf.Tensor) -> Batch:
        record, reference, self_reference, same, cuts, affine, displacement = tf.numpy_function(
            fetch,
            [position],
            [tf.string, tf.string, tf.float32, tf.bool, tf.int32, tf.float32, tf.float32],
        )
        image, label = _crop_and_flip(*records.decode(split.features, record), cuts[0], size)
        exemplar, exemplar_label = _crop_and_flip(
            *records.decode(split.features, reference), cuts[1], size
        )
        if geometric:
            distortion = distortions.Distortion(affine, displacement)

            def distorted() -> tuple[tf.Tensor, tf.Tensor]:
                grid = distortions.sampling_grid(distortion, size)
                return (
                    tf.ensure_shape(distortions.sample_image(exemplar, grid), (size, size, 3)),
                    distortions.sample_label(exemplar_label, grid),
                )

            # Another view is not distorted; it already differs.
            exemplar, exemplar_label = tf.cond(same, distorted, lambda: (exemplar, exemplar_label))
        return Batch(image, exemplar, label, exemplar_label, tf.ensure_shape(self_reference, ()))

    positions = (
        tf.data.Dataset.counter(start_step, dtype=tf.int64)
        .map(_as_written(lambda step: step * batch_size + rows))
        .unbatch()
    )
    batches = positions.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    batches = batches.batch(len(rows), drop_remainder=True).prefetch(2)
    return batches.as_numpy_iterator()


def evaluation_batches(
    dataset: Dataset,
    *,
    batch_size: int,
    split: str = "validation",
    process_index: int = 0,
    process_count: int = 1,
    only: Sequence[int] | None = None,
) -> Iterator[tuple[Batch, Bool[np.ndarray, "b"], list[str]]]:
    """Every image of the split exactly once over all processes, uncropped, with its exemplar.

    The exemplar is the first entry of the image's line in `validation_exemplar_list`; images
    without a line are left out. With `random` it is another image of the split, the same at every
    call. Without a list it is the image itself.

    Args:
      dataset: the data and their settings.
      batch_size: samples per step over all processes.
      split: `validation`, or `exemplars` for the training images.
      process_index: as in `training_batches`.
      process_count: as in `training_batches`.
      only: numbers of the batches to read; None for all.

    Returns:
      An iterator over (batch, valid, keys). Copies of the last image fill the last batches; their
      entry in valid, (b,) bool, is False, and their key is empty. All processes get the same number
      of batches.

    Raises:
      UserError: as `training_batches`.
    """
    rows = rows_of("config.train.evaluation_batch_size", batch_size, process_index, process_count)
    pairs = dataset.evaluation(split)
    images, chosen = pairs.images, list(pairs.references)

    def fetch(position: int) -> tuple[Any, ...]:
        valid = bool(position < len(chosen))
        index = chosen[int(position) if valid else -1]
        record, reference = images.record(index), pairs.references[index]
        return (
            _bytes(record),
            _bytes(record if reference is None else pairs.pool.record(reference)),
            np.float32(reference is None),
            valid,
            _bytes(images.keys[index].encode() if valid else b""),
        )

    @_as_written
    def load(position: tf.Tensor) -> tuple[Batch, tf.Tensor, tf.Tensor]:
        record, reference, itself, valid, key = tf.numpy_function(
            fetch, [position], [tf.string, tf.string, tf.float32, tf.bool, tf.string]
        )
        image, label = records.decode(images.features, record)
        exemplar, exemplar_label = records.decode(images.features, reference)
        return Batch(image, exemplar, label, exemplar_label, itself), valid, key

    steps = range(-(-len(chosen) // batch_size)) if only is None else only
    numbers = tf.data.Dataset.from_tensor_slices(np.array(steps, np.int64))
    positions = numbers.map(_as_written(lambda step: step * batch_size + rows)).unbatch()
    batches = positions.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    batches = batches.batch(len(rows), drop_remainder=True).prefetch(2)
    return (
        (batch, valid, [key.decode() for key in keys])
        for batch, valid, keys in batches.as_numpy_iterator()
    )


def rows_of(
    field: str, batch_size: int, process_index: int, process_count: int, accumulate: int = 1
) -> Int64[np.ndarray, "rows"]:
    """The rows of a batch that a process loads: its part of each small batch."""
    if batch_size % (process_count * accumulate):
        raise UserError(
            f"{field} is {batch_size}, but it must be a multiple of the number of processes,"
            f" {process_count}"
            + (f", times config.train.accumulate, {accumulate}" * (accumulate > 1))
        )
    rows = np.arange(batch_size, dtype=np.int64).reshape(accumulate, process_count, -1)
    return rows[:, process_index].reshape(-1)


def _draw_exemplar(
    settings: DataSettings,
    listed: dict[int, tuple[int, ...]] | None,
    index: int,
    count: int,
    rng: np.random.Generator,
) -> int:
    """The position of the exemplar of image `index`."""
    # Always draw all numbers, so that later draws do not depend on which are needed.
    foreign = rng.random() < settings.exemplar_probability
    hard = rng.random() < settings.hard_probability
    other = int(rng.integers(max(count - 1, 1)))
    if not foreign or count == 1:
        return index
    if listed is None:
        return other + (other >= index)
    return listed[index][-1 if hard else 0]


def _bytes(text: bytes) -> np.ndarray:
    # dtype object, because NumPy's byte strings lose trailing zeros.
    return np.array(text, dtype=object)


def _crop_and_flip(
    image: tf.Tensor, label: tf.Tensor, cut: tf.Tensor, size: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Crops and flips image and label; `cut` is (top, left, flip)."""
    top, left, flip = tf.unstack(tf.ensure_shape(cut, (3,)))

    def apply(array: tf.Tensor) -> tf.Tensor:
        array = array[top : top + size, left : left + size]
        array = tf.ensure_shape(array, (size, size, None))
        return tf.cond(flip > 0, lambda: tf.reverse(array, [1]), lambda: array)

    return apply(image), apply(label)
