"""Features of pictures, computed batch by batch on all devices and written to disk at once.

`compute` writes one row per picture, and continues where an interrupted run stopped. An `Embedding`
makes the rows; those of `vgg_embedding` are compared by their cosine.
"""

import concurrent.futures
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from etils import epath
from jaxtyping import Array, Float

from cocosnet_jax import files, mesh, vgg
from cocosnet_jax.distributed import is_lead
from cocosnet_jax.encode import unit_image
from cocosnet_jax.errors import UserError

# The layer of `vgg_embedding`.
LAYER = "relu5_2"

# Rows that are copied at once.
_COPIED = 256

# A batch of what `Pictures` yield, one array for each -> rows (b, width), on devices or not.
Embedding = Callable[..., Any]


class Pictures(Protocol):
    """Images (H, W, 3) uint8 by position, each with further arrays, such as its label map."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[np.ndarray, ...]: ...


def vgg_embedding(weights: vgg.VggWeights) -> Embedding:
    """VGG's relu5_2, averaged over positions, as unit vectors; label maps are not read."""
    devices = mesh.make()
    weights = jax.device_put(weights, mesh.replicated(devices))

    @jax.jit
    def embed(weights: vgg.VggWeights, image: Array) -> Float[Array, "b width"]:
        found = vgg.features(weights, unit_image(image), (LAYER,))[LAYER]
        mean = jnp.mean(found.astype(jnp.float32), axis=(1, 2))
        return mean / jnp.maximum(jnp.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)

    return lambda image, label: embed(weights, jax.device_put(image, mesh.split(devices)))


def compute(
    path: Path,
    pictures: Pictures,
    embed: Embedding,
    batch_size: int,
    title: str,
    elsewhere: Sequence[tuple[int, Float[np.ndarray, "k width"]]] = (),
) -> Float[np.ndarray, "n width"]:
    """Returns the features of pictures; computes those that are not on disk yet.

    Args:
      path: of the rows' files, without ending; it must differ between different pictures and
        between different embeddings.
      pictures: what to embed.
      embed: makes rows of a batch.
      batch_size: pictures per batch, rounded up to a multiple of the number of devices.
      title: of the progress bar.
      elsewhere: rows of these pictures in other files, which are copied: the number of the first
        picture, and the rows from that picture on.

    Returns:
      A row per picture, memory-mapped.

    Raises:
      UserError: the rows cannot be read or written.
    """
    rows = Rows(path, len(pictures))
    bar = tqdm.tqdm(
        total=len(pictures),
        initial=rows.done,
        desc=title[:40],
        unit=" images",
        disable=not is_lead(),
    )

    def append(some: Float[np.ndarray, "b width"]) -> None:
        rows.append(some)
        bar.update(len(some))

    size = mesh.round_up(batch_size)
    while (start := rows.done) < len(pictures):
        copies = [
            there[start - first :]
            for first, there in elsewhere
            if first <= start < first + len(there)
        ]
        if copies:
            for place in range(0, len(copies[0]), _COPIED):
                append(copies[0][place : place + _COPIED])
            continue
        stop = min([len(pictures), *(first for first, there in elsewhere if first > start)])
        for batch in _batches(pictures, start, stop, size):
            append(np.asarray(embed(*batch))[: stop - rows.done])
    bar.close()
    return rows.array()


def _batches(pictures: Pictures, start: int, stop: int, size: int) -> Iterator[list[np.ndarray]]:
    """Pictures from `start` to `stop`, the last batch filled up with the last one."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:

        def begin(place: int) -> list[concurrent.futures.Future[Any]]:
            wanted = range(place, place + size) if place < stop else ()
            return [pool.submit(pictures.__getitem__, min(index, stop - 1)) for index in wanted]

        coming = begin(start)
        for place in range(start, stop, size):
            loaded, coming = coming, begin(place + size)
            yield [np.stack(some) for some in zip(*(x.result() for x in loaded), strict=True)]


def other_parts(path: Path) -> list[tuple[int, Float[np.ndarray, "k width"]]]:
    """Rows of a set that an interrupted run with another number of processes has left.

    Args:
      path: of this process's rows, NAME-FIRST-END: pictures FIRST up to END of the set NAME.

    Returns:
      What `compute` takes as `elsewhere`.
    """
    name, first, _ = path.name.rsplit("-", 2)
    found = []
    for file in sorted(path.parent.glob(f"{name}-*.done")):
        other = file.with_suffix("")
        start, end = map(int, other.name.split("-")[-2:])
        rows = Rows(other, end - start)
        ahead = max(0, int(first) - start)
        if other != path and rows.done > ahead:
            found.append((max(0, start - int(first)), rows.written()[ahead:]))
    return found


class Rows:
    """Rows of float32 on disk, which one run appends to and the next one continues.

    `NAME.npy` holds the rows, and `NAME.done` says how many of them are written.
    """

    def __init__(self, path: Path, count: int):
        """Opens the rows of `path`, of which there will be `count`."""
        self._path, self._done = path.with_suffix(".npy"), path.with_suffix(".done")
        self._count = count
        self.done = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if self._path.exists() and self._done.exists():
                done = min(int(self._done.read_text()), count)
                self.done = done if self._holds(done) else 0
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path.parent} cannot be used ({error}); delete it, or choose another --output"
            ) from error

    def _holds(self, rows: int) -> bool:
        """Whether the file is long enough; a power failure may lose what was written last."""
        try:
            offset, width = self._layout()
        except ValueError:
            return False
        return self._path.stat().st_size >= offset + rows * width * 4

    def _layout(self) -> tuple[int, int]:
        """Where the first row begins in the file, and how many numbers a row has."""
        with self._path.open("rb") as file:
            np.lib.format.read_magic(file)
            shape, _, _ = np.lib.format.read_array_header_1_0(file)
            return file.tell(), shape[1]

    def append(self, rows: Float[np.ndarray, "b width"]) -> None:
        """Writes the next rows; they are in the file when this returns."""
        rows = np.ascontiguousarray(rows, "<f4")
        try:
            # Not by a memory map: on a full disk, writing to one kills the program by a signal.
            with self._path.open("r+b" if self.done else "wb") as file:
                shape = (self._count, rows.shape[1])
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                file.seek(self.done * rows[0].nbytes, os.SEEK_CUR)
                file.write(rows.data)
            self.done += len(rows)
            files.write(epath.Path(self._done), str(self.done).encode())
        except OSError as error:
            raise UserError(
                f"features cannot be written to {self._path} ({error}); free some space, or"
                " choose another --output"
            ) from error

    def written(self) -> Float[np.ndarray, "done width"]:
        """The rows that are written, of which there must be one, memory-mapped."""
        offset, width = self._layout()
        return np.memmap(self._path, "<f4", "r", offset, (self.done, width))

    def array(self) -> Float[np.ndarray, "n width"]:
        """All rows, once they are written, memory-mapped."""
        return np.load(self._path, mmap_mode="r")
