"""Every annotated shape of the networks, losses and steps, of three recipes, without computing.

Tests run with jaxtyping's checks (tests/typechecks.py): a function of the
package whose arguments or results differ from their annotation raises. Here the steps are traced.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import jaxtyping
import pytest

from cocosnet_jax import losses, settings, state, steps
from cocosnet_jax.pretrained import vgg as vgg_weights
from cocosnet_jax.types import Batch
from tests.test_task_configs import load

# Together they have every kind of condition, norm, warp and mask.
RECIPES = {
    ("ade20k", "released"): "float32",
    ("celebahq_mask",): "bfloat16",
    ("deepfashion", "released"): "float32",
}


def test_the_checks_are_on():
    with pytest.raises(jaxtyping.TypeCheckError):
        losses.in_groups(jnp.zeros((2, 2)), 1)


@pytest.mark.parametrize(("recipe", "dtype"), RECIPES.items())
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
    size = (2, 64, 64)
    image = jax.ShapeDtypeStruct((*size, 3), jnp.uint8)
    label = jax.ShapeDtypeStruct((*size, config.data.planes), jnp.uint8)
    batch = Batch(image, image, label, label, jax.ShapeDtypeStruct((2,), jnp.float32))
    key = jax.random.key(0)
    start = jax.eval_shape(functools.partial(state.create_state, config, steps_per_epoch=1), key)
    weights = vgg_weights.load("random", 2)

    after, found = jax.eval_shape(steps.train_step(config, 1), start, weights, batch, key)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), start
    )
    assert {loss.shape for loss in found.values()} == {()}
    outputs = jax.eval_shape(steps.predict_step(config, with_mask=True), start, batch)
    assert outputs.image.shape == image.shape
