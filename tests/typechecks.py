"""Checks annotated shapes and types whenever a test calls a function.

tests/conftest.py imports it before the package. Programs that tests start run without it.
"""

import pathlib
from typing import IO, Any

import beartype
import flax.struct
import jax
import jaxtyping
import numpy as np
from etils import epath

# Modules and packages whose annotations contain shapes.
CHECKED = (
    *("nn", "encode", "correspondence", "warp", "generator", "discriminator", "vgg", "model"),
    *("losses", "steps", "metrics.warp_accuracy"),
    *("data", "inference", "search", "pictures"),
)
# Types that are accepted at run time in place of the annotated ones.
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
_dataclass = flax.struct.dataclass


def _unchecked_fields(cls: type, **options: Any) -> type:
    """Flax's dataclass, with checked methods, but unchecked fields.

    As pytrees, `jax.tree.map` constructs them with any values.
    """
    made: Any = _dataclass(cls, **options)
    made.__no_type_check__ = True
    return made


flax.struct.dataclass = _unchecked_fields  # type: ignore[assignment]
# Functions of JAX arrays also take NumPy arrays; tests call them with both.
jaxtyping.Array = jax.Array | np.ndarray  # type: ignore[misc, assignment]
jaxtyping.install_import_hook(
    [f"cocosnet_jax.{name}" for name in CHECKED], "tests.typechecks.check"
)
