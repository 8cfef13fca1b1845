"""VGG-19 from a weight file, whichever of the three common formats it has (SPEC section 6)."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np

from cocosnet_jax import files
from cocosnet_jax.errors import UserError
from cocosnet_jax.pretrained import torch_files
from cocosnet_jax.vgg import LAYERS, STAGES, Params, VggWeights, widths

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_HOW = (
    "set config.vgg.weights to one of: torchvision's vgg19 file (vgg19-dcbb9e9d.pth, the one"
    " that torchvision.models.vgg19(weights='IMAGENET1K_V1') downloads), Keras's"
    " vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5 (keras.applications.VGG19("
    "include_top=False) downloads it to ~/.keras/models), or the vgg19_conv.pth that goes with the"
    " authors' release. Any folder will do. config.vgg.weights=random needs no file: untrained, for"
    " trying things out, not for results"
)


def _torchvision_names() -> dict[str, str]:
    """Our names -> torchvision's, which count convolutions, ReLUs and poolings alike."""
    names, index = {}, 0
    for stage, count in enumerate(STAGES, 1):
        for j in range(1, count + 1):
            names[f"conv{stage}_{j}"] = f"features.{index}"
            index += 2
        index += 1
    return names


def _shapes(width: int) -> dict[str, tuple[int, ...]]:
    """`conv1_1/kernel` (HWIO), `conv1_1/bias` ... -> shape."""
    shapes: dict[str, tuple[int, ...]] = {}
    previous = 3
    for name in LAYERS:
        out = widths(width)[int(name[4]) - 1]
        shapes |= {f"{name}/kernel": (3, 3, previous, out), f"{name}/bias": (out,)}
        previous = out
    return shapes


def _tree(tensors: Mapping[str, np.ndarray]) -> Params:
    return {
        name: {leaf: cast(Any, tensors[f"{name}/{leaf}"]) for leaf in ("kernel", "bias")}
        for name in LAYERS
    }


def _random(width: int) -> VggWeights:
    """He normal kernels and biases of 0: distances of untrained features still mean something.

    Drawn by NumPy: JAX would compile a program for every shape, half a minute on a slow machine.
    """
    rng = np.random.default_rng(0)
    tensors = {}
    for name, shape in _shapes(width).items():
        deviation = np.sqrt(2 / np.prod(shape[:-1])) if name.endswith("kernel") else 0.0
        tensors[name] = np.float32(deviation) * rng.standard_normal(shape, np.float32)
    return VggWeights(_tree(tensors))


def _checked(source: str, tensors: Mapping[str, np.ndarray], width: int) -> Params:
    """Tensors by the names of `_shapes` as a tree, all shapes as they must be."""
    wanted = _shapes(width)
    problems = [f"{name} is missing" for name in wanted if name not in tensors]
    problems += [f"{name} {tensors[name].shape} is unknown" for name in tensors.keys() - wanted]
    problems += [
        f"{name} is {tensors[name].shape} and should be {shape}"
        for name, shape in wanted.items()
        if name in tensors and tensors[name].shape != shape
    ]
    if problems:
        raise UserError(
            f"{source}: not the convolutions of VGG-19 with {width} channels in the first layer"
            f" (shapes as height, width, in, out): {'; '.join(sorted(problems))}"
        )
    return _tree(tensors)


def from_torch(
    tensors: Mapping[str, np.ndarray], width: int = 64, source: str = "VGG-19"
) -> VggWeights:
    """VGG-19 from PyTorch tensors, by the release's names or by torchvision's.

    Args:
      tensors: `conv1_1.weight` ... (the release's), or `features.0.weight` ... (torchvision's,
        whose `classifier` is not used), kernels OIHW.
      width: channels of the first layer.
      source: what error messages call it.

    Returns:
      The weights in the tensors' own type, with the preprocessing that goes with the names.

    Raises:
      UserError: names or shapes that are not VGG-19's; the message lists them.
    """
    torchvision = "features.0.weight" in tensors
    ours = {name: name for name in LAYERS}
    if torchvision:
        ours = {theirs: name for name, theirs in _torchvision_names().items()}
    leaves = {"weight": "kernel", "bias": "bias"}
    found = {}
    for name, tensor in tensors.items():
        if torchvision and name.startswith("classifier."):
            continue
        layer, _, leaf = name.rpartition(".")
        key = f"{ours.get(layer, layer)}/{leaves.get(leaf, leaf)}"
        found[key] = tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor
    return VggWeights(_checked(source, found, width), "torchvision" if torchvision else "caffe")


def _from_keras(path: Path, width: int) -> VggWeights:
    try:
        import h5py  # comes with TensorFlow; only this format needs it
    except ImportError as error:
        raise UserError(f"{path}: reading .h5 files needs h5py: pip install h5py") from error

    found: dict[str, np.ndarray] = {}
    try:
        with h5py.File(path, "r") as file:
            for name in LAYERS:
                group = file.get(f"block{name[4]}_conv{name[6]}")
                if group is None:
                    continue

                # Keras's versions name the two arrays differently, and nest them or not.
                def note(_: str, item: object, name: str = name) -> None:
                    if isinstance(item, h5py.Dataset):
                        found[f"{name}/{'kernel' if item.ndim == 4 else 'bias'}"] = item[()]

                group.visititems(note)
    # h5py raises nearly anything on damaged files.
    except Exception as error:
        raise UserError(
            f"{path}: begins like an .h5 file but cannot be read; it is truncated or damaged:"
            " fetch it again"
        ) from error
    return VggWeights(_checked(str(path), found, width), "caffe")


def load(weights: str | os.PathLike[str], width: int = 64) -> VggWeights:
    """VGG-19 from a file; its format is told by its content.

    The release's naming and Keras's `notop` file hold the Caffe weights, torchvision's file its
    own, trained with another preprocessing. That difference cannot be folded into the first layer
    (its zero padding would no longer be zero), so the result says which preprocessing applies.

    Args:
      weights: a path, or `random` for untrained weights, always the same ones.
      width: channels of the first layer; VGG-19 has 64.

    Returns:
      float32 weights.

    Raises:
      UserError: no file is named or it is not there (the message says where to get one), it is
        damaged, or its tensors are not VGG-19's.
    """
    if weights == "random":
        return _random(width)
    if not str(weights):
        raise UserError(f"config.vgg.weights is empty, and the losses read VGG-19: {_HOW}")
    path = files.local(weights, "config.vgg.weights")
    if not path.is_file():
        raise UserError(f"config.vgg.weights is {str(weights)!r}, which is no file: {_HOW}")
    try:
        with path.open("rb") as file:
            keras = file.read(8) == _HDF5_MAGIC
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if keras:
        found = _from_keras(path, width)
    else:
        found = from_torch(torch_files.read(path), width, str(path))
    return jax.tree.map(lambda array: np.ascontiguousarray(array, np.float32), found)
