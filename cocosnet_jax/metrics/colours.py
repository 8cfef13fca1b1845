"""How far apart the colours of two pictures are: class by class, and pixel by pixel.

Both are for drawn scenes, whose classes have a colour each. The papers compare features instead
(`metrics.consistency`).
"""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, UInt8

ClassColours = dict[int, Float[np.ndarray, "3"]]


def class_colours(
    image: UInt8[np.ndarray, "height width 3"], label: UInt8[np.ndarray, "height width"]
) -> ClassColours:
    """Mean colour of every class."""
    return {int(c): image[label == c].mean(0) for c in np.unique(label)}


def distance(
    ours: ClassColours,
    theirs: ClassColours,
    label: UInt8[np.ndarray, "height width"],
    classes: Iterable[int],
) -> float:
    """Mean distance between the colours of classes, in 0 to 255 per channel.

    Args:
      ours: colours of one picture.
      theirs: colours of the other.
      label: of the scene; weighs each class by its area.
      classes: to compare; both pictures have them.
    """
    shared = sorted(classes)
    gaps = [np.linalg.norm(ours[c] - theirs[c]) for c in shared]
    return float(np.average(gaps, weights=[np.sum(label == c) for c in shared]))


def mean_absolute_error(
    ours: UInt8[np.ndarray, "height width 3"], truth: UInt8[np.ndarray, "height width 3"]
) -> float:
    """Mean difference of two pictures' pixels, 0 to 255."""
    return float(np.abs(ours.astype(float) - truth).mean())
