"""VGG-19 or VGG-16 from a weight file, whichever of the common formats it has (SPEC section 6)."""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np

from cocosnet_jax import files
from cocosnet_jax.errors import UserError
from cocosnet_jax.pretrained import torch_files
from cocosnet_jax.vgg import LAYERS, STAGES, Network, Params, VggWeights, widths

# As keras.applications.VGG19(include_top=False) fetches it; the hash is MD5's.
KERAS_URL = (
    "https://storage.googleapis.com/tensorflow/keras-applications/vgg19/"
    "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5"
)
KERAS_HASH = "253f8cb515780f3b799900260a226db6"

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_HOW = (
    "set {flag}=keras, which fetches Keras's VGG-19, or set it to one of these files,"
    " in any folder: torchvision's vgg19-dcbb9e9d.pth, the one that"
    " torchvision.models.vgg19(weights='IMAGENET1K_V1') downloads; Keras's"
    " vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5; the vgg19_conv.pth that goes with the"
    " authors' release; or VGG-16, whose figures do not compare with VGG-19's: torchvision's"
    " vgg16-397923af.pth or Keras's vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5."
    " {flag}=random needs no file: untrained, for trying things out, not for results"
)


def _torchvision_names(network: Network) -> dict[str, str]:
    """Torchvision's names, which count convolutions, ReLUs and poolings alike, -> ours."""
    names, index = {}, 0
    for stage, count in enumerate(STAGES[network], 1):
        for j in range(1, count + 1):
            names[f"features.{index}"] = f"conv{stage}_{j}"
            index += 2
        index += 1
    return names


def _most_like(names: Iterable[str], of: Callable[[Network], Iterable[str]]) -> Network:
    """The network that has the most of these layers; VGG-16 where both have all of them."""
    there = set(names)
    return max(STAGES, key=lambda network: len(there & set(of(network))))


def _shapes(network: Network, width: int) -> dict[str, tuple[int, ...]]:
    """`conv1_1/kernel` (HWIO), `conv1_1/bias` ... -> shape."""
    shapes: dict[str, tuple[int, ...]] = {}
    previous = 3
    for name in LAYERS[network]:
        out = widths(width)[int(name[4]) - 1]
        shapes |= {f"{name}/kernel": (3, 3, previous, out), f"{name}/bias": (out,)}
        previous = out
    return shapes


def _tree(tensors: Mapping[str, np.ndarray]) -> Params:
    layers = {name.rpartition("/")[0] for name in tensors}
    return {
        name: {leaf: cast(Any, tensors[f"{name}/{leaf}"]) for leaf in ("kernel", "bias")}
        for name in sorted(layers)
    }


def _random(width: int) -> VggWeights:
    """VGG-19 untrained: He normal kernels and biases of 0, whose distances still mean something.

    Drawn by NumPy: JAX would compile a program for every shape, half a minute on a slow machine.
    """
    rng = np.random.default_rng(0)
    tensors = {}
    for name, shape in _shapes("VGG-19", width).items():
        deviation = np.sqrt(2 / np.prod(shape[:-1])) if name.endswith("kernel") else 0.0
        tensors[name] = np.float32(deviation) * rng.standard_normal(shape, np.float32)
    return VggWeights(_tree(tensors))


def _checked(source: str, tensors: Mapping[str, np.ndarray], width: int) -> Params:
    """Tensors by the names of `_shapes` as a tree, all shapes as they must be."""
    layers = {name.rpartition("/")[0] for name in tensors}
    network = _most_like(layers, lambda network: LAYERS[network])
    wanted = _shapes(network, width)
    problems = [f"{name} is missing" for name in wanted if name not in tensors]
    problems += [f"{name} {tensors[name].shape} is unknown" for name in tensors.keys() - wanted]
    problems += [
        f"{name} is {tensors[name].shape} and should be {shape}"
        for name, shape in wanted.items()
        if name in tensors and tensors[name].shape != shape
    ]
    if problems:
        raise UserError(
            f"{source}: not the convolutions of VGG-19 or VGG-16 with {width} channels in the first"
            f" layer; compared with {network} (shapes as height, width, in, out):"
            f" {'; '.join(sorted(problems))}"
        )
    return _tree(tensors)


def from_torch(
    tensors: Mapping[str, np.ndarray], width: int = 64, source: str = "VGG"
) -> VggWeights:
    """VGG-16 or VGG-19 from PyTorch tensors, by the release's names or by torchvision's.

    Args:
      tensors: `conv1_1.weight` ... (the release's), or `features.0.weight` ... (torchvision's,
        whose `classifier` is not used), kernels OIHW.
      width: channels of the first layer.
      source: what error messages call it.

    Returns:
      The weights in the tensors' own type, with the preprocessing that goes with the names.

    Raises:
      UserError: names or shapes that are neither network's; the message lists them.
    """
    torchvision = "features.0.weight" in tensors
    ours: dict[str, str] = {}
    if torchvision:
        layers = (name.rpartition(".")[0] for name in tensors)
        ours = _torchvision_names(_most_like(layers, _torchvision_names))
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
            # VGG-16 lacks some of VGG-19's layers, and has no others.
            for name in LAYERS["VGG-19"]:
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


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds off other processes of this machine, which would write into the same file."""
    with (folder / ".cocosnet_jax.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def keras_file() -> Path:
    """Where Keras keeps its VGG-19, whether it is there or not."""
    folder = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "models"
    return folder / KERAS_URL.rpartition("/")[2]


def _fetched(flag: str) -> Path:
    """Keras's VGG-19 in Keras's cache, downloaded unless it is there and complete.

    Args:
      flag: the setting that asks for it, for messages.

    Raises:
      UserError: it cannot be fetched, or not be kept.
    """
    path = keras_file()
    try:
        import keras  # comes with TensorFlow; slow to import

        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path.parent):
            return Path(
                keras.utils.get_file(
                    path.name, KERAS_URL, cache_subdir=str(path.parent), file_hash=KERAS_HASH
                )
            )
    # Keras raises a bare Exception without a network, and what the file system raises.
    except Exception as error:
        raise UserError(
            f"{flag}=keras: {path.name} cannot be fetched ({error}). On a machine with"
            f" a network, fetch {KERAS_URL} (md5 {KERAS_HASH}); copy it to {path}, or copy"
            f" it anywhere and set {flag} to that file"
        ) from error


def load(
    weights: str | os.PathLike[str], width: int = 64, flag: str = "config.vgg.weights"
) -> VggWeights:
    """Reads VGG-19 or VGG-16 from a file; its content determines network and format.

    The release's naming and Keras's `notop` files hold the Caffe weights, torchvision's its
    own, trained with another preprocessing. That difference cannot be folded into the first layer
    (its zero padding would no longer be zero), so the result says which preprocessing applies.

    Args:
      weights: a path; `keras` for Keras's VGG-19, downloaded into Keras's cache unless it is there;
        or `random` for untrained weights, always the same ones.
      width: channels of the first layer; trained networks have 64.
      flag: the setting that names the file, for messages.

    Returns:
      float32 weights.

    Raises:
      UserError: no file is named or it is not there (the message says where to get one), it is
        damaged, or its tensors are neither network's; or `keras` cannot be fetched.
    """
    if weights == "random":
        return _random(width)
    if not str(weights):
        raise UserError(f"{flag} is empty, and the losses read a VGG: {_HOW.format(flag=flag)}")
    path = _fetched(flag) if weights == "keras" else files.local(weights, flag)
    if not path.is_file():
        raise UserError(f"{flag} is {str(weights)!r}, which is no file: {_HOW.format(flag=flag)}")
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
