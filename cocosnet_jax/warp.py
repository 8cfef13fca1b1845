"""Dense correspondence: comparing positions, and carrying values by the soft match.

Positions of the input are n (rows of the correlation), positions of the exemplar m (columns).

Two ways compute the same: `Warp` holds the whole n x m correlation; `StreamingWarp` makes it block
by block, forward and backward, in memory that does not grow with n x m.
"""

from typing import Literal, NamedTuple, Protocol, runtime_checkable

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from cocosnet_jax.nn import streaming
from cocosnet_jax.nn.norms import unit_length
from cocosnet_jax.nn.streaming import DENSE_POSITIONS, PRECISION, neighbourhoods


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


@runtime_checkable
class SoftMatch(Protocol):
    """A soft match, ready to carry values."""

    def to_input(self, values: Float[Array, "b m k"]) -> Float[Array, "b n k"]:
        """Values of the exemplar's positions, at the input's (equation 4)."""
        ...

    def to_exemplar(self, values: Float[Array, "b n k"]) -> Float[Array, "b m k"]:
        """Values of the input's positions, at the exemplar's (equation 12)."""
        ...


def soft_match(
    theta: Float[Array, "b h w k"],
    phi: Float[Array, "b h_m w_m k"],
    temperature: float,
    *,
    match_kernel: int = 1,
    centre: Literal["channels", "positions"] = "channels",
    correlation: Literal["auto", "dense", "streaming"] = "auto",
    over: Mesh | None = None,
) -> SoftMatch:
    """The match of the correspondence network's features (equations 3 and 4).

    Args:
      theta: of the input's positions.
      phi: of the exemplar's.
      temperature: divides the cosines.
      match_kernel: side of the neighbourhood that stands for a position.
      centre: see `matching_features`.
      correlation: hold all pairs, or make them block by block; `auto` does the latter where one
        side has more than DENSE_POSITIONS, and for neighbourhoods centred over channels. Their
        blocks take products of k numbers in place of k * match_kernel^2 (what centring over
        positions takes off depends on the neighbour, which they do not know apart).
      over: devices that share the positions, when they are made block by block; None where
        they share the batch.
    """
    by_neighbours = match_kernel > 1 and centre == "channels"
    if correlation == "auto":
        small = max(x.shape[1] * x.shape[2] for x in (theta, phi)) <= DENSE_POSITIONS
        correlation = "dense" if small and not by_neighbours else "streaming"
    if correlation == "streaming" and by_neighbours:
        rows, columns = (streaming.Side.of_neighbourhoods(x, match_kernel) for x in (theta, phi))
        return StreamingWarp(rows, columns, temperature, over=over)
    # Several times as large as what they are made of: the backward pass makes them again.
    features = jax.checkpoint(matching_features, static_argnums=(1, 2))
    theta, phi = (features(x, match_kernel, centre) for x in (theta, phi))
    if correlation == "dense":
        return Warp(correlation_logits(theta, phi, temperature))
    rows, columns = (streaming.Side.of_vectors(x) for x in (theta, phi))
    return StreamingWarp(rows, columns, temperature, over=over)


class Warp(NamedTuple):
    """A soft match that holds the whole correlation.

    Attributes:
      logits: (b, n, m).
    """

    logits: Float[Array, "b n m"]

    def to_input(self, values: Float[Array, "b m k"]) -> Float[Array, "b n k"]:
        weights = jax.nn.softmax(self.logits, -1)
        return jnp.einsum("bnm,bmk->bnk", weights, values, precision=PRECISION)

    def to_exemplar(self, values: Float[Array, "b n k"]) -> Float[Array, "b m k"]:
        weights = jax.nn.softmax(self.logits, 1)
        return jnp.einsum("bnm,bnk->bmk", weights, values, precision=PRECISION)


@flax.struct.dataclass
class StreamingWarp:
    """A soft match that makes the correlation anew, in blocks, wherever it is needed.

    Attributes:
      input, exemplar: what their positions are compared by.
      temperature: divides the cosines.
      over: devices that share the rows of the result, or None.
    """

    input: streaming.Side
    exemplar: streaming.Side
    temperature: float = flax.struct.field(pytree_node=False)
    over: Mesh | None = flax.struct.field(pytree_node=False, default=None)

    def to_input(self, values: Float[Array, "b m k"]) -> Float[Array, "b n k"]:
        return self._carry(self.input, self.exemplar, values)

    def to_exemplar(self, values: Float[Array, "b n k"]) -> Float[Array, "b m k"]:
        return self._carry(self.exemplar, self.input, values)

    def _carry(
        self, rows: streaming.Side, columns: streaming.Side, values: Float[Array, "b m v"]
    ) -> Float[Array, "b n v"]:
        return streaming.attend(rows, columns, values, self.temperature, over=self.over)


class BestMatch(NamedTuple):
    """For each position of the input, the position of the exemplar that is most alike.

    Attributes:
      place: (b, h, w, 2), its row and column on the exemplar's grid.
      cosine: (b, h, w), how alike the two are, -1 to 1.
    """

    place: Int[Array, "b h w 2"]
    cosine: Float[Array, "b h w"]


def best_match(
    theta: Float[Array, "b h w k"],
    phi: Float[Array, "b h_m w_m k"],
    match_kernel: int = 1,
    centre: Literal["channels", "positions"] = "channels",
) -> BestMatch:
    """The exemplar's position of the highest correlation; arguments as in `soft_match`.

    One row of the input's grid is compared after the other, so that the whole correlation is never
    held.
    """
    b, h, w, _ = theta.shape
    rows = matching_features(theta, match_kernel, centre).reshape(b, h, w, -1)
    columns = matching_features(phi, match_kernel, centre)

    def of_row(row: Float[Array, "b w k"]) -> tuple[Array, Array]:
        cosines = correlation_logits(row, columns, 1.0)
        return jnp.argmax(cosines, -1), jnp.max(cosines, -1)

    index, cosine = jax.lax.map(of_row, jnp.moveaxis(rows, 1, 0))
    index, cosine = jnp.moveaxis(index, 0, 1), jnp.moveaxis(cosine, 0, 1)
    return BestMatch(jnp.stack(jnp.divmod(index, phi.shape[2]), -1), cosine)
