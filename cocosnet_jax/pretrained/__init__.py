"""Weights that others have trained: the release's networks, VGG, and the files they lie in.

And those of the small model that comes with the program, which `configs/drawn.py` describes.
"""

from pathlib import Path

SHIPPED = Path(__file__).with_name("drawn.safetensors")
# What the flag --checkpoint of programs says that use networks.
CHECKPOINT_FLAG = (
    "a run's workdir, one checkpoint in it, or a file of weights (.safetensors); if empty, the"
    " shipped model of drawn scenes"
)


def or_shipped(checkpoint: str) -> str | Path:
    """The value of `--checkpoint`, or if it is empty the shipped model, which is said."""
    if checkpoint:
        return checkpoint
    print("--checkpoint is not given: using the shipped model of drawn scenes")
    return SHIPPED
