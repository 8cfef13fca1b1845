"""How the correspondence behaves, whether it is right or not: cycles, certainty, and a collapse.

Of every method in `Outputs.matches`, beside chance.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from cocosnet_jax.settings import Settings
from cocosnet_jax.types import Batch, Match, Outputs


class Counts(NamedTuple):
    """Sums over samples of means over positions, by method where they have one.

    Attributes:
      cycle: how far from itself a position comes back, as a share of the grid's longer side.
      used: share of the exemplar's positions that some position of the input is matched with.
      entropy: of the networks' softmax, in nats.
      uniform: what the entropy would be of a softmax that does not prefer any position.
      random_cycle, random_used: what positions drawn at random would have.
      samples: how many were looked at.
    """

    cycle: dict[str, Float[Array, ""]]
    used: dict[str, Float[Array, ""]]
    entropy: Float[Array, ""]
    uniform: Float[Array, ""]
    random_cycle: Float[Array, ""]
    random_used: Float[Array, ""]
    samples: Float[Array, ""]


def cycle_error(match: Match) -> Float[Array, "b"]:
    """The mean distance between a position and where it comes back to (forth and back).

    In the grid's longer sides: 0 is a perfect cycle, and two random positions of a square are 0.52
    apart.
    """
    b, h, w = match.place.shape
    back = jnp.take_along_axis(match.back.reshape(b, -1), match.place.reshape(b, -1), 1)
    rows, columns = jnp.divmod(back, w)
    own_rows, own_columns = np.divmod(np.arange(h * w), w)
    distance = jnp.hypot((rows - own_rows).astype(float), (columns - own_columns).astype(float))
    return distance.mean(1) / max(h, w)


def used_share(match: Match) -> Float[Array, "b"]:
    """The share of the exemplar's positions that are the best match of some input's position."""
    b, m = len(match.place), math.prod(match.back.shape[1:])

    def of_sample(place: Array) -> Array:
        return jnp.zeros(m).at[place].set(1).mean()

    return jax.vmap(of_sample)(jnp.asarray(match.place).reshape(b, -1))


def random_distance(h: int, w: int) -> float:
    """The mean distance of two positions drawn at random, in the grid's longer sides."""
    rows, columns = np.arange(1 - h, h), np.arange(1 - w, w)
    pairs = (h - abs(rows))[:, None] * (w - abs(columns))
    distance = np.hypot(rows[:, None], columns)
    return float((pairs * distance).sum() / (h * w) ** 2 / max(h, w))


class Correspondence:
    """Cycle error, entropy, and the share of the exemplar that is used."""

    def applies(self, settings: Settings) -> bool:
        """Where the networks look at an exemplar."""
        return settings.model.generator_condition != "input"

    def count(self, batch: Batch, outputs: Outputs, valid: Bool[Array, "b"]) -> Counts:
        """See `Metric`."""
        del batch
        assert outputs.matches is not None
        own = outputs.matches[""]
        _, h, w = own.place.shape
        m = math.prod(own.back.shape[1:])

        def total(values: Float[Array, "b"]) -> Float[Array, ""]:
            return jnp.sum(jnp.where(valid, values, 0))

        samples = jnp.sum(valid, dtype=jnp.float32)
        return Counts(
            {name: total(cycle_error(match)) for name, match in outputs.matches.items()},
            {name: total(used_share(match)) for name, match in outputs.matches.items()},
            total(own.entropy.mean((1, 2))),
            samples * math.log(m),
            samples * random_distance(h, w),
            # Each of h * w draws misses a given position with probability 1 - 1 / m.
            samples * (1 - (1 - 1 / m) ** (h * w)),
            samples,
        )

    def result(self, sums: Any) -> dict[str, float]:
        """`match_entropy`, `cycle_error` and `used_share`, with what stands beside them."""
        found = {"match_entropy": sums.entropy, "match_entropy_by_chance": sums.uniform}
        for what, of_methods, by_chance in (
            ("cycle_error", sums.cycle, sums.random_cycle),
            ("used_share", sums.used, sums.random_used),
        ):
            found |= {what + suffix(name): value for name, value in of_methods.items()}
            found[f"{what}_by_chance"] = by_chance
        return {name: float(value / sums.samples) for name, value in found.items()}


def suffix(method: str) -> str:
    """What a number's name ends in, so that it says whose match it is of."""
    return f"_by_{method}" if method else ""
