"""Pairs of drawn scenes that no training has seen, with what their translation should be."""

import sys
from typing import NamedTuple

import tqdm

from cocosnet_jax.data.drawn.scene import Scene, draw_scene
from cocosnet_jax.data.drawn.splits import SHARING, VALIDATION_SCENES, VALIDATION_SEED

EXEMPLARS = 2  # per scene


class Pair(NamedTuple):
    """What one translation is made of, and what is measured against.

    Attributes:
      scene: the input's layout in a style of its own; networks are given its label map alone.
      exemplar: another layout in another style.
      truth: the input's layout in the exemplar's style.
    """

    scene: Scene
    exemplar: Scene
    truth: Scene


def draw_pairs(count: int, size: int) -> list[Pair]:
    """Draws `count` scenes spread over the validation split, `EXEMPLARS` pairs of each in a row."""

    def drawn(layout: int, style_of: int) -> Scene:
        return draw_scene(VALIDATION_SEED + layout, VALIDATION_SEED + style_of // SHARING, size)

    pairs = []
    for number in tqdm.trange(count, desc="drawing", unit=" scenes", file=sys.stdout):
        layout = number * VALIDATION_SCENES // count
        scene = drawn(layout, layout)
        for k in range(1, EXEMPLARS + 1):
            other = (layout + k * VALIDATION_SCENES // (EXEMPLARS + 1)) % VALIDATION_SCENES
            pairs.append(Pair(scene, drawn(other, other), drawn(layout, other)))
    return pairs
