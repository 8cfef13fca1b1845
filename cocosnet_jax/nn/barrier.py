"""A barrier, for what XLA would compute too early, or too late, on CPUs."""

from typing import TypeVar

import jax

from cocosnet_jax.nn.platform import by_platform

_T = TypeVar("_T")


def barrier(values: _T) -> _T:
    """Returns these values, of any PyTree; on CPUs, what is computed from one comes after all.

    So it is with their gradients.
    """
    return by_platform(values, cpu=jax.lax.optimization_barrier, default=lambda values: values)
