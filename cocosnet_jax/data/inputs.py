"""Reads one translation input from its file, as preparation reads a dataset (SPEC section 1).

The dataset that the model was trained on determines the accepted files:

    label maps (ade20k, drawn_scenes, flickr, folder, toy_scenes)   a label map
    celebahq                a label map of the 19 face parts, or a photograph in CelebA-HQ-img
    celebahqedge            a photograph in CelebA-HQ-img: edges are made from it and its parts
    deepfashion, folder_poses   OpenPose's file, or a photograph in the dataset's layout or with
                            OpenPose's file beside it
    drawn_edges             an edge map
    folder_edges            an edge map, or a photograph in the dataset's layout

A photograph is in its dataset's layout if the folder of annotations is beside its own folder.
This module needs neither TensorFlow nor JAX.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Shaped, UInt8

from cocosnet_jax.data import images, maps
from cocosnet_jax.data.labels import edges, face_parts, pose_canvas, pose_drawing, poses
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import POSE_DATASETS, DataSettings

# Datasets whose photographs can be given instead of their annotations: the folders of the two.
_LAYOUTS = {
    "celebahq": ("CelebA-HQ-img", "CelebAMask-HQ-mask-anno"),
    "celebahqedge": ("CelebA-HQ-img", "CelebAMask-HQ-mask-anno"),
    "deepfashion": ("img", "pose"),
    "folder_edges": ("images", "edges"),
    "folder_poses": ("images", "poses"),
}
# Extensions of formats without loss, which label maps need. Of pictures of one name in one folder,
# the first of these is the map, and the others are photographs.
LOSSLESS = (".png", ".bmp", ".tif", ".tiff", ".webp")
# Datasets of edge maps, which may be JPEG.
_EDGE_MAPS = ("folder_edges", "drawn_edges")
# Name of the checkpoint's canvas size in messages.
_POSE_SIZE = "the checkpoint's config.data.pose_size"
# Larger than any picture: every joint is inside.
_ANY_CANVAS = (2**31, 2**31)
_POSE_LAYOUTS = tuple(_LAYOUTS[dataset] for dataset in POSE_DATASETS)


class Input(NamedTuple):
    """An input of the networks.

    Attributes:
      planes: (S, S, p) uint8, as in `Batch.label`, or of the size that was asked for.
      size: (height, width) of the file's picture; for a pose, of its photograph if there is one.
      reach: how far a pose reaches in its photograph, if only the photograph tells its canvas.
    """

    planes: UInt8[np.ndarray, "rows columns planes"]
    size: tuple[int, int]
    reach: pose_canvas.Reach | None = None


def is_input(data: DataSettings, path: Path) -> bool:
    """Whether a file in a folder of inputs is an input, by its name."""
    return path.name.lower().endswith(endings(data))


def endings(data: DataSettings) -> tuple[str, ...]:
    """What the names of inputs end in."""
    if data.dataset in POSE_DATASETS:
        return (".json", "_candidate.txt", *images.EXTENSIONS)
    return images.EXTENSIONS if takes_photographs(data) else _of_maps(data)


def takes_photographs(data: DataSettings) -> bool:
    """Whether photographs can be inputs, with the annotations of the dataset's layout."""
    return data.dataset in _LAYOUTS


def has_annotation(data: DataSettings, photograph: Path) -> bool:
    """Whether the annotation of a photograph is found by the dataset's layout, or beside it."""
    return _place(data, photograph) is not None or _has_pose_beside(data, photograph)


def photograph_of(data: DataSettings, path: Path) -> Path | None:
    """The photograph of a pose file, by the dataset's layout or beside it; None without one."""
    if data.dataset not in POSE_DATASETS or path.suffix.lower() in images.EXTENSIONS:
        return None
    path = path.absolute()
    stem = path.with_name(poses.stem_of(path.name))
    stems = [
        folder.parent / photographs / stem.relative_to(folder)
        for folder in path.parents
        for photographs, annotations in _POSE_LAYOUTS
        if folder.name == annotations
    ]
    for candidate in (*stems, stem):
        for ending in (*images.EXTENSIONS, *map(str.upper, images.EXTENSIONS)):
            photograph = candidate.with_name(candidate.name + ending)
            if photograph.is_file():
                return photograph
    return None


