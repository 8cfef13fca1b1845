"""Programs that run once in a test: compiling them fast is worth more than running them fast."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from cocosnet_jax import state
from cocosnet_jax.settings import Settings

FAST: dict[str, bool | int | str] = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}


def quickly(function: Callable[..., Any]) -> Callable[..., Any]:
    """Jits a function without the compiler's optimisations; every call compiles anew."""

    def call(*arguments: Any) -> Any:
        return jax.jit(function).lower(*arguments).compile(FAST)(*arguments)

    return call


@functools.cache
def untrained(settings: Settings) -> state.TrainState:
    """The state at step 0, by the key 0."""
    create = functools.partial(state.create_state, settings, steps_per_epoch=1)
    return quickly(create)(jax.random.key(0))
