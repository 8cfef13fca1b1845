"""How each class of a drawn scene is painted: from local coordinates and a style to colours.

Every painter takes a thing, (u, v) of the places where it is seen, both (n,), and the style, and
returns RGB in about [0, 1], (3, n). Nothing else decides a colour, so that a layout's label map and
a picture in some style together tell what the layout looks like in that style.
"""

from collections.abc import Callable

import numpy as np

from cocosnet_jax.data.drawn.arithmetic import Plane, mix
from cocosnet_jax.data.drawn.house import GABLE, House
from cocosnet_jax.data.drawn.patterns import (
    bricks,
    checks,
    dots,
    fraction,
    scales,
    smooth_noise,
    stripes,
    wave,
    zigzags,
)
from cocosnet_jax.data.drawn.style import Style
from cocosnet_jax.data.drawn.things import (
    CLOUD,
    CROWN,
    FENCE,
    HILL,
    MEADOW,
    MOUNTAIN,
    PATH,
    ROOF,
    SKY,
    SUN,
    TRUNK,
    WALL,
    WATER,
    Thing,
)

Painter = Callable[[Thing, Plane, Plane, Style], Plane]


def _blend(style: Style, a: str, b: str, weight: Plane) -> Plane:
    return _over(style.colours[a][:, None], style, b, weight)


def _over(colour: Plane, style: Style, name: str, weight: Plane) -> Plane:
    # Numbers times truth values are float64, which takes twice as long.
    return mix(colour, style.colours[name][:, None], np.asarray(weight, np.float32))


def _sky(thing: Thing, u: Plane, v: Plane, style: Style) -> Plane:
    kind = style.pattern["sky"]
    fall = np.clip(1 - v / thing.shape[0], 0, 1)
    if kind == 1:  # a few broad bands
        steps = 4 + int(style.size["sky"] * 3)
        fall = np.floor(fall * steps + 0.5) / steps
    colour = _blend(style, "sky mark", "sky", np.clip(0.35 + 0.65 * fall + 0.2, 0, 1))
    colour = _over(colour, style, "sky low", 0.7 * fall * fall)
    if style.hour == "night":
        stars = dots(u * 11, v * 12 + 0.2 * wave(u * 3), 0.08)
        colour = _over(colour, style, "stars", 0.8 * stars * (fall > 0.25))
    if len(thing.shape) > 1:  # the sun's halo
        _, x, y, radius = thing.shape
        a, b = (u - x) / radius, (v - y) / radius
        far = a * a + b * b
        if kind == 2:  # rings
            ring = (far < 3.4) * 0.35 + (far < 7.5) * 0.25
            colour = _over(colour, style, "sun low", ring)
        else:
            colour = _over(colour, style, "sun low", 0.55 / (1 + 0.35 * far))
    return colour


def _cloud(thing: Thing, u: Plane, v: Plane, style: Style) -> Plane:
    if style.pattern["cloud"] == 0:
        shade: Plane = np.clip(1 - v * 3.2, 0, 1)
    else:
        shade = (v < 0.16 + 0.05 * wave(u * 1.5)) * 0.9
    return _blend(style, "cloud", "cloud low", shade * (0.6 + 0.6 * style.extra["cloud"]))


def _sun(thing: Thing, u: Plane, v: Plane, style: Style) -> Plane:
    far = u * u + v * v
    kind = style.pattern["sun"]
    if kind == 0:
        return _blend(style, "sun", "sun mark", (far > 0.5) * 0.8)
    if kind == 1:  # craters, or a sunset's bands
        return _blend(style, "sun", "sun low", stripes(v * 2.5 + 0.5, 0.45) * (v > -0.2))
    return _blend(style, "sun", "sun low", far)


def _mountain(thing: Thing, u: Plane, v: Plane, style: Style) -> Plane:
    kind = style.pattern["mountain"]
    colour = _blend(style, "mountain", "mountain low", np.clip(v, 0, 1))
    if kind == 0:  # snow along the ridge
        edge = 0.1 + 0.16 * style.size["mountain"] + 0.05 * wave(u * 9)
        return _over(colour, style, "stars", (v < edge) * 0.85)
    if kind == 1:  # layers of rock along the ridge
        period = 0.16 + 0.14 * style.size["mountain"]
        return _over(colour, style, "mountain mark", stripes(v / period, 0.4) * 0.55)
    haze = np.clip(v * 1.2, 0, 1)
    return _over(colour, style, "sky mark", haze * 0.5)


def _ground(name: str) -> Painter:
    def paint(thing: Thing, u: Plane, v: Plane, style: Style) -> Plane:
        kind, size = style.pattern[name], style.size[name]
        near = np.clip(v * 0.45, 0, 1)
        colour = _blend(style, name, f"{name} low", near)
        # Farther rows look narrower.
        row = v / (0.2 + 0.12 * v)
        if kind == 0:  # furrows along the crest
            period = 0.5 + 0.5 * size
            return _over(colour, style, f"{name} mark", stripes(row / period + 0.5) * 0.45)
        if kind == 1:  # flowers
            across = 16 - 6 * size
            found = dots(u * across, row * 1.4, 0.16 + 0.1 * style.extra[name])
            return _over(colour, style, f"{name} mark", found)
        if kind == 2:  # mown in waves
            mown = stripes(row / (0.9 + 0.6 * size) + 0.25 * wave(u * (2 + 2 * size)), 0.5)
            return _over(colour, style, f"{name} low", mown * 0.9)
        tufts = (np.abs(fraction(u * 14 + 0.5 * (np.floor(row * 1.2) % 2)) - 0.5) * 3.2) < (
            fraction(row * 1.2) - 0.45
        )
        return _over(colour, style, f"{name} mark", tufts * 0.7)

    return paint


