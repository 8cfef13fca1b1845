"""What all drawing has in common: how random numbers are taken, and mixing."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Plane = np.ndarray
T = TypeVar("T")


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """One of the options, by the next random number."""
    # Only `random` is used of NumPy's generators: its stream is the one that stays as it is.
    return options[int(rng.random() * len(options))]


def mix(a: Plane | float, b: Plane | float, weight: Plane) -> Plane:
    """`a` where the weight is 0, `b` where it is 1."""
    return a + (b - a) * weight
