"""The weighted objective of the two generating networks (equation 14, SPEC section 6).

Its terms are in three groups, by what they see, so that a step can finish the gradient of one
group before it begins with the next.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cocosnet_jax import colour_losses, losses, model, vgg
from cocosnet_jax.encode import Inputs
from cocosnet_jax.nn.barrier import barrier
from cocosnet_jax.nn.conv import activation_dtype
from cocosnet_jax.nn.interleave import interleave, separate
from cocosnet_jax.settings import LossSettings, Settings

# Scalars by name.
Metrics = dict[str, Float[Array, ""]]


class DiscriminatorOutputs(NamedTuple):
    """Outputs of the discriminator's layers, by scale, for fake and real images."""

    fake: list[losses.ScaleFeatures]
    real: list[losses.ScaleFeatures]


def logits(scales: list[losses.ScaleFeatures]) -> list[Float[Array, "b _ _ 1"]]:
    """The last layer's output at each scale."""
    return [layers[-1] for layers in scales]


def adversarial_terms(weights: LossSettings, discriminated: DiscriminatorOutputs) -> Metrics:
    """Terms of what the discriminator makes of the translation, beside the truth."""
    terms = {}
    if weights.adversarial:
        terms["adversarial"] = losses.hinge_generator(logits(discriminated.fake))
    if weights.discriminator_features:
        real = jax.lax.stop_gradient(discriminated.real)
        terms["discriminator_features"] = losses.discriminator_features(discriminated.fake, real)
    return _weighted(weights, terms)


def feature_terms(
    settings: Settings,
    inputs: Inputs,
    image: Float[Array, "b height width 3"],
    vgg_weights: vgg.VggWeights,
    shares: losses.Shares,
) -> Metrics:
    """Terms that compare VGG's features of the translation with those of truth and exemplar.

    Args:
      settings: of the run.
      inputs: the batch.
      image: its translation.
      vgg_weights: the network.
      shares: of the samples in their groups.
    """
    weights, terms = settings.loss, {}
    if not (weights.pseudo_exemplar or weights.perceptual or weights.contextual):
        return {}
    dtype = activation_dtype(settings.model.dtype)
    fake = vgg.features(vgg_weights, image, dtype=dtype)
    # One call for truth and exemplar, neither of which needs a gradient.
    targets = interleave(inputs.image, inputs.exemplar)
    truth, exemplar = separate(vgg.features(vgg_weights, targets, dtype=dtype))
    contextual = losses.contextual_layers(weights.contextual_relu2_2)
    # CPUs drop what is not compared. Otherwise XLA would hold the features of both.
    truth, exemplar = barrier((truth, {name: exemplar[name] for name in contextual}))
    if weights.pseudo_exemplar:
        terms["pseudo_exemplar"] = losses.pseudo_exemplar(fake, truth, shares.self_reference)
    if weights.perceptual:
        layer = weights.perceptual_layer
        terms["perceptual"] = losses.perceptual(fake[layer], truth[layer], weights.perceptual_norm)
    if weights.contextual:
        terms["contextual"] = losses.contextual(
            fake, exemplar, weights.contextual_centre, weights.contextual_relu2_2
        )
    return _weighted(weights, terms)


def translation_terms(
    settings: Settings,
    inputs: Inputs,
    translation: model.Translation,
    give_mask: Any,
    shares: losses.Shares,
) -> Metrics:
    """Terms that no other network is needed for.

    Args:
      settings: of the run.
      inputs: the batch.
      translation: of the batch.
      give_mask: whether the correspondence network got masks.
      shares: of the samples in their groups.
    """
    weights, terms = settings.loss, {}
    q, correspondence = shares.self_reference, translation.correspondence
    if weights.alignment and correspondence is not None:
        adapted, wanted = correspondence.adapted_input, correspondence.adapted_truth
        assert wanted is not None
        terms["alignment"] = losses.alignment(adapted, wanted)
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
        terms["colour"] = colour_losses.colour(translation.image, inputs.image, side, q)
    of_classes = {
        "class_colour": translation.image,
        "warp_class_colour": translation.warped_exemplar,
    }
    for name, image in of_classes.items():
        if getattr(weights, name):
            assert image is not None
            assert inputs.label is not None
            assert inputs.exemplar_label is not None
            terms[name] = colour_losses.class_colour(
                image,
                inputs.label,
                inputs.exemplar,
                inputs.exemplar_label,
                settings.data.channels,
            )
    return _weighted(weights, terms)


def _weighted(weights: LossSettings, terms: Metrics) -> Metrics:
    return {name: getattr(weights, name) * value for name, value in terms.items()}
