"""Computes the numbers that metrics need of a batch of pictures, one row per picture; pure."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from cocosnet_jax.encode import unit_image
from cocosnet_jax.metrics import consistency, inception, lpips, swd

Networks = Mapping[str, Any]
# name -> (b, ...): pictures and maps in bytes, `corners` of SWD's patches
Batch = Mapping[str, Array]


def of_sets(networks: Networks, batch: Batch, sets: Sequence[str]) -> list[Array]:
    """What comparisons of two sets need of each picture; (b, numbers) each.

    Args:
      networks: `inception`, if it is in `sets`.
      batch: `image`, (b, h, w, 3) bytes; for `swd` also `corners`.
      sets: of `inception` (pool3 features) and `swd` (descriptors of patches); the result has them
        always in this order.
    """
    parts = []
    image = batch["image"]
    if "inception" in sets:
        parts.append(inception.pool3(networks["inception"], unit_image(image)))
    if "swd" in sets:
        parts.append(swd.descriptors(image, batch["corners"]).reshape(len(image), -1))
    return parts


def of_pictures(networks: Networks, batch: Batch, scores: Sequence[str]) -> list[Array]:
    """Scores of single pictures, those in `scores`, always in the order below; (b, numbers) each.

    Args:
      networks: `vgg`, and LPIPS's `lpips_vgg` and `heads`, as far as they are needed.
      batch: `image`; as far as they are needed `truth`, `exemplar`, their maps `label` and
        `exemplar_label`, and more results of the same inputs, `other_0` ...
      scores: of `semantic_consistency`, `style_relevance`, `lpips`, `lpips_diversity`.
    """
    pictures = {
        name: unit_image(array)
        for name, array in batch.items()
        if name in ("image", "truth", "exemplar") or name.startswith("other_")
    }
    labels = {name: batch[name].astype(jnp.int32) for name in batch if name.endswith("label")}
    parts: list[Array] = []
    seen: dict[str, consistency.Features] = {}

    def of(name: str) -> consistency.Features:
        if name not in seen:
            layers = consistency.STYLE_LAYERS
            seen[name] = consistency.features(networks["vgg"], pictures[name], layers)
        return seen[name]

    def unit(name: str) -> dict[str, Array]:
        return lpips.features(networks["lpips_vgg"], pictures[name])

    if "semantic_consistency" in scores:
        found = consistency.semantic_consistency(of("image"), of("truth"), labels["label"])
        parts += [found[layer][:, None] for layer in consistency.CONSISTENCY_LAYERS]
    if "style_relevance" in scores:
        relevance = consistency.style_relevance(
            of("image"), of("exemplar"), labels["label"], labels["exemplar_label"]
        )
        parts += [relevance.by_layer[layer][:, None] for layer in consistency.STYLE_LAYERS]
        parts.append(relevance.common[:, None].astype(jnp.float32))
    if "lpips" in scores or "lpips_diversity" in scores:
        ours = unit("image")
        if "lpips" in scores:
            parts.append(lpips.distance(networks["heads"], ours, unit("truth"))[:, None])
        if "lpips_diversity" in scores:
            results = [ours, *(unit(name) for name in pictures if name.startswith("other_"))]
            distances = [
                lpips.distance(networks["heads"], results[i], results[j])
                for i, j in lpips.pairs(len(results))
            ]
            parts.append(jnp.mean(jnp.stack(distances, 1), 1, keepdims=True))
    return parts
