"""Starting a new run from a checkpoint's weights (`--init_from`).

The generator's weights are those that translation uses: the average where one is kept. Spectral
vectors and running statistics come along; optimisers, step and average begin anew. A module (a
convolution with its spectral vectors, a norm's statistics) of which any array has another shape
begins anew as a whole: with another number of classes, those are the convolutions that read them.
"""

import collections
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from flax import traverse_util

from cocosnet_jax import checkpoint, integrity, mesh
from cocosnet_jax.checkpoint import Restored
from cocosnet_jax.distributed import say
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import Settings
from cocosnet_jax.state import TrainState, inference_variables

_PLAYERS = ("generator", "discriminator")
# Names of the modules above an array.
_Module = tuple[str, ...]


def origin(settings: Settings, folder: epath.Path, init_from: str) -> Restored | None:
    """Reads the checkpoint that a new run starts from, and says what of it fits.

    Args:
      settings: of the new run.
      folder: its workdir.
      init_from: a workdir, its folder `checkpoints`, or a step's folder.

    Returns:
      The checkpoint; None where the run has one of its own.

    Raises:
      UserError: there is no checkpoint, or none of its weights fit.
    """
    if own := integrity.steps(folder / checkpoint.FOLDER):
        say(f"--init_from is not read: {folder} has checkpoints of its own, up to step {own[0]}")
        return None
    replicated = mesh.replicated(mesh.make())
    found = checkpoint.restore_for_inference(init_from, replicated, all_networks=True)
    # One's own classes may have to be counted first, which the check of the data says.
    if settings.data.channels:
        say(check(checkpoint.abstract_state(settings, replicated), found))
        if note := other_settings(found, settings):
            say(note)
    if found.state.ema is None:
        return found
    # The average is taken over; beside it, parameters would fill devices for the whole run.
    params = {"discriminator": found.state.params["discriminator"]}
    return found._replace(state=dataclasses.replace(found.state, params=params))


def check(fresh: TrainState, restored: Restored) -> str:
    """Compares a checkpoint with a new run's state, which may be shapes alone.

    Returns:
      What is taken over and what begins anew, in a line for the user.

    Raises:
      UserError: no convolution of the translation fits.
    """
    total = taken = 0
    # By the parts of the networks that they are in.
    anew: collections.Counter[str] = collections.Counter()
    fits = False
    for player in _PLAYERS:
        ours, theirs = _of_run(fresh, player), _of_checkpoint(restored.state, player)
        fitting = _fitting(ours, theirs)
        for path, leaf in ours.items():
            if path[0] == "params":
                size = math.prod(leaf.shape)
                total += size
                taken += size if path[1:-1] in fitting else 0
            fits |= player == "generator" and path[-1] == "kernel" and path[1:-1] in fitting
        for module in {path[1:-1] for path in ours} - fitting:
            whole = (player, *module) if player == "discriminator" else module
            anew["/".join(whole[:2])] += 1
    if not fits:
        raise UserError(
            f"--init_from: no weights of {restored.folder} fit these settings: its"
            f" config.model.base_filters is {restored.settings.model.base_filters}; take the"
            " settings of its recipe, or another checkpoint"
        )
    line = (
        f"starting from the weights of {restored.folder}: {taken / total:.1%} of {total:,}"
        " parameters are taken over"
    )
    if anew:
        parts = [f"{part} ({count})" for part, count in sorted(anew.items())]
        line += f"; {anew.total()} modules begin anew: {', '.join(parts)}"
    return line


def take_over(fresh: TrainState, restored: Restored) -> TrainState:
    """Returns a new run's state with the weights of a checkpoint where they fit."""
    params, variables = {}, {}
    for player in _PLAYERS:
        ours, theirs = _of_run(fresh, player), _of_checkpoint(restored.state, player)
        fitting = _fitting(ours, theirs)
        merged = traverse_util.unflatten_dict(
            {path: theirs[path] if path[1:-1] in fitting else ours[path] for path in ours}
        )
        params[player] = merged.pop("params")
        variables[player] = merged
    # A copy: the state is donated to the step, and donated buffers must not be shared.
    ema = None if fresh.ema is None else jax.tree.map(jnp.copy, params["generator"])
    return dataclasses.replace(fresh, params=params, variables=variables, ema=ema)


def other_settings(restored: Restored, settings: Settings) -> str:
    """A line with what the checkpoint's model has been set to otherwise; empty where nothing."""
    found = checkpoint.model_differences(restored.settings, settings)
    found = [line for line in found if not line.startswith("optimiser.")]
    return f"its model has other settings (there, here): {'; '.join(found)}" if found else ""


def _of_run(state: TrainState, player: str) -> dict[tuple[str, ...], Any]:
    """(collection, modules ..., name) -> array of one player."""
    return traverse_util.flatten_dict({"params": state.params[player], **state.variables[player]})


def _of_checkpoint(state: TrainState, player: str) -> dict[tuple[str, ...], Any]:
    """The same, with the average where one is kept."""
    if player == "generator":
        return traverse_util.flatten_dict(inference_variables(state))
    return _of_run(state, player)


def _fitting(ours: dict[tuple[str, ...], Any], theirs: dict[tuple[str, ...], Any]) -> set[_Module]:
    """Modules that have the same arrays on both sides."""
    shapes: list[dict[_Module, dict[tuple[str, str], tuple[int, ...]]]] = []
    for arrays in (ours, theirs):
        of_modules: dict[_Module, dict[tuple[str, str], tuple[int, ...]]] = {}
        for path, leaf in arrays.items():
            of_modules.setdefault(path[1:-1], {})[path[0], path[-1]] = leaf.shape
        shapes.append(of_modules)
    return {module for module, found in shapes[0].items() if shapes[1].get(module) == found}
