"""How a drawn scene looks: a palette in which any class may have any hue, and patterns.

Colours are drawn in OKLCH (B. Ottosson, "A perceptual color space for image processing", 2020):
lightness by the hour and the class, hues from a few anchors of a colour scheme, and of several
such palettes the one whose neighbouring classes differ most.
"""

import dataclasses

import numpy as np

from cocosnet_jax.data.drawn.arithmetic import Plane, pick

LATTICE = 32  # side of the table of noise, a power of two

Range = tuple[float, float]

# Per colour: lightness by day, at dusk, at night, then chroma.
_ROLES: dict[str, tuple[Range, Range, Range, Range]] = {
    "sky": ((0.72, 0.88), (0.5, 0.7), (0.2, 0.32), (0.05, 0.13)),
    "cloud": ((0.93, 0.99), (0.74, 0.9), (0.42, 0.6), (0.01, 0.05)),
    "sun": ((0.84, 0.95), (0.8, 0.93), (0.86, 0.95), (0.06, 0.17)),
    "mountain": ((0.45, 0.74), (0.34, 0.56), (0.3, 0.46), (0.03, 0.12)),
    "hill": ((0.55, 0.8), (0.4, 0.62), (0.26, 0.46), (0.06, 0.15)),
    "meadow": ((0.58, 0.86), (0.45, 0.7), (0.34, 0.54), (0.07, 0.17)),
    "water": ((0.5, 0.8), (0.42, 0.72), (0.28, 0.5), (0.05, 0.14)),
    "path": ((0.72, 0.94), (0.6, 0.86), (0.46, 0.72), (0.02, 0.09)),
    "wall": ((0.74, 0.97), (0.64, 0.92), (0.5, 0.84), (0.01, 0.13)),
    "roof": ((0.34, 0.64), (0.3, 0.55), (0.3, 0.55), (0.08, 0.18)),
    "crown": ((0.36, 0.74), (0.3, 0.62), (0.28, 0.52), (0.07, 0.17)),
    "trunk": ((0.28, 0.5), (0.22, 0.42), (0.18, 0.34), (0.02, 0.08)),
    "fence": ((0.8, 0.98), (0.7, 0.94), (0.6, 0.86), (0.0, 0.1)),
}
NAMES = tuple(_ROLES)
HOURS = ("day", "dusk", "night")

# Which classes must be told apart by colour, because they touch.
_NEIGHBOURS = (
    *((name, "sky") for name in ("cloud", "sun", "mountain", "hill", "meadow", "roof", "crown")),
    *((name, "meadow") for name in ("mountain", "hill", "water", "path", "wall", "roof", "crown")),
    *((name, "meadow") for name in ("trunk", "fence")),
    *((name, "crown") for name in ("mountain", "hill", "water", "wall", "roof", "trunk", "fence")),
    *((name, "hill") for name in ("mountain", "water", "wall", "roof")),
    *((name, "wall") for name in ("path", "roof", "fence")),
    *((name, "roof") for name in ("mountain", "water")),
)
_PALETTES = 128  # of which the best is taken

# Offsets of hue anchors, in turns.
_SCHEMES = (
    (0.0, 0.08, -0.08, 0.5),
    (0.0, 0.33, 0.67),
    (0.0, 0.42, 0.58, 0.05),
    (0.0, 0.25, 0.5, 0.75),
    (0.0, 0.12, 0.24, 0.55),
)


@dataclasses.dataclass(frozen=True)
class Style:
    """What a layout is painted with; colours are RGB in [0, 1], (3,) float32.

    Attributes:
      colours: of every name in `NAMES`, and what goes with it: `NAME low`, darker or of a
        neighbouring hue, `NAME mark`, of patterns; `window`, `frame`, `door`.
      pattern: for what is patterned, which of its patterns.
      size: for what is patterned, from 0 (fine) to 1 (coarse).
      extra: for what is patterned, one more number in [0, 1].
      hour: one of `HOURS`.
      vignette: how much darker the corners are.
      grain: contrast of the noise on everything.
      lattice: the table of noise, (LATTICE, LATTICE) in [0, 1].
    """

    colours: dict[str, Plane]
    pattern: dict[str, int]
    size: dict[str, float]
    extra: dict[str, float]
    hour: str
    vignette: float
    grain: float
    lattice: Plane


# How many patterns each has.
PATTERNS = {
    "sky": 3,
    "cloud": 2,
    "sun": 3,
    "mountain": 3,
    "hill": 3,
    "meadow": 4,
    "water": 2,
    "path": 3,
    "wall": 5,
    "window": 3,
    "shutters": 2,
    "door": 2,
    "roof": 7,
    "crown": 5,
    "trunk": 3,
    "fence": 2,
}


def draw_style(rng: np.random.Generator) -> Style:
    """Draws a palette and the patterns."""
    hour = pick(rng, ["day", "day", "dusk", "night"])
    colours = _draw_colours(rng, HOURS.index(hour), pick(rng, _SCHEMES))
    return Style(
        colours=colours,
        pattern={name: pick(rng, range(count)) for name, count in PATTERNS.items()},
        size={name: float(rng.random()) for name in PATTERNS},
        extra={name: float(rng.random()) for name in PATTERNS},
        hour=hour,
        vignette=0.05 + 0.15 * float(rng.random()),
        grain=0.015 + 0.03 * float(rng.random()),
        lattice=rng.random((LATTICE, LATTICE)).astype(np.float32),
    )


