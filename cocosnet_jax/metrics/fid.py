"""FID and KID: how far apart two sets of pictures are by Inception features (SPEC section 11).

The features are pool3 of the FID Inception (`metrics.inception`). FID is the Fréchet distance of
two Gaussians with the sets' means and covariances (divisor n - 1). Lower is better, and it falls
with the number of pictures, so only FIDs of equal numbers compare. KID is the squared maximum mean
discrepancy with the kernel (x.y / d + 1)^3. It is estimated here over all pairs, without bias. That
is what the customary mean over random subsets estimates too, with more variance. KID does not
depend on the number of pictures, so it is the one to trust where they are few.
"""

import dataclasses
import warnings
from collections.abc import Iterator

import numpy as np
import scipy.linalg
from jaxtyping import Float, Shaped

# Added to both covariances' diagonals where their product has no finite root, as pytorch-fid does.
_EPS = 1e-6
# Rows of features that are multiplied at once: 2048 numbers of float64 in each are 16 MiB.
_BLOCK = 1024


@dataclasses.dataclass(frozen=True)
class Moments:
    """Sums over feature vectors in float64; those of several batches or hosts add up.

    Attributes:
      count: feature vectors n.
      total: (d,) their sum.
      products: (d, d) the sum of their outer products.
    """

    count: int
    total: Float[np.ndarray, "d"]
    products: Float[np.ndarray, "d d"]

    @classmethod
    def of(cls, features: Shaped[np.ndarray, "n d"]) -> "Moments":
        """Sums over rows, which may be memory-mapped: they are read block by block."""
        width = features.shape[1]
        total, products = np.zeros(width), np.zeros((width, width))
        for rows in _blocks(features):
            total += rows.sum(0)
            products += rows.T @ rows
        return cls(len(features), total, products)

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            self.count + other.count, self.total + other.total, self.products + other.products
        )

    @property
    def mean(self) -> Float[np.ndarray, "d"]:
        return self.total / self.count

    @property
    def covariance(self) -> Float[np.ndarray, "d d"]:
        """With divisor n - 1.

        Raises:
          ValueError: of fewer than two vectors.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs two vectors or more, and here is {self.count}")
        centred = self.products - np.outer(self.total, self.mean)
        return centred / (self.count - 1)


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mean difference|^2 + trace(A + B - 2 (A B)^(1/2)).

    With more vectors than features the trace of the root is the sum of the square roots of the
    eigenvalues of A^(1/2) B A^(1/2), which is exact and quick. With fewer, A and B are singular,
    and rounding moves any way of computing it by about 3e-8 of the distance. There the root is
    computed as in pytorch-fid, of the product itself, so that this error is nearly the same too.

    Returns:
      The distance; of a set to itself 0 up to rounding, which may leave it slightly negative.
    """
    first, second = a.covariance, b.covariance
    difference = a.mean - b.mean
    singular = min(a.count, b.count) <= len(first)
    trace = _trace_of_root_of_product if singular else _trace_of_root
    traces = np.trace(first) + np.trace(second) - 2 * trace(first, second)
    return float(difference @ difference + traces)


def frechet_distance_of_few(a: Shaped[np.ndarray, "m d"], b: Shaped[np.ndarray, "n d"]) -> float:
    """`frechet_distance` of feature vectors; faster when there are fewer vectors than features.

    The trace of the root is the sum of the singular values of (centred a)(centred b)^T, divided by
    the root of (m - 1)(n - 1). This is exact; `frechet_distance` has pytorch-fid's rounding there.
    """
    first, second = (np.asarray(x, np.float64) for x in (a, b))
    difference = first.mean(0) - second.mean(0)
    first, second = ((x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (first, second))
    root = np.linalg.svd(first @ second.T, compute_uv=False).sum()
    return float(difference @ difference + (first**2).sum() + (second**2).sum() - 2 * root)


def _trace_of_root(a: Float[np.ndarray, "d d"], b: Float[np.ndarray, "d d"]) -> float:
    values, vectors = np.linalg.eigh(a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return float(np.sqrt(np.maximum(np.linalg.eigvalsh(root @ b @ root), 0)).sum())


def _trace_of_root_of_product(a: Float[np.ndarray, "d d"], b: Float[np.ndarray, "d d"]) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of singular matrices; the result is checked
        root = scipy.linalg.sqrtm(a @ b)
        if not np.isfinite(root).all():
            offset = _EPS * np.eye(len(a))
            root = scipy.linalg.sqrtm((a + offset) @ (b + offset))
    return float(np.trace(root).real)


def few_pictures(count: int, width: int) -> str:
    """A warning where a set is smaller than its features are wide, or an empty string."""
    if count > width:
        return ""
    return (
        f"FID of {count} pictures is no good estimate: their covariance of {width} features is"
        f" singular below {width + 1} pictures. Compare it with FID of {count} pictures only, or"
        " read KID, which has no such bias"
    )


def kid(a: Shaped[np.ndarray, "m d"], b: Shaped[np.ndarray, "n d"]) -> float:
    """The unbiased estimate of the squared maximum mean discrepancy; it may be negative.

    Args:
      a: feature vectors, at least two; may be memory-mapped.
      b: feature vectors of the other set, likewise.

    Raises:
      ValueError: a set has fewer than two vectors.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"KID needs two vectors or more of each set: {len(a)} and {len(b)}")

    across = 2 * _kernel_sum(a, b) / (len(a) * len(b))
    return _mean_within(a) + _mean_within(b) - across


def _mean_within(x: np.ndarray) -> float:
    """The mean of the kernel over pairs of two different vectors of a set."""
    own = sum((((rows**2).sum(1) / x.shape[1] + 1) ** 3).sum() for rows in _blocks(x))
    return float((_kernel_sum(x, x) - own) / (len(x) * (len(x) - 1)))


def _kernel_sum(a: np.ndarray, b: np.ndarray) -> float:
    """The kernel, summed over all pairs."""
    return sum(
        float(((rows @ columns.T / a.shape[1] + 1) ** 3).sum())
        for rows in _blocks(a)
        for columns in _blocks(b)
    )


def _blocks(x: np.ndarray) -> Iterator[np.ndarray]:
    """Rows in float64, as many as are multiplied at once."""
    for start in range(0, len(x), _BLOCK):
        yield np.asarray(x[start : start + _BLOCK], np.float64)
