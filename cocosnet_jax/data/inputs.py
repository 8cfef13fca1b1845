"""One input of a translation from its file, as a dataset is prepared (SPEC section 1).

What a file may be follows from the dataset that a model was trained on:

    label maps (ade20k, drawn_scenes, flickr, folder, toy_scenes)   a label map
    celebahq                a label map of the 19 face parts, or a photograph in CelebA-HQ-img
    celebahqedge            a photograph in CelebA-HQ-img: edges need it and its parts
    deepfashion, folder_poses   OpenPose's file, or a photograph in the dataset's layout or with
                            OpenPose's file beside it
    drawn_edges             an edge map
    folder_edges            an edge map, or a photograph in the dataset's layout

A photograph lies in its dataset's layout when the folder of annotations stands beside its own.
Neither TensorFlow nor JAX is needed here.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from cocosnet_jax.data import images
from cocosnet_jax.data.labels import edges, face_parts, label_maps, pose_canvas, pose_drawing, poses
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import POSE_DATASETS, DataSettings

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
# What messages call the canvas that a checkpoint says.
_POSE_SIZE = "the checkpoint's config.data.pose_size"
# Larger than any picture.
_ANY_CANVAS = (2**31, 2**31)
_POSE_LAYOUTS = tuple(_LAYOUTS[dataset] for dataset in POSE_DATASETS)


class Input(NamedTuple):
    """An input of the networks.

    Attributes:
      planes: (S, S, p) uint8, as in `Batch.label`.
      size: (height, width) of what was read; of a pose its photograph's, where there is one.
      reach: of a pose in its photograph, where nothing else says in which picture it lies.
    """

    planes: np.ndarray
    size: tuple[int, int]
    reach: pose_canvas.Reach | None = None


def is_input(data: DataSettings, path: Path) -> bool:
    """Whether a file of a folder of inputs is one, by its name."""
    if data.dataset in POSE_DATASETS:
        name = path.name.lower()
        return name.endswith((".json", "_candidate.txt", *images.EXTENSIONS))
    if data.dataset in _LAYOUTS:
        return path.suffix.lower() in images.EXTENSIONS
    return path.suffix.lower() == ".png"


def stands_for_itself(data: DataSettings, photograph: Path) -> bool:
    """Whether a photograph lies in its dataset's layout, so that its own input can be read."""
    return _place(data, photograph) is not None or _has_pose_beside(data, photograph)


def photograph_of(data: DataSettings, path: Path) -> Path | None:
    """The photograph of a pose file, by the dataset's layout or beside it; None without it."""
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


def annotation_in(data: DataSettings, folder: Path, photograph: Path) -> Path:
    """The map or pose of a photograph in a folder of them; `photograph` is its path below that."""
    if data.dataset in POSE_DATASETS:
        return poses.find_pose(folder / photograph.with_suffix(""))
    return folder / photograph.with_suffix(".png")


def list_name(data: DataSettings, name: str) -> str:
    """The name by which an exemplar list knows an input: a pose file by its photograph's."""
    return poses.stem_of(name) if data.dataset in POSE_DATASETS else name


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
    data: DataSettings,
    path: Path,
    side: int = 0,
    *,
    photograph: Path | None = None,
    pose_size: str = "",
) -> Input:
    """Reads an input.

    Args:
      data: of the model.
      path: see above.
      side: S, of the planes; 0 for the side of the model's training.
      photograph: what a label map is of, where there is one: both must lie alike (not so
        CelebA-HQ's, which are smaller). What a pose is of, where it is not found by its file.
      pose_size: translate's `--pose-size`, instead of the model's `data.pose_size`.

    Raises:
      UserError: the file cannot be read, is of another kind, or holds what the model does not
        know.
    """
    size = (side or data.image_size,) * 2
    if data.dataset in POSE_DATASETS:
        return _pose(data, path, size, photograph, pose_size)
    if data.dataset in ("folder_edges", "drawn_edges"):
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
    if_numbers = "draw the map in the colours of the training's maps"
    label = label_maps.read(path, classes, data.value_255, unlisted, if_numbers)
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
    asked = photograph is None  # --pose-size is not said of exemplars.
    if path.suffix.lower() in images.EXTENSIONS:
        photograph, place = path, _place(data, path)
        if place is not None:
            path = poses.find_pose(place.annotations / place.stem)
        elif _has_pose_beside(data, path):
            path = poses.find_pose(path.with_suffix(""))
        else:
            folders = " and ".join(_LAYOUTS[data.dataset])
            raise UserError(
                f"{path} is a photograph and its pose is not known: name OpenPose's file instead,"
                " put it beside the photograph, or lay photographs and poses out in the folders"
                f" {folders}"
            )
    elif photograph is None:
        photograph = photograph_of(data, path)
    if pose_size == "photograph" and photograph is None:
        raise UserError(
            f"--pose-size is photograph, but {path} has none: put {poses.stem_of(path.name)}.jpg"
            " beside it, or set --pose-size=WIDTHxHEIGHT to its size"
        )
    its_size = None if photograph is None else _size(images.read_photograph(photograph))
    said = pose_size or data.pose_size
    # Without photograph a file's own canvas says more than the checkpoint.
    canvas = pose_canvas.canvas_of(path, its_size, said if its_size else pose_size, "--pose-size")
    canvas = canvas or pose_canvas.parse_size(data.pose_size)
    if canvas is None:
        poses.read_pose(path, _ANY_CANVAS)  # What is wrong with the file itself is said first.
        raise UserError(
            f"{path} does not say how large the picture is that its pose lies in, and there is no"
            f" photograph {poses.stem_of(path.name)}.jpg beside it: set --pose-size=WIDTHxHEIGHT"
            " to the size of that picture"
        )
    joints = poses.read_pose(
        path,
        canvas,
        called=pose_canvas.name_of(
            canvas, its_size, said, "--pose-size" if pose_size else _POSE_SIZE
        ),
        setting="--pose-size",
    )
    if asked and not pose_size and its_size and its_size != canvas:
        _check_larger_canvas(path, joints, canvas, its_size)
    reach = None
    if not said and canvas == its_size:
        reach = pose_canvas.reach_of(path, joints, canvas)
    return Input(pose_drawing.draw_pose(joints, canvas, size), its_size or canvas, reach)


def _check_larger_canvas(
    path: Path, joints: np.ndarray, canvas: tuple[int, int], photograph: tuple[int, int]
) -> None:
    """Raises a `UserError` where a pose may lie in its photograph or in a larger canvas."""
    height, width = photograph
    larger = canvas[0] >= height and canvas[1] >= width
    if larger and (np.nanmax(joints, axis=0) <= (width, height)).all():
        said = f"{canvas[1]}x{canvas[0]}"
        raise UserError(
            f"{path} has all joints within its photograph of {width}x{height} pixels (width x"
            f" height), which is smaller than {said}, the size of the pictures in which this"
            " checkpoint's poses were detected: set --pose-size=photograph if this pose was"
            f" detected in the photograph, or --pose-size={said}"
        )


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
