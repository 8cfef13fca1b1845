"""Drawn scenes that the page offers, so that it can be tried without a photograph."""

from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from cocosnet_jax.data.drawn.scene import draw_scene
from cocosnet_jax.data.drawn.splits import SHARING, VALIDATION_SEED
from cocosnet_jax.data.labels import edges
from cocosnet_jax.settings import DataSettings

# Of the validation split: houses and trees that are seen well, in styles that differ.
LAYOUTS = (60, 70, 140, 145, 150, 130)


class Example(NamedTuple):
    """A scene.

    Attributes:
      image: its picture, in the networks' size.
      planes: its map, as the networks take it.
    """

    image: UInt8[np.ndarray, "side side 3"]
    planes: UInt8[np.ndarray, "side side planes"]


def draw(data: DataSettings, size: int) -> list[Example]:
    """The examples for a model of drawn scenes or their edges; none for other models."""
    if data.dataset not in ("drawn_scenes", "drawn_edges"):
        return []
    examples = []
    for number in LAYOUTS:
        layout, style = VALIDATION_SEED + number, VALIDATION_SEED + number // SHARING
        scene = draw_scene(layout, style, size)
        planes = scene.label[..., None]
        if data.dataset == "drawn_edges":
            lines = np.where(edges.mask_edge(scene.things), 255, 0).astype(np.uint8)
            planes = edges.own_edges(None, lines, lines.shape)
        examples.append(Example(scene.image, planes))
    return examples
