r"""The release's PyTorch weights <-> our checkpoints, by one table of names.

    python -m cocosnet_jax.convert --config=configs/ade20k.py:released \
        --corr=X_net_Corr.pth --generator=X_net_G.pth [--discriminator=X_net_D.pth] \
        [--corr-ema=... --generator-ema=...] --output=WORKDIR
    python -m cocosnet_jax.convert --to-torch --checkpoint=WORKDIR --output=FOLDER

The first makes a workdir that translation, evaluation and further training take; the second
writes its newest checkpoint as `STEP_net_Corr.pth`, `STEP_net_G.pth` and `STEP_net_D.pth`.

PyTorch keeps convolutions as (out, in, height, width), JAX as (height, width, in, out); spectral
vectors `v` run over a kernel's inputs in the same two orders. Everything else is a change of names
(SPEC sections 2 to 5). `dec`, a decoder in the discriminator's files that is never run, is left
out, and `num_batches_tracked` is not kept: no network reads it, and it is written as 0.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags, logging
from flax import traverse_util

from cocosnet_jax import checkpoint, command, files, torch_files
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import Settings, to_mapping
from cocosnet_jax.state import TrainState, create_state

Net = Literal["correspondence", "generator", "discriminator"]
Tree = dict[str, Any]

_STAGES = {"head": "head_0", "middle_0": "G_middle_0", "middle_1": "G_middle_1"}
# Module paths, ours -> the release's. What is not here keeps its name.
_MODULES: dict[str, dict[str, str]] = {
    "generator": {
        "stem": "fc",
        **_STAGES,
        "attention": "attn",
        "to_image": "conv_img",
    },
    "correspondence": {
        f"{ours}{inner}": f"{theirs}{their_inner}"
        for ours, theirs in (
            ("input_adaptor", "adaptive_model_seg"),
            ("image_adaptor", "adaptive_model_img"),
        )
        for inner, their_inner in (
            *((f"/conv_{i}", f"/layer{i}/0") for i in range(1, 6)),
            *((f"/block_{i}", f"/{name}") for i, name in enumerate(_STAGES.values(), 1)),
        )
    }
    | {
        f"features/block_{i}{inner}": f"layer/{i - 1}{their_inner}"
        for i in range(1, 5)
        for inner, their_inner in (("/conv_0", "/conv1"), ("/conv_1", "/conv2"), ("", ""))
    },
    "discriminator": {
        f"scale_{i}/{inner}": f"discriminator_{i}/{their_inner}"
        for i in range(2)
        for inner, their_inner in (
            ("conv_0", "model0/0"),
            *((f"conv_{j}", f"model{j}/0/0") for j in (1, 2, 3)),
            ("conv_4", "model4/0"),
            ("attention", "attn"),
        )
    },
}
# Inside SPADE, in all networks.
_SPADE = {
    "shared": "mlp_shared/1",
    "gamma": "mlp_gamma",
    "beta": "mlp_beta",
    "batch_norm": "param_free_norm",
}
_LEAVES = {
    "kernel": "weight",
    "u": "weight_u",
    "v": "weight_v",
    "mean": "running_mean",
    "var": "running_var",
    "slope": "prelu/weight",
}
_IGNORED = re.compile(r"discriminator_\d\.dec\.|.*\.num_batches_tracked$")
# What the release calls the networks in file names.
_FILES: dict[Net, str] = {"correspondence": "Corr", "generator": "G", "discriminator": "D"}
# A name that tells the network.
_SIGNATURES: dict[Net, str] = {
    "correspondence": "theta.weight",
    "generator": "fc.weight",
    "discriminator": "discriminator_0.model0.0.weight",
}


@dataclasses.dataclass(frozen=True)
class _Leaf:
    """One of our arrays, and what PyTorch keeps in its place.

    Attributes:
      path: collection, module names, leaf.
      shape: ours.
      kernel: (height, width, in) of the convolution that a `v` belongs to.
    """

    path: tuple[str, ...]
    shape: tuple[int, ...]
    kernel: tuple[int, ...] = ()

    @property
    def torch_shape(self) -> tuple[int, ...]:
        kind = self.path[-1]
        if kind == "kernel":
            height, width, inputs, outputs = self.shape
            return (outputs, inputs, height, width)
        return (1,) if kind == "slope" else self.shape

    def from_torch(self, tensor: np.ndarray) -> np.ndarray:
        kind = self.path[-1]
        if kind == "kernel":
            return np.ascontiguousarray(tensor.transpose(2, 3, 1, 0))
        if kind == "v":
            height, width, inputs = self.kernel
            return tensor.reshape(inputs, height, width).transpose(1, 2, 0).reshape(-1)
        return tensor.reshape(self.shape)

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        kind = self.path[-1]
        if kind == "kernel":
            return np.ascontiguousarray(array.transpose(3, 2, 0, 1))
        if kind == "v":
            return array.reshape(self.kernel).transpose(2, 0, 1).reshape(-1)
        return array.reshape(self.torch_shape)


def _torch_name(net: Net, path: tuple[str, ...], spectral: bool) -> str:
    *modules, leaf = path
    module = "/".join(modules)
    for ours in sorted(_MODULES[net], key=len, reverse=True):
        if module == ours or module.startswith(ours + "/"):
            module = _MODULES[net][ours] + module[len(ours) :]
            break
    parts = [_SPADE.get(part, part) for part in module.split("/")]
    weight = "weight_orig" if leaf == "kernel" and spectral else _LEAVES.get(leaf, leaf)
    return "/".join([*parts, weight]).replace("/", ".")


@functools.lru_cache(maxsize=4)
def _shapes(settings: Settings) -> Any:
    """A TrainState of shapes; nothing is computed."""
    return jax.eval_shape(
        functools.partial(create_state, settings, steps_per_epoch=1), jax.random.key(0)
    )


def _collections(state: Any, net: Net) -> Tree:
    """Parameters and variables of one network: collection -> tree."""
    if net == "discriminator":
        return {"params": state.params[net], **state.variables[net]}
    both = {"params": state.params["generator"], **state.variables["generator"]}
    return {name: tree[net] for name, tree in both.items() if net in tree}


def table(net: Net, settings: Settings) -> dict[str, _Leaf]:
    """The release's name -> our array, for the network of these settings.

    Raises:
      UserError: these settings make a network that the release does not have.
    """
    if settings.model.generator_condition == "input" and net == "correspondence":
        raise UserError("config.model.generator_condition='input' has no correspondence network")
    flat = traverse_util.flatten_dict(_collections(_shapes(settings), net))
    kernels = {path[1:-1]: x.shape for path, x in flat.items() if path[-1] == "kernel"}
    spectral = {path[1:-1] for path in flat if path[0] == "spectral"}
    unknown = [
        "/".join(path[1:])
        for path in flat
        if path[-1] == "code" or (path[0] == "batch_stats" and path[-2] != "batch_norm")
    ]
    if unknown:
        raise UserError(
            f"the release's {net} has no {', '.join(unknown)}: only settings of its own networks"
            " can be converted (configs/NAME.py:released)"
        )
    return {
        _torch_name(net, path[1:], path[1:-1] in spectral): _Leaf(
            path, x.shape, kernels[path[1:-1]][:3] if path[-1] == "v" else ()
        )
        for path, x in flat.items()
    }


def _listed(names: list[str]) -> str:
    return "; ".join(names[:30]) + (f"; and {len(names) - 30} more" if len(names) > 30 else "")


def from_torch(
    tensors: Mapping[str, np.ndarray], net: Net, settings: Settings, source: str = ""
) -> tuple[Tree, Tree]:
    """Our parameters from the release's tensors, in the tensors' own type.

    Args:
      tensors: name -> array in PyTorch's layout, as `torch_files.read` returns them.
      net: which network they are.
      settings: of the networks.
      source: what error messages call the tensors, for example the file.

    Returns:
      The network's parameters, and its variables: {"spectral": ..., "batch_stats": ...} as far as
      it has them. In a `TrainState` both stand under
      `params["generator"][net]` and `variables["generator"][collection][net]`, and the
      discriminator's under `params["discriminator"]` and `variables["discriminator"]`.

    Raises:
      UserError: tensors that are missing, unknown or of another shape; the message lists them.
    """
    source = source or f"weights of the {net}"
    for other, name in _SIGNATURES.items():
        if name in tensors and other != net:
            raise UserError(f"{source}: holds the release's {other}, not its {net}")
    wanted = table(net, settings)
    kept = {name: np.asarray(x) for name, x in tensors.items() if not _IGNORED.match(name)}
    problems = [f"{n} {wanted[n].torch_shape} is missing" for n in wanted if n not in kept]
    problems += [f"{n} {kept[n].shape} is unknown" for n in kept if n not in wanted]
    problems += [
        f"{n} is {kept[n].shape} and should be {wanted[n].torch_shape}"
        for n in wanted
        if n in kept and kept[n].shape != wanted[n].torch_shape
    ]
    if problems:
        raise UserError(
            f"{source}: not the {net} of this config ({len(problems)} of its tensors differ):"
            f" {_listed(problems)}"
        )
    flat = {leaf.path: leaf.from_torch(kept[name]) for name, leaf in wanted.items()}
    collections = traverse_util.unflatten_dict(flat)
    return collections.pop("params"), collections


def to_torch(params: Tree, variables: Tree, net: Net, settings: Settings) -> dict[str, np.ndarray]:
    """The inverse of `from_torch`: the release's names and layout, in the arrays' own type."""
    flat = traverse_util.flatten_dict({"params": params, **variables})
    tensors = {
        name: leaf.to_torch(np.asarray(flat[leaf.path]))
        for name, leaf in table(net, settings).items()
    }
    for name in [name for name in tensors if name.endswith(".running_var")]:
        tensors[name.removesuffix("running_var") + "num_batches_tracked"] = np.zeros((), np.int64)
    return tensors


# --- what shapes tell -----------------------------------------------------------------------


def describe(tensors: Mapping[str, np.ndarray], net: Net) -> dict[str, Any]:
    """The settings that the release's tensors show, as far as they do.

    The neighbourhood that is compared (`match_kernel`), the centring and the way of upsampling
    have no parameters and do not show.

    Returns:
      `section.field` -> value.
    """
    shapes = {name: np.shape(tensor) for name, tensor in tensors.items()}
    norm = "batch" if any(".param_free_norm." in name for name in shapes) else "positional"
    found: dict[str, Any] = {}

    def shape(name: str, rank: int = 4) -> tuple[int, ...] | None:
        got = shapes.get(name)
        return got if got is not None and len(got) == rank else None

    if net == "correspondence":
        found["model.block_norm"] = norm
        if first := shape("adaptive_model_seg.layer1.0.weight_orig"):
            found["model.base_filters"], found["data.channels"] = first[:2]
        if second := shape("adaptive_model_seg.layer2.0.weight_orig"):
            found["model.adaptor_kernel"] = second[-1]
        fourth = shape("adaptive_model_seg.layer4.0.weight_orig")
        if second and fourth and second[-1] == 4:  # with 3 both strides have this shape
            found["model.warp_stride"] = 4 if fourth[-1] == 4 else 2
        if first and (theta := shape("theta.weight")):
            mixed = theta[1] == 4 * first[0] + first[1]
            found["model.mask_input"] = "features" if mixed else "none"
    elif net == "generator":
        found["model.generator_norm"] = norm
        found["model.non_local"] = "attn.gamma" in shapes
        if stem := shape("fc.weight"):
            found["model.base_filters"] = stem[0] // 16
            found["data.channels"] = stem[1] - 3
    else:
        found["model.non_local"] = "discriminator_0.attn.gamma" in shapes
        if first := shape("discriminator_0.model0.0.weight"):
            found["model.base_filters"] = first[0]
            found["data.channels"] = first[1] - 3
    return found


def check_settings(files: Mapping[str, dict[str, Any]], settings: Settings) -> dict[str, Any]:
    """Holds what the files show against the config.

    Args:
      files: file -> what `describe` found in it.
      settings: of the config.

    Returns:
      Everything that was found.

    Raises:
      UserError: the config says something else; the message lists fields, values and files.
    """
    config = to_mapping(settings)
    different = []
    for file, found in files.items():
        for field, value in found.items():
            section, name = field.split(".")
            if config[section][name] != value:
                different.append(f"config.{field} is {config[section][name]!r}, {file} has {value}")
    if different:
        raise UserError(
            "the weights are not of this config: " + "; ".join(different) + ". Choose the config"
            " of their task, or set these fields on the command line"
        )
    return {field: value for found in files.values() for field, value in found.items()}


# --- files <-> checkpoints ------------------------------------------------------------------


def _read(path: str, net: Net) -> dict[str, np.ndarray]:
    tensors = torch_files.read(path)
    for other, name in _SIGNATURES.items():
        if name in tensors and other != net:
            raise UserError(f"{path}: holds the release's {other}, not its {net}")
    if _SIGNATURES[net] not in tensors:
        raise UserError(
            f"{path}: not the release's {net}: it has no {_SIGNATURES[net]}, but"
            f" {_listed([f'{n} {x.shape}' for n, x in tensors.items()])}"
        )
    return tensors


def train_state(
    settings: Settings, weights: Mapping[Net, str], average: Mapping[Net, str] | None = None
) -> TrainState:
    """A state at step 0 from the release's files.

    Args:
      settings: of the run; must fit the files.
      weights: network -> file. Without a discriminator a new one is made from the seed.
      average: files of the averaged correspondence network and generator. Their parameters
        become the state's average; spectral vectors and running statistics are those of `weights`.

    Raises:
      UserError: a file is not what it should be, or does not fit the settings.
    """
    average = average or {}
    files = {path: _read(path, net) for net, path in weights.items()}
    averages = {path: _read(path, net) for net, path in average.items()}
    found = {weights[net]: describe(files[weights[net]], net) for net in weights}
    found |= {average[net]: describe(averages[average[net]], net) for net in average}
    check_settings(found, settings)
    for path, tensors in (files | averages).items():
        kinds = {str(x.dtype) for x in tensors.values()} - {"float32", "int64"}
        if kinds:
            logging.warning("%s: %s is turned into float32", path, ", ".join(sorted(kinds)))
    shapes = _shapes(settings)

    def to_device(tree: Any, like: Any) -> Any:
        """In the checkpoint's types: float32, whatever the file has."""
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
    """Writes a state's networks, and the averages where they are kept, as the release's files.

    Returns:
      The files: `STEP_net_Corr.pth`, `STEP_net_G.pth`, `STEP_net_D.pth`, and of the averages
      `STEP_net_Corr_ema.pth`, `STEP_net_G_ema.pth`.
    """
    table("correspondence", settings)  # says what cannot be converted before anything is written
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output={folder} cannot be made ({error.strerror})") from error
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
            collections = _collections(one, net)
            path = folder / f"{int(state.step)}_net_{label}{suffix}.pth"
            tensors = to_torch(collections.pop("params"), collections, net, settings)
            torch_files.write(path, tensors)
            written.append(path)
    return written


