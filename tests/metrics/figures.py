"""The published metrics' figures by their own code, and the pictures that they are of.

`COCOSNET_METRICS` names another folder of such figures, whose salt is another: everything here
follows the salt.
"""

import json
import os
from pathlib import Path

import numpy as np

from tests.parity import rule

FOLDER = Path(os.environ.get("COCOSNET_METRICS", Path(__file__).parents[1] / "golden/metrics"))
FIGURES = json.loads((FOLDER / "metrics.json").read_text())
SALT = FIGURES["salt"]


def smooth(name, count, size, channels=3, waves=24):
    """Smooth drawings in [-1, 1], (count, size, size, channels) float64."""
    drawn = rule.smooth(SALT + name, count, channels, size, waves)
    return drawn.transpose(0, 2, 3, 1)


def pictures(name, count, size):
    """The same as bytes."""
    return np.clip(np.round((smooth(name, count, size) + 1) * 127.5), 0, 255).astype(np.uint8)
