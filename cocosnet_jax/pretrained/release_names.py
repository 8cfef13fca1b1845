"""Maps every array of our networks to the tensor of the release with the same numbers.

PyTorch's convolution kernels are (out, in, height, width), JAX's (height, width, in, out); spectral
vectors `v` index a kernel's inputs in the same two orders. Otherwise, only names differ (SPEC
sections 2 to 5).
"""

import dataclasses
import functools
from typing import Any, Literal

import numpy as np
from flax import traverse_util

from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import Settings
from cocosnet_jax.state import state_shapes

Net = Literal["correspondence", "generator", "discriminator"]
Tree = dict[str, Any]

_STAGES = {"head": "head_0", "middle_0": "G_middle_0", "middle_1": "G_middle_1"}
# Module paths, ours -> the release's. Other modules have the same name.
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


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One of our arrays, with its conversion from and to PyTorch.

    Attributes:
      path: collection, module names, leaf.
      shape: our shape.
      kernel: for a `v`, (height, width, in) of its convolution.
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
def shapes_of(settings: Settings) -> Any:
    """A TrainState of shapes; nothing is computed."""
    return state_shapes(settings)


def collections_of(state: Any, net: Net) -> Tree:
    """Parameters and variables of one network: collection -> tree."""
    if net == "discriminator":
        return {"params": state.params[net], **state.variables[net]}
    collections = {"params": state.params["generator"], **state.variables["generator"]}
    return {name: tree[net] for name, tree in collections.items() if net in tree}


def table(net: Net, settings: Settings) -> dict[str, Leaf]:
    """The release's name -> our array, for the network of these settings.

    Raises:
      UserError: these settings make a network that the release does not have.
    """
    if not settings.model.needs_exemplar and net == "correspondence":
        raise UserError(
            "config.model.generator_condition='input' has no correspondence network, so it cannot"
            " be converted"
        )
    flat = traverse_util.flatten_dict(collections_of(shapes_of(settings), net))
    kernels = {path[1:-1]: x.shape for path, x in flat.items() if path[-1] == "kernel"}
    spectral = {path[1:-1] for path in flat if path[0] == "spectral"}
    unknown = [
        "/".join(path[1:])
        for path in flat
        if path[-1] == "code" or (path[0] == "batch_stats" and path[-2] != "batch_norm")
    ]
    if unknown:
        raise UserError(
            f"the release's {net} has no {', '.join(unknown)}; only networks like the release's can"
            " be converted (configs/NAME.py:released)"
        )
    return {
        _torch_name(net, path[1:], path[1:-1] in spectral): Leaf(
            path, x.shape, kernels[path[1:-1]][:3] if path[-1] == "v" else ()
        )
        for path, x in flat.items()
    }
