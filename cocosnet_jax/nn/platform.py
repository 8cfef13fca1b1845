"""Chooses how something is computed by the platform of the devices that compute it."""

from collections.abc import Callable
from typing import Any

import jax

# The platform (`cpu`, `gpu`, `tpu`) that a program is traced for, where it is known. It is part of
# the keys of JAX's caches of traces.
known = jax.make_user_context(None)


def by_platform(*arguments: Any, default: Callable[..., Any], **ways: Callable[..., Any]) -> Any:
    """Calls what `ways` has for the platform, or `default`, with these arguments.

    Where the platform is `known`, nothing else is traced. Otherwise all are, and JAX chooses when
    it lowers the program.
    """
    if known.value is not None:
        return ways.get(known.value, default)(*arguments)
    return jax.lax.platform_dependent(*arguments, default=default, **ways)
