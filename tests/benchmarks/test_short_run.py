import dataclasses

import jax
import numpy as np
import pytest
from etils import epath

from benchmarks import short_run
from cocosnet_jax import mesh, preparation, train
from cocosnet_jax import settings as settings_lib
from cocosnet_jax.checkpoint import Checkpoints
from cocosnet_jax.configs import toy
from cocosnet_jax.errors import UserError
from cocosnet_jax.pretrained import vgg
from tests.conftest import PLAIN_LOSS, PLAIN_MODEL

STEPS = 4


def recipe(folder):
    config = toy.get_config("no_mask")
    config.data.data_dir = str(folder / "data")
    config.data.exemplar_probability = 0.0
    config.model.update(PLAIN_MODEL)
    config.loss.update(PLAIN_LOSS)
    config.vgg.width = 2
    config.optimiser.constant_epochs, config.optimiser.decay_epochs = 1, 0
    config.train.update(seed=3, batch_size=2, checkpoint_every=2, stop_after=STEPS)
    config.loss.group_size = 2
    return settings_lib.from_mapping(config.to_dict())


def state_of(folder, settings):
    checkpoints = Checkpoints(epath.Path(folder), settings)
    step, state = checkpoints.restore(mesh.replicated(mesh.make()))
    checkpoints.close()
    assert step == STEPS
    return jax.device_get(state)


@pytest.mark.long
def test_a_short_run_is_the_programs_own_training(tmp_path, monkeypatch):
    settings = recipe(tmp_path)
    assert train.train(settings, epath.Path(tmp_path / "program")) == 0
    dataset = preparation.prepare_data(settings.data)
    epoch = len(dataset.training) // settings.train.batch_size
    weights = vgg.load("random", settings.vgg.width)
    # In two halves.
    folder = epath.Path(tmp_path / "short")
    monkeypatch.setattr(short_run, "AVERAGED", 2)
    done: list[int] = []
    for stop in (2, STEPS):
        part = dataclasses.replace(settings.train, stop_after=stop)
        half = dataclasses.replace(settings, train=part)
        trained = short_run.train(half, dataset, weights, folder, epoch, done.append)
        assert len(trained.losses) == stop // 2
    assert done == [0, 1, 1, 2, 1, 1]
    # The two compiled programs round differently, and Adam divides small gradients by their own
    # size. In these steps it moves any weight by up to 4e-3.
    one, other = (state_of(path, settings) for path in (tmp_path / "program", folder))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=4e-4)


def test_a_loss_that_is_no_number_is_named():
    with pytest.raises(UserError, match="the loss mask is nan up to step 20"):
        short_run._mean([{"mask": np.array(np.nan)}], 20)
