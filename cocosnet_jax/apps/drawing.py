"""Draws pictures side by side, with numbered points and heat."""

import colorsys

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

Picture = UInt8[np.ndarray, "rows columns 3"]

HEIGHT = 512  # of a drawn picture, in pixels
RADIUS = 11  # of a point
_GAP = 8  # between two pictures


def enlarge(picture: Picture) -> Image.Image:
    """The picture in `HEIGHT` pixels; one that is much smaller keeps its pixels' edges."""
    size = round(picture.shape[1] * HEIGHT / picture.shape[0]), HEIGHT
    crisp = 2 * picture.shape[0] <= HEIGHT
    how = Image.Resampling.NEAREST if crisp else Image.Resampling.BICUBIC
    return Image.fromarray(picture).resize(size, how)


def number_points(
    picture: Picture, points: Float[np.ndarray, "points 2"], first: int = 1
) -> Image.Image:
    """Enlarges a picture, and draws numbered points into it.

    Args:
      picture: of any size.
      points: x, y in its pixels, whole numbers at pixels' middles.
      first: number of the first point, which also determines the colours.
    """
    drawn = enlarge(picture)
    draw = ImageDraw.Draw(drawn)
    for number, point in enumerate(points, first):
        x, y = (point + 0.5) * HEIGHT / picture.shape[0] - 0.5
        # Hues a golden ratio apart: those of neighbouring numbers look different.
        colour = tuple(round(255 * c) for c in colorsys.hsv_to_rgb(number * 0.618 % 1, 0.9, 0.95))
        box = x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS
        draw.ellipse(box, fill=colour, outline="white", width=2)
        draw.text(
            (x, y),
            str(number),
            fill="white",
            font_size=RADIUS * 1.5,
            anchor="mm",
            stroke_width=2,
            stroke_fill="black",
        )
    return drawn


def heat(picture: Picture, share: Float[np.ndarray, "h w"]) -> Image.Image:
    """Enlarges a picture and tints it: dark blue where `share` is 0, to red where it is 1."""
    grey = np.asarray(enlarge(picture).convert("L"), np.float32)[..., None]
    size = grey.shape[1], grey.shape[0]
    large = np.clip(
        cv2.resize(share.astype(np.float32), size, interpolation=cv2.INTER_LINEAR), 0, 1
    )
    colours = cv2.applyColorMap(np.rint(255 * large).astype(np.uint8), cv2.COLORMAP_TURBO)
    weight = 0.25 + 0.65 * large[..., None]
    mixed = grey * (1 - weight) + colours[..., ::-1] * weight
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


def side_by_side(left: Image.Image, right: Image.Image) -> Picture:
    """Two pictures of one height, with a white gap between them."""
    sheet = Image.new("RGB", (left.width + _GAP + right.width, left.height), "white")
    sheet.paste(left, (0, 0))
    sheet.paste(right, (left.width + _GAP, 0))
    return np.asarray(sheet)
