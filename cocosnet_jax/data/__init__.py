"""Datasets and the input pipeline.

    found_classes(settings)                    the classes in one's own label maps
    dataset = prepare(settings)                checks a dataset's files, makes its TFDS records
    dataset = open(settings)                   the records that were made before
    pipeline.training_batches(dataset, ...)    endless batches, exact in (seed, step)
    pipeline.evaluation_batches(dataset, ...)  every image exactly once

Importing this package is light: TensorFlow is loaded by the first function that needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cocosnet_jax.settings import DataSettings

if TYPE_CHECKING:
    import numpy as np

    from cocosnet_jax.data.dataset import Dataset


def found_classes(settings: DataSettings) -> np.ndarray:
    """How many pixels each class has in one's own label maps, (classes,) int64.

    Args:
      settings: whose dataset is `folder`; `channels` may be 0.

    Raises:
      UserError: label maps cannot be read, or hold class numbers that are too high.
    """
    from cocosnet_jax.data import builders

    builder = builders.open_builder(settings)
    assert isinstance(builder, builders.Folder)
    return builder.found_classes()


def prepare(settings: DataSettings) -> Dataset:
    """Makes the dataset's records where they are missing, after checking all of its files.

    Exemplar lists are checked as well, on every call: before anything is made, that they can be
    read; after it, that they fit. Interrupted preparation leaves nothing that counts as prepared.
    Where several processes share a data folder, let one of them call first.

    Returns:
      The dataset; its `notes` are lines for the user.

    Raises:
      UserError: everything that is wrong, at once: files, lists and settings.
    """
    from cocosnet_jax.data import dataset

    return dataset.prepare(settings)


def open(settings: DataSettings) -> Dataset:
    """The dataset as it was prepared.

    Raises:
      UserError: it has not been prepared.
    """
    from cocosnet_jax.data import dataset

    return dataset.open_dataset(settings)
