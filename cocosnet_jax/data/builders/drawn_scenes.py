"""Drawn scenes as datasets: houses, trees and meadows, every few of them in a style of their own.

`cocosnet_jax.data.drawn` draws them. A key is `style-STYLE/scene-LAYOUT`, with the numbers that
`draw_scene` takes. No layout and no style of `validation` is in `train`. Every layout is there
once, and `SHARING` of them share a style: an image's exemplar may be another layout in its own
style (`data.self_pair_list=names`), for which the image itself is what a translation should be.
"""

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from cocosnet_jax.data.drawn.scene import Scene, draw_scene, points_of
from cocosnet_jax.data.drawn.splits import (
    SHARING,
    TRAIN_SCENES,
    VALIDATION_SCENES,
    VALIDATION_SEED,
)
from cocosnet_jax.data.drawn.things import NUM_CLASSES
from cocosnet_jax.data.labels import edges
from cocosnet_jax.data.pair_builder import PairBuilder
from cocosnet_jax.errors import UserError


def key_of(layout: int, style: int) -> str:
    """The key of a layout in a style."""
    return f"style-{style:07d}/scene-{layout:07d}"


def seeds_of(key: str) -> tuple[int, int]:
    """Layout and style of a key."""
    match = re.fullmatch(r"style-(\d+)/scene-(\d+)", key)
    if match is None:
        raise ValueError(f"{key!r} is no key of a drawn scene")
    return int(match[2]), int(match[1])


class DrawnScenes(PairBuilder):
    """Drawn scenes with label maps."""

    # To be raised with every change of what is drawn: records of another version are not reused.
    VERSION = tfds.core.Version("1.0.0")
    channels: ClassVar[int] = NUM_CLASSES

    def split_keys(self) -> Mapping[str, Sequence[str]]:
        """Layouts in order, `SHARING` of them to a style."""
        sizes = {"train": (0, TRAIN_SCENES), "validation": (VALIDATION_SEED, VALIDATION_SCENES)}
        return {
            split: [key_of(first + i, first + i // SHARING) for i in range(count)]
            for split, (first, count) in sizes.items()
        }

    def make_pair(self, split: str, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Draws the scene of a key at the split's size."""
        scene = draw_scene(*seeds_of(key), self.side(split))
        return scene.image, self.input_map(scene)

    def points_of(self, key: str, side: int) -> np.ndarray | None:
        """The points of `scene.POINTS`; those of any two scenes correspond."""
        return points_of(seeds_of(key)[0], side)

    def input_map(self, scene: Scene) -> np.ndarray:
        """The label map, (S, S, 1)."""
        return scene.label[..., None]

    def check(self) -> None:
        """Raises a `UserError` where the settings name another number of channels."""
        if self.builder_config.classes != self.channels:
            raise UserError(
                f"config.data.channels is {self.builder_config.classes}, but {self.name} has"
                f" {self.channels}: set config.data.channels={self.channels}"
            )


class DrawnEdges(DrawnScenes):
    """Drawn scenes with the outlines of their things, and how far every pixel is from them."""

    condition: ClassVar[str] = "channels"
    channels: ClassVar[int] = 2

    def input_map(self, scene: Scene) -> np.ndarray:
        """Two planes, (S, S, 2), as `edges.own_edges` makes them of an edge map."""
        lines = np.where(edges.mask_edge(scene.things), 255, 0).astype(np.uint8)
        return edges.own_edges(None, lines, lines.shape)
