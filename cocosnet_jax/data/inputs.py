"""One input of a translation from its file, as a dataset is prepared (SPEC section 1).

What a file may be follows from the dataset that a model was trained on:

    label maps (ade20k, flickr, folder, toy_scenes)   a label map
    celebahq                a label map of the 19 face parts, or a photograph in CelebA-HQ-img
    celebahqedge            a photograph in CelebA-HQ-img: edges need it and its parts
    deepfashion, folder_poses   OpenPose's file, or a photograph in the dataset's layout
    folder_edges            an edge map, or a photograph in the dataset's layout

A photograph lies in its dataset's layout when the folder of annotations stands beside its own.
Neither TensorFlow nor JAX is needed here.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from cocosnet_jax.data import edges, face_parts, images, label_maps, poses
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import DataSettings

# Whose label maps mark what is unknown by 255, which becomes the last class.
UNMARKED = {"ade20k": 255, "ade20k_outdoor": 255, "flickr": 255}
_ADVICE = "the model knows no other classes, so correct the map (0 is unknown)"
# Of each dataset whose photographs can stand for their annotations: the folders of both.
_LAYOUTS = {
    "celebahq": ("CelebA-HQ-img", "CelebAMask-HQ-mask-anno"),
    "celebahqedge": ("CelebA-HQ-img", "CelebAMask-HQ-mask-anno"),
    "deepfashion": ("img", "pose"),
    "folder_edges": ("images", "edges"),
    "folder_poses": ("images", "poses"),
}


class Input(NamedTuple):
    """An input of the networks.

    Attributes:
      planes: (S, S, p) uint8, as in `Batch.label`.
      size: (height, width) of what was read.
    """

    planes: np.ndarray
    size: tuple[int, int]


def is_input(data: DataSettings, path: Path) -> bool:
    """Whether a file of a folder of inputs is one, by its name."""
    if data.dataset in ("deepfashion", "folder_poses"):
        name = path.name.lower()
        return name.endswith((".json", "_candidate.txt", *images.EXTENSIONS))
    if data.dataset in _LAYOUTS:
        return path.suffix.lower() in images.EXTENSIONS
    return path.suffix.lower() == ".png"


def stands_for_itself(data: DataSettings, photograph: Path) -> bool:
    """Whether a photograph lies in its dataset's layout, so that its own input can be read."""
    return _place(data, photograph) is not None


def annotations_of(data: DataSettings, photograph: Path) -> Path | None:
    """The folder of annotations of a photograph that lies in its dataset's layout, or None."""
    place = _place(data, photograph)
    return None if place is None else place.annotations


def finds_edges(data: DataSettings, path: Path) -> bool:
    """Whether a picture is a photograph in whose layout edges are found, not given."""
    return (
        data.dataset == "folder_edges"
        and _place(data, path) is None
        and any(folder.name == _LAYOUTS[data.dataset][0] for folder in path.absolute().parents)
    )


