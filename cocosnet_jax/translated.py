"""Keeps what an evaluation of a run has translated and counted, so that it can be continued.

`counts/FIRST-LAST.npy` in the evaluation's folder holds a row of counts for each of the pictures
FIRST to LAST, and `counts/identity.txt` identifies what they were computed from. If that differs,
the counts are deleted. A picture is done if its row and its translation exist; the run that made
them may have had another number of processes or another batch size.
"""

import concurrent.futures
import hashlib
import io
import json
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jaxtyping import Float, PyTree

from cocosnet_jax import files
from cocosnet_jax.distributed import gather_rows, is_lead, wait_for_all

_IDENTITY = "identity.txt"


class Translated:
    """The pictures of an evaluation that are done. All processes create it at the same time."""

    def __init__(self, folder: epath.Path, identity: Any, outputs: Sequence[epath.Path]):
        """Reads existing counts; deletes those that were computed from something else.

        Args:
          folder: of the evaluation.
          identity: everything that the pictures and their counts depend on, serialisable as JSON.
          outputs: the file of each picture's translation.

        Raises:
          StorageError: the folder cannot be written to.
        """
        self._folder = folder / "counts"
        self._rows: dict[int, np.ndarray] = {}
        self._outputs = outputs
        digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
        done = np.zeros(len(outputs), bool)
        if is_lead():
            self._read(digest)
            done = self._done()
        # The first process decides, since a shared folder may look different to another one.
        self._is_done = gather_rows(done[None])[0]
        wait_for_all(f"{folder} is read")

    def _read(self, digest: str) -> None:
        """Reads all rows; rows of another identity are deleted."""
        file = self._folder / _IDENTITY
        found = sorted(self._folder.glob("*.npy")) if self._folder.exists() else []
        if not file.exists() or file.read_text() != digest:
            for path in found:
                path.unlink()
            files.write(file, digest.encode())
            return
        for path in found:
            first = int(path.stem.split("-")[0])
            rows = np.load(io.BytesIO(path.read_bytes()))
            self._rows |= dict(enumerate(rows, first))

    def _done(self) -> np.ndarray:
        """Whether the row and the translation of each picture are there."""
        done = np.zeros(len(self._outputs), bool)
        places = [place for place in self._rows if place < len(done)]
        with concurrent.futures.ThreadPoolExecutor(4 * (os.cpu_count() or 1)) as pool:
            done[places] = list(pool.map(lambda place: self._outputs[place].exists(), places))
        return done

    @property
    def done(self) -> int:
        """Number of pictures that were there at the start."""
        return int(self._is_done.sum())

    def remaining(self, batch_size: int) -> list[int]:
        """Numbers of the batches with a picture that is not done.

        A batch is translated again completely, so that its results are rounded as without an
        interruption.
        """
        starts = range(0, len(self._is_done), batch_size)
        return [
            number
            for number, start in enumerate(starts)
            if not self._is_done[start : start + batch_size].all()
        ]

    def add(self, first: int, rows: Float[np.ndarray, "b width"]) -> None:
        """Keeps the rows of some pictures, from number `first` on. The first process calls it.

        Raises:
          StorageError: they cannot be written.
        """
        self._rows |= dict(enumerate(rows, first))
        buffer = io.BytesIO()
        np.save(buffer, rows)
        name = f"{first:07d}-{first + len(rows) - 1:07d}.npy"
        files.write(self._folder / name, buffer.getvalue())

    def total(self, like: PyTree) -> PyTree:
        """The counts of all pictures, added up in float64. The first process calls it.

        Args:
          like: counts of a batch, or their shapes.
        """
        rows = np.stack([self._rows[place] for place in range(len(self._outputs))])
        leaves, structure = jax.tree.flatten(like)
        ends = np.cumsum([np.prod(leaf.shape[1:], dtype=int) for leaf in leaves])
        # A plain translation network has no counts.
        parts = np.split(rows.sum(0, dtype=np.float64), ends)[:-1]
        shaped = [part.reshape(leaf.shape[1:]) for part, leaf in zip(parts, leaves, strict=True)]
        return jax.tree.unflatten(structure, shaped)


def to_rows(counts: PyTree, size: int) -> Float[np.ndarray, "b width"]:
    """The counts of a batch of `size`, whose leaves are (b, ...), as a row for each picture."""
    leaves = [np.asarray(leaf).reshape(size, -1) for leaf in jax.tree.leaves(counts)]
    return np.concatenate([np.zeros((size, 0), np.float32), *leaves], 1)
