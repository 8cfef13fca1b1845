"""What the backward pass keeps of the forward pass; the rest it computes again."""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
from jax.ad_checkpoint import checkpoint_policies

# What convolutions and the correlation yield, by `checkpoint_name`: dear to compute again.
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
