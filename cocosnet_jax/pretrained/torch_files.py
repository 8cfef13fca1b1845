"""PyTorch state dicts as files of NumPy arrays, read and written without PyTorch.

The release's checkpoints and its VGG are `.pth` files. Asking users for PyTorch to read them
would cost gigabytes, and PyTorch's own older readers run whatever the file says. Two formats:

* zip, PyTorch 1.6 and newer: `NAME/data.pkl`, a pickle whose tensors refer to the entries
  `NAME/data/KEY`, one stored (uncompressed) entry of raw numbers per storage;
* legacy, older, as the release of 2020 wrote it: five pickles one after the other (a magic number,
  a protocol number, facts about the machine, the object, the list of storage keys), then for each
  key the number of its elements (int64) and the raw numbers.

Nothing in a file is executed: `torch_pickle` reads the pickles.
"""

import io
import math
import mmap
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, cast

import numpy as np
from absl import logging

from cocosnet_jax import files
from cocosnet_jax.errors import UserError
from cocosnet_jax.pretrained.torch_pickle import STORAGES, RefusedError, Storage, Tensor, unpickle

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001


def _named_tensors(path: Path, value: object) -> dict[str, Tensor]:
    """The state dict in what the file holds: at the top, or as one entry of a dictionary."""

    def is_state(candidate: object) -> bool:
        return (
            isinstance(candidate, dict)
            and bool(candidate)
            and all(isinstance(v, Tensor) for v in candidate.values())
        )

    state = value
    if isinstance(value, dict) and not is_state(value):
        inner = [name for name, entry in value.items() if is_state(entry)]
        if len(inner) != 1:
            kinds = ", ".join(
                f"{str(name)[:60]!r} ({type(entry).__name__.strip('_')})"
                for name, entry in list(value.items())[:8]
                if not isinstance(entry, Tensor)
            )
            raise RefusedError(
                f"it is no state dict, and {len(inner) or 'none'} of its entries are (exactly one"
                f" must be): it holds {kinds or 'nothing'}"
            )
        logging.warning("%s: the tensors are taken from its entry %r", path, inner[0])
        state = value[inner[0]]
    if not isinstance(state, dict):
        raise RefusedError(f"it holds one {type(value).__name__.strip('_')} and no state dict")
    for name in state:
        if not isinstance(name, str):
            raise RefusedError(f"the name of a tensor is a {type(name).__name__}")
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return state


def _window(tensor: Tensor, numbers: np.ndarray) -> np.ndarray:
    itemsize = numbers.dtype.itemsize
    if 0 in tensor.size:
        return np.empty(tensor.size, numbers.dtype)
    return np.lib.stride_tricks.as_strided(
        numbers[tensor.offset :],
        tensor.size,
        tuple(step * itemsize for step in tensor.stride),
        writeable=False,
    )


def _check_size(storage: Storage, available: int) -> int:
    """Bytes of a storage, which the file must have before any memory is asked for."""
    size = storage.numel * storage.dtype.itemsize
    if size > available:
        raise RefusedError(
            f"storage {storage.key} should have {size} bytes but {available} are there: the file"
            " is truncated or damaged; fetch it again"
        )
    return size


