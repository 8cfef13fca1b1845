import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf

from cocosnet_jax.data import distortions
from tests.data.conftest import CLASSES, colours, draw_label


def test_the_identity_changes_nothing():
    image = np.random.default_rng(0).integers(0, 256, (33, 33, 3), np.uint8)
    grid = distortions.sampling_grid(distortions.identity(), 33)
    np.testing.assert_array_equal(distortions.sample_image(tf.constant(image), grid), image)
    np.testing.assert_array_equal(distortions.sample_label(tf.constant(image), grid), image)


def test_the_affine_map_is_the_formula():
    drawn = distortions.draw(np.random.default_rng(3))
    affine = drawn._replace(displacement=np.zeros_like(drawn.displacement))
    grid = np.asarray(distortions.sampling_grid(affine, 16))
    for row, column in [(7, 3), (8, 8), (5, 10)]:
        point = np.array([(2 * column + 1) / 16 - 1, (2 * row + 1) / 16 - 1, 1])
        x, y = ((drawn.affine.astype(np.float64) @ point) + 1) * 8 - 0.5
        np.testing.assert_allclose(grid[row, column], [x, y], atol=1e-5)


def test_sampling_agrees_with_scipy_and_reflects_at_the_border():
    image = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    shift = np.array([[1.3, 0.2, 0.9], [-0.1, 1.2, -0.7]], np.float32)  # far over the border
    still = distortions.identity().displacement
    grid = distortions.sampling_grid(distortions.Distortion(shift, still), 24)
    assert 0 <= np.min(grid) < np.max(grid) <= 23
    axis = (2 * np.arange(24) + 1) / 24 - 1
    x, y = np.meshgrid(axis, axis)
    source = np.einsum("ij,jhw->ihw", shift.astype(np.float64), np.stack([x, y, np.ones_like(x)]))
    source = (source + 1) * 12 - 0.5
    assert source.max() > 35
    for channel in range(3):
        expected = scipy.ndimage.map_coordinates(
            image[..., channel].astype(np.float64), source[::-1], order=1, mode="mirror"
        )
        got = np.asarray(distortions.sample_image(tf.constant(image), grid))[..., channel]
        assert np.abs(got - expected).max() <= 0.51


@pytest.mark.parametrize("seed", range(20))
def test_a_distortion_is_smooth_modest_and_never_folds(seed):
    drawn = distortions.draw(np.random.default_rng(seed))
    # Shrunk towards the centre so that nothing reaches the border and is reflected.
    shrunk = distortions.Distortion(*(part * np.float32(0.4) for part in drawn))
    grid = (np.asarray(distortions.sampling_grid(shrunk, 64), np.float64) - 31.5) / 0.4
    x, y = np.moveaxis(grid, -1, 0)
    (x_down, x_right), (y_down, y_right) = np.gradient(x), np.gradient(y)
    area = x_right * y_down - x_down * y_right
    assert 0.3 < area.min() < area.max() < 2.5
    rows, columns = np.mgrid[:64, :64] - 31.5
    assert 2 < np.hypot(x - columns, y - rows).max() < 32


@pytest.mark.parametrize("seed", range(3))
def test_image_and_label_move_under_the_same_map(seed):
    label = draw_label(seed, 96, 96)[..., None]
    grid = distortions.sampling_grid(distortions.draw(np.random.default_rng(seed)), 96)
    moved = np.asarray(distortions.sample_label(tf.constant(label), grid))[..., 0]
    image = np.asarray(distortions.sample_image(tf.constant(colours(label[..., 0])), grid)).astype(
        int
    )
    # Bilinear and nearest may differ by one pixel at a border between classes, and only there.
    inside = np.ones(moved.shape, bool)
    for shift in np.ndindex(3, 3):
        inside &= np.roll(moved, np.array(shift) - 1, (0, 1)) == moved
    np.testing.assert_array_equal(image[inside], colours(moved)[inside])
    assert inside.mean() > 0.7
    assert (moved != label[..., 0]).mean() > 0.03
    assert set(np.unique(moved)) <= set(range(CLASSES))
