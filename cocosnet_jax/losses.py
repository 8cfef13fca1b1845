"""The terms of the objective, each a pure function (paper section 3.3, SPEC section 6).

The functions return unweighted terms; `cocosnet_jax.objective` weights them.

The terms of the mask, of the pseudo exemplar and of the self warp are computed per group of
consecutive samples and averaged over groups, because the samples of a group share a divisor. The
release trains data-parallel, and a group corresponds to one of its replicas. For the other terms
here grouping makes no difference. The divisors depend on the data alone: `Shares` holds them per
sample, so a group may be split among several small batches.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cocosnet_jax.encode import Inputs
from cocosnet_jax.nn.norms import unit_length
from cocosnet_jax.nn.resize import average_pool, nearest
from cocosnet_jax.nn.streaming import map_rows
from cocosnet_jax.settings import Settings

# VGG features by layer name.
Features = Mapping[str, Float[Array, "b _ _ _"]]
# Outputs of a discriminator's five layers at one scale; the last are the logits.
ScaleFeatures = Sequence[Float[Array, "b _ _ _"]]

# Weights lambda_l of the pseudo-exemplar loss (equation 8).
PSEUDO_EXEMPLAR_WEIGHTS = {
    "relu1_2": 1 / 32,
    "relu2_2": 1 / 16,
    "relu3_2": 1 / 8,
    "relu4_2": 1 / 4,
    "relu5_2": 1.0,
}
# Contextual loss: layer -> (weight omega_l, side of the average pooling before comparison).
CONTEXTUAL_LAYERS = {"relu5_2": (8.0, 1), "relu4_2": (4.0, 1), "relu3_2": (2.0, 2)}
CONTEXTUAL_RELU2_2 = {"relu2_2": (1.0, 4)}
CONTEXTUAL_BANDWIDTH = 0.1
# Upper limit of the pairs of positions, per sample, whose distances are held at a time.
CONTEXTUAL_PAIRS = 4096**2


def wide(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Converts bfloat16 to float32, in which losses are computed; float64 stays as it is."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def mean_abs(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, ""]:
    """Mean absolute difference."""
    return jnp.mean(jnp.abs(wide(a) - wide(b)))


class Shares(NamedTuple):
    """Weights of the samples in those terms whose divisor the samples of a group share.

    Attributes:
      self_reference: q, of `self_reference_weights`.
      mask: of `mask_shares`; None without the mask's loss.
    """

    self_reference: Float[Array, "*b"]
    mask: Float[Array, "*b"] | None = None


def in_groups(x: Float[Array, "b"], group_size: int) -> Float[Array, "groups size"]:
    """Splits a batch into groups of consecutive samples; a smaller batch becomes one group."""
    return x.reshape(-1, min(group_size, len(x)))


def self_reference_weights(self_reference: Float[Array, "b"], group_size: int) -> Float[Array, "b"]:
    """q: splits the weight of a group among its samples that are their own exemplar.

    Scaled so that a batch smaller than a group adds as much to a loss as a full group.
    """
    groups = in_groups(self_reference, group_size)
    q = groups / (groups.sum(1, keepdims=True) + 1e-5) * (groups.shape[1] / group_size)
    return q.reshape(-1)


def mask_positions(
    label: Int[Array, "b height width"],
    exemplar_label: Int[Array, "b height width"],
    side: int,
    classes: int,
) -> Bool[Array, "b n"]:
    """Which of the input's positions count in the warped mask's loss.

    Positions of class 0, which is unknown, and of classes that the exemplar lacks do not count.

    Args:
      label: class map of the input.
      exemplar_label: class map of the exemplar.
      side: h = w, of the positions.
      classes: C.
    """
    label, exemplar_label = (
        nearest(x, side, side).reshape(len(x), -1) for x in (label, exemplar_label)
    )
    present = (jnp.arange(classes) == exemplar_label[..., None]).any(1).at[:, 0].set(False)
    return jnp.take_along_axis(present, label, 1)


def mask_shares(
    counts: Float[Array, "b"], group_size: int, dtype: jnp.dtype | type
) -> Float[Array, "b"]:
    """Size of a sample's group, divided by the number of the group's positions that count.

    Args:
      counts: number of positions of each sample that count (`mask_positions`).
      group_size: samples that share a divisor.
      dtype: of the result.
    """
    groups = in_groups(counts, group_size)
    # The release computes this divisor in float32, even if all else is float64.
    divisors = groups.sum(1, keepdims=True).astype(jnp.float32) + jnp.float32(1e-5)
    shares = groups.shape[1] / divisors.astype(dtype)
    return jnp.broadcast_to(shares, groups.shape).reshape(-1)


def alignment(
    adapted_input: Float[Array, "b h w k"], adapted_truth: Float[Array, "b h w k"]
) -> Float[Array, ""]:
    """Domain alignment: distance of input and truth, normalised, in domain S (equation 9)."""
    return mean_abs(unit_length(wide(adapted_input)), unit_length(wide(adapted_truth)))


def hinge_generator(logits: Sequence[Float[Array, "b _ _ 1"]]) -> Float[Array, ""]:
    """Adversarial loss of the generator: -D(G), mean over scales (equation 13)."""
    return sum((-jnp.mean(wide(x)) for x in logits), jnp.zeros(())) / len(logits)


def hinge_discriminator(logits: Sequence[Float[Array, "b _ _ 1"]], real: bool) -> Float[Array, ""]:
    """Hinge loss: relu(1 - D) of real or relu(1 + D) of fake images, mean over scales (eq. 13)."""
    sign = -1 if real else 1
    terms = (jnp.mean(jnp.maximum(1 + sign * wide(x), 0)) for x in logits)
    return sum(terms, jnp.zeros(())) / len(logits)


def discriminator_features(
    fake: Sequence[ScaleFeatures], real: Sequence[ScaleFeatures]
) -> Float[Array, ""]:
    """Feature matching: distances summed over all layers but the logits, mean over scales."""
    terms = (
        mean_abs(a, b)
        for fake_scale, real_scale in zip(fake, real, strict=True)
        for a, b in zip(fake_scale[:-1], real_scale[:-1], strict=True)
    )
    return sum(terms, jnp.zeros(())) / len(fake)


def mask_counts(settings: Settings, inputs: Inputs) -> Float[Array, "b"] | None:
    """The number of positions of each sample that count in the mask's loss; None without it."""
    if not settings.loss.mask:
        return None
    assert inputs.label is not None
    assert inputs.exemplar_label is not None
    side = inputs.label.shape[1] // settings.model.warp_stride
    classes = settings.data.channels
    positions = mask_positions(inputs.label, inputs.exemplar_label, side, classes)
    return positions.sum(1).astype(inputs.image.dtype)


