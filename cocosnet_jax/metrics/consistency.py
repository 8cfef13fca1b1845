"""Semantic consistency and style relevance (the paper's tables 2 and 3, SPEC section 11).

Both compare mean features of VGG over the areas of a class, by their cosine. *Semantic
consistency* takes the output and the truth under the input's label map, every value of it (0
included) weighted by its area. *Style relevance* takes the output under the input's map and the
exemplar under its own: classes above 0 that both maps hold, weighted by their area in the input's
map among these. Features are brought to the map's size by picking the nearest. That is done here
without making them that large: in a class's mean over the map, a feature position weighs as much as
it covers pixels of the class.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from cocosnet_jax import vgg

CONSISTENCY_LAYERS = ("relu3_2", "relu4_2", "relu5_2")
# `rgb` is the picture itself.
STYLE_LAYERS = ("rgb", *vgg.LOSS_LAYERS)
# The layers that Table 3 calls colour and texture.
COLOUR, TEXTURE = "relu1_2", "relu2_2"
# Label maps hold bytes.
_CLASSES = 256

# layer -> (b, h, w, c) activations, or (b,) scores of a batch
Features = Mapping[str, Float[Array, "b ..."]]
_Maps = Float[Array, "b h w c"]
_Labels = Int[Array, "b height width"]


def features(
    weights: vgg.VggWeights, image: Float[Array, "b height width 3"], layers: Sequence[str]
) -> Features:
    """What both measures read of pictures, RGB in [-1, 1]: VGG's layers, and `rgb` itself."""
    found = vgg.features(weights, image, [layer for layer in layers if layer != "rgb"])
    return found | {"rgb": image} if "rgb" in layers else found


class StyleRelevance(NamedTuple):
    """Style relevance of pairs.

    Attributes:
      by_layer: name -> (b,) cosines; 0 where the pair has no common class.
      common: (b,) whether the pair has a common class above 0.
    """

    by_layer: dict[str, Float[Array, "b"]]
    common: Float[Array, "b"]


def semantic_consistency(ours: Features, theirs: Features, label: _Labels) -> Features:
    """Layer -> (b,) consistency; table 2's number is the mean of the layers.

    Args:
      ours: features of what was generated, with `CONSISTENCY_LAYERS`; of VGG-19 in the paper, and
        VGG-16 gives other numbers.
      theirs: features of the photographs of the inputs.
      label: the inputs' label maps, 0..255.
    """
    weight = _areas(label, ours[CONSISTENCY_LAYERS[0]].dtype)
    return {
        layer: _weighted(
            _cosines(class_means(ours[layer], label), class_means(theirs[layer], label)), weight
        )
        for layer in CONSISTENCY_LAYERS
    }


def style_relevance(
    ours: Features, theirs: Features, label: _Labels, exemplar_label: _Labels
) -> StyleRelevance:
    """How alike output and exemplar are in the areas of each class.

    Args:
      ours: features of what was generated, with `STYLE_LAYERS`; of VGG-19 in the paper, and VGG-16
        gives other numbers.
      theirs: features of the exemplars.
      label: the inputs' label maps, 0..255.
      exemplar_label: the exemplars' own.
    """
    area, other = (_areas(x, ours[COLOUR].dtype) for x in (label, exemplar_label))
    common = (area > 0) & (other > 0) & (jnp.arange(_CLASSES) > 0)
    by_layer = {
        layer: _weighted(
            _cosines(class_means(ours[layer], label), class_means(theirs[layer], exemplar_label)),
            jnp.where(common, area, 0),
        )
        for layer in STYLE_LAYERS
    }
    return StyleRelevance(by_layer, jnp.any(common, axis=1))


def class_means(features: _Maps, label: _Labels) -> Float[Array, "b classes c"]:
    """Mean of the features over each class of the map, 0 where a class is absent."""
    b, h, w, c = features.shape
    height, width = label.shape[1:]
    batch = np.arange(b)[:, None, None]
    if (h, w) == (height, width):
        sums = jnp.zeros((b, _CLASSES, c), features.dtype).at[batch, label].add(features)
    else:
        # The feature position that each pixel takes (SPEC, symbols: nearest).
        rows, columns = np.arange(height) * h // height, np.arange(width) * w // width
        covered = jnp.zeros((b, _CLASSES, h * w), features.dtype)
        covered = covered.at[batch, label, rows[:, None] * w + columns].add(1)
        flat = features.reshape(b, h * w, c)
        sums = jnp.einsum("bkp,bpc->bkc", covered, flat, precision="highest")
    return sums / jnp.maximum(_areas(label, features.dtype)[..., None], 1)


def _areas(label: _Labels, dtype: jnp.dtype) -> Float[Array, "b classes"]:
    """Pixels of each class."""
    pixels = jnp.zeros((len(label), _CLASSES), dtype)
    return pixels.at[np.arange(len(label))[:, None, None], label].add(1)


def _cosines(a: Float[Array, "b k c"], b: Float[Array, "b k c"]) -> Float[Array, "b k"]:
    lengths = jnp.linalg.norm(a, axis=-1) * jnp.linalg.norm(b, axis=-1)
    return jnp.sum(a * b, -1) / jnp.maximum(lengths, 1e-16 if a.dtype == jnp.float64 else 1e-12)


def _weighted(values: Float[Array, "b k"], weight: Float[Array, "b k"]) -> Float[Array, "b"]:
    return (values * weight).sum(-1) / jnp.maximum(weight.sum(-1), 1)
