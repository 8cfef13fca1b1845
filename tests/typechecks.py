"""Checks the annotated shapes and types of a function whenever a test calls it.

tests/conftest.py imports this module before the package, and says which files of tests do without.
Programs that tests start run without it.
"""

import collections
import pathlib
from collections.abc import Callable
from typing import IO, Any

import beartype
import flax.struct
import jax
import jaxtyping
import numpy as np
from etils import epath

# Modules that are checked: those through which arrays travel.
CHECKED = (
    *("nn", "encode", "correspondence", "warp", "generator", "discriminator", "vgg", "model"),
    *("losses", "state", "steps", "rng", "mesh", "partition", "fit", "hooks", "train"),
    *("compile_check", "distributed", "interrupt", "metrics"),
    *("data", "search", "pictures"),
)
# Annotated type -> types that are accepted for it.
_ACCEPTED: dict[Any, Any] = {
    int: int | np.integer,
    float: float | int | np.floating | np.integer,
    # NumPy's scalars are arrays without axes.
    np.ndarray: np.ndarray | np.generic,
    epath.Path: epath.Path | pathlib.Path,
    # io.BytesIO and mmap are read like IO, but lack some of what it declares.
    IO[bytes]: object,
}
check = beartype.beartype(
    conf=beartype.BeartypeConf(hint_overrides=beartype.BeartypeHintOverrides(_ACCEPTED))
)
# How often a function inside another is checked: it is made anew whenever the outer one is called,
# and making its check takes long.
_TIMES = 4
_made: collections.Counter[tuple[str, str]] = collections.Counter()
_jaxtyped = jaxtyping.jaxtyped


def _sparing(**options: Any) -> Callable[[Any], Any]:
    """What the import hook decorates functions and classes with."""

    def decorate(one: Any) -> Any:
        name = one.__module__, one.__qualname__
        if "<locals>" in one.__qualname__:
            if jaxtyping.config.jaxtyping_disable or _made[name] == _TIMES:
                return one
            _made[name] += 1
        return _jaxtyped(**options)(one)

    return decorate


jaxtyping.jaxtyped = _sparing  # type: ignore[assignment]
_dataclass = flax.struct.dataclass


def _unchecked_fields(cls: type, **options: Any) -> type:
    """Flax's dataclass, with checked methods but unchecked fields.

    Dataclasses are pytrees, and `jax.tree.map` puts any results of its function into their fields.
    """
    made: Any = _dataclass(cls, **options)
    made.__no_type_check__ = True
    return made


flax.struct.dataclass = _unchecked_fields  # type: ignore[assignment]
# Functions that take JAX's arrays take NumPy's as well; tests call them with both.
jaxtyping.Array = jax.Array | np.ndarray  # type: ignore[misc, assignment]
jaxtyping.install_import_hook(
    [f"cocosnet_jax.{name}" for name in CHECKED], "tests.typechecks.check"
)
