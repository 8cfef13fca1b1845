"""Measurements of translations.

A metric counts in every batch, under `jit`; the sums of all batches add up to its result.
"""

from typing import Any, Protocol

from jaxtyping import Array, Bool

from cocosnet_jax.settings import Settings
from cocosnet_jax.types import Batch, Outputs


class Metric(Protocol):
    """One measurement of a validation split."""

    def applies(self, settings: Settings) -> bool:
        """Whether a run with these settings can be measured by it."""

    def count(self, batch: Batch, outputs: Outputs, valid: Bool[Array, "b"]) -> Any:
        """Returns what is summed up over all batches, a pytree of arrays; pure.

        Args:
          batch: inputs and truth.
          outputs: translations of the batch, with warped mask and matches where there are any.
          valid: which samples are no padding.
        """

    def result(self, sums: Any) -> dict[str, float]:
        """Returns numbers by name, from the sums over all batches in float64."""
