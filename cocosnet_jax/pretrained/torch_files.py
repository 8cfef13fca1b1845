"""Reads and writes PyTorch state dicts as NumPy arrays, without PyTorch.

The release's checkpoints and its VGG are `.pth` files. PyTorch would be a download of gigabytes,
and its older readers execute code in the file. There are two formats:

* zip, PyTorch 1.6 and newer: `NAME/data.pkl`, a pickle whose tensors refer to entries
  `NAME/data/KEY`, one uncompressed entry of raw numbers per storage;
* legacy, as the release of 2020 wrote it: five consecutive pickles (a magic number, a protocol
  number, facts about the machine, the object, the list of storage keys), then for each key the
  number of elements (int64) and the raw numbers.

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
    """The state dict in a file's content: the content itself, or one entry of a dictionary."""

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
                f"it is not a state dict, and {len(inner) or 'none'} of its entries are (exactly"
                f" one must be); it contains {kinds or 'nothing'}"
            )
        logging.warning("%s: reading the tensors in its entry %r", path, inner[0])
        state = value[inner[0]]
    if not isinstance(state, dict):
        raise RefusedError(f"it contains one {type(value).__name__.strip('_')} and no state dict")
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
    """The size of a storage in bytes, checked against the file before allocating memory."""
    size = storage.numel * storage.dtype.itemsize
    if size > available:
        raise RefusedError(
            f"storage {storage.key} should have {size} bytes, but only {available} are left: the"
            " file is truncated or damaged; download it again"
        )
    return size


def _read_zip(path: Path) -> dict[str, np.ndarray]:
    left = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        if len(entries) != len(archive.infolist()):
            raise RefusedError("two entries of its zip archive have the same name")
        pickles = [name for name in entries if name.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            raise RefusedError("it is a zip archive, but not from PyTorch: it has no data.pkl")
        root = pickles[0].removesuffix("data.pkl")

        def content(name: str) -> bytes:
            nonlocal left
            if name not in entries:
                raise RefusedError(f"its zip archive has no entry {name}")
            entry = entries[name]
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > left:
                raise RefusedError(
                    f"entry {name} of its zip archive is compressed, or overlaps another entry"
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
    # Memory-mapped, to skip unwanted storages, and to stop at the end of the file.
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        stream = cast(IO[bytes], data)
        if unpickle(stream)[0] != _MAGIC:
            raise RefusedError("it is a pickle, but not from PyTorch")
        if (protocol := unpickle(stream)[0]) != _PROTOCOL:
            raise RefusedError(f"its protocol is {protocol!r}, not {_PROTOCOL}")
        if unpickle(stream)[0]["little_endian"] is not True:
            raise RefusedError("its numbers are big-endian; only little-endian ones are read")
        value, declared = unpickle(stream)
        named = _named_tensors(path, value)
        wanted = {tensor.storage.key for tensor in named.values()}
        keys, _ = unpickle(stream)
        if not (isinstance(keys, list) and len(set(keys)) == len(keys) and wanted <= set(keys)):
            raise RefusedError("its list of storages does not match its tensors")
        storages: dict[str, np.ndarray] = {}
        for key in keys:
            storage = declared[key]
            if int.from_bytes(data.read(8), "little") != storage.numel:
                raise RefusedError(
                    f"the length of storage {key} is missing or wrong: the file is truncated or"
                    " damaged; download it again"
                )
            size = _check_size(storage, len(data) - data.tell())
            if key in wanted:
                storages[key] = np.frombuffer(data.read(size), storage.dtype)
            else:
                data.seek(size, os.SEEK_CUR)
    return {name: _window(t, storages[t.storage.key]) for name, t in named.items()}


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads the tensors of a PyTorch `.pth` file, zip or legacy, without executing code in it.

    A state dict may be inside a dictionary (`{"state_dict": ..., "epoch": ...}`); this is logged.
    If all names begin with `module.` (DataParallel), the prefix is removed.

    Args:
      path: the file.

    Returns:
      Name -> array, in the file's order, dtypes and PyTorch's layout (OIHW convolutions). The
      arrays are read-only, and share memory if the tensors did.

    Raises:
      UserError: the file is missing, truncated, in another format, or requests anything that
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
            raise RefusedError("it is empty; download it again")
        if head.lstrip().startswith(b"<"):
            raise RefusedError("it is a web page; download the file that the page links to")
        raise RefusedError("it is not a file of torch.save")
    except RefusedError as error:
        raise UserError(f"{path}: cannot be read as PyTorch weights: {error}") from error
    except Exception as error:  # Damaged or hostile files make the readers raise anything.
        raise UserError(
            f"{path}: cannot be read as PyTorch weights: it is truncated or damaged"
            f" ({type(error).__name__}: {str(error)[:100]}); download it again"
        ) from error


def _pickled(value: object) -> bytes:
    """Numbers, strings and tuples as part of a pickle."""
    return pickle.dumps(value, protocol=2)[2:-1]  # Without PROTO and STOP.


def _state_dict_pickle(tensors: Mapping[str, np.ndarray]) -> bytes:
    """The pickle of `data.pkl`, built by instruction, since its classes are not available here."""
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
    """Atomically writes a state dict in PyTorch's zip format.

    `torch.load(path, weights_only=True)` reads it.

    Args:
      path: the file; its folder must exist, and a file of this name is replaced.
      tensors: name -> array, PyTorch's layout.

    Raises:
      UserError: PyTorch has no storage for a dtype, or the file cannot be written.
    """
    path = Path(path)
    arrays = {name: np.asarray(array) for name, array in tensors.items()}
    for name, array in arrays.items():
        if array.dtype not in STORAGES.values():
            raise UserError(f"{path}: tensor {name} is {array.dtype}, which PyTorch cannot store")
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
