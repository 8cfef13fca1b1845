import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cocosnet_jax import colour_losses, losses, model, objective, settings, steps, vgg
from cocosnet_jax.correspondence import CorrespondenceNetwork
from cocosnet_jax.encode import Inputs, encode, random_batch
from cocosnet_jax.nn.condition import Condition
from cocosnet_jax.pretrained import vgg as vgg_weights
from cocosnet_jax.types import Batch
from tests.untrained import untrained

SETTINGS = settings.from_mapping(
    {
        "data": {"channels": 4, "image_size": 64, "load_size": 64, "exemplar_list": "random"},
        "model": {"base_filters": 2, "mask_at_inference": False},
    }
)


@pytest.mark.parametrize(("group_size", "share"), [(1, 1.0), (4, 1 / 4)])
def test_the_weight_of_pseudo_exemplars_does_not_depend_on_the_batch(group_size, share):
    only = dataclasses.replace(
        settings.LossSettings(**{name: 0.0 for name in ("contextual", "perceptual", "alignment")}),
        adversarial=0.0,
        discriminator_features=0.0,
        pseudo_exemplar=10.0,
        group_size=group_size,
    )
    config = dataclasses.replace(SETTINGS, loss=only)
    weights = vgg_weights.load("random", 2)
    drawn, truth = jax.random.uniform(jax.random.key(0), (2, 1, 32, 32, 3), minval=-1)

    def loss(count, drawn, truth):
        image = jnp.repeat(truth, count, 0)
        condition = Condition(image)
        inputs = Inputs(image, image, condition, condition, None, None, jnp.ones(count))
        drawn = jnp.repeat(drawn, count, 0)
        shares = losses.group_shares(config, inputs)
        terms = objective.feature_terms(config, inputs, drawn, weights, shares)
        return terms["pseudo_exemplar"]

    def distance(drawn, truth):
        features = (vgg.features(weights, image) for image in (drawn, truth))
        return losses.pseudo_exemplar(*features, losses.self_reference_weights(jnp.ones(1), 1))

    distances = jax.jit(distance)(drawn, truth)
    for count in (1, 4, 32):
        found = jax.jit(functools.partial(loss, count))(drawn, truth)
        np.testing.assert_allclose(found, 10 * share * distances, rtol=1e-4)


# tests/test_evaluation.py compares an evaluation's pictures with those of pairs alone.
@pytest.mark.parity
def test_a_translation_does_not_depend_on_the_rest_of_its_batch():
    batch = random_batch(SETTINGS.data, 3)
    start = untrained(SETTINGS)
    # Larger weights than the initial ones, so that the noise that replaces masks has an effect.
    start = dataclasses.replace(start, params=jax.tree.map(lambda x: 20 * x, start.params))

    @jax.jit
    def predict(start, batch, give_mask):
        return steps.predict_step(SETTINGS, give_mask)(start, batch).image

    def image_of(rows, give_mask):
        return np.asarray(predict(start, jax.tree.map(lambda x: x[rows], batch), give_mask))

    together = image_of(slice(None), False)
    np.testing.assert_allclose(image_of(slice(2, 3), False), together[2:], atol=1e-3)
    assert np.abs(image_of(slice(None), True) - together).max() > 1e-2


def training(**model_settings):
    config = settings.from_mapping(
        {
            "data": {"channels": 7, "image_size": 64, "load_size": 64, "exemplar_list": "random"},
            "model": {"base_filters": 2, "mask_epochs": 1, **model_settings},
            "loss": {"mask": 5.0, "mask_schedule": "warm_up", "contextual": 0.0, "perceptual": 0.0},
            "vgg": {"weights": "random", "width": 2},
        }
    )
    config = dataclasses.replace(
        config, loss=dataclasses.replace(config.loss, pseudo_exemplar=0.0, adversarial=0.0)
    )
    return config, random_batch(config.data, 2)


def random_shapes(jaxpr, found=()):
    """Shapes of all random numbers in a program, conditionals and loops included."""
    shapes = list(found)
    for equation in jaxpr.eqns:
        if equation.primitive.name == "random_bits":
            shapes.append(equation.outvars[0].aval.shape)
        for inner in jax.core.jaxprs_in_params(equation.params):
            shapes = random_shapes(inner, shapes)
    return shapes


@pytest.mark.parametrize(
    ("mask_input", "give_mask", "drawn"),
    [
        # At the size of the features, only for the exemplar, and only if masks are replaced.
        ("features", "traced", [(2, 16, 16, 7)]),
        ("features", False, [(2, 16, 16, 7)]),
        ("features", True, []),
        # At image size, for exemplar and truth.
        ("adaptor", "traced", [(2, 64, 64, 7)] * 2),
        ("adaptor", True, []),
        ("none", "traced", []),
    ],
)
def test_noise_has_the_size_of_the_mask_that_it_replaces(mask_input, give_mask, drawn):
    config, batch = training()
    network = CorrespondenceNetwork(dataclasses.replace(config.model, mask_input=mask_input))
    inputs = encode(batch, config.data)
    key = jax.random.key(0)
    variables = jax.eval_shape(lambda: network.init(key, inputs, key, True, train=False))

    def run(variables, give):
        return network.apply(
            variables,
            inputs,
            jax.random.split(key, 2),
            give if give_mask == "traced" else give_mask,
            train=True,
            with_truth=True,
            mutable=steps.MUTABLE,
        )[0].theta

    program = jax.make_jaxpr(run)(variables, True).jaxpr
    assert random_shapes(program) == drawn


