"""The sliced Wasserstein distance against figures of the papers' code."""

import functools

import jax
import numpy as np
import pytest

from cocosnet_jax.metrics import swd
from tests.metrics.figures import FIGURES, SALT, pictures
from tests.parity import rule

COUNT, SIDE = 24, 128


@pytest.fixture(scope="module")
def sets():
    a, b = (pictures(f"swd/{name}", COUNT, SIDE) for name in "ab")
    noise = np.round(20 * rule.normal("swd/noise", a.transpose(0, 3, 1, 2).shape, SALT))
    noisy = np.clip(a + noise.transpose(0, 2, 3, 1), 0, 255).astype(np.uint8)
    return {"a": a, "b": b, "noisy": noisy}


# The estimate is random, and so are the figures: a mean over seeds is held against a mean.
SEEDS = range(4)


@pytest.fixture(scope="module")
def patches(sets):
    """(picture set, its role, seed) -> its patches."""
    make = jax.jit(swd.descriptors)

    @functools.cache
    def of(name, role, seed):
        return np.asarray(make(sets[name], swd.positions(SIDE, range(COUNT), seed, role)))

    return of


@pytest.mark.parametrize("other", ["b", pytest.param("noisy", marks=pytest.mark.parity), "a"])
def test_distances_are_the_figures(patches, other):
    wanted = FIGURES["swd"][f"a_{other}"]
    assert [*swd.levels(SIDE), "average"] == wanted["levels"]
    found = np.array(
        [
            [
                swd.distance(
                    patches("a", "real", seed)[:, level],
                    patches(other, "generated", seed)[:, level],
                    seed,
                )
                for level in range(len(swd.levels(SIDE)))
            ]
            for seed in SEEDS
        ]
    ).mean(0)
    off = np.abs([*found, found.mean()] - np.array(wanted["mean"])) / wanted["std"]
    assert off.max() < 3, off


def test_progress_counts_all_directions(monkeypatch):
    monkeypatch.setattr(swd, "_AT_ONCE", 200 * 2 * swd.PATCHES)
    done: list[int] = []
    patches = np.random.default_rng(0).uniform(size=(2, 2, swd.PATCHES, 147))
    swd.distance(patches[0], patches[1], on_done=done.append)
    assert done == [200, 200, 112]


def test_the_pyramid_adds_up_to_the_picture(sets):
    with jax.enable_x64(True):
        image = sets["a"][:1].astype(np.float64)
        pyramid = swd.laplacian_pyramid(image)
        assert [level.shape[1] for level in pyramid] == [128, 64, 32, 16]
        whole = pyramid[-1]
        for level in pyramid[-2::-1]:
            whole = level + swd._blown_up(whole)
    np.testing.assert_allclose(whole, image, atol=1e-10)


def test_a_blur_mirrors_at_borders():
    line = np.zeros((1, 16, 16, 1))
    line[0, 1] = 16
    blurred = np.asarray(swd._blur(line))[0, :, 8, 0]
    # Row 1 is seen by row 0 on both of its sides, and by row 1 itself and from beyond the border.
    np.testing.assert_allclose(blurred[:4], [8, 7, 4, 1])


def test_patches_lie_in_the_picture_and_depend_on_its_place_alone():
    found = swd.positions(64, [5, 6], seed=1, of="real")
    np.testing.assert_array_equal(found[1], swd.positions(64, [6], seed=1, of="real")[0])
    assert not np.array_equal(found, swd.positions(64, [5, 6], seed=1, of="generated"))
    for level, side in enumerate(swd.levels(64)):
        assert found[:, level].min() == 0
        assert found[:, level].max() <= side - swd.SIDE


def test_sets_of_other_sizes_or_counts_are_refused():
    with pytest.raises(ValueError, match="not 24 and 23"):
        swd.distance(np.zeros((24, 128, 147)), np.zeros((23, 128, 147)))
    with pytest.raises(ValueError, match="power of two from 16 on, not 100"):
        swd.levels(100)
