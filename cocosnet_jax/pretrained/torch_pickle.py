"""Reads pickles of PyTorch state dicts without executing anything.

A pickle may use a few instructions and a short list of names. Each name is replaced by a function
in this module that only records its arguments: a tensor's storage, and its position there.
"""

import dataclasses
import math
import pickle
import pickletools
from collections.abc import Callable
from typing import IO, Any

import ml_dtypes
import numpy as np

STORAGES: dict[str, np.dtype] = {
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
# The instructions in pickles of state dicts. Deliberately without those that instantiate classes
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


class RefusedError(Exception):
    """The reason why a file cannot be read; the reader prepends its name."""


class _Inert:
    """Base of the stand-ins for the file's objects; BUILD would bypass `frozen`."""

    def __setstate__(self, state: object) -> None:
        raise RefusedError("its pickle modifies an object of the reader")


@dataclasses.dataclass(frozen=True)
class Storage(_Inert):
    """A storage, an array of numbers in the file, as a persistent id of the pickle describes it."""

    key: str
    dtype: np.dtype
    numel: int


@dataclasses.dataclass(frozen=True)
class Tensor(_Inert):
    """A strided view of a storage: the arguments of `_rebuild_tensor_v2`."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class _Global(_Inert):
    """The replacement of a name in the pickle: a function, or the dtype of a storage."""

    call: Callable[..., Any] | None = None
    dtype: np.dtype | None = None

    def __call__(self, *args: Any) -> Any:
        if self.call is None:
            raise RefusedError("it calls a storage class, which state dicts never do")
        return self.call(*args)


class _StateDict(dict[Any, Any]):
    """Replaces OrderedDict; drops the attribute `_metadata` of module versions."""

    def __setstate__(self, state: object) -> None:
        pass


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62


def _rebuild_tensor(
    storage: object, offset: object, size: object, stride: object, *_: object
) -> Tensor:
    if not (
        isinstance(storage, Storage)
        and isinstance(offset, int)
        and isinstance(size, tuple)
        and isinstance(stride, tuple)
        and len(size) == len(stride)
        and len(size) <= 32
        and all(map(_is_count, (offset, *size, *stride)))
    ):
        raise RefusedError("a tensor has an invalid storage, offset, size or stride")
    numel = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    # No more elements than the storage has: a broadcast tensor could request any amount of memory.
    if numel > storage.numel or (numel and last >= storage.numel):
        raise RefusedError(
            f"a tensor of size {size}, stride {stride} and offset {offset} exceeds its storage of"
            f" {storage.numel} elements"
        )
    return Tensor(storage, offset, size, stride)


def _rebuild_parameter(data: object, *_: object) -> object:
    if not isinstance(data, Tensor):
        raise RefusedError("a parameter is not a tensor")
    return data


_GLOBALS: dict[tuple[str, str], _Global] = {
    ("collections", "OrderedDict"): _Global(_StateDict),
    ("torch._utils", "_rebuild_tensor_v2"): _Global(_rebuild_tensor),
    ("torch._utils", "_rebuild_parameter"): _Global(_rebuild_parameter),
    **{("torch", name): _Global(dtype=dtype) for name, dtype in STORAGES.items()},
}


def _check_global(module: str, name: str) -> None:
    if (module, name) not in _GLOBALS:
        raise RefusedError(
            f"it requests the Python object {module[:60]}.{name[:60]}, which weights do not need"
            " (nothing was executed); save only the state dict, network.state_dict()"
        )


class _Unpickler(pickle.Unpickler):
    """Makes containers and the records above, and nothing else."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        _check_global(module, name)
        return _GLOBALS[module, name]

    def persistent_load(self, pid: Any) -> Storage:
        # ('storage', class, key, location, elements); the legacy format adds a view.
        if not (isinstance(pid, tuple) and len(pid) in (5, 6) and pid[0] == "storage"):
            raise RefusedError("it refers to something that is not a storage")
        kind, key, numel = pid[1], pid[2], pid[4]
        if not (
            isinstance(kind, _Global)
            and kind.dtype is not None
            and isinstance(key, str)
            and key.isdecimal()
            and _is_count(numel)
        ):
            raise RefusedError("a storage has an invalid class, key or number of elements")
        if len(pid) == 6 and pid[5] is not None:
            raise RefusedError("its storages are views, which only PyTorch before 0.4 wrote")
        storage = Storage(key, kind.dtype, numel)
        if self.storages.setdefault(key, storage) != storage:
            raise RefusedError(f"storage {key} has two different declarations")
        return storage


def unpickle(file: IO[bytes]) -> tuple[Any, dict[str, Storage]]:
    """Reads the next pickle in `file`, and the storages it names; advances the file position."""
    start = file.tell()
    for opcode, argument, position in pickletools.genops(file):
        if opcode.name == "GLOBAL":
            _check_global(*str(argument).split(" ", 1))
        if opcode.name not in _OPCODES:
            raise RefusedError(f"its pickle uses the instruction {opcode.name}; state dicts do not")
        # The unpickler allocates memory for every index up to this one.
        if "PUT" in opcode.name and int(argument or 0) > int(position or 0) - start:
            raise RefusedError("its pickle has a larger memo index than objects")
    file.seek(start)
    unpickler = _Unpickler(file)
    return unpickler.load(), unpickler.storages
