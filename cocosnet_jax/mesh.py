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
    near = jax.make_mesh((len(devices),), ("data",), devices=devices).devices.flat
    # On TPU slices, neighbours may be of several hosts, and hosts alternate. The rows of a process
    # must be consecutive: they are numbered by its place among the processes.
    ordered = sorted(near, key=lambda device: device.process_index)
    # With Explicit axes, JAX's new default, gradients of this model fail.
    return Mesh(np.array(ordered), ("data",), axis_types=(AxisType.Auto,))


def for_rows(coarsest: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh over which the rows of each image are split.

    It has all `devices` (None: of all processes) if their number divides `coarsest`, the rows of
    the generator's coarsest map, and one device otherwise: XLA's convolution of a 2 x 2 map over
    four or more is wrong.
    """
    devices = jax.devices() if devices is None else devices
    return make(devices if coarsest % len(devices) == 0 else devices[:1])


def split(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch, whose first dimension is split over all devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def split_small(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of small batches, (k, b, ...): each is split over all devices."""
    return NamedSharding(mesh, PartitionSpec(None, "data"))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of state and weights, of which every device has a copy."""
    return NamedSharding(mesh, PartitionSpec())


def to_global(mesh: Mesh, batch: Batch, accumulate: int = 1) -> Batch:
    """Returns the global batch, of which `batch`, (b / processes, ...), is this process's part.

    With `accumulate` above 1, the result has that many small batches, (accumulate, b, ...), and
    `batch` this process's part of each, one after the other (`pipeline.training_batches`). So no
    image moves from one device to another.
    """

    def place(rows: Shaped[np.ndarray, "b_process ..."]) -> Shaped[jax.Array, "..."]:
        if accumulate == 1:
            return jax.make_array_from_process_local_data(split(mesh), rows)
        small = rows.reshape(accumulate, -1, *rows.shape[1:])
        return jax.make_array_from_process_local_data(split_small(mesh), small)

    return jax.tree.map(place, batch)


def rows_of(mesh: Mesh, dimensions: int) -> NamedSharding:
    """Returns the sharding of images whose rows are split, and of numbers per image."""
    return NamedSharding(mesh, PartitionSpec(None, "data") if dimensions > 1 else PartitionSpec())


def split_rows(mesh: Mesh, batch: Batch) -> Batch:
    """Returns the batch with the rows of its images split over the devices of this process."""

    def place(array: Shaped[Array, "b *sizes"]) -> Shaped[jax.Array, "b *sizes"]:
        return jax.device_put(array, rows_of(mesh, np.ndim(array)))

    return jax.tree.map(place, batch)


def to_local(array: Shaped[jax.Array, "b ..."]) -> Shaped[np.ndarray, "b_process ..."]:
    """Returns this process's part of a global batch, in order."""
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])


def round_up(batch_size: int) -> int:
    """Rounds a batch size up to a multiple of the number of devices of all processes."""
    devices = jax.device_count()
    return -(-batch_size // devices) * devices


def check_batch(
    batch_size: int, devices: int | None = None, *, group_size: int = 1, accumulate: int = 1
) -> None:
    """Checks that a training batch splits evenly over the devices.

    Args:
      batch_size: config.train.batch_size.
      devices: their number; None for the devices of all processes.
      group_size: config.loss.group_size; the error suggests sizes that it divides.
      accumulate: config.train.accumulate; each of the small batches splits evenly.

    Raises:
      UserError: the batch does not split evenly.
    """
    processes = ""
    if devices is None:
        devices = jax.device_count()
        processes = f" ({jax.process_count()} process(es) with {jax.local_device_count()} each)"
    parts, small = devices * accumulate, ""
    if accumulate > 1:
        small = f" {accumulate} small batches (config.train.accumulate) on each of"
    if batch_size % parts:
        multiples = range(parts, batch_size + parts * group_size + 1, parts)
        valid = [size for size in multiples if size <= group_size or size % group_size == 0]
        below = [size for size in valid if size < batch_size][-1:]
        above = [size for size in valid if size > batch_size][:1]
        raise UserError(
            f"config.train.batch_size is {batch_size}, which does not split evenly over{small}"
            f" {devices} devices{processes}; set it to a multiple of {parts}, for example"
            f" {' or '.join(map(str, below + above))}, or set config.train.batch_per_device"
        )
