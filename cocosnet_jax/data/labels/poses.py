"""Reads poses in OpenPose's formats (SPEC section 1).

The joints are the 18 of OpenPose's COCO model: nose, neck, then shoulder, elbow, wrist of the right
and of the left arm, hip, knee, ankle of the right and of the left leg, right and left eye, right
and left ear. They are stored as (18, 2) float64, x and y in pixels, NaN if a joint was not seen.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from cocosnet_jax.data import images
from cocosnet_jax.errors import UserError

JOINTS = 18
# The 18 joints among the 25 of OpenPose's BODY_25 model, whose joint 8 is the middle of the hips.
_OF_BODY_25 = (0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18)
# Endings of pose files, in the order of the search.
_ENDINGS = ("_keypoints.json", ".json", "_candidate.txt", "_subset.txt")


def find_pose(stem: Path) -> Path:
    """The pose file for `stem`, the photograph's path without extension, in the poses' folder."""
    for ending in _ENDINGS[:2]:
        if (path := stem.with_name(stem.name + ending)).exists():
            return path
    return stem.with_name(f"{stem.name}_candidate.txt")


def stem_of(name: str) -> str:
    """The name that a pose file shares with its photograph, without extension."""
    ending = next((ending for ending in _ENDINGS if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)]


def read_pose(
    path: Path,
    size: tuple[int, int],
    *,
    canvas_name: str = "its photograph",
    setting: str = "config.data.pose_size",
) -> Float64[np.ndarray, "18 2"]:
    """Reads a pose; of several people, the one with the highest score.

    Args:
      path: OpenPose's JSON (`people`, `pose_keypoints_2d` of the COCO or BODY_25 model), or one
        of a pair of text files, `NAME_candidate.txt` with rows (x, y, score, id) and
        `NAME_subset.txt` with rows of 18 indices into them (-1: not seen), score and count.
      size: (H, W) of the canvas.
      canvas_name: the canvas in messages.
      setting: the flag or setting of its size, for messages.

    Returns:
      (18, 2) float64 x and y, NaN if a joint was not seen.

    Raises:
      UserError: a file is missing or malformed, contains no person, or joints are outside the
        canvas.
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
            f"{path} contains no person; run the pose detector again, or remove the photograph"
        )
    height, width = size
    outside = ((seen < -1) | (seen > (width + 1, height + 1))).any(1)
    if outside.any():
        x, y = seen[outside][0]
        example = "512x512" if size == (256, 256) else "256x256"
        raise UserError(
            f"{path} has a joint at ({x:g}, {y:g}), outside {canvas_name} of {width}x{height}"
            " pixels (width x height); detect the pose in the photograph at its own size, or set"
            f" {setting} to the size of the pictures in which poses were detected, for example"
            f" {example}"
        )
    if seen.max() <= 1:
        raise UserError(
            f"{path} has all joints between {0 if seen.min() >= 0 else -1} and 1, which are not"
            " pixels; run OpenPose with --keypoint_scale 0"
        )
    return joints


def _read_text(candidate_path: Path, subset_path: Path) -> Float64[np.ndarray, "18 2"]:
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
                f"{subset_path} refers to row {index:g} as joint {joint + 1}, but"
                f" {candidate_path.name} has {len(candidates)} rows; the two files do not belong"
                " together: run the pose detector again"
            )
        joints[joint] = candidates[int(index), :2]
    return joints


def _read_table(path: Path, columns: int, meaning: str) -> Float64[np.ndarray, "rows {columns}"]:
    """Reads rows of numbers from a text file, (n, columns) float64; it may be empty."""
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
                f"{path}, line {number}, is {line.strip()[:60]!r}, but must be {meaning}; run the"
                " pose detector again"
            )
        rows.append(row)
    return np.array(rows).reshape(-1, columns)


def _read_json(path: Path) -> Float64[np.ndarray, "18 2"]:
    try:
        people = read_content(path)["people"]
        poses = [_keypoints(person) for person in people]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} is not OpenPose's JSON ({type(error).__name__}: {error}); it must contain"
            " 'people', each with 'pose_keypoints_2d': 18 or 25 times x, y, confidence"
        ) from None
    if not poses:
        return np.full((JOINTS, 2), np.nan)
    best = max(poses, key=lambda pose: pose[:, 2].sum())
    return np.where(best[:, 2:] > 0, best[:, :2], np.nan)


def read_content(path: Path) -> Any:
    """Reads a JSON file; unwraps a list of one pose, as pose editors write it.

    Raises:
      ValueError: the text is not JSON.
      UserError: the file cannot be read.
    """
    content = json.loads(_read(path))
    return content[0] if isinstance(content, list) and len(content) == 1 else content


def _keypoints(person: Any) -> Float64[np.ndarray, "18 3"]:
    """The 18 joints of one person of the JSON: (18, 3) x, y, confidence."""
    numbers = np.array(person["pose_keypoints_2d"], np.float64)
    if numbers.shape not in ((3 * JOINTS,), (75,)) or not np.isfinite(numbers).all():
        raise ValueError(f"pose_keypoints_2d has {numbers.size} numbers, or some are not finite")
    keypoints = numbers.reshape(-1, 3)
    return keypoints if len(keypoints) == JOINTS else keypoints[list(_OF_BODY_25)]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        stem = path.with_name(stem_of(path.name))
        pictures = [stem.with_name(stem.name + ending) for ending in images.EXTENSIONS]
        if drawing := next((picture for picture in pictures if picture.exists()), None):
            raise UserError(
                f"pose file {path} does not exist, and joints cannot be read from the picture"
                f" {drawing}; run OpenPose with --write_json"
            ) from None
        raise UserError(f"pose file {path} does not exist; run the pose detector") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"pose file {path} cannot be read ({error}); replace it") from None
