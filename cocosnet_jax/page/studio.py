"""The page's applications as methods that take and return arrays; nothing here knows the page."""

import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import tqdm
from jaxtyping import Float, UInt8
from scipy import ndimage

from cocosnet_jax.apps import correspond, drawing, edit, makeup, reading
from cocosnet_jax.data import classes
from cocosnet_jax.data.images import Photograph
from cocosnet_jax.data.labels import edges, face_parts
from cocosnet_jax.errors import UserError
from cocosnet_jax.inference import Translator
from cocosnet_jax.page import batches, scenes, uploads
from cocosnet_jax.page.classes import PaintClass, paint_classes
from cocosnet_jax.page.turns import Turns
from cocosnet_jax.settings import POSE_DATASETS

Numbers = UInt8[np.ndarray, "side side"]  # the class of each pixel, as it is painted
Planes = UInt8[np.ndarray, "side side planes"]  # as the networks take it, in `Batch.label`

# Side of the square that strokes are painted on, in pixels, and the colours to choose from.
STROKES_SIDE = 256
STROKES = (
    PaintClass(0, "eraser", "#FFFFFF"),
    PaintClass(1, "lip red", "#B3122D"),
    PaintClass(2, "rose", "#E0607E"),
    PaintClass(3, "rouge", "#D9694F"),
    PaintClass(4, "bronze", "#9A5B34"),
    PaintClass(5, "gold", "#E8B923"),
    PaintClass(6, "leaf green", "#3F9B4B"),
    PaintClass(7, "turquoise", "#1FA6A6"),
    PaintClass(8, "sky blue", "#3E7BE0"),
    PaintClass(9, "violet", "#7B43B5"),
    PaintClass(10, "charcoal", "#22242A"),
    PaintClass(11, "white", "#FAFAF7"),
)


class Point(NamedTuple):
    """A point that was clicked: x and y in pixels of the input's picture or of the exemplar."""

    x: float
    y: float
    on_exemplar: bool


class ShownMatches(NamedTuple):
    """Matches of points, and what shows them.

    Attributes:
      input, exemplar: both pictures, enlarged, with numbered points and matches.
      heat: both pictures, with the similarity of each place to the last point; None without one.
      warped_exemplar, warped_input: the dense warps.
      rows: number, x, y, match's x, match's y, confidence of each point.
    """

    input: Photograph
    exemplar: Photograph
    heat: Photograph | None
    warped_exemplar: Photograph
    warped_input: Photograph
    rows: list[list[float | str]]


