"""DeepFashion: photographs of people with their poses by OpenPose (SPEC section 1).

The dataset is the In-shop Clothes Retrieval Benchmark of
https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion.html. Layout, in the source folder or in a
subfolder:

    img/.../NAME.jpg
    pose/.../NAME_candidate.txt and NAME_subset.txt, or NAME_keypoints.json
    val.txt: the paths of the validation photographs
    train.txt: optional, the paths of the training photographs; by default all others
"""

from typing import ClassVar

from cocosnet_jax.data.builders.drawn_poses import DrawnPoses


class Deepfashion(DrawnPoses):
    """DeepFashion pose-to-body: the drawing of the pose and a distance map for every limb."""

    title: ClassVar[str] = "DeepFashion"
    photographs: ClassVar[str] = "img"
    annotations: ClassVar[str] = "pose"