def group_shares(settings: Settings, inputs: Inputs) -> Shares:
    """The shares of the samples of a batch of whole groups."""
    counts, r = mask_counts(settings, inputs), settings.loss.group_size
    return Shares(
        self_reference_weights(inputs.self_reference, r),
        None if counts is None else mask_shares(counts, r, counts.dtype),
    )


def pseudo_exemplar(fake: Features, truth: Features, q: Float[Array, "b"]) -> Float[Array, ""]:
    """VGG feature distance to the truth, for samples that are their own exemplar (equation 8).

    Args:
      fake: features of the output.
      truth: features of the truth.
      q: weights of the samples (`self_reference_weights`).
    """
    of_samples = q.reshape(-1, 1, 1, 1)
    terms = (
        weight * jnp.mean(jnp.abs(wide(fake[layer]) - wide(truth[layer])) * of_samples)
        for layer, weight in PSEUDO_EXEMPLAR_WEIGHTS.items()
    )
    return sum(terms, jnp.zeros(()))


def perceptual(
    fake: Float[Array, "b h w k"], truth: Float[Array, "b h w k"], norm: Literal["l1", "l2"]
) -> Float[Array, ""]:
    """Perceptual loss: distance d of deep VGG features, mean |d| or mean d^2 (equation 10)."""
    if norm == "l1":
        return mean_abs(fake, truth)
    return jnp.mean(jnp.square(wide(fake) - wide(truth)))