def annotation_in(data: DataSettings, folder: Path, name: Path, photographs: Path) -> Path:
    """The annotation, in `folder`, of the photograph `name` in the folder `photographs`.

    If there is none, the path has the name that the usual one would have.
    """
    stem = folder / name.with_suffix("")
    if data.dataset in POSE_DATASETS:
        return poses.find_pose(stem)
    forms = [form for ending in _of_maps(data) for form in (ending, ending.upper())]
    candidates = [stem.with_name(stem.name + form) for form in forms]
    # A photograph in the same folder is not its own map.
    others = [path for path in candidates if path != photographs / name]
    return next((path for path in others if path.is_file()), candidates[0])


def list_name(data: DataSettings, name: str) -> str:
    """The name of an input in an exemplar list: for a pose file, the stem of its photograph."""
    return poses.stem_of(name) if data.dataset in POSE_DATASETS else name


def annotations_of(data: DataSettings, photograph: Path) -> Path | None:
    """The annotation folder of a photograph in its dataset's layout, or None."""
    place = _place(data, photograph)
    return None if place is None else place.annotations


def computes_edges(data: DataSettings, path: Path) -> bool:
    """Whether a picture is a photograph in a layout without edge maps, so that Canny is used."""
    return (
        data.dataset == "folder_edges"
        and _place(data, path) is None
        and any(folder.name == _LAYOUTS[data.dataset][0] for folder in path.absolute().parents)
    )


def read_input(
    data: DataSettings,
    path: Path,
    side: int | tuple[int, int] = 0,
    *,
    photograph: Path | None = None,
    pose_size: str = "",
) -> Input:
    """Reads an input.

    Args:
      data: the model's data settings.
      path: the file, see above.
      side: S of the planes, or their height and width; 0 for the model's training size.
      photograph: the photograph of a label map, if known: the map must have its size (except
        CelebA-HQ's, which are smaller); or of a pose, if its file does not lead to it.
      pose_size: the value of `--pose-size`, which replaces the model's `data.pose_size`.

    Raises:
      UserError: the file cannot be read, is of the wrong kind, or contains classes or colours that
        the model does not know.
    """
    size = side if isinstance(side, tuple) else (side or data.image_size,) * 2
    if data.dataset in POSE_DATASETS:
        return _pose(data, path, size, photograph, pose_size)
    if data.dataset in _EDGE_MAPS:
        return _edges(data, path, size)
    place = _place(data, path)
    if data.dataset == "celebahqedge":
        if place is None:
            raise UserError(
                f"{path} is not in a folder CelebA-HQ-img with a folder CelebAMask-HQ-mask-anno"
                " beside it; edges are made from a photograph and its face part masks, so name a"
                " photograph in such a folder"
            )
        parts = face_parts.read_parts(place.annotations, _number(path), edges.EDGE_PARTS)
        if not parts:
            raise UserError(
                f"{path} has no face part masks in {place.annotations}; add them, or name another"
                " photograph"
            )
        face = images.read_photograph(path)
        return Input(edges.face_edges(face, parts, size), _size(face))
    if data.dataset == "celebahq" and place is not None:
        planes = face_parts.read_face(place.annotations, _number(path))
        resized = [images.resize_label(plane, size).astype(np.uint8) for plane in planes]
        return Input(np.stack(resized, -1), _size(planes[0]))
    return Input(*maps.read_labels(data, path, size, photograph))


def _of_maps(data: DataSettings) -> tuple[str, ...]:
    """Endings of label maps or edge maps, the most usual first."""
    lossy = images.EXTENSIONS if data.dataset in _EDGE_MAPS else ()
    return tuple(dict.fromkeys((*LOSSLESS, *lossy)))


class _Place(NamedTuple):
    """A photograph in its dataset's layout: the annotation folder, and the name relative to it."""

    annotations: Path
    stem: str


def _place(data: DataSettings, path: Path) -> _Place | None:
    if data.dataset not in _LAYOUTS or path.suffix.lower() not in images.EXTENSIONS:
        return None
    of_poses = data.dataset in POSE_DATASETS
    for folder in path.absolute().parents:
        for photographs, annotations in _POSE_LAYOUTS if of_poses else [_LAYOUTS[data.dataset]]:
            if folder.name == photographs and (folder.parent / annotations).is_dir():
                stem = path.absolute().relative_to(folder).with_suffix("").as_posix()
                return _Place(folder.parent / annotations, stem)
    return None


