"""Datasets and the input pipeline.

    found_classes(settings)           the classes in one's own label maps
    prepare(settings)                 checks a dataset's files and makes its TFDS records
    with_found(settings)              the settings with what preparation found in the files
    open_split(settings, split)       prepared pairs by position
    pipeline.training_batches(...)    endless batches, exact in (seed, step)
    pipeline.evaluation_batches(...)  every image exactly once

Importing this package is light: TensorFlow is loaded by the first function that needs it.
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import TYPE_CHECKING

from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import DataSettings

if TYPE_CHECKING:
    import numpy as np

    from cocosnet_jax.data.records import PairBuilder, Split

# Name in the settings: module of this package and class.
_BUILDERS = {
    "ade20k": ("ade20k", "Ade20k"),
    "ade20k_outdoor": ("ade20k", "Ade20kOutdoor"),
    "celebahq": ("celebahq", "Celebahq"),
    "celebahqedge": ("celebahq", "Celebahqedge"),
    "deepfashion": ("deepfashion", "Deepfashion"),
    "flickr": ("folder", "Flickr"),
    "folder": ("folder", "Folder"),
    "folder_edges": ("folder", "FolderEdges"),
    "folder_poses": ("folder", "FolderPoses"),
    "toy_scenes": ("toy_scenes", "ToyScenes"),
}


def open_builder(settings: DataSettings) -> PairBuilder:
    """The TFDS builder of `settings.dataset`, at its sizes; reads or writes nothing yet.

    Raises:
      UserError: there is no dataset of this name, or its maps are of another condition.
    """
    from cocosnet_jax.data import records

    if settings.dataset not in _BUILDERS:
        raise UserError(
            f"config.data.dataset is {settings.dataset!r}; it must be one of"
            f" {', '.join(sorted(_BUILDERS))}"
        )
    module, name = _BUILDERS[settings.dataset]
    builder_class = getattr(importlib.import_module(f"cocosnet_jax.data.{module}"), name)
    if settings.condition != builder_class.condition:
        raise UserError(
            f"config.data.condition is {settings.condition!r}, but {settings.dataset} has"
            f" {builder_class.condition!r}: start from its own file in configs/, or set it"
        )
    return records.open_builder(builder_class, settings)


def found_classes(settings: DataSettings) -> np.ndarray:
    """How many pixels each class has in one's own label maps, (classes,) int64.

    Args:
      settings: whose dataset is `folder`; `channels` may be 0.

    Raises:
      UserError: label maps cannot be read, or hold class numbers that are too high.
    """
    from cocosnet_jax.data.folder import Folder

    builder = open_builder(settings)
    assert isinstance(builder, Folder)
    return builder.found_classes()


def prepare(settings: DataSettings) -> list[str]:
    """Makes the dataset's records where they are missing, after checking all of its files.

    Exemplar lists are checked as well, on every call: before anything is made, that they can be
    read; after it, that they fit. Interrupted preparation leaves nothing that counts as prepared.
    Where several processes share a data folder, let one of them call first.

    Returns:
      Lines for the user: which images the exemplar lists leave out.

    Raises:
      UserError: everything that is wrong, at once: files, lists and settings.
    """
    from cocosnet_jax.data import pipeline, records

    builder = open_builder(settings)
    # Preparation takes hours.
    pipeline.read_lists(settings)
    records.prepare(builder)
    return pipeline.check_lists(settings)


def with_found(settings: DataSettings) -> DataSettings:
    """The settings with those fields that the prepared dataset's own files decide.

    Translation from a checkpoint has only the settings: classes and their colours travel in them.
    """
    found = open_builder(settings).info.metadata.get("settings", {})
    return dataclasses.replace(settings, **found)


def open_split(settings: DataSettings, split: str) -> Split:
    """The prepared pairs of `train`, `validation` or `exemplars`, by position.

    Raises:
      UserError: the dataset has not been prepared.
    """
    from cocosnet_jax.data import records

    return records.open_split(open_builder(settings), split)
