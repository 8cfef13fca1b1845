"""CelebA-HQ faces with the parts of CelebAMask-HQ, as class maps or as edges (SPEC section 1).

The dataset is CelebAMask-HQ of https://github.com/switchablenorms/CelebAMask-HQ. Layout, in the
source folder or in a subfolder:

    CelebA-HQ-img/NUMBER.jpg
    CelebAMask-HQ-mask-anno/FOLDER/NUMBER_PART.png, see `cocosnet_jax.data.labels.face_parts`
    val.txt: the numbers of the validation photographs; train.txt and test.txt are optional, see
        `cocosnet_jax.data.builders.listed`
"""

from typing import ClassVar

import numpy as np
from jaxtyping import Bool, UInt8

from cocosnet_jax.data import images
from cocosnet_jax.data.builders.listed import ListedBuilder
from cocosnet_jax.data.labels import edges, face_parts
from cocosnet_jax.errors import UserError


class Celebahq(ListedBuilder):
    """CelebA-HQ mask-to-face: a map of 19 face parts, and the mask of the glasses (0 or 1)."""

    title: ClassVar[str] = "CelebA-HQ"
    photographs: ClassVar[str] = "CelebA-HQ-img"
    annotations: ClassVar[str] = "CelebAMask-HQ-mask-anno"
    condition: ClassVar[str] = "labels_glasses"
    channels: ClassVar[int] = face_parts.NUM_CLASSES

    def read_input(
        self, key: str, size: tuple[int, int]
    ) -> tuple[images.ClassMap, Bool[np.ndarray, "rows columns"]]:
        """Class map and glasses mask at their own size."""
        del size  # Maps are smaller than photographs.
        return face_parts.read_face(self.root / self.annotations, face_parts.number_of(key))

    def input_map(
        self,
        annotation: tuple[images.ClassMap, Bool[np.ndarray, "rows columns"]],
        photograph: UInt8[np.ndarray, "_ _ 3"],
        size: tuple[int, int],
    ) -> UInt8[np.ndarray, "h w 2"]:
        """The two planes, (h, w, 2)."""
        del photograph
        planes = [images.resize_label(plane, size).astype(np.uint8) for plane in annotation]
        return np.stack(planes, axis=-1)


class Celebahqedge(ListedBuilder):
    """CelebA-HQ edge-to-face: edges and distance maps, computed at the stored size."""

    title: ClassVar[str] = "CelebA-HQ edge"
    photographs: ClassVar[str] = "CelebA-HQ-img"
    annotations: ClassVar[str] = "CelebAMask-HQ-mask-anno"
    condition: ClassVar[str] = "channels"
    channels: ClassVar[int] = edges.PLANES

    def read_input(
        self, key: str, size: tuple[int, int]
    ) -> dict[str, Bool[np.ndarray, "height width"]]:
        """The masks of the face parts, at their own size."""
        del size
        annotations, number = self.root / self.annotations, face_parts.number_of(key)
        parts = face_parts.read_parts(annotations, number, edges.EDGE_PARTS)
        if not parts:
            raise UserError(
                f"{key} has no face part masks such as"
                f" {face_parts.part_path(annotations, number, 'skin')}; add them, or remove the"
                " photograph"
            )
        return parts

    def input_map(
        self,
        annotation: dict[str, Bool[np.ndarray, "height width"]],
        photograph: UInt8[np.ndarray, "_ _ 3"],
        size: tuple[int, int],
    ) -> UInt8[np.ndarray, "h w 15"]:
        """The 15 planes, (h, w, 15)."""
        return edges.face_edges(photograph, annotation, size)