def _water(thing: Thing, u: Plane, v: Plane, style: Style) -> Plane:
    if len(thing.shape) == 2:  # a pond: from its far shore to its near one
        v, u = (v + 1) * 0.5, u * thing.shape[0] * 1.0
    colour = _blend(style, "water mark", "water", np.clip(0.45 + 0.8 * v, 0, 1))
    period = 0.2 + 0.16 * style.size["water"]
    if style.pattern["water"] == 0:
        crest = stripes(v / period + 0.2 * wave(u * 7), 0.3)
    else:  # short strokes
        row = np.floor(v / period)
        dash = fraction(u * 5 + 0.5 * (row % 2)) < 0.55
        crest = stripes(v / period, 0.36) * dash
    return _over(colour, style, "water mark", crest * 0.75)


def _path(thing: Thing, u: Plane, v: Plane, style: Style) -> Plane:
    kind = style.pattern["path"]
    (length,) = thing.shape
    colour = _blend(style, "path", "path low", np.abs(u) * 0.6)
    along = v * length / (0.16 + 0.1 * style.size["path"]) * (1.6 - 0.6 * v)
    if kind == 0:  # slabs
        return _over(colour, style, "path mark", stripes(along * 1.6, 0.28) * 0.8)
    if kind == 1:  # kerbs
        return _over(colour, style, "path mark", (np.abs(u) > 0.74) * 0.9)
    return _over(colour, style, "path mark", dots(u * 1.25 + 0.5, along * 1.9, 0.3) * 0.8)


def _wall(thing: Thing, u: Plane, v: Plane, style: Style) -> Plane:
    house = House(*thing.shape)  # type: ignore[arg-type]
    kind, size = style.pattern["wall"], style.size["wall"]
    colour = _blend(style, "wall", "wall low", np.clip(0.5 - v, 0, 1) * 0.6)
    if kind == 1:
        joints = bricks(u * (10 - 3 * size), v * (10 - 3 * size), 0.24)
        colour = _over(colour, style, "wall mark", joints * 0.7)
    elif kind == 2:  # planks
        colour = _over(colour, style, "wall mark", stripes(v * (10 - 4 * size), 0.25) * 0.7)
    elif kind == 3:  # boards
        boards = stripes(u * (10 - 4 * size) + 0.5, 0.4)
        colour = _over(colour, style, "wall mark", boards * 0.6)
    elif kind == 4:  # timber
        post = np.abs(np.abs(u) - 0.47) < 0.03
        beam = (np.abs(v - 0.44) < 0.028) | (v < 0.05)
        brace = np.abs(np.abs(u) + 0.45 * (v - 0.44) - 0.34) < 0.028
        timber = post | beam | (brace & (v > 0.44))
        colour = _over(colour, style, "trunk", timber * 1.0)
    eaves = np.where(u > 0.5, house.wing_wall, house.wall)
    shadow = (v > eaves - 0.07) & (v < eaves + 0.1)
    colour = colour * (1 - 0.22 * shadow - 0.07 * (u > 0.5))

    for left, middle in house.windows():
        colour = _window(colour, u - left, v - middle, style)
    a, b = u - 0.2, v / 0.36
    arch = 1.0 if style.pattern["door"] else 0.0
    top = 1 - arch * a * a * 18
    frame = (np.abs(a) < 0.115) & (b < top + 0.06)
    leaf = (np.abs(a) < 0.09) & (b < top)
    colour = _over(colour, style, "frame", frame * 1.0)
    colour = _over(colour, style, "door", leaf * 1.0)
    knob = (a - 0.05) * (a - 0.05) + (v - 0.16) * (v - 0.16) < 0.0004
    colour = _over(colour, style, "frame", knob * 1.0)

    chimney = v > house.wall + 0.1
    cap = v > house.chimney - 0.04
    stack = _blend(style, "wall low", "roof low", cap * 1.0)
    return np.where(chimney, stack, colour)


def _window(colour: Plane, a: Plane, b: Plane, style: Style) -> Plane:
    """A window whose middle is at (0, 0), over the wall's colour."""
    kind = style.pattern["window"]
    if kind == 2:  # round
        far = a * a + b * b
        frame, glass = far < 0.0132, far < 0.0084
    else:
        top = 0.11 - (a * a * 4 if kind == 1 else 0)
        frame = (np.abs(a) < 0.105) & (b > -0.12) & (b < top + 0.015)
        glass = (np.abs(a) < 0.08) & (b > -0.095) & (b < top - 0.012)
    if style.pattern["shutters"] and kind != 2:
        shutter = (np.abs(np.abs(a) - 0.14) < 0.036) & (np.abs(b) < 0.11)
        colour = _over(colour, style, "door", shutter * 1.0)
    colour = _over(colour, style, "frame", frame * 1.0)
    bars = (np.abs(a) < 0.012) | (np.abs(b) < 0.012)
    colour = _over(colour, style, "window", (glass & ~bars) * 1.0)
    shine = glass & ~bars & (a + b > 0.05)
    return colour + 0.1 * shine


