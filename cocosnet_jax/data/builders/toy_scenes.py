"""Toy scenes: landscapes drawn by the program, with their label maps.

A scene is a layout (what is where) shown in a style (season, time of day, and for every class
its colours and texture). The two are drawn from independent random streams, so one layout can
be shown in any style, and nothing but an exemplar tells which colours a class has.

Everything is elementwise arithmetic on NumPy arrays with integer seeds, and sums are sums of
integers: no operation whose last bit depends on the machine (no sine, no power, no sum of floats).
The same seed gives the same scene everywhere, byte for byte, and the same picture at every size.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import tensorflow_datasets as tfds

from cocosnet_jax.data.records import PairBuilder
from cocosnet_jax.errors import UserError

UNKNOWN, SKY, CLOUD, SUN, MOUNTAIN, FIELD, WATER, TREE, WALL, ROOF, ROAD = range(11)
CLASS_NAMES = (
    "unknown",
    "sky",
    "cloud",
    "sun or moon",
    "mountain",
    "field",
    "water",
    "tree",
    "house wall",
    "roof",
    "road",
)
NUM_CLASSES = len(CLASS_NAMES)

Plane = np.ndarray
Colour = tuple[int, int, int]
T = TypeVar("T")
Region = Callable[[Plane, Plane], Plane]

TRAIN_SCENES, VALIDATION_SCENES = 320, 64

_LAYOUT, _STYLE = 0, 1  # names of the two random streams
_LATTICE = 32  # side of a texture's table of noise, a power of two
_PLAIN, _WINDOW, _TRUNK = range(3)  # parts of an object that have colours of their own


def draw_scene(seed: int, size: int, style: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Draws one landscape.

    Args:
      seed: number of the layout, 0 or more.
      size: side of the square picture in pixels, 16 or more.
      style: number of the style, 0 or more; None takes `seed`.

    Returns:
      The photograph's stand-in, (size, size, 3) uint8 RGB, antialiased, and its label map,
      (size, size) uint8 with classes 1 to NUM_CLASSES - 1 (0, unknown, is never drawn).
    """
    if size < 16 or seed < 0 or (style is not None and style < 0):
        raise ValueError(f"size {size} must be 16 or more, seed {seed} and style {style} 0 or more")
    samples = max(2, -(-192 // size) | 1)  # per pixel and axis
    canvas = _Canvas(size * samples)
    _draw_layout(np.random.Generator(np.random.PCG64([seed, _LAYOUT])), canvas)
    chosen = seed if style is None else style
    look = _draw_style(np.random.Generator(np.random.PCG64([chosen, _STYLE])))
    picture = _paint(canvas, look).astype(np.uint32)
    rows = np.add.reduce([picture[:, k::samples] for k in range(samples)])
    total = np.add.reduce([rows[..., k::samples] for k in range(samples)])
    average = (total + samples * samples // 2) // (samples * samples)
    image = np.ascontiguousarray(average.transpose(1, 2, 0).astype(np.uint8))
    return image, canvas.label[samples // 2 :: samples, samples // 2 :: samples].copy()


def _pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    # Only `random` is used of NumPy's generators: its stream is the one that stays as it is.
    return options[int(rng.random() * len(options))]


def _rgb(colour: Colour | tuple[Colour, ...]) -> Plane:
    return np.array(colour, np.float32) / 255


def _mix(a: Plane | float, b: Plane | float, weight: Plane) -> Plane:
    return a + (b - a) * weight


def _noise(lattice: Plane, x: Plane, y: Plane) -> Plane:
    """Smooth noise in [0, 1]: a periodic table of random values, interpolated at (x, y)."""
    column, row = np.floor(x), np.floor(y)
    u, v = x - column, y - row
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    last = _LATTICE - 1
    j, i = column.astype(np.int32) & last, (row.astype(np.int32) & last) * _LATTICE
    m, k = (j + 1) & last, (i + _LATTICE) & (last * _LATTICE)
    table = lattice.reshape(-1)
    top = _mix(table[i + j], table[i + m], u)
    return _mix(top, _mix(table[k + j], table[k + m], u), v)


def _octaves(lattice: Plane, x: Plane, y: Plane) -> Plane:
    """Noise at three scales, in [-1, 1]."""
    total = _noise(lattice, x, y) * 4
    total = total + _noise(lattice, x * 2 + 17, y * 2 + 5) * 2
    total = total + _noise(lattice, x * 4 + 3, y * 4 + 29)
    return total * (2 / 7) - 1


def _zigzag(x: Plane) -> Plane:
    """A wave of period 1 in [-1, 1] without a sine."""
    return np.abs(x - np.floor(x) - 0.5) * 4 - 1


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
        return _mix(heights[left], heights[left + 1], place - left)

    return at


class _Canvas:
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
        part: int = _PLAIN,
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


def _draw_layout(rng: np.random.Generator, canvas: _Canvas) -> None:
    """Draws what is where. No draw from `rng` depends on the canvas's resolution."""
    everywhere, x, y = canvas.window(0, 1, 0, 1)
    horizon = 0.36 + 0.2 * rng.random()
    canvas.rise[:] = np.clip(y / horizon, 0, 1)
    _draw_sun_and_clouds(rng, canvas, horizon)

    for ridge in range(_pick(rng, [0, 1, 2, 2])):
        outline = _ridge(rng, _pick(rng, [3, 4, 5]), 0.35)
        height = horizon * (0.4 + 0.35 * rng.random()) * (1 - 0.45 * ridge)
        top = horizon - height * (0.15 + 0.85 * outline(x))
        # Slopes to the right lie in shadow; the second ridge is nearer and darker.
        slope = np.clip((outline(x + 0.02) - outline(x - 0.02)) * 2.5, -0.25, 0.25)
        fall = np.clip((y - top) / height, 0, 1)
        canvas.fill(
            everywhere, (y > top) & (y < horizon + 0.1), MOUNTAIN, slope - 0.14 * ridge, fall
        )

    rolling = _ridge(rng, 3, 0.08)
    ground_top = horizon + 0.05 * (rolling(x) - 0.5)
    depth = np.clip((y - horizon) / (1 - horizon), 0, 1)
    canvas.fill(everywhere, y > ground_top, FIELD, 0.0, depth)

    water, bridged = _draw_water(rng, horizon)
    road = _draw_road(rng, horizon)
    wet, paved = (y > ground_top) & water(x, y), (y > ground_top) & road(x, y)
    canvas.fill(everywhere, wet, WATER, 0.0, depth)
    canvas.fill(everywhere, paved if bridged else paved & ~wet, ROAD, 0.0, depth)

    if rng.random() < 0.5:  # a forest on the horizon
        left, width = rng.random(), 0.35 + 0.4 * rng.random()
        crowns = _ridge(rng, 24, 0.3)
        distance = (x - left) * 2 / width
        edge = 1 - distance * distance  # lower towards both ends
        top = horizon + 0.02 - (0.05 + 0.06 * crowns(x)) * edge
        forest = (y > top) & (y < horizon + 0.03) & (edge > 0)
        canvas.fill(everywhere, forest, TREE, (crowns(x) - 0.5) * 0.3, 0.2)

    objects = [("house", rng.random()) for _ in range(_pick(rng, [0, 1, 1, 2]))]
    objects += [("tree", rng.random()) for _ in range(_pick(rng, range(3, 10)))]
    kind = _pick(rng, range(4))  # 3: mixed wood
    for name, near in sorted(objects, key=lambda thing: thing[1]):
        # Draws are the same in number whether or not the place turns out to be free.
        places, shape = rng.random(6), rng.random(5)
        base = horizon + (1 - horizon) * (0.06 + 0.72 * near * near)
        if name == "house":
            places = 0.08 + 0.84 * places  # no house is cut by the picture's edge
        feet, level = places[:, None] + np.array([-0.06, 0.0, 0.06]), np.array(base)
        free = places[~(water(feet, level) | road(feet, level)).any(1)]
        if len(free) == 0:
            continue
        scale = 0.55 + 0.75 * near
        if name == "house":
            _draw_house(canvas, free[0], base, scale, shape)
        else:
            _draw_tree(canvas, free[0], base, scale, kind if kind < 3 else int(shape[4] * 3), shape)


def _draw_sun_and_clouds(rng: np.random.Generator, canvas: _Canvas, horizon: float) -> None:
    where, x, y = canvas.window(0, 1, 0, 1)
    if rng.random() < 0.75:
        radius = 0.045 + 0.03 * rng.random()
        u = x - (0.12 + 0.76 * rng.random())
        v = y - horizon * (0.2 + 0.35 * rng.random())
        canvas.fill(where, u * u + v * v < radius * radius, SUN, 0.0, 0.5)
    for _ in range(_pick(rng, range(4))):
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
    kind = _pick(rng, ["lake", "lake", "river", "river", "sea", "sea", "none"])
    a, b, c, d = rng.random(4)
    shore = _ridge(rng, 4, 0.3)

    def lake(x: Plane, y: Plane) -> Plane:
        depth = (y - horizon) / (1 - horizon)
        u, v = (x - 0.15 - 0.7 * a) / (0.28 + 0.22 * b), (depth - 0.3 - 0.3 * c) / (0.12 + 0.14 * d)
        return u * u + v * v < 0.7 + 0.5 * shore(x)

    def river(x: Plane, y: Plane) -> Plane:
        depth = (y - horizon) / (1 - horizon)
        bend = (2 * c - 1) * 6 * depth * (1 - depth) * (0.6 - depth)
        middle = _mix(0.25 + 0.5 * a, 0.1 + 0.8 * b, depth) + bend
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
        middle = _mix(0.2 + 0.6 * a, 0.9 * b, depth) + bend
        width = 0.008 + (0.09 + 0.06 * d) * depth * depth
        return (np.abs(x - middle) < width) & (depth > 0.05) & exists

    return road


def _draw_house(canvas: _Canvas, x: float, base: float, scale: float, shape: Plane) -> None:
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
    canvas.fill(where, panes, WALL, 0.0, 0.5, _WINDOW)
    canvas.fill(where, door & walls, WALL, -0.1, 0.5, _TRUNK)


def _draw_tree(
    canvas: _Canvas, x: float, base: float, scale: float, kind: int, shape: Plane
) -> None:
    """A fir (kind 0), a round crown (1) or a poplar (2)."""
    height = scale * (0.16 + 0.12 * shape[0])
    half = height * ((0.24, 0.36, 0.17)[kind] + 0.06 * shape[1])
    canvas.shadow(x, base, half)
    where, px, py = canvas.window(x - 1.3 * half, x + 1.3 * half, base - 1.05 * height, base)
    u, v = (px - x) / half, (base - py) / height  # v: 0 at the foot, 1 at the top
    stem = (np.abs(u) < 0.16) & (v < 0.4) & (v >= 0)
    canvas.fill(where, stem, TREE, -0.1 * (u > 0), 0.5, _TRUNK)
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


@dataclasses.dataclass(frozen=True)
class _Look:
    """The colours and the texture of one class; colours are RGB in [0, 1].

    Attributes:
      far, near: the two ends of the class's gradient.
      accent: a third colour that the texture brings in.
      amount: how much of the accent, 0 to 1.
      grain: contrast of the texture.
      scale: cells of the texture per picture, along x and y.
      stripes: contrast of stripes across, as furrows, tiles, planks and waves have.
      lattice: the texture's table of noise, (_LATTICE, _LATTICE) in [0, 1].
    """

    far: Plane
    near: Plane
    accent: Plane
    amount: float
    grain: float
    scale: tuple[float, float]
    stripes: float
    lattice: Plane


@dataclasses.dataclass(frozen=True)
class _Style:
    """A season and an hour: the look of every class, and the light on all of them."""

    looks: dict[int, _Look]
    light: Plane
    haze: Plane
    fog: float
    window: Plane
    trunk: Plane
    stars: float


# An hour: sky at the zenith, sky at the horizon, sun or moon, clouds' tops, their undersides,
# the light on everything else in percent, haze, stars.
_HOURS: dict[str, tuple[Colour, Colour, Colour, Colour, Colour, Colour, Colour, float]] = {
    "noon": ((38, 110, 214), (158, 208, 246), (255, 250, 214), (255, 255, 255), (205, 218, 235),
             (104, 104, 102), (176, 208, 240), 0),
    "morning": ((112, 176, 232), (252, 226, 190), (255, 244, 200), (255, 246, 232), (228, 200, 196),
                (108, 100, 90), (246, 226, 204), 0),
    "dawn": ((104, 98, 176), (255, 172, 150), (255, 232, 190), (255, 204, 196), (190, 130, 164),
             (100, 82, 88), (240, 170, 164), 0),
    "dusk": ((66, 44, 108), (255, 122, 44), (255, 226, 130), (255, 166, 96), (150, 68, 92),
             (96, 70, 62), (226, 116, 70), 0),
    "violet": ((52, 30, 92), (214, 104, 168), (255, 214, 236), (226, 140, 196), (116, 64, 132),
               (84, 66, 92), (172, 96, 168), 0.3),
    "night": ((8, 12, 40), (34, 52, 104), (240, 242, 226), (74, 86, 126), (40, 50, 88),
              (36, 44, 72), (30, 44, 88), 1),
    "moonlight": ((10, 36, 52), (52, 112, 122), (250, 246, 214), (96, 142, 148), (46, 84, 96),
                  (44, 62, 66), (44, 92, 104), 1),
    "overcast": ((138, 146, 156), (206, 210, 212), (244, 244, 238), (228, 230, 232),
                 (160, 166, 174), (84, 86, 90), (198, 202, 208), 0),
    "storm": ((44, 54, 66), (132, 146, 142), (222, 226, 206), (124, 132, 138), (66, 74, 84),
              (66, 72, 74), (118, 130, 132), 0),
    "amber": ((226, 150, 62), (255, 224, 140), (255, 252, 226), (255, 236, 190), (226, 168, 104),
              (110, 92, 66), (250, 212, 146), 0),
    "mint": ((64, 176, 170), (216, 244, 214), (255, 252, 224), (248, 255, 246), (176, 218, 206),
             (98, 106, 98), (198, 234, 218), 0),
}  # fmt: skip

# Per season and class: colours (far, near, accent), among which a style chooses.
_LEAVES: dict[str, list[tuple[Colour, Colour, Colour]]] = {
    "spring": [
        ((150, 190, 84), (92, 146, 52), (214, 226, 140)),
        ((250, 190, 208), (226, 124, 164), (255, 228, 236)),
        ((248, 244, 236), (206, 200, 190), (244, 208, 222)),
    ],
    "summer": [
        ((64, 124, 48), (30, 80, 32), (110, 160, 62)),
        ((36, 92, 70), (16, 56, 48), (66, 124, 88)),
        ((120, 134, 56), (76, 92, 36), (164, 170, 88)),
    ],
    "autumn": [
        ((236, 150, 36), (190, 92, 20), (250, 198, 66)),
        ((200, 54, 34), (134, 26, 28), (240, 112, 44)),
        ((240, 206, 60), (196, 150, 30), (252, 232, 124)),
        ((142, 82, 44), (92, 50, 30), (186, 122, 62)),
    ],
    "winter": [
        ((236, 242, 250), (170, 190, 212), (255, 255, 255)),
        ((34, 62, 58), (18, 40, 42), (222, 232, 240)),
        ((112, 92, 84), (74, 58, 56), (150, 130, 120)),
    ],
}
_MEADOWS: dict[str, list[tuple[Colour, Colour, Colour]]] = {
    "spring": [
        ((160, 204, 96), (98, 168, 52), (236, 226, 90)),
        ((238, 214, 60), (206, 180, 26), (128, 170, 52)),
        ((132, 190, 96), (84, 148, 60), (232, 74, 66)),
    ],
    "summer": [
        ((106, 168, 74), (54, 118, 40), (140, 188, 80)),
        ((230, 190, 92), (204, 152, 50), (246, 222, 140)),
        ((150, 112, 196), (106, 66, 160), (112, 150, 84)),
        ((214, 172, 130), (190, 138, 92), (232, 204, 168)),
    ],
    "autumn": [
        ((186, 156, 76), (146, 106, 46), (214, 182, 100)),
        ((140, 92, 62), (98, 58, 40), (172, 122, 84)),
        ((152, 152, 66), (112, 108, 40), (204, 138, 52)),
    ],
    "winter": [
        ((238, 243, 250), (214, 226, 242), (255, 255, 255)),
        ((206, 222, 238), (176, 200, 226), (240, 246, 252)),
        ((190, 182, 160), (150, 140, 120), (236, 240, 244)),
    ],
}
_ANY_SEASON: dict[int, list[tuple[Colour, Colour, Colour]]] = {
    MOUNTAIN: [
        ((250, 252, 255), (96, 108, 130), (70, 80, 104)),
        ((146, 158, 186), (88, 102, 138), (180, 190, 210)),
        ((206, 132, 92), (148, 76, 54), (230, 170, 122)),
        ((128, 104, 156), (78, 62, 112), (160, 138, 184)),
        ((106, 136, 92), (64, 96, 62), (142, 160, 112)),
        ((160, 150, 140), (98, 90, 84), (198, 190, 178)),
        ((86, 80, 82), (46, 42, 48), (124, 112, 108)),
    ],
    WATER: [
        ((126, 182, 226), (32, 94, 162), (198, 226, 244)),
        ((120, 222, 212), (18, 150, 160), (206, 246, 236)),
        ((94, 128, 108), (44, 80, 66), (140, 168, 142)),
        ((172, 150, 112), (120, 94, 62), (206, 186, 148)),
        ((46, 66, 108), (14, 26, 58), (96, 124, 172)),
        ((246, 178, 130), (176, 92, 96), (255, 222, 170)),
        ((214, 228, 238), (160, 188, 210), (246, 250, 255)),
    ],
    WALL: [
        ((246, 242, 232), (226, 220, 206), (206, 200, 188)),
        ((178, 84, 62), (146, 60, 46), (206, 126, 100)),
        ((238, 200, 104), (218, 172, 76), (250, 222, 146)),
        ((236, 166, 170), (214, 132, 140), (248, 196, 198)),
        ((124, 164, 204), (92, 132, 178), (164, 194, 222)),
        ((126, 86, 54), (98, 64, 40), (158, 114, 74)),
        ((166, 196, 158), (132, 164, 126), (196, 216, 186)),
    ],
    ROOF: [
        ((206, 92, 58), (160, 62, 40), (226, 130, 88)),
        ((92, 102, 118), (58, 66, 82), (126, 136, 150)),
        ((52, 110, 122), (32, 78, 92), (84, 146, 156)),
        ((216, 184, 110), (176, 142, 74), (236, 208, 142)),
        ((112, 40, 46), (78, 26, 34), (146, 66, 68)),
        ((62, 92, 62), (40, 64, 44), (92, 122, 86)),
        ((60, 46, 44), (38, 30, 32), (90, 72, 66)),
    ],
    ROAD: [
        ((150, 150, 156), (92, 92, 100), (178, 178, 184)),
        ((226, 206, 164), (196, 168, 118), (240, 224, 190)),
        ((194, 112, 74), (156, 78, 50), (214, 144, 104)),
        ((238, 234, 226), (208, 202, 192), (250, 248, 244)),
        ((60, 58, 64), (36, 36, 42), (92, 90, 96)),
        ((150, 122, 92), (112, 86, 62), (176, 150, 116)),
    ],
}  # fmt: skip

# Cells of the texture along x and y; grain and stripes are the largest that a style may take.
_TEXTURES: dict[int, tuple[float, float, float, float]] = {
    SKY: (3, 6, 0.05, 0.0),
    CLOUD: (9, 14, 0.10, 0.0),
    SUN: (14, 14, 0.06, 0.0),
    MOUNTAIN: (20, 11, 0.30, 0.0),
    FIELD: (9, 22, 0.22, 0.12),
    WATER: (7, 44, 0.18, 0.12),
    TREE: (34, 34, 0.35, 0.0),
    WALL: (26, 26, 0.10, 0.16),
    ROOF: (30, 30, 0.12, 0.22),
    ROAD: (26, 44, 0.14, 0.0),
}


def _draw_style(rng: np.random.Generator) -> _Style:
    """Draws a season and an hour, and within them every class's colours and texture."""
    hours, seasons = sorted(_HOURS), sorted(_LEAVES)
    zenith, skyline, disc, cloud, underside, light, haze, stars = _HOURS[_pick(rng, hours)]
    season = _pick(rng, seasons)
    choices = {
        SKY: [(zenith, skyline, skyline)],
        CLOUD: [(cloud, underside, cloud)],
        SUN: [(disc, disc, disc)],
        FIELD: _MEADOWS[season],
        TREE: _LEAVES[season],
        **_ANY_SEASON,
    }
    looks = {}
    for label in range(1, NUM_CLASSES):
        colours = _rgb(_pick(rng, choices[label]))
        shift = (rng.random(3) - 0.5) * 0.06 + (rng.random() - 0.5) * 0.08
        columns, rows, grain, stripes = _TEXTURES[label]
        zoom = 0.7 + 0.8 * rng.random()
        far, near, accent = np.clip(colours + shift, 0, 1).astype(np.float32)
        looks[label] = _Look(
            far=far,
            near=near,
            accent=accent,
            amount=float(rng.random()),
            grain=grain * float(0.3 + 0.7 * rng.random()),
            scale=(columns * zoom, rows * zoom),
            stripes=stripes * float(rng.random()) * bool(rng.random() < 0.6),
            lattice=rng.random((_LATTICE, _LATTICE)).astype(np.float32),
        )
    lit = stars > 0.5 or rng.random() < 0.1
    return _Style(
        looks=looks,
        light=np.array(light, np.float32) / 100,
        haze=_rgb(haze),
        fog=0.25 + 0.35 * float(rng.random()),
        window=_rgb((255, 214, 120) if lit else (70, 84, 104)),
        trunk=_rgb(_pick(rng, [(96, 70, 48), (70, 54, 44), (150, 140, 128)])),
        stars=stars,
    )


def _paint(canvas: _Canvas, style: _Style) -> np.ndarray:
    """The layout in the style: (3, side, side) uint8 RGB."""
    side = canvas.side
    picture = np.zeros((3, side * side), np.uint8)
    labels, parts = canvas.label.reshape(-1), canvas.part.reshape(-1)
    for label in range(1, NUM_CLASSES):
        where = np.flatnonzero(labels == label)
        if len(where) == 0:
            continue
        look = style.looks[label]
        x, y = canvas.centres[where % side], canvas.centres[where // side]
        rise, tone = canvas.rise.reshape(-1)[where], canvas.tone.reshape(-1)[where]
        texture = _octaves(look.lattice, x * look.scale[0], y * look.scale[1])
        colour = _mix(look.far[:, None], look.near[:, None], rise)  # (3, samples)
        share = look.amount * np.clip(texture * 2.2 - 0.35, 0, 1)
        colour = _mix(colour, look.accent[:, None], share)
        bands = look.stripes * _zigzag(y * look.scale[1] * (1.6 - 0.8 * rise) + 0.3 * texture)
        colour = colour * (1 + look.grain * texture + bands + tone)
        window, trunk = (parts[where] == part for part in (_WINDOW, _TRUNK))
        colour[:, trunk] = style.trunk[:, None] * (1 + tone[trunk])
        if label not in (SKY, CLOUD, SUN):
            colour = colour * style.light[:, None]
        if label in (MOUNTAIN, FIELD, WATER):  # what is far away takes the colour of the air
            far = 0.25 + 0.75 * rise if label == MOUNTAIN else 1 - 2.2 * rise
            colour = _mix(colour, style.haze[:, None], style.fog * np.clip(far, 0, 1))
        if label == SKY and style.stars > 0:
            cell = _noise(look.lattice, x * 61, y * 61)
            colour = colour + style.stars * np.clip((cell - 0.93) * 12, 0, 0.8)
        colour[:, window] = style.window[:, None]
        picture[:, where] = np.rint(np.clip(colour, 0, 1) * 255)
    return picture.reshape(3, side, side)


class ToyScenes(PairBuilder):
    """Landscapes drawn by the program, every one in a style of its own."""

    # To be raised with every change of what is drawn: records of another version are not reused.
    VERSION = tfds.core.Version("1.1.0")

    def split_keys(self) -> Mapping[str, Sequence[str]]:
        """Keys `scene-SEED`; the seeds of the two splits are far apart."""
        return {
            "train": [f"scene-{seed:07d}" for seed in range(TRAIN_SCENES)],
            "validation": [
                f"scene-{seed:07d}" for seed in range(1_000_000, 1_000_000 + VALIDATION_SCENES)
            ],
        }

    def make_pair(self, split: str, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Draws the scene of a key at the split's size; the label has one plane."""
        image, label = draw_scene(int(key.removeprefix("scene-")), self.side(split))
        return image, label[..., None]

    def check(self) -> None:
        """Raises a `UserError` where the settings name another number of classes."""
        if self.builder_config.classes != NUM_CLASSES:
            raise UserError(
                f"config.data.channels is {self.builder_config.classes}, but toy_scenes has"
                f" {NUM_CLASSES} classes: set config.data.channels={NUM_CLASSES}"
            )
