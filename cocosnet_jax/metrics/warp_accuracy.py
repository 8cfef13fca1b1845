"""Warp accuracy: how often the correspondence lands on the right class."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cocosnet_jax.nn.resize import nearest
from cocosnet_jax.settings import Settings
from cocosnet_jax.types import Batch, Outputs


class Counts(NamedTuple):
    """Sums over positions; those of several batches add up.

    Attributes:
      right: positions whose warped label is the input's.
      expected: the same, expected of a warp that picks exemplar positions at random.
      positions: how many were looked at.
    """

    right: Float[Array, ""]
    expected: Float[Array, ""]
    positions: Float[Array, ""]


def count(
    warped_mask: Float[Array, "b h w classes"],
    label: Int[Array, "b height width"],
    exemplar_label: Int[Array, "b height width"],
    valid: Bool[Array, "b"],
) -> Counts:
    """Compares the likeliest warped class with the input's class, position by position.

    As in the warped mask's loss (SPEC section 6), a position counts where its class is known (not
    0) and occurs in the exemplar: elsewhere no warp can be right.

    Args:
      warped_mask: the exemplar's one-hot map carried by the warp.
      label: classes of the input at H x H; brought to h x h by picking the nearest.
      exemplar_label: the same of the exemplar.
      valid: which samples are no padding.
    """
    b, h, w, classes = warped_mask.shape
    wanted = nearest(label[..., None], h, w).reshape(b, h * w)
    there = nearest(exemplar_label[..., None], h, w).reshape(b, h * w)
    share = jnp.mean(there[..., None] == jnp.arange(classes), axis=1)
    chance = jnp.take_along_axis(share, wanted, axis=1)
    counted = (chance > 0) & (wanted > 0) & valid[:, None]
    right = (jnp.argmax(warped_mask.reshape(b, h * w, classes), -1) == wanted) & counted
    return Counts(
        jnp.sum(right, dtype=jnp.float32),
        jnp.sum(jnp.where(counted, chance, 0)),
        jnp.sum(counted, dtype=jnp.float32),
    )


class WarpAccuracy:
    """The share of right positions of a validation split, and what chance would get."""

    def applies(self, settings: Settings) -> bool:
        """Where the input domain has classes, and the network an exemplar to warp."""
        return (
            settings.data.condition != "channels" and settings.model.generator_condition != "input"
        )

    def count(self, batch: Batch, outputs: Outputs, valid: Bool[Array, "b"]) -> Counts:
        """See `count` above, and `Metric`."""
        label, exemplar_label = jnp.asarray(batch.label), jnp.asarray(batch.exemplar_label)
        mask = jnp.asarray(outputs.warped_mask)
        return count(mask, label[..., 0], exemplar_label[..., 0], valid)

    def result(self, sums: Counts) -> dict[str, float]:
        """`positions`, and where there are any, `warp_accuracy` and `warp_accuracy_by_chance`."""
        right, expected, positions = map(float, sums)
        found: dict[str, float] = {"positions": int(positions)}
        if positions:
            found["warp_accuracy"] = right / positions
            found["warp_accuracy_by_chance"] = expected / positions
        return found
