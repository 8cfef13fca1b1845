import jax.numpy as jnp
import numpy as np
import pytest

from cocosnet_jax import settings, types
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


def totals(counts, method=""):
    return float(counts.right[method].sum()), float(counts.wanted.sum())


def some():
    rng = np.random.default_rng(0)
    mask = rng.random((3, 4, 4, 5), np.float32)
    label = rng.integers(0, 5, (3, 16, 16))
    exemplar_label = rng.integers(0, 3, (3, 16, 16)) * 2
    return mask, label, exemplar_label, np.array([True, True, False])


def test_counts_are_the_definitions():
    mask, label, exemplar_label, valid = some()
    found = warp_accuracy.count(mask, label, exemplar_label, valid)
    right, expected, positions = by_hand(mask, label, exemplar_label, valid)
    assert 0 < positions < 2 * 16  # classes 1 and 3 are not in the exemplar
    assert totals(found) == (right, positions)
    assert totals(found, "chance") == (pytest.approx(expected, rel=1e-6), positions)
    assert float(found.given["chance"].sum()) == pytest.approx(positions, rel=1e-6)


def test_a_match_of_others_carries_the_class_of_its_position():
    mask, label, exemplar_label, valid = some()
    place = np.random.default_rng(1).integers(0, 16, (3, 4, 4))
    match = types.Match(place, place, *np.zeros((3, 3)))
    found = warp_accuracy.count(mask, label, exemplar_label, valid, {"": match, "other": match})
    there = exemplar_label[:, ::4, ::4].reshape(3, 16)
    carried = np.eye(5)[np.take_along_axis(there, place.reshape(3, 16), 1)].reshape(3, 4, 4, 5)
    assert totals(found, "other")[0] == by_hand(carried, label, exemplar_label, valid)[0]
    assert totals(found)[0] == by_hand(mask, label, exemplar_label, valid)[0]


def test_a_perfect_warp_is_right_everywhere():
    label = np.arange(1, 5).reshape(1, 2, 2).repeat(4, 1).repeat(4, 2)
    mask = np.eye(5)[label[:, ::4, ::4]]
    found = warp_accuracy.count(mask, label, label[:, ::-1], np.array([True]))
    assert totals(found) == (4, 4)
    assert totals(found, "chance")[0] == pytest.approx(1.0)  # four classes, a quarter each
    assert warp_accuracy.WarpAccuracy().result(found)["warped_mask_miou"] == 1


def test_sums_of_batches_become_the_shares():
    metric = warp_accuracy.WarpAccuracy()
    wanted, given, right = jnp.array([[0, 2, 6, 0], [0, 5, 2, 1], [0, 2, 1, 0]], np.float32)
    counts = warp_accuracy.Counts(
        wanted, {"": given, "chance": given}, {"": right, "chance": right}
    )
    found = metric.result(counts)
    # Class 3 is given, but no position has it.
    miou = (2 / (2 + 5 - 2) + 1 / (6 + 2 - 1)) / 2
    assert found == {
        "positions": 8,
        "warp_accuracy": 3 / 8,
        "warp_accuracy_by_chance": 3 / 8,
        "warped_mask_miou": pytest.approx(miou, rel=1e-6),
        "warped_mask_miou_by_chance": pytest.approx(miou, rel=1e-6),
    }
    # No class of an input occurs in its exemplar.
    nothing = jnp.zeros(4)
    assert metric.result(warp_accuracy.Counts(nothing, {"": nothing}, {"": nothing})) == {
        "positions": 0
    }


def test_it_applies_to_warped_label_maps():
    metric = warp_accuracy.WarpAccuracy()
    assert metric.applies(settings.Settings())
    edges = settings.DataSettings(condition="channels", channels=15, exemplar_list="random")
    assert not metric.applies(settings.Settings(data=edges))
    plain = settings.ModelSettings(generator_condition="input")
    zero = {name: 0.0 for name in ("alignment", "contextual")}
    assert not metric.applies(settings.Settings(model=plain, loss=settings.LossSettings(**zero)))
