"""Matches, their baselines and what is measured of them, against NumPy in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cocosnet_jax import matching, settings, types, vgg
from cocosnet_jax.metrics import baselines, correspondence
from cocosnet_jax.nn.streaming import Side
from cocosnet_jax.pretrained import vgg as vgg_weights

RNG = np.random.default_rng(0)
# Of the rows, and of the columns.
H, W, HM, WM = 3, 5, 4, 2


@functools.partial(jax.jit, static_argnums=2)
def match(rows, columns, temperature):
    sides = (Side.of_grid(x) for x in (rows, columns))
    return matching.match_both_ways(*sides, temperature)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_a_match_by_hand():
    rows, columns = RNG.normal(size=(2, H, W, 6)), RNG.normal(size=(2, HM, WM, 6))
    with jax.enable_x64(True):
        found = match(rows, columns, 0.5)
    scores = np.einsum("bnk,bmk->bnm", rows.reshape(2, -1, 6), columns.reshape(2, -1, 6))
    weights = softmax(scores / 0.5)
    grid = np.stack(np.divmod(np.arange(HM * WM), WM), -1)
    np.testing.assert_array_equal(found.place.reshape(2, -1), scores.argmax(2))
    np.testing.assert_array_equal(found.back.reshape(2, -1), scores.argmax(1))
    np.testing.assert_allclose(found.score.reshape(2, -1), scores.max(2), atol=1e-12)
    np.testing.assert_allclose(found.mean_place.reshape(2, -1, 2), weights @ grid, atol=1e-12)
    entropy = -(weights * np.log(weights)).sum(-1)
    np.testing.assert_allclose(found.entropy.reshape(2, -1), entropy, atol=1e-12)
    assert (found.place.shape, found.back.shape) == ((2, H, W), (2, HM, WM))


def measured(match, valid=(True,)):
    """The metric's numbers of one match."""
    batch = types.Batch(*[np.zeros(len(valid))] * 5)
    outputs = types.Outputs(jnp.zeros((len(valid), 8, 8, 3)), None, None, {"": match})
    metric = correspondence.Correspondence()
    return metric.result(jax.jit(metric.count)(batch, outputs, np.array(valid)))


def of_features(rows, columns, temperature=0.01):
    return match(jnp.asarray(rows), jnp.asarray(columns), temperature)


