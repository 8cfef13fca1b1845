"""Translates many pairs of files in batches, and keeps results that exist already.

The metadata of every result contain a digest of everything that it was made from: the networks, the
arrays that were read from its files, and the options that change it. A result with the right digest
is kept. So an interrupted command continues where it stopped, and makes every result again that
depends on something that has changed.
"""

import concurrent.futures
import hashlib
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import tqdm
from jaxtyping import UInt8

from cocosnet_jax import pictures
from cocosnet_jax.checkpoint import absolute
from cocosnet_jax.data import classes, images
from cocosnet_jax.data.pair_files import Extra, Planes, Reader, files_of
from cocosnet_jax.data.pairing import Pair
from cocosnet_jax.errors import UserError
from cocosnet_jax.inference import Translator
from cocosnet_jax.settings import DataSettings
from cocosnet_jax.types import Outputs

# Raise it if a change of the code gives other results for the same files.
_RECIPE = 1
# Pixels of each device's part of a batch, if its size is not given: eight pictures of 256 x 256. On
# CPUs it is one picture: more take more memory and are not faster (`benchmarks.translate`).
_BATCH_PIXELS = 8 * 256**2
# Largest width and approximate number of pixels of a sheet; more inputs make more sheets.
_SHEET_WIDTH = 16384
_SHEET_PIXELS = 2**25
_GAP = 4  # between the pictures of a sheet, in pixels


class Options(NamedTuple):
    """What changes the results besides networks and files.

    Attributes:
      extra: what is written beside each result.
      original_size: resize results to the input's own width and height.
    """

    extra: Extra = Extra()
    original_size: bool = False


