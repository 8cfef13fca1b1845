"""FID, KID and SWD of few pictures that are on the devices, as during training.

The same numbers as those of an evaluation, from the same features (`metrics.rows`), which are kept
in memory here.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Shaped

from cocosnet_jax import mesh
from cocosnet_jax.metrics import fid, inception, rows, swd
from cocosnet_jax.types import Array


class SetDistances:
    """Distances of two sets of pictures, which come in batches."""

    def __init__(self, side: int, devices: Mesh, network: Mapping[str, Any] | None):
        """Compiles nothing yet.

        Args:
          side: of the pictures; SWD is left out where it is no power of two from 16 on.
          devices: devices that split a batch.
          network: FID's Inception; None leaves out FID and KID.
        """
        self._side, self._devices = side, devices
        self._networks: dict[str, Any] = {}
        self._sets: list[str] = []
        if network is not None:
            self._networks["inception"] = jax.device_put(network, mesh.replicated(devices))
            self._sets.append("inception")
        if side >= swd.SMALLEST and not side & (side - 1):
            self._sets.append("swd")
        self._embed = jax.jit(self._rows, out_shardings=mesh.replicated(devices))

    def rows(
        self, image: Shaped[Array, "b height width 3"], number: int, of: str
    ) -> Float[np.ndarray, "b numbers"]:
        """What distances are made of, in every process.

        Args:
          image: batch `number` of a set, bytes or [-1, 1], split over the devices.
          number: of the batch, from 0; all have the same size.
          of: `generated` or `real`.
        """
        share = len(image) // jax.process_count()
        start = number * len(image) + share * jax.process_index()
        corners = np.zeros((share, 0, swd.PATCHES, 2), np.int32)
        if "swd" in self._sets:
            corners = swd.positions(self._side, range(start, start + share), swd.SEED, of)
        placed = jax.make_array_from_process_local_data(mesh.split(self._devices), corners)
        return np.asarray(self._embed(self._networks, image, placed))

    def _rows(self, networks: Any, image: jax.Array, corners: jax.Array) -> jax.Array:
        if image.dtype != jnp.uint8:
            # Rounded to bytes, as in a file.
            image = jnp.rint((jnp.clip(image.astype(jnp.float32), -1, 1) + 1) * 127.5)
            image = image.astype(jnp.uint8)
        with jax.default_matmul_precision("highest"):
            parts = rows.of_sets(networks, {"image": image, "corners": corners}, self._sets)
        return jnp.concatenate([jnp.zeros((len(image), 0)), *parts], 1)

    def distances(
        self, generated: Float[np.ndarray, "n numbers"], real: Float[np.ndarray, "n numbers"]
    ) -> dict[str, float]:
        """`fid`, `kid` and `swd`, as far as they can be measured, from all rows of both sets."""
        found: dict[str, float] = {}
        width = inception.WIDTH if "inception" in self._sets else 0
        if width and len(generated) > 1:
            ours, theirs = generated[:, :width], real[:, :width]
            found["fid"] = fid.frechet_distance_of_few(ours, theirs)
            found["kid"] = fid.kid(ours, theirs)
        if "swd" in self._sets:
            count = len(swd.levels(self._side))
            shape = (len(generated), count, swd.PATCHES, -1)
            ours, theirs = (x[:, width:].reshape(shape) for x in (generated, real))
            levels = [swd.distance(ours[:, k], theirs[:, k]) for k in range(count)]
            found["swd"] = float(np.mean(levels))
        return found
