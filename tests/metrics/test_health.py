import math

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from cocosnet_jax.metrics import health
from cocosnet_jax.types import Batch, Match, Outputs

SIDE, GRID = 64, 16


@pytest.fixture(scope="module")
def pictures():
    """Four different pictures, (4, 64, 64, 3) bytes: blobs of colour."""
    rng = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(rng.standard_normal((4, SIDE, SIDE)), (0, 3, 3))
    return np.uint8(np.where(noise[..., None] > 0, [200, 150, 100], [50, 80, 20]))


def match(place, entropy=0.0):
    place = np.broadcast_to(place, (2, GRID, GRID)).astype(np.int32)
    score = np.zeros((2, GRID, GRID), np.float32)
    return Match(place, place, score, np.zeros((2, GRID, GRID, 2), np.float32), score + entropy)


def measured(pictures, translated, place, entropy=0.0, own=(0, 0), valid=(True, True)):
    label = np.zeros((2, SIDE, SIDE, 1), np.uint8)
    batch = Batch(pictures[:2], pictures[2:], label, label, np.float32(own))
    image = np.float32(translated) / 127.5 - 1
    outputs = Outputs(image, image, None, {"": match(place, entropy)})
    numbers = health.measure(batch, outputs, jnp.array(valid))
    return {name: float(value) for name, value in numbers.items()}


IDENTITY = np.arange(GRID**2).reshape(GRID, GRID)
RANDOM = np.random.default_rng(1).integers(GRID**2, size=(2, GRID, GRID))


def test_a_copy_of_the_exemplar(pictures):
    copy = measured(pictures, pictures[2:], RANDOM)
    assert copy["like_exemplar"] == pytest.approx(1, abs=1e-4)
    assert abs(copy["like_truth"]) < 0.3
    # Another style: darker, less contrast, and red.
    true = measured(pictures, pictures[:2] * [0.5, 0.2, 0.1] + 20, RANDOM)
    assert true["like_truth"] == pytest.approx(1, abs=0.01)
    assert abs(true["like_exemplar"]) < 0.3


def test_an_edge_correlation_is_pearsons(pictures):
    def edges(image):
        grey = np.pad(image.mean(-1), ((0, 1), (0, 1)), "edge")
        strength = np.hypot(np.diff(grey, axis=0)[:, :-1], np.diff(grey, axis=1)[:-1])
        return strength.reshape(32, 2, 32, 2).mean((1, 3)).ravel()

    images = np.float64(pictures)
    found = health.edge_correlation(jnp.float32(images[:2]), jnp.float32(images[2:]))
    expected = [np.corrcoef(edges(a), edges(b))[0, 1] for a, b in zip(images[:2], images[2:])]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    grey = jnp.full((1, SIDE, SIDE, 3), 0.5)
    assert health.edge_correlation(grey, grey) == 0


def test_collapsed_matches(pictures):
    constant = measured(pictures, pictures[:2], 7)
    assert constant["matched_places"] == 1 / GRID**2
    identity = measured(pictures, pictures[:2], IDENTITY)
    assert identity["matched_places"] == identity["matched_in_place"] == 1
    # One row further is still in place, two are not.
    for rows, near in ((1, 1), (2, 0)):
        moved = measured(pictures, pictures[:2], np.roll(IDENTITY, rows, 0))
        assert moved["matched_in_place"] == pytest.approx(near, abs=rows / GRID)
    chance = measured(pictures, pictures[:2], RANDOM)
    assert chance["matched_places"] == pytest.approx(1 - math.exp(-1), abs=0.06)
    # Of 9 places around each, fewer at the borders.
    assert chance["matched_in_place"] == pytest.approx(9 / GRID**2, abs=0.03)
    for entropy, share in ((0.0, 0.0), (math.log(GRID**2), 1.0), (math.log(GRID), 0.5)):
        numbers = measured(pictures, pictures[:2], RANDOM, entropy)
        assert numbers["match_entropy"] == pytest.approx(share, abs=1e-4)


def test_a_pictures_own_exemplar_and_fillers_do_not_count(pictures):
    translated = np.stack([pictures[0], pictures[3]])  # The second is a copy.
    both = measured(pictures, translated, RANDOM)["like_exemplar"]
    for left_out in ({"own": (0, 1)}, {"valid": (True, False)}):
        numbers = measured(pictures, translated, RANDOM, **left_out)
        assert numbers["like_truth"] == pytest.approx(1, abs=1e-4)
        assert numbers["like_exemplar"] < both
    alone = measured(pictures, translated, RANDOM, own=(1, 1))
    assert all(math.isnan(value) for value in alone.values())


def test_a_network_without_exemplar_has_no_numbers(pictures):
    batch = Batch(pictures[:2], pictures[2:], pictures[:2], pictures[:2], np.zeros(2, np.float32))
    assert health.measure(batch, Outputs(pictures[:2], None, None), jnp.ones(2, bool)) == {}


def test_a_match_may_be_missing(pictures):
    batch = Batch(pictures[:2], pictures[2:], pictures[:2], pictures[:2], np.zeros(2, np.float32))
    image = np.float32(pictures[:2])
    found = health.measure(batch, Outputs(image, image, None), jnp.ones(2, bool))
    assert found.keys() == {"like_exemplar", "like_truth"}
