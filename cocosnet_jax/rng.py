"""Random keys by name and step: derived where they are needed, never stored.

A run that is resumed draws what the uninterrupted run would have drawn, on any number of hosts.
"""

import zlib

import jax
from jaxtyping import Array, Int, Key


def key(seed: int, stream: str, step: int | Int[Array, ""] = 0) -> Key[Array, ""]:
    """Returns the key of one stream (`init`, `train`, ...) at one step.

    Args:
      seed: of the run.
      stream: name; different names give independent keys.
      step: may be traced.
    """
    named = jax.random.fold_in(jax.random.key(seed), zlib.crc32(stream.encode()))
    return jax.random.fold_in(named, step)
