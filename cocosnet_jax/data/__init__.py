"""Datasets and the input pipeline.

    count_classes(settings)                    counts the classes in the user's label maps
    check(settings)                            checks lists and folders at once
    dataset = prepare(settings)                checks a dataset's files, writes its TFDS records
    dataset = open(settings)                   opens records that exist
    pipeline.training_batches(dataset, ...)    endless batches, determined by (seed, step)
    pipeline.evaluation_batches(dataset, ...)  every image exactly once

Importing this package is fast: the first function that needs TensorFlow imports it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cocosnet_jax.settings import DataSettings

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Int64

    from cocosnet_jax.data.dataset import Dataset


def count_classes(settings: DataSettings) -> Int64[np.ndarray, classes]:
    """Counts the pixels of each class in the user's label maps, (classes,) int64.

    Args:
      settings: with dataset `folder`; `channels` may be 0.

    Raises:
      UserError: label maps cannot be read, or contain class numbers that are too high; or the
        folder of prepared data cannot be written to, and no data are prepared there.
    """
    from cocosnet_jax import files
    from cocosnet_jax.data import builders, records

    builder = builders.open_builder(settings)
    assert isinstance(builder, builders.Folder)
    # The records' own folder is named by the number of classes, too.
    dataset_folder = builder.data_dir_root / builder.name
    if not files.is_url(dataset_folder) and not dataset_folder.exists():
        records.check_writable(builder)
    return builder.count_classes()


def prepare(settings: DataSettings) -> Dataset:
    """Writes the dataset's records if they are missing, after checking all of its files.

    Every call also checks the exemplar lists: that they can be read, before records are written,
    and that they match the images, afterwards. An interrupted preparation leaves nothing that
    counts as prepared. If several processes share a data folder, let one of them call first.

    Returns:
      The dataset; its `notes` are lines for the user.

    Raises:
      UserError: lists everything that is wrong with files, lists and settings.
    """
    from cocosnet_jax.data import dataset

    return dataset.prepare(settings)


def check(settings: DataSettings) -> None:
    """Checks what can be told at once: that lists can be read, and folders be used.

    Programs call it before what takes long, such as downloads. `prepare` checks all of it again.

    Raises:
      UserError: a list cannot be read; or the data are not prepared, and could not be.
    """
    from cocosnet_jax.data import dataset

    dataset.check(settings)


def open(settings: DataSettings) -> Dataset:
    """Opens a prepared dataset.

    Raises:
      UserError: it has not been prepared.
    """
    from cocosnet_jax.data import dataset

    return dataset.open_dataset(settings)
