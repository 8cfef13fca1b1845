"""The warp: correlates input and exemplar, and moves values along the soft match (equations 3, 4).

The correlation has a row for each of n input positions and a column for each of m exemplar
positions. `DenseWarp` holds it whole; `StreamingWarp` computes the same block by block, forward and
backward, in memory that does not grow with n x m; `PallasWarp` does so by kernels for TPUs.

`matching` reads matches from it.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from cocosnet_jax.nn import flash, streaming
from cocosnet_jax.nn.neighbourhoods import neighbourhoods
from cocosnet_jax.nn.norms import unit_length
from cocosnet_jax.nn.platform import by_platform
from cocosnet_jax.nn.streaming import DENSE_POSITIONS, PRECISION, Measured


def matching_features(
    x: Float[Array, "b h w k"], match_kernel: int, centre: Literal["channels", "positions"]
) -> Float[Array, "b n k_match"]:
    """Centred unit vectors whose products are the correlation (equation 3, SPEC section 3).

    Args:
      x: theta or phi.
      match_kernel: side of the neighbourhood that represents a position.
      centre: whether to subtract each position's mean over channels, or each channel's mean over
        positions.

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
    """Cosines of all pairs of positions, divided by the temperature (equations 3 and 4)."""
    return jnp.einsum("bnk,bmk->bnm", theta, phi, precision=PRECISION) / temperature


@runtime_checkable
class SoftMatch(Protocol):
    """A soft match of input and exemplar positions, by which values can be warped."""

    def to_input(self, values: Float[Array, "b m k"]) -> Float[Array, "b n k"]:
        """Warps values from the exemplar's positions to the input's (equation 4)."""
        ...

    def to_exemplar(self, values: Float[Array, "b n k"]) -> Float[Array, "b m k"]:
        """Warps values from the input's positions back to the exemplar's (equation 12)."""
        ...

    def measure(self, values: Float[Array, "b m k"]) -> Measured:
        """`to_input`, with the sums and the entropies of the softmax; without a derivative."""
        ...


def soft_match(
    theta: Float[Array, "b h w k"],
    phi: Float[Array, "b h_m w_m k"],
    temperature: float,
    *,
    match_kernel: int = 1,
    centre: Literal["channels", "positions"] = "channels",
    correlation: Literal["auto", "dense", "streaming", "pallas"] = "auto",
    mesh: Mesh | None = None,
    samples: Mesh | None = None,
) -> SoftMatch:
    """Matches the features of the correspondence network (equations 3 and 4).

    Args:
      theta: features of the input.
      phi: features of the exemplar.
      temperature: divides the cosines.
      match_kernel: side of the neighbourhood that represents a position.
      centre: see `matching_features`.
      correlation: `dense` holds all pairs of positions; `streaming` computes them block by block;
        `pallas` does so by the kernels of `nn.flash` on TPUs, and streams on other devices and
        where several share the positions; `auto` streams above DENSE_POSITIONS positions, and
        neighbourhoods centred over channels, whose blocks need products of only k numbers instead
        of k * match_kernel^2.
        (Centring over positions subtracts a different vector for each neighbour, so this does not
        work there.)
      mesh: devices that split the positions of a streamed match, or None.
      samples: devices that split the batch, or None. XLA splits all but the kernels by itself.
    """
    by_neighbours = match_kernel > 1 and centre == "channels"
    if correlation == "auto":
        small = max(x.shape[1] * x.shape[2] for x in (theta, phi)) <= DENSE_POSITIONS
        correlation = "dense" if small and not by_neighbours else "streaming"
    if correlation == "pallas" and not flash.usable(theta.shape[0], mesh, samples):
        correlation = "streaming"
    if correlation != "dense" and by_neighbours:
        rows, columns = (streaming.Side.of_neighbourhoods(x, match_kernel) for x in (theta, phi))
        streamed = StreamingWarp(rows, columns, temperature, mesh)
        if correlation == "streaming":
            return streamed
        kernels = [flash.Side.of_neighbourhoods(x, match_kernel) for x in (theta, phi)]
        return PallasWarp(kernels[0], kernels[1], streamed, samples)
    # These are several times as large as theta and phi, so the backward pass recomputes them.
    features = jax.checkpoint(matching_features, static_argnums=(1, 2))
    theta, phi = (features(x, match_kernel, centre) for x in (theta, phi))
    if correlation == "dense":
        return DenseWarp(correlation_logits(theta, phi, temperature))
    rows, columns = (streaming.Side.of_vectors(x) for x in (theta, phi))
    streamed = StreamingWarp(rows, columns, temperature, mesh)
    if correlation == "streaming":
        return streamed
    kernels = [flash.Side.of_vectors(x) for x in (theta, phi)]
    return PallasWarp(kernels[0], kernels[1], streamed, samples)


class DenseWarp(NamedTuple):
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

    def measure(self, values: Float[Array, "b m k"]) -> Measured:
        log_sum = jax.nn.logsumexp(self.logits, -1, keepdims=True)
        gaps = self.logits - log_sum
        entropy = -jnp.sum(jnp.exp(gaps) * gaps, -1, keepdims=True)
        return Measured(self.to_input(values), log_sum, entropy)


