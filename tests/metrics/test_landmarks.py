"""PCK of pairs against the definition, point by point, and against what is known."""

import numpy as np
import pytest

from cocosnet_jax.metrics import by_class, landmarks
from cocosnet_jax.metrics.pck import ALPHAS

SIZE, GRID = 32, 8
RNG = np.random.default_rng(0)


def sample(points, label=None, features=None):
    label = np.zeros((SIZE, SIZE), int) if label is None else label
    return landmarks.Sample(
        np.zeros((SIZE, SIZE, 3), np.uint8), label[..., None], points, features or {}
    )


def test_a_pair_is_counted_by_hand():
    own, truth = RNG.uniform(-0.5, SIZE - 0.5, (2, 40, 2))
    own[3], truth[4] = np.nan, SIZE + 2
    own[9:] = truth[9:] + RNG.uniform(-3, 3, (31, 2))
    own = np.clip(own, -0.5, SIZE - 0.6)
    place = RNG.integers(0, GRID, (GRID, GRID, 2))
    features = RNG.normal(size=(2, GRID, GRID, 5))
    given, exemplar = (
        sample(x, features={"nearest": f}) for x, f in zip((own, truth), features, strict=True)
    )
    seen, right = landmarks.of_pair(given, exemplar, {"networks": place})
    assert np.flatnonzero(~seen).tolist() == [3, 4]
    cell = SIZE / GRID
    for point in np.flatnonzero(seen):
        column, row = np.floor((own[point] + 0.5) / cell).astype(int)
        distances = np.square(features[1] - features[0, row, column]).sum(-1)
        matched = {
            "networks": place[row, column],
            "same_position": (row, column),
            "nearest": np.unravel_index(np.argmin(distances), distances.shape),
        }
        every = []
        for name, (to_row, to_column) in [
            *matched.items(),
            *(("", divmod(k, GRID)) for k in range(GRID * GRID)),
        ]:
            moved = own[point] + cell * np.array([to_column - column, to_row - row])
            hits = [np.hypot(*(moved - truth[point])) <= alpha * SIZE for alpha in ALPHAS]
            if name:
                assert right[name][:, point].tolist() == hits, name
            else:
                every.append(hits)
        np.testing.assert_allclose(right["chance"][:, point], np.mean(every, 0), rtol=1e-5)
    assert all((x[:, ~seen] == 0).all() for x in right.values())
    assert 0.2 < right["same_position"][1].mean() < 0.95


def test_classes_are_counted_by_hand():
    label, other = RNG.integers(0, 4, (2, SIZE, SIZE))
    other[other == 3] = 0  # a class that the exemplar does not have
    points, truth = RNG.uniform(0, SIZE - 1, (2, 60, 2))
    found = by_class.shares(points, truth, label, other)
    for number, (point, wanted) in enumerate(zip(points, truth, strict=True)):
        x, y = np.round(point).astype(int)
        pixels = [
            (column, row)
            for row in range(SIZE)
            for column in range(SIZE)
            if other[row, column] == label[y, x] or label[y, x] == 3
        ]
        near = min(pixels, key=lambda pixel: np.hypot(*(point - pixel)))
        for alpha, bound in enumerate(ALPHAS):
            hits = [np.hypot(*(wanted - pixel)) <= bound * SIZE for pixel in pixels]
            assert found[by_class.RANDOM][alpha, number] == pytest.approx(np.mean(hits))
            assert found[by_class.NEAREST][alpha, number] == hits[pixels.index(near)]


def test_label_maps_that_are_moved_are_matched_by_neighbourhoods():
    cell, shift = SIZE // GRID, (1, 2)
    label = RNG.integers(0, 4, (SIZE, SIZE))
    label[:cell, :cell] = 255  # unknown: of no class
    moved = np.roll(label, [cell * steps for steps in shift], (0, 1))
    place = by_class.match_maps(label, moved, 4, GRID, 3)
    wanted = np.moveaxis(np.indices((GRID, GRID)), 0, -1) + shift
    # Cells whose neighbourhoods lie within both maps.
    inside = slice(1, GRID - 1 - shift[0]), slice(1, GRID - 1 - shift[1])
    np.testing.assert_array_equal(place[inside], wanted[inside])


def test_every_photograph_is_as_often_an_input_as_an_exemplar():
    circle = landmarks.circle(7, 3, seed=1)
    pairs = [(given, exemplar) for exemplar, inputs in circle for given in inputs]
    assert len(set(pairs)) == 21
    for place in (0, 1):
        assert np.bincount([pair[place] for pair in pairs]).tolist() == [3] * 7
    assert all(given != exemplar for given, exemplar in pairs)
    assert circle == landmarks.circle(7, 3, seed=1) != landmarks.circle(7, 3, seed=2)


def counted(right, pairs):
    """Counts of faces whose parts are all as `right` says, pair by pair."""
    hits = np.repeat(np.repeat(right[:, None, None], 2, 1), 68, 2).astype(float)
    return landmarks.Counts(pairs, np.ones((len(right), 68), bool), {"": hits})


def test_shares_of_parts_and_jaw_and_their_error():
    pairs = np.array([(number, (number + 1) % 400) for number in range(400)])
    right = RNG.random(400) < 0.3
    counts = counted(right, pairs)
    counts.right[""][..., :17] = 1
    found = landmarks.shares(counts)[""]
    assert found["jaw@0.05"] == (1, 0)
    share, error = found["parts@0.1"]
    assert share == pytest.approx(right.mean())
    # With one exemplar each, pairs hardly depend on each other. Drawing photographs instead of
    # pairs counts each photograph of a pair: no less than the error of independent pairs, and at
    # most about twice that.
    independent = np.sqrt(share * (1 - share) / 400)
    assert independent < error < 2 * independent
    # Ten times the pairs of the same photographs are not ten times the information.
    more = np.concatenate([pairs] * 10)
    again = landmarks.shares(counted(np.concatenate([right] * 10), more))[""]["parts@0.1"]
    assert again == pytest.approx((share, error), rel=1e-6)


def test_points_of_other_things_are_one_group():
    counts = landmarks.Counts(
        np.array([(0, 1), (1, 0)]), np.ones((2, 4), bool), {"": np.ones((2, 2, 4))}
    )
    assert landmarks.shares(counts)[""].keys() == {"all@0.05", "all@0.1"}