def _define_flags() -> Callable[[], Settings]:
    """Not at import: other entry points' flags may be there, and tests import this module."""
    read_settings = command.define_config(trains=False)
    define = flags.DEFINE_string
    define("corr", "", "the release's *_net_Corr.pth")
    define("generator", "", "the release's *_net_G.pth")
    define("discriminator", "", "the release's *_net_D.pth, to train further")
    define("corr-ema", "", "averaged weights beside those of --corr")
    define("generator-ema", "", "averaged weights beside those of --generator")
    flags.DEFINE_bool("to-torch", False, "write --checkpoint as PyTorch files into --output")
    define("checkpoint", "", "with --to-torch: a workdir, or one checkpoint in it")
    define("output", "", "the workdir to write, or with --to-torch the folder")
    return read_settings


def _export(given: dict[str, Any]) -> None:
    if not given["checkpoint"]:
        raise UserError("--checkpoint is missing: --to-torch reads a workdir or one checkpoint")
    settings, state, *_ = checkpoint.restore_for_inference(given["checkpoint"], all_networks=True)
    for path in write_torch(settings, state, files.local(given["output"], "--output")):
        print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")


def _import(given: dict[str, Any], read_settings: Callable[[], Settings]) -> None:
    if not (given["corr"] and given["generator"]):
        raise UserError("--corr and --generator must both name a file, *_net_Corr.pth, *_net_G.pth")
    if bool(given["corr-ema"]) != bool(given["generator-ema"]):
        raise UserError("--corr-ema and --generator-ema go together: give both or neither")
    settings = read_settings()
    if given["corr-ema"] and not settings.optimiser.ema:
        raise UserError(
            "config.optimiser.ema is 0, but averaged weights are given: set it (the release's"
            " option is 0.999), or give the averaged files as --corr and --generator"
        )
    workdir = checkpoint.absolute(given["output"])
    if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise UserError(f"--output={workdir} exists already; name a folder that does not")
    weights: dict[Net, str] = {"correspondence": given["corr"], "generator": given["generator"]}
    if given["discriminator"]:
        weights["discriminator"] = given["discriminator"]
    average: dict[Net, str] = {}
    if given["corr-ema"]:
        average = {"correspondence": given["corr-ema"], "generator": given["generator-ema"]}
    state = train_state(settings, weights, average)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output={workdir} cannot be made ({error.strerror})") from error
    checkpoints = checkpoint.Checkpoints(workdir, settings)
    checkpoints.save(0, state, force=True)
    checkpoints.close()
    model = settings.model
    print(
        f"{workdir}: input channels {settings.data.channels}, base filters {model.base_filters},"
        f" adaptor kernel {model.adaptor_kernel}, as in the files. From the config, since weights"
        f" do not show it: match_kernel {model.match_kernel}, centre {model.centre},"
        f" warp_upsampling {model.warp_upsampling}"
    )
    if not given["discriminator"]:
        print("no --discriminator was given: further training starts with a new one")


def main(read_settings: Callable[[], Settings]) -> None:
    """Converts in the direction that the flags say."""
    logging.set_verbosity(logging.WARNING)  # Orbax tells every step of its work
    given = flags.FLAGS.flag_values_dict()
    if not given["output"]:
        raise UserError("--output is missing: it names the folder to write")
    if given["to-torch"]:
        _export(given)
    else:
        _import(given, read_settings)


def run() -> None:
    """The command `cocosnet-convert`."""
    command.run(functools.partial(main, _define_flags()), __doc__)


if __name__ == "__main__":
    run()
