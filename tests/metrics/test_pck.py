"""PCK against NumPy in float64, and its known answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cocosnet_jax import types
from cocosnet_jax.metrics import baselines, pck

RNG = np.random.default_rng(0)
SIZE, GRID = 64, 16


def batch(points, exemplar_points, self_reference=None):
    b = len(points)
    picture, plane = np.zeros((b, SIZE, SIZE, 3), np.uint8), np.zeros((b, SIZE, SIZE, 1), np.uint8)
    own = np.zeros(b) if self_reference is None else np.asarray(self_reference)
    return types.Batch(
        *(picture, picture, plane, plane, own.astype(np.float32)),
        np.asarray(points, np.float32),
        np.asarray(exemplar_points, np.float32),
    )


def measured(batch, matches, valid=None):
    metric = pck.Pck()
    outputs = types.Outputs(jnp.zeros((len(batch.image), SIZE, SIZE, 3)), None, None, matches)
    valid = np.ones(len(batch.image), bool) if valid is None else np.asarray(valid)
    return metric.result(jax.jit(metric.count)(batch, outputs, valid))


def shifted(rows, columns, b=1):
    """The match of a picture with itself, moved down and to the right, beyond the border and on."""
    i, j = np.divmod(np.arange(GRID * GRID).reshape(1, GRID, GRID).repeat(b, 0), GRID)
    there = (i + rows) % GRID, (j + columns) % GRID
    back = (i - rows) % GRID * GRID + (j - columns) % GRID
    nothing = np.zeros((b, GRID, GRID), np.float32)
    mean_place = np.stack(there, -1).astype(np.float32)
    return types.Match(there[0] * GRID + there[1], back, nothing, mean_place, nothing)


def test_the_same_picture():
    points = RNG.uniform(-0.5, SIZE - 0.5, (1, 9, 2)).astype(np.float32)
    found = measured(batch(points, points), {"": shifted(0, 0)})
    assert (found["pck_pairs"], found["pck_points"]) == (1, 9)
    for alpha in (0.05, 0.1):
        assert found[f"pck@{alpha}"] == found[f"pck@{alpha}_by_softmax"] == 1


def test_a_shifted_picture():
    """Two cells of 4 pixels down and three to the right; where it stays it is 14.4 pixels off."""
    points = RNG.uniform(0, SIZE / 2, (1, 9, 2)).astype(np.float32)
    matches = {"": shifted(2, 3), "same_position": baselines.same_position(1, GRID, GRID)}
    moved = points + np.float32([12, 8])
    found = measured(batch(points, moved), matches)
    for alpha in (0.05, 0.1):
        assert found[f"pck@{alpha}"] == found[f"pck@{alpha}_by_softmax"] == 1
        assert found[f"pck@{alpha}_by_same_position"] == 0
    # 0.05 * 64 is 3.2 pixels, 0.1 * 64 is 6.4.
    found = measured(batch(points, moved + np.float32([3, 4])), matches)
    assert (found["pck@0.05"], found["pck@0.1"]) == (0, 1)


def by_hand(match, points, truth, alpha):
    """The module's definition, point by point, in float64; whether each is found, and chance."""
    right, chance, cell = [], [], SIZE / GRID
    for point, wanted in zip(points.astype(float), truth.astype(float), strict=True):
        (x, y), (x_true, y_true) = point, wanted
        j, i = int((x + 0.5) // cell), int((y + 0.5) // cell)
        found = []
        for place in [match[i, j], *range(GRID * GRID)]:
            row, column = divmod(int(place), GRID)
            at = x + (column - j) * cell, y + (row - i) * cell
            found.append(np.hypot(at[0] - x_true, at[1] - y_true) <= alpha * SIZE)
        right.append(found[0])
        chance.append(np.mean(found[1:]))
    return np.sum(right), np.sum(chance)


def test_the_definition_of_hits_and_chance():
    points, truth = RNG.uniform(-0.5, SIZE - 0.5, (2, 2, 20, 2)).astype(np.float32)
    points[0, 3], truth[1, 5] = np.nan, np.nan
    # Beyond the picture: nothing of it can be matched.
    truth[1, 6] = SIZE + 1
    place = RNG.integers(0, GRID * GRID, (2, GRID, GRID))
    # Some are right.
    for sample in range(2):
        for k in range(10, 20):
            (j, i), (jt, it) = ((x[sample, k] + 0.5) // 4 for x in (points, truth))
            place[sample, int(i), int(j)] = int(it) * GRID + int(jt)
    match = types.Match(place, place, *np.zeros((2, 2, GRID, GRID)), np.zeros((2, GRID, GRID)))
    match = match._replace(mean_place=np.zeros((2, GRID, GRID, 2)))
    found = measured(batch(points, truth), {"": match})
    assert (found["pck_pairs"], found["pck_points"]) == (2, 37)
    for alpha in (0.05, 0.1):
        sums = np.zeros(2)
        for sample in range(2):
            seen = ~np.isnan(points[sample] + truth[sample]).any(1)
            seen &= (truth[sample] < SIZE).all(1)
            sums += by_hand(place[sample], points[sample][seen], truth[sample][seen], alpha)
        assert sums[0] > 5
        assert found[f"pck@{alpha}"] == pytest.approx(sums[0] / 37, rel=1e-6)
        assert found[f"pck@{alpha}_by_chance"] == pytest.approx(sums[1] / 37, rel=1e-5)


def test_padding_and_pictures_that_are_their_own_exemplar_do_not_count():
    points = RNG.uniform(0, SIZE - 1, (3, 4, 2)).astype(np.float32)
    found = measured(
        batch(points, points, [0, 1, 0]), {"": shifted(0, 0, b=3)}, [True, True, False]
    )
    assert (found["pck_pairs"], found["pck_points"]) == (1, 4)
    assert measured(batch(points, points, [1, 1, 1]), {"": shifted(0, 0, b=3)}) == {
        "pck_pairs": 0,
        "pck_points": 0,
    }


def test_the_jaw_of_a_face_is_counted_by_itself():
    points = RNG.uniform(0, SIZE - 1, (1, 68, 2)).astype(np.float32)
    truth = points.copy()
    truth[:, :17] = (points[:, :17] + SIZE / 2) % SIZE
    found = measured(batch(points, truth), {"": shifted(0, 0)})
    assert found["pck_parts@0.05"] == 1
    assert found["pck_jaw@0.1"] == 0
    assert "pck@0.1" not in found
