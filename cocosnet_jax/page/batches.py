"""Translations of several visitors at once."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import UInt8

from cocosnet_jax import pictures
from cocosnet_jax.data.images import Photograph
from cocosnet_jax.inference import Translator

# Pixels of a batch: two pictures of 128 x 128 on CPUs, eight of 256 x 256 on other devices. Larger
# batches on CPUs keep the first in the line waiting for little gain (`benchmarks.page`).
_PIXELS = {"cpu": 2 * 128**2}
_PIXELS_ELSEWHERE = 8 * 256**2
_MOST = 8


class Pair(NamedTuple):
    """What is translated: maps as the networks take them, in `Batch.label`, and an exemplar."""

    planes: UInt8[np.ndarray, "side side planes"]
    exemplar: Photograph
    exemplar_planes: UInt8[np.ndarray, "side side planes"] | None


def most(size: int) -> int:
    """How many pictures of `size` x `size` are worth translating at once on this machine."""
    pixels = _PIXELS.get(jax.default_backend(), _PIXELS_ELSEWHERE)
    return min(_MOST, max(1, pixels // size**2))


def translate(
    translator: Translator, pairs: Sequence[Pair], most: int
) -> list[tuple[Photograph, Photograph]]:
    """Translates 1 to `most` pairs; only batches of one and full ones are ever compiled.

    Returns:
      Result and warped exemplar of each.
    """
    size = 1 if len(pairs) == 1 else most
    full = [*pairs, *[pairs[0]] * (size - len(pairs))]
    maps = [pair.exemplar_planes for pair in full if pair.exemplar_planes is not None]
    outputs = translator.translate(
        np.stack([pair.planes for pair in full]),
        np.stack([pair.exemplar for pair in full]),
        np.stack(maps) if maps else None,
    )
    results, warped = np.asarray(outputs.image), np.asarray(outputs.warped_exemplar)
    return [
        (pictures.to_bytes(results[i]), pictures.to_bytes(warped[i])) for i in range(len(pairs))
    ]
