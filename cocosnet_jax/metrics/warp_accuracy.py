"""Warp accuracy and mIoU of the warped mask.

A position counts if its class is known (not 0) and occurs in the exemplar, as in the loss of the
warped mask (SPEC section 6). At other positions no warp can be right.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer

from cocosnet_jax.metrics.correspondence import suffix
from cocosnet_jax.nn.resize import nearest
from cocosnet_jax.settings import Settings
from cocosnet_jax.types import Batch, Match, Outputs


class Counts(NamedTuple):
    """Numbers of positions per class; the counts of several batches add up.

    Attributes:
      wanted: positions that count, per class of the input.
      given: name of a match -> the same positions, per warped class.
      right: name of a match -> positions whose warped class is the input's, per class. For
        `chance`, the expected number.
    """

    wanted: Float[Array, "classes"]
    given: dict[str, Float[Array, "classes"]]
    right: dict[str, Float[Array, "classes"]]


def count(
    warped_mask: Float[Array, "b h w classes"],
    label: Integer[Array, "b height width"],
    exemplar_label: Integer[Array, "b height width"],
    valid: Bool[Array, "b"],
    matches: dict[str, Match] | None = None,
) -> Counts:
    """Compares the likeliest warped class with the input's class, position by position.

    Args:
      warped_mask: the exemplar's one-hot map carried by the warp.
      label: classes of the input at H x H; brought to h x h by picking the nearest.
      exemplar_label: the same of the exemplar.
      valid: which samples are no padding.
      matches: baselines; each warps the class of the best match.

    Returns:
      Counts of the mask, by the name `""`, of `chance`, which matches positions at random, and of
      the baselines.
    """
    b, h, w, classes = warped_mask.shape
    wanted = nearest(label[..., None], h, w).reshape(b, h * w)
    there = nearest(exemplar_label[..., None], h, w).reshape(b, h * w)
    share = jnp.mean(there[..., None] == jnp.arange(classes), axis=1)
    chance = jnp.take_along_axis(share, wanted, axis=1)
    counted = (chance > 0) & (wanted > 0) & valid[:, None]

    def per_class(label: Array, weights: Array) -> Float[Array, "classes"]:
        return jax.ops.segment_sum(weights.astype(jnp.float32).ravel(), label.ravel(), classes)

    warped = {"": jnp.argmax(warped_mask.reshape(b, h * w, classes), -1)}
    for name, match in (matches or {}).items():
        if name:
            warped[name] = jnp.take_along_axis(there, match.place.reshape(b, h * w), 1)
    given = {name: per_class(label, counted) for name, label in warped.items()}
    right = {name: per_class(wanted, counted & (label == wanted)) for name, label in warped.items()}
    given["chance"] = jnp.sum(share * counted.sum(1, keepdims=True), 0)
    right["chance"] = per_class(wanted, jnp.where(counted, chance, 0))
    return Counts(per_class(wanted, counted), given, right)


class WarpAccuracy:
    """The share of right positions and the mIoU of a validation split, beside the baselines'."""

    def applies(self, settings: Settings) -> bool:
        """Where the input domain has classes, and the network an exemplar to warp."""
        return settings.data.condition != "channels" and settings.model.needs_exemplar

    def count(self, batch: Batch, outputs: Outputs, valid: Bool[Array, "b"]) -> Counts:
        """See `count` above, and `Metric`."""
        label, exemplar_label = jnp.asarray(batch.label), jnp.asarray(batch.exemplar_label)
        mask = jnp.asarray(outputs.warped_mask)
        return count(mask, label[..., 0], exemplar_label[..., 0], valid, outputs.matches)

    def result(self, sums: Any) -> dict[str, float]:
        """`positions`, and where there are any, `warp_accuracy` and `warped_mask_miou`.

        mIoU: intersection over union of every class that positions have, over all of the split;
        their mean.
        """
        wanted = np.asarray(sums.wanted)
        found: dict[str, float] = {"positions": int(wanted.sum())}
        occurs = wanted > 0
        for method, right in sums.right.items() if occurs.any() else ():
            found[f"warp_accuracy{suffix(method)}"] = float(right.sum() / wanted.sum())
            union = wanted + sums.given[method] - right
            miou = np.mean(right[occurs] / union[occurs])
            found[f"warped_mask_miou{suffix(method)}"] = float(miou)
        return found
