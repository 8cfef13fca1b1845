"""PyTorch state dicts as files of NumPy arrays, read and written without PyTorch.

The release's checkpoints and its VGG are `.pth` files. Asking users for PyTorch to read them
would cost gigabytes, and PyTorch's own older readers run whatever the file says. Two formats:

* zip, PyTorch 1.6 and newer: `NAME/data.pkl`, a pickle whose tensors refer to the entries
  `NAME/data/KEY`, one stored (uncompressed) entry of raw numbers per storage;
* legacy, older, as the release of 2020 wrote it: five pickles one after the other (a magic number,
  a protocol number, facts about the machine, the object, the list of storage keys), then for each
  key the number of its elements (int64) and the raw numbers.

Nothing in a file is executed: the pickle may use few instructions and a short list of names,
each of which stands for a function in this module that only notes its arguments.
"""

import dataclasses
import io
import math
import mmap
import os
import pickle
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, cast

import ml_dtypes
import numpy as np
from absl import logging

from cocosnet_jax import files
from cocosnet_jax.errors import UserError

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_STORAGES: dict[str, np.dtype] = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
# What pickles of state dicts are made of. Left out on purpose: whatever makes objects of classes
# (NEWOBJ, INST, OBJ), extension codes, and the text instructions of protocol 0.
# fmt: off
_OPCODES = frozenset({
    "PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1",
    "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "EMPTY_DICT", "EMPTY_LIST",
    "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "APPEND", "APPENDS", "SETITEM",
    "SETITEMS", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "BINPERSID", "BINPUT", "LONG_BINPUT",
    "MEMOIZE", "BINGET", "LONG_BINGET",
})
# fmt: on


class _RefusedError(Exception):
    """Why a file is not read; the reader puts its name in front."""


class _Inert:
    """What stands for the file's objects. The pickle's BUILD would write past `frozen`."""

    def __setstate__(self, state: object) -> None:
        raise _RefusedError("its pickle alters an object that it did not make")


@dataclasses.dataclass(frozen=True)
class _Storage(_Inert):
    """A run of numbers in the file: what a persistent id of the pickle says about it."""

    key: str
    dtype: np.dtype
    numel: int


@dataclasses.dataclass(frozen=True)
class _Tensor(_Inert):
    """A strided window on a storage: what `_rebuild_tensor_v2` is told."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class _Global(_Inert):
    """What a name in the pickle stands for: a function, or the type of a storage's numbers."""

    call: Callable[..., Any] | None = None
    dtype: np.dtype | None = None

    def __call__(self, *args: Any) -> Any:
        if self.call is None:
            raise _RefusedError("it calls a storage class, which state dicts never do")
        return self.call(*args)


class _StateDict(dict[Any, Any]):
    """Stands for OrderedDict; the attribute `_metadata` of module versions is dropped."""

    def __setstate__(self, state: object) -> None:
        pass


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62


def _rebuild_tensor(
    storage: object, offset: object, size: object, stride: object, *_: object
) -> _Tensor:
    if not (
        isinstance(storage, _Storage)
        and isinstance(offset, int)
        and isinstance(size, tuple)
        and isinstance(stride, tuple)
        and len(size) == len(stride)
        and len(size) <= 32
        and all(map(_is_count, (offset, *size, *stride)))
    ):
        raise _RefusedError("a tensor's storage, offset, size or stride is not one")
    numel = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    # No more elements than the storage has: a broadcast tensor could ask for any memory.
    if numel > storage.numel or (numel and last >= storage.numel):
        raise _RefusedError(
            f"a tensor of size {size}, stride {stride} at offset {offset} reaches outside its"
            f" storage of {storage.numel} elements"
        )
    return _Tensor(storage, offset, size, stride)


def _rebuild_parameter(data: object, *_: object) -> object:
    if not isinstance(data, _Tensor):
        raise _RefusedError("a parameter is not a tensor")
    return data


_GLOBALS: dict[tuple[str, str], _Global] = {
    ("collections", "OrderedDict"): _Global(_StateDict),
    ("torch._utils", "_rebuild_tensor_v2"): _Global(_rebuild_tensor),
    ("torch._utils", "_rebuild_parameter"): _Global(_rebuild_parameter),
    **{("torch", name): _Global(dtype=dtype) for name, dtype in _STORAGES.items()},
}


def _check_global(module: str, name: str) -> None:
    if (module, name) not in _GLOBALS:
        raise _RefusedError(
            f"it asks for the Python object {module[:60]}.{name[:60]}, which weights do not need"
            " (nothing was executed); save the state dict alone, network.state_dict()"
        )


