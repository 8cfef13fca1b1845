"""The FID Inception from pytorch-fid's weight file, read without PyTorch (SPEC section 11)."""

import os
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from cocosnet_jax import files
from cocosnet_jax.errors import UserError
from cocosnet_jax.pretrained import torch_files

FILE = "pt_inception-2015-12-05-6726825d.pth"
# The file's SHA-256 begins with the last part of its name.
SHA256_BEGINS = "6726825d"
HOW = (
    f"{FILE}, about 91 MiB, from"
    f" https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{FILE}"
    " (pytorch-fid downloads it to ~/.cache/torch/hub/checkpoints), in any folder; its SHA-256"
    f" begins with {SHA256_BEGINS}"
)
_BATCH_NORM_EPS = 1e-3
_BATCH_NORM = ("weight", "bias", "running_mean", "running_var")

# Output channels, input channels, kernel height and width.
_Shape = tuple[int, int, int, int]
_STEM: dict[str, _Shape] = {
    "Conv2d_1a_3x3": (32, 3, 3, 3),
    "Conv2d_2a_3x3": (32, 32, 3, 3),
    "Conv2d_2b_3x3": (64, 32, 3, 3),
    "Conv2d_3b_1x1": (80, 64, 1, 1),
    "Conv2d_4a_3x3": (192, 80, 3, 3),
}


def shapes() -> dict[str, _Shape]:
    """Layer -> shape of its kernel, in the file's layout."""
    blocks: dict[str, dict[str, _Shape]] = {}
    for letter, c, pooled in (("b", 192, 32), ("c", 256, 64), ("d", 288, 64)):
        blocks[f"Mixed_5{letter}"] = {
            "branch1x1": (64, c, 1, 1),
            "branch5x5_1": (48, c, 1, 1),
            "branch5x5_2": (64, 48, 5, 5),
            "branch3x3dbl_1": (64, c, 1, 1),
            "branch3x3dbl_2": (96, 64, 3, 3),
            "branch3x3dbl_3": (96, 96, 3, 3),
            "branch_pool": (pooled, c, 1, 1),
        }
    blocks["Mixed_6a"] = {
        "branch3x3": (384, 288, 3, 3),
        "branch3x3dbl_1": (64, 288, 1, 1),
        "branch3x3dbl_2": (96, 64, 3, 3),
        "branch3x3dbl_3": (96, 96, 3, 3),
    }
    for letter, m in (("b", 128), ("c", 160), ("d", 160), ("e", 192)):
        blocks[f"Mixed_6{letter}"] = {
            "branch1x1": (192, 768, 1, 1),
            "branch7x7_1": (m, 768, 1, 1),
            "branch7x7_2": (m, m, 1, 7),
            "branch7x7_3": (192, m, 7, 1),
            "branch7x7dbl_1": (m, 768, 1, 1),
            "branch7x7dbl_2": (m, m, 7, 1),
            "branch7x7dbl_3": (m, m, 1, 7),
            "branch7x7dbl_4": (m, m, 7, 1),
            "branch7x7dbl_5": (192, m, 1, 7),
            "branch_pool": (192, 768, 1, 1),
        }
    blocks["Mixed_7a"] = {
        "branch3x3_1": (192, 768, 1, 1),
        "branch3x3_2": (320, 192, 3, 3),
        "branch7x7x3_1": (192, 768, 1, 1),
        "branch7x7x3_2": (192, 192, 1, 7),
        "branch7x7x3_3": (192, 192, 7, 1),
        "branch7x7x3_4": (192, 192, 3, 3),
    }
    for letter, c in (("b", 1280), ("c", 2048)):
        blocks[f"Mixed_7{letter}"] = {
            "branch1x1": (320, c, 1, 1),
            "branch3x3_1": (384, c, 1, 1),
            "branch3x3_2a": (384, 384, 1, 3),
            "branch3x3_2b": (384, 384, 3, 1),
            "branch3x3dbl_1": (448, c, 1, 1),
            "branch3x3dbl_2": (384, 448, 3, 3),
            "branch3x3dbl_3a": (384, 384, 1, 3),
            "branch3x3dbl_3b": (384, 384, 3, 1),
            "branch_pool": (192, c, 1, 1),
        }
    within = {f"{block}.{name}": s for block, some in blocks.items() for name, s in some.items()}
    return _STEM | within


class Inception(NamedTuple):
    """The network, and which file it came from.

    Attributes:
      params: as `metrics.inception.pool3` takes them.
      sha256: of the file.
    """

    params: dict[str, dict[str, Float[np.ndarray, "..."]]]
    sha256: str

    @property
    def is_known(self) -> bool:
        """Whether the hash is that of pytorch-fid's own file."""
        return self.sha256.startswith(SHA256_BEGINS)

    @property
    def name(self) -> str:
        """What reports call it."""
        whose = "pytorch-fid's" if self.is_known else "not pytorch-fid's"
        return f"FID Inception of 2015-12-05, {whose} file"


def from_torch(
    tensors: Mapping[str, np.ndarray], source: str = "Inception"
) -> dict[str, dict[str, Float[np.ndarray, "..."]]]:
    """The convolutions, batch norm folded in, from tensors by pytorch-fid's names.

    Args:
      tensors: `Conv2d_1a_3x3.conv.weight`, `Conv2d_1a_3x3.bn.running_mean` ...; the classifier `fc`
        is not used.
      source: what error messages call them.

    Returns:
      layer -> {"kernel": HWIO, "bias"} in the tensors' own type.

    Raises:
      UserError: names or shapes are not those of the FID Inception; the message lists them.
    """
    wanted: dict[str, tuple[int, ...]] = {}
    for layer, shape in shapes().items():
        wanted[f"{layer}.conv.weight"] = shape
        wanted |= {f"{layer}.bn.{leaf}": shape[:1] for leaf in _BATCH_NORM}
    problems = [f"{name} is missing" for name in wanted if name not in tensors]
    problems += [
        f"{name} is {tensors[name].shape} and should be {shape}"
        for name, shape in wanted.items()
        if name in tensors and tensors[name].shape != shape
    ]
    if problems:
        shown = "; ".join(problems[:6]) + (f"; and {len(problems) - 6} more" * (len(problems) > 6))
        raise UserError(f"{source}: not the Inception of FID: {shown}. Needed is {HOW}")
    params = {}
    for layer in shapes():
        kernel = tensors[f"{layer}.conv.weight"]
        gain, shift, mean, variance = (tensors[f"{layer}.bn.{leaf}"] for leaf in _BATCH_NORM)
        scale = gain / np.sqrt(variance.astype(np.float64) + _BATCH_NORM_EPS)
        params[layer] = {
            "kernel": (kernel.transpose(2, 3, 1, 0) * scale).astype(kernel.dtype),
            "bias": (shift - mean * scale).astype(kernel.dtype),
        }
    return params


def load(path: str | os.PathLike[str], flag: str = "--inception") -> Inception:
    """Reads the FID Inception from a file, and checks that the file contains it.

    Args:
      path: the file.
      flag: the setting that names it, for messages.

    Raises:
      UserError: there is no such file, it is damaged, or it holds another network; the message says
        which file is needed, from where and with which hash.
    """
    file = files.local(path, flag)
    if not file.is_file():
        raise UserError(f"{flag}={os.fspath(path)} is no file; needed is {HOW}")
    return Inception(from_torch(torch_files.read(file), str(file)), files.sha256(file))
