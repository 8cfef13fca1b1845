"""Pretrained weights and their file formats: the release's networks, VGG, Inception and LPIPS.

The package also contains the shipped model of drawn scenes, which `configs/drawn.py` describes.
"""

from pathlib import Path

SHIPPED = Path(__file__).with_name("drawn.safetensors")
# Help of the flag --checkpoint, the same in all programs that use networks.
CHECKPOINT_FLAG = (
    "a run's workdir, one checkpoint in it, or a file of weights (.safetensors); if empty, the"
    " shipped model of drawn scenes"
)


def or_shipped(checkpoint: str) -> str | Path:
    """The value of `--checkpoint`; if it is empty, prints so and returns the shipped model."""
    if checkpoint:
        return checkpoint
    print("--checkpoint is not given: using the shipped model of drawn scenes")
    return SHIPPED
