"""The format of prepared data on disk, the same for every dataset, written and read by TFDS.

Every dataset is a `PairBuilder`: pairs of a photograph and its input-domain map, resized once
during preparation, in ArrayRecord files with random access. An example has the features

    key    text, the photograph's path relative to the dataset, with forward slashes
    image  PNG, (S, S, 3) uint8
    label  PNG, (p * S, S, 1) uint8: the p planes of `Batch.label`, stacked vertically

Splits, with `load_size` and `image_size` of `DataSettings`:

    train       at load_size: training crops are taken from it
    validation  at image_size
    exemplars   the photographs of `train` at image_size, for validation images whose exemplar is
                a training photograph. A dataset whose validation exemplars all come from
                `validation` leaves it out.

Examples are in the order of their keys. `metadata.json`, beside the records, lists the keys of
every split, so that looking up a key reads no record.
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
import tensorflow_datasets as tfds
import tqdm
from jaxtyping import UInt8
from PIL import Image

from cocosnet_jax import files
from cocosnet_jax.data import source_files
from cocosnet_jax.settings import DataSettings

# A photograph and the planes of its input map.
ImagePair = tuple[UInt8[np.ndarray, "side side 3"], UInt8[np.ndarray, "side side planes"]]


@dataclasses.dataclass(kw_only=True)
class PairConfig(tfds.core.BuilderConfig):
    """The values that determine the prepared bytes; each combination has its own folder.

    Attributes:
      load_size: side of the images of `train`, in pixels.
      image_size: side of the images of the other splits, in pixels.
      classes: number of classes that a label map may contain.
      source: absolute folder with the dataset's own files; empty for generated data.
      value_255: meaning of 255 in the user's label maps, as in `DataSettings`.
      pose_size: size of the pictures in which poses were detected, as in `DataSettings`.
    """

    load_size: int
    image_size: int
    classes: int
    source: str = ""
    value_255: str = ""
    pose_size: str = ""


def pair_config(settings: DataSettings) -> PairConfig:
    """The builder config of these settings, under a name unique to its values."""
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


class _Info(tfds.core.DatasetInfo):
    def initialize_from_bucket(self) -> None:
        """TFDS knows nothing of these datasets: looking leaves an empty temporary folder."""


class PairBuilder(tfds.core.GeneratorBasedBuilder):
    """A dataset of pairs. A subclass lists its keys and makes the pair of a key.

    Construct with `config=pair_config(settings)` and `file_format="array_record"`.
    """

    # Version of the code that makes pixels and planes, part of the folder's name: a new version
    # does not reuse older records. `tests/data/test_version.py` fails when a new one is due.
    VERSION: ClassVar[tfds.core.Version] = tfds.core.Version("1.0.0")
    # The required value of `data.condition`.
    condition: ClassVar[str] = "labels"
    # Nothing is downloaded. Without this, TFDS looks for a list of URLs beside the module, using a
    # package (importlib_resources) that it does not require.
    url_infos: ClassVar[dict[str, Any]] = {}

    @abc.abstractmethod
    def split_keys(self) -> Mapping[str, Sequence[str]]:
        """The keys of every split, in order; at least `train` and `validation`."""

    @abc.abstractmethod
    def make_pair(self, split: str, key: str) -> ImagePair:
        """Makes the pair of a key; called from many threads.

        Returns:
          Image (S, S, 3) uint8 and label (S, S, p) uint8, with S = `self.side(split)`.
        """

    def check(self) -> None:
        """Raises a `UserError` that lists all problems of the dataset's own files."""

    @property
    def root(self) -> Path:
        """The folder of the dataset's own files: the source, or a folder in it.

        Raises:
          UserError: the source is not the dataset's; generated data need none.
        """
        return Path(self.builder_config.source)

    def own_files(self) -> Sequence[Path]:
        """The files below the source folder that records are made from, in order.

        Empty for generated data, or if the source folder does not exist.
        """
        return ()

    def settings_from_files(self) -> dict[str, str]:
        """Fields of `DataSettings` that the dataset's own files determine."""
        return {}

    def points_of(self, key: str, side: int) -> np.ndarray | None:
        """Returns points that correspond between any two images, if the program draws them.

        Args:
          key: of the image.
          side: side of the image in pixels.

        Returns:
          x and y of the points, (K, 2), in pixels; integers are pixel centres; NaN if a point is
          absent. None if no points are known.
        """
        del key, side
        return None

    def side(self, split: str) -> int:
        """The side S of a split's images, in pixels."""
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
        return _Info(
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
        self.info.metadata["settings"] = self.settings_from_files()
        if paths := self.own_files():
            folder = Path(self.builder_config.source)
            self.info.metadata["files"] = source_files.quick_digest(folder, paths)
            self.info.metadata["content"] = source_files.content_digest(folder, paths)
        return {split: self._generate_examples(split, keys[split]) for split in keys}

    def _generate_examples(self, split: str, keys: list[str]) -> Iterator[tuple[int, Any]]:
        # Threads suffice: decoding, resizing and encoding release the interpreter lock.
        # A window of tasks, instead of all at once, bounds memory.
        workers = os.cpu_count() or 1
        progress = tqdm.tqdm(total=len(keys), desc=f"{self.name} {split}", unit=" images")
        pool = concurrent.futures.ThreadPoolExecutor(workers)
        window: collections.deque[concurrent.futures.Future[dict[str, Any]]] = collections.deque()
        waiting = iter(keys)
        try:
            for index in range(len(keys)):
                for key in itertools.islice(waiting, 4 * workers - len(window)):
                    window.append(pool.submit(self._encode, split, key))
                # TFDS sorts by these numbers in equal buckets of the 128-bit range. Spread over all
                # buckets, at most a thousandth of the split is in memory at a time.
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


def _png(array: UInt8[np.ndarray, "height width *rgb"]) -> io.BytesIO:
    file = io.BytesIO()
    # Level 1 is several times faster to write than the default, and a tenth larger.
    Image.fromarray(array).save(file, "png", compress_level=1)
    file.seek(0)
    return file
