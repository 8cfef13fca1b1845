"""The training step and the prediction step, each a pure function to be jitted."""

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
from cocosnet_jax.matching import full_match
from cocosnet_jax.nn.barrier import barrier
from cocosnet_jax.nn.condition import Condition
from cocosnet_jax.nn.interleave import interleave, separate
from cocosnet_jax.objective import (
    DiscriminatorOutputs,
    Metrics,
    adversarial_terms,
    feature_terms,
    logits,
    translation_terms,
)
from cocosnet_jax.settings import Settings
from cocosnet_jax.state import TrainState, build_discriminator, inference_variables, optimisers
from cocosnet_jax.types import Batch, Outputs

TrainStep = Callable[[TrainState, vgg.VggWeights, Batch, jax.Array], tuple[TrainState, Metrics]]
PredictStep = Callable[[TrainState, Batch], Outputs]

# Variable collections that a training step updates.
MUTABLE = ["spectral", "batch_stats"]


def gives_mask(settings: Settings, step: Any, steps_per_epoch: int) -> Any:
    """Whether the network gets masks in this training step, or noise, after `mask_epochs`."""
    epochs = settings.model.mask_epochs
    return True if epochs < 0 else step // steps_per_epoch < epochs


def _total(terms: Metrics) -> Float[Array, ""]:
    return sum(terms.values(), jnp.zeros(()))


