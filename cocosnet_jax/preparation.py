"""Checks a run's data, and prepares them, in one process first."""

import jax

from cocosnet_jax import data, distributed, interrupt
from cocosnet_jax.data.dataset import Dataset
from cocosnet_jax.settings import DataSettings

_LONG = 7 * 24  # hours that writing records may take


def check_data(settings: DataSettings) -> None:
    """Checks lists and folders before what takes long, such as downloads.

    Of several processes, none does: only the first may have the source folder, and an error of one
    process alone would leave the others waiting.

    Raises:
      UserError: see `data.check`.
    """
    if jax.process_count() == 1:
        data.check(settings)


def prepare_data(settings: DataSettings) -> Dataset:
    """Writes the dataset's records if they are missing; the lead process goes first.

    Prints which images the exemplar lists leave out.

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
        # If the data have problems, all other processes stop with the same error.
        distributed.wait_for_all("the first has prepared its data", hours=_LONG)
    if not distributed.is_lead():
        # In a shared folder, the records exist; otherwise each host writes its own.
        dataset = data.prepare(settings)
    distributed.wait_for_all("all have prepared their data", hours=_LONG)
    return dataset


def _say_notes(dataset: Dataset) -> None:
    for note in dataset.notes:
        distributed.say(note)