def _roof(thing: Thing, u: Plane, v: Plane, style: Style) -> Plane:
    house = House(*thing.shape)  # type: ignore[arg-type]
    kind, period = style.pattern["roof"], 0.15 + 0.08 * style.size["roof"]
    w = v - np.where(u > 0.585, house.wing_wall, house.wall)
    a, b = u / period, w / period
    mark = (
        lambda: stripes(b),
        lambda: stripes(a + 0.25),
        lambda: stripes(a + b),
        lambda: scales(a, b),
        lambda: checks(a + 0.5, b),
        lambda: bricks(a * 2, b * 1.5, 0.25),
        lambda: zigzags(a, b),
    )[kind]()
    strength = 0.65 + 0.35 * style.extra["roof"]
    colour = _blend(style, "roof", "roof mark", mark * strength)
    rise = (v - house.wall) / house.roof
    colour = colour * (0.92 + 0.14 * np.clip(rise, 0, 1))
    if house.ridge < GABLE:
        x, y = u - house.lean * 0.36, v - house.wall - 0.36 * house.roof
        far = x * x + y * y
        colour = _over(colour, style, "frame", (far < 0.0105) * 1.0)
        glass = (far < 0.0062) & (np.abs(x) > 0.012) & (np.abs(y) > 0.012)
        colour = _over(colour, style, "window", glass * 1.0)
    else:
        colour = _over(colour, style, "roof low", (rise > 0.9) * 0.9)
    eaves = (w < 0.035) & ~((u < 0.585) & (u > 0.5) & (v > house.wall + 0.05))
    return _over(colour, style, "roof low", eaves * 0.9)


def _crown(thing: Thing, u: Plane, v: Plane, style: Style) -> Plane:
    across, up, _ = thing.shape
    kind, period = style.pattern["crown"], 0.5 + 0.2 * style.size["crown"]
    w = v * (up / across)
    shade = np.clip(0.45 - 0.6 * v, 0, 1)
    colour = _blend(style, "crown", "crown low", shade)
    a, b = u / period, w / period
    if kind == 0:  # fruit
        ripe = dots(a + 0.5, b + 0.5, 0.26 + 0.08 * style.extra["crown"])
        return _over(colour, style, "crown mark", ripe)
    if kind == 1:  # leaves
        return _over(colour, style, "crown mark", scales(a, b * 0.8) * 0.7)
    if kind == 2:  # garlands
        garland = stripes(b * 0.9 + 0.25 * u * u, 0.45)
        return _over(colour, style, "crown mark", garland * 0.75)
    if kind == 3:  # a light top
        lit = u * u + (v - 0.5) * (v - 0.5) * 1.6 < 0.4
        return _over(colour, style, "crown mark", lit * 0.7)
    return _over(colour, style, "crown mark", checks(a + b, a - b) * 0.6)


def _trunk(thing: Thing, u: Plane, v: Plane, style: Style) -> Plane:
    colour = _blend(style, "trunk", "trunk low", np.abs(u))
    kind = style.pattern["trunk"]
    if kind == 0:  # a birch's bark
        return _over(colour, style, "trunk mark", stripes(v * 4, 0.45) * (np.abs(u) < 0.7))
    if kind == 1:
        return _over(colour, style, "trunk mark", (np.abs(u) < 0.3) * 0.7)
    return colour


def _fence(thing: Thing, u: Plane, v: Plane, style: Style) -> Plane:
    colour = _blend(style, "fence low", "fence", np.clip(v * 2.5, 0, 1))
    if style.pattern["fence"]:
        return _over(colour, style, "roof", (v > 0.72) * 0.9)
    side = np.abs(fraction(u) - 0.5)
    return _over(colour, style, "fence low", (side > 0.31) * 0.9)


PAINTERS: dict[int, Painter] = {
    SKY: _sky,
    CLOUD: _cloud,
    SUN: _sun,
    MOUNTAIN: _mountain,
    HILL: _ground("hill"),
    MEADOW: _ground("meadow"),
    WATER: _water,
    PATH: _path,
    WALL: _wall,
    ROOF: _roof,
    CROWN: _crown,
    TRUNK: _trunk,
    FENCE: _fence,
}


def grain(style: Style, x: Plane, y: Plane) -> Plane:
    """Brightness of the noise and of the darker corners, times which every colour is taken."""
    noise = smooth_noise(style.lattice, x * 45, y * 45) + smooth_noise(
        style.lattice, x * 13, y * 13
    )
    a, b = x - 0.5, y - 0.5
    return (1 + style.grain * (noise - 1)) * (1 - style.vignette * 2 * (a * a + b * b))
