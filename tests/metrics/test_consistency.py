"""Semantic consistency and style relevance against figures of the papers' code."""

import json

import jax
import numpy as np
import pytest

from cocosnet_jax import vgg
from cocosnet_jax.metrics import consistency
from cocosnet_jax.pretrained import vgg as vgg_weights
from tests.metrics.figures import FIGURES, SALT, smooth
from tests.parity import HERE, rule

PAIRS = ("0_1", "2_3", "0_0")
SPEC = json.loads((HERE / "spec_ade20k.json").read_text())["VGG"]


@pytest.fixture(scope="module")
def measured():
    """Consistency, relevance and whether a class is common, of `PAIRS`, in float64."""
    weights = vgg_weights.from_torch(rule.state_dict(SPEC, SALT + "VGG/"))
    image = smooth("sc/pictures", 4, 256)
    label = np.digitize(smooth("sc/labels", 4, 256, channels=1, waves=6)[..., 0], (-0.4, 0, 0.4))
    label[1][label[1] == 2] = 5
    rows = [[*map(int, pair.split("_"))] for pair in PAIRS]
    i, j = map(np.array, zip(*rows, strict=True))
    with jax.enable_x64(True):

        @jax.jit
        def measure(weights, image, label):
            features = consistency.features(weights, image, consistency.STYLE_LAYERS)
            ours, theirs = (jax.tree.map(lambda x, k=k: x[k], features) for k in (i, j))
            return (
                consistency.semantic_consistency(ours, theirs, label[i]),
                consistency.style_relevance(ours, theirs, label[i], label[j]),
            )

        found = jax.tree.map(np.asarray, measure(weights, image, label))
    common = [bool(set(label[one].flat) & set(label[other].flat) - {0}) for one, other in rows]
    return *found, common


def by_figure(by_layer, place):
    """A pair's scores, under the figures' names of the layers."""
    return {
        layer if layer == "rgb" else f"r{layer[4]}{layer[6]}": float(values[place])
        for layer, values in by_layer.items()
    }


@pytest.mark.parity
@pytest.mark.xdist_group("consistency")
@pytest.mark.parametrize("pair", PAIRS)
def test_scores_are_the_figures(measured, pair):
    consistent, relevance, common = measured
    place = PAIRS.index(pair)
    wanted = FIGURES["semantic_consistency"][pair]
    assert by_figure(consistent, place) == pytest.approx(wanted, rel=1e-8, abs=0)
    wanted = FIGURES["style_relevance"][pair]
    assert by_figure(relevance.by_layer, place) == pytest.approx(wanted, rel=1e-8, abs=0)
    assert relevance.common[place] == common[place]


def test_an_exemplar_as_its_own_result_is_relevant_and_a_pair_without_common_class_is_not():
    rng = np.random.default_rng(0)
    features = {
        layer: rng.random((2, 32 if layer == "rgb" else 8, 32 if layer == "rgb" else 8, 3))
        for layer in consistency.STYLE_LAYERS
    }
    label = np.arange(2).repeat(512).reshape(1, 32, 32).repeat(2, 0)
    other = np.stack([label[0], 2 * label[0]])
    with jax.enable_x64(True):
        found = jax.jit(consistency.style_relevance)(features, features, label, other)
    assert found.common.tolist() == [True, False]
    for values in found.by_layer.values():
        assert values.tolist() == [pytest.approx(1), 0]


def test_class_means_are_those_of_the_enlarged_features():
    """By picking the nearest, also where sizes do not divide: PyTorch's floor(i * in / out)."""
    rng = np.random.default_rng(0)
    features, label = rng.normal(size=(2, 3, 4, 5)), rng.integers(0, 3, (2, 10, 13))
    with jax.enable_x64(True):
        found = np.asarray(consistency.class_means(features, label))
    large = features[:, np.arange(10) * 3 // 10][:, :, np.arange(13) * 4 // 13]
    for b in range(2):
        for k in range(3):
            np.testing.assert_allclose(found[b, k], large[b][label[b] == k].mean(0), atol=1e-12)
    assert not found[:, 3:].any()


def test_layers_are_those_of_the_tables():
    assert set(consistency.CONSISTENCY_LAYERS) < set(vgg.LOSS_LAYERS)
    assert {consistency.COLOUR, consistency.TEXTURE} < set(consistency.STYLE_LAYERS)
