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
import dataclasses
import hashlib
import io
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
import tqdm
from PIL import Image

from cocosnet_jax.settings import DataSettings


@dataclasses.dataclass(kw_only=True)
class PairConfig(tfds.core.BuilderConfig):
    """What decides the bytes that are prepared; another value is another folder.

    Attributes:
      load_size: side of the images of `train`, in pixels.
      image_size: side of the images of the other splits, in pixels.
      classes: number of classes that a label map may hold.
      source: absolute folder with the dataset's own files; empty where they are drawn.
    """

    load_size: int
    image_size: int
    classes: int
    source: str = ""


def pair_config(settings: DataSettings) -> PairConfig:
    """The builder config of these settings, with a name that no other values share."""
    name = f"{settings.load_size}_{settings.image_size}"
    source = ""
    if settings.source:
        source = os.path.abspath(os.path.expanduser(settings.source))
        identity = f"{source}\n{settings.channels}"
        name += f"_{Path(source).name}_{hashlib.sha256(identity.encode()).hexdigest()[:8]}"
        name = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name)
    return PairConfig(
        name=name,
        load_size=settings.load_size,
        image_size=settings.image_size,
        classes=settings.channels,
        source=source,
    )


class PairBuilder(tfds.core.GeneratorBasedBuilder):
    """A dataset of pairs. A subclass names its keys and makes the pair of a key.

    Construct with `config=pair_config(settings)` and `file_format="array_record"`.
    """

    VERSION: ClassVar[tfds.core.Version] = tfds.core.Version("1.0.0")

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
                yield index, window.popleft().result()
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


def _png(array: np.ndarray) -> io.BytesIO:
    file = io.BytesIO()
    # Level 1: a tenth larger than the default, and several times faster to write.
    Image.fromarray(array).save(file, "png", compress_level=1)
    file.seek(0)
    return file


def decode(features: tfds.features.FeaturesDict, record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Image (S, S, 3) uint8 and label (S, S, p) uint8 of a record's bytes, in the graph."""
    example = features.deserialize_example(record)
    side = tf.shape(example["image"])[0]
    label = tf.reshape(example["label"], (-1, side, side))
    return example["image"], tf.transpose(label, (1, 2, 0))
