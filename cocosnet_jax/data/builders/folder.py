"""One's own photographs, with label maps, edge maps or poses of one's own.

Layout, in the source folder or in a folder of it:

    images/.../NAME.jpg         photographs: .jpg, .png, .webp, .bmp or .tif
    labels/.../NAME.png         `folder`: a class number per pixel, 0 is unknown; or a colour
    edges/.../NAME.png          `folder_edges`: white lines on black; without this folder, Canny's
                                edges of the photographs
    poses/.../NAME_keypoints.json, NAME.json, or NAME_candidate.txt and NAME_subset.txt
                                `folder_poses`: OpenPose's files
    classes.txt                 optional, for label maps: a class per line, from class 0 on, with
                                colours where maps are in colour, see
                                `cocosnet_jax.data.labels.label_maps`
    val.txt, train.txt, test.txt
                                optional: photographs of the splits, one per line; folders named
                                train, val or test within `images` name the splits as well
                                (`cocosnet_jax.data.builders.listed`). Without either
                                every tenth photograph, from the first on, is for validation

or, for every split, `train/images/` and `train/labels/`, or SPADE's `train_img/` and
`train_label/` (`train_edge/`, `train_pose/`).
"""

import functools
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from cocosnet_jax.data import images, problems
from cocosnet_jax.data.builders.drawn_poses import DrawnPoses
from cocosnet_jax.data.builders.listed import ListedBuilder, Place
from cocosnet_jax.data.builders.splits import split_of
from cocosnet_jax.data.inputs import UNMARKED
from cocosnet_jax.data.labels import edges, label_maps
from cocosnet_jax.data.labels.label_maps import ClassList
from cocosnet_jax.data.labels.survey import Survey
from cocosnet_jax.data.source_files import files_below, read_text
from cocosnet_jax.errors import UserError

# A folder of photographs in SPADE's layout.
_SPADE = re.compile(r"(.+)_(?:img|image|images)", re.IGNORECASE)


