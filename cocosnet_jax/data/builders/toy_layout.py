"""Draws the layout of a landscape, at any size."""

from collections.abc import Callable

import numpy as np

from cocosnet_jax.data.builders.toy_classes import (
    CLOUD,
    FIELD,
    MOUNTAIN,
    ROAD,
    ROOF,
    SKY,
    SUN,
    TREE,
    WALL,
    WATER,
)
from cocosnet_jax.data.drawn.arithmetic import Plane, mix, pick

Region = Callable[[Plane, Plane], Plane]

PLAIN, WINDOW, TRUNK = range(3)  # parts of an object that have colours of their own


def _ridge(rng: np.random.Generator, peaks: int, roughness: float) -> Callable[[Plane], Plane]:
    """A skyline over x in [0, 1] with heights about [0, 1], by midpoint displacement."""
    heights = rng.random(peaks + 1)
    step = roughness
    while len(heights) < 200:
        middle = (heights[1:] + heights[:-1]) / 2 + (rng.random(len(heights) - 1) - 0.5) * step
        heights = np.append(np.stack([heights[:-1], middle], 1).reshape(-1), heights[-1])
        step = step / 2
    cells = len(heights) - 1

    def at(x: Plane) -> Plane:
        place = np.clip(x, 0, 1) * cells
        left = np.minimum(np.floor(place).astype(np.int64), cells - 1)
        return mix(heights[left], heights[left + 1], place - left)

    return at


class Canvas:
    """The layout on a grid of samples; coordinates run from 0 to 1, right and down.

    Attributes:
      label: class of every sample, (side, side).
      part: window, trunk or plain, (side, side).
      tone: relative brightness of shading and shadow, (side, side), about [-0.5, 0.5].
      rise: place within a class's gradient, (side, side), in [0, 1]: 0 far or high, 1 near or low.
    """

    def __init__(self, side: int) -> None:
        self.side = side
        self.label = np.full((side, side), SKY, np.uint8)
        self.part = np.zeros((side, side), np.uint8)
        self.tone = np.zeros((side, side), np.float32)
        self.rise = np.zeros((side, side), np.float32)
        self.centres = ((np.arange(side) + 0.5) / side).astype(np.float32)

    def window(
        self, left: float, right: float, top: float, bottom: float
    ) -> tuple[tuple[slice, slice], Plane, Plane]:
        """The samples inside a box: their slices and their x (1, w) and y (h, 1)."""
        i, j, k, m = (
            min(max(int(np.floor(v * self.side)), 0), self.side)
            for v in (top, bottom + 2 / self.side, left, right + 2 / self.side)
        )
        return (slice(i, j), slice(k, m)), self.centres[None, k:m], self.centres[i:j, None]

    def fill(
        self,
        where: tuple[slice, slice],
        mask: Plane,
        label: int,
        tone: Plane | float = 0.0,
        rise: Plane | float = 0.5,
        part: int = PLAIN,
    ) -> None:
        """Puts a class, with its shading, wherever the mask holds."""
        shape = self.label[where].shape
        mask = np.broadcast_to(mask, shape)
        self.label[where][mask] = label
        self.part[where][mask] = part
        self.tone[where][mask] = np.broadcast_to(tone, shape)[mask]
        self.rise[where][mask] = np.broadcast_to(rise, shape)[mask]

    def shadow(self, x: float, y: float, width: float) -> None:
        """Darkens the ground below an object that stands at (x, y)."""
        where, px, py = self.window(x - width, x + 1.4 * width, y - width / 4, y + width / 4)
        u, v = (px - x - 0.2 * width) / (1.2 * width), (py - y) / (0.25 * width)
        ground = (self.label[where] == FIELD) | (self.label[where] == ROAD)
        self.tone[where][(u * u + v * v < 1) & ground] -= 0.22


