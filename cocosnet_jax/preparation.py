"""A run's data, prepared by one process first."""

import jax

from cocosnet_jax import data, distributed, interrupt
from cocosnet_jax.data.dataset import Dataset
from cocosnet_jax.settings import DataSettings


def prepare_data(settings: DataSettings) -> Dataset:
    """Makes the dataset's records where they are missing; the first process goes first.

    Says which images the exemplar lists leave out.

    Returns:
      The dataset, opened.

    Raises:
      UserError: see `data.prepare`.
    """
    if jax.process_count() == 1:
        with interrupt.sigterm_raises():
            dataset = data.prepare(settings)
        _say_notes(dataset)
        return dataset
    try:
        if distributed.is_lead():
            dataset = data.prepare(settings)
            _say_notes(dataset)
    finally:
        # What is wrong with the data the others find as well, and all end with that.
        distributed.wait_for_all("the first has prepared its data")
    if not distributed.is_lead():
        # Finds the work done where the folder is shared, and does it where hosts have their own.
        dataset = data.prepare(settings)
    distributed.wait_for_all("all have prepared their data")
    return dataset


def _say_notes(dataset: Dataset) -> None:
    for note in dataset.notes:
        distributed.say(note)