class OwnBuilder(ListedBuilder):
    """What all of one's own datasets share: an annotation is found by its photograph's name."""

    # Since 1.1.0 folders name splits, and palettes are compared.
    VERSION: ClassVar[tfds.core.Version] = tfds.core.Version("1.1.0")
    title: ClassVar[str] = "your data"
    photographs: ClassVar[str] = "images"
    held_out: ClassVar[int] = 10

    def find_places(self, root: Path) -> list[Place]:
        """The dataset's folders, those of every split, or SPADE's; none if there are none."""
        if found := super().find_places(root):
            return found
        folders = {path.name: path for path in sorted(root.iterdir()) if path.is_dir()}
        singular = self.annotations.removesuffix("s")
        for name in folders:
            if (match := _SPADE.fullmatch(name)) and (split := split_of(match[1])):
                own = [f"{match[1]}_{kind}" for kind in (singular, self.annotations)]
                annotations = next((other for other in own if other in folders), own[0])
                found.append(Place(name, annotations, split))
        for name, path in folders.items() if not found else ():
            if (split := split_of(name)) and (path / self.photographs).is_dir():
                found.append(
                    Place(f"{name}/{self.photographs}", f"{name}/{self.annotations}", split)
                )
        if not self.needs_annotations:
            return found
        whole = [place for place in found if (root / place.annotations).is_dir()]
        for place in found if whole else ():
            # What is asked of a model is often without an answer.
            if place not in whole and place.split != "test":
                raise UserError(
                    f"{root / place.photographs} has no folder {root / place.annotations} beside"
                    " it; add it, or remove the photographs"
                )
        return whole

    def stray_files(self) -> list[str]:
        """Annotations without photograph, and photographs that share a name."""
        keys, _, _ = self._splits
        found, stems = [], dict[str, str]()
        for key in sorted({*keys["train"], *keys["validation"]}):
            stem = _stem(key)
            if stem in stems:
                found.append(f"{stems[stem]} and {key} have one name; rename one of them")
            stems[stem] = key
        # With lists, photographs that they leave out may have annotations.
        if not self.lists:
            every = set(map(_stem, self._photographs()))
            found += [
                f"{path} has no photograph {stem}.jpg"
                for stem, path in self._maps.items()
                if stem not in every
            ]
        return found

    def annotation_of(self, key: str) -> Path:
        """The map of a photograph."""
        path = self._maps.get(_stem(key))
        if path is None:
            expected = self.annotation_stem(key).relative_to(self.root)
            raise UserError(f"{key} has no {expected}.png; add it or remove {key}")
        return path

    @functools.cached_property
    def _maps(self) -> Mapping[str, Path]:
        """Images in the annotation folders, by their photographs' paths without extension."""
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
    """One's own label maps."""

    annotations: ClassVar[str] = "labels"
    unmarked: ClassVar[int | None] = None

    def read_input(self, key: str, size: tuple[int, int]) -> np.ndarray:
        """The class map, turned as the photograph is."""
        path = self.annotation_of(key)
        label = images.align(self.root / key, size, self._read(path), path)
        images.check_classes(path, label, self.builder_config.classes)
        return label

    def input_map(
        self, annotation: np.ndarray, photograph: np.ndarray, size: tuple[int, int]
    ) -> np.ndarray:
        """The class map, (h, w, 1)."""
        del photograph
        return images.resize_label(annotation, size).astype(np.uint8)[..., None]

    def check(self) -> None:
        """As every dataset's; and all label maps must number classes alike."""
        self.check_channels()
        _ = self._survey  # raises where they do not
        super().check()
        if note := self._survey[0].smoothed():
            print(note, flush=True)

    def check_channels(self) -> None:
        """The number of classes must be known, and agree with classes.txt where there is one."""
        classes, names = self.builder_config.classes, self.class_list.names
        if classes == 0:
            raise UserError(
                "config.data.channels is 0, the number of classes is not known yet: set"
                f" config.data.channels={len(self.found_classes())}, which {self.root} holds"
            )
        if names and len(names) != classes:
            raise UserError(
                f"config.data.channels is {classes}, but {self._classes_file} names"
                f" {len(names)} classes: set config.data.channels={len(names)}, or correct the file"
            )

    def found_classes(self) -> np.ndarray:
        """How many pixels of all label maps each class has, (classes,) int64.

        There are as many classes as lines in classes.txt, or else up to the highest number found.

        Raises:
          UserError: label maps cannot be read, hold class numbers that are too high, or do not
            number their classes alike.
        """
        _, pixels, found = self._survey
        problems.raise_if_any(f"dataset {self.builder_config.source}", found)
        whole = self.class_list.names or self.builder_config.value_255 == "class_1"
        return pixels if whole else np.trim_zeros(pixels, "b")

    def found_settings(self) -> dict[str, str]:
        """`classes` and `palette` of `DataSettings`: what a translation must know of the maps."""
        return {
            "classes": self.class_list.text(),
            "palette": label_maps.palette_text(self._survey[0].palette()),
        }

    @functools.cached_property
    def class_list(self) -> ClassList:
        """The classes of classes.txt; none without it."""
        path = self._classes_file
        if not path.exists():
            return ClassList()
        found = label_maps.parse_classes(read_text(path), str(path))
        if found.colours and self.builder_config.value_255:
            raise UserError(
                f"config.data.value_255 is {self.builder_config.value_255!r}, which is for maps of"
                f" class numbers, but {path} gives classes colours: leave one of them out"
            )
        return found

    @functools.cached_property
    def _classes_file(self) -> Path:
        """Where classes.txt is, in any case, or would be."""
        paths = sorted(self.root.iterdir())
        named = (path for path in paths if path.name.lower() == "classes.txt")
        return next(named, self.root / "classes.txt")

    def side_files(self) -> list[Path]:
        """As every dataset's; and classes.txt."""
        found = super().side_files()
        return [*found, self._classes_file] if self._classes_file.exists() else found

    def _read(self, path: Path) -> np.ndarray:
        """The class of each pixel of a label map, (H, W) int32."""
        value_255 = self.builder_config.value_255
        unlisted = f"which {self._classes_file} does not list: correct the map, or the list"
        return self._marked(label_maps.read(path, self.class_list, value_255, unlisted))

    def _marked(self, label: np.ndarray) -> np.ndarray:
        if self.unmarked is not None and not self.class_list.colours:
            label[label == self.unmarked] = self.builder_config.classes - 1
        return label

    @functools.cached_property
    def _survey(self) -> tuple[Survey, np.ndarray, list[str]]:
        """All label maps, pixels by class, and what is wrong with single maps.

        Raises:
          UserError: there are none, or they do not number their classes alike.
        """
        if not self._maps:
            folders = " and ".join(str(self.root / place.annotations) for place in self.places)
            raise UserError(f"{folders} holds no label maps (.png)")
        classes, value_255 = self.class_list, self.builder_config.value_255
        numbered = not classes.colours and value_255 != "class_1"
        limit = 2 if value_255 == "class_1" else len(classes.names) or images.MAX_CLASSES
        pixels = np.zeros(limit, np.int64)
        advice = ""
        if classes.names:
            advice = f"correct the map, or add a line for every class to {self._classes_file}"
        survey, lock = Survey(), threading.Lock()

        def look(path: Path) -> str | None:
            try:
                if numbered:
                    label = self._marked(label_maps.without_void(survey.add(path), value_255))
                else:
                    label = self._read(path)
                images.check_classes(path, label, limit, advice=advice)
            except UserError as error:
                return str(error)
            counts = np.bincount(label.ravel(), minlength=limit)
            with lock:
                np.add(pixels, counts, out=pixels)
            return None

        found = problems.find(look, list(self._maps.values()), "label maps")
        if shared := survey.in_colour() or survey.conflict():
            shared = f"{shared}. {survey.list_to_write(self._classes_file)}"
        elif self.unmarked is None:
            shared = survey.marks_255(value_255, self._classes_file)
        if shared is None and not found and np.count_nonzero(pixels) == 1:
            shared = (
                f"all label maps are of class {pixels.argmax()} alone, from which nothing is"
                " learned; correct the maps, classes.txt or config.data.value_255"
            )
        if shared is not None:
            raise UserError(f"dataset {self.builder_config.source}: {shared}")
        return survey, pixels, found


class Flickr(Folder):
    """Landscapes with label maps like ADE20k's: 0 is unknown, 255 becomes the last class."""

    title: ClassVar[str] = "Flickr landscapes"
    unmarked: ClassVar[int | None] = UNMARKED["flickr"]


class FolderEdges(OwnBuilder):
    """One's own edge maps, or the edges of photographs alone; and the distance to them."""

    annotations: ClassVar[str] = "edges"
    condition: ClassVar[str] = "channels"
    channels: ClassVar[int] = 2
    needs_annotations: ClassVar[bool] = False

    def read_input(self, key: str, size: tuple[int, int]) -> np.ndarray | None:
        """The edge map, (H, W) uint8, or None where edges are found in the photograph."""
        if not (self.root / self.place_of(key).annotations).is_dir():
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
