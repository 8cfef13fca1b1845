"""One training step and one prediction, each a pure function to be jitted."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, PyTree

from cocosnet_jax import losses, model, vgg
from cocosnet_jax.encode import Inputs, encode
from cocosnet_jax.nn.interleave import interleave, separate
from cocosnet_jax.settings import Settings
from cocosnet_jax.state import TrainState, build_discriminator, inference_variables, optimisers
from cocosnet_jax.types import Batch, Outputs

Metrics = dict[str, Float[Array, ""]]
TrainStep = Callable[[TrainState, vgg.VggWeights, Batch, jax.Array], tuple[TrainState, Metrics]]
PredictStep = Callable[[TrainState, Batch], Outputs]

# Collections that a training call changes.
MUTABLE = ["spectral", "batch_stats"]


def gives_mask(settings: Settings, step: Any, steps_per_epoch: int) -> Any:
    """Whether masks are given in this training step; afterwards noise takes their place."""
    epochs = settings.model.mask_epochs
    return True if epochs < 0 else step // steps_per_epoch < epochs


def generator_losses(
    settings: Settings,
    inputs: Inputs,
    translation: model.Translation,
    vgg_weights: vgg.VggWeights,
    fake_features: list[Any],
    real_features: list[Any],
    give_mask: Any,
) -> Metrics:
    """All weighted terms of the generator's and the correspondence network's objective.

    Args:
      settings: of the run.
      inputs: the batch.
      translation: of the batch.
      vgg_weights: of the perceptual terms.
      fake_features: what the discriminator makes of the output.
      real_features: what it makes of the truth.
      give_mask: whether masks were given to the correspondence network.
    """
    weights, terms = settings.loss, {}
    found = translation.correspondence
    fake = translation.image
    if weights.alignment and found is not None:
        assert found.adapted_truth is not None
        terms["alignment"] = losses.alignment(found.adapted_input, found.adapted_truth)
    if weights.adversarial:
        terms["adversarial"] = losses.hinge_generator([x[-1] for x in fake_features])
    if weights.discriminator_features:
        terms["discriminator_features"] = losses.discriminator_features(
            fake_features, jax.lax.stop_gradient(real_features)
        )
    dtype = jnp.bfloat16 if settings.model.dtype == "bfloat16" else None
    if weights.pseudo_exemplar or weights.perceptual or weights.contextual:
        drawn = vgg.features(vgg_weights, fake, dtype=dtype)
        # Neither truth nor exemplar carries a gradient: one call serves both.
        pictures = interleave(inputs.image, inputs.exemplar)
        truth, style = separate(vgg.features(vgg_weights, pictures, dtype=dtype))
    if weights.pseudo_exemplar:
        terms["pseudo_exemplar"] = losses.pseudo_exemplar(
            drawn, truth, inputs.self_reference, weights.group_size
        )
    if weights.perceptual:
        layer = weights.perceptual_layer
        terms["perceptual"] = losses.perceptual(drawn[layer], truth[layer], weights.perceptual_norm)
    if weights.contextual:
        terms["contextual"] = losses.contextual(
            drawn, style, weights.contextual_centre, weights.contextual_relu2_2
        )
    if weights.mask:
        assert translation.warped_mask is not None
        assert inputs.label is not None
        assert inputs.exemplar_label is not None
        mask = losses.warped_mask(
            translation.warped_mask, inputs.label, inputs.exemplar_label, weights.group_size
        )
        in_force = give_mask if weights.mask_schedule == "warm_up" else True
        terms["mask"] = jnp.where(in_force, mask, 0)
    if weights.regularisation:
        assert translation.warped_cycle is not None
        assert translation.cycle_target is not None
        terms["regularisation"] = losses.mean_abs(
            translation.warped_cycle, translation.cycle_target
        )
    if weights.self_warp:
        assert translation.warped_exemplar is not None
        terms["self_warp"] = losses.self_warp(
            translation.warped_exemplar, inputs.image, inputs.self_reference, weights.group_size
        )
    return {name: getattr(weights, name) * value for name, value in terms.items()}


def gradients(
    settings: Settings,
    state: TrainState,
    vgg_weights: vgg.VggWeights,
    inputs: Inputs,
    key: jax.Array,
    give_mask: Any,
) -> tuple[dict[str, PyTree], dict[str, PyTree], Metrics, model.Translation]:
    """One joint forward, one gradient per player.

    The generator's output is computed once; the discriminator sees the same output, detached.

    Returns:
      Gradients of both players, their new variables, the weighted losses, the translation.
    """
    generator, discriminator = model.build(settings), build_discriminator(settings)
    semantics = inputs.semantics.tensor()

    def judge(params: PyTree, variables: PyTree, fake: Array) -> tuple[Any, Any, PyTree]:
        features, new = discriminator.apply(
            {"params": params, **variables},
            semantics,
            interleave(fake, inputs.image),
            train=True,
            mutable=MUTABLE,
        )
        return *separate(features), new

    def generator_loss(params: PyTree) -> tuple[Array, Any]:
        translation, new = generator.apply(
            {"params": params, **state.variables["generator"]},
            inputs,
            key,
            give_mask,
            train=True,
            with_truth=settings.loss.alignment > 0,
            with_cycle=settings.loss.regularisation > 0,
            mutable=MUTABLE,
        )
        fake, real, judge_variables = judge(
            state.params["discriminator"], state.variables["discriminator"], translation.image
        )
        terms = generator_losses(settings, inputs, translation, vgg_weights, fake, real, give_mask)
        return sum(terms.values(), jnp.zeros(())), (terms, translation, new, judge_variables)

    (total, (terms, translation, new_generator, judge_variables)), generator_grads = (
        jax.value_and_grad(generator_loss, has_aux=True)(state.params["generator"])
    )
    fake_image = jax.lax.stop_gradient(translation.image)

    def discriminator_loss(params: PyTree) -> tuple[Array, Any]:
        fake, real, new = judge(params, judge_variables, fake_image)
        weight = settings.loss.adversarial
        d_fake = weight * losses.hinge_discriminator([x[-1] for x in fake], real=False)
        d_real = weight * losses.hinge_discriminator([x[-1] for x in real], real=True)
        return d_fake + d_real, (d_fake, d_real, new)

    (_, (d_fake, d_real, new_discriminator)), discriminator_grads = jax.value_and_grad(
        discriminator_loss, has_aux=True
    )(state.params["discriminator"])
    terms |= {"generator_total": total, "discriminator_fake": d_fake, "discriminator_real": d_real}
    return (
        {"generator": generator_grads, "discriminator": discriminator_grads},
        {"generator": dict(new_generator), "discriminator": dict(new_discriminator)},
        terms,
        translation,
    )


def apply_gradients(
    settings: Settings,
    state: TrainState,
    grads: dict[str, PyTree],
    variables: dict[str, PyTree],
    steps_per_epoch: int,
) -> TrainState:
    """Both optimisers' updates, and the average of the generator's weights."""
    params, opt_state = {}, {}
    for name, optimiser in optimisers(settings.optimiser, steps_per_epoch).items():
        updates, opt_state[name] = optimiser.update(grads[name], state.opt_state[name])
        params[name] = optax.apply_updates(state.params[name], updates)
    ema = state.ema
    if ema is not None:
        ema = optax.incremental_update(params["generator"], ema, 1 - settings.optimiser.ema)
    return TrainState(state.step + 1, params, variables, opt_state, ema)


def train_step(settings: Settings, steps_per_epoch: int) -> TrainStep:
    """The training step of these settings (SPEC section 7).

    Args:
      settings: of the run.
      steps_per_epoch: from which the epoch, and so learning rate and warm-up, follow.

    Returns:
      (state, VGG weights, batch, key) -> (state, losses as they enter the sum).
    """

    def step(
        state: TrainState, vgg_weights: vgg.VggWeights, batch: Batch, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        inputs = encode(batch, settings.data)
        give_mask = gives_mask(settings, state.step, steps_per_epoch)
        grads, variables, metrics, _ = gradients(
            settings, state, vgg_weights, inputs, key, give_mask
        )
        return apply_gradients(settings, state, grads, variables, steps_per_epoch), metrics

    return step


def predict_step(
    settings: Settings,
    give_mask: Bool[Array, ""] | bool | None = None,
    *,
    with_mask: bool = False,
    over: Mesh | None = None,
) -> PredictStep:
    """The translation of a batch; deterministic.

    Args:
      settings: of the run.
      give_mask: give masks to the correspondence network, or noise; None does as the settings'
        `mask_at_inference` says.
      with_mask: also carry the exemplar's mask, directly, where the input domain has classes.
      over: devices that share the positions of each picture; None where they share the batch.

    Returns:
      (state, batch) -> Outputs.
    """
    if give_mask is None:
        give_mask = settings.model.mask_at_inference
    with_mask = with_mask and settings.data.condition != "channels"
    model_settings = dataclasses.replace(
        settings.model, warped_mask="direct" if with_mask else "none"
    )
    network = model.CoCosNet(model_settings, settings.data.image_size // model.COARSEST, over)

    def step(state: TrainState, batch: Batch) -> Outputs:
        inputs = encode(batch, settings.data)
        translation = network.apply(
            inference_variables(state), inputs, jax.random.key(0), give_mask, train=False
        )
        assert isinstance(translation, model.Translation)
        return Outputs(translation.image, translation.warped_exemplar, translation.warped_mask)

    return step
