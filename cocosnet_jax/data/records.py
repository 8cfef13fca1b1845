"""Prepared records: writing them, whether they are there and up to date, and reading them.

`cocosnet_jax.data.pair_builder` says what they hold.
"""

import contextlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging as absl_logging
from etils import epath

from cocosnet_jax import files
from cocosnet_jax.data import source_files
from cocosnet_jax.data.pair_builder import PairBuilder, pair_config
from cocosnet_jax.errors import StorageError, UserError
from cocosnet_jax.settings import DataSettings

# The accelerator belongs to JAX: TensorFlow would take its memory.
tf.config.set_visible_devices([], "GPU")


_INFO = "dataset_info.json"  # by TFDS


@contextlib.contextmanager
def _quiet_absl() -> Iterator[None]:
    """Keeps TFDS's log of every step to itself, which says nothing that we don't."""
    before = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    try:
        yield
    finally:
        absl_logging.set_verbosity(before)


def decode(
    features: tfds.features.FeaturesDict, record: tf.Tensor | bytes
) -> tuple[tf.Tensor, tf.Tensor]:
    """Image (S, S, 3) uint8 and label (S, S, p) uint8 of a record's bytes, in the graph."""
    example = features.deserialize_example(record)
    side = tf.shape(example["image"])[0]
    label = tf.reshape(example["label"], (-1, side, side))
    return example["image"], tf.transpose(label, (1, 2, 0))


def open_builder(builder_class: type[PairBuilder], settings: DataSettings) -> PairBuilder:
    """A builder of that class for these settings."""
    with _quiet_absl():
        return builder_class(
            config=pair_config(settings),
            data_dir=os.path.expanduser(settings.data_dir) or None,
            file_format="array_record",
        )


def is_prepared(builder: PairBuilder) -> bool:
    """Whether the records are there, complete: TFDS renames their folder when all is written."""
    return (epath.Path(builder.data_dir) / _INFO).exists()


def check_prepared(builder: PairBuilder) -> None:
    """Raises a `UserError` where the records are not there."""
    if not is_prepared(builder):
        raise UserError(
            f"there is no prepared data in {builder.data_dir}: run python -m"
            " cocosnet_jax.prepare with the same config and data folder first"
        )


def prepare(builder: PairBuilder) -> None:
    """Checks the dataset's files and writes the records, unless they are there already.

    Raises:
      UserError: what is wrong with the files, or why the records cannot be written.
    """
    if is_prepared(builder):
        if not _is_of_these_files(builder):
            raise UserError(
                f"the files in {builder.builder_config.source} have changed since they were"
                f" prepared: delete {builder.data_dir} to prepare them again"
            )
        return
    if files.is_url(builder.data_dir):
        root = builder.data_dir_root
        raise UserError(
            f"there is no prepared data in {builder.data_dir}, and records are written to folders"
            " of this machine only: run python -m cocosnet_jax.prepare with the same config and"
            f" --config.data.data_dir=FOLDER, then copy it: gcloud storage cp -r"
            f" FOLDER/{builder.name} {root}/"
        )
    builder.check()
    try:
        with _quiet_absl(), contextlib.redirect_stdout(io.StringIO()):
            tfds.disable_progress_bar()  # ours knows how much there is to do
            builder.download_and_prepare()
    except (OSError, RuntimeError) as error:
        # Another process may have been faster: both then try to give the folder its name.
        if is_prepared(builder):
            return
        # A disk that is full is a RuntimeError to the library that writes records.
        if isinstance(error, RuntimeError) and "writing" not in str(error):
            raise
        raise StorageError(
            f"prepared data cannot be written to {builder.data_dir} ({error}); free some"
            " space, or choose another folder with config.data.data_dir"
        ) from error


# Beside the records: quick digests of copies whose content was compared and is the same.
_SAME = "same_files.json"
_COPIES = 100  # of which the newest are kept


def _is_of_these_files(builder: PairBuilder) -> bool:
    """Whether the records were made of the files that lie in the source folder now."""
    paths, folder = builder.own_files(), Path(builder.builder_config.source)
    if not paths:
        return True
    metadata, place = builder.info.metadata, epath.Path(builder.data_dir)
    if "content" not in metadata:
        # Records of the first version, which kept no digest of the content.
        return not source_files.changed_after(paths, (place / _INFO).stat().mtime)
    same = json.loads((place / _SAME).read_text()) if (place / _SAME).exists() else []
    quick = source_files.quick_digest(folder, paths)
    if quick in (metadata["files"], *same):
        return True
    if source_files.content_digest(folder, paths) != metadata["content"]:
        return False
    # The next start need not read them again. Where this cannot be written, it does.
    with contextlib.suppress(StorageError):
        files.write(place / _SAME, json.dumps([*same, quick][-_COPIES:]).encode())
    return True


class Split:
    """The records of a split: `keys`, their number, and each by position.

    `split[i]` is the pair: image (S, S, 3) uint8 and label (S, S, p) uint8. `siblings` names all
    splits of the dataset. Reading is safe from several threads.
    """

    def __init__(self, builder: PairBuilder, name: str):
        keys = builder.info.metadata["keys"]
        self.keys: list[str] = keys[name]
        self.siblings = set(keys)
        self.features = builder.info.features
        self._source = builder.as_data_source(
            name, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )
        try:
            self.record(0)  # Files are opened by the first record that is read.
        except RuntimeError as error:
            raise UserError(
                f"the records in {builder.data_dir} cannot be read ({error}); copy them anew, or"
                " delete the folder to prepare them again"
            ) from error

    def __len__(self) -> int:
        return len(self.keys)

    def record(self, index: int) -> bytes:
        """The bytes of a record, for `decode`."""
        return self._source[index]

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        example = self.features.deserialize_example_np(self.record(index))
        side = example["image"].shape[0]
        return example["image"], np.moveaxis(example["label"].reshape(-1, side, side), 0, -1)


def open_split(builder: PairBuilder, name: str) -> Split:
    """A split of prepared data.

    Raises:
      UserError: the dataset has not been prepared, or has no such split.
    """
    check_prepared(builder)
    keys = builder.info.metadata["keys"]
    if name not in keys:
        raise UserError(f"dataset {builder.name} has no split {name!r}, only {', '.join(keys)}")
    return Split(builder, name)
