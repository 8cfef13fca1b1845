"""The common base of pose datasets: reads, checks and draws joints."""

import functools
from typing import ClassVar

import numpy as np
from jaxtyping import Float64, UInt8

from cocosnet_jax.data.builders.listed import ListedBuilder
from cocosnet_jax.data.labels import pose_canvas, pose_drawing, poses


class DrawnPoses(ListedBuilder):
    """A dataset whose input is the drawing of a pose and a distance map per limb, 20 planes."""

    condition: ClassVar[str] = "channels"
    channels: ClassVar[int] = pose_drawing.PLANES

    def read_input(
        self, key: str, size: tuple[int, int]
    ) -> tuple[Float64[np.ndarray, "18 2"], tuple[int, int]]:
        """The joints, and (H, W) of their canvas."""
        path = poses.find_pose(self.annotation_stem(key))
        pose_size = self.builder_config.pose_size
        canvas = pose_canvas.canvas_of(path, size, pose_size)
        assert canvas is not None
        joints = poses.read_pose(
            path, canvas, canvas_name=pose_canvas.name_of(canvas, size, pose_size)
        )
        if not pose_size and canvas == size:
            self._reaches[key] = pose_canvas.reach_of(path, joints, size)
        return joints, canvas

    def check(self) -> None:
        """Reads every file; an error if poses seem to have been detected in smaller pictures."""
        self._reaches.clear()
        super().check()
        pose_canvas.check_reach(list(self._reaches.values()), "config.data.pose_size")

    @functools.cached_property
    def _reaches(self) -> dict[str, pose_canvas.Reach]:
        """How far poses reach in their photographs, by key, for poses with no other canvas."""
        return {}

    def input_map(
        self,
        annotation: tuple[Float64[np.ndarray, "18 2"], tuple[int, int]],
        photograph: UInt8[np.ndarray, "height width 3"],
        size: tuple[int, int],
    ) -> UInt8[np.ndarray, "h w 20"]:
        """The 20 planes, (h, w, 20)."""
        del photograph
        return pose_drawing.draw_pose(*annotation, size)
