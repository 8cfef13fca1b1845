"""Measures of a match that need no true correspondence: cycle error, used share, entropy.

They show a collapse, where all positions match the same few, but not whether a match is right.
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
    """Sums over samples. `cycle` and `used` have a sum for each match in `Outputs.matches`.

    Attributes:
      cycle: cycle error.
      used: used share.
      entropy: mean entropy of the networks' softmax, in nats.
      uniform: entropy of a uniform softmax.
      random_cycle, random_used: expected values of random matches.
      samples: number of samples.
    """

    cycle: dict[str, Float[Array, ""]]
    used: dict[str, Float[Array, ""]]
    entropy: Float[Array, ""]
    uniform: Float[Array, ""]
    random_cycle: Float[Array, ""]
    random_used: Float[Array, ""]
    samples: Float[Array, ""]


def cycle_error(match: Match) -> Float[Array, "b"]:
    """Mean distance between a position and the match of its match.

    The unit is the grid's longer side: 0 is a perfect cycle, and two random positions of a square
    grid have a mean distance of 0.52.
    """
    b, h, w = match.place.shape
    back = jnp.take_along_axis(match.back.reshape(b, -1), match.place.reshape(b, -1), 1)
    rows, columns = jnp.divmod(back, w)
    own_rows, own_columns = np.divmod(np.arange(h * w), w)
    distance = jnp.hypot((rows - own_rows).astype(float), (columns - own_columns).astype(float))
    return distance.mean(1) / max(h, w)


def used_share(match: Match) -> Float[Array, "b"]:
    """Share of exemplar positions that are the best match of at least one input position."""
    b, m = len(match.place), math.prod(match.back.shape[1:])

    def of_sample(place: Array) -> Array:
        return jnp.zeros(m).at[place].set(1).mean()

    return jax.vmap(of_sample)(jnp.asarray(match.place).reshape(b, -1))


def random_distance(h: int, w: int) -> float:
    """Mean distance of two random positions, in units of the grid's longer side."""
    rows, columns = np.arange(1 - h, h), np.arange(1 - w, w)
    pairs = (h - abs(rows))[:, None] * (w - abs(columns))
    distance = np.hypot(rows[:, None], columns)
    return float((pairs * distance).sum() / (h * w) ** 2 / max(h, w))


class Correspondence:
    """Cycle error and used share of all matches, and entropy of the networks' softmax."""

    def applies(self, settings: Settings) -> bool:
        """True if the networks have an exemplar."""
        return settings.model.needs_exemplar

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
            # Each of h * w random matches misses a given position with probability 1 - 1 / m.
            samples * (1 - (1 - 1 / m) ** (h * w)),
            samples,
        )

    def result(self, sums: Any) -> dict[str, float]:
        """Returns `match_entropy`, `cycle_error` and `used_share`, each also for the baselines."""
        found = {"match_entropy": sums.entropy, "match_entropy_by_chance": sums.uniform}
        for what, of_methods, by_chance in (
            ("cycle_error", sums.cycle, sums.random_cycle),
            ("used_share", sums.used, sums.random_used),
        ):
            found |= {what + suffix(name): value for name, value in of_methods.items()}
            found[f"{what}_by_chance"] = by_chance
        return {name: float(value / sums.samples) for name, value in found.items()}


def suffix(method: str) -> str:
    """End of a number's name that says which match it measures."""
    return f"_by_{method}" if method else ""