def _has_pose_beside(data: DataSettings, path: Path) -> bool:
    return (
        data.dataset in POSE_DATASETS
        and path.suffix.lower() in images.EXTENSIONS
        and poses.find_pose(path.with_suffix("")).exists()
    )


def _pose(
    data: DataSettings,
    path: Path,
    size: tuple[int, int],
    photograph: Path | None,
    pose_size: str,
) -> Input:
    is_input = photograph is None  # Only exemplars come with one; --pose-size is not for them.
    if path.suffix.lower() in images.EXTENSIONS:
        photograph, place = path, _place(data, path)
        if place is not None:
            path = poses.find_pose(place.annotations / place.stem)
        elif _has_pose_beside(data, path):
            path = poses.find_pose(path.with_suffix(""))
        else:
            folders = " and ".join(_LAYOUTS[data.dataset])
            raise UserError(
                f"{path} is a photograph without a pose; name OpenPose's file instead, put it"
                f" beside the photograph, or use the folders {folders}"
            )
    elif photograph is None:
        photograph = photograph_of(data, path)
    if pose_size == "photograph" and photograph is None:
        raise UserError(
            f"--pose-size is photograph, but {path} has no photograph; put"
            f" {poses.stem_of(path.name)}.jpg beside it, or set --pose-size=WIDTHxHEIGHT to the"
            " photograph's size"
        )
    photograph_size = None if photograph is None else _size(images.read_photograph(photograph))
    setting = pose_size or data.pose_size
    # Without a photograph, the file's own canvas takes precedence over the checkpoint's size.
    canvas = pose_canvas.canvas_of(
        path, photograph_size, setting if photograph_size else pose_size, "--pose-size"
    )
    canvas = canvas or pose_canvas.parse_size(data.pose_size)
    if canvas is None:
        poses.read_pose(path, _ANY_CANVAS)  # Reports a damaged file first.
        raise UserError(
            f"{path} does not state its picture's size, and there is no photograph"
            f" {poses.stem_of(path.name)}.jpg beside it; set --pose-size=WIDTHxHEIGHT to the size"
            " of the picture in which the pose was detected"
        )
    joints = poses.read_pose(
        path,
        canvas,
        canvas_name=pose_canvas.name_of(
            canvas, photograph_size, setting, "--pose-size" if pose_size else _POSE_SIZE
        ),
        setting="--pose-size",
    )
    if is_input and not pose_size and photograph_size and photograph_size != canvas:
        _check_larger_canvas(path, joints, canvas, photograph_size)
    reach = None
    if not setting and canvas == photograph_size:
        reach = pose_canvas.reach_of(path, joints, canvas)
    return Input(pose_drawing.draw_pose(joints, canvas, size), photograph_size or canvas, reach)


def _check_larger_canvas(
    path: Path,
    joints: Float64[np.ndarray, "18 2"],
    canvas: tuple[int, int],
    photograph: tuple[int, int],
) -> None:
    """Raises a `UserError` if a pose fits both its photograph and a larger canvas."""
    height, width = photograph
    larger = canvas[0] >= height and canvas[1] >= width
    if larger and (np.nanmax(joints, axis=0) <= (width, height)).all():
        size = f"{canvas[1]}x{canvas[0]}"
        raise UserError(
            f"{path} may belong to its photograph of {width}x{height} pixels (width x height) or to"
            f" a picture of {size}, the size in which this checkpoint's poses were detected: all"
            " joints are inside both. Set --pose-size=photograph if the pose was detected in the"
            f" photograph, else --pose-size={size}"
        )


def _edges(data: DataSettings, path: Path, size: tuple[int, int]) -> Input:
    place = _place(data, path)
    if place is not None:
        candidates = [place.annotations / f"{place.stem}{ending}" for ending in images.EXTENSIONS]
        path = next((file for file in candidates if file.exists()), candidates[0])
    elif computes_edges(data, path):
        picture = images.read_photograph(path)
        return Input(edges.own_edges(picture, None, size), _size(picture))
    return Input(*maps.read_edges(path, size))


def _number(path: Path) -> int:
    return face_parts.number_of(path.name)


def _size(array: Shaped[np.ndarray, "height width *channels"]) -> tuple[int, int]:
    return array.shape[0], array.shape[1]
