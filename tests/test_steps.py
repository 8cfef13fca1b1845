import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cocosnet_jax import model, settings, state, steps, vgg_weights
from cocosnet_jax.nn.condition import Condition
from cocosnet_jax.types import Batch

SETTINGS = settings.from_mapping(
    {
        "data": {"channels": 4, "image_size": 64, "load_size": 64, "exemplar_list": "random"},
        "model": {"base_filters": 2, "mask_at_inference": False},
    }
)


@pytest.mark.parametrize(("condition", "repeated"), [("input", 1.0), ("warped", 1 / 4)])
def test_the_plain_recipes_vgg_loss_is_a_mean_over_the_batch(condition, repeated):
    only = dataclasses.replace(
        settings.LossSettings(**{name: 0.0 for name in ("contextual", "perceptual", "alignment")}),
        adversarial=0.0,
        discriminator_features=0.0,
        pseudo_exemplar=10.0,
    )
    plain = dataclasses.replace(
        SETTINGS,
        loss=only,
        model=dataclasses.replace(SETTINGS.model, generator_condition=condition),
    )
    weights = vgg_weights.load("random", 2)
    drawn, truth = jax.random.uniform(jax.random.key(0), (2, 1, 32, 32, 3), minval=-1)

    def loss(count):
        image = jnp.repeat(truth, count, 0)
        inputs = model.Inputs(image, image, Condition(image), image, None, None, jnp.ones(count))
        translation = model.Translation(jnp.repeat(drawn, count, 0))
        return steps.generator_losses(plain, inputs, translation, weights, [], [])

    one, four = loss(1)["pseudo_exemplar"], loss(4)["pseudo_exemplar"]
    assert one > 0
    np.testing.assert_allclose(four, repeated * one, rtol=1e-4)


def test_a_picture_does_not_depend_on_the_others_of_its_batch():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (3, 64, 64, 3), np.uint8)
    label = rng.integers(0, 4, (3, 64, 64, 1), np.uint8)
    batch = Batch(image, image[::-1], label, label[::-1], np.zeros(3, np.float32))
    start = state.create_state(SETTINGS, jax.random.key(0), 1)
    # Weights that are larger than at first: the noise in the masks' place must be seen.
    start = dataclasses.replace(start, params=jax.tree.map(lambda x: 20 * x, start.params))

    def image_of(rows, **arguments):
        predict = steps.predict_step(SETTINGS, **arguments)
        return np.asarray(jax.jit(predict)(start, jax.tree.map(lambda x: x[rows], batch)).image)

    together = image_of(slice(None))
    np.testing.assert_allclose(image_of(slice(2, 3)), together[2:], atol=1e-3)
    assert np.abs(image_of(slice(None), give_mask=True) - together).max() > 1e-2