def unit(*shape):
    x = RNG.normal(size=shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_a_picture_with_itself():
    features = unit(1, 4, 4, 64)
    found = measured(of_features(features, features))
    assert found["cycle_error"] == 0
    assert found["used_share"] == 1
    assert found["match_entropy"] == pytest.approx(0, abs=1e-6)
    assert found["match_entropy_by_chance"] == pytest.approx(np.log(16))


def test_a_shifted_picture_is_found_back():
    features = unit(1, 4, 4, 64)
    match = of_features(features, np.roll(features, (1, 2), (1, 2)))
    found = measured(match)
    assert (found["cycle_error"], found["used_share"]) == (0, 1)
    rows, columns = np.divmod(np.asarray(match.place[0]), 4)
    own_rows, own_columns = np.divmod(np.arange(16).reshape(4, 4), 4)
    np.testing.assert_array_equal((rows - own_rows) % 4, 1)
    np.testing.assert_array_equal((columns - own_columns) % 4, 2)


def test_a_collapse_and_a_softmax_without_preference():
    found = measured(of_features(np.ones((1, 4, 4, 3)), np.ones((1, 4, 4, 3))))
    assert found["match_entropy"] == pytest.approx(np.log(16), rel=1e-6)
    assert found["used_share"] == 1 / 16
    # All come back to the first position.
    assert found["cycle_error"] == pytest.approx(
        np.mean([np.hypot(i, j) / 4 for i in range(4) for j in range(4)]), rel=1e-6
    )


def test_the_metric_by_hand_over_valid_samples():
    place, back = RNG.integers(0, HM * WM, (3, H, W)), RNG.integers(0, H * W, (3, HM, WM))
    entropy = RNG.uniform(size=(3, H, W)).astype(np.float32)
    match = types.Match(place, back, entropy, np.zeros((3, H, W, 2)), entropy)
    found = measured(match, (True, False, True))
    cycle, used = [], []
    for sample in (0, 2):
        there = place[sample].ravel()
        used.append(len(set(there)) / (HM * WM))
        for n, m in enumerate(there):
            again = back[sample].ravel()[m]
            cycle.append(np.hypot(n // W - again // W, n % W - again % W) / W)
    assert found["cycle_error"] == pytest.approx(np.mean(cycle), rel=1e-6)
    assert found["used_share"] == pytest.approx(np.mean(used), rel=1e-6)
    assert found["match_entropy"] == pytest.approx(entropy[[0, 2]].mean(), rel=1e-6)
    assert found["match_entropy_by_chance"] == pytest.approx(np.log(HM * WM), rel=1e-6)


def test_chance_is_what_random_matches_have():
    """The closed forms against matches that are drawn."""
    many = 4000
    places = RNG.integers(0, H * W, (2, many, H, W))
    match = types.Match(*places, *np.zeros((3, many, H, W, 1)))
    expected = measured(types.Match(*(x[:1] for x in match[:2]), *np.zeros((3, 1, H, W))))
    cycles, used = correspondence.cycle_error(match), correspondence.used_share(match)
    for name, drawn in (("cycle_error", cycles), ("used_share", used)):
        error = np.std(drawn) / np.sqrt(many)
        assert abs(np.mean(drawn) - expected[f"{name}_by_chance"]) < 4 * error
    square = correspondence.random_distance(200, 200)
    assert square == pytest.approx(0.5214054, rel=1e-3)  # of a unit square, by integration


def test_every_position_at_its_own_place():
    match = baselines.same_position(2, H, W)
    found = measured(match, (True, True))
    assert (found["cycle_error"], found["used_share"]) == (0, 1)
    np.testing.assert_array_equal(match.mean_place[1, 2, 3], (2, 3))


def pictures():
    image, exemplar = RNG.integers(0, 256, (2, 1, 64, 64, 3), np.uint8)
    label = np.zeros((1, 64, 64, 1), np.uint8)
    return types.Batch(image, exemplar, label, label, np.zeros(1, np.float32))


def test_the_nearest_colour():
    batch = pictures()
    found = jax.jit(baselines.matches, static_argnums=(1, 2))(batch, 16, 16)
    assert set(found) == {"same_position", "colour"}
    a, b = (
        x.astype(np.float64).reshape(16, 4, 16, 4, 3).mean((1, 3)).reshape(-1, 3)
        for x in (batch.image, batch.exemplar)
    )
    distance = np.square(a[:, None] - b).sum(-1)
    np.testing.assert_array_equal(found["colour"].place.ravel(), distance.argmin(1))
    np.testing.assert_array_equal(found["colour"].back.ravel(), distance.argmin(0))
    score = -np.square(2 / 255) * distance.min(1)
    np.testing.assert_allclose(found["colour"].score.ravel(), score, atol=1e-5)


def test_the_nearest_vgg_feature_says_which_network():
    batch, weights = pictures(), vgg_weights.load("random", 2)
    match = baselines.matches(batch, 8, 8, weights)["VGG-19_relu4_2"]
    rows, columns = (
        np.asarray(vgg.features(weights, x / np.float32(127.5) - 1, ("relu4_2",))["relu4_2"])
        for x in (batch.image, batch.exemplar)
    )
    assert rows.shape == (1, 8, 8, 16)
    rows, columns = (
        x.reshape(-1, 16) / np.linalg.norm(x.reshape(-1, 16), axis=-1, keepdims=True)
        for x in (rows.astype(np.float64), columns.astype(np.float64))
    )
    np.testing.assert_array_equal(match.place.ravel(), (rows @ columns.T).argmax(1))


def test_it_applies_where_there_is_an_exemplar():
    metric = correspondence.Correspondence()
    assert metric.applies(settings.Settings())
    zero = settings.LossSettings(alignment=0.0, contextual=0.0)
    plain = settings.ModelSettings(generator_condition="input")
    assert not metric.applies(settings.Settings(model=plain, loss=zero))
