"""Draws a scene: a layout in a style, its label map, and where its named points are.

A layout (what is where) and a style (palette and patterns) have seeds of their own: any layout can
be drawn in any style, so that what a translation should look like is known, pixel by pixel. What
a label map leaves open, an exemplar in that style shows; see `data.drawn.paint`.

Between two scenes, points of one name correspond. So do all places of two things of one kind with
the same local coordinates.
"""

from typing import NamedTuple

import numpy as np

from cocosnet_jax.data.drawn.arithmetic import Plane
from cocosnet_jax.data.drawn.layout import draw_layout
from cocosnet_jax.data.drawn.paint import PAINTERS, grain
from cocosnet_jax.data.drawn.style import Style, draw_style
from cocosnet_jax.data.drawn.things import (
    HILL,
    MEADOW,
    PATH,
    TRUNK,
    WALL,
    WATER,
    Box,
    Thing,
)

_LAYOUT, _STYLE = 0, 1  # names of the two random streams
_STEPS = 255  # of brightness, at every sample
_SHADED = (HILL, MEADOW, PATH, WATER)
# Half the width of a thing's shadow in the thing's widths, and its height in its widths.
_CAST_SHADOW = {WALL: (0.55, 0.14), TRUNK: (1.6, 0.3)}

# Where things of one class are small or alike all over, as the sun or a fence is, their class alone
# tells a point: these are the others.
POINTS = (
    *("house wall outer foot", "house wall inner foot", "house wall outer top"),
    *("house wall inner top", "house door", "house window", "house window upstairs"),
    *("house window above the door", "house wing's window", "house chimney"),
    *("house roof outer eaves", "house roof inner eaves", "house roof eaves"),
    *("house roof middle", "house ridge", "house ridge outer end", "house ridge inner end"),
    *("house wing's roof", "tree top", "tree middle", "tree left", "tree right"),
    *("cloud left", "cloud right"),
)


class Scene(NamedTuple):
    """A drawn scene.

    Attributes:
      image: (size, size, 3) uint8 RGB, antialiased.
      label: (size, size) uint8 with classes 1 to NUM_CLASSES - 1 (0, unknown, is never drawn).
      things: (size, size) uint8, which thing is seen: equal where and only where it is the same.
      points: (len(POINTS), 2) float32, x and y in pixels, whole numbers at pixels' middles; NaN
        where a point is hidden, outside of the picture, or on nothing that the layout has.
    """

    image: np.ndarray
    label: np.ndarray
    things: np.ndarray
    points: np.ndarray