def gradients(
    settings: Settings,
    state: TrainState,
    vgg_weights: vgg.VggWeights,
    inputs: Inputs,
    key: jax.Array,
    give_mask: Any,
    shares: losses.Shares | None = None,
    first: Any = 0,
    devices: Mesh | None = None,
) -> tuple[dict[str, PyTree], dict[str, PyTree], Metrics, model.Translation]:
    """One joint forward pass and one gradient per player.

    The translation is computed once; the discriminator's loss sees it without its gradient.

    Args:
      settings: of the run.
      state: parameters and variables.
      vgg_weights: of the losses.
      inputs: the batch, or a small part of it.
      key: of the noise that replaces masks.
      give_mask: whether the correspondence network gets masks.
      shares: of the samples in their groups; None if the batch holds the whole groups.
      first: number of the first sample in the whole batch.
      devices: those that split the batch, or None.

    Returns:
      The gradients and the new variables of both players, the weighted losses, the translation.
    """
    if shares is None:
        shares = losses.group_shares(settings, inputs)
    generator, discriminator = model.build(settings, devices), build_discriminator(settings)
    numbers = first + jnp.arange(len(inputs.image))
    sample_keys = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)

    def discriminate(
        params: PyTree, variables: PyTree, semantics: Condition, fake: Array
    ) -> tuple[DiscriminatorOutputs, PyTree]:
        outputs, new_variables = discriminator.apply(
            {"params": params, **variables},
            semantics.tensor(),
            interleave(fake, inputs.image),
            train=True,
            mutable=MUTABLE,
        )
        return DiscriminatorOutputs(*separate(outputs)), new_variables

    def translate(params: PyTree) -> tuple[model.Translation, PyTree]:
        if not settings.optimiser.correspondence:  # Without a gradient, Adam leaves it as it is.
            params = {**params, "correspondence": jax.lax.stop_gradient(params["correspondence"])}
        return generator.apply(
            {"params": params, **state.variables["generator"]},
            inputs,
            sample_keys,
            give_mask,
            train=True,
            with_truth=settings.loss.alignment > 0,
            with_cycle=settings.loss.regularisation > 0,
            mutable=MUTABLE,
        )

    translation, to_params, generator_variables = jax.vjp(
        translate, state.params["generator"], has_aux=True
    )
    if not settings.optimiser.correspondence:
        # Its vectors of spectral norm and its running statistics stay, too.
        generator_variables = {
            name: {**found, "correspondence": old["correspondence"]}
            if "correspondence" in (old := state.variables["generator"][name])
            else found
            for name, found in generator_variables.items()
        }

    def adversarial(image: Array) -> tuple[Array, Any]:
        judge = state.params["discriminator"], state.variables["discriminator"]
        discriminated, new_variables = discriminate(*judge, inputs.semantics, image)
        terms = adversarial_terms(settings.loss, discriminated)
        return _total(terms), (terms, new_variables)

    def compared(image: Array, inputs: Inputs) -> tuple[Array, Metrics]:
        terms = feature_terms(settings, inputs, image, vgg_weights, shares)
        return _total(terms), terms

    def direct(translation: model.Translation) -> tuple[Array, Metrics]:
        terms = translation_terms(settings, inputs, translation, give_mask, shares)
        return _total(terms), terms

    # One gradient after the other, so that CPUs do not hold the activations of the discriminator
    # and of VGG at the same time, or in the translation's backward pass.
    (_, (terms, discriminator_variables)), to_image = jax.value_and_grad(adversarial, has_aux=True)(
        translation.image
    )
    image, later_inputs, to_image = barrier((translation.image, inputs, to_image))
    (_, more), to_image_too = jax.value_and_grad(compared, has_aux=True)(image, later_inputs)
    terms |= more
    (_, more), to_translation = jax.value_and_grad(direct, has_aux=True)(translation)
    terms |= more
    total = _total(terms)
    to_image = to_translation.image + to_image + to_image_too
    [generator_grads] = to_params(to_translation._replace(image=to_image))
    fake = jax.lax.stop_gradient(translation.image)
    # XLA on CPUs makes the one-hot label map for the discriminator's loss once more after this
    # barrier, and does not hold it in the generator's backward pass.
    semantics, fake, generator_grads = barrier((inputs.semantics, fake, generator_grads))

    def discriminator_loss(params: PyTree) -> tuple[Array, Any]:
        discriminated, new_variables = discriminate(
            params, discriminator_variables, semantics, fake
        )
        weight = settings.loss.adversarial
        d_fake = weight * losses.hinge_discriminator(logits(discriminated.fake), real=False)
        d_real = weight * losses.hinge_discriminator(logits(discriminated.real), real=True)
        return d_fake + d_real, (d_fake, d_real, new_variables)

    (_, (d_fake, d_real, discriminator_variables)), discriminator_grads = jax.value_and_grad(
        discriminator_loss, has_aux=True
    )(state.params["discriminator"])
    terms |= {"generator_total": total, "discriminator_fake": d_fake, "discriminator_real": d_real}
    return (
        {"generator": generator_grads, "discriminator": discriminator_grads},
        {"generator": dict(generator_variables), "discriminator": dict(discriminator_variables)},
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
    """Updates the parameters of both players, and the average of the generator's parameters."""
    # Whatever reads the old parameters comes before the barrier, so that XLA writes the new ones in
    # their place. On CPUs it would copy all of them first. On TPUs the barrier only delays updates.
    grads, old = barrier((grads, state.params))
    params, opt_state = {}, {}
    for name, optimiser in optimisers(settings.optimiser, steps_per_epoch).items():
        updates, opt_state[name] = optimiser.update(grads[name], state.opt_state[name])
        params[name] = optax.apply_updates(old[name], updates)
    ema = state.ema
    if ema is not None:
        ema = optax.incremental_update(params["generator"], ema, 1 - settings.optimiser.ema)
    return TrainState(state.step + 1, params, variables, opt_state, ema)


def train_step(settings: Settings, steps_per_epoch: int, devices: Mesh | None = None) -> TrainStep:
    """Returns the training step that these settings describe (SPEC section 7).

    Args:
      settings: of the run.
      steps_per_epoch: determines learning rate and mask warm-up, which depend on the epoch.
      devices: those that split the batch, or None.

    Returns:
      (state, VGG weights, batch, key) -> (state, weighted losses).
    """

    def step(
        state: TrainState, vgg_weights: vgg.VggWeights, batch: Batch, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        inputs = encode(batch, settings.data)
        give_mask = gives_mask(settings, state.step, steps_per_epoch)
        grads, variables, metrics, _ = gradients(
            settings, state, vgg_weights, inputs, key, give_mask, devices=devices
        )
        return apply_gradients(settings, state, grads, variables, steps_per_epoch), metrics

    return step


def predict_step(
    settings: Settings,
    give_mask: Bool[Array, ""] | bool | None = None,
    *,
    with_mask: bool = False,
    with_match: bool = False,
    with_confidence: bool = False,
    mesh: Mesh | None = None,
    samples: Mesh | None = None,
) -> PredictStep:
    """Returns the translation of a batch or of a blend, a deterministic function.

    Args:
      settings: of the run.
      give_mask: whether the correspondence network gets masks, or noise; None for the setting
        `mask_at_inference`.
      with_mask: whether to warp the exemplar's mask, too, if the input domain has classes.
      with_match: whether to match the positions of input and exemplar, too; not of a blend.
      with_confidence: whether to measure how sharp the match is, too.
      mesh: devices that split the positions of each image, or None.
      samples: devices that split the batch, or None.

    Returns:
      (state, batch) -> Outputs.
    """
    if give_mask is None:
        give_mask = settings.model.mask_at_inference
    with_mask = with_mask and settings.data.condition != "channels"
    networks = dataclasses.replace(settings.model, warped_mask="direct" if with_mask else "none")
    network = model.build(settings, samples, mesh).clone(settings=networks)

    def step(state: TrainState, batch: Batch) -> Outputs:
        inputs = encode(batch, settings.data)
        translation = network.apply(
            inference_variables(state),
            inputs,
            jax.random.key(0),
            give_mask,
            train=False,
            with_confidence=with_confidence,
        )
        assert isinstance(translation, model.Translation)
        found, matches = translation.correspondence, None
        if with_match and found is not None:
            m = settings.model
            own = full_match(found.theta, found.phi, m.temperature, m.match_kernel, m.centre)
            matches = {"": own}
        return Outputs(
            translation.image,
            translation.warped_exemplar,
            translation.warped_mask,
            matches,
            translation.confidence if with_confidence else None,
        )

    return step
