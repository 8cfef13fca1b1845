"""Turns a picture that is an annotation, a label map or an edge map, into planes of the networks.

As preparation does with a dataset's (SPEC section 1). This module needs neither TensorFlow nor JAX.
"""

import numpy as np
from jaxtyping import UInt8

from cocosnet_jax.data import images
from cocosnet_jax.data.drawn.things import CLASS_COLOURS, CLASS_NAMES
from cocosnet_jax.data.labels import edges, face_parts, label_maps
from cocosnet_jax.settings import DataSettings

Planes = UInt8[np.ndarray, "rows columns planes"]

# Datasets whose label maps mark void pixels by this value, which becomes the last class.
VOID_VALUES = {"ade20k": 255, "ade20k_outdoor": 255, "flickr": 255}
_ADVICE = "the model knows no other classes; correct the map (0 is unknown)"
_NAMES = ", ".join(f"{number} {name}" for number, name in enumerate(CLASS_NAMES))
_CORRECT = "correct the map, or name another model with --checkpoint"
_DRAWN = f"this model knows {_NAMES}; {_CORRECT}"
_DRAWN_CODES = [label_maps.code_of(colour) for colour in CLASS_COLOURS]
_DRAWN_CLASSES = label_maps.ClassList(CLASS_NAMES, tuple((code,) for code in _DRAWN_CODES))
_SHOWN = ", ".join(_DRAWN_CLASSES.text().splitlines())
_UNLISTED_DRAWN = f"but this model knows {_SHOWN}; {_CORRECT}"


def read_edges(path: images.FileName, size: tuple[int, int]) -> tuple[Planes, tuple[int, int]]:
    """Reads an edge map; results and errors as of `read_labels`."""
    lines = edges.check_lines(path, images.read_photograph(path).max(axis=-1))
    return edges.own_edges(None, lines, size), (lines.shape[0], lines.shape[1])


def read_labels(
    data: DataSettings,
    path: images.FileName,
    size: tuple[int, int],
    photograph: images.FileName | None = None,
) -> tuple[Planes, tuple[int, int]]:
    """Reads a label map.

    Args:
      data: the model's data settings.
      path: the map's file.
      size: height and width of the planes.
      photograph: the map's photograph, if known: the map must have its size, except CelebA-HQ's,
        which are smaller.

    Returns:
      (height, width, p) uint8, as in `Batch.label`, and height and width of the map.

    Raises:
      UserError: the file cannot be read, or contains classes or colours that the model does not
        know.
    """
    label = _numbers(data, path)
    if photograph is not None and data.dataset != "celebahq":
        shape = images.read_photograph(photograph).shape
        label = images.align(photograph, (shape[0], shape[1]), label, path)
    advice = _DRAWN if data.dataset == "drawn_scenes" else _ADVICE
    images.check_classes(path, label, data.channels, advice=advice)
    planes = [label]
    if data.dataset == "celebahq":
        planes.append((label == face_parts.CLASS_NAMES.index(face_parts.GLASSES)) * 1)
    resized = [images.resize_label(plane, size).astype(np.uint8) for plane in planes]
    return np.stack(resized, -1), (label.shape[0], label.shape[1])


def _numbers(data: DataSettings, path: images.FileName) -> images.ClassMap:
    """The class of each pixel, (H, W) int32, numbered as in training."""
    if data.dataset == "celebahq":
        return images.read_label_map(path)
    if data.dataset == "drawn_scenes" and _in_drawn_colours(path):
        return label_maps.read(path, _DRAWN_CLASSES, "", _UNLISTED_DRAWN)
    classes = label_maps.parse_classes(data.classes, "config.data.classes of the checkpoint")
    unlisted = "which no class of the model has; correct the map"
    if_numbers = "draw the map in the colours of the training maps"
    label = label_maps.read(path, classes, data.value_255, unlisted, if_numbers)
    if classes.colours:
        return label
    label_maps.check_palette(path, label_maps.parse_palette(data.palette), "the training maps")
    if (void := VOID_VALUES.get(data.dataset)) is not None:
        label[label == void] = data.channels - 1
    return label


def _in_drawn_colours(path: images.FileName) -> bool:
    """Whether a map of drawn scenes has the colours in which the program shows their classes.

    Painting programs save the demo's palette image in colour, or with its colours in another order.
    """
    try:
        label = images.read_label_image(path)
    except images.ColourError:
        return True
    if label.palette is None:
        return False
    used = [label_maps.code_of(colour) for colour in label.palette[np.unique(label.numbers)]]
    return len(set(used)) == len(used) and set(used) <= set(_DRAWN_CODES)
