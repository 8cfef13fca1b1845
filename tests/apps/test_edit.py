"""What an edit keeps and what it changes."""

import numpy as np
import pytest

from cocosnet_jax.apps import edit
from cocosnet_jax.data.labels import edges
from cocosnet_jax.errors import UserError
from tests.apps.exact import SIZE, Exact, coded

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def translator():
    return Exact()


@pytest.mark.parametrize("seam", [0, 1, 9])
def test_beyond_the_seam_the_photograph_is_kept_to_the_byte(translator, seam):
    """A photograph of another size and shape than the networks see; they draw grey everywhere."""
    photograph = RNG.integers(0, 256, (96, 130, 3), np.uint8)
    changed = np.zeros((96, 130), bool)
    changed[40:50, 20:31] = True
    label, other = coded(), coded(right=1)
    found = edit.edit(translator, photograph, label, other, paste=True, seam=seam, changed=changed)
    rows, columns = np.mgrid[:96, :130]
    down = np.maximum(np.maximum(40 - rows, rows - 49), 0)
    right = np.maximum(np.maximum(20 - columns, columns - 30), 0)
    distance = np.hypot(down, right)
    far = distance > seam
    np.testing.assert_array_equal(found[far], photograph[far])
    assert (found[changed] == 128).all()
    # The seam itself: half of each in its middle, and steeper there than at its ends.
    if seam == 9:
        share = 1 - distance[45, 31:40] / 9
        wanted = photograph[45, 31:40] + (3 * share**2 - 2 * share**3)[:, None] * (
            128.0 - photograph[45, 31:40]
        )
        np.testing.assert_allclose(found[45, 31:40], wanted, atol=0.51)


def test_without_paste_all_is_drawn_anew(translator):
    photograph = RNG.integers(0, 256, (30, 50, 3), np.uint8)
    found = edit.edit(translator, photograph, coded(), coded(right=1))
    assert found.shape == photograph.shape
    assert (found == 128).all()


def test_places_that_changed_are_found_at_the_photographs_size(translator):
    photograph = RNG.integers(0, 200, (2 * SIZE, 2 * SIZE, 3), np.uint8)
    other = coded()
    other[8:16, 40:44] = 200
    found = edit.edit(translator, photograph, coded(), other, paste=True, seam=0)
    changed = np.zeros((2 * SIZE, 2 * SIZE), bool)
    changed[16:32, 80:88] = True
    assert (found[changed] == 128).all()
    np.testing.assert_array_equal(found[~changed], photograph[~changed])


def test_any_plane_of_a_label_map_counts():
    label = np.zeros((8, 8, 2), np.uint8)
    other = label.copy()
    other[2, 3, 0] = other[5, 6, 1] = 1
    assert np.argwhere(edit.changes(label, other, "labels_glasses")).tolist() == [[2, 3], [5, 6]]


def test_a_moved_outline_counts_with_what_it_encloses():
    """Distance maps change far from the lines, and do not count."""

    def square(left):
        lines = np.zeros((40, 40), np.uint8)
        lines[10:21, left : left + 11] = 255
        lines[11:20, left + 1 : left + 10] = 0
        return edges.own_edges(None, lines, (40, 40))

    found = edit.changes(square(3), square(25), "channels")
    wanted = np.zeros((40, 40), bool)
    wanted[10:21, 3:14] = wanted[10:21, 25:36] = True
    np.testing.assert_array_equal(found, wanted)


def test_nothing_to_edit_is_said(translator):
    photograph = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(UserError, match="equals the photograph's at the 64 x 64 pixels"):
        edit.edit(translator, photograph, coded(), coded())


def test_the_seam_grows_with_the_photograph():
    assert edit.default_seam((96, 128)) == 8
    assert edit.default_seam((1000, 10)) == 63
