"""FID and KID against pytorch-fid's figures and against their definitions."""

import numpy as np
import pytest

from cocosnet_jax.metrics import fid
from tests.metrics.figures import FIGURES, SALT
from tests.parity import rule


@pytest.fixture(scope="module")
def sets():
    a, b, mix = (
        rule.normal(f"features/{name}", shape, SALT)
        for name, shape in (("a", (300, 64)), ("b", (300, 64)), ("mix", (64, 64)))
    )
    return a, 0.3 + b @ (np.eye(64) + 0.1 * mix)


def test_distances_are_the_figures(sets):
    wanted = FIGURES["frechet"]
    a, b = map(fid.Moments.of, sets)
    assert fid.frechet_distance(a, b) == pytest.approx(wanted["a_b"], rel=1e-8)
    assert fid.frechet_distance(a, a) == pytest.approx(0, abs=1e-8)
    few = [fid.Moments.of(x[:20]) for x in sets]
    # Most eigenvalues are 0 up to rounding, which depends on the CPU; their roots are about 1e-7.
    assert fid.frechet_distance(*few) == pytest.approx(wanted["singular_20_of_64"], rel=1e-7)


def test_the_distance_of_few_is_exact(sets):
    a, b = sets
    wanted = fid.frechet_distance(*map(fid.Moments.of, sets))
    assert fid.frechet_distance_of_few(a, b) == pytest.approx(wanted, rel=1e-10)
    # Where covariances are singular, the other way has rounding of about 3e-8.
    wanted = fid.frechet_distance(fid.Moments.of(a[:20]), fid.Moments.of(b[:18]))
    assert fid.frechet_distance_of_few(a[:20], b[:18]) == pytest.approx(wanted, rel=1e-7)
    assert fid.frechet_distance_of_few(a[:20], a[:20]) == pytest.approx(0, abs=1e-9)


def test_moments_of_parts_add_up_to_those_of_the_whole(sets):
    whole = fid.Moments.of(sets[1])
    parts = fid.Moments.of(sets[1][:7]) + fid.Moments.of(sets[1][7:250])
    parts += fid.Moments.of(sets[1][250:])
    assert parts.count == 300
    np.testing.assert_allclose(parts.covariance, np.cov(sets[1], rowvar=False), atol=1e-12)
    np.testing.assert_allclose(parts.mean, whole.mean, atol=1e-12)
    with pytest.raises(ValueError, match="two vectors or more"):
        fid.Moments.of(sets[0][:1]).covariance


def test_a_large_set_is_read_block_by_block(sets, monkeypatch):
    wanted = fid.Moments.of(sets[0]), fid.kid(*sets)
    monkeypatch.setattr(fid, "_BLOCK", 64)
    np.testing.assert_allclose(fid.Moments.of(sets[0]).products, wanted[0].products, atol=1e-10)
    assert fid.kid(*sets) == pytest.approx(wanted[1], rel=1e-9)


def test_kid_is_its_definition(sets):
    a, b = sets[0][:5], sets[1][:4]

    def mean_kernel(pairs):
        return np.mean([(x @ y / 64 + 1) ** 3 for x, y in pairs])

    def within(x):
        return mean_kernel([(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j])

    across = mean_kernel([(x, y) for x in a for y in b])
    assert fid.kid(a, b) == pytest.approx(within(a) + within(b) - 2 * across, rel=1e-10)
    with pytest.raises(ValueError, match="1 and 4"):
        fid.kid(a[:1], b)


def test_kid_of_few_pictures_is_not_biased():
    """Two halves of one set: its mean over draws is 0, where FID's is far from it."""
    rng = np.random.default_rng(0)
    draws = [fid.kid(rng.normal(size=(8, 16)), rng.normal(size=(8, 16))) for _ in range(400)]
    assert abs(np.mean(draws)) < 4 * np.std(draws) / np.sqrt(len(draws))


def test_few_pictures_are_warned_of():
    assert "64 pictures" in fid.few_pictures(64, 64)
    assert fid.few_pictures(65, 64) == ""
