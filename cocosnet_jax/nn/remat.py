"""What the backward pass keeps of the forward pass; the rest it computes again."""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
from jax.ad_checkpoint import checkpoint_policies
from jaxtyping import Array, Float, PyTree

# By `checkpoint_name`, what is dear to compute again: what convolutions yield; and what spectral
# norm finds, which is small enough to be kept always.
PRODUCT = "product"
SPECTRAL = "spectral"
Rematerialise = Literal["nothing", "elementwise", "blocks"]


def rematerialise(function: Callable[..., Any], what: Rematerialise) -> Callable[..., Any]:
    """`function(module, *arrays)`, of which the backward pass computes `what` again.

    Args:
      function: takes a Linen module and arrays. Its arrays are kept.
      what: `nothing`; what is `elementwise`: norms, activations, padding, all but what is named
        `PRODUCT` or `SPECTRAL`; or `blocks`, all but what is named `SPECTRAL`.
    """
    if what == "nothing":
        return function
    kept = [SPECTRAL, PRODUCT] if what == "elementwise" else [SPECTRAL]
    return nn.remat(function, policy=checkpoint_policies.save_only_these_names(*kept))


def apply(
    module: nn.Module, *arrays: PyTree, train: bool, what: Rematerialise
) -> Float[Array, "..."]:
    """`module(*arrays, train=train)`, of which the backward pass computes `what` again.

    Args:
      module: a Linen module that takes arrays and `train`.
      arrays: of any shapes, or trees of them; they are kept.
      train: the module's.
      what: see `rematerialise`.
    """

    def call(module: Callable[..., Any], *arrays: PyTree) -> Float[Array, "..."]:
        return module(*arrays, train=train)

    return rematerialise(call, what)(module, *arrays)
