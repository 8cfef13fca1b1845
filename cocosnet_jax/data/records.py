"""How prepared data lies on disk: one layout for every dataset, written and read by TFDS.

Every dataset is a `PairBuilder`: pairs of a photograph and its input-domain map, resized once
when they are prepared, in ArrayRecord files that are read by position. An example holds

    key    text, the photograph's path relative to the dataset, with forward slashes
    image  PNG, (S, S, 3) uint8
    label  PNG, (p * S, S, 1) uint8: the p planes of `Batch.label` one below the other

Splits, where `load_size` and `image_size` are those of `DataSettings`:

    train       at load_size: training crops are taken from it
    validation  at image_size
    exemplars   the photographs of `train` at image_size, for validation images whose exemplar is
                a training photograph. Optional: a dataset whose validation exemplars all come
                from `validation` leaves it out.

Examples keep the order of their keys, and the keys of every split lie in `metadata.json` beside
the records, so that a key is found without reading a record.
"""

import abc
import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import io
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
import tqdm
from absl import logging as absl_logging
from etils import epath
from PIL import Image

from cocosnet_jax import files
from cocosnet_jax.data import source_files
from cocosnet_jax.errors import StorageError, UserError
from cocosnet_jax.settings import DataSettings

# The accelerator belongs to JAX: TensorFlow would take its memory.
tf.config.set_visible_devices([], "GPU")


_INFO = "dataset_info.json"  # by TFDS


@dataclasses.dataclass(kw_only=True)
class PairConfig(tfds.core.BuilderConfig):
    """What decides the bytes that are prepared; another value is another folder.

    Attributes:
      load_size: side of the images of `train`, in pixels.
      image_size: side of the images of the other splits, in pixels.
      classes: number of classes that a label map may hold.
      source: absolute folder with the dataset's own files; empty where they are drawn.
      value_255: what 255 means in one's own label maps, as in `DataSettings`.
      pose_size: in which pictures poses were detected, as in `DataSettings`.
    """

    load_size: int
    image_size: int
    classes: int
    source: str = ""
    value_255: str = ""
    pose_size: str = ""


def pair_config(settings: DataSettings) -> PairConfig:
    """The builder config of these settings, with a name that no other values share."""
    name = f"{settings.load_size}_{settings.image_size}_{settings.channels}"
    if settings.value_255:
        name += f"_255-{settings.value_255}"
    source = ""
    if settings.pose_size:
        name += f"_poses-{settings.pose_size}"
    if settings.source:
        source = os.path.abspath(files.local(settings.source, "config.data.source"))
        name += f"_{Path(source).name}_{hashlib.sha256(source.encode()).hexdigest()[:8]}"
        name = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name)
    return PairConfig(
        name=name,
        load_size=settings.load_size,
        image_size=settings.image_size,
        classes=settings.channels,
        source=source,
        value_255=settings.value_255,
        pose_size=settings.pose_size,
    )


