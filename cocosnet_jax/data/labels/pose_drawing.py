"""Draws poses: the input of DeepFashion (SPEC section 1)."""

import math

import cv2
import numpy as np
from jaxtyping import Float64, Int32, UInt8
from PIL import Image

from cocosnet_jax.data.labels.edges import distance_map

# Pairs of joints, counted from 1, in drawing order: later limbs cover earlier ones.
LIMBS = (
    (2, 3),
    (2, 6),
    (3, 4),
    (4, 5),
    (6, 7),
    (7, 8),
    (2, 9),
    (9, 10),
    (10, 11),
    (2, 12),
    (12, 13),
    (13, 14),
    (2, 1),
    (1, 15),
    (15, 17),
    (1, 16),
    (16, 18),
)
PLANES = 3 + len(LIMBS)

# OpenPose's hue wheel, for images in BGR order: the final RGB planes have it with the first and
# last channel swapped.
_COLOURS = (
    (255, 0, 0),
    (255, 85, 0),
    (255, 170, 0),
    (255, 255, 0),
    (170, 255, 0),
    (85, 255, 0),
    (0, 255, 0),
    (0, 255, 85),
    (0, 255, 170),
    (0, 255, 255),
    (0, 170, 255),
    (0, 85, 255),
    (0, 0, 255),
    (85, 0, 255),
    (170, 0, 255),
    (255, 0, 255),
    (255, 0, 170),
    (255, 0, 85),
)
_RADIUS = 4  # of a joint's circle and half the width of a limb, in pixels


def draw_pose(
    joints: Float64[np.ndarray, "18 2"], canvas_size: tuple[int, int], size: tuple[int, int]
) -> UInt8[np.ndarray, "h w 20"]:
    """The input map of DeepFashion.

    Args:
      joints: (18, 2) x and y in pixels of the canvas, NaN if not seen.
      canvas_size: (H, W) of the canvas; the pose is drawn at this size, then resized.
      size: (h, w) of the map.

    Returns:
      (h, w, 20) uint8: the drawing in RGB, then a distance map for each of the 17 limbs (all 255
      for a limb that was not seen).
    """
    seen = ~np.isnan(joints).any(1)
    drawing: np.ndarray = np.zeros((*canvas_size, 3), np.uint8)
    for joint in np.flatnonzero(seen):
        x, y = (int(value) for value in joints[joint])
        cv2.circle(drawing, (x, y), _RADIUS, _COLOURS[joint], thickness=-1)
    distances = []
    for limb, (first, second) in enumerate(LIMBS):
        mask = np.zeros(canvas_size, np.uint8)
        if seen[first - 1] and seen[second - 1]:
            polygon = _limb_polygon(joints[first - 1], joints[second - 1])
            cv2.fillConvexPoly(mask, polygon, 255)
            with_limb = cv2.fillConvexPoly(drawing.copy(), polygon, _COLOURS[limb])
            drawing = cv2.addWeighted(drawing, 0.4, with_limb, 0.6, 0)
        distances.append(distance_map(mask > 0))
    planes = [_resized(drawing[..., ::-1], size, Image.Resampling.NEAREST)]
    planes += [_resized(plane, size, Image.Resampling.BILINEAR)[..., None] for plane in distances]
    return np.concatenate(planes, axis=-1)


def _limb_polygon(
    first: Float64[np.ndarray, "2"], second: Float64[np.ndarray, "2"]
) -> Int32[np.ndarray, "points 2"]:
    """The outline of a limb, an ellipse between two joints, as (n, 2) int32 x and y."""
    x, y = (first + second) / 2
    dx, dy = first - second
    angle = int(math.degrees(math.atan2(dy, dx)))
    axes = (int(math.hypot(dx, dy) / 2), _RADIUS)
    return np.asarray(cv2.ellipse2Poly((int(x), int(y)), axes, angle, 0, 360, 1))


def _resized(
    plane: UInt8[np.ndarray, "height width *channels"], size: tuple[int, int], how: Image.Resampling
) -> UInt8[np.ndarray, "h w *channels"]:
    height, width = size
    image = Image.fromarray(np.ascontiguousarray(plane))
    return np.asarray(image.resize((width, height), how))
