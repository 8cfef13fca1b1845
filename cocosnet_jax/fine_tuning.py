"""Starts a new run from a checkpoint's weights (`--init_from`).

The generator's weights are those that translation uses: the averaged ones if they exist. Spectral
vectors and running statistics are copied too; optimisers, step and averaged weights are new. If any
array of a module (a convolution with its spectral vectors, a norm's statistics) has another shape,
the whole module is initialised randomly: with another number of classes, the convolutions that take
class maps. A file of weights has no discriminator, which starts from random weights, too.
"""

import collections
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from flax import traverse_util

from cocosnet_jax import checkpoint, integrity, mesh, weights_file
from cocosnet_jax.checkpoint import Restored
from cocosnet_jax.distributed import say
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import Settings
from cocosnet_jax.state import TrainState, inference_variables

_PLAYERS = ("generator", "discriminator")
# The path of a module.
_Module = tuple[str, ...]


def origin(settings: Settings, folder: epath.Path, init_from: str) -> Restored | None:
    """Reads the checkpoint that a new run starts from, and prints how much of it is used.

    Args:
      settings: of the new run.
      folder: its workdir.
      init_from: a workdir, its folder `checkpoints`, a step's folder, or a file of weights.

    Returns:
      The checkpoint; None if the run already has checkpoints.

    Raises:
      UserError: there is no checkpoint, or none of its weights can be used.
    """
    if own := integrity.steps(folder / checkpoint.FOLDER):
        say(f"--init_from is ignored: {folder} already has checkpoints, up to step {own[0]}")
        return None
    replicated = mesh.replicated(mesh.make())
    restored = checkpoint.restore_for_inference(
        init_from, replicated, all_networks=not weights_file.is_one(init_from)
    )
    # Without the number of classes, the check of the data fails later.
    if settings.data.channels:
        say(check(checkpoint.abstract_state(settings, replicated), restored))
        if note := other_settings(restored, settings):
            say(note)
    if restored.state.ema is None:
        return restored
    # The averaged weights are used; the others would only take device memory during the run.
    params = {"discriminator": restored.state.params["discriminator"]}
    return restored._replace(state=dataclasses.replace(restored.state, params=params))


def check(fresh: TrainState, restored: Restored) -> str:
    """Compares a checkpoint with a new run's state, which may contain shapes only.

    Returns:
      A line for the user: what is copied and what is new.

    Raises:
      UserError: no convolution of the translation networks can be copied.
    """
    total = copied = 0
    # By part of the networks.
    new_modules: collections.Counter[str] = collections.Counter()
    usable = False
    for player in _PLAYERS:
        ours, theirs = _of_run(fresh, player), _of_checkpoint(restored.state, player)
        matching = _matching_modules(ours, theirs)
        for path, leaf in ours.items():
            if path[0] == "params":
                size = math.prod(leaf.shape)
                total += size
                copied += size if path[1:-1] in matching else 0
            usable |= player == "generator" and path[-1] == "kernel" and path[1:-1] in matching
        for module in {path[1:-1] for path in ours} - matching:
            full_path = (player, *module) if player == "discriminator" else module
            new_modules["/".join(full_path[:2])] += 1
    if not usable:
        raise UserError(
            f"--init_from: no weights of {restored.folder} match these settings; its"
            f" config.model.base_filters is {restored.settings.model.base_filters}. Use the"
            " settings of its recipe, or another checkpoint"
        )
    line = (
        f"starting from the weights of {restored.folder}: {copied / total:.1%} of {total:,}"
        " parameters are copied"
    )
    if new_modules:
        parts = [f"{part} ({count})" for part, count in sorted(new_modules.items())]
        line += f"; {new_modules.total()} modules start from random weights: {', '.join(parts)}"
    return line


def take_over(fresh: TrainState, restored: Restored) -> TrainState:
    """Returns a new run's state with the weights of a checkpoint in all matching modules."""
    params, variables = {}, {}
    for player in _PLAYERS:
        ours, theirs = _of_run(fresh, player), _of_checkpoint(restored.state, player)
        matching = _matching_modules(ours, theirs)
        merged = traverse_util.unflatten_dict(
            {path: theirs[path] if path[1:-1] in matching else ours[path] for path in ours}
        )
        params[player] = merged.pop("params")
        variables[player] = merged
    # A copy: the state is donated to the step, and donated buffers must not be shared.
    ema = None if fresh.ema is None else jax.tree.map(jnp.copy, params["generator"])
    return dataclasses.replace(fresh, params=params, variables=variables, ema=ema)


def other_settings(restored: Restored, settings: Settings) -> str:
    """A line with the model settings that differ from the checkpoint's; empty if none do."""
    lines = checkpoint.model_differences(restored.settings, settings)
    lines = [line for line in lines if not line.startswith("optimiser.")]
    return f"different model settings (checkpoint, now): {'; '.join(lines)}" if lines else ""


def _of_run(state: TrainState, player: str) -> dict[tuple[str, ...], Any]:
    """(collection, modules ..., name) -> array of one player."""
    return traverse_util.flatten_dict({"params": state.params[player], **state.variables[player]})


def _of_checkpoint(state: TrainState, player: str) -> dict[tuple[str, ...], Any]:
    """The same, with averaged weights if they exist; empty for a player that is not there."""
    if player == "generator":
        return traverse_util.flatten_dict(inference_variables(state))
    return _of_run(state, player) if player in state.params else {}


def _matching_modules(
    ours: dict[tuple[str, ...], Any], theirs: dict[tuple[str, ...], Any]
) -> set[_Module]:
    """Modules whose arrays have the same names and shapes in both."""
    shapes: list[dict[_Module, dict[tuple[str, str], tuple[int, ...]]]] = []
    for arrays in (ours, theirs):
        by_module: dict[_Module, dict[tuple[str, str], tuple[int, ...]]] = {}
        for path, leaf in arrays.items():
            by_module.setdefault(path[1:-1], {})[path[0], path[-1]] = leaf.shape
        shapes.append(by_module)
    return {module for module, arrays in shapes[0].items() if shapes[1].get(module) == arrays}
