"""The pictures' numbers, of the small model that comes with the program."""

import dataclasses
import importlib.resources

import jax
import numpy as np
import pytest

from cocosnet_jax import alarms, checkpoint, data, hooks
from cocosnet_jax.data import pipeline
from cocosnet_jax.state import TrainState


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """(change of the weights, of the batch) -> numbers."""
    file = importlib.resources.files("cocosnet_jax.pretrained") / "drawn.safetensors"
    restored = checkpoint.restore_for_inference(str(file))
    settings = dataclasses.replace(
        restored.settings,
        data=dataclasses.replace(
            restored.settings.data,
            data_dir=str(tmp_path_factory.mktemp("prepared")),
            exemplar_list="random",
            validation_exemplar_list="random",
        ),
    )
    dataset = data.prepare(settings.data)
    batch, valid, _ = next(pipeline.evaluation_batches(dataset, batch_size=2))
    step = jax.jit(hooks.predict_and_measure(settings))

    def numbers(change=lambda state: state, **fields):
        _, found = step(change(restored.state), batch._replace(**fields), valid)
        return {name: float(value) for name, value in found.items()}

    return numbers, batch


def sounding(numbers):
    return [
        alarm.needs[0]
        for alarm in alarms.ALARMS
        if set(alarm.needs) <= numbers.keys() and alarm.sounds(numbers)
    ]


def test_a_trained_network_is_healthy(measured):
    numbers, _ = measured
    found = numbers()
    assert sounding(found) == []
    assert found["like_truth"] > found["like_exemplar"] + 0.2
    assert 0.05 < found["matched_places"] < 0.9
    assert found["matched_in_place"] < 0.3
    assert found["match_entropy"] < 0.9


def test_a_network_whose_features_are_constant_has_collapsed(measured):
    numbers, _ = measured

    def constant(state: TrainState) -> TrainState:
        ema = jax.tree.map(lambda x: x, state.ema)
        ema["correspondence"] = jax.tree.map(np.zeros_like, ema["correspondence"])
        return dataclasses.replace(state, ema=ema)

    assert set(sounding(numbers(constant))) >= {"matched_places", "match_entropy"}
