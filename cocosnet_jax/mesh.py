"""The device mesh: one axis, over which the batch is split; all else is replicated."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Shaped

from cocosnet_jax.errors import UserError
from cocosnet_jax.types import Array, Batch


def make(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh with one axis, `data`; by default, of the devices of all processes."""
    devices = jax.devices() if devices is None else devices
    # With Explicit axes, make_mesh's new default, gradients of this model fail.
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def for_rows(coarsest: int) -> Mesh:
    """Returns a mesh over which the rows of each image are split.

    It has all devices if their number divides `coarsest`, the rows of the generator's coarsest
    map, and one device otherwise: XLA's convolution of a 2 x 2 map over four or more is wrong.
    """
    devices = jax.devices()
    return make(devices if coarsest % len(devices) == 0 else devices[:1])


def split(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch, whose first dimension is split over all devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of state and weights, of which every device has a copy."""
    return NamedSharding(mesh, PartitionSpec())


def to_global(mesh: Mesh, batch: Batch) -> Batch:
    """Returns the global batch, of which `batch`, (b / processes, ...), is this process's part."""
    sharding = split(mesh)

    def place(rows: Shaped[np.ndarray, "b_process ..."]) -> Shaped[jax.Array, "b ..."]:
        return jax.make_array_from_process_local_data(sharding, rows)

    return jax.tree.map(place, batch)


def split_rows(mesh: Mesh, batch: Batch) -> Batch:
    """Returns the batch with the rows of its images split over the devices of this process."""
    rows = NamedSharding(mesh, PartitionSpec(None, "data"))

    def place(array: Shaped[Array, "b *sizes"]) -> Shaped[jax.Array, "b *sizes"]:
        return jax.device_put(array, rows if np.ndim(array) > 1 else replicated(mesh))

    return jax.tree.map(place, batch)


def to_local(array: Shaped[jax.Array, "b ..."]) -> Shaped[np.ndarray, "b_process ..."]:
    """Returns this process's part of a global batch, in order."""
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])


def round_up(batch_size: int) -> int:
    """Rounds a batch size up to a multiple of the number of devices of all processes."""
    devices = jax.device_count()
    return -(-batch_size // devices) * devices


def check_batch(batch_size: int, devices: int | None = None, *, group_size: int = 1) -> None:
    """Checks that a training batch splits evenly over the devices.

    Args:
      batch_size: config.train.batch_size.
      devices: their number; None for the devices of all processes.
      group_size: config.loss.group_size; the error suggests sizes that it divides.

    Raises:
      UserError: the batch does not split evenly.
    """
    processes = ""
    if devices is None:
        devices = jax.device_count()
        processes = f" ({jax.process_count()} process(es) with {jax.local_device_count()} each)"
    if batch_size % devices:
        multiples = range(devices, batch_size + devices * group_size + 1, devices)
        valid = [size for size in multiples if size <= group_size or size % group_size == 0]
        below = [size for size in valid if size < batch_size][-1:]
        above = [size for size in valid if size > batch_size][:1]
        raise UserError(
            f"config.train.batch_size is {batch_size}, which does not split evenly over {devices}"
            f" devices{processes}; set it to a multiple of {devices}, for example"
            f" {' or '.join(map(str, below + above))}, or set config.train.batch_per_device"
        )