def read_input(
    data: DataSettings, path: Path, side: int = 0, *, photograph: Path | None = None
) -> Input:
    """Reads an input.

    Args:
      data: of the model.
      path: see above.
      side: S, of the planes; 0 for the side of the model's training.
      photograph: what a label map is of, where there is one: both must lie alike (not so
        CelebA-HQ's, which are smaller).

    Raises:
      UserError: the file cannot be read, is of another kind, or holds what the model does not
        know.
    """
    size = (side or data.image_size,) * 2
    if data.dataset in ("deepfashion", "folder_poses"):
        return _pose(data, path, size)
    if data.dataset == "folder_edges":
        return _edges(data, path, size)
    place = _place(data, path)
    if data.dataset == "celebahqedge":
        if place is None:
            raise UserError(
                f"{path} does not lie in a folder CelebA-HQ-img with CelebAMask-HQ-mask-anno beside"
                " it: edges are made of a photograph and the masks of its face parts"
            )
        parts = face_parts.read_parts(place.annotations, _number(path), edges.EDGE_PARTS)
        if not parts:
            raise UserError(f"{path} has no face parts in {place.annotations}")
        face = images.read_photograph(path)
        return Input(edges.face_edges(face, parts, size), _size(face))
    if data.dataset == "celebahq":
        if place is None:
            label = images.read_label_map(path)
            images.check_classes(path, label, data.channels, advice=_ADVICE)
            planes = [label, (label == face_parts.CLASS_NAMES.index(face_parts.GLASSES)) * 1]
        else:
            planes = list(face_parts.read_face(place.annotations, _number(path)))
        resized = [images.resize_label(plane, size).astype(np.uint8) for plane in planes]
        return Input(np.stack(resized, -1), _size(planes[0]))
    label = _read_label_map(data, path)
    if photograph is not None:
        label = images.align(photograph, _size(images.read_photograph(photograph)), label, path)
    images.check_classes(path, label, data.channels, advice=_ADVICE)
    return Input(images.resize_label(label, size).astype(np.uint8)[..., None], _size(label))


def _read_label_map(data: DataSettings, path: Path) -> np.ndarray:
    """The class of each pixel, (H, W) int32, as the model's training numbered classes."""
    classes = label_maps.parse_classes(data.classes, "config.data.classes of the checkpoint")
    unlisted = "which no class of the model has: correct the map"
    label = label_maps.read(path, classes, data.value_255, unlisted)
    if classes.colours:
        return label
    label_maps.check_palette(path, label_maps.parse_palette(data.palette), "the training's maps")
    if (unmarked := UNMARKED.get(data.dataset)) is not None:
        label[label == unmarked] = data.channels - 1
    return label


class _Place(NamedTuple):
    """Where a photograph of a dataset lies: the annotation folder, and the name below both."""

    annotations: Path
    stem: str


def _place(data: DataSettings, path: Path) -> _Place | None:
    if data.dataset not in _LAYOUTS or path.suffix.lower() not in images.EXTENSIONS:
        return None
    photographs, annotations = _LAYOUTS[data.dataset]
    for folder in path.absolute().parents:
        if folder.name == photographs and (folder.parent / annotations).is_dir():
            stem = path.absolute().relative_to(folder).with_suffix("").as_posix()
            return _Place(folder.parent / annotations, stem)
    return None


def _pose(data: DataSettings, path: Path, size: tuple[int, int]) -> Input:
    place = _place(data, path)
    if place is not None:
        canvas = _size(images.read_photograph(path))
        path = poses.find_pose(place.annotations / place.stem)
    elif path.suffix.lower() in images.EXTENSIONS:
        folders = " and ".join(_LAYOUTS[data.dataset])
        raise UserError(
            f"{path} is a photograph and its pose is not known: name OpenPose's file instead, or"
            f" lay photographs and poses out in the folders {folders}"
        )
    else:
        # A pose file does not say how large its photograph was; DeepFashion's are square.
        canvas = (data.image_size, data.image_size)
    return Input(poses.draw_pose(poses.read_pose(path, canvas), canvas, size), canvas)


def _edges(data: DataSettings, path: Path, size: tuple[int, int]) -> Input:
    place = _place(data, path)
    if place is not None:
        named = [place.annotations / f"{place.stem}{ending}" for ending in images.EXTENSIONS]
        path = next((file for file in named if file.exists()), named[0])
    elif finds_edges(data, path):
        picture = images.read_photograph(path)
        return Input(edges.own_edges(picture, None, size), _size(picture))
    lines = edges.check_lines(path, images.read_photograph(path).max(axis=-1))
    return Input(edges.own_edges(None, lines, size), _size(lines))


def _number(path: Path) -> int:
    return face_parts.number_of(path.name)


def _size(array: np.ndarray) -> tuple[int, int]:
    return array.shape[0], array.shape[1]
