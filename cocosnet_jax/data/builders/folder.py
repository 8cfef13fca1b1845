"""The user's own photographs, with label maps, edge maps or poses.

Layout, in the source folder or in a subfolder:

    images/.../NAME.jpg         photographs: .jpg, .png, .webp, .bmp or .tif
    labels/.../NAME.png         `folder`: a class number per pixel (0 is unknown), or a colour
    edges/.../NAME.png          `folder_edges`: white lines on black; without this folder, Canny
                                detects the edges of the photographs
    poses/.../NAME_keypoints.json, NAME.json, or NAME_candidate.txt and NAME_subset.txt
                                `folder_poses`: OpenPose's files
    classes.txt                 optional, for label maps: a class per line, from class 0 on, with
                                colours if maps are in colour, see
                                `cocosnet_jax.data.labels.label_maps`
    val.txt, train.txt, test.txt
                                optional: the photographs of the splits, one per line. Folders
                                train, val or test in `images` also define splits
                                (`cocosnet_jax.data.builders.listed`). By default, every tenth
                                photograph, starting with the first, is for validation

Splits may also have their own folders: `train/images/` and `train/labels/`, or SPADE's
`train_img/` and `train_label/` (`train_edge/`, `train_pose/`).
"""

import functools
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int64, UInt8

from cocosnet_jax.data import images, problems
from cocosnet_jax.data.builders.drawn_poses import DrawnPoses
from cocosnet_jax.data.builders.listed import ListedBuilder, Place
from cocosnet_jax.data.builders.splits import split_of
from cocosnet_jax.data.labels import edges, label_maps
from cocosnet_jax.data.labels.label_maps import ClassList
from cocosnet_jax.data.labels.survey import Survey
from cocosnet_jax.data.maps import VOID_VALUES
from cocosnet_jax.data.source_files import files_below, read_text
from cocosnet_jax.errors import UserError

# A folder of photographs in SPADE's layout.
_SPADE = re.compile(r"(.+)_(?:img|image|images)", re.IGNORECASE)


class OwnBuilder(ListedBuilder):
    """The common base of the user's own datasets: photograph and annotation share a name."""

    # Since 1.1.0, folders define splits, and palettes are compared.
    VERSION: ClassVar[tfds.core.Version] = tfds.core.Version("1.1.0")
    title: ClassVar[str] = "your data"
    photographs: ClassVar[str] = "images"
    held_out: ClassVar[int] = 10

    def find_places(self, root: Path) -> list[Place]:
        """The dataset's folders, or those of each split; none if `root` is not a dataset."""
        if places := super().find_places(root):
            return places
        folders = {path.name: path for path in sorted(root.iterdir()) if path.is_dir()}
        singular = self.annotations.removesuffix("s")
        for name in folders:
            if (match := _SPADE.fullmatch(name)) and (split := split_of(match[1])):
                names = [f"{match[1]}_{kind}" for kind in (singular, self.annotations)]
                annotations = next((other for other in names if other in folders), names[0])
                places.append(Place(name, annotations, split))
        for name, path in folders.items() if not places else ():
            if (split := split_of(name)) and (path / self.photographs).is_dir():
                places.append(
                    Place(f"{name}/{self.photographs}", f"{name}/{self.annotations}", split)
                )
        if not self.needs_annotations:
            return places
        complete = [place for place in places if (root / place.annotations).is_dir()]
        for place in places if complete else ():
            # Test photographs often have no annotations.
            if place not in complete and place.split != "test":
                raise UserError(
                    f"{root / place.photographs} has no folder {root / place.annotations} beside"
                    " it; add it, or remove the photographs"
                )
        return complete

    def stray_files(self) -> list[str]:
        """Problems: annotations without photograph, and photographs that share a name."""
        keys, _, _ = self._splits
        faults, stems = [], dict[str, str]()
        for key in sorted({*keys["train"], *keys["validation"]}):
            stem = _stem(key)
            if stem in stems:
                faults.append(f"{stems[stem]} and {key} have the same name; rename one of them")
            stems[stem] = key
        # Photographs that lists leave out may have annotations.
        if not self.lists:
            photographs = set(map(_stem, self._photographs()))
            faults += [
                f"{path} has no photograph {stem}.jpg; add it, or remove {path.name}"
                for stem, path in self._maps.items()
                if stem not in photographs
            ]
        return faults

    def annotation_of(self, key: str) -> Path:
        """The map of a photograph."""
        path = self._maps.get(_stem(key))
        if path is None:
            expected = self.annotation_stem(key).relative_to(self.root)
            raise UserError(f"{key} has no {expected}.png; add it, or remove {key}")
        return path

    @functools.cached_property
    def _maps(self) -> Mapping[str, Path]:
        """The images in the annotation folders, by their photographs' paths without extension."""
        maps = {}
        for place in self.places:
            folder = self.root / place.annotations
            for name, _ in files_below(folder) if folder.is_dir() else ():
                path = Path(name)
                if path.suffix.lower() in images.EXTENSIONS:
                    below = path.relative_to(folder).with_suffix("").as_posix()
                    maps[f"{place.photographs}/{below}"] = path
        return maps


