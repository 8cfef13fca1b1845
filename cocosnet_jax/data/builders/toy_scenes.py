"""Toy scenes: landscapes drawn by the program, with their label maps.

A scene is a layout (what is where) shown in a style (season, time of day, and for every class
its colours and texture). The two are drawn from independent random streams, so one layout can
be shown in any style, and nothing but an exemplar tells which colours a class has.

Everything is elementwise arithmetic on NumPy arrays with integer seeds, and sums are sums of
integers: no operation whose last bit depends on the machine (no sine, no power, no sum of floats).
The same seed gives the same scene everywhere, byte for byte, and the same picture at every size.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow_datasets as tfds

from cocosnet_jax.data.builders.toy_classes import (
    CLOUD,
    FIELD,
    MOUNTAIN,
    NUM_CLASSES,
    SKY,
    SUN,
    WATER,
)
from cocosnet_jax.data.builders.toy_layout import TRUNK, WINDOW, Canvas, draw_layout
from cocosnet_jax.data.builders.toy_style import LATTICE, Style, draw_style
from cocosnet_jax.data.drawn.arithmetic import Plane, mix
from cocosnet_jax.data.pair_builder import PairBuilder
from cocosnet_jax.errors import UserError

TRAIN_SCENES, VALIDATION_SCENES = 320, 64

_LAYOUT, _STYLE = 0, 1  # names of the two random streams


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
    canvas = Canvas(size * samples)
    draw_layout(np.random.Generator(np.random.PCG64([seed, _LAYOUT])), canvas)
    chosen = seed if style is None else style
    look = draw_style(np.random.Generator(np.random.PCG64([chosen, _STYLE])))
    picture = _paint(canvas, look).astype(np.uint32)
    rows = np.add.reduce([picture[:, k::samples] for k in range(samples)])
    total = np.add.reduce([rows[..., k::samples] for k in range(samples)])
    average = (total + samples * samples // 2) // (samples * samples)
    image = np.ascontiguousarray(average.transpose(1, 2, 0).astype(np.uint8))
    return image, canvas.label[samples // 2 :: samples, samples // 2 :: samples].copy()


def _noise(lattice: Plane, x: Plane, y: Plane) -> Plane:
    """Smooth noise in [0, 1]: a periodic table of random values, interpolated at (x, y)."""
    column, row = np.floor(x), np.floor(y)
    u, v = x - column, y - row
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    last = LATTICE - 1
    j, i = column.astype(np.int32) & last, (row.astype(np.int32) & last) * LATTICE
    m, k = (j + 1) & last, (i + LATTICE) & (last * LATTICE)
    table = lattice.reshape(-1)
    top = mix(table[i + j], table[i + m], u)
    return mix(top, mix(table[k + j], table[k + m], u), v)


def _octaves(lattice: Plane, x: Plane, y: Plane) -> Plane:
    """Noise at three scales, in [-1, 1]."""
    total = _noise(lattice, x, y) * 4
    total = total + _noise(lattice, x * 2 + 17, y * 2 + 5) * 2
    total = total + _noise(lattice, x * 4 + 3, y * 4 + 29)
    return total * (2 / 7) - 1


def _zigzag(x: Plane) -> Plane:
    """A wave of period 1 in [-1, 1] without a sine."""
    return np.abs(x - np.floor(x) - 0.5) * 4 - 1


def _paint(canvas: Canvas, style: Style) -> np.ndarray:
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
        colour = mix(look.far[:, None], look.near[:, None], rise)  # (3, samples)
        share = look.amount * np.clip(texture * 2.2 - 0.35, 0, 1)
        colour = mix(colour, look.accent[:, None], share)
        bands = look.stripes * _zigzag(y * look.scale[1] * (1.6 - 0.8 * rise) + 0.3 * texture)
        colour = colour * (1 + look.grain * texture + bands + tone)
        window, trunk = (parts[where] == part for part in (WINDOW, TRUNK))
        colour[:, trunk] = style.trunk[:, None] * (1 + tone[trunk])
        if label not in (SKY, CLOUD, SUN):
            colour = colour * style.light[:, None]
        if label in (MOUNTAIN, FIELD, WATER):  # what is far away takes the colour of the air
            far = 0.25 + 0.75 * rise if label == MOUNTAIN else 1 - 2.2 * rise
            colour = mix(colour, style.haze[:, None], style.fog * np.clip(far, 0, 1))
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
