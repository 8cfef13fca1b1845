"""Dense correspondence: comparing positions, and carrying values by the soft match.

Positions of the input are n (rows of the correlation), positions of the exemplar m (columns).
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cocosnet_jax.nn.norms import unit_length

# Logits are cosines times 100: rounding a product to bf16 or TF32 would move them by tenths.
PRECISION = jax.lax.Precision.HIGHEST


def neighbourhoods(x: Float[Array, "b h w k"], side: int) -> Float[Array, "b h w k_side"]:
    """Each position's side x side neighbourhood, zero padded, stacked into one vector."""
    if side == 1:
        return x
    reach = side // 2
    h, w = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    shifts = [padded[:, i : i + h, j : j + w] for i in range(side) for j in range(side)]
    return jnp.concatenate(shifts, -1)


def matching_features(
    x: Float[Array, "b h w k"], match_kernel: int, centre: Literal["channels", "positions"]
) -> Float[Array, "b n k_match"]:
    """Centred unit vectors whose products are the correlation (equation 3, SPEC section 3).

    Args:
      x: theta or phi.
      match_kernel: side of the neighbourhood that stands for a position.
      centre: subtract each position's mean over channels, or each channel's over positions.

    Returns:
      (b, h * w, k * match_kernel^2), float32 or wider.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    x = neighbourhoods(x, match_kernel)
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    x = x - x.mean(-1 if centre == "channels" else 1, keepdims=True)
    return unit_length(x)


def correlation_logits(
    theta: Float[Array, "b n k"], phi: Float[Array, "b m k"], temperature: float
) -> Float[Array, "b n m"]:
    """Cosines of all pairs, divided by the temperature (equations 3 and 4)."""
    return jnp.einsum("bnk,bmk->bnm", theta, phi, precision=PRECISION) / temperature


class Warp(NamedTuple):
    """A soft match, ready to carry values.

    Attributes:
      logits: (b, n, m).
    """

    logits: Float[Array, "b n m"]

    def to_input(self, values: Float[Array, "b m k"]) -> Float[Array, "b n k"]:
        """Values of the exemplar's positions, at the input's (equation 4)."""
        weights = jax.nn.softmax(self.logits, -1)
        return jnp.einsum("bnm,bmk->bnk", weights, values, precision=PRECISION)

    def to_exemplar(self, values: Float[Array, "b n k"]) -> Float[Array, "b m k"]:
        """Values of the input's positions, at the exemplar's (equation 12)."""
        weights = jax.nn.softmax(self.logits, 1)
        return jnp.einsum("bnm,bnk->bmk", weights, values, precision=PRECISION)
