"""DeepFashion: photographs of people with their poses by OpenPose (SPEC section 1).

The dataset is the In-shop Clothes Retrieval Benchmark of
https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion.html. Layout, in the source folder or in a
folder of it:

    img/.../NAME.jpg
    pose/.../NAME_candidate.txt and NAME_subset.txt, or NAME_keypoints.json
    val.txt, paths of the validation photographs; train.txt likewise, all others without it
"""

from pathlib import Path
from typing import ClassVar

import numpy as np

from cocosnet_jax.data import poses
from cocosnet_jax.data.listed import ListedBuilder


class Deepfashion(ListedBuilder):
    """DeepFashion pose-to-body: the drawing of the pose and a distance map for every limb."""

    title: ClassVar[str] = "DeepFashion"
    photographs: ClassVar[str] = "img"
    annotations: ClassVar[str] = "pose"
    condition: ClassVar[str] = "channels"
    channels: ClassVar[int] = poses.PLANES

    def read_input(self, key: str, size: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
        """The joints, and the size of the photograph that they lie in."""
        stem = self.root / self.annotations / Path(key).relative_to(self.photographs)
        return poses.read_pose(poses.find_pose(stem.with_suffix("")), size), size

    def input_map(
        self,
        annotation: tuple[np.ndarray, tuple[int, int]],
        photograph: np.ndarray,
        size: tuple[int, int],
    ) -> np.ndarray:
        """The 20 planes, (h, w, 20)."""
        del photograph
        return poses.draw_pose(*annotation, size)
