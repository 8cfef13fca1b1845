"""Semantic consistency and style relevance (the paper's tables 2 and 3, SPEC section 11).

Both compare mean features of VGG over the areas of a class, by their cosine. *Semantic
consistency* takes the output and the truth under the input's label map, every value of it (0
included) weighted by its area. *Style relevance* takes the output under the input's map and the
exemplar under its own: classes above 0 that both maps hold, weighted by their area in the input's
map among these. Features are brought to the map's size by picking the nearest. That is done here
without making them that large: in a class's mean over the map, a feature position weighs as much as
it covers pixels of the class.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from cocosnet_jax import vgg

CONSISTENCY_LAYERS = ("relu3_2", "relu4_2", "relu5_2")
# `rgb` is the picture itself.
STYLE_LAYERS = ("rgb", *vgg.LOSS_LAYERS)
# Table 3 calls these so.
COLOUR, TEXTURE = "relu1_2", "relu2_2"
# Label maps hold bytes.
_CLASSES = 256

_Maps = Float[Array, "b h w c"]
_Labels = Int[Array, "b height width"]


class StyleRelevance(NamedTuple):
    """Style relevance of pairs.

    Attributes:
      by_layer: name -> (b,) cosines; 0 where the pair has no common class.
      common: (b,) whether the pair has a common class above 0.
    """

    by_layer: dict[str, Float[Array, "b"]]
    common: Float[Array, "b"]


def semantic_consistency(
    weights: vgg.VggWeights,
    image: Float[Array, "b height width 3"],
    truth: Float[Array, "b height width 3"],
    label: _Labels,
) -> dict[str, Float[Array, "b"]]:
    """Layer -> (b,) consistency; table 2's number is the mean of the layers.

    Args:
      weights: VGG-19 in the paper; VGG-16 gives other numbers.
      image: what was generated, RGB in [-1, 1].
      truth: the photograph of the input.
      label: the input's label map, 0..255.
    """
    ours, theirs = (vgg.features(weights, x, CONSISTENCY_LAYERS) for x in (image, truth))
    found = {}
    for layer in CONSISTENCY_LAYERS:
        mean, other = (class_means(features[layer], label) for features in (ours, theirs))
        found[layer] = _weighted(_cosines(mean, other), _areas(label, image.dtype))
    return found


def style_relevance(
    weights: vgg.VggWeights,
    image: Float[Array, "b height width 3"],
    exemplar: Float[Array, "b height width 3"],
    label: _Labels,
    exemplar_label: _Labels,
) -> StyleRelevance:
    """How alike output and exemplar are in the areas of each class; `relu1_2` is table 3's colour.

    Args:
      weights: VGG-19 in the paper; VGG-16 gives other numbers.
      image: what was generated, RGB in [-1, 1].
      exemplar: whose style it should have.
      label: the input's label map, 0..255.
      exemplar_label: the exemplar's own.
    """
    layers = tuple(name for name in STYLE_LAYERS if name != "rgb")
    ours = {"rgb": image} | vgg.features(weights, image, layers)
    theirs = {"rgb": exemplar} | vgg.features(weights, exemplar, layers)
    area = _areas(label, image.dtype)
    both = (area > 0) & (_areas(exemplar_label, image.dtype) > 0)
    both = both.at[:, 0].set(False)
    weight = jnp.where(both, area, 0)
    by_layer = {
        layer: _weighted(
            _cosines(class_means(ours[layer], label), class_means(theirs[layer], exemplar_label)),
            weight,
        )
        for layer in STYLE_LAYERS
    }
    return StyleRelevance(by_layer, jnp.any(both, axis=1))


def class_means(features: _Maps, label: _Labels) -> Float[Array, "b classes c"]:
    """Mean of the features over each class of the map, 0 where a class is absent."""
    b, h, w, c = features.shape
    height, width = label.shape[1:]
    # The feature position that each pixel takes (SPEC, symbols: nearest).
    rows, columns = np.arange(height) * h // height, np.arange(width) * w // width
    cell = rows[:, None] * w + columns
    counts = jnp.zeros((b, _CLASSES, h * w), features.dtype)
    counts = counts.at[jnp.arange(b)[:, None, None], label, cell].add(1)
    sums = jnp.einsum("bkp,bpc->bkc", counts, features.reshape(b, h * w, c), precision="highest")
    return sums / jnp.maximum(counts.sum(-1, keepdims=True), 1)


def _areas(label: _Labels, dtype: jnp.dtype) -> Float[Array, "b classes"]:
    """Pixels of each class."""
    b = len(label)
    counts = jnp.zeros((b, _CLASSES), dtype)
    return counts.at[jnp.arange(b)[:, None, None], label].add(1)


def _cosines(a: Float[Array, "b k c"], b: Float[Array, "b k c"]) -> Float[Array, "b k"]:
    lengths = jnp.linalg.norm(a, axis=-1) * jnp.linalg.norm(b, axis=-1)
    return jnp.sum(a * b, -1) / jnp.maximum(lengths, 1e-16 if a.dtype == jnp.float64 else 1e-12)


def _weighted(values: Float[Array, "b k"], weight: Float[Array, "b k"]) -> Float[Array, "b"]:
    total = weight.sum(-1)
    return (values * weight).sum(-1) / jnp.maximum(total, 1)
