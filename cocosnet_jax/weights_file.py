"""The weights that translation needs as one file, in the safetensors format.

Arrays have the names that they have in the networks, joined by dots: `params.GENERATOR...`, the
averaged weights where the run keeps an average, and beside `params` the spectral vectors and batch
statistics. The metadata say the rest: `settings` (JSON), `step`, and a checksum of the arrays.
"""

import json
import os
import zlib
from collections.abc import Mapping
from typing import NamedTuple

import flax.traverse_util
import jax
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath
from jax.sharding import Sharding
from jaxtyping import DTypeLike, Int, PyTree

from cocosnet_jax import files
from cocosnet_jax import settings as settings_lib
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import Settings
from cocosnet_jax.state import TrainState, inference_variables
from cocosnet_jax.types import Array

SUFFIX = ".safetensors"


class Weights(NamedTuple):
    """What a file holds.

    Attributes:
      settings: of the run that made the weights.
      step: optimisation steps it had taken.
      arrays: by their names.
    """

    settings: Settings
    step: int
    arrays: dict[str, np.ndarray]


def is_one(path: str | os.PathLike[str]) -> bool:
    """Whether a path names a file of weights: by its suffix, or because it is no folder."""
    return os.fspath(path).endswith(SUFFIX) or os.path.isfile(path)


def write(
    path: epath.Path, settings: Settings, state: TrainState, dtype: DTypeLike = np.float32
) -> None:
    """Writes the weights of a state.

    Args:
      path: of the file.
      settings: of the run.
      state: with the generator's weights, or their average.
      dtype: of the arrays in the file.

    Raises:
      StorageError: the file cannot be written.
    """
    arrays = {
        name: np.asarray(array).astype(dtype, order="C") for name, array in arrays_of(state).items()
    }
    metadata = {
        "settings": json.dumps(settings_lib.to_file(settings)),
        "step": str(int(state.step)),
        "checksum": _checksum(arrays),
    }
    files.write(path, safetensors.numpy.save(arrays, metadata))


def read(path: str | os.PathLike[str]) -> Weights:
    """Reads a file.

    Raises:
      UserError: it is not there, damaged, another program's, or of another version of this one.
    """
    file = files.local(path, "the file of weights")
    if not file.exists():
        raise UserError(f"{file} does not exist; give a file that cocosnet_jax.convert has written")
    try:
        with safetensors.safe_open(file, "np") as opened:
            metadata = opened.metadata() or {}
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(
            f"{file} is damaged, or no safetensors file ({error}): bring it back from a copy, or"
            " give a run's workdir"
        ) from error
    if missing := {"settings", "step", "checksum"} - metadata.keys():
        raise UserError(
            f"{file} was written by another program: its metadata have no {min(missing)}; give a"
            " file that `python -m cocosnet_jax.convert --safetensors` has written"
        )
    if _checksum(arrays) != metadata["checksum"]:
        raise UserError(
            f"{file} is damaged: its arrays have another checksum than when it was written; bring"
            " it back from a copy"
        )
    try:
        settings = settings_lib.from_json(metadata["settings"])
    except (UserError, ValueError) as error:
        raise _of_another_version(file, str(error)) from error
    return Weights(settings, int(metadata["step"]), arrays)


def fill(weights: Weights, wanted: TrainState, path: str | os.PathLike[str]) -> TrainState:
    """The arrays as a state that translation takes; it has the generator alone.

    Args:
      weights: as they were read.
      wanted: shapes, types and shardings of the settings' whole state.
      path: what errors call the file.

    Raises:
      UserError: the arrays are not those of the settings' networks.
    """
    shapes = _named({"params": wanted.params["generator"], **wanted.variables["generator"]})
    for name in sorted(shapes.keys() | weights.arrays.keys()):
        found = weights.arrays[name].shape if name in weights.arrays else "missing"
        here = shapes[name].shape if name in shapes else "not there"
        if found != here:
            raise _of_another_version(path, f"{name} is {found} in it, and here {here}")

    def place(name: str, shape: jax.ShapeDtypeStruct) -> jax.Array:
        assert isinstance(shape.sharding, Sharding)
        return jax.device_put(weights.arrays[name].astype(shape.dtype), shape.sharding)

    filled = {name: place(name, shape) for name, shape in shapes.items()}
    return state_of(filled, jax.device_put(np.int32(weights.step), wanted.step.sharding))


def arrays_of(state: TrainState) -> dict[str, Array]:
    """The arrays that translation needs, by their names."""
    return _named(inference_variables(state))


def state_of(arrays: Mapping[str, Array], step: Int[jax.Array, ""]) -> TrainState:
    """The inverse of `arrays_of`: a state with the generator alone."""
    variables = flax.traverse_util.unflatten_dict(dict(arrays), sep=".")
    params = {"generator": variables.pop("params")}
    return TrainState(step, params, {"generator": variables}, opt_state={}, ema=None)


def _named(tree: PyTree) -> dict[str, PyTree]:
    return flax.traverse_util.flatten_dict(tree, sep=".")


def _checksum(arrays: dict[str, np.ndarray]) -> str:
    total = 0
    for name in sorted(arrays):
        total = zlib.crc32(arrays[name].tobytes(), total)
    return f"crc32 {total:08x}"


def _of_another_version(path: str | os.PathLike[str], reason: str) -> UserError:
    return UserError(
        f"{os.fspath(path)} is of another version of this program ({reason}); use that version, or"
        " another file"
    )
