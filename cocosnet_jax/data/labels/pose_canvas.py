"""The canvas of a pose: the picture, of (H, W) pixels, that the joints' coordinates refer to."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from cocosnet_jax.data.labels import poses
from cocosnet_jax.errors import UserError

# Poses detected in smaller pictures are within this fraction of width and height, from the upper
# left. A person in the middle of a photograph exceeds it in one direction.
_CORNER = 0.6
# In a dataset of many poses, some exceed this fraction, wherever people stand.
_FAR, _MANY, _NEARLY_ALL = 0.7, 8, 0.95


def parse_size(pose_size: str) -> tuple[int, int] | None:
    """(H, W) of a pose size `WIDTHxHEIGHT`; None for `photograph` or an empty text."""
    match = re.fullmatch(r"(\d+)x(\d+)", pose_size)
    return (int(match[2]), int(match[1])) if match else None


def canvas_of(
    path: Path,
    photograph: tuple[int, int] | None,
    pose_size: str,
    setting: str = "config.data.pose_size",
) -> tuple[int, int] | None:
    """(H, W) of the canvas of a pose file; None if it is unknown.

    Args:
      path: as for `poses.read_pose`.
      photograph: (H, W) of the photograph, if there is one.
      pose_size: `WIDTHxHEIGHT`; `photograph`; or empty: the canvas stated in the file, else the
        photograph.
      setting: the flag or setting of `pose_size`, for messages.

    Raises:
      UserError: the file states a canvas with another aspect ratio than its photograph.
    """
    if (size := parse_size(pose_size)) is not None:
        return size
    if pose_size and photograph is not None:
        return photograph
    stated = _stated_canvas(path) if path.suffix.lower() == ".json" else None
    if stated is None or photograph is None:
        return photograph or stated
    # The sides of a resized copy are rounded to whole pixels.
    scale = photograph[0] / stated[0], photograph[1] / stated[1]
    if abs(scale[0] * stated[1] - photograph[1]) > 1 + max(scale):
        raise UserError(
            f"{path} states a canvas of {_text(stated)} pixels (width x height), but its photograph"
            f" has {_text(photograph)}, another aspect ratio; correct or remove canvas_width and"
            f" canvas_height, or set {setting} to the size of the picture in which the pose was"
            " detected"
        )
    return stated


def name_of(
    canvas: tuple[int, int],
    photograph: tuple[int, int] | None,
    pose_size: str,
    setting: str = "config.data.pose_size",
) -> str:
    """The name of a canvas from `canvas_of`, for messages."""
    if parse_size(pose_size) == canvas:
        return setting
    return "its photograph" if canvas == photograph else "its canvas"


class Reach(NamedTuple):
    """How far the joints of a pose reach in its photograph.

    Attributes:
      x, y: largest coordinates, as fractions of width and height.
      text: the same in pixels, with the file's name, for messages.
    """

    x: float
    y: float
    text: str

    def within(self, part: float) -> bool:
        """Whether all joints are within this fraction of width and height."""
        return self.x < part and self.y < part

    @property
    def in_corner(self) -> bool:
        """Whether the pose fills only a corner."""
        return self.within(_CORNER)


def reach_of(path: Path, joints: Float64[np.ndarray, "18 2"], photograph: tuple[int, int]) -> Reach:
    """How far the joints of a file, (18, 2), reach in its photograph of (H, W) pixels."""
    x, y = np.nanmax(joints, axis=0)
    text = f"{path}: up to ({x:.0f}, {y:.0f}) of {_text(photograph)} pixels"
    return Reach(float(x) / photograph[1], float(y) / photograph[0], text)


def check_reach(reaches: Sequence[Reach], setting: str) -> None:
    """Raises a `UserError` if poses seem to come from pictures smaller than their photographs.

    That is the case if most poses fill only a corner, or if there are many and hardly any reaches
    far.

    Args:
      reaches: the reach of each pose in its photograph.
      setting: the flag or setting that states the pictures' size.
    """
    total = len(reaches)
    near = [reach for reach in reaches if reach.in_corner]
    part = _CORNER
    if 2 * len(near) <= total:
        part = _FAR
        near = [reach for reach in reaches if reach.within(_FAR)]
        if total < _MANY or len(near) < _NEARLY_ALL * total:
            return
    raise UserError(
        f"in {len(near)} of {total} poses all joints are in the upper left {part:.0%} of the"
        f" photograph's width and height ({near[0].text}). If the poses were detected in smaller"
        f" pictures, set {setting} to their size, for example {setting}=256x256. If they are"
        f" correct, set {setting}=photograph"
    )


def _text(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"


def _stated_canvas(path: Path) -> tuple[int, int] | None:
    """(H, W) from `canvas_height` and `canvas_width` of a JSON file; None if it has neither."""
    try:
        content = poses.read_content(path)
    except ValueError:
        return None  # `poses.read_pose` reports it.
    fields = ("canvas_height", "canvas_width")
    if not isinstance(content, dict) or not any(field in content for field in fields):
        return None
    size = []
    for field in fields:
        value = content.get(field)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(
                f"{path} has {field} {value!r}; it must be a whole number of pixels, 1 or more"
            )
        size.append(value)
    return size[0], size[1]
