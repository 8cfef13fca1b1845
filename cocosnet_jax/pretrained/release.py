"""Converts between the release's PyTorch weights and our parameters and checkpoints.

`dec`, an unused decoder in the discriminator's files, is dropped. `num_batches_tracked`, which no
network reads, is dropped too, and written as 0.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import traverse_util

from cocosnet_jax.errors import UserError
from cocosnet_jax.pretrained import torch_files
from cocosnet_jax.pretrained.release_names import Net, Tree, collections_of, shapes_of, table
from cocosnet_jax.settings import Settings, to_mapping
from cocosnet_jax.state import TrainState, create_state

_IGNORED = re.compile(r"discriminator_\d\.dec\.|.*\.num_batches_tracked$")
# The release's names of the networks in file names.
_FILES: dict[Net, str] = {"correspondence": "Corr", "generator": "G", "discriminator": "D"}
# A tensor that identifies the network.
_SIGNATURES: dict[Net, str] = {
    "correspondence": "theta.weight",
    "generator": "fc.weight",
    "discriminator": "discriminator_0.model0.0.weight",
}


def _listed(names: list[str]) -> str:
    return "; ".join(names[:30]) + (f"; and {len(names) - 30} more" if len(names) > 30 else "")


def from_torch(
    tensors: Mapping[str, np.ndarray], net: Net, settings: Settings, source: str = ""
) -> tuple[Tree, Tree]:
    """Converts the release's tensors to our parameters, keeping their dtypes.

    Args:
      tensors: name -> array in PyTorch's layout, as `torch_files.read` returns them.
      net: the tensors' network.
      settings: of the networks.
      source: the origin of the tensors for messages, for example the file.

    Returns:
      The network's parameters, and its variables: {"spectral": ..., "batch_stats": ...} if it has
      them. In a `TrainState` they are `params["generator"][net]` and
      `variables["generator"][collection][net]`; the discriminator's are `params["discriminator"]`
      and `variables["discriminator"]`.

    Raises:
      UserError: tensors are missing, unknown or have other shapes; the message lists them.
    """
    source = source or f"weights of the {net}"
    _check_network(tensors, net, source)
    wanted = table(net, settings)
    kept = {name: np.asarray(x) for name, x in tensors.items() if not _IGNORED.match(name)}
    problems = [f"{n} {wanted[n].torch_shape} is missing" for n in wanted if n not in kept]
    problems += [f"{n} {kept[n].shape} is unknown" for n in kept if n not in wanted]
    problems += [
        f"{n} is {kept[n].shape}, but must be {wanted[n].torch_shape}"
        for n in wanted
        if n in kept and kept[n].shape != wanted[n].torch_shape
    ]
    if problems:
        raise UserError(
            f"{source}: not the {net} of this config; use the config of its task"
            f" ({len(problems)} of its tensors differ: {_listed(problems)})"
        )
    flat = {leaf.path: leaf.from_torch(kept[name]) for name, leaf in wanted.items()}
    collections = traverse_util.unflatten_dict(flat)
    return collections.pop("params"), collections


def to_torch(params: Tree, variables: Tree, net: Net, settings: Settings) -> dict[str, np.ndarray]:
    """The inverse of `from_torch`: the release's names and layout, with unchanged dtypes."""
    flat = traverse_util.flatten_dict({"params": params, **variables})
    tensors = {
        name: leaf.to_torch(np.asarray(flat[leaf.path]))
        for name, leaf in table(net, settings).items()
    }
    for name in [name for name in tensors if name.endswith(".running_var")]:
        tensors[name.removesuffix("running_var") + "num_batches_tracked"] = np.zeros((), np.int64)
    return tensors


# --- settings shown by shapes ---------------------------------------------------------------


def describe(tensors: Mapping[str, np.ndarray], net: Net) -> dict[str, Any]:
    """The settings that can be derived from the release's tensors.

    The compared neighbourhood (`match_kernel`), centring and upsampling have no parameters, so they
    cannot.

    Returns:
      `section.field` -> value.
    """
    shapes = {name: np.shape(tensor) for name, tensor in tensors.items()}
    norm = "batch" if any(".param_free_norm." in name for name in shapes) else "positional"
    settings: dict[str, Any] = {}

    def shape(name: str, rank: int = 4) -> tuple[int, ...] | None:
        got = shapes.get(name)
        return got if got is not None and len(got) == rank else None

    if net == "correspondence":
        settings["model.block_norm"] = norm
        if first := shape("adaptive_model_seg.layer1.0.weight_orig"):
            settings["model.base_filters"], settings["data.channels"] = first[:2]
        if second := shape("adaptive_model_seg.layer2.0.weight_orig"):
            settings["model.adaptor_kernel"] = second[-1]
        fourth = shape("adaptive_model_seg.layer4.0.weight_orig")
        if second and fourth and second[-1] == 4:  # With kernel 3, both strides have this shape.
            settings["model.warp_stride"] = 4 if fourth[-1] == 4 else 2
        if first and (theta := shape("theta.weight")):
            mixed = theta[1] == 4 * first[0] + first[1]
            settings["model.mask_input"] = "features" if mixed else "none"
    elif net == "generator":
        settings["model.generator_norm"] = norm
        settings["model.non_local"] = "attn.gamma" in shapes
        if stem := shape("fc.weight"):
            settings["model.base_filters"] = stem[0] // 16
            settings["data.channels"] = stem[1] - 3
    else:
        settings["model.non_local"] = "discriminator_0.attn.gamma" in shapes
        if first := shape("discriminator_0.model0.0.weight"):
            settings["model.base_filters"] = first[0]
            settings["data.channels"] = first[1] - 3
    return settings


