"""What the Pallas kernels share: a chip's memory, how maps lie in it, how devices split samples."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

# Of the 128 MiB of on-chip memory that TPUs v4 to v6e have.
VMEM = 100 * 2**20
# Pictures that lie beside each other in a register of TPUs.
PICTURES = 8


def together(pictures: int) -> int:
    """How many pictures lie beside each other, as XLA stores maps; 0 where no kernel runs.

    A program of a kernel of instance norm holds as many.
    """
    if pictures % PICTURES == 0:
        return PICTURES
    return pictures if pictures in (2, 4) else 0


def on_each(function: Callable[..., Any], samples: Mesh | None) -> Callable[..., Any]:
    """Lets each device apply the function to its own samples: XLA cannot split a kernel.

    Args:
      function: takes and returns trees of arrays, samples first.
      samples: devices, on one axis, that split the samples, or None.
    """
    if samples is None or samples.size == 1:
        return function
    split = PartitionSpec(samples.axis_names[0])
    # The kernels' results do not say over which axes they vary.
    return jax.shard_map(function, mesh=samples, in_specs=split, out_specs=split, check_vma=False)


def by_rows(x: Float[Array, "b h w c"]) -> Float[Array, "h w b c"]:
    """A map as the kernels of norms and modulation see it: by rows, pictures beside channels."""
    return x.transpose(1, 2, 0, 3)


def from_rows(x: Float[Array, "h w b c"]) -> Float[Array, "b h w c"]:
    """The inverse of `by_rows`."""
    return x.transpose(2, 0, 1, 3)
