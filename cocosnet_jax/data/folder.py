"""One's own photographs, with label maps, edge maps or poses of one's own.

Layout, in the source folder or in a folder of it:

    images/.../NAME.jpg         photographs: .jpg, .png, .webp, .bmp or .tif
    labels/.../NAME.png         `folder`: a class number per pixel, 0 is unknown
    edges/.../NAME.png          `folder_edges`: white lines on black; without this folder, Canny's
                                edges of the photographs
    poses/.../NAME_keypoints.json, NAME.json, or NAME_candidate.txt and NAME_subset.txt
                                `folder_poses`: OpenPose's files
    classes.txt                 optional, for label maps: a class name per line, from class 0 on
    val.txt, train.txt          optional: photographs of the two splits, one per line. Without
                                val.txt every tenth photograph, from the first on, is for validation
"""

import functools
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from cocosnet_jax.data import edges, images, problems
from cocosnet_jax.data.drawn_poses import DrawnPoses
from cocosnet_jax.data.inputs import UNMARKED
from cocosnet_jax.data.listed import ListedBuilder, files_below, read_lines
from cocosnet_jax.errors import UserError

# A class map travels in bytes, and one-hot maps of more classes fit no accelerator.
_MAX_CLASSES = 255


class OwnBuilder(ListedBuilder):
    """What all of one's own datasets share: an annotation is found by its photograph's name."""

    title: ClassVar[str] = "your data"
    photographs: ClassVar[str] = "images"
    held_out: ClassVar[int] = 10

    def stray_files(self) -> list[str]:
        """Annotations without photograph, and photographs that share a name."""
        keys, _ = self._split_keys
        found, stems = [], dict[str, str]()
        for key in sorted({*keys["train"], *keys["validation"]}):
            stem = self._stem(key)
            if stem in stems:
                found.append(f"{stems[stem]} and {key} have one name; rename one of them")
            stems[stem] = key
        # With lists, photographs that they leave out may have annotations.
        if not any((self.root / name).exists() for name in ("train.txt", "val.txt")):
            found += [
                f"{path} has no photograph {self.photographs}/{stem}.jpg"
                for stem, path in self._maps.items()
                if stem not in stems
            ]
        return found

    def annotation_of(self, key: str) -> Path:
        """The map of a photograph."""
        stem = self._stem(key)
        if stem not in self._maps:
            raise UserError(f"{key} has no {self.annotations}/{stem}.png; add it or remove {key}")
        return self._maps[stem]

    def _stem(self, key: str) -> str:
        return Path(key).relative_to(self.photographs).with_suffix("").as_posix()

    @functools.cached_property
    def _maps(self) -> Mapping[str, Path]:
        """Images in the annotation folder, by path below it without extension."""
        folder = self.root / self.annotations
        paths = [Path(name) for name, _ in files_below(folder)] if folder.is_dir() else []
        return {
            path.relative_to(folder).with_suffix("").as_posix(): path
            for path in paths
            if path.suffix.lower() in images.EXTENSIONS
        }


class Folder(OwnBuilder):
    """One's own label maps."""

    annotations: ClassVar[str] = "labels"
    unmarked: ClassVar[int | None] = None

    def read_input(self, key: str, size: tuple[int, int]) -> np.ndarray:
        """The class map, turned as the photograph is."""
        path = self.annotation_of(key)
        label = images.read_label_of(self.root / key, size, path)
        classes = self.builder_config.classes
        if self.unmarked is not None:
            label[label == self.unmarked] = classes - 1
        images.check_classes(path, label, classes)
        return label

    def input_map(
        self, annotation: np.ndarray, photograph: np.ndarray, size: tuple[int, int]
    ) -> np.ndarray:
        """The class map, (h, w, 1)."""
        del photograph
        return images.resize_label(annotation, size).astype(np.uint8)[..., None]

    def check_channels(self) -> None:
        """The number of classes must be known, and agree with classes.txt where there is one."""
        classes, names = self.builder_config.classes, self._class_names
        if classes == 0:
            raise UserError(
                "config.data.channels is 0, the number of classes is not known yet: set"
                f" config.data.channels={len(self.found_classes())}, which {self.root} holds"
            )
        if names and len(names) != classes:
            raise UserError(
                f"config.data.channels is {classes}, but {self.root / 'classes.txt'} names"
                f" {len(names)} classes: set config.data.channels={len(names)}, or correct the file"
            )

    def found_classes(self) -> np.ndarray:
        """How many pixels of all label maps each class has, (classes,) int64.

        There are as many classes as names in classes.txt, or else up to the highest number found.

        Raises:
          UserError: label maps cannot be read, or hold class numbers that are too high.
        """
        names = self._class_names
        pixels = np.zeros(len(names) or _MAX_CLASSES, np.int64)
        lock = threading.Lock()

        def count(path: Path) -> str | None:
            try:
                label = images.read_label_map(path)
                images.check_classes(path, label, len(pixels))
            except UserError as error:
                return str(error)
            counts = np.bincount(label.ravel(), minlength=len(pixels))
            with lock:
                np.add(pixels, counts, out=pixels)
            return None

        if not self._maps:
            raise UserError(f"{self.root / self.annotations} holds no label maps (.png)")
        found = problems.find(count, list(self._maps.values()), "label maps")
        problems.raise_if_any(f"dataset {self.builder_config.source}", found)
        return pixels if names else np.trim_zeros(pixels, "b")

    @functools.cached_property
    def _class_names(self) -> list[str]:
        path = self.root / "classes.txt"
        return [line for line in read_lines(path) if line] if path.exists() else []


class Flickr(Folder):
    """Landscapes with label maps like ADE20k's: 0 is unknown, 255 becomes the last class."""

    title: ClassVar[str] = "Flickr landscapes"
    unmarked: ClassVar[int | None] = UNMARKED["flickr"]


class FolderEdges(OwnBuilder):
    """One's own edge maps, or the edges of photographs alone; and the distance to them."""

    annotations: ClassVar[str] = "edges"
    condition: ClassVar[str] = "channels"
    channels: ClassVar[int] = 2

    def holds_dataset(self, root: Path) -> bool:
        """Photographs are enough."""
        return (root / self.photographs).is_dir()

    def read_input(self, key: str, size: tuple[int, int]) -> np.ndarray | None:
        """The edge map, (H, W) uint8, or None where edges are found in the photograph."""
        if not (self.root / self.annotations).is_dir():
            return None
        path = self.annotation_of(key)
        lines = images.read_photograph(path).max(axis=-1)
        return edges.check_lines(path, images.align(self.root / key, size, lines, path))

    def input_map(
        self, annotation: np.ndarray | None, photograph: np.ndarray, size: tuple[int, int]
    ) -> np.ndarray:
        """Edges and their distance map, (h, w, 2)."""
        return edges.own_edges(photograph, annotation, size)


class FolderPoses(DrawnPoses, OwnBuilder):
    """One's own poses by OpenPose, drawn as for DeepFashion."""

    annotations: ClassVar[str] = "poses"
