"""Patterns that things of drawn scenes are painted with, as functions of local coordinates.

Each returns how much of a pattern's mark there is, in [0, 1], at every place.
"""

import numpy as np

from cocosnet_jax.data.drawn.arithmetic import Plane, mix
from cocosnet_jax.data.drawn.style import LATTICE


def fraction(x: Plane) -> Plane:
    """What is left of x above the whole number below it."""
    return x - np.floor(x)


def wave(x: Plane) -> Plane:
    """A smooth wave of period 1 in [-1, 1], of parabolas."""
    t = fraction(x) * 2
    s = t - np.floor(t)
    return 4 * s * (1 - s) * (1 - 2 * np.floor(t))


def stripes(x: Plane, share: float = 0.5) -> Plane:
    """Stripes of period 1 that cover a share."""
    return (fraction(x) < share).astype(np.float32)


def checks(x: Plane, y: Plane) -> Plane:
    """A chessboard of fields of side 1."""
    return (np.floor(x) + np.floor(y)) % 2


def dots(x: Plane, y: Plane, radius: float) -> Plane:
    """Discs of that radius in rows 1 apart, every second row moved by a half."""
    row = np.floor(y)
    a, b = fraction(x + 0.5 * (row % 2)) - 0.5, y - row - 0.5
    return (a * a + b * b < radius * radius).astype(np.float32)


def scales(x: Plane, y: Plane) -> Plane:
    """Overlapping round tiles of width 1 and height 0.5, darkest below each one's edge."""
    y = y * 2
    row = np.floor(y)
    a, b = fraction(x + 0.5 * (row % 2)) - 0.5, y - row
    # Of the tile above, the lower end hangs into this row.
    depth = 1 - b - np.float32(0.5) + a * a * 3.2
    return np.clip(depth * 2.2, 0, 1)


def bricks(x: Plane, y: Plane, joint: float) -> Plane:
    """Joints of bricks of width 2 and height 1."""
    row = np.floor(y)
    a, b = fraction(x / 2 + 0.5 * (row % 2)), y - row
    return ((a < joint / 2) | (b < joint)).astype(np.float32)


def zigzags(x: Plane, y: Plane) -> Plane:
    """Zigzag stripes of period 1."""
    return stripes(y + np.abs(fraction(x) - 0.5))


def smooth_noise(lattice: Plane, x: Plane, y: Plane) -> Plane:
    """Noise in [0, 1]: a periodic table of random values, interpolated at (x, y)."""
    column, row = np.floor(x), np.floor(y)
    u, v = x - column, y - row
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    last = LATTICE - 1
    j, i = column.astype(np.int32) & last, row.astype(np.int32) & last
    m, k = (j + 1) & last, (i + 1) & last
    top = mix(lattice[i, j], lattice[i, m], u)
    return mix(top, mix(lattice[k, j], lattice[k, m], u), v)
