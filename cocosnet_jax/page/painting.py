"""The painter's maps as text, which is how they travel between browser and server.

A map of classes is sent as runs, row by row: `{"side": 128, "runs": [COUNT, NUMBER, COUNT, ...]}`.
So the server decodes no picture that a browser painted, and no browser changes a class number, as
some change the pixels of canvases for privacy. What the server sends may also have `photograph`, a
picture to lie under the map, and `ratio`, its width by its height.
"""

import base64
import io
import json
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from cocosnet_jax.errors import UserError

SHOWN = 512  # longest side of a photograph under a map, in pixels
_BROKEN = "the painting did not arrive whole; reload the page and paint again"


def encode(
    numbers: UInt8[np.ndarray, "side side"],
    photograph: UInt8[np.ndarray, "rows columns 3"] | None = None,
) -> str:
    """The text of a map for the painter.

    Args:
      numbers: the class of each pixel.
      photograph: what lies under the map.
    """
    flat = numbers.reshape(-1)
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    counts = np.diff(np.append(starts, flat.size))
    runs = np.stack([counts, flat[starts].astype(np.int64)], 1).reshape(-1)
    value: dict[str, Any] = {"side": len(numbers), "runs": runs.tolist()}
    if photograph is not None:
        value["ratio"] = photograph.shape[1] / photograph.shape[0]
        value["photograph"] = _data_url(photograph)
    return json.dumps(value, separators=(",", ":"))


def decode(text: Any, side: int, classes: int) -> UInt8[np.ndarray, "side side"]:
    """The map in a painter's text.

    Args:
      text: what a client sent; not to be trusted.
      side: S, which the map must have.
      classes: number of classes that may be in it.

    Raises:
      UserError: it is empty, or not such a text.
    """
    if text is None:
        raise UserError("nothing is painted yet; choose a scene or upload a map first")
    try:
        value = json.loads(text)
        runs = np.array(value["runs"])
        whole = runs.dtype.kind in "iu" and runs.ndim == 1 and runs.size % 2 == 0
        if value["side"] != side or not whole:
            raise UserError(_BROKEN)
    except (TypeError, ValueError, KeyError, RecursionError, OverflowError):
        raise UserError(_BROKEN) from None
    counts, numbers = runs[::2].astype(np.int64), runs[1::2]
    # Each number is checked, because their sum could overflow.
    fits = counts.size > 0 and counts.min() > 0 and counts.max() <= side * side
    if not fits or counts.sum() != side * side:
        raise UserError(_BROKEN)
    if numbers.min() < 0 or numbers.max() >= classes:
        raise UserError(f"the painting has classes beyond 0 to {classes - 1}; reload the page")
    return np.repeat(numbers.astype(np.uint8), counts).reshape(side, side)


def _data_url(photograph: UInt8[np.ndarray, "rows columns 3"]) -> str:
    image = Image.fromarray(photograph)
    image.thumbnail((SHOWN, SHOWN))
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