def draw_layout(rng: np.random.Generator, canvas: Canvas) -> None:
    """Draws the layout. No draw from `rng` depends on the canvas's resolution."""
    whole, x, y = canvas.window(0, 1, 0, 1)
    horizon = 0.36 + 0.2 * rng.random()
    canvas.rise[:] = np.clip(y / horizon, 0, 1)
    _draw_sun_and_clouds(rng, canvas, horizon)

    for ridge in range(pick(rng, [0, 1, 2, 2])):
        outline = _ridge(rng, pick(rng, [3, 4, 5]), 0.35)
        height = horizon * (0.4 + 0.35 * rng.random()) * (1 - 0.45 * ridge)
        top = horizon - height * (0.15 + 0.85 * outline(x))
        # Slopes to the right lie in shadow; the second ridge is nearer and darker.
        slope = np.clip((outline(x + 0.02) - outline(x - 0.02)) * 2.5, -0.25, 0.25)
        fall = np.clip((y - top) / height, 0, 1)
        canvas.fill(whole, (y > top) & (y < horizon + 0.1), MOUNTAIN, slope - 0.14 * ridge, fall)

    rolling = _ridge(rng, 3, 0.08)
    ground_top = horizon + 0.05 * (rolling(x) - 0.5)
    depth = np.clip((y - horizon) / (1 - horizon), 0, 1)
    canvas.fill(whole, y > ground_top, FIELD, 0.0, depth)

    water, bridged = _draw_water(rng, horizon)
    road = _draw_road(rng, horizon)
    wet, paved = (y > ground_top) & water(x, y), (y > ground_top) & road(x, y)
    canvas.fill(whole, wet, WATER, 0.0, depth)
    canvas.fill(whole, paved if bridged else paved & ~wet, ROAD, 0.0, depth)

    if rng.random() < 0.5:  # a forest on the horizon
        left, width = rng.random(), 0.35 + 0.4 * rng.random()
        crowns = _ridge(rng, 24, 0.3)
        distance = (x - left) * 2 / width
        edge = 1 - distance * distance  # lower towards both ends
        top = horizon + 0.02 - (0.05 + 0.06 * crowns(x)) * edge
        forest = (y > top) & (y < horizon + 0.03) & (edge > 0)
        canvas.fill(whole, forest, TREE, (crowns(x) - 0.5) * 0.3, 0.2)

    objects = [("house", rng.random()) for _ in range(pick(rng, [0, 1, 1, 2]))]
    objects += [("tree", rng.random()) for _ in range(pick(rng, range(3, 10)))]
    kind = pick(rng, range(4))  # 3: mixed wood
    for name, near in sorted(objects, key=lambda thing: thing[1]):
        # The number of draws does not depend on whether a place is free.
        places, shape = rng.random(6), rng.random(5)
        base = horizon + (1 - horizon) * (0.06 + 0.72 * near * near)
        if name == "house":
            places = 0.08 + 0.84 * places  # Keeps houses inside the picture.
        feet, level = places[:, None] + np.array([-0.06, 0.0, 0.06]), np.array(base)
        free = places[~(water(feet, level) | road(feet, level)).any(1)]
        if len(free) == 0:
            continue
        scale = 0.55 + 0.75 * near
        if name == "house":
            _draw_house(canvas, free[0], base, scale, shape)
        else:
            _draw_tree(canvas, free[0], base, scale, kind if kind < 3 else int(shape[4] * 3), shape)


def _draw_sun_and_clouds(rng: np.random.Generator, canvas: Canvas, horizon: float) -> None:
    where, x, y = canvas.window(0, 1, 0, 1)
    if rng.random() < 0.75:
        radius = 0.045 + 0.03 * rng.random()
        u = x - (0.12 + 0.76 * rng.random())
        v = y - horizon * (0.2 + 0.35 * rng.random())
        canvas.fill(where, u * u + v * v < radius * radius, SUN, 0.0, 0.5)
    for _ in range(pick(rng, range(4))):
        cx, cy = rng.random(), horizon * (0.12 + 0.5 * rng.random())
        width = 0.12 + 0.14 * rng.random()
        base = cy + 0.25 * width
        where, x, y = canvas.window(cx - width, cx + width, cy - width / 2, base)
        for puff in rng.random((6, 2)):
            px = cx + (puff[0] - 0.5) * 1.3 * width
            # Puffs in the middle are the largest.
            reach = width * (0.18 + 0.2 * puff[1]) * (1.3 - abs(px - cx) / width)
            u, v = (x - px) / reach, (y - (base - 0.5 * reach)) / (0.8 * reach)
            inside = (u * u + v * v < 1) & (y < base)
            light = np.clip(0.5 + 0.5 * (y - cy) / (0.3 * width), 0, 1)
            canvas.fill(where, inside, CLOUD, 0.0, light)


def _draw_water(rng: np.random.Generator, horizon: float) -> tuple[Region, bool]:
    """Where water is (a lake, a river, the sea, or nowhere), and whether a road may cross it."""
    kind = pick(rng, ["lake", "lake", "river", "river", "sea", "sea", "none"])
    a, b, c, d = rng.random(4)
    shore = _ridge(rng, 4, 0.3)

    def lake(x: Plane, y: Plane) -> Plane:
        depth = (y - horizon) / (1 - horizon)
        u, v = (x - 0.15 - 0.7 * a) / (0.28 + 0.22 * b), (depth - 0.3 - 0.3 * c) / (0.12 + 0.14 * d)
        return u * u + v * v < 0.7 + 0.5 * shore(x)

    def river(x: Plane, y: Plane) -> Plane:
        depth = (y - horizon) / (1 - horizon)
        bend = (2 * c - 1) * 6 * depth * (1 - depth) * (0.6 - depth)
        middle = mix(0.25 + 0.5 * a, 0.1 + 0.8 * b, depth) + bend
        return (np.abs(x - middle) < 0.015 + (0.14 + 0.1 * d) * depth * depth) & (depth > 0)

    def sea(x: Plane, y: Plane) -> Plane:
        depth = (y - horizon) / (1 - horizon)
        return depth < 0.18 + 0.3 * a + (2 * b - 1) * 0.25 * (x - 0.5) + 0.1 * shore(x)

    def none(x: Plane, y: Plane) -> Plane:
        return np.zeros(np.broadcast_shapes(np.shape(x), np.shape(y)), bool)

    return {"lake": lake, "river": river, "sea": sea, "none": none}[kind], kind == "river"


