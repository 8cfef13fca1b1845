"""LPIPS 0.1 with VGG-16: how different two pictures look (SPEC section 11).

Features of five layers of VGG-16 are made unit vectors at each position. Their squared differences
are weighted by a learned head per layer, averaged over positions and added up. The mean over pairs
of several results of one input measures their diversity. LPIPS's preprocessing is torchvision's.
"""

import itertools
from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float

from cocosnet_jax import vgg

LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
_EPS = 1e-10

# layer of `LAYERS` -> one weight per channel
Heads = Mapping[str, Float[Array, "_"]]


def features(
    weights: vgg.VggWeights, image: Float[Array, "b height width 3"]
) -> dict[str, Float[Array, "b _ _ _"]]:
    """Unit vectors of the five layers.

    Args:
      weights: VGG-16 with torchvision's preprocessing.
      image: RGB in [-1, 1].

    Raises:
      ValueError: it is another network.
    """
    if (weights.network, weights.preprocessing) != ("VGG-16", "torchvision"):
        raise ValueError(
            f"LPIPS takes torchvision's VGG-16, not {weights.preprocessing}'s {weights.network}"
        )
    return {name: _unit(found) for name, found in vgg.features(weights, image, LAYERS).items()}


def distance(
    heads: Heads,
    ours: Mapping[str, Float[Array, "b _ _ _"]],
    theirs: Mapping[str, Float[Array, "b _ _ _"]],
) -> Float[Array, "b"]:
    """LPIPS of each pair, from what `features` makes of both; 0 for equal pictures."""
    total = jnp.zeros(len(ours[LAYERS[0]]), ours[LAYERS[0]].dtype)
    for layer in LAYERS:
        head = heads[layer].astype(total.dtype)
        squares = (ours[layer] - theirs[layer]) ** 2
        total += jnp.mean(jnp.matmul(squares, head, precision="highest"), (1, 2))
    return total


def _unit(features: Float[Array, "b _ _ _"]) -> Float[Array, "b _ _ _"]:
    return features / (jnp.sqrt(jnp.sum(features**2, -1, keepdims=True)) + _EPS)


def pairs(count: int) -> list[tuple[int, int]]:
    """All pairs of `count` results of one input; the mean of their distances is the diversity."""
    return list(itertools.combinations(range(count), 2))