@flax.struct.dataclass
class StreamingWarp:
    """A soft match that recomputes the correlation, block by block, for each warp.

    Attributes:
      input, exemplar: features of their positions.
      temperature: divides the cosines.
      mesh: devices that split the rows of the result, or None.
    """

    input: streaming.Side
    exemplar: streaming.Side
    temperature: float = flax.struct.field(pytree_node=False)
    mesh: Mesh | None = flax.struct.field(pytree_node=False, default=None)

    def to_input(self, values: Float[Array, "b m k"]) -> Float[Array, "b n k"]:
        return self._warp(self.input, self.exemplar, values)

    def to_exemplar(self, values: Float[Array, "b n k"]) -> Float[Array, "b m k"]:
        return self._warp(self.exemplar, self.input, values)

    def measure(self, values: Float[Array, "b m k"]) -> Measured:
        return streaming.measure(
            self.input, self.exemplar, values, self.temperature, mesh=self.mesh
        )

    def _warp(
        self, rows: streaming.Side, columns: streaming.Side, values: Float[Array, "b m v"]
    ) -> Float[Array, "b n v"]:
        return streaming.attend(rows, columns, values, self.temperature, mesh=self.mesh)


@flax.struct.dataclass
class PallasWarp:
    """A soft match by kernels on TPUs, and by `StreamingWarp` on other devices.

    Attributes:
      input, exemplar: features of their positions, as the kernels read them.
      plain: the same match for other devices.
      samples: several devices that split the batch, or None.
      products: how the kernels multiply float32, see `flash.Products`.
    """

    input: flash.Side
    exemplar: flash.Side
    plain: StreamingWarp
    samples: Mesh | None = flax.struct.field(pytree_node=False, default=None)
    products: flash.Products = flax.struct.field(pytree_node=False, default="float32")

    def to_input(self, values: Float[Array, "b m k"]) -> Float[Array, "b n k"]:
        kernel = functools.partial(flash.attend, self.input, self.exemplar)
        return self._choose(kernel, self.plain.to_input, values)

    def to_exemplar(self, values: Float[Array, "b n k"]) -> Float[Array, "b m k"]:
        kernel = functools.partial(flash.attend, self.exemplar, self.input)
        return self._choose(kernel, self.plain.to_exemplar, values)

    def measure(self, values: Float[Array, "b m k"]) -> Measured:
        kernel = functools.partial(flash.measure, self.input, self.exemplar)
        return self._choose(kernel, self.plain.measure, values)

    def _choose(self, kernel: Callable[..., Any], plain: Callable[..., Any], values: Array) -> Any:
        # That of the plain way's results.
        dtype = jnp.promote_types(values.dtype, self.plain.input.compared.features.dtype)

        def on_tpu(values: Array) -> Any:
            # Kernels would round their results to a narrower type than float32.
            values = values.astype(jnp.float32)
            found = kernel(
                values, self.plain.temperature, products=self.products, mesh=self.samples
            )
            return jax.tree.map(lambda x: x.astype(dtype), found)

        return by_platform(values, tpu=on_tpu, default=plain)


def blend(match: SoftMatch, values: Float[Array, "b_r m k"], exemplars: int) -> Measured:
    """Warps values from r exemplars per input at once (a blend).

    Each input position has one softmax over the positions of all its exemplars together: equation 4
    with phi and the values of the r exemplars concatenated along positions. It is computed exactly
    from the softmax over each exemplar, whose sums state the exemplar's share.

    Whatever comes before the softmax treats each exemplar by itself, as if it were the only one:
    its features' norms, and their centring (over channels or over its own positions). So a pair's
    cosines do not depend on the other exemplars, and one exemplar given r times gives the values
    that it gives alone. Beside others, an exemplar given twice has twice the weight.

    Args:
      match: of b * r samples: each input r times in a row, with its exemplars in order.
      values: of the exemplars' positions.
      exemplars: r.

    Returns:
      (b, n, k) values, and sums and entropies over all r * m positions.
    """
    each = match.measure(values)
    each = Measured(*(x.reshape(-1, exemplars, *x.shape[1:]) for x in each))
    log_share = jax.nn.log_softmax(each.log_sum, 1)
    share = jnp.exp(log_share)
    return Measured(
        jnp.sum(share * each.values, 1),
        jax.nn.logsumexp(each.log_sum, 1),
        jnp.sum(share * (each.entropy - log_share), 1),
    )


def confidence(entropy: Float[Array, "*shape"], positions: int) -> Float[Array, "*shape"]:
    """How sharp a match is, 0 to 1: 1 - entropy / log(positions).

    1 if one of the exemplar's positions has all the weight, 0 if all have the same. A match that k
    of them share evenly has 1 - log(k) / log(positions).

    Args:
      entropy: of the softmax over the positions, in nats.
      positions: their number.
    """
    return jnp.clip(1 - entropy / math.log(positions), 0, 1)
