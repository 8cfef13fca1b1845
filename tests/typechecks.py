"""Checks the annotations of the package's functions, shapes and types, whenever a test calls them.

Imported before the package (tests/conftest.py). The package itself knows nothing of it, and
programs that tests start run without it.
"""

from typing import Any

import flax.struct
import jax
import jaxtyping
import numpy as np

# An int where a float is asked for is fine, as it is for mypy.
CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"

_dataclass = flax.struct.dataclass


def _unchecked_fields(cls: type, **options: Any) -> type:
    """Flax's dataclass, whose methods are checked, but not what its fields are made of.

    They are pytrees: `jax.tree.map` makes them of whatever its function returns.
    """
    made: Any = _dataclass(cls, **options)
    made.__no_type_check__ = True
    return made


flax.struct.dataclass = _unchecked_fields  # type: ignore[assignment]
# What takes JAX's arrays takes NumPy's as well; tests call it with both.
jaxtyping.Array = jax.Array | np.ndarray  # type: ignore[misc, assignment]
jaxtyping.install_import_hook("cocosnet_jax", CHECKER)