class _Unpickler(pickle.Unpickler):
    """Makes containers and the notes above, and nothing else."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        _check_global(module, name)
        return _GLOBALS[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        # ('storage', class, key, location, elements), in the legacy format then a view of it.
        if not (isinstance(pid, tuple) and len(pid) in (5, 6) and pid[0] == "storage"):
            raise _RefusedError("it refers to something that is not a storage")
        kind, key, numel = pid[1], pid[2], pid[4]
        if not (
            isinstance(kind, _Global)
            and kind.dtype is not None
            and isinstance(key, str)
            and key.isdecimal()
            and _is_count(numel)
        ):
            raise _RefusedError("a storage's class, key or number of elements is not one")
        if len(pid) == 6 and pid[5] is not None:
            raise _RefusedError(
                "its storages are views of others, as only PyTorch before 0.4 wrote"
            )
        storage = _Storage(key, kind.dtype, numel)
        if self.storages.setdefault(key, storage) != storage:
            raise _RefusedError(f"storage {key} is declared twice, differently")
        return storage


def _unpickle(file: IO[bytes]) -> tuple[Any, dict[str, _Storage]]:
    """The next pickle in `file` and the storages it names; leaves the position behind it."""
    start = file.tell()
    for opcode, argument, position in pickletools.genops(file):
        if opcode.name == "GLOBAL":
            _check_global(*str(argument).split(" ", 1))
        if opcode.name not in _OPCODES:
            raise _RefusedError(
                f"its pickle uses the instruction {opcode.name}; state dicts do not"
            )
        # The unpickler makes room for every index up to the one that is named.
        if "PUT" in opcode.name and int(argument or 0) > int(position or 0) - start:
            raise _RefusedError("its pickle numbers more objects than it has")
    file.seek(start)
    unpickler = _Unpickler(file)
    return unpickler.load(), unpickler.storages


def _named_tensors(path: Path, value: object) -> dict[str, _Tensor]:
    """The state dict in what the file holds: at the top, or as one entry of a dictionary."""

    def is_state(candidate: object) -> bool:
        return (
            isinstance(candidate, dict)
            and bool(candidate)
            and all(isinstance(v, _Tensor) for v in candidate.values())
        )

    state = value
    if isinstance(value, dict) and not is_state(value):
        inner = [name for name, entry in value.items() if is_state(entry)]
        if len(inner) != 1:
            kinds = ", ".join(
                f"{str(name)[:60]!r} ({type(entry).__name__.strip('_')})"
                for name, entry in list(value.items())[:8]
                if not isinstance(entry, _Tensor)
            )
            raise _RefusedError(
                f"it is no state dict, and {len(inner) or 'none'} of its entries are (exactly one"
                f" must be): it holds {kinds or 'nothing'}"
            )
        logging.warning("%s: the tensors are taken from its entry %r", path, inner[0])
        state = value[inner[0]]
    if not isinstance(state, dict):
        raise _RefusedError(f"it holds one {type(value).__name__.strip('_')} and no state dict")
    for name in state:
        if not isinstance(name, str):
            raise _RefusedError(f"the name of a tensor is a {type(name).__name__}")
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return state


def _window(tensor: _Tensor, numbers: np.ndarray) -> np.ndarray:
    itemsize = numbers.dtype.itemsize
    if 0 in tensor.size:
        return np.empty(tensor.size, numbers.dtype)
    return np.lib.stride_tricks.as_strided(
        numbers[tensor.offset :],
        tensor.size,
        tuple(step * itemsize for step in tensor.stride),
        writeable=False,
    )


def _check_size(storage: _Storage, available: int) -> int:
    """Bytes of a storage, which the file must have before any memory is asked for."""
    size = storage.numel * storage.dtype.itemsize
    if size > available:
        raise _RefusedError(
            f"storage {storage.key} should have {size} bytes but {available} are there: the file"
            " is truncated or damaged; fetch it again"
        )
    return size


def _read_zip(path: Path) -> dict[str, np.ndarray]:
    left = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        if len(entries) != len(archive.infolist()):
            raise _RefusedError("two entries of its zip archive have one name")
        pickles = [name for name in entries if name.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            raise _RefusedError("it is a zip archive but not one of PyTorch's: it has no data.pkl")
        root = pickles[0].removesuffix("data.pkl")

        def content(name: str) -> bytes:
            nonlocal left
            if name not in entries:
                raise _RefusedError(f"its zip archive has no entry {name}")
            entry = entries[name]
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > left:
                raise _RefusedError(
                    f"entry {name} of its zip archive is compressed or overlaps others"
                )
            left -= entry.file_size
            return archive.read(entry)

        if root + "byteorder" in entries and content(root + "byteorder") != b"little":
            raise _RefusedError("its numbers are big-endian; only little-endian ones are read")
        value, _ = _unpickle(io.BytesIO(content(pickles[0])))
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
        if _unpickle(stream)[0] != _MAGIC:
            raise _RefusedError("it is a pickle but not one of PyTorch's")
        if (protocol := _unpickle(stream)[0]) != _PROTOCOL:
            raise _RefusedError(f"its protocol is {protocol!r}, not {_PROTOCOL}")
        if _unpickle(stream)[0]["little_endian"] is not True:
            raise _RefusedError("its numbers are big-endian; only little-endian ones are read")
        value, declared = _unpickle(stream)
        named = _named_tensors(path, value)
        wanted = {tensor.storage.key for tensor in named.values()}
        keys, _ = _unpickle(stream)
        if not (isinstance(keys, list) and len(set(keys)) == len(keys) and wanted <= set(keys)):
            raise _RefusedError("its list of storages does not fit its tensors")
        storages: dict[str, np.ndarray] = {}
        for key in keys:
            storage = declared[key]
            if int.from_bytes(data.read(8), "little") != storage.numel:
                raise _RefusedError(
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
            raise _RefusedError("it is empty; fetch it again")
        if head.lstrip().startswith(b"<"):
            raise _RefusedError(
                "it is a web page, not the file behind it; download the file itself"
            )
        raise _RefusedError("it begins like no file of torch.save")
    except _RefusedError as error:
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
    storages = {dtype: name for name, dtype in _STORAGES.items()}
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
        if array.dtype not in _STORAGES.values():
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