class Translations:
    """Makes the results of pairs of files."""

    def __init__(self, translator: Translator, reader: Reader, options: Options):
        """Keeps what all results depend on.

        Args:
          translator: the networks.
          reader: reads pairs at the translator's size.
          options: see `Options`.
        """
        self._translator, self._reader, self._options = translator, reader, options
        self._common = hashlib.sha256(f"{_RECIPE} {translator.size} {translator.digest}".encode())

    def missing(self, pairs: Sequence[Pair]) -> list[Pair]:
        """The pairs whose results do not exist, or were made from something else.

        Raises:
          UserError: a file cannot be read.
        """

        def is_there(pair: Pair) -> bool:
            found = {
                pictures.origin_of(path)
                for path in files_of(pair.output, self._options.extra).values()
            }
            return "" not in found and found == {self._origin(self._reader.read(pair))}

        with concurrent.futures.ThreadPoolExecutor() as pool:
            there = tqdm.tqdm(
                pool.map(is_there, pairs),
                total=len(pairs),
                desc="looking for results",
                unit=" pictures",
                delay=1,
                file=sys.stdout,
            )
            return [pair for pair, found in zip(pairs, there, strict=True) if not found]

    def compile(self, pairs: Sequence[Pair], batch_size: int) -> int:
        """Compiles the translation of a batch of these pairs.

        Args:
          pairs: all have the same number of exemplars.
          batch_size: b; 0 for one that fits in memory.

        Returns:
          b, rounded up so that all devices get whole pictures where there are enough of them.

        Raises:
          UserError: the batch does not fit in the devices' memory.
        """
        exemplars = max(1, len(pairs[0].exemplars))
        translator = self._translator
        pixels = 0 if jax.default_backend() == "cpu" else _BATCH_PIXELS
        automatic = translator.device_count * max(1, pixels // (translator.size**2 * exemplars))
        size = translator.round_up(min(batch_size or automatic, len(pairs)))
        while True:
            try:
                translator.compile(size, exemplars, with_confidence=self._options.extra.confidence)
                return size
            except UserError:
                if batch_size or size == 1:
                    raise
                half = translator.round_up(size // 2)
                size = half if half < size else 1

    def write(self, pairs: Sequence[Pair], batch_size: int) -> None:
        """Computes and writes the results, while the next batch is read.

        Args:
          pairs: all have the same number of exemplars.
          batch_size: b; the last batch is filled up, because another size would need
            another compilation.

        Raises:
          UserError: a file cannot be read, or a result cannot be written.
        """
        batches = [pairs[start : start + batch_size] for start in range(0, len(pairs), batch_size)]
        with (
            concurrent.futures.ThreadPoolExecutor() as pool,
            tqdm.tqdm(
                total=len(pairs),
                desc="translating",
                disable=len(pairs) == 1,
                unit=" pictures",
                file=sys.stdout,
            ) as progress,
        ):
            reading = [pool.submit(self._reader.read, pair) for pair in batches[0]]
            writing: list[concurrent.futures.Future[None]] = []
            for number, batch in enumerate(batches, 1):
                planes = [future.result() for future in reading]
                following = batches[number : number + 1]
                reading = [pool.submit(self._reader.read, pair) for x in following for pair in x]
                outputs = self._translate(planes, batch_size)
                for future in writing:
                    future.result()
                writing = [
                    pool.submit(self._write, pair, planes[i], outputs, i)
                    for i, pair in enumerate(batch)
                ]
                progress.update(len(batch))
            for future in writing:
                future.result()

    def _translate(self, planes: list[Planes], batch_size: int) -> Outputs:
        full = [*planes, *[planes[0]] * (batch_size - len(planes))]
        exemplars, maps = (
            [array for x in full if (array := getattr(x, name)) is not None]
            for name in ("exemplar", "exemplar_label")
        )
        return self._translator.translate(
            np.stack([x.label for x in full]),
            np.stack(exemplars) if exemplars else None,
            np.stack(maps) if maps else None,
            with_confidence=self._options.extra.confidence,
        )

    def _write(self, pair: Pair, planes: Planes, outputs: Outputs, i: int) -> None:
        """Writes the files of one result, the batch's i-th."""
        side, origin = self._translator.size, self._origin(planes)
        shown = {"image": pictures.to_bytes(np.asarray(outputs.image[i]))}
        if outputs.warped_exemplar is not None:
            shown["warped"] = pictures.to_bytes(np.asarray(outputs.warped_exemplar[i]))
        if outputs.confidence is not None:
            grey = np.rint(255 * np.asarray(outputs.confidence[i])).astype(np.uint8)
            shown["confidence"] = grey.repeat(side // len(grey), 0).repeat(side // len(grey), 1)
        for kind, path in files_of(pair.output, self._options.extra).items():
            picture = shown[kind]
            if self._options.original_size:
                resize = images.resize_label if picture.ndim == 2 else images.resize_photograph
                picture = resize(picture, planes.original_size)
            pictures.write_result(absolute(path), picture, origin)

    def _origin(self, planes: Planes) -> str:
        """The digest of everything that a result is made from."""
        digest = self._common.copy()
        size = planes.original_size if self._options.original_size else None
        digest.update(repr((size, [None if x is None else x.shape for x in planes[:3]])).encode())
        for array in planes[:3]:
            if array is not None:
                digest.update(array.tobytes())
        return digest.hexdigest()


class Sheets:
    """Contact sheets of a grid, as in the paper's figures 4 to 6.

    Rows are inputs and columns exemplars; exemplars are along the top, inputs at the left.

    Attributes:
      files: the sheets `grid.png`, or `grid_1.png`, ... if one would be too large; and the rows of
        each.
    """

    def __init__(self, pairs: Sequence[Pair], folder: Path, ending: str, size: int):
        """Decides how many sheets there are.

        Args:
          pairs: those of an input follow each other, and each input has the same exemplars.
          folder: of the sheets.
          ending: of their files.
          size: S of the translations.
        """
        rows = [list(row) for _, row in itertools.groupby(pairs, key=lambda pair: pair.label)]
        columns = len(rows[0]) + 1
        self._side = side = min(size, _SHEET_WIDTH // columns)
        most = min(_SHEET_PIXELS // (columns * side**2), _SHEET_WIDTH // side) - 1
        parts = [rows[start : start + max(1, most)] for start in range(0, len(rows), max(1, most))]
        names = ["grid"] if len(parts) == 1 else [f"grid_{i + 1}" for i in range(len(parts))]
        self.files = {
            folder / f"{name}{ending}": part for name, part in zip(names, parts, strict=True)
        }

    def write(self, reader: Reader, data: DataSettings, original_size: bool) -> None:
        """Puts the results' files together; a sheet of the same results is left alone.

        Args:
          reader: that has read the pairs.
          data: the model's data settings.
          original_size: show pictures in their own proportions, as the results are.

        Raises:
          UserError: a file cannot be read or written.
        """
        for path, rows in self.files.items():
            outputs = [pair.output for row in rows for pair in row]
            parts = " ".join([f"{_RECIPE} {self._side}", *map(pictures.origin_of, outputs)])
            origin = hashlib.sha256(parts.encode()).hexdigest()
            if pictures.origin_of(path) != origin:
                sheet = self._draw(rows, reader, data, original_size)
                pictures.write_result(absolute(path), sheet, origin)

    def _draw(
        self, rows: list[list[Pair]], reader: Reader, data: DataSettings, original_size: bool
    ) -> UInt8[np.ndarray, "height width 3"]:
        def exemplar(pair: Pair) -> UInt8[np.ndarray, "height width 3"]:
            if original_size:
                return images.read_photograph(pair.exemplars[0])
            found = reader.read(pair).exemplar
            assert found is not None
            return found[0]

        def own(pair: Pair) -> UInt8[np.ndarray, "height width 3"]:
            planes = reader.read(pair)
            shown = classes.show_in_own_colours(planes.label, data)
            if not original_size:
                return shown
            bands = [images.resize_label(shown[..., i], planes.original_size) for i in range(3)]
            return np.stack(bands, -1)

        blank = np.full((1, 1, 3), 255, np.uint8)
        cells = [[blank, *map(exemplar, rows[0])]]
        cells += [[own(row[0]), *(images.read_photograph(x.output) for x in row)] for row in rows]
        return pictures.tile(
            [[pictures.fit(cell, self._side) for cell in row] for row in cells], _GAP
        )