def contextual_layers(relu2_2: bool) -> dict[str, tuple[float, int]]:
    """The layers that the contextual loss compares: weight and pooling, see `CONTEXTUAL_LAYERS`."""
    return CONTEXTUAL_LAYERS | (CONTEXTUAL_RELU2_2 if relu2_2 else {})


def contextual_layer(
    x: Float[Array, "b h w k"], y: Float[Array, "b h w k"], centre: Literal["channels", "positions"]
) -> Float[Array, "b"]:
    """Contextual loss, -log CX, of one layer: each position of x should match one of y (eq. 11).

    Args:
      x: features of the output.
      y: features of the exemplar.
      centre: whether both are centred by y's mean over channels at the same position, or by y's
        mean over positions.
    """
    x = wide(x).reshape(x.shape[0], -1, x.shape[-1])
    y = wide(y).reshape(y.shape[0], -1, y.shape[-1])
    mean = y.mean(-1 if centre == "channels" else 1, keepdims=True)
    x, y = unit_length(x - mean), unit_length(y - mean)

    def best_affinity(x: Float[Array, "b n k"]) -> Float[Array, "b n"]:
        """The highest normalised affinity of each position of x."""
        distance = 1 - jnp.einsum("bnk,bmk->bnm", x, y, precision="highest")
        relative = distance / (distance.min(-1, keepdims=True) + 1e-3)
        weights = jnp.exp((1 - relative) / CONTEXTUAL_BANDWIDTH)
        return (weights / weights.sum(-1, keepdims=True)).max(-1)

    return -jnp.log(map_rows(best_affinity, x, most=CONTEXTUAL_PAIRS // y.shape[1]).mean(-1))


def contextual(
    fake: Features, exemplar: Features, centre: Literal["channels", "positions"], relu2_2: bool
) -> Float[Array, ""]:
    """Contextual loss: weighted sum over the layers, batch mean (equation 11)."""
    total = jnp.zeros(())
    for layer, (weight, pool) in contextual_layers(relu2_2).items():
        x, y = (average_pool(wide(features[layer]), pool) for features in (fake, exemplar))
        total += weight * jnp.mean(contextual_layer(x, y, centre))
    return total


def warped_mask(
    mask: Float[Array, "b h w classes"],
    label: Int[Array, "b height width"],
    exemplar_label: Int[Array, "b height width"],
    shares: Float[Array, "b"],
) -> Float[Array, ""]:
    """Cross-entropy of the warped mask where `mask_positions` count, mean over groups.

    Args:
      mask: (b, h, w, C), a distribution over classes at each position.
      label: (b, H, W), class map of the input.
      exemplar_label: (b, H, W), class map of the exemplar.
      shares: weights of the samples (`mask_shares`).
    """
    b, h, w, classes = mask.shape
    mask = wide(mask)
    weights = mask_positions(label, exemplar_label, h, classes).astype(mask.dtype)
    label = nearest(label, h, w).reshape(b, -1)
    picked = jnp.take_along_axis(mask.reshape(b, -1, classes), label[..., None], -1)[..., 0]
    entropy = (-jnp.log(picked + 1e-10) * weights).sum(1)
    return jnp.mean(entropy * shares)


def self_warp(
    warped: Float[Array, "b height width 3"],
    truth: Float[Array, "b height width 3"],
    q: Float[Array, "b"],
) -> Float[Array, ""]:
    """Distance of the warped exemplar to the truth, for samples that are their own exemplar.

    Args:
      warped: the warped exemplar.
      truth: the photograph of the input.
      q: weights of the samples (`self_reference_weights`).
    """
    return jnp.mean(jnp.abs(wide(warped) - wide(truth)) * q.reshape(-1, 1, 1, 1))


def regularisation(
    cycle: Float[Array, "b height width k"], exemplar: Float[Array, "b height width k"]
) -> Float[Array, ""]:
    """L_reg (equation 12): distance of the exemplar, warped to the input and back, to itself."""
    return mean_abs(cycle, exemplar)