def check_settings(files: Mapping[str, dict[str, Any]], settings: Settings) -> dict[str, Any]:
    """Compares the settings shown by the files with the config.

    Args:
      files: file -> the result of `describe`.
      settings: of the config.

    Returns:
      The settings shown by all files.

    Raises:
      UserError: the config differs; the message lists fields, values and files.
    """
    config = to_mapping(settings)
    different = []
    for file, described in files.items():
        for field, value in described.items():
            section, name = field.split(".")
            if config[section][name] != value:
                different.append(f"config.{field} is {config[section][name]!r}, {file} has {value}")
    if different:
        raise UserError(
            "the weights do not match this config: " + "; ".join(different) + ". Use the config of"
            " their task, or set these fields on the command line"
        )
    return {field: value for described in files.values() for field, value in described.items()}


# --- files <-> checkpoints ------------------------------------------------------------------


def _read(path: str, net: Net) -> dict[str, np.ndarray]:
    tensors = torch_files.read(path)
    _check_network(tensors, net, path)
    if _SIGNATURES[net] not in tensors:
        raise UserError(
            f"{path}: not the release's {net}, because it has no {_SIGNATURES[net]}, but"
            f" {_listed([f'{n} {x.shape}' for n, x in tensors.items()])}"
        )
    return tensors


def _check_network(tensors: Mapping[str, np.ndarray], net: Net, source: str) -> None:
    """Raises a `UserError` if tensors belong to another network."""
    for other, name in _SIGNATURES.items():
        if name in tensors and other != net:
            raise UserError(f"{source}: contains the release's {other}, not its {net}")


def train_state(
    settings: Settings, weights: Mapping[Net, str], average: Mapping[Net, str] | None = None
) -> TrainState:
    """Makes a state at step 0 from the release's files.

    Args:
      settings: of the run; must match the files.
      weights: network -> file. Without a discriminator, a new one is initialised from the seed.
      average: files of the averaged correspondence network and generator. Their parameters become
        the state's averaged weights; spectral vectors and running statistics are those of
        `weights`.

    Raises:
      UserError: a file contains something else, or does not match the settings.
    """
    average = average or {}
    files = {path: _read(path, net) for net, path in weights.items()}
    averages = {path: _read(path, net) for net, path in average.items()}
    described = {weights[net]: describe(files[weights[net]], net) for net in weights}
    described |= {average[net]: describe(averages[average[net]], net) for net in average}
    check_settings(described, settings)
    for path, tensors in (files | averages).items():
        kinds = {str(x.dtype) for x in tensors.values()} - {"float32", "int64"}
        if kinds:
            logging.warning("%s: converting %s to float32", path, ", ".join(sorted(kinds)))
    shapes = shapes_of(settings)

    def to_device(tree: Any, like: Any) -> Any:
        """Converts to the checkpoint's dtypes: float32, whatever the file's."""
        return jax.tree.map(lambda x, wanted: jnp.asarray(x, wanted.dtype), tree, like)

    params: dict[str, Tree] = {"generator": {}}
    variables: dict[str, Tree] = {"generator": {}}
    for net, path in weights.items():
        own, collections = from_torch(files.pop(path), net, settings, path)
        if net == "discriminator":
            params[net], variables[net] = own, collections
        else:
            params["generator"][net] = own
            for name, tree in collections.items():
                variables["generator"].setdefault(name, {})[net] = tree
    if "discriminator" not in weights:
        fresh = create_state(settings, jax.random.key(settings.train.seed), steps_per_epoch=1)
        params["discriminator"] = fresh.params["discriminator"]
        variables["discriminator"] = fresh.variables["discriminator"]
        del fresh
    params = to_device(params, shapes.params)
    ema = None
    if shapes.ema is not None:
        ema = jax.tree.map(jnp.copy, params["generator"])
        if average:
            trees = {
                net: from_torch(averages.pop(path), net, settings, path)[0]
                for net, path in average.items()
            }
            ema = to_device(trees, shapes.ema)
    return TrainState(
        step=jnp.zeros((), shapes.step.dtype),
        params=params,
        variables=to_device(variables, shapes.variables),
        # Adam starts from zeros.
        opt_state=jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes.opt_state),
        ema=ema,
    )


def write_torch(settings: Settings, state: TrainState, folder: Path) -> list[Path]:
    """Writes a state's networks, with averaged weights if they exist, as the release's files.

    Returns:
      The files: `STEP_net_Corr.pth`, `STEP_net_G.pth`, `STEP_net_D.pth`, and for averaged weights
      `STEP_net_Corr_ema.pth`, `STEP_net_G_ema.pth`.
    """
    table("correspondence", settings)  # Reports what cannot be converted before writing.
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--output={folder} cannot be created ({error.strerror}); choose another folder"
        ) from error
    kinds = [("", state)]
    if state.ema is not None:
        kinds.append(
            ("_ema", dataclasses.replace(state, params={**state.params, "generator": state.ema}))
        )
    written = []
    for suffix, one in kinds:
        for net, label in _FILES.items():
            if suffix and net == "discriminator":
                continue
            collections = collections_of(one, net)
            path = folder / f"{int(state.step)}_net_{label}{suffix}.pth"
            tensors = to_torch(collections.pop("params"), collections, net, settings)
            torch_files.write(path, tensors)
            written.append(path)
    return written
