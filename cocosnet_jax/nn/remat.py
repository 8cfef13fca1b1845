"""What the backward pass keeps of the forward pass, by name; the rest it computes again."""

from collections.abc import Callable
from typing import Literal, ParamSpec, TypeVar

import jax
from jax.ad_checkpoint import checkpoint_policies

# What convolutions and the correlation yield: dear to compute again.
PRODUCT = "product"
# What residual blocks and the streaming warp yield: between them, all can be computed again.
BLOCK = "block"

Rematerialise = Literal["nothing", "elementwise", "blocks"]
P = ParamSpec("P")
R = TypeVar("R")

_KEPT = {"elementwise": (PRODUCT, BLOCK), "blocks": (BLOCK,)}


def rematerialise(function: Callable[P, R], what: Rematerialise) -> Callable[P, R]:
    """`function`, of which the backward pass computes `what` again instead of reading it.

    Args:
      function: pure; its values are named by `jax.ad_checkpoint.checkpoint_name`.
      what: `nothing`; what is `elementwise`: norms, activations, concatenations, padding; or all
        within `blocks`.
    """
    if what == "nothing":
        return function
    policy = checkpoint_policies.save_only_these_names(*_KEPT[what])
    return jax.checkpoint(function, policy=policy)
