"""Matches of positions by neighbourhoods, against loops in NumPy."""

import jax
import numpy as np
import pytest

from cocosnet_jax import matching
from cocosnet_jax.nn.streaming import Side
from cocosnet_jax.nn.tiles import divisors
from tests.by_hand import features_by_hand

RNG = np.random.default_rng(0)
H, W, HM, WM, K = 6, 4, 3, 5, 7


@pytest.mark.parametrize("scores", [1, 2**24])  # one row at a time, and all at once
@pytest.mark.parametrize(
    ("side", "centre"), [(1, "channels"), (3, "channels"), (9, "channels"), (3, "positions")]
)
def test_matches_by_hand(monkeypatch, side, centre, scores):
    monkeypatch.setattr(matching, "_SCORES", scores)
    theta, phi = RNG.normal(size=(2, H, W, K)), RNG.normal(size=(2, HM, WM, K))
    cells = np.array([[[0, 1], [H - 1, W - 1]], [[2, 0], [1, 3]]])

    def all_three(theta, phi):
        # Without the program that it has compiled for another number of scores.
        best = matching.best_match.__wrapped__(theta, phi, 0.1, side, centre)
        full = matching.full_match(theta, phi, 0.1, side, centre)
        return best, full, matching.similarity(theta, phi, cells, side, centre)

    best, full, similarity = jax.jit(all_three)(theta.astype("f4"), phi.astype("f4"))
    grid = np.stack(np.divmod(np.arange(HM * WM), WM), -1)
    for i in range(2):
        cosines = (
            features_by_hand(theta[i], side, centre) @ features_by_hand(phi[i], side, centre).T
        )
        place = cosines.argmax(1).reshape(H, W)
        np.testing.assert_array_equal(full.place[i], place)
        np.testing.assert_array_equal(full.back[i], cosines.argmax(0).reshape(HM, WM))
        np.testing.assert_array_equal(best.place[i], np.stack(np.divmod(place, WM), -1))
        np.testing.assert_allclose(best.cosine[i], cosines.max(1).reshape(H, W), atol=1e-6)
        weights = np.exp(cosines / 0.1)
        weights /= weights.sum(1, keepdims=True)
        entropy = -np.sum(weights * np.log(weights), 1)
        sharp = 1 - entropy / np.log(HM * WM)
        np.testing.assert_allclose(best.confidence[i], sharp.reshape(H, W), atol=1e-5)
        np.testing.assert_allclose(full.entropy[i], entropy.reshape(H, W), atol=2e-5)
        mean = (weights @ grid).reshape(H, W, 2)
        np.testing.assert_allclose(full.mean_place[i], mean, atol=5e-5)
        rows = cosines.reshape(H, W, HM, WM)[cells[i, :, 0], cells[i, :, 1]]
        np.testing.assert_allclose(similarity[i], rows, atol=1e-6)


def test_wide_neighbourhoods_find_what_single_positions_cannot():
    """Five kinds of positions in random order, moved by 2 rows and 3 columns."""
    kinds = RNG.normal(size=(5, K)).astype("f4")
    large = kinds[RNG.integers(5, size=(1, 20, 20))]
    theta, phi = large[:, 2:18, 3:19], large[:, :16, :16]
    rows, columns = np.mgrid[5:11, 5:11]
    true = np.stack([rows + 2, columns + 3], -1)
    found = {
        side: np.mean(
            np.all(matching.best_match(theta, phi, 0.01, side).place[0, 5:11, 5:11] == true, -1)
        )
        for side in (1, 3, 5)
    }
    # Of 51 places of a kind, the first is taken.
    assert found[1] < 0.1
    assert found[5] == 1


def test_the_side_for_points_is_a_quarter_of_the_grids():
    found = [matching.reading_kernel(side, 3, "channels") for side in (4, 16, 32, 64)]
    assert found == [3, 5, 9, 17]
    assert matching.reading_kernel(64, 3, "positions") == 3


def test_memory_at_1024_pixels():
    """65,536 positions on either side: all pairs would be 16 GiB."""
    grid = jax.ShapeDtypeStruct((1, 256, 256, 64), np.float32)

    def match(rows, columns):
        return matching.match_both_ways(Side.of_grid(rows), Side.of_grid(columns), 0.01)

    plan = jax.jit(match).lower(grid, grid).compile().memory_analysis()
    assert plan.temp_size_in_bytes < 512 * 2**20


def test_divisors_are_all_and_in_order():
    for number in range(1, 300):
        assert divisors(number) == [size for size in range(1, number + 1) if number % size == 0]
