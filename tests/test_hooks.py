"""The pictures' numbers, of the small model that comes with the program."""

import dataclasses
import importlib.resources

import jax
import numpy as np
import pytest

from cocosnet_jax import alarms, checkpoint, hooks
from cocosnet_jax.data.drawn.scene import draw_scene
from cocosnet_jax.data.drawn.splits import VALIDATION_SEED
from cocosnet_jax.state import TrainState
from cocosnet_jax.types import Batch


@pytest.fixture(scope="module")
def numbers():
    """(change of the weights) -> numbers of four pairs of drawn scenes."""
    file = importlib.resources.files("cocosnet_jax.pretrained") / "drawn.safetensors"
    restored = checkpoint.restore_for_inference(str(file))
    size = restored.settings.data.image_size
    # Layouts and styles that were not trained on; an exemplar has another layout and style.
    content, exemplar, truth = (
        [draw_scene(VALIDATION_SEED + a + i, VALIDATION_SEED + b + i, size) for i in range(4)]
        for a, b in ((0, 0), (50, 100), (0, 100))
    )
    label, exemplar_label = (
        np.stack([scene.label for scene in scenes])[..., None] for scenes in (content, exemplar)
    )
    images, exemplars = (
        np.stack([scene.image for scene in scenes]) for scenes in (truth, exemplar)
    )
    batch = Batch(images, exemplars, label, exemplar_label, np.zeros(4, np.float32))
    step = jax.jit(hooks.predict_and_measure(restored.settings))

    def measure(change=lambda state: state):
        _, found = step(change(restored.state), batch, np.ones(4, bool))
        return {name: float(value) for name, value in found.items()}

    return measure


def sounding(numbers):
    return [
        alarm.needs[0]
        for alarm in alarms.ALARMS
        if set(alarm.needs) <= numbers.keys() and alarm.sounds(numbers)
    ]


def test_a_trained_network_is_healthy(numbers):
    found = numbers()
    assert sounding(found) == []
    assert found["like_truth"] > found["like_exemplar"] + 0.2
    assert 0.05 < found["matched_places"] < 0.9
    assert found["matched_in_place"] < 0.3
    assert found["match_entropy"] < 0.9


def test_a_network_whose_features_are_constant_has_collapsed(numbers):
    def constant(state: TrainState) -> TrainState:
        generator = dict(state.params["generator"])
        # The projections before the comparison, without spectral norm.
        projections = {
            name: jax.tree.map(np.zeros_like, generator["correspondence"][name])
            for name in ("theta", "phi")
        }
        generator["correspondence"] = {**generator["correspondence"], **projections}
        return dataclasses.replace(state, params={"generator": generator})

    assert set(sounding(numbers(constant))) >= {"matched_places", "match_entropy"}
