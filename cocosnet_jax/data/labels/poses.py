"""Poses as OpenPose writes them (SPEC section 1).

Joints are OpenPose's 18 of the COCO model: nose, neck, then shoulder, elbow, wrist of the right
and of the left arm, hip, knee, ankle of the right and of the left leg, right and left eye, right
and left ear. They travel as (18, 2) float64, x and y in pixels, NaN where a joint was not seen.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cocosnet_jax.data import images
from cocosnet_jax.errors import UserError

JOINTS = 18
# The 18 joints among the 25 of OpenPose's BODY_25 model, which has the middle of the hips as 8.
_OF_BODY_25 = (0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18)


# Endings of pose files, in the order in which they are looked for.
_ENDINGS = ("_keypoints.json", ".json", "_candidate.txt", "_subset.txt")
# Poses that were detected in smaller pictures lie within this part of width and height, from the
# upper left; a person in the middle of a photograph reaches further in one of them.
_CORNER = 0.6
# Of many poses, some reach beyond this part of width or height, wherever people stand.
_FAR, _MANY, _NEARLY_ALL = 0.7, 8, 0.95


def find_pose(stem: Path) -> Path:
    """The pose file of a photograph: `stem` is its path without extension, in the poses' folder."""
    for ending in _ENDINGS[:2]:
        if (path := stem.with_name(stem.name + ending)).exists():
            return path
    return stem.with_name(f"{stem.name}_candidate.txt")


def stem_of(name: str) -> str:
    """The name that a pose file shares with its photograph, without extension."""
    ending = next((ending for ending in _ENDINGS if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)]


def parse_size(pose_size: str) -> tuple[int, int] | None:
    """(H, W) of a pose size `WIDTHxHEIGHT`; None for `photograph`, or where it is empty."""
    match = re.fullmatch(r"(\d+)x(\d+)", pose_size)
    return (int(match[2]), int(match[1])) if match else None


def canvas_of(
    path: Path,
    photograph: tuple[int, int] | None,
    pose_size: str,
    setting: str = "config.data.pose_size",
) -> tuple[int, int] | None:
    """(H, W) of the picture in whose pixels a file's joints lie; None where nothing tells.

    Args:
      path: as for `read_pose`.
      photograph: (H, W) of the photograph, where there is one.
      pose_size: `WIDTHxHEIGHT`; `photograph`, where there is one; or empty: what the file says,
        else the photograph.
      setting: what messages say sets it.

    Raises:
      UserError: the file says a canvas that is no resized copy of its photograph.
    """
    if (size := parse_size(pose_size)) is not None:
        return size
    if pose_size and photograph is not None:
        return photograph
    stated = _stated_canvas(path) if path.suffix.lower() == ".json" else None
    if stated is None or photograph is None:
        return photograph or stated
    # Sides of a copy are rounded to whole pixels.
    scale = photograph[0] / stated[0], photograph[1] / stated[1]
    if abs(scale[0] * stated[1] - photograph[1]) > 1 + max(scale):
        raise UserError(
            f"{path} says that its canvas has {_text(stated)} pixels (width x height), but its"
            f" photograph has {_text(photograph)}, which is of another shape; correct"
            f" canvas_width and canvas_height, take them out, or set {setting} to the size of the"
            " picture in which the pose was detected"
        )
    return stated


def name_of(
    canvas: tuple[int, int],
    photograph: tuple[int, int] | None,
    pose_size: str,
    setting: str = "config.data.pose_size",
) -> str:
    """What messages call a canvas by `canvas_of`."""
    if parse_size(pose_size) == canvas:
        return setting
    return "its photograph" if canvas == photograph else "its canvas"


class Reach(NamedTuple):
    """How far the joints of a pose reach in its photograph.

    Attributes:
      x, y: from the upper left, as parts of width and height.
      text: the same in pixels, for a message that names the file.
    """

    x: float
    y: float
    text: str

    def within(self, part: float) -> bool:
        """Whether all joints lie in this part of width and of height."""
        return self.x < part and self.y < part

    @property
    def in_corner(self) -> bool:
        """Whether the pose, looked at alone, fills only a corner."""
        return self.within(_CORNER)


def reach_of(path: Path, joints: np.ndarray, photograph: tuple[int, int]) -> Reach:
    """How far the joints of a file, (18, 2), reach in its photograph of (H, W) pixels."""
    x, y = np.nanmax(joints, axis=0)
    text = f"{path}: up to ({x:.0f}, {y:.0f}) of {_text(photograph)} pixels"
    return Reach(float(x) / photograph[1], float(y) / photograph[0], text)