def _stem(key: str) -> str:
    return Path(key).with_suffix("").as_posix()


class Folder(OwnBuilder):
    """The user's own label maps."""

    annotations: ClassVar[str] = "labels"
    void_value: ClassVar[int | None] = None

    def read_input(self, key: str, size: tuple[int, int]) -> images.ClassMap:
        """The class map, turned like its photograph."""
        path = self.annotation_of(key)
        label = images.align(self.root / key, size, self._read(path), path)
        images.check_classes(path, label, self.builder_config.classes)
        return label

    def input_map(
        self, annotation: images.ClassMap, photograph: images.Photograph, size: tuple[int, int]
    ) -> UInt8[np.ndarray, "h w 1"]:
        """The class map, (h, w, 1)."""
        del photograph
        return images.resize_label(annotation, size).astype(np.uint8)[..., None]

    def check(self) -> None:
        """Reads every file, and checks that all label maps number classes consistently."""
        self.check_channels()
        _ = self._survey  # Raises if they do not.
        super().check()
        if note := self._survey[0].smoothed():
            print(note, flush=True)

    def check_channels(self) -> None:
        """Raises a `UserError` unless the number of classes is known and matches classes.txt."""
        classes, names = self.builder_config.classes, self.class_list.names
        if classes == 0:
            raise UserError(
                "config.data.channels, the number of classes, is not set; set"
                f" config.data.channels={len(self.count_classes())}, the number in {self.root}"
            )
        if names and len(names) != classes:
            raise UserError(
                f"config.data.channels is {classes}, but {self._classes_file} lists"
                f" {len(names)} classes; set config.data.channels={len(names)}, or correct the file"
            )

    def count_classes(self) -> Int64[np.ndarray, "classes"]:
        """Counts the pixels of each class in all label maps, (classes,) int64.

        The number of classes is that of classes.txt, or else the highest number in the maps + 1.

        Raises:
          UserError: label maps cannot be read, contain class numbers that are too high, or number
            classes inconsistently.
        """
        _, pixels, faults = self._survey
        problems.raise_if_any(f"dataset {self.builder_config.source}", faults)
        count_known = self.class_list.names or self.builder_config.value_255 == "class_1"
        return pixels if count_known else np.trim_zeros(pixels, "b")

    def settings_from_files(self) -> dict[str, str]:
        """`classes` and `palette` of `DataSettings`, which translation needs to read maps."""
        return {
            "classes": self.class_list.text(),
            "palette": label_maps.palette_text(self._survey[0].palette()),
        }

    @functools.cached_property
    def class_list(self) -> ClassList:
        """The classes of classes.txt; empty without it."""
        path = self._classes_file
        if not path.exists():
            return ClassList()
        classes = label_maps.parse_classes(read_text(path), str(path))
        if classes.colours and self.builder_config.value_255:
            raise UserError(
                f"config.data.value_255 is {self.builder_config.value_255!r}, which applies to maps"
                f" of class numbers, but {path} lists colours; leave out the setting or the colours"
            )
        return classes

    @functools.cached_property
    def _classes_file(self) -> Path:
        """The path of classes.txt (in any case), whether or not it exists."""
        paths = sorted(self.root.iterdir())
        named = (path for path in paths if path.name.lower() == "classes.txt")
        return next(named, self.root / "classes.txt")

    def side_files(self) -> list[Path]:
        """The lists, and classes.txt."""
        paths = super().side_files()
        return [*paths, self._classes_file] if self._classes_file.exists() else paths

    def _read(self, path: Path) -> images.ClassMap:
        """The class of each pixel of a label map, (H, W) int32."""
        value_255 = self.builder_config.value_255
        unlisted = f"which {self._classes_file} does not list; correct the map or the list"
        return self._replace_void(label_maps.read(path, self.class_list, value_255, unlisted))

    def _replace_void(self, label: images.ClassMap) -> images.ClassMap:
        if self.void_value is not None and not self.class_list.colours:
            label[label == self.void_value] = self.builder_config.classes - 1
        return label

    @functools.cached_property
    def _survey(self) -> tuple[Survey, Int64[np.ndarray, "classes"], list[str]]:
        """A survey of all label maps, the pixels of each class, and problems of single maps.

        Raises:
          UserError: there are no label maps, or they number classes inconsistently.
        """
        if not self._maps:
            folders = " and ".join(str(self.root / place.annotations) for place in self.places)
            raise UserError(f"there are no label maps (.png) in {folders}; add them")
        classes, value_255 = self.class_list, self.builder_config.value_255
        has_numbers = not classes.colours and value_255 != "class_1"
        limit = 2 if value_255 == "class_1" else len(classes.names) or images.MAX_CLASSES
        pixels = np.zeros(limit, np.int64)
        advice = ""
        if classes.names:
            advice = f"correct the map, or add a line for every class to {self._classes_file}"
        survey, lock = Survey(), threading.Lock()

        def check(path: Path) -> str | None:
            try:
                if has_numbers:
                    label = self._replace_void(label_maps.without_void(survey.add(path), value_255))
                else:
                    label = self._read(path)
                images.check_classes(path, label, limit, advice=advice)
            except UserError as error:
                return str(error)
            counts = np.bincount(label.ravel(), minlength=limit)
            with lock:
                np.add(pixels, counts, out=pixels)
            return None

        faults = problems.find(check, list(self._maps.values()), "label maps")
        if common := survey.in_colour() or survey.conflict():
            common = f"{common}. {survey.list_to_write(self._classes_file)}"
        elif self.void_value is None:
            common = survey.marks_255(value_255, self._classes_file)
        if common is None and not faults and np.count_nonzero(pixels) == 1:
            common = (
                f"all label maps contain only class {pixels.argmax()}, so there is nothing to"
                " learn; correct the maps, classes.txt or config.data.value_255"
            )
        if common is not None:
            raise UserError(f"dataset {self.builder_config.source}: {common}")
        return survey, pixels, faults