def _draw_road(rng: np.random.Generator, horizon: float) -> Region:
    """Where a road winds from the middle distance to the lower edge, or nowhere."""
    exists = rng.random() < 0.55
    a, b, c, d = rng.random(4)

    def road(x: Plane, y: Plane) -> Plane:
        depth = (y - horizon) / (1 - horizon)
        bend = (2 * c - 1) * 5 * depth * (1 - depth) * (0.5 - depth)
        middle = mix(0.2 + 0.6 * a, 0.9 * b, depth) + bend
        width = 0.008 + (0.09 + 0.06 * d) * depth * depth
        return (np.abs(x - middle) < width) & (depth > 0.05) & exists

    return road


def _draw_house(canvas: Canvas, x: float, base: float, scale: float, shape: Plane) -> None:
    width = scale * (0.11 + 0.05 * shape[0])
    height = width * (0.5 + 0.4 * shape[1])
    roof = width * (0.35 + 0.25 * shape[2])
    gable = 0.1 + 0.9 * shape[3]  # how steeply the roof's ends lean in: 1 is a pyramid
    eaves = base - height
    canvas.shadow(x, base, 0.75 * width)
    where, px, py = canvas.window(x - width, x + width, eaves - roof, base)
    u = (px - x) / width  # walls reach from -0.5 to 0.5
    walls = (np.abs(u) < 0.5) & (py < base) & (py >= eaves)
    canvas.fill(where, walls, WALL, np.where(u > 0.18, -0.18, 0.0), (py - eaves) / height)
    lower = (py - eaves) / roof + 1  # 0 at the ridge, 1 at the eaves
    covered = (np.abs(u) < 0.6 - 0.55 * gable * (1 - lower)) & (lower >= 0) & (lower < 1.06)
    canvas.fill(where, covered, ROOF, np.where(u > 0.18, -0.14, 0.04), np.clip(lower, 0, 1))
    v = (py - eaves) / height
    panes = (np.abs(np.abs(u + 0.16) - 0.17) < 0.075) & (np.abs(v - 0.45) < 0.2)
    door = (np.abs(u - 0.32) < 0.07) & (v > 0.35) & (v < 1)
    canvas.fill(where, panes, WALL, 0.0, 0.5, WINDOW)
    canvas.fill(where, door & walls, WALL, -0.1, 0.5, TRUNK)


def _draw_tree(
    canvas: Canvas, x: float, base: float, scale: float, kind: int, shape: Plane
) -> None:
    """A fir (kind 0), a round crown (1) or a poplar (2)."""
    height = scale * (0.16 + 0.12 * shape[0])
    half = height * ((0.24, 0.36, 0.17)[kind] + 0.06 * shape[1])
    canvas.shadow(x, base, half)
    where, px, py = canvas.window(x - 1.3 * half, x + 1.3 * half, base - 1.05 * height, base)
    u, v = (px - x) / half, (base - py) / height  # v: 0 at the foot, 1 at the top
    stem = (np.abs(u) < 0.16) & (v < 0.4) & (v >= 0)
    canvas.fill(where, stem, TREE, -0.1 * (u > 0), 0.5, TRUNK)
    if kind == 0:
        tiers = (v - 0.12) * 4
        taper = 1.12 * (1 - v) + 0.28 * (np.floor(tiers) - tiers + 0.5)
        crown = (np.abs(u) < taper) & (v > 0.12) & (v < 1)
    elif kind == 1:
        crown = np.zeros(np.broadcast_shapes(u.shape, v.shape), bool)
        for cx, cy, radius in (
            (0, 0.64, 0.8),
            (-0.55, 0.52, 0.55),
            (0.5, 0.48 + 0.1 * shape[2], 0.6),
        ):
            a, b = (u - cx) / radius, (v - cy) / (radius * half / height)
            crown = crown | (a * a + b * b < 1)
    else:
        a, b = u, (v - 0.55) / 0.46
        crown = a * a + b * b < 1
    canvas.fill(where, crown, TREE, 0.12 * (v - 0.6) - 0.16 * u, 1 - np.clip(v, 0, 1))
