"""The training step and the prediction step, each a pure function to be jitted."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, PyTree

from cocosnet_jax import compiler, losses, model, vgg
from cocosnet_jax.encode import Inputs, encode
from cocosnet_jax.matching import full_match
from cocosnet_jax.nn.condition import Condition
from cocosnet_jax.nn.conv import activation_dtype
from cocosnet_jax.nn.interleave import interleave, separate
from cocosnet_jax.settings import Settings
from cocosnet_jax.state import TrainState, build_discriminator, inference_variables, optimisers
from cocosnet_jax.types import Batch, Outputs

Metrics = dict[str, Float[Array, ""]]
TrainStep = Callable[[TrainState, vgg.VggWeights, Batch, jax.Array], tuple[TrainState, Metrics]]
PredictStep = Callable[[TrainState, Batch], Outputs]

# Variable collections that a training step updates.
MUTABLE = ["spectral", "batch_stats"]


def gives_mask(settings: Settings, step: Any, steps_per_epoch: int) -> Any:
    """Whether the network gets masks in this training step, or noise, after `mask_epochs`."""
    epochs = settings.model.mask_epochs
    return True if epochs < 0 else step // steps_per_epoch < epochs


class DiscriminatorOutputs(NamedTuple):
    """Outputs of the discriminator's layers, by scale, for fake and real images."""

    fake: list[losses.ScaleFeatures]
    real: list[losses.ScaleFeatures]


def _logits(scales: list[losses.ScaleFeatures]) -> list[Float[Array, "b _ _ 1"]]:
    return [layers[-1] for layers in scales]


def generator_losses(
    settings: Settings,
    inputs: Inputs,
    translation: model.Translation,
    vgg_weights: vgg.VggWeights,
    discriminated: DiscriminatorOutputs,
    give_mask: Any,
    shares: losses.Shares | None = None,
) -> Metrics:
    """All weighted terms of the correspondence and the translation network's objective.

    Args:
      settings: of the run.
      inputs: the batch.
      translation: of the batch.
      vgg_weights: for the terms that compare VGG features.
      discriminated: outputs of the discriminator for `translation` and the truth.
      give_mask: whether the correspondence network got masks.
      shares: of the samples in their groups; None if the batch holds the whole groups.
    """
    weights, terms = settings.loss, {}
    if shares is None:
        shares = losses.group_shares(settings, inputs)
    q, correspondence = shares.self_reference, translation.correspondence
    if weights.alignment and correspondence is not None:
        adapted, wanted = correspondence.adapted_input, correspondence.adapted_truth
        assert wanted is not None
        terms["alignment"] = losses.alignment(adapted, wanted)
    if weights.adversarial:
        terms["adversarial"] = losses.hinge_generator(_logits(discriminated.fake))
    if weights.discriminator_features:
        real = jax.lax.stop_gradient(discriminated.real)
        terms["discriminator_features"] = losses.discriminator_features(discriminated.fake, real)
    dtype = activation_dtype(settings.model.dtype)
    if weights.pseudo_exemplar or weights.perceptual or weights.contextual:
        fake = vgg.features(vgg_weights, translation.image, dtype=dtype)
        # One call for truth and exemplar, neither of which needs a gradient.
        targets = interleave(inputs.image, inputs.exemplar)
        truth, exemplar = separate(vgg.features(vgg_weights, targets, dtype=dtype))
    if weights.pseudo_exemplar:
        terms["pseudo_exemplar"] = losses.pseudo_exemplar(fake, truth, q)
    if weights.perceptual:
        layer = weights.perceptual_layer
        terms["perceptual"] = losses.perceptual(fake[layer], truth[layer], weights.perceptual_norm)
    if weights.contextual:
        terms["contextual"] = losses.contextual(
            fake, exemplar, weights.contextual_centre, weights.contextual_relu2_2
        )
    if weights.mask:
        assert translation.warped_mask is not None
        assert inputs.label is not None
        assert inputs.exemplar_label is not None
        assert shares.mask is not None
        mask = losses.warped_mask(
            translation.warped_mask, inputs.label, inputs.exemplar_label, shares.mask
        )
        applies = give_mask if weights.mask_schedule == "warm_up" else True
        terms["mask"] = jnp.where(applies, mask, 0)
    if weights.regularisation:
        cycle, target = translation.warped_cycle, translation.cycle_target
        assert cycle is not None
        assert target is not None
        terms["regularisation"] = losses.regularisation(cycle, target)
    if weights.self_warp:
        assert translation.warped_exemplar is not None
        terms["self_warp"] = losses.self_warp(translation.warped_exemplar, inputs.image, q)
    if weights.colour:
        side = settings.model.warp_stride
        terms["colour"] = losses.colour(translation.image, inputs.image, side, q)
    return {name: getattr(weights, name) * value for name, value in terms.items()}


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
      shares: as `generator_losses` takes them.
      first: number of the first sample in the whole batch.
      devices: those that split the batch, or None.

    Returns:
      The gradients and the new variables of both players, the weighted losses, the translation.
    """
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

    def generator_loss(params: PyTree) -> tuple[Array, Any]:
        if not settings.optimiser.correspondence:  # Without a gradient, Adam leaves it as it is.
            params = {**params, "correspondence": jax.lax.stop_gradient(params["correspondence"])}
        translation, new_variables = generator.apply(
            {"params": params, **state.variables["generator"]},
            inputs,
            sample_keys,
            give_mask,
            train=True,
            with_truth=settings.loss.alignment > 0,
            with_cycle=settings.loss.regularisation > 0,
            mutable=MUTABLE,
        )
        judge = state.params["discriminator"], state.variables["discriminator"]
        discriminated, discriminator_variables = discriminate(
            *judge, inputs.semantics, translation.image
        )
        terms = generator_losses(
            settings, inputs, translation, vgg_weights, discriminated, give_mask, shares
        )
        total = sum(terms.values(), jnp.zeros(()))
        return total, (terms, translation, new_variables, discriminator_variables)

    (total, (terms, translation, generator_variables, discriminator_variables)), generator_grads = (
        jax.value_and_grad(generator_loss, has_aux=True)(state.params["generator"])
    )
    fake = jax.lax.stop_gradient(translation.image)
    # XLA on CPUs makes the one-hot label map for the discriminator's loss once more after this
    # barrier, and does not hold it in the generator's backward pass.
    before = inputs.semantics, fake, generator_grads
    semantics, fake, generator_grads = compiler.barrier(before)

    def discriminator_loss(params: PyTree) -> tuple[Array, Any]:
        discriminated, new_variables = discriminate(
            params, discriminator_variables, semantics, fake
        )
        weight = settings.loss.adversarial
        d_fake = weight * losses.hinge_discriminator(_logits(discriminated.fake), real=False)
        d_real = weight * losses.hinge_discriminator(_logits(discriminated.real), real=True)
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
    grads, old = compiler.barrier((grads, state.params))
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
