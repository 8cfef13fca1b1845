"""The style of a drawn landscape: season, hour, and the colours and texture of every class."""

import dataclasses

import numpy as np

from cocosnet_jax.data.builders.toy_classes import (
    CLOUD,
    FIELD,
    MOUNTAIN,
    NUM_CLASSES,
    ROAD,
    ROOF,
    SKY,
    SUN,
    TREE,
    WALL,
    WATER,
)
from cocosnet_jax.data.drawn.arithmetic import Plane, pick

Colour = tuple[int, int, int]

LATTICE = 32  # side of a texture's table of noise, a power of two


@dataclasses.dataclass(frozen=True)
class Look:
    """The colours and the texture of one class; colours are RGB in [0, 1].

    Attributes:
      far, near: the two ends of the class's gradient.
      accent: a third colour, added by the texture.
      amount: how much of the accent, 0 to 1.
      grain: contrast of the texture.
      scale: cells of the texture per picture, along x and y.
      stripes: contrast of horizontal stripes (furrows, tiles, planks, waves).
      lattice: the texture's table of noise, (LATTICE, LATTICE) in [0, 1].
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
class Style:
    """A season and an hour: the look of every class, and the light on all of them."""

    looks: dict[int, Look]
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


def draw_style(rng: np.random.Generator) -> Style:
    """Draws a season and an hour, and within them every class's colours and texture."""
    hours, seasons = sorted(_HOURS), sorted(_LEAVES)
    zenith, skyline, disc, cloud, underside, light, haze, stars = _HOURS[pick(rng, hours)]
    season = pick(rng, seasons)
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
        colours = _rgb(pick(rng, choices[label]))
        shift = (rng.random(3) - 0.5) * 0.06 + (rng.random() - 0.5) * 0.08
        columns, rows, grain, stripes = _TEXTURES[label]
        zoom = 0.7 + 0.8 * rng.random()
        far, near, accent = np.clip(colours + shift, 0, 1).astype(np.float32)
        looks[label] = Look(
            far=far,
            near=near,
            accent=accent,
            amount=float(rng.random()),
            grain=grain * float(0.3 + 0.7 * rng.random()),
            scale=(columns * zoom, rows * zoom),
            stripes=stripes * float(rng.random()) * bool(rng.random() < 0.6),
            lattice=rng.random((LATTICE, LATTICE)).astype(np.float32),
        )
    lit = stars > 0.5 or rng.random() < 0.1
    return Style(
        looks=looks,
        light=np.array(light, np.float32) / 100,
        haze=_rgb(haze),
        fog=0.25 + 0.35 * float(rng.random()),
        window=_rgb((255, 214, 120) if lit else (70, 84, 104)),
        trunk=_rgb(pick(rng, [(96, 70, 48), (70, 54, 44), (150, 140, 128)])),
        stars=stars,
    )


def _rgb(colour: Colour | tuple[Colour, ...]) -> Plane:
    return np.array(colour, np.float32) / 255
