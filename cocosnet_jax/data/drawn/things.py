"""What stands in a drawn scene: shapes with coordinates of their own, at any size.

A thing covers a region of the picture and gives every place of it local coordinates (u, v). They
follow from the thing's outline alone: a mirrored house has mirrored coordinates, a wide crown
stretched ones. Textures are painted in local coordinates, so two places correspond if their
things are of one kind and their (u, v) are equal, whatever the layout and the style.

Coordinates of the picture run from 0 to 1, right and down. Regions use sums, products and
comparisons of float32 and no other function, so that every machine draws the same.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from cocosnet_jax.data.drawn.arithmetic import Plane, mix

UNKNOWN, SKY, CLOUD, SUN, MOUNTAIN, HILL, MEADOW, WATER, PATH = range(9)
WALL, ROOF, CROWN, TRUNK, FENCE = range(9, 14)
CLASS_NAMES = (
    "unknown",
    "sky",
    "cloud",
    "sun or moon",
    "mountain",
    "hill",
    "meadow",
    "water",
    "path",
    "house wall",
    "roof",
    "crown or bush",
    "trunk",
    "fence",
)
NUM_CLASSES = len(CLASS_NAMES)
# Colours in which label maps are shown; no style has them.
CLASS_COLOURS = np.array(
    [
        *[(0, 0, 0), (150, 200, 235), (245, 245, 245), (255, 205, 60), (140, 140, 160)],
        *[(120, 165, 90), (165, 205, 110), (70, 120, 200), (215, 195, 160), (235, 170, 130)],
        *[(185, 60, 50), (45, 110, 60), (110, 75, 45), (250, 235, 90)],
    ],
    np.uint8,
)

Curve = Callable[[Plane], Plane]
# (left, top, right, bottom)
Box = tuple[float, float, float, float]

EVERYWHERE: Box = (0.0, 0.0, 1.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Thing:
    """One thing of a layout.

    Attributes:
      label: its class.
      box: where it can be; outside it is not.
      inside: whether it covers (x, y).
      local: (u, v) of (x, y).
      shape: numbers that its texture may depend on, as its outline does.
      points: named places on it, in coordinates of the picture.
    """

    label: int
    box: Box
    inside: Callable[[Plane, Plane], Plane]
    local: Callable[[Plane, Plane], tuple[Plane, Plane]]
    shape: tuple[float, ...] = ()
    points: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)


def ridge(heights: Plane, roughness: float) -> Curve:
    """A skyline over x in [0, 1] through about `heights`, smooth where the roughness is 0.

    Args:
      heights: (n,) at least 4, evenly spaced; the first and the last lie outside of the picture.
      roughness: 0 for a hill, 1 for straight slopes between peaks.
    """
    cells = len(heights) - 3
    padded = heights.astype(np.float32)

    def at(x: Plane) -> Plane:
        place = np.clip(x, 0, 1) * cells
        left = np.minimum(place.astype(np.int32), cells - 1)
        t = place - left
        a, b, c, d = (padded[left + k] for k in range(4))
        # A uniform cubic B-spline, and the straight line between its knots.
        s = 1 - t
        smooth = (
            s * s * s * a
            + (3 * t * t * t - 6 * t * t + 4) * b
            + (3 * s * s * s - 6 * s * s + 4) * c
            + t * t * t * d
        ) * (1 / 6)
        return smooth + (mix(b, c, t) - smooth) * roughness

    return at


def below(label: int, top: Curve, bottom: float, depth: float, highest: float) -> Thing:
    """Everything from a skyline down to `bottom`: u along the picture, v from the skyline.

    Args:
      label: the class.
      top: y of the skyline.
      bottom: where it ends, behind what is nearer.
      depth: how far down v reaches 1.
      highest: y that the skyline does not rise above.
    """
    return Thing(
        label,
        (0.0, highest, 1.0, bottom),
        lambda x, y: (y > top(x)) & (y <= bottom),
        lambda x, y: (x, (y - top(x)) * (1 / depth)),
        (depth,),
    )


def ellipse(label: int, x: float, y: float, across: float, up: float) -> Thing:
    """An ellipse, (u, v) in [-1, 1] from its middle, v downwards."""

    def local(px: Plane, py: Plane) -> tuple[Plane, Plane]:
        return (px - x) * (1 / across), (py - y) * (1 / up)

    def inside(px: Plane, py: Plane) -> Plane:
        u, v = local(px, py)
        return u * u + v * v < 1

    return Thing(label, (x - across, y - up, x + across, y + up), inside, local, (across, up))


def cloud(x: float, base: float, width: float, puffs: Plane) -> Thing:
    """Puffs on a flat base; u in [-1, 1] along it, v upwards in the same unit.

    Args:
      x: its middle.
      base: y of its lower edge.
      width: half of its width.
      puffs: (n, 2) numbers in [0, 1] that shape it.
    """
    places = np.linspace(-0.62, 0.62, len(puffs)) + (puffs[:, 0] - 0.5) * 0.25
    reaches = (0.26 + 0.2 * puffs[:, 1]) * (1.3 - np.abs(places))

    def local(px: Plane, py: Plane) -> tuple[Plane, Plane]:
        return (px - x) * (1 / width), (base - py) * (1 / width)

    def inside(px: Plane, py: Plane) -> Plane:
        u, v = local(px, py)
        found = np.zeros(np.broadcast_shapes(u.shape, v.shape), bool)
        for place, reach in zip(places.astype(np.float32), reaches.astype(np.float32), strict=True):
            a, b = u - place, v - reach * 0.55
            found |= a * a + b * b < reach * reach
        return found & (v > 0)

    points = {
        "cloud left": (x - 0.62 * width, base - 0.14 * width),
        "cloud right": (x + 0.62 * width, base - 0.14 * width),
    }
    box = (x - 1.2 * width, base - width, x + 1.2 * width, base)
    return Thing(CLOUD, box, inside, local, (width,), points)


def trail(
    start: tuple[float, float], end: tuple[float, float], bend: float, widths: tuple[float, float]
) -> Thing:
    """A path from `start`, far, to `end`, near: u across in [-1, 1], v along in [0, 1].

    Args:
      start: (x, y) of its far end.
      end: (x, y) of its near end, which is lower.
      bend: how far it swings to the right, then to the left.
      widths: half of its width at both ends.
    """
    top, height = start[1], end[1] - start[1]

    def local(px: Plane, py: Plane) -> tuple[Plane, Plane]:
        v = (py - top) * (1 / height)
        swing = v * (1 - v) * (0.6 - v) * bend
        middle = mix(start[0], end[0], v) + swing
        half = mix(widths[0], widths[1], v * v)
        return (px - middle) / half, v + np.zeros_like(px)

    def inside(px: Plane, py: Plane) -> Plane:
        u, v = local(px, py)
        return (np.abs(u) < 1) & (v >= 0) & (v <= 1)

    reach = abs(bend) * 0.12 + widths[1]
    left, right = min(start[0], end[0]) - reach, max(start[0], end[0]) + reach
    return Thing(PATH, (left, top, right, end[1]), inside, local, (height,))


def fence(left: float, right: float, base: float, height: float, pitch: float) -> Thing:
    """Pickets on two rails: u in pickets from the left end, v in [0, 1] upwards."""
    count = max(int((right - left) / pitch), 2)
    pitch = (right - left) / count

    def local(px: Plane, py: Plane) -> tuple[Plane, Plane]:
        return (px - left) * (1 / pitch), (base - py) * (1 / height)

    def inside(px: Plane, py: Plane) -> Plane:
        u, v = local(px, py)
        side = np.abs(u - np.floor(u) - 0.5)
        pickets = (side < 0.31) & (v < 1 - side * 0.9)
        rails = (np.abs(v - 0.32) < 0.1) | (np.abs(v - 0.68) < 0.1)
        return (pickets | rails) & (u > 0) & (u < count) & (v > 0)

    return Thing(FENCE, (left, base - height, right, base), inside, local, (count,))


def tree(x: float, base: float, height: float, kind: int, wide: float) -> list[Thing]:
    """A trunk and a crown: round (kind 0), a fir (1), a poplar (2) or of three balls (3).

    A crown's (u, v) lie in [-1, 1], v upwards; a trunk's u lies in [-1, 1] and v in [0, 1].
    """
    stem = height * (0.3, 0.16, 0.2, 0.36)[kind]
    across = height * ((0.36, 0.3, 0.2, 0.4)[kind]) * wide
    bottom = base - stem * 0.8  # the crown hides the upper end of the trunk
    up = (height - stem * 0.8) / 2
    middle = bottom - up
    half = max(height * 0.05, 0.014) * (0.8 if kind == 2 else 1.0)

    def local_stem(px: Plane, py: Plane) -> tuple[Plane, Plane]:
        return (px - x) * (1 / half), (base - py) * (1 / stem)

    def inside_stem(px: Plane, py: Plane) -> Plane:
        u, v = local_stem(px, py)
        foot = np.clip(0.25 - v, 0, 1)
        return (np.abs(u) < 1 + foot * foot * 10) & (v >= 0) & (v < 1.2)

    def local(px: Plane, py: Plane) -> tuple[Plane, Plane]:
        return (px - x) * (1 / across), (middle - py) * (1 / up)

    def inside(px: Plane, py: Plane) -> Plane:
        u, v = local(px, py)
        if kind == 1:
            tier = (v + 1) * 1.5  # three tiers
            taper = (1 - v) * 0.46 + (np.floor(tier) - tier + 1) * 0.22
            return (np.abs(u) < taper * 0.9) & (np.abs(v) < 1)
        if kind == 3:
            found = np.zeros(np.broadcast_shapes(u.shape, v.shape), bool)
            for a, b, r in ((0.0, 0.34, 0.66), (-0.5, -0.36, 0.52), (0.5, -0.36, 0.52)):
                p, q = (u - a) / r, (v - b) / r
                found |= p * p + q * q < 1
            return found
        return u * u + v * v < 1

    points = {
        "tree top": (x, middle - 0.72 * up),
        "tree middle": (x, middle),
        "tree left": (x - (0.5 if kind == 1 else 0.72) * across, middle + 0.3 * up),
        "tree right": (x + (0.5 if kind == 1 else 0.72) * across, middle + 0.3 * up),
    }
    return [
        Thing(
            TRUNK,
            (x - 2 * half, base - 1.2 * stem, x + 2 * half, base),
            inside_stem,
            local_stem,
            (half, stem),
        ),
        Thing(
            CROWN,
            (x - across, middle - up, x + across, bottom),
            inside,
            local,
            (across, up, float(kind)),
            points,
        ),
    ]


def bush(x: float, base: float, width: float, height: float) -> Thing:
    """Half an ellipse on the ground, of the class of crowns."""
    round_ = ellipse(CROWN, x, base, width, height)
    return dataclasses.replace(
        round_,
        box=(x - width, base - height, x + width, base),
        inside=lambda px, py: round_.inside(px, py) & (py < base),
        shape=(width, height, 0.0),
    )