class Flickr(Folder):
    """Landscapes with label maps like ADE20k's: 0 is unknown, 255 becomes the last class."""

    title: ClassVar[str] = "Flickr landscapes"
    void_value: ClassVar[int | None] = VOID_VALUES["flickr"]


class FolderEdges(OwnBuilder):
    """The user's own edge maps, or edges detected in photographs; and the distance to them."""

    annotations: ClassVar[str] = "edges"
    condition: ClassVar[str] = "channels"
    channels: ClassVar[int] = 2
    needs_annotations: ClassVar[bool] = False

    def read_input(
        self, key: str, size: tuple[int, int]
    ) -> UInt8[np.ndarray, "height width"] | None:
        """The edge map, (H, W) uint8, or None to detect edges in the photograph."""
        if not (self.root / self.place_of(key).annotations).is_dir():
            return None
        path = self.annotation_of(key)
        lines = images.read_photograph(path).max(axis=-1)
        return edges.check_lines(path, images.align(self.root / key, size, lines, path))

    def input_map(
        self,
        annotation: UInt8[np.ndarray, "height width"] | None,
        photograph: images.Photograph,
        size: tuple[int, int],
    ) -> UInt8[np.ndarray, "h w 2"]:
        """Edges and their distance map, (h, w, 2)."""
        return edges.own_edges(photograph, annotation, size)


class FolderPoses(DrawnPoses, OwnBuilder):
    """The user's own poses by OpenPose, drawn as for DeepFashion."""

    annotations: ClassVar[str] = "poses"
