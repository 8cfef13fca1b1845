"""Warp accuracy: how often the correspondence lands on the right class."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cocosnet_jax.nn.resize import nearest


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
