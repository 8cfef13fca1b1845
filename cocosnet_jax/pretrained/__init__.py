"""Weights that others have trained: the release's networks, VGG, and the files they lie in.

And those of the small model that comes with the program, which `configs/drawn.py` describes.
"""

from pathlib import Path

SHIPPED = Path(__file__).with_name("drawn.safetensors")