@pytest.mark.parametrize(("schedule", "after"), [("warm_up", 0.0), ("always", 1.0)])
def test_the_mask_loss_ends_with_the_warm_up(schedule, after):
    config, batch = training()
    terms = settings.LossSettings(
        **{name: 0.0 for name in ("alignment", "adversarial", "discriminator_features")},
        **{name: 0.0 for name in ("pseudo_exemplar", "perceptual", "contextual")},
        mask=5.0,
        mask_schedule=schedule,
    )
    config = dataclasses.replace(config, loss=terms)
    inputs = encode(batch, config.data)
    mask = jax.nn.softmax(jax.random.normal(jax.random.key(0), (2, 16, 16, 7)))
    translation = model.Translation(inputs.image, warped_mask=mask)

    shares = losses.group_shares(config, inputs)

    @jax.jit
    def loss(step):
        given = steps.gives_mask(config, step, steps_per_epoch=3)
        return objective.translation_terms(config, inputs, translation, given, shares)["mask"]

    whole = 5 * losses.warped_mask(mask, inputs.label, inputs.exemplar_label, shares.mask)
    assert whole > 1
    # One epoch of three steps.
    np.testing.assert_allclose([loss(2), loss(3)], [whole, after * whole], rtol=1e-5)


def test_a_correspondence_that_is_not_trained_has_no_gradient():
    config, batch = training()
    only = dataclasses.replace(config.optimiser, correspondence=False)
    config = dataclasses.replace(config, optimiser=only)
    start, weights = untrained(config), vgg_weights.load("random", 2)

    @jax.jit
    def gradients(start, batch):
        inputs = encode(batch, config.data)
        return steps.gradients(config, start, weights, inputs, jax.random.key(0), True)[:2]

    found, variables = (x["generator"] for x in gradients(start, batch))
    assert all(not np.any(x) for x in jax.tree.leaves(found["correspondence"]))
    assert np.any(found["generator"]["to_image"]["kernel"])
    # Its vectors of spectral norm stay as well, those of the generator do not.
    before = start.variables["generator"]
    kept, same = (
        [
            np.array_equal(old, new)
            for name in before
            for old, new in zip(
                jax.tree.leaves(before[name].get(network, {})),
                jax.tree.leaves(variables[name].get(network, {})),
                strict=True,
            )
        ]
        for network in ("correspondence", "generator")
    )
    assert kept
    assert all(kept)
    assert not all(same)


def test_losses_and_gradients_of_a_batch_that_is_repeated():
    """In groups of 2, a repeated batch trains like the batch of 2 samples (SPEC section 6)."""
    config, _ = training()
    terms = settings.LossSettings(
        alignment=0.0,
        adversarial=0.0,
        discriminator_features=0.0,
        mask=100.0,
        self_warp=100.0,
        colour=10.0,
        class_colour=10.0,
        warp_class_colour=10.0,
        group_size=2,
    )
    config = dataclasses.replace(config, loss=terms)
    rng = np.random.default_rng(0)
    images, outputs = rng.uniform(-1, 1, (2, 2, 2, 32, 32, 3))
    labels = rng.integers(0, 7, (2, 2, 32, 32, 1), np.uint8)
    # The second exemplar lacks two classes, so that the samples' divisors differ.
    labels[1, 1][labels[1, 1] > 4] = 1
    mask = rng.uniform(0.01, 1, (2, 8, 8, 7))

    def run(copies):
        def copied(x):
            return np.concatenate([x] * copies)

        batch = Batch(*images, *labels, np.array([1.0, 0.0]))
        inputs = encode(jax.tree.map(copied, batch), config.data)
        weights = jax.tree.map(lambda x: x.astype(float), vgg_weights.load("random", 2))

        def total(image, warped, mask):
            translation = model.Translation(image, warped, warped_mask=mask)
            shares = losses.group_shares(config, inputs)
            found = objective.feature_terms(config, inputs, image, weights, shares)
            found |= objective.translation_terms(config, inputs, translation, True, shares)
            return sum(found.values()), found

        gradients = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))
        (_, found), grads = gradients(*(copied(x) for x in (*outputs, mask)))
        return jax.device_get((found, grads))

    copies = 4
    with jax.enable_x64(True):
        wanted, wanted_grads = run(1)
        found, grads = run(copies)
    names = {"mask", "self_warp", "colour", "class_colour", "warp_class_colour"}
    names |= {"pseudo_exemplar", "perceptual", "contextual"}
    assert set(wanted) == set(found) == names
    for name, image in zip(("class_colour", "warp_class_colour"), outputs, strict=True):
        label, other = (x[..., 0].astype(np.int32) for x in labels)
        of_image, of_exemplar = (x.astype(np.float32) for x in (image, images[1]))
        means = colour_losses.class_colour(of_image, label, of_exemplar, other, 7)
        np.testing.assert_allclose(wanted[name], 10 * means, rtol=1e-5)
    for name in names:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-10)
    for got, want in zip(grads, wanted_grads, strict=True):
        shares = np.concatenate([want] * copies) / copies
        np.testing.assert_allclose(got, shares, rtol=0, atol=1e-10 * np.abs(shares).max())
