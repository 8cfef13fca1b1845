"""The five linear heads of LPIPS 0.1 for VGG-16, from either of their files (SPEC section 11)."""

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from cocosnet_jax import files
from cocosnet_jax.errors import UserError
from cocosnet_jax.metrics.lpips import LAYERS
from cocosnet_jax.pretrained import torch_files

HOW = (
    "the heads of LPIPS 0.1 for VGG-16: lpips/weights/v0.1/vgg.pth, 7 kB, in the PyPI package"
    " lpips (pip download --no-deps lpips, then unzip the wheel), or an .npz of the arrays lin0 to"
    " lin4; in any folder"
)
_WIDTHS = (64, 128, 256, 512, 512)


def from_arrays(
    arrays: Mapping[str, np.ndarray], source: str = "LPIPS"
) -> dict[str, Float[np.ndarray, "c"]]:
    """Layer -> its head, from `lin0` ... or from the package's `lin0.model.1.weight` ...

    Raises:
      UserError: they are not five heads for VGG-16; the message says which is wrong.
    """
    heads = {}
    for place, (layer, width) in enumerate(zip(LAYERS, _WIDTHS, strict=True)):
        name = next(
            (name for name in (f"lin{place}", f"lin{place}.model.1.weight") if name in arrays), None
        )
        if name is None:
            raise UserError(f"{source}: lin{place} is missing; needed are {HOW}")
        if arrays[name].size != width:
            raise UserError(
                f"{source}: {name} is {arrays[name].shape} and should have {width} numbers; needed"
                f" are {HOW}"
            )
        heads[layer] = arrays[name].reshape(-1)
    return heads


def load(path: str | os.PathLike[str], flag: str = "--lpips") -> dict[str, Float[np.ndarray, "c"]]:
    """Reads the heads from an .npz or a .pth file; its content determines the format.

    Args:
      path: the file.
      flag: the setting that names it, for messages.

    Raises:
      UserError: there is no such file, it is damaged, or it holds something else.
    """
    file = files.local(path, flag)
    if not file.is_file():
        raise UserError(f"{flag}={os.fspath(path)} is no file; needed are {HOW}")
    return from_arrays(_arrays(file), str(file))


def _arrays(file: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
        if not all(name.endswith(".npy") for name in names):
            return torch_files.read(file)
        with np.load(file) as arrays:
            return dict(arrays)
    except zipfile.BadZipFile:
        return torch_files.read(file)  # the older of its formats; it says what is wrong otherwise
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({error}); needed are {HOW}") from error
