"""Every annotated shape of the networks, losses and steps, of three recipes, without computing.

In tests, a function raises if its arguments or results differ from their annotations
(tests/typechecks.py). Here the steps are traced.
"""

import dataclasses

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from cocosnet_jax import encode, losses, settings, state, steps
from cocosnet_jax.pretrained import vgg as vgg_weights
from tests.test_task_configs import load

# Together these have all kinds of condition, norm, warp and mask.
RECIPES = {
    ("ade20k", "released"): "float32",
    ("celebahq_mask",): "bfloat16",
    ("deepfashion", "released"): "float32",
}


def test_the_checks_are_on():
    with pytest.raises(jaxtyping.TypeCheckError):
        losses.in_groups(jnp.zeros((2, 2)), 1)


@pytest.mark.parametrize(
    ("recipe", "dtype"),
    [
        pytest.param(*item, marks=[pytest.mark.parity] * (item[0][0] == "deepfashion"))
        for item in RECIPES.items()
    ],
)
def test_a_recipes_steps_have_the_annotated_shapes(recipe, dtype):
    config = load(*recipe)
    # What is computed again in the backward pass are the same functions, traced once more.
    model = dataclasses.replace(config.model, base_filters=2, dtype=dtype, rematerialise="nothing")
    data = dataclasses.replace(
        config.data, channels=config.data.channels or 3, image_size=64, load_size=64
    )
    config = dataclasses.replace(
        config, model=model, data=data, vgg=settings.VggSettings("random", 2)
    )
    batch = encode.batch_shapes(config.data, 2)
    key = jax.random.key(0)
    start = state.state_shapes(config)
    weights = vgg_weights.load("random", 2)

    after, found = jax.eval_shape(steps.train_step(config, 1), start, weights, batch, key)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), start
    )
    assert {loss.shape for loss in found.values()} == {()}
    outputs = jax.eval_shape(steps.predict_step(config, with_mask=True), start, batch)
    assert outputs.image.shape == (2, 64, 64, 3)


@pytest.mark.parametrize(
    ("condition", "highest"),
    [("labels", [18]), ("labels_glasses", [18, 1]), ("channels", [255] * 19)],
)
def test_a_random_batch_has_all_values_of_a_batch(condition, highest):
    data = settings.DataSettings(
        condition=condition, channels=19, image_size=64, load_size=64, exemplar_list="random"
    )
    batch = encode.random_batch(data, 2)
    found, wanted = (
        jax.tree.map(lambda x: (x.shape, x.dtype), x) for x in (batch, encode.batch_shapes(data, 2))
    )
    assert found == wanted
    for label in (batch.label, batch.exemplar_label):
        np.testing.assert_array_equal(label.min((0, 1, 2)), 0)
        np.testing.assert_array_equal(label.max((0, 1, 2)), highest)