def draw_scene(layout: int, style: int, size: int) -> Scene:
    """Draws a layout in a style.

    Args:
      layout: number of the layout, 0 or more.
      style: number of the style, 0 or more.
      size: side of the square picture in pixels, 16 or more.
    """
    if size < 16 or layout < 0 or style < 0:
        raise ValueError(
            f"size {size} must be 16 or more, layout {layout} and style {style} 0 or more"
        )
    things, owner, light = _laid_out(layout, size)
    look = draw_style(np.random.Generator(np.random.PCG64([style, _STYLE])))
    image = _paint(things, owner, light, look, len(owner) // size)
    seen, label = _seen(things, owner, size)
    return Scene(image, label, seen, _points(things, owner, label))


def points_of(layout: int, size: int) -> np.ndarray:
    """The points of a layout's scenes, as `Scene` has them; no style moves them."""
    things, owner, _ = _laid_out(layout, size)
    return _points(things, owner, _seen(things, owner, size)[1])


def _laid_out(layout: int, size: int) -> tuple[list[Thing], Plane, Plane]:
    """The things of a layout, and of every sample of a picture which is seen and how bright."""
    things = draw_layout(np.random.Generator(np.random.PCG64([layout, _LAYOUT])))
    samples = max(2, -(-256 // size) | 1)  # per pixel and axis
    return things, *_cover(things, size * samples)


def _seen(things: list[Thing], owner: Plane, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Which thing, and which class, is in the middle of every pixel."""
    samples = len(owner) // size
    centre = slice(samples // 2, None, samples)
    seen = owner[centre, centre].copy()
    return seen, np.array([thing.label for thing in things], np.uint8)[seen]


def _window(box: Box, side: int) -> tuple[tuple[slice, slice], Plane, Plane]:
    """The samples of a box: rows and columns, y (h, 1) and x (1, w) of their middles."""
    left, top, right, bottom = (
        min(max(int(np.floor(value * side)) + extra, 0), side)
        for value, extra in zip(box, (0, 0, 2, 2), strict=True)
    )
    middles = _middles(side)
    return (slice(top, bottom), slice(left, right)), middles[top:bottom, None], middles[left:right]


def _middles(side: int) -> Plane:
    return ((np.arange(side) + 0.5) / side).astype(np.float32)


def _cover(things: list[Thing], side: int) -> tuple[Plane, Plane]:
    """Which thing is seen at every sample, and how bright the ground is there, (side, side)."""
    owner = np.zeros((side, side), np.uint8)
    light = np.ones((side, side), np.float32)
    for number, thing in enumerate(things):
        where, y, x = _window(thing.box, side)
        np.copyto(owner[where], number, where=thing.inside(x[None], y))
        if thing.label in _CAST_SHADOW:
            wide, high = _CAST_SHADOW[thing.label]
            left, _, right, base = thing.box
            middle, half = (left + right) / 2, (right - left) * wide
            box = (middle - half, base - half * high, middle + half, base + half * high)
            where, y, x = _window(box, side)
            a, b = (x[None] - middle) / half, (y - base) / (half * high)
            light[where] *= 1 - 0.3 * np.clip(1.6 * (1 - a * a - b * b), 0, 1)
    return owner, light


def _paint(
    things: list[Thing], owner: Plane, light: Plane, style: Style, samples: int
) -> np.ndarray:
    side = len(owner)
    size = side // samples
    # Samples in the order of what is seen there: those of a thing lie side by side.
    order = np.argsort(owner.reshape(-1), kind="stable")
    ends = np.cumsum(np.bincount(owner.reshape(-1), minlength=len(things)))
    middles = _middles(side)
    x, y = np.tile(middles, side)[order], np.repeat(middles, side)[order]
    colours = np.empty((3, side * side), np.float32)
    for thing, begin, end in zip(things, [0, *ends], ends, strict=False):
        part = slice(begin, end)
        if begin < end:
            u, v = thing.local(x[part], y[part])
            colours[:, part] = PAINTERS[thing.label](thing, u, v, style)
            if thing.label in _SHADED:
                colours[:, part] *= light.reshape(-1)[order[part]]
    np.clip(colours, 0, 1, out=colours)
    colours *= _STEPS
    # Sums of whole numbers are the same in every order.
    whole = np.rint(colours, out=colours).astype(np.uint8)
    picture = np.empty((3, side * side), np.uint8)
    for plane, values in zip(picture, whole, strict=True):
        plane[order] = values
    blocks = picture.reshape(3, size, samples, side)
    rows = np.zeros((3, size, side), np.int32)
    total = np.zeros((3, size, size), np.float32)
    for k in range(samples):
        rows += blocks[:, :, k]
    for k in range(samples):
        total += rows[..., k::samples]
    y, x = _middles(size)[:, None], _middles(size)[None]
    mean = total / (_STEPS * samples * samples) * grain(style, x, y)
    image = np.rint(np.clip(mean, 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(image.transpose(1, 2, 0))


def _points(things: list[Thing], owner: Plane, label: np.ndarray) -> np.ndarray:
    found = np.full((len(POINTS), 2), np.nan, np.float32)
    side, size = len(owner), len(label)
    for number, thing in enumerate(things):
        for name, (x, y) in thing.points.items():
            if not (0 <= x < 1 and 0 <= y < 1):
                continue
            seen = owner[int(y * side), int(x * side)] == number
            if seen and label[int(y * size), int(x * size)] == thing.label:
                found[POINTS.index(name)] = x * size - 0.5, y * size - 0.5
    return found
