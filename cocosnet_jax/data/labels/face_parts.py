"""Face parts of CelebAMask-HQ, and the map of 19 classes merged from them (SPEC section 1).

The annotation folder contains one mask per image and part, `NUMBER // 2000/NUMBER_PART.png` with
the number in five digits. Optional merged maps are `all_parts_except_glasses/NUMBER.png`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8

from cocosnet_jax.data import images
from cocosnet_jax.errors import UserError

# Class numbers are positions in this table.
CLASS_NAMES = (
    "background",
    "skin",
    "hair",
    "l_brow",
    "r_brow",
    "l_eye",
    "r_eye",
    "l_ear",
    "r_ear",
    "nose",
    "u_lip",
    "mouth",
    "l_lip",
    "neck",
    "cloth",
    "hat",
    "eye_g",
    "ear_r",
    "neck_l",
)
NUM_CLASSES = len(CLASS_NAMES)
GLASSES = "eye_g"


def number_of(photograph: str) -> int:
    """The number in a CelebA-HQ photograph's name; raises a `UserError` if it is not a number."""
    stem = Path(photograph).stem
    if not (stem.isascii() and stem.isdecimal()):
        raise UserError(
            f"the name of {photograph} is not a number; name it as in CelebA-HQ, 0.jpg to 29999.jpg"
        )
    return int(stem)


def part_path(annotations: Path, number: int, part: str) -> Path:
    """The path of a part's mask, whether or not it exists."""
    return annotations / str(number // 2000) / f"{number:05d}_{part}.png"


def merged_path(annotations: Path, number: int) -> Path:
    """The path of an image's merged map, whether or not it exists."""
    return annotations / "all_parts_except_glasses" / f"{number:05d}.png"


def read_parts(
    annotations: Path, number: int, names: Sequence[str] = CLASS_NAMES[1:]
) -> dict[str, Bool[np.ndarray, "height width"]]:
    """Reads the masks of an image's parts, each (H, W) bool.

    Raises:
      UserError: a file is unreadable or in colour, or masks of one image differ in size.
    """
    parts: dict[str, Bool[np.ndarray, "height width"]] = {}
    for name in names:
        path = part_path(annotations, number, name)
        if not path.exists():
            continue
        parts[name] = images.read_label_map(path) > 0
        first = next(iter(parts))
        if parts[name].shape != parts[first].shape:
            size, other = (f"{p.shape[1]}x{p.shape[0]}" for p in (parts[name], parts[first]))
            raise UserError(
                f"{path} has {size} pixels (width x height), but"
                f" {part_path(annotations, number, first).name} has {other}; make them the same"
                " size"
            )
    return parts


def merge_parts(
    parts: Mapping[str, Bool[np.ndarray, "height width"]],
) -> UInt8[np.ndarray, "height width"]:
    """Merges parts into the class map of a face, without the glasses.

    Args:
      parts: masks by name, each (H, W) bool, at least one.

    Returns:
      (H, W) uint8; where parts overlap, the highest class number wins.
    """
    merged = np.zeros(next(iter(parts.values())).shape, np.uint8)
    for label, name in enumerate(CLASS_NAMES):
        if name in parts and name != GLASSES:
            merged[parts[name]] = label
    return merged


def read_face(
    annotations: Path, number: int
) -> tuple[images.ClassMap, Bool[np.ndarray, "rows columns"]]:
    """Reads the class map (the merged map if it exists, else the parts) and glasses of an image.

    Returns:
      Class map (H, W) int32 with values 0 to 18, and glasses mask (H', W') bool.

    Raises:
      UserError: a file is unreadable, a class number is out of range, or the image has neither a
        merged map nor a mask of its skin.
    """
    glasses = read_parts(annotations, number, (GLASSES,)).get(GLASSES)
    path = merged_path(annotations, number)
    if path.exists():
        merged = images.read_label_map(path)
        values, counts = np.unique(merged, return_counts=True)
        if values[0] < 0 or values[-1] >= NUM_CLASSES:
            wrong = ", ".join(
                f"{value} ({count} pixels)"
                for value, count in zip(values, counts, strict=True)
                if not 0 <= value < NUM_CLASSES
            )
            raise UserError(
                f"{path} contains the values {wrong}; face parts are numbered 0 to"
                f" {NUM_CLASSES - 1}: correct the map, or remove it to use the parts instead"
            )
    else:
        if not part_path(annotations, number, "skin").exists():
            raise UserError(
                f"image {number} has neither the merged map {path} nor the part"
                f" {part_path(annotations, number, 'skin')}; add one of them, or remove the image"
            )
        merged = merge_parts(read_parts(annotations, number)).astype(np.int32)
    return merged, np.zeros(merged.shape, bool) if glasses is None else glasses
