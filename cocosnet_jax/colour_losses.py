"""Terms of the objective that ask for the exemplar's colours.

Neither the papers nor the release have them. The features of VGG that the other terms compare
hardly tell a region's colour (docs/learning.md, "Colours").
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cocosnet_jax.losses import self_warp, wide
from cocosnet_jax.nn.resize import average_pool


def colour(
    fake: Float[Array, "b height width 3"],
    truth: Float[Array, "b height width 3"],
    side: int,
    q: Float[Array, "b"],
) -> Float[Array, ""]:
    """Distance of the result's colours to the truth's, for samples that are their own exemplar.

    Means of small squares tell a region's colour, and leave textures within a square to the other
    terms: compared pixel by pixel, uncertain textures would be blurred.

    Args:
      fake: the output.
      truth: the photograph of the input.
      side: of the squares whose mean colours are compared, in pixels.
      q: weights of the samples (`self_reference_weights`).
    """
    return self_warp(average_pool(wide(fake), side), average_pool(wide(truth), side), q)


def class_colour(
    image: Float[Array, "b height width 3"],
    label: Int[Array, "b height width"],
    exemplar: Float[Array, "b height width 3"],
    exemplar_label: Int[Array, "b height width"],
    classes: int,
) -> Float[Array, ""]:
    """Distance of an image's mean colour of each class to the exemplar's, mean over samples.

    It can bring the result nearer to the exemplar's colours than the truth is, whose patterns and
    shading fall differently. For the warped exemplar, it asks the correspondence to take places
    that together have the class's colour. A class counts by its share of the input's pixels, among
    the classes that both maps have. Class 0, which is unknown, does not count.

    Args:
      image: the output, or the warped exemplar.
      label: class map of the input.
      exemplar: the exemplar.
      exemplar_label: its class map.
      classes: number of classes.
    """

    def means(
        pixels: Float[Array, "b height width 3"], label: Int[Array, "b height width"]
    ) -> tuple[Float[Array, "b classes 3"], Float[Array, "b classes 1"]]:
        """Mean colours, and numbers of pixels."""
        one_hot = jax.nn.one_hot(label, classes, dtype=pixels.dtype)
        counts = one_hot.sum((1, 2))[..., None]
        sums = jnp.einsum("bhwc,bhwk->bck", one_hot, pixels, precision="highest")
        return sums / jnp.maximum(counts, 1), counts

    ours, counts = means(wide(image), label)
    theirs, others = means(wide(exemplar), exemplar_label)
    shares = jnp.where(others > 0, counts, 0).at[:, 0].set(0)
    shares /= jnp.maximum(shares.sum(1, keepdims=True), 1)
    return jnp.mean((jnp.abs(ours - theirs) * shares).sum(1))
