"""Joins two batches so that one call of a network processes both."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree


def interleave(
    a: Float[Array, "b height width c"], b: Float[Array, "b height width c"]
) -> Float[Array, "b2 height width c"]:
    """Alternates the samples of two batches, so that sharded samples stay on their devices."""
    return jnp.stack([a, b], 1).reshape(-1, *a.shape[1:])


def separate(interleaved: PyTree) -> tuple[PyTree, PyTree]:
    """The inverse of `interleave`, for every array of a tree."""
    return jax.tree.map(lambda x: x[0::2], interleaved), jax.tree.map(
        lambda x: x[1::2], interleaved
    )