def _draw_colours(
    rng: np.random.Generator, hour: int, scheme: tuple[float, ...]
) -> dict[str, Plane]:
    ranges = np.array([[role[hour], role[3]] for role in _ROLES.values()])  # (names, 2, 2)
    draws = rng.random((_PALETTES, len(NAMES), 4))
    values = ranges[:, :, 0] + (ranges[:, :, 1] - ranges[:, :, 0]) * draws[..., :2]
    anchors = np.array(scheme) + float(rng.random())
    hues = anchors[(draws[..., 2] * len(scheme)).astype(int)] + 0.06 * (draws[..., 3] - 0.5)
    if hour == HOURS.index("night"):
        # A dark sky of any hue but those of mud, from cyan over blue to red.
        sky = NAMES.index("sky")
        hues[:, sky] = 0.53 + 0.42 * draws[:, sky, 3]
    hues[:, NAMES.index("cloud")] = hues[:, NAMES.index("sky")]
    palettes = np.stack([values[..., 0], values[..., 1], hues], -1)  # OKLCH, hue in turns
    left, right = (
        _rectangular(palettes[:, [NAMES.index(pair[k]) for pair in _NEIGHBOURS]]) for k in (0, 1)
    )
    gaps = np.sqrt(((left - right) ** 2).sum(-1))
    # The smallest gap counts most, then those of all that are not wide.
    score = gaps.min(-1) + 0.5 * np.minimum(gaps, 0.2).mean(-1)
    chosen = palettes[np.argmax(score)]

    found = {}
    for name, base in zip(NAMES, chosen, strict=True):
        turn, lift, hop = rng.random(3)
        light, chroma, hue = base
        low = np.array([light - 0.07 - 0.04 * lift, chroma * 1.1, hue + 0.07 * (turn - 0.5)])
        # A mark is lighter on what is dark, darker on what is light, and now and then of another
        # anchor's hue.
        step = (0.13 + 0.09 * lift) * (1 if light < 0.62 else -1)
        other = anchors[int(hop * 3 * len(scheme)) % len(scheme)] if hop < 0.5 else hue
        mark = np.array([light + step, max(chroma, 0.06), other + 0.05 * (turn - 0.5)])
        found[name], found[f"{name} low"], found[f"{name} mark"] = base, low, mark
    hop = rng.random(6)
    lit = hour == 2 or hop[0] < 0.25
    glass = (0.88, 0.13) if lit else (0.36 + 0.2 * hop[1], 0.06)
    pane = anchors[int(hop[2] * len(scheme))]
    found["window"] = np.array([*glass, 0.24 if lit else pane])
    wall_is_light = found["wall"][0] > 0.72
    found["frame"] = np.array([0.45 if wall_is_light and lit else 0.97, 0.02, pane])
    door = anchors[int(hop[3] * len(scheme))]
    found["door"] = np.array([0.34 + 0.2 * hop[4], 0.13, door + 0.05 * hop[5]])
    found["stars"] = np.array([0.95, 0.03, 0.25])
    return dict(zip(found, _to_rgb(np.stack(list(found.values()))), strict=True))


def _rectangular(lch: Plane) -> Plane:
    """OKLab of OKLCH with hues in turns, (..., 3)."""
    angle = 2 * np.pi * lch[..., 2]
    return np.stack(
        [lch[..., 0], lch[..., 1] * np.cos(angle), lch[..., 1] * np.sin(angle)], axis=-1
    )


def _to_rgb(lch: Plane) -> Plane:
    """SRGB in [0, 1] in steps of a 255th, (n, 3), of OKLCH colours brought into the gamut."""
    light = np.clip(lch[:, 0], 0, 1)
    shrinks = np.linspace(1, 0, 21)[:, None] * np.ones(len(lch))
    lab = _rectangular(
        np.stack([light + 0 * shrinks, lch[:, 1] * shrinks, lch[:, 2] + 0 * shrinks], -1)
    )
    roots = lab @ _FROM_LAB
    linear = (roots * roots * roots) @ _TO_LINEAR
    fits = (linear.min(-1) > -0.002) & (linear.max(-1) < 1.002)
    linear = np.clip(linear[np.argmax(fits, 0), np.arange(len(lch))], 0, 1)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    # Rounded: powers and sines differ in their last bit from machine to machine.
    return (np.rint(curved * 255) / 255).astype(np.float32)


# Ottosson's matrices, for rows of colours.
_FROM_LAB = np.array(
    [
        [1.0, 1.0, 1.0],
        [0.3963377774, -0.1055613458, -0.0894841775],
        [0.2158037573, -0.0638541728, -1.2914855480],
    ]
)
_TO_LINEAR = np.array(
    [
        [4.0767416621, -1.2684380046, -0.0041960863],
        [-3.3077115913, 2.6097574011, -0.7034186147],
        [0.2309699292, -0.3413193965, 1.7076147010],
    ]
)
