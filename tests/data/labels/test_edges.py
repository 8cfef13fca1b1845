from pathlib import Path

import numpy as np
import pytest

from cocosnet_jax.data import exemplars, images
from cocosnet_jax.data.labels import edges, face_parts
from cocosnet_jax.data.labels.edges import EDGE_PARTS, distance_map, face_edges, mask_edge

SHARED = Path(__file__).parents[3] / ".." / "shared"


def city_block(drawing):
    """Distance to the nearest pixel of the drawing, over all pairs of pixels."""
    places, lines = np.argwhere(np.ones(drawing.shape)), np.argwhere(drawing)
    return np.abs(places[:, None] - lines[None]).sum(-1).min(1).reshape(drawing.shape)


def test_distance_map_is_a_third_of_the_city_block_distance():
    drawing = np.random.default_rng(0).random((37, 51)) < 0.004
    drawing[5, 7] = True
    np.testing.assert_array_equal(distance_map(drawing), city_block(drawing) // 3)


def test_distance_map_is_clipped_and_far_where_nothing_is_drawn():
    drawing = np.zeros((2, 900), bool)
    assert (distance_map(drawing) == 255).all()
    drawing[0, 0] = True
    assert distance_map(drawing)[0, 764] == 254
    assert (distance_map(drawing)[0, 765:] == 255).all()


def test_mask_edge_marks_both_sides():
    mask = np.random.default_rng(1).random((9, 12)) < 0.3
    padded = np.pad(mask, 1, mode="edge")  # beyond the border there is no change
    expected = np.zeros(mask.shape, bool)
    for dy, dx in ((0, 1), (2, 1), (1, 0), (1, 2)):
        expected |= padded[dy : dy + 9, dx : dx + 12] != mask
    np.testing.assert_array_equal(mask_edge(mask), expected)


def test_edges_of_the_photograph_show_outside_the_face_and_in_the_hair():
    # Vertical stripes have edges everywhere; the skin hides them, hair over skin shows them.
    stripes = np.zeros((96, 96, 3), np.uint8)
    stripes[:, (np.arange(96) // 12) % 2 == 1] = 255
    skin, hair = np.zeros((96, 96), bool), np.zeros((96, 96), bool)
    skin[20:80, 10:90], hair[20:40, 10:90] = True, True
    planes = face_edges(stripes, {"skin": skin, "hair": hair}, (96, 96))
    assert planes.shape == (96, 96, edges.PLANES)
    assert planes.dtype == np.uint8
    everything, parts = planes[..., 0] > 0, planes[..., -1] > 0
    np.testing.assert_array_equal(parts, mask_edge(skin) | mask_edge(hair))
    assert not everything[45:75, 15:85].any()
    assert everything[25:35, 15:85].sum() > 40
    assert everything[85:94].sum() > 40
    assert everything[parts].all()
    np.testing.assert_array_equal(planes[..., 1], city_block(mask_edge(skin)) // 3)
    np.testing.assert_array_equal(planes[..., 13], city_block(mask_edge(hair)) // 3)
    assert (planes[..., 2:13] == 255).all()


def test_parts_are_resized_before_their_edges_are_taken():
    rng = np.random.default_rng(2)
    photograph = rng.integers(0, 256, (80, 64, 3), np.uint8)
    mask = np.zeros((100, 100), bool)
    mask[30:70, 20:60] = True
    planes = face_edges(photograph, {"nose": mask}, (32, 48))
    picked = mask[(np.arange(32) * 2 + 1) * 100 // 64][:, (np.arange(48) * 2 + 1) * 100 // 96]
    np.testing.assert_array_equal(planes[..., -1] > 0, mask_edge(picked))


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared with sample photographs")
@pytest.mark.parametrize("which", ["label", "label_ref"])
def test_sample_photographs_equal_the_release(which):
    reference = np.load(SHARED / "reference" / "labels_celebahqedge.npz")
    root = SHARED / "samples" / "celebahqedge"
    pairs = {
        Path(line.key).stem: Path(line.references[0]).stem
        for line in exemplars.read_list(SHARED / "samples" / "celebahq_ref_test.txt")
    }
    pictures = reference["image" if which == "label" else "ref"]
    for name, expected, picture in zip(reference["names"], reference[which], pictures, strict=True):
        stem = Path(str(name)).stem if which == "label" else pairs[Path(str(name)).stem]
        photograph = images.read_photograph(root / "CelebA-HQ-img" / f"{stem}.jpg")
        annotations = root / "CelebAMask-HQ-mask-anno"
        parts = face_parts.read_parts(annotations, int(stem), EDGE_PARTS)
        assert len(parts) >= 9
        planes = face_edges(photograph, parts, (256, 256)).transpose(2, 0, 1)
        np.testing.assert_array_equal(planes, np.rint(expected.astype(np.float64) * 255))
        resized = images.resize_photograph(photograph, (256, 256)).transpose(2, 0, 1)
        assert np.abs(resized - (picture.astype(np.float64) + 1) * 127.5).max() <= 1
