"""Rematerialisation: what the backward pass keeps of the forward pass, and what it recomputes."""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
from jax.ad_checkpoint import checkpoint_policies
from jaxtyping import Array, Float, PyTree

# Names (`checkpoint_name`) of results that are expensive to recompute: those of a convolution,
# ReLU's output, statistics of norms, and what kernels read and write.
PRODUCT = "product"
SPECTRAL = "spectral"  # vectors and sigma of spectral norm: small, and always kept
Rematerialise = Literal["nothing", "elementwise", "blocks"]


def rematerialise(function: Callable[..., Any], what: Rematerialise) -> Callable[..., Any]:
    """Returns `function`, changed so that the backward pass recomputes `what`.

    Args:
      function: takes a Linen module and arrays. The arrays are kept.
      what: `nothing`; `elementwise`, which is norms, activations, padding and all else that is not
        named `PRODUCT` or `SPECTRAL`; or `blocks`, which is all that is not named `SPECTRAL`.
    """
    if what == "nothing":
        return function
    kept = [SPECTRAL, PRODUCT] if what == "elementwise" else [SPECTRAL]
    return nn.remat(function, policy=checkpoint_policies.save_only_these_names(*kept))


def apply(
    module: nn.Module, *arrays: PyTree, train: bool, what: Rematerialise
) -> Float[Array, "..."]:
    """Calls `module(*arrays, train=train)` so that the backward pass recomputes `what`.

    Args:
      module: a Linen module that takes arrays and `train`.
      arrays: arrays of any shapes, or trees of them; they are kept.
      train: passed to the module.
      what: see `rematerialise`.
    """

    def call(module: Callable[..., Any], *arrays: PyTree) -> Float[Array, "..."]:
        return module(*arrays, train=train)

    return rematerialise(call, what)(module, *arrays)
