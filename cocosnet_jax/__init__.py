"""CoCosNet for JAX: exemplar-based image translation with dense correspondence.

    model = cocosnet_jax.load("runs/ade20k")
    model.translate("label.png", "photo.jpg").save("result.png")

Importing this package is fast: `load` imports JAX, and nothing here imports TensorFlow.
"""

import importlib.metadata
import os
import re
from typing import TYPE_CHECKING

from cocosnet_jax.errors import StorageError, UserError

if TYPE_CHECKING:
    from cocosnet_jax.api import Model

__all__ = ["StorageError", "UserError", "__version__", "load"]

__version__ = "0.1.0"

# XLA aborts on a flag that it does not know, and its message does not say who set the flag. So the
# flags are set only for versions of jaxlib that were tried with them: from the first to below the
# second.
_TRIED = ((0, 10), (0, 13))
# Read when JAX first finds its devices; what the user has set stays.
_XLA_FLAGS = (
    # On CPUs, XLA of jax 0.10 to 0.12 hands convolutions without padding to a library that takes
    # five times as long over them as XLA's own (docs/optimisations.md).
    ("--xla_cpu_experimental_ynn_fusion_type", ""),
    # On TPUs, this pass turns the rows of a small batch's pictures into a larger batch. A step at
    # 512 x 512 then moves nearly three times the bytes, and libtpu 0.0.52 may crash in the pass.
    ("--xla_disable_hlo_passes", "space-to-batch-converter"),
)


def _knows_flags() -> bool:
    """Whether the jaxlib that is installed is one that was tried with `_XLA_FLAGS`."""
    try:
        version = importlib.metadata.version("jaxlib")
    except importlib.metadata.PackageNotFoundError:
        return False
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return numbers is not None and _TRIED[0] <= (int(numbers[1]), int(numbers[2])) < _TRIED[1]


if _knows_flags():
    for _name, _value in _XLA_FLAGS:
        if _name not in (_set := os.environ.get("XLA_FLAGS", "")):
            os.environ["XLA_FLAGS"] = f"{_set} {_name}={_value}".strip()

# TensorFlow's start-up messages do not help a user. Those about oneDNN end when it is switched off;
# nothing here needs it. TensorFlow reads both when it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


def load(
    path: str | os.PathLike[str] | None = None, *, size: int = 0, pose_size: str = ""
) -> "Model":
    """Loads the networks of a checkpoint, for use from Python.

    Args:
      path: a run's workdir, one checkpoint in it, or a file of weights (.safetensors); None for the
        shipped model of drawn scenes.
      size: side of the square pictures that the networks draw, a multiple of 32; 0 for the size of
        the training.
      pose_size: WIDTHxHEIGHT of the pictures in which the inputs' poses were detected, or
        `photograph` for their photographs; needed only if neither photograph, file nor checkpoint
        determine it.

    Returns:
      The model, with `translate`, `warp` and `match` (`cocosnet_jax.api.Model`).

    Raises:
      UserError: there is no such checkpoint, it is damaged, or cannot draw this size.
      StorageError: the storage cannot be reached.
    """
    from cocosnet_jax.api import Model

    return Model(path, size, pose_size)
