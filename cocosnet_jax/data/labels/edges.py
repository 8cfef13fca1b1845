"""Edge maps of CelebA-HQ edge-to-face (SPEC section 1) and of the user's own pictures.

Pure functions on NumPy arrays. Planes are bytes; divided by 255, they are the channels of x_A.
"""

from collections.abc import Mapping

import cv2
import numpy as np
from jaxtyping import Bool, Shaped, UInt8
from PIL import Image
from skimage import feature

from cocosnet_jax.data.images import FileName
from cocosnet_jax.errors import UserError

# In the order of the distance maps among the channels, which is also the drawing order.
EDGE_PARTS = (
    "skin",
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
    "eye_g",
    "hair",
)
PLANES = len(EDGE_PARTS) + 2


def mask_edge(mask: Shaped[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The outline of a region: pixels that differ from a left, right, upper or lower neighbour.

    Args:
      mask: (h, w), any type.

    Returns:
      (h, w) bool, True on both sides of every boundary.
    """
    edge = np.zeros(mask.shape, bool)
    vertical, horizontal = mask[1:] != mask[:-1], mask[:, 1:] != mask[:, :-1]
    edge[1:] |= vertical
    edge[:-1] |= vertical
    edge[:, 1:] |= horizontal
    edge[:, :-1] |= horizontal
    return edge


def distance_map(drawing: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """The distance of every pixel from a drawing, in units of three city-block pixels.

    Args:
      drawing: (h, w) bool, True on the drawing.

    Returns:
      (h, w) uint8: floor(L1 distance / 3), at most 255; 0 on the drawing; all 255 for an empty
      drawing.
    """
    if not drawing.any():  # Versions of OpenCV return different distances here.
        return np.full(drawing.shape, 255, np.uint8)
    distance = cv2.distanceTransform(np.where(drawing, 0, 255).astype(np.uint8), cv2.DIST_L1, 3)
    return np.clip(distance / 3, 0, 255).astype(np.uint8)


def photograph_edges(
    photograph: UInt8[np.ndarray, "height width 3"], size: tuple[int, int]
) -> Bool[np.ndarray, "h w"]:
    """Canny edges (sigma 1) of a photograph that is resized bilinearly, then converted to grey.

    Args:
      photograph: (H, W, 3) uint8 RGB.
      size: (h, w) of the edge map.

    Returns:
      (h, w) bool.
    """
    height, width = size
    resized = Image.fromarray(photograph).resize((width, height), Image.Resampling.BILINEAR)
    return feature.canny(np.asarray(resized.convert("L")))


def check_lines(
    path: FileName, lines: UInt8[np.ndarray, "height width"]
) -> UInt8[np.ndarray, "height width"]:
    """Returns an edge map, (H, W) uint8; raises a `UserError` if it is black on white."""
    if (lines > 127).mean() > 0.5:
        raise UserError(f"{path} is mostly white; edge maps have white lines on black: invert it")
    return lines


def own_edges(
    photograph: UInt8[np.ndarray, "height width 3"] | None,
    lines: UInt8[np.ndarray, "rows columns"] | None,
    size: tuple[int, int],
) -> UInt8[np.ndarray, "h w 2"]:
    """The input map of the user's own edges.

    Args:
      photograph: (H, W, 3) uint8 RGB, in which edges are detected if `lines` is None.
      lines: an edge map, (H', W') uint8, or None.
      size: (h, w) of the map.

    Returns:
      (h, w, 2) uint8: the edges, and the distance map of those above 127.
    """
    if lines is None:
        assert photograph is not None
        edge_map = np.where(photograph_edges(photograph, size), 255, 0).astype(np.uint8)
    else:
        # Dilated first, so that resizing keeps thin lines.
        kernel = [-(-old // new) for old, new in zip(lines.shape, size, strict=True)]
        thick = cv2.dilate(lines, np.ones(kernel, np.uint8))
        height, width = size
        nearest = Image.Resampling.NEAREST
        edge_map = np.asarray(Image.fromarray(thick).resize((width, height), nearest))
    return np.stack([edge_map, distance_map(edge_map > 127)], axis=-1)


def face_edges(
    photograph: UInt8[np.ndarray, "height width 3"],
    parts: Mapping[str, Bool[np.ndarray, "_ _"]],
    size: tuple[int, int],
) -> UInt8[np.ndarray, "h w 15"]:
    """The input map of CelebA-HQ edge-to-face.

    Args:
      photograph: (H, W, 3) uint8 RGB.
      parts: masks of face parts by name (`EDGE_PARTS`), each (H', W') bool of any size; a missing
        part is empty.
      size: (h, w) of the map.

    Returns:
      (h, w, 15) uint8: all edges (255 on an edge), 13 distance maps in the order of `EDGE_PARTS`,
      and the edges of the face parts only.
    """
    height, width = size
    part_edges = np.zeros(size, bool)
    outside = np.ones(size, bool)  # Canny edges count outside the face, and in the hair.
    distances = []
    for name in EDGE_PARTS:
        mask = np.zeros(size, bool)
        if name in parts:
            image = Image.fromarray(parts[name].astype(np.uint8))
            mask = np.asarray(image.resize((width, height), Image.Resampling.NEAREST)) > 0
        outside[mask] = name == "hair"
        edge = mask_edge(mask)
        part_edges |= edge
        distances.append(distance_map(edge))
    all_edges = part_edges | (photograph_edges(photograph, size) & outside)
    lines = [np.where(edges, 255, 0).astype(np.uint8) for edges in (all_edges, part_edges)]
    return np.stack([lines[0], *distances, lines[1]], axis=-1)