def _read_zip(path: Path) -> dict[str, np.ndarray]:
    left = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        if len(entries) != len(archive.infolist()):
            raise RefusedError("two entries of its zip archive have one name")
        pickles = [name for name in entries if name.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            raise RefusedError("it is a zip archive but not one of PyTorch's: it has no data.pkl")
        root = pickles[0].removesuffix("data.pkl")

        def content(name: str) -> bytes:
            nonlocal left
            if name not in entries:
                raise RefusedError(f"its zip archive has no entry {name}")
            entry = entries[name]
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > left:
                raise RefusedError(
                    f"entry {name} of its zip archive is compressed or overlaps others"
                )
            left -= entry.file_size
            return archive.read(entry)

        if root + "byteorder" in entries and content(root + "byteorder") != b"little":
            raise RefusedError("its numbers are big-endian; only little-endian ones are read")
        value, _ = unpickle(io.BytesIO(content(pickles[0])))
        named = _named_tensors(path, value)
        storages: dict[str, np.ndarray] = {}
        for storage in dict.fromkeys(tensor.storage for tensor in named.values()):
            numbers = content(f"{root}data/{storage.key}")
            size = _check_size(storage, len(numbers))
            storages[storage.key] = np.frombuffer(numbers[:size], storage.dtype)
    return {name: _window(t, storages[t.storage.key]) for name, t in named.items()}


def _read_legacy(path: Path) -> dict[str, np.ndarray]:
    # Mapped, so that what is not wanted is stepped over, and reads end where the file ends.
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        stream = cast(IO[bytes], data)
        if unpickle(stream)[0] != _MAGIC:
            raise RefusedError("it is a pickle but not one of PyTorch's")
        if (protocol := unpickle(stream)[0]) != _PROTOCOL:
            raise RefusedError(f"its protocol is {protocol!r}, not {_PROTOCOL}")
        if unpickle(stream)[0]["little_endian"] is not True:
            raise RefusedError("its numbers are big-endian; only little-endian ones are read")
        value, declared = unpickle(stream)
        named = _named_tensors(path, value)
        wanted = {tensor.storage.key for tensor in named.values()}
        keys, _ = unpickle(stream)
        if not (isinstance(keys, list) and len(set(keys)) == len(keys) and wanted <= set(keys)):
            raise RefusedError("its list of storages does not fit its tensors")
        storages: dict[str, np.ndarray] = {}
        for key in keys:
            storage = declared[key]
            if int.from_bytes(data.read(8), "little") != storage.numel:
                raise RefusedError(
                    f"the length of storage {key} is missing or not as declared: the file is"
                    " truncated or damaged; fetch it again"
                )
            size = _check_size(storage, len(data) - data.tell())
            if key in wanted:
                storages[key] = np.frombuffer(data.read(size), storage.dtype)
            else:
                data.seek(size, os.SEEK_CUR)
    return {name: _window(t, storages[t.storage.key]) for name, t in named.items()}


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads the tensors of a PyTorch `.pth` file, zip or legacy, without executing any of it.

    A state dict inside a dictionary (`{"state_dict": ..., "epoch": ...}`) is found, and the log
    says so. Where all names begin with `module.` (DataParallel) the prefix is taken off.

    Args:
      path: the file.

    Returns:
      Name -> array in the file's order and type, PyTorch's layout (OIHW convolutions). The arrays
      are read-only and may share memory where the tensors did.

    Raises:
      UserError: the file is missing, truncated, in another format, or asks for anything that
        weights do not need; the message names the file.
    """
    path = files.local(path, "weights")
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        if head.startswith(b"PK\x03\x04"):
            return _read_zip(path)
        if head.startswith(b"\x80"):
            return _read_legacy(path)
        if not head:
            raise RefusedError("it is empty; fetch it again")
        if head.lstrip().startswith(b"<"):
            raise RefusedError("it is a web page, not the file behind it; download the file itself")
        raise RefusedError("it begins like no file of torch.save")
    except RefusedError as error:
        raise UserError(f"{path}: not read as PyTorch weights: {error}") from error
    except Exception as error:  # a damaged or hostile file makes the readers raise anything
        raise UserError(
            f"{path}: not read as PyTorch weights: it is truncated or damaged"
            f" ({type(error).__name__}: {str(error)[:100]}); fetch it again"
        ) from error


def _pickled(value: object) -> bytes:
    """Numbers, strings and tuples of them as part of a pickle."""
    return pickle.dumps(value, protocol=2)[2:-1]  # without its PROTO and STOP


def _state_dict_pickle(tensors: Mapping[str, np.ndarray]) -> bytes:
    """The pickle of `data.pkl`, instruction by instruction: the classes it names are not here."""
    storages = {dtype: name for name, dtype in STORAGES.items()}
    empty = b"ccollections\nOrderedDict\n)R"
    parts = [b"\x80\x02", empty, b"("]
    for key, (name, array) in enumerate(tensors.items()):
        strides = tuple(math.prod(array.shape[i + 1 :]) for i in range(array.ndim))
        parts += [
            _pickled(name),
            b"ctorch._utils\n_rebuild_tensor_v2\n((",
            _pickled("storage"),
            b"ctorch\n" + storages[array.dtype].encode() + b"\n",
            *map(_pickled, (str(key), "cpu", array.size)),
            b"tQ",
            *map(_pickled, (0, array.shape, strides, False)),
            empty,
            b"tR",
        ]
    return b"".join([*parts, b"u."])


def write(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a state dict in PyTorch's zip format; `torch.load(path, weights_only=True)` reads it.

    The file appears whole or not at all.

    Args:
      path: the file; its folder must exist, and a file of this name is replaced.
      tensors: name -> array, PyTorch's layout.

    Raises:
      UserError: a type that PyTorch has no storage for, or the file cannot be written.
    """
    path = Path(path)
    arrays = {name: np.asarray(array) for name, array in tensors.items()}
    for name, array in arrays.items():
        if array.dtype not in STORAGES.values():
            raise UserError(f"{path}: tensor {name} is {array.dtype}, which it cannot hold")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with zipfile.ZipFile(temporary, "w") as archive:
            archive.writestr("archive/data.pkl", _state_dict_pickle(arrays))
            archive.writestr("archive/byteorder", "little")
            for key, array in enumerate(arrays.values()):
                archive.writestr(f"archive/data/{key}", array.tobytes())
            archive.writestr("archive/version", "3\n")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
