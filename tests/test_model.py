"""The whole model: the map that its SPADE blocks read."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cocosnet_jax import model, state
from cocosnet_jax.encode import encode
from cocosnet_jax.nn.condition import Condition
from cocosnet_jax.nn.resize import nearest
from cocosnet_jax.settings import DataSettings, ModelSettings, Settings
from cocosnet_jax.types import Batch
from tests.untrained import untrained

SIZE = 64
DATA = DataSettings(
    dataset="ade20k", channels=6, exemplar_list="random", image_size=SIZE, load_size=SIZE
)


@pytest.mark.parametrize("generator_condition", ["warped_and_input", "warped"])
def test_blocks_may_resize_the_warped_exemplar_from_its_own_size(generator_condition, monkeypatch):
    """Result and gradient are those of resizing it to the picture's size first."""
    networks = ModelSettings(base_filters=2, generator_condition=generator_condition)
    settings = Settings(data=DATA, model=networks)
    rng = np.random.default_rng(0)
    label, exemplar_label = rng.integers(0, 6, (2, 1, SIZE, SIZE, 1), np.uint8)
    exemplar = rng.integers(0, 256, (1, SIZE, SIZE, 3), np.uint8)
    inputs = encode(Batch(exemplar, exemplar, label, exemplar_label, np.zeros(1)), DATA)
    variables = state.inference_variables(untrained(settings))
    seen = []
    resize = Condition.resize

    def by_the_picture(condition, height, width, method):
        seen.append((condition.dense.shape[-1], condition.dense.shape[1]))
        dense = nearest(condition.dense, SIZE, SIZE)
        return resize(dataclasses.replace(condition, dense=dense), height, width, method)

    def loss(params, inputs):
        translation = model.build(settings).apply(
            {**variables, "params": params}, inputs, jax.random.key(0), True, train=False
        )
        return jnp.sum(jnp.sin(3 * translation.image)), translation.image

    def run():
        with jax.enable_x64(True):
            wide = jax.tree.map(
                lambda x: jnp.asarray(x, jnp.float64) if jnp.issubdtype(x.dtype, float) else x,
                (variables["params"], inputs),
            )
            step = jax.jit(jax.value_and_grad(loss, has_aux=True))
            return jax.device_get(step(*wide))

    found = run()
    monkeypatch.setattr(Condition, "resize", by_the_picture)
    wanted = run()
    # The warp has 16 x 16 positions, of three colours.
    assert (3, SIZE // networks.warp_stride) in seen
    for one, other in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9 * np.abs(other).max() + 1e-15)