class Studio:
    """The applications with one translator, which threads may use at once.

    Attributes:
      translator: of S x S pixels.
      turns: who uses it.
      size: S.
      classes: the palette of its maps.
      needs_exemplar_label: whether the networks read the exemplar's map.
      scenes: drawn examples; empty for models of photographs.
    """

    def __init__(self, translator: Translator, together: int = 0):
        """Draws the examples.

        Args:
          translator: the networks.
          together: the largest number of translations in a batch; 0 for what suits the devices.

        Raises:
          UserError: the networks take no exemplar, or inputs that a page cannot paint.
        """
        self.translator, self.size = translator, translator.size
        data = self._data = translator.settings.data
        if not translator.settings.model.needs_exemplar:
            raise UserError(
                "--checkpoint is a plain translation network, which takes no exemplar; name a"
                " checkpoint that takes one"
            )
        if data.dataset in (*POSE_DATASETS, "celebahqedge"):
            raise UserError(
                f"--checkpoint was trained on {data.dataset}, whose inputs cannot be painted; use"
                " python -m cocosnet_jax.translate"
            )
        self.classes = paint_classes(data)
        self.needs_exemplar_label = translator.settings.model.needs_exemplar_label
        self.scenes = scenes.draw(data, self.size)
        self.turns: Turns[batches.Pair, tuple[Photograph, Photograph]] = Turns(
            lambda pairs: batches.translate(translator, pairs, self.turns.most),
            together or batches.most(self.size),
        )

    def compile(self) -> None:
        """Compiles what the tabs compute, ahead of the first visitor; shows how far it is."""
        side = self.size
        photograph = np.zeros((side, side, 3), np.uint8)
        planes = self.planes(np.zeros((side, side), np.uint8))
        strokes = np.zeros((STROKES_SIDE, STROKES_SIDE), np.uint8)
        layer = self.layer(strokes, (side, side))
        steps = (
            lambda: self.translate(planes, photograph, planes),
            self._compile_batch,
            lambda: self.match(planes, photograph, planes, [Point(0, 0, False)]),
            lambda: self.makeup(photograph, planes, layer, photograph, planes),
        )
        for step in tqdm.tqdm(steps, desc="compiling", unit=" programs", file=sys.stdout):
            step()

    def _compile_batch(self) -> None:
        """Compiles a full batch; if it does not fit in memory, there will be none."""
        try:
            self.translator.compile(self.turns.most)
        except UserError:
            self.turns.most = 1

    def read_map(self, path: Path, what: str, photograph: Path | None = None) -> Planes:
        """See `uploads.read_map`."""
        return uploads.read_map(path, what, self._data, self.size, photograph)

    def planes(self, numbers: Numbers) -> Planes:
        """A painted map as the networks take it."""
        if self._data.condition == "channels":
            return edges.own_edges(None, numbers * np.uint8(255), numbers.shape)
        if self._data.condition == "labels_glasses":
            glasses = numbers == face_parts.CLASS_NAMES.index(face_parts.GLASSES)
            return np.stack([numbers, glasses.astype(np.uint8)], -1)
        return numbers[..., None]

    def numbers(self, planes: Planes) -> Numbers:
        """The inverse of `planes`, to paint on."""
        if self._data.condition == "channels":
            return (planes[..., 0] > 127).astype(np.uint8)
        return planes[..., 0]

    def show(self, planes: Planes) -> UInt8[np.ndarray, "side side 3"]:
        """A picture of a map, in the colours of the palette."""
        return classes.show_in_own_colours(planes, self._data)

    def map_picture(self, planes: Planes) -> UInt8[np.ndarray, "side side"]:
        """A map as the grey picture that `read_map` reads."""
        is_edges = self._data.condition == "channels"
        return planes[..., 0] if is_edges else self.numbers(planes)

    def translate(
        self, planes: Planes, exemplar: Photograph, exemplar_planes: Planes | None
    ) -> tuple[Photograph, Photograph]:
        """The input in the style of the exemplar, and the warped exemplar; both S x S."""
        given = exemplar_planes if self.needs_exemplar_label else None
        resized = reading.at_size(exemplar, self.translator)[0]
        return self.turns.translate(batches.Pair(planes, resized, given))

    def edit(
        self, photograph: Photograph, planes: Planes, edited: Planes, *, paste: bool, seam: float
    ) -> Photograph:
        """See `apps.edit.edit`; `seam` is in hundredths of the photograph's longer side."""
        pixels = round(seam / 100 * max(photograph.shape))
        return self.turns.alone(
            lambda: edit.edit(
                self.translator, photograph, planes, edited, paste=paste, seam=max(pixels, 1)
            )
        )

    def layer(
        self, strokes: Numbers, size: tuple[int, int], opacity: float = 1, softness: float = 0
    ) -> UInt8[np.ndarray, "rows columns 4"]:
        """Strokes as a layer of colours with transparency.

        Args:
          strokes: numbers of `STROKES`, 0 where there is none.
          size: rows and columns of the layer.
          opacity: of a stroke, 0 to 1.
          softness: standard deviation of its edge, in hundredths of the side.
        """
        # Colours times cover, so that what is transparent has no colour to mix with.
        cover = (strokes > 0).astype(np.float32)[..., None]
        painted = np.concatenate([_table(STROKES)[strokes] * cover, cover], -1)
        painted = ndimage.gaussian_filter(painted, softness / 100 * len(strokes), axes=(0, 1))
        painted = cv2.resize(painted, size[::-1], interpolation=cv2.INTER_LINEAR)
        colour, cover = painted[..., :3], painted[..., 3:]
        layer = np.concatenate([colour / np.maximum(cover, 1e-6), 255 * opacity * cover], -1)
        return np.rint(np.clip(layer, 0, 255)).astype(np.uint8)

    def makeup(
        self,
        portrait: Photograph,
        portrait_planes: Planes | None,
        layer: UInt8[np.ndarray, "rows columns 4"],
        target: Photograph,
        target_planes: Planes,
    ) -> Photograph:
        """See `apps.makeup.carry`."""
        given = portrait_planes if self.needs_exemplar_label else None
        return self.turns.alone(
            lambda: makeup.carry(self.translator, portrait, given, layer, target, target_planes)
        )

    def match(
        self,
        planes: Planes,
        exemplar: Photograph,
        exemplar_planes: Planes | None,
        points: list[Point],
    ) -> ShownMatches:
        """Finds the matches of points, and draws everything that shows them.

        Raises:
          UserError: a point lies outside of its picture.
        """
        return self.turns.alone(lambda: self._match(planes, exemplar, exemplar_planes, points))

    def _match(
        self,
        planes: Planes,
        exemplar: Photograph,
        exemplar_planes: Planes | None,
        points: list[Point],
    ) -> ShownMatches:
        """`match`, called while no other call uses the networks."""
        given = exemplar_planes if self.needs_exemplar_label else None
        call = functools.partial(
            correspond.correspond,
            self.translator,
            planes,
            exemplar,
            given,
            picture=self.show(planes),
        )
        found = np.zeros((len(points), 3))
        shown = None
        for back in (True, False):
            mine = [i for i, point in enumerate(points) if point.on_exemplar == back]
            if mine or not back:  # The dense warps are wanted without points, too.
                places = np.array([points[i][:2] for i in mine], float).reshape(-1, 2)
                shown = call(places, back=back)
                found[mine] = shown.matches
        assert shown is not None
        ours, theirs = self._places(points, found)
        heat = None
        if points:
            last = points[-1]
            heat = correspond.heat_map(
                *(self.translator, planes, exemplar, given, last[:2]),
                picture=self.show(planes),
                back=last.on_exemplar,
                number=len(points),
            )
        return ShownMatches(
            np.asarray(drawing.number_points(self.show(planes), ours)),
            np.asarray(drawing.number_points(exemplar, theirs)),
            heat,
            shown.warped_exemplar,
            shown.warped_input,
            [
                [
                    number,
                    "exemplar" if point.on_exemplar else "input",
                    *(round(float(x), 1) for x in (point.x, point.y, *place[:2])),
                    round(float(place[2]), 3),
                ]
                for number, (point, place) in enumerate(zip(points, found, strict=True), 1)
            ],
        )

    def _places(
        self, points: list[Point], found: Float[np.ndarray, "points 3"]
    ) -> tuple[Float[np.ndarray, "points 2"], Float[np.ndarray, "points 2"]]:
        """Where the points are on the input, and where on the exemplar."""
        clicked = np.array([point[:2] for point in points], float).reshape(-1, 2)
        there = np.array([point.on_exemplar for point in points], bool)[:, None]
        return np.where(there, found[:, :2], clicked), np.where(there, clicked, found[:, :2])


def _table(classes: Sequence[PaintClass]) -> UInt8[np.ndarray, "classes 3"]:
    """The colours of a palette."""
    return np.array([list(bytes.fromhex(c.colour[1:])) for c in classes], np.uint8)
