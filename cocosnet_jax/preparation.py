"""A run's data, prepared by one process first."""

import jax

from cocosnet_jax import data, distributed, interrupt
from cocosnet_jax.settings import DataSettings


def prepare_data(settings: DataSettings) -> None:
    """Makes the dataset's records where they are missing; the first process goes first.

    Says which images the exemplar lists leave out.

    Raises:
      UserError: see `data.prepare`.
    """
    if jax.process_count() == 1:
        with interrupt.ends_in_order():
            _prepare_and_say(settings)
        return
    try:
        if distributed.is_lead():
            _prepare_and_say(settings)
    finally:
        # What is wrong with the data the others find as well, and all end with that.
        distributed.wait_for_all("the first has prepared its data")
    if not distributed.is_lead():
        # Finds the work done where the folder is shared, and does it where hosts have their own.
        data.prepare(settings)
    distributed.wait_for_all("all have prepared their data")


def _prepare_and_say(settings: DataSettings) -> None:
    for note in data.prepare(settings):
        distributed.say(note)
