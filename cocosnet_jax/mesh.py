"""Devices: one mesh with one axis, the batch split over it, everything else on every device."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cocosnet_jax.errors import UserError
from cocosnet_jax.types import Array, Batch


def make(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the mesh of these devices, or of all of all processes, with the axis `data`."""
    devices = jax.devices() if devices is None else devices
    # Auto axes: gradients of this model fail under Explicit ones, make_mesh's newer default.
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def for_rows(coarsest: int) -> Mesh:
    """Returns the mesh that shares one picture's rows.

    All devices where each gets rows of the generator's coarsest map, which has `coarsest` of
    them, and one device otherwise: XLA convolves a 2 x 2 map wrongly that four or more share.
    """
    devices = jax.devices()
    return make(devices if coarsest % len(devices) == 0 else devices[:1])


def split(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: its first dimension is split over all devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of state and weights: a whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def to_global(mesh: Mesh, batch: Batch) -> Batch:
    """Returns the global batch whose rows on this process are `batch`, (b / processes, ...)."""
    sharding = split(mesh)

    def place(rows: np.ndarray) -> jax.Array:
        return jax.make_array_from_process_local_data(sharding, rows)

    return jax.tree.map(place, batch)


def split_rows(mesh: Mesh, batch: Batch) -> Batch:
    """Returns the batch with every picture's rows split over the devices of this process."""
    rows = NamedSharding(mesh, PartitionSpec(None, "data"))

    def place(array: Array) -> jax.Array:
        return jax.device_put(array, rows if np.ndim(array) > 1 else replicated(mesh))

    return jax.tree.map(place, batch)


def to_local(array: jax.Array) -> np.ndarray:
    """Returns the rows of a global batch that this process holds, in order."""
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])


def round_up(batch_size: int) -> int:
    """Returns the next larger batch that splits evenly over all devices of all processes."""
    devices = jax.device_count()
    return -(-batch_size // devices) * devices


def check_batch(batch_size: int, devices: int | None = None, *, group_size: int = 1) -> None:
    """Checks that a training batch splits evenly.

    Args:
      batch_size: config.train.batch_size.
      devices: how many share the batch; None for all of all processes.
      group_size: config.loss.group_size, which the sizes that an error names fit as well.

    Raises:
      UserError: they cannot share it evenly.
    """
    processes = ""
    if devices is None:
        devices = jax.device_count()
        processes = f" ({jax.process_count()} process(es) with {jax.local_device_count()} each)"
    if batch_size % devices:
        multiples = range(devices, batch_size + devices * group_size + 1, devices)
        fitting = [size for size in multiples if size <= group_size or size % group_size == 0]
        below = [size for size in fitting if size < batch_size][-1:]
        above = [size for size in fitting if size > batch_size][:1]
        raise UserError(
            f"config.train.batch_size is {batch_size}, which does not split over {devices} devices"
            f"{processes}; set it to a multiple of {devices}, for example"
            f" {' or '.join(map(str, below + above))}, or set config.train.batch_per_device"
        )
