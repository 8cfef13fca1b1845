"""Pseudo exemplars: a geometrically distorted image is its own exemplar.

The paper (section 3.3, "Losses for pseudo exemplar pairs") distorts the photograph geometrically,
for instance by a random flip; we use an affine map and a smooth non-rigid warp. NumPy draws the
random parameters. The TensorFlow graph applies them as one sampling grid to the photograph and its
label map, so that both move alike.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

# Modest, so that the content stays recognisable and a position's match stays in the picture.
ROTATION = np.radians(12.0)
SCALE = 1.15  # zoom between 1 / SCALE and SCALE
SHEAR = 0.1
TRANSLATION = 0.06  # of the side
# Largest displacement of a control point, as a fraction of the side. The points are 1 / 4 apart:
# neighbours approach each other by at most a third of that, so the warp never folds.
DISPLACEMENT = 0.04
CONTROL_POINTS = 5


class Distortion(NamedTuple):
    """A map from output to input positions, both in [-1, 1] with (x, y) order.

    Attributes:
      affine: (2, 3) float32; an output position p samples the input at affine @ (p, 1).
      displacement: (CONTROL_POINTS, CONTROL_POINTS, 2) float32, added to that after smooth
        interpolation over the picture.
    """

    affine: np.ndarray
    displacement: np.ndarray


def draw(rng: np.random.Generator) -> Distortion:
    """Draws a random distortion."""
    angle = rng.uniform(-ROTATION, ROTATION)
    zoom = SCALE ** rng.uniform(-1, 1)
    shear = rng.uniform(-SHEAR, SHEAR)
    shift = rng.uniform(-2 * TRANSLATION, 2 * TRANSLATION, 2)
    cos, sin = np.cos(angle), np.sin(angle)
    linear = np.array([[cos, -sin], [sin, cos]]) @ np.array([[1, shear], [0, 1]]) * zoom
    points = (CONTROL_POINTS, CONTROL_POINTS, 2)
    displacement = rng.uniform(-2 * DISPLACEMENT, 2 * DISPLACEMENT, points)
    affine = np.concatenate([linear, shift[:, None]], axis=1)
    return Distortion(affine.astype(np.float32), displacement.astype(np.float32))


def identity() -> Distortion:
    """The distortion that changes nothing."""
    return Distortion(
        np.eye(2, 3, dtype=np.float32), np.zeros((CONTROL_POINTS, CONTROL_POINTS, 2), np.float32)
    )


def sampling_grid(distortion: Distortion, side: int) -> tf.Tensor:
    """Where each pixel of a (side, side) picture samples: (side, side, 2), x and y in pixels.

    Positions outside the picture are reflected at its border, so every value is in
    [0, side - 1].
    """
    axis = (2 * tf.range(side, dtype=tf.float32) + 1) / side - 1
    x, y = tf.meshgrid(axis, axis)
    positions = tf.stack([x, y, tf.ones_like(x)], axis=-1)
    affine, displacement = tf.ensure_shape(distortion.affine, (2, 3)), distortion.displacement
    source = tf.linalg.matmul(positions, affine, transpose_b=True)
    displacement = tf.ensure_shape(displacement, (CONTROL_POINTS, CONTROL_POINTS, 2))
    source += tf.image.resize(displacement, (side, side), method="bicubic")
    pixels = (source + 1) * (side / 2) - 0.5
    # Reflection without repeating the border pixel, for any distance.
    period = 2.0 * (side - 1)
    pixels = tf.math.floormod(pixels, period)
    return tf.minimum(pixels, period - pixels)


def sample_image(image: tf.Tensor, grid: tf.Tensor) -> tf.Tensor:
    """The uint8 image (S, S, c) at the grid's positions, bilinear, rounded to uint8."""
    side = tf.shape(image)[0]
    corner = tf.minimum(tf.floor(grid), tf.cast(side - 2, tf.float32))
    weight = grid - corner
    wx, wy = weight[..., :1], weight[..., 1:]
    x, y = tf.unstack(tf.cast(corner, tf.int32), axis=-1)
    flat = tf.reshape(image, (side * side, image.shape[-1]))

    def at(row: tf.Tensor, column: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.gather(flat, row * side + column), tf.float32)

    top = at(y, x) * (1 - wx) + at(y, x + 1) * wx
    bottom = at(y + 1, x) * (1 - wx) + at(y + 1, x + 1) * wx
    return tf.cast(tf.round(top * (1 - wy) + bottom * wy), tf.uint8)


def sample_label(label: tf.Tensor, grid: tf.Tensor) -> tf.Tensor:
    """The map (S, S, p) at the grid's positions, nearest neighbour, same dtype."""
    x, y = tf.unstack(tf.cast(tf.round(grid), tf.int32), axis=-1)
    return tf.gather_nd(label, tf.stack([y, x], axis=-1))
