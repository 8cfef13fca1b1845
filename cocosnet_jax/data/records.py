"""Prepared records: writes them, checks that they exist and are up to date, and reads them.

`cocosnet_jax.data.pair_builder` describes their format.
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
from cocosnet_jax.data.pair_builder import ImagePair, PairBuilder, pair_config
from cocosnet_jax.errors import StorageError, UserError
from cocosnet_jax.settings import DataSettings

# The accelerator is for JAX: TensorFlow would take its memory.
tf.config.set_visible_devices([], "GPU")


_INFO = "dataset_info.json"  # TFDS's name


@contextlib.contextmanager
def _quiet_absl() -> Iterator[None]:
    """Hides TFDS's log of its steps, which tells users nothing new."""
    before = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    try:
        yield
    finally:
        absl_logging.set_verbosity(before)


def decode(
    features: tfds.features.FeaturesDict, record: tf.Tensor | bytes
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes a record into image (S, S, 3) uint8 and label (S, S, p) uint8, in the graph."""
    example = features.deserialize_example(record)
    side = tf.shape(example["image"])[0]
    label = tf.reshape(example["label"], (-1, side, side))
    return example["image"], tf.transpose(label, (1, 2, 0))


def open_builder(builder_class: type[PairBuilder], settings: DataSettings) -> PairBuilder:
    """Makes a builder of that class for these settings.

    Raises:
      UserError: the data are in a bucket that cannot be used.
    """
    if files.is_url(settings.data_dir):
        files.check_bucket(settings.data_dir)
    with _quiet_absl():
        return builder_class(
            config=pair_config(settings),
            data_dir=os.path.expanduser(settings.data_dir) or None,
            file_format="array_record",
        )


def is_prepared(builder: PairBuilder) -> bool:
    """Whether complete records exist: TFDS gives their folder its name after the last write."""
    return (epath.Path(builder.data_dir) / _INFO).exists()


def check_prepared(builder: PairBuilder) -> None:
    """Raises a `UserError` if the records do not exist."""
    if not is_prepared(builder):
        raise UserError(
            f"there is no prepared data in {builder.data_dir}; first run python -m"
            " cocosnet_jax.prepare with the same config and data folder"
        )


def prepare(builder: PairBuilder) -> None:
    """Checks the dataset's files and writes the records, unless they exist.

    Raises:
      UserError: the files have problems, or the records cannot be written.
    """
    if is_prepared(builder):
        if not _matches_sources(builder):
            raise UserError(
                f"the files in {builder.builder_config.source} have changed since they were"
                f" prepared; delete {builder.data_dir} to prepare them again"
            )
        return
    check_can_prepare(builder)
    builder.check()
    try:
        with _quiet_absl(), contextlib.redirect_stdout(io.StringIO()):
            tfds.disable_progress_bar()  # Ours knows the total.
            builder.download_and_prepare()
    except (OSError, RuntimeError) as error:
        # Another process may have prepared the same folder first.
        if is_prepared(builder):
            return
        # ArrayRecord reports a full disk as a RuntimeError.
        if isinstance(error, RuntimeError) and "writing" not in str(error):
            raise
        raise StorageError(
            f"prepared data cannot be written to {builder.data_dir} ({error}); free some"
            " space, or choose another folder with config.data.data_dir"
        ) from error


def check_can_prepare(builder: PairBuilder) -> None:
    """Checks what can be told at once, because reading all files takes long.

    Raises:
      UserError: the source folder is not the dataset's, or records cannot be written.
    """
    if files.is_url(builder.data_dir):
        root = builder.data_dir_root
        raise UserError(
            f"there is no prepared data in {builder.data_dir}, and records cannot be written to a"
            " bucket directly; run python -m cocosnet_jax.prepare with the same config and"
            " --config.data.data_dir=FOLDER, then copy the result: gcloud storage cp -r"
            f" FOLDER/{builder.name} {root}/"
        )
    _ = builder.root  # Raises where the source is not the dataset's.
    check_writable(builder)


def check_writable(builder: PairBuilder) -> None:
    """Raises a `UserError` unless the records' folder can be written to."""
    existing, error = files.probe(str(builder.data_dir))
    if error is not None:
        raise UserError(
            f"prepared data cannot be written to {builder.data_dir}: {error.strerror} in"
            f" {existing}; change its permissions, or choose another folder with"
            " config.data.data_dir"
        ) from error


# Beside the records: quick digests of copies of the source files with the same content.
_SAME = "same_files.json"
_COPIES = 100  # The newest are kept.


def _matches_sources(builder: PairBuilder) -> bool:
    """Whether the records come from the files that are in the source folder now."""
    paths, folder = builder.own_files(), Path(builder.builder_config.source)
    if not paths:
        return True
    metadata, records_folder = builder.info.metadata, epath.Path(builder.data_dir)
    if "content" not in metadata:
        # The first version kept no digest of the content.
        return not source_files.changed_after(paths, (records_folder / _INFO).stat().mtime)
    same_file = records_folder / _SAME
    same = json.loads(same_file.read_text()) if same_file.exists() else []
    quick = source_files.quick_digest(folder, paths)
    if quick in (metadata["files"], *same):
        return True
    if source_files.content_digest(folder, paths) != metadata["content"]:
        return False
    # Saves the next start from reading the files. If writing fails, it reads them again.
    with contextlib.suppress(StorageError):
        files.write(same_file, json.dumps([*same, quick][-_COPIES:]).encode())
    return True


class Split:
    """The records of a split, with random access.

    `split[i]` is a pair: image (S, S, 3) uint8 and label (S, S, p) uint8. `keys` names the images,
    `siblings` all splits of the dataset. Reading is thread-safe.
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
            self.record(0)  # Reading a record opens the files.
        except RuntimeError as error:
            raise UserError(
                f"the records in {builder.data_dir} cannot be read ({error}); copy them again, or"
                " delete the folder to prepare them again"
            ) from error

    def __len__(self) -> int:
        return len(self.keys)

    def record(self, index: int) -> bytes:
        """The bytes of a record, for `decode`."""
        return self._source[index]

    def __getitem__(self, index: int) -> ImagePair:
        example = self.features.deserialize_example_np(self.record(index))
        side = example["image"].shape[0]
        return example["image"], np.moveaxis(example["label"].reshape(-1, side, side), 0, -1)


def open_split(builder: PairBuilder, name: str) -> Split:
    """Opens a split of prepared data.

    Raises:
      UserError: the dataset has not been prepared, or has no such split.
    """
    check_prepared(builder)
    keys = builder.info.metadata["keys"]
    if name not in keys:
        raise UserError(f"dataset {builder.name} has no split {name!r}; it has {', '.join(keys)}")
    return Split(builder, name)
