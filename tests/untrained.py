"""Networks before training: states and checkpoints, for which nothing is compiled."""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from cocosnet_jax import settings, state
from cocosnet_jax.checkpoint import Checkpoints
from cocosnet_jax.configs import ade20k
from cocosnet_jax.nn import initial
from cocosnet_jax.settings import Settings


@functools.cache
def untrained(settings: Settings) -> state.TrainState:
    """A state at step 0, whose random numbers are NumPy's."""
    rng = np.random.default_rng(0)

    def fill(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
        noise = rng.standard_normal(leaf.shape, np.float32)
        return jnp.asarray(initial.LEAVES[path[-1].key](noise), leaf.dtype)

    shapes = state.state_shapes(settings)
    params, variables = (
        jax.tree_util.tree_map_with_path(fill, tree) for tree in (shapes.params, shapes.variables)
    )
    opt_state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes.opt_state)
    ema = None if shapes.ema is None else params["generator"]
    return state.TrainState(jnp.zeros((), jnp.int32), params, variables, opt_state, ema)


def write_run(folder: Path, fields: Mapping[str, object], step: int) -> None:
    """Writes the workdir of a run of the ADE20K recipe, with these fields, at this step."""
    config = ade20k.get_config("released")
    config.update_from_flattened_dict(fields)
    described = settings.from_mapping(config.to_dict())
    checkpoints = Checkpoints(epath.Path(folder), described)
    state = dataclasses.replace(untrained(described), step=jnp.int32(step))
    checkpoints.save(step, state, force=True)
    checkpoints.close()
    (folder / "settings.json").write_text(settings.to_json(described))
