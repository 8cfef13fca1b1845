"""Points of images whose true correspondence is known, from a file `keypoints*.npz`.

names   (n,)        images: keys of the dataset, with or without folders and extension
xy      (n, K, 2)   x and y of K points in pixels of the image; integers are pixel centres; NaN if
                    a point is absent
points  (K,)        names of the points (optional)
size    (2,) or (n, 2)
                    width and height of the images (optional); by default read from the images
"""

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import tqdm
from jaxtyping import Float

from cocosnet_jax.data import images
from cocosnet_jax.data.dataset import EvaluationPairs
from cocosnet_jax.distributed import is_lead
from cocosnet_jax.errors import UserError


def find(source: str) -> Path | None:
    """Finds the file of points in a dataset's own folder or a subfolder; None if there is none.

    Raises:
      UserError: there are several.
    """
    folder = Path(source).expanduser()
    if not source or not folder.is_dir():
        return None
    found = sorted(folder.glob("keypoints*.npz")) or sorted(folder.glob("*/keypoints*.npz"))
    if len(found) > 1:
        raise UserError(
            f"{source} has several files of points, {found[0].name} and {found[1].name}: name one"
            " with --keypoints"
        )
    return found[0] if found else None


class Keypoints:
    """The points of one file.

    Attributes:
      path: of the file.
    """

    def __init__(self, path: Path, folder: Path | None = None):
        """Reads the file.

        Args:
          path: of the file.
          folder: of the dataset; None for the file's own.

        Raises:
          UserError: it does not exist or has another content.
        """
        self.path = path
        self._folder = folder or path.parent
        try:
            with np.load(path) as file:
                arrays = {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{path}: cannot be read as an .npz file of points ({error})"
            ) from error
        names, xy, points, size = map(arrays.get, ("names", "xy", "points", "size"))
        if names is None or xy is None:
            raise self._wrong(f"it has {', '.join(arrays) or 'nothing'}, and needs names and xy")
        if names.ndim != 1 or names.dtype.kind != "U":
            raise self._wrong(f"names is {names.dtype} {names.shape}, not a list of texts")
        if xy.shape != (len(names), *xy.shape[1:2], 2) or xy.dtype.kind not in "fiu":
            raise self._wrong(f"xy is {xy.dtype} {xy.shape}, not numbers ({len(names)}, K, 2)")
        if points is not None and points.shape != xy.shape[1:2]:
            raise self._wrong(f"points is {points.shape}, and xy has {xy.shape[1]} points")
        if size is not None and size.shape not in ((2,), (len(names), 2)):
            raise self._wrong(f"size is {size.shape}, not (2,) or ({len(names)}, 2)")
        self._rows = {str(name): row for row, name in enumerate(names)}
        if len(self._rows) < len(names):
            raise self._wrong("two of its names are the same")
        self._xy = xy.astype(np.float64)
        self._sizes = None if size is None else np.broadcast_to(size, (len(names), 2))

    def _wrong(self, what: str) -> UserError:
        return UserError(
            f"{self.path}: not a file of points: {what}. names (n,) are photographs, and xy"
            " (n, K, 2) x and y in their pixels, NaN where a point is absent"
        )

    def of(self, key: str, side: int) -> Float[np.ndarray, "points 2"] | None:
        """Returns the points of an image that is resized to side x side; None if it has none.

        Raises:
          UserError: the size of the image is not known.
        """
        row = self._row(key)
        if row is None:
            return None
        size = self._size_of(key) if self._sizes is None else self._sizes[row]
        return ((self._xy[row] + 0.5) * side / size - 0.5).astype(np.float32)

    def has(self, key: str) -> bool:
        """Whether the file has points of an image."""
        return self._row(key) is not None

    def _row(self, key: str) -> int | None:
        parts = PurePosixPath(key).parts
        for start in range(len(parts)):
            path = PurePosixPath(*parts[start:])
            for name in (str(path), str(path.with_suffix(""))):
                if name in self._rows:
                    return self._rows[name]
        return None

    def _size_of(self, key: str) -> Any:
        photograph = self._folder / key
        if not photograph.is_file():
            raise UserError(
                f"{self.path}: the size of {key} is not known, since {photograph} is not there: put"
                " the file of points beside the dataset's folders, or add `size` to it, the width"
                " and height of the pictures that xy is measured in"
            )
        return images.read_photograph(photograph).shape[1::-1]


class PairPoints:
    """The points of both images of every pair of an evaluation.

    Attributes:
      known: number of pairs whose images both have points.
    """

    def __init__(
        self,
        find: Callable[[str, int], Float[np.ndarray, "points 2"] | None],
        pairs: EvaluationPairs,
        side: int,
    ):
        """Finds the points of all pairs.

        Args:
          find: (key, side) -> points, as `Keypoints.of`.
          pairs: images and their exemplars.
          side: side of the images that the networks see.

        Raises:
          UserError: from `find`.
        """
        keys, pool = pairs.images.keys, pairs.pool.keys
        exemplars = {
            keys[index]: keys[index] if other is None else pool[other]
            for index, other in pairs.references.items()
        }
        wanted = tqdm.tqdm(
            {*exemplars.keys(), *exemplars.values()},
            desc="looking points up",
            unit=" images",
            delay=2,
            disable=not is_lead(),
        )
        found = {key: find(key, side) for key in wanted}
        self._pairs = {
            key: np.stack([points, others])
            for key, exemplar in exemplars.items()
            if (points := found[key]) is not None and (others := found[exemplar]) is not None
        }
        self.known = len(self._pairs)

    def of(self, keys: Sequence[str]) -> Float[np.ndarray, "2 b points 2"]:
        """Returns the points of a batch's images and their exemplars; NaN if there are none."""
        absent = np.full_like(next(iter(self._pairs.values())), np.nan)
        return np.stack([self._pairs.get(key, absent) for key in keys], 1)