class PairBuilder(tfds.core.GeneratorBasedBuilder):
    """A dataset of pairs. A subclass names its keys and makes the pair of a key.

    Construct with `config=pair_config(settings)` and `file_format="array_record"`.
    """

    # Of the code that makes pixels and planes. It is part of the folder's name, so a new number
    # leaves records of older code alone. `tests/data/test_version.py` says when one is due.
    VERSION: ClassVar[tfds.core.Version] = tfds.core.Version("1.0.0")
    # What `data.condition` must be.
    condition: ClassVar[str] = "labels"
    # Nothing is downloaded. Said here, because TFDS looks for a list of addresses beside the
    # module otherwise, with a package (importlib_resources) that it does not require.
    url_infos: ClassVar[dict[str, Any]] = {}

    @abc.abstractmethod
    def split_keys(self) -> Mapping[str, Sequence[str]]:
        """The keys of every split, in their order; at least `train` and `validation`."""

    @abc.abstractmethod
    def make_pair(self, split: str, key: str) -> tuple[np.ndarray, np.ndarray]:
        """The pair of a key, called from many threads.

        Returns:
          Image (S, S, 3) uint8 and label (S, S, p) uint8, with S = `self.side(split)`.
        """

    def check(self) -> None:
        """Raises a `UserError` that lists everything wrong with the dataset's own files."""

    def own_files(self) -> Sequence[Path]:
        """The dataset's own files that records are made of, below the source folder, in order.

        Empty where the data are drawn, or the source is not there.
        """
        return ()

    def found_settings(self) -> dict[str, str]:
        """Fields of `DataSettings` that the dataset's own files decide."""
        return {}

    def side(self, split: str) -> int:
        """S of a split's images, in pixels."""
        config = self.builder_config
        return config.load_size if split == "train" else config.image_size

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "key": tfds.features.Text(),
                "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                "label": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
            }
        )
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=features,
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, Any]]]:
        del dl_manager
        keys = {split: list(keys) for split, keys in self.split_keys().items()}
        self.info.metadata["keys"] = keys
        self.info.metadata["settings"] = self.found_settings()
        if paths := self.own_files():
            folder = Path(self.builder_config.source)
            self.info.metadata["files"] = source_files.quick_digest(folder, paths)
            self.info.metadata["content"] = source_files.content_digest(folder, paths)
        return {split: self._generate_examples(split, keys[split]) for split in keys}

    def _generate_examples(self, split: str, keys: list[str]) -> Iterator[tuple[int, Any]]:
        # Threads suffice: decoding, resizing and encoding leave the interpreter lock alone.
        # A window of tasks, not all of them at once, bounds the memory.
        workers = os.cpu_count() or 1
        progress = tqdm.tqdm(total=len(keys), desc=f"{self.name} {split}", unit=" images")
        pool = concurrent.futures.ThreadPoolExecutor(workers)
        window: collections.deque[concurrent.futures.Future[dict[str, Any]]] = collections.deque()
        waiting = iter(keys)
        try:
            for index in range(len(keys)):
                for key in itertools.islice(waiting, 4 * workers - len(window)):
                    window.append(pool.submit(self._encode, split, key))
                # TFDS sorts by these numbers, in buckets of equal parts of 128 bits: spread over
                # them, so that it never holds more than a thousandth of the split in memory.
                yield index * (2**128 // len(keys)), window.popleft().result()
                progress.update()
        finally:
            progress.close()
            pool.shutdown(wait=True, cancel_futures=True)

    def _encode(self, split: str, key: str) -> dict[str, Any]:
        image, label = self.make_pair(split, key)
        side = self.side(split)
        assert image.shape == (side, side, 3), (key, image.shape)
        assert image.dtype == np.uint8, (key, image.dtype)
        assert label.shape[:2] == (side, side), (key, label.shape)
        assert label.dtype == np.uint8, (key, label.dtype)
        stacked = np.moveaxis(label, -1, 0).reshape(-1, side)
        return {"key": key, "image": _png(image), "label": _png(stacked)}


@contextlib.contextmanager
def _quiet_absl() -> Iterator[None]:
    """Keeps TFDS's log of every step to itself, which says nothing that we don't."""
    before = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    try:
        yield
    finally:
        absl_logging.set_verbosity(before)


def _png(array: np.ndarray) -> io.BytesIO:
    file = io.BytesIO()
    # Level 1: a tenth larger than the default, and several times faster to write.
    Image.fromarray(array).save(file, "png", compress_level=1)
    file.seek(0)
    return file


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
    if not is_prepared(builder):
        raise UserError(
            f"there is no prepared data in {builder.data_dir}: run python -m"
            " cocosnet_jax.prepare with the same config and data folder first"
        )
    keys = builder.info.metadata["keys"]
    if name not in keys:
        raise UserError(f"dataset {builder.name} has no split {name!r}, only {', '.join(keys)}")
    return Split(builder, name)