def check_reach(reaches: Sequence[Reach], setting: str) -> None:
    """Asks the user where poses seem to be of smaller pictures than their photographs.

    That is where most of them fill only a corner, or where, of many, hardly one reaches far.

    Args:
      reaches: of each pose in its photograph.
      setting: which answers.

    Raises:
      UserError: they do.
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
        f"in {len(near)} of {total} poses all joints lie in the upper left {part:.0%} of the"
        f" photograph's width and height ({near[0].text}). If the poses were detected in smaller"
        f" pictures, say their size: {setting}=256x256, for example. If they are right as they"
        f" are: {setting}=photograph"
    )


def _text(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"


def _stated_canvas(path: Path) -> tuple[int, int] | None:
    """(H, W) by `canvas_height` and `canvas_width` of a JSON file; None where it has neither."""
    try:
        content = _read_content(path)
    except ValueError:
        return None  # `read_pose` says so.
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


def read_pose(
    path: Path,
    size: tuple[int, int],
    *,
    called: str = "its photograph",
    setting: str = "config.data.pose_size",
) -> np.ndarray:
    """Reads a pose; of several people, the one whom OpenPose scores highest.

    Args:
      path: OpenPose's JSON (`people`, `pose_keypoints_2d` of the COCO or BODY_25 model), or one
        of a pair of text files, `NAME_candidate.txt` with rows (x, y, score, id) and
        `NAME_subset.txt` with rows of 18 indices into them (-1: not seen), score and count.
      size: (H, W) of the canvas in whose pixels the joints are given.
      called: what messages call the canvas.
      setting: what messages say sets its size.

    Returns:
      (18, 2) float64 x and y, NaN where a joint was not seen.

    Raises:
      UserError: a file is missing or not of this form, holds no person, or joints lie outside
        the canvas.
    """
    if path.suffix.lower() == ".json":
        joints = _read_json(path)
    else:
        stem = path.name.removesuffix("_candidate.txt").removesuffix("_subset.txt")
        joints = _read_text(
            path.with_name(f"{stem}_candidate.txt"), path.with_name(f"{stem}_subset.txt")
        )
    seen = joints[~np.isnan(joints[:, 0])]
    if len(seen) == 0:
        raise UserError(
            f"{path} holds no person; run the pose detector again or remove the photograph"
        )
    height, width = size
    outside = ((seen < -1) | (seen > (width + 1, height + 1))).any(1)
    if outside.any():
        x, y = seen[outside][0]
        example = "512x512" if size == (256, 256) else "256x256"
        raise UserError(
            f"{path} has a joint at ({x:g}, {y:g}), outside {called} of {width}x{height} pixels"
            " (width x height); detect the pose in its photograph, at its own size, or set"
            f" {setting} to the size of the pictures in which poses were detected ({example}, for"
            " example)"
        )
    if seen.max() <= 1:
        raise UserError(
            f"{path} has all joints between {0 if seen.min() >= 0 else -1} and 1; write them in"
            " pixels (OpenPose's option --keypoint_scale 0)"
        )
    return joints


def _read_text(candidate_path: Path, subset_path: Path) -> np.ndarray:
    candidates = _read_table(candidate_path, 4, "4 numbers (x, y, score, id)")
    people = _read_table(subset_path, 20, "20 numbers (18 indices, score, count)")
    joints = np.full((JOINTS, 2), np.nan)
    if len(people) == 0:
        return joints
    person = people[people[:, 18].argmax()]
    for joint, index in enumerate(person[:JOINTS]):
        if index == -1:
            continue
        if index != int(index) or not 0 <= index < len(candidates):
            raise UserError(
                f"{subset_path} names candidate {index:g} as joint {joint + 1}, but"
                f" {candidate_path.name} has {len(candidates)} rows: the two files do not belong"
                " together; run the pose detector again"
            )
        joints[joint] = candidates[int(index), :2]
    return joints


def _read_table(path: Path, columns: int, meaning: str) -> np.ndarray:
    """Rows of numbers from a text file, (n, columns) float64; an empty file has none."""
    rows = []
    for number, line in enumerate(_read(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = [float(word) for word in line.split()]
        except ValueError:
            row = []
        if len(row) != columns or not np.isfinite(row).all():
            raise UserError(
                f"{path}, line {number}, is {line.strip()[:60]!r}; a row holds {meaning}: run the"
                " pose detector again"
            )
        rows.append(row)
    return np.array(rows).reshape(-1, columns)


def _read_json(path: Path) -> np.ndarray:
    try:
        people = _read_content(path)["people"]
        poses = [_keypoints(person) for person in people]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} is not OpenPose's JSON ({type(error).__name__}: {error}); it must hold"
            " 'people', each with 'pose_keypoints_2d' of 18 or 25 times x, y, confidence"
        ) from None
    if not poses:
        return np.full((JOINTS, 2), np.nan)
    best = max(poses, key=lambda pose: pose[:, 2].sum())
    return np.where(best[:, 2:] > 0, best[:, :2], np.nan)


def _read_content(path: Path) -> Any:
    """The content of a JSON file; of a list of one pose, as pose editors write it, that pose."""
    content = json.loads(_read(path))
    return content[0] if isinstance(content, list) and len(content) == 1 else content


def _keypoints(person: Any) -> np.ndarray:
    """The 18 joints of one person of the JSON: (18, 3) x, y, confidence."""
    numbers = np.array(person["pose_keypoints_2d"], np.float64)
    if numbers.shape not in ((3 * JOINTS,), (75,)) or not np.isfinite(numbers).all():
        raise ValueError(f"pose_keypoints_2d holds {numbers.size} numbers, or none finite")
    keypoints = numbers.reshape(-1, 3)
    return keypoints if len(keypoints) == JOINTS else keypoints[list(_OF_BODY_25)]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        stem = path.with_name(stem_of(path.name))
        pictures = [stem.with_name(stem.name + ending) for ending in images.EXTENSIONS]
        if drawn := next((picture for picture in pictures if picture.exists()), None):
            raise UserError(
                f"pose file {path} does not exist, and {drawn} is a picture, from which joints are"
                " not read; run the pose detector so that it writes them (OpenPose's option"
                " --write_json)"
            ) from None
        raise UserError(f"pose file {path} does not exist; run the pose detector") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"pose file {path} cannot be read ({error}); replace it") from None
