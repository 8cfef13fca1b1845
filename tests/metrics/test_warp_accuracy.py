import numpy as np
import pytest

from cocosnet_jax import settings
from cocosnet_jax.metrics import warp_accuracy


def by_hand(mask, label, exemplar_label, valid):
    """The definition, position by position."""
    b, h, w, _ = mask.shape
    s = label.shape[1] // h
    right, expected, positions = 0, 0.0, 0
    for sample in range(b):
        there = [int(exemplar_label[sample, i * s, j * s]) for i in range(h) for j in range(w)]
        for i in range(h):
            for j in range(w):
                wanted = int(label[sample, i * s, j * s])
                if not valid[sample] or wanted == 0 or wanted not in there:
                    continue
                positions += 1
                right += int(np.argmax(mask[sample, i, j]) == wanted)
                expected += there.count(wanted) / len(there)
    return right, expected, positions


def test_counts_are_the_definitions():
    rng = np.random.default_rng(0)
    mask = rng.random((3, 4, 4, 5), np.float32)
    label = rng.integers(0, 5, (3, 16, 16))
    exemplar_label = rng.integers(0, 3, (3, 16, 16)) * 2
    valid = np.array([True, True, False])
    found = warp_accuracy.count(mask, label, exemplar_label, valid)
    right, expected, positions = by_hand(mask, label, exemplar_label, valid)
    assert 0 < positions < 2 * 16  # classes 1 and 3 are not in the exemplar
    assert (float(found.right), float(found.positions)) == (right, positions)
    assert float(found.expected) == pytest.approx(expected, rel=1e-6)


def test_a_perfect_warp_is_right_everywhere():
    label = np.arange(1, 5).reshape(1, 2, 2).repeat(4, 1).repeat(4, 2)
    mask = np.eye(5)[label[:, ::4, ::4]]
    found = warp_accuracy.count(mask, label, label[:, ::-1], np.array([True]))
    assert (float(found.right), float(found.positions)) == (4, 4)
    assert float(found.expected) == pytest.approx(1.0)  # four classes, a quarter each


def test_sums_of_batches_become_the_shares():
    metric = warp_accuracy.WarpAccuracy()
    assert metric.result(warp_accuracy.Counts(*map(np.float64, (3, 1, 4)))) == {
        "positions": 4,
        "warp_accuracy": 0.75,
        "warp_accuracy_by_chance": 0.25,
    }
    # No class of an input occurs in its exemplar.
    assert metric.result(warp_accuracy.Counts(*np.zeros(3))) == {"positions": 0}


def test_it_applies_to_warped_label_maps():
    metric = warp_accuracy.WarpAccuracy()
    assert metric.applies(settings.Settings())
    edges = settings.DataSettings(condition="channels", channels=15, exemplar_list="random")
    assert not metric.applies(settings.Settings(data=edges))
    plain = settings.ModelSettings(generator_condition="input")
    zero = {name: 0.0 for name in ("alignment", "contextual")}
    assert not metric.applies(settings.Settings(model=plain, loss=settings.LossSettings(**zero)))
