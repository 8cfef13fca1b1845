"""Random keys, derived from the seed, a name and the step, and never stored.

A resumed run therefore uses the random numbers of the uninterrupted one, on any number of hosts.
"""

import zlib

import jax
from jaxtyping import Array, Int, Key


def key(seed: int, stream: str, step: int | Int[Array, ""] = 0) -> Key[Array, ""]:
    """Returns the key of a stream (`init`, `train`, ...) at a step.

    Args:
      seed: of the run.
      stream: name of the stream; streams are independent of each other.
      step: may be traced.
    """
    named = jax.random.fold_in(jax.random.key(seed), zlib.crc32(stream.encode()))
    return jax.random.fold_in(named, step)
