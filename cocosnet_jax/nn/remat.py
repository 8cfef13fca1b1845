"""What the backward pass keeps of the forward pass; the rest it computes again."""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
from jax.ad_checkpoint import checkpoint_policies
from jaxtyping import Array, Float, PyTree

# What convolutions yield, by `checkpoint_name`: dear to compute again.
PRODUCT = "product"
Rematerialise = Literal["nothing", "elementwise", "blocks"]


def rematerialise(function: Callable[..., Any], what: Rematerialise) -> Callable[..., Any]:
    """`function(module, *arrays)`, of which the backward pass computes `what` again.

    Args:
      function: takes a Linen module and arrays. Its arrays are kept.
      what: `nothing`; what is `elementwise`: norms, activations, padding, all but what
        is named `PRODUCT`; or all of it, `blocks`.
    """
    if what == "nothing":
        return function
    kept = checkpoint_policies.save_only_these_names(PRODUCT)
    return nn.remat(function, policy=kept if what == "elementwise" else None)


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
