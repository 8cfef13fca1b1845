"""Examines all label maps of a dataset together, for faults that no single map shows."""

import collections
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Integer

from cocosnet_jax.data import images
from cocosnet_jax.data.labels.label_maps import BLACK, WHITE, WHITE_NUMBERS, code_of, show

# At least this many numbers that occur only on edges suggest smoothing.
_FEW = 3


class _MapStatistics(NamedTuple):
    """The survey's record of one map: pixels by number, and the palette's bytes."""

    pixels: dict[int, int]
    palette: bytes | None
    black_and_white: bool

    def colour(self, number: int) -> int:
        """The colour of a number in the map's picture."""
        if self.palette is not None:
            return code_of(self.palette[3 * number : 3 * number + 3])
        return min(255 * number if self.black_and_white else number, 255) * 0x010101


class Survey:
    """Statistics of all label maps of a dataset."""

    def __init__(self) -> None:
        self._statistics: dict[Path, _MapStatistics] = {}
        self._in_colour: list[Path] = []
        self._thin: collections.Counter[int] = collections.Counter()
        self._colours: collections.Counter[int] = collections.Counter()
        self._palettes: dict[bytes, bytes] = {}
        self._lock = threading.Lock()

    def add(self, path: Path) -> images.ClassMap:
        """Reads and records a map of class numbers, (H, W) int32; thread-safe.

        Raises:
          UserError: it cannot be read, or is in colour.
        """
        try:
            image = images.read_label_image(path)
        except images.ColourError:
            pixels = _count(images.read_colours(path))
            with self._lock:
                self._in_colour.append(path)
                if len(self._colours) <= images.MAX_CLASSES:
                    self._colours.update(pixels)
            raise
        pixels, thin = _count(image.numbers), _count(image.numbers[_thin(image.numbers)])
        palette, black_and_white = None, image.bilevel
        if image.palette is not None:
            palette = image.palette.tobytes()
            shown = {code_of(image.palette[number]) for number in pixels}
            black_and_white = shown <= {BLACK, WHITE}
        with self._lock:
            self._thin.update(thin)
            # Most maps share one palette.
            palette = palette and self._palettes.setdefault(palette, palette)
            self._statistics[path] = _MapStatistics(pixels, palette, black_and_white)
        return image.numbers

    def palette(self) -> dict[int, int]:
        """Colours by class number, from palette images that agree; empty without any."""
        return {
            number: stats.colour(number)
            for stats in self._statistics.values()
            if stats.palette is not None
            for number in stats.pixels
        }

    def in_colour(self) -> str | None:
        """The problem if most maps are in colour, or None."""
        count, total = len(self._in_colour), len(self._in_colour) + len(self._statistics)
        if 2 * count <= total:
            return None
        return f"{count} of {total} label maps are in colour, for example {min(self._in_colour)}"

    def conflict(self) -> str | None:
        """The problem if palettes conflict (a number has two colours, or vice versa), or None."""
        of_number: dict[int, tuple[int, Path]] = {}
        of_colour: dict[int, tuple[int, Path]] = {}
        for path, stats in sorted(self._statistics.items()):
            if stats.palette is None:
                continue
            for number in stats.pixels:
                colour = stats.colour(number)
                other, where = of_number.setdefault(number, (colour, path))
                if other != colour:
                    return (
                        f"palettes differ between maps: number {number} is {show(other)} in {where}"
                        f" and {show(colour)} in {path}, so numbers do not determine classes"
                    )
                also, where = of_colour.setdefault(colour, (number, path))
                # A palette may use one colour for two classes.
                larger = self._statistics[path if number > also else where]
                if also != number and larger.colour(min(number, also)) != colour:
                    return (
                        f"palettes differ between maps: {show(colour)} is number {also} in {where}"
                        f" and number {number} in {path}, so numbers do not determine classes"
                    )
        return None

    def smoothed(self) -> str | None:
        """A note if numbers seem to come from smoothed edges, being one pixel wide; or None."""
        pixels: collections.Counter[int] = collections.Counter()
        for stats in self._statistics.values():
            pixels.update(stats.pixels)
        numbers = sorted(number for number, thin in self._thin.items() if 2 * thin > pixels[number])
        # A few may be small or distant objects.
        if len(numbers) < _FEW or 10 * len(numbers) < len(pixels):
            return None
        listed = ", ".join(map(str, numbers[:8])) + (", ..." if numbers[8:] else "")
        return (
            f"note: the numbers {listed} ({len(numbers)} of {len(pixels)}) occur in label maps"
            " almost only as lines one pixel wide, as smoothed edges or JPEG compression cause. If"
            " they are not classes, export the maps again without smoothing, and resize them with"
            " nearest neighbour"
        )

    def marks_255(self, value_255: str, classes: Path) -> str | None:
        """The problem if maps contain 255 and `DataSettings.value_255` does not match; or None.

        Args:
          value_255: that setting.
          classes: the path of classes.txt, which may not exist.
        """

        def contains_255(stats: _MapStatistics) -> bool:
            return not stats.pixels.keys().isdisjoint(WHITE_NUMBERS)

        # In black and white maps of other numbers, the meaning of white is clear.
        maps = {
            path: stats
            for path, stats in sorted(self._statistics.items())
            if contains_255(stats) or not stats.black_and_white
        }
        marked = [path for path, stats in maps.items() if contains_255(stats)]
        if not marked:
            return None
        pixels: collections.Counter[int] = collections.Counter()
        for stats in maps.values():
            pixels.update(stats.pixels)
        others = sorted(pixels.keys() - {0, *WHITE_NUMBERS})
        white = max(number for number in WHITE_NUMBERS if number in pixels)
        colour = maps[marked[0]].colour(255)
        if not others and colour != WHITE:
            leave = "leave out config.data.value_255. " if value_255 else ""
            return (
                f"label maps contain only 0 and 255, which is {show(colour)}, for example"
                f" {marked[0]}. {leave}{self.list_to_write(classes)}"
            )
        if not others:
            way = "set --config.data.value_255=class_1, which makes white class 1 and black class 0"
            if value_255 == "unknown":
                return (
                    f"label maps contain only 0 and {white}, so config.data.value_255=unknown"
                    f" leaves nothing but class 0; {way}"
                )
            return f"label maps contain only 0 and {white}, for example {marked[0]}; {way}"
        if value_255 == "unknown":
            return None
        ways = [
            "if it marks unknown pixels (void), set --config.data.value_255=unknown, which makes"
            " them class 0"
        ]
        others_text = ""
        if others:
            last = next(path for path, stats in maps.items() if others[-1] in stats.pixels)
            listed = ", ".join(map(str, others[:8])) + (", ..." if others[8:] else "")
            others_text = f", and also {listed} (the last in {last})"
        if others == [1]:
            ways.append("if it means the same as 1, correct the maps")
        elif others and 64 <= others[-1] < 255:
            share = sum(pixels[value] for value in others) / pixels.total()
            if share < 0.2:
                smoothed = (
                    f"if the values between, {share:.1%} of the pixels, are smoothed edges of black"
                    " and white masks, make the masks black and white again (resize them with"
                    " nearest neighbour) and set --config.data.value_255=class_1"
                )
                ways.insert(0, smoothed)
            ways.append(
                "if grey levels are classes, list them as colours in classes.txt, one class per"
                " line, NAME #RRGGBB"
            )
        return (
            f"{len(marked)} of {len(self._statistics)} label maps contain {white}, for example"
            f" {marked[0]}{others_text}: {'; '.join(ways)}"
        )

    def list_to_write(self, classes: Path) -> str:
        """Instructions to write classes.txt, with a line for each colour of all maps."""
        pixels = self._colours.copy()
        for stats in self._statistics.values():
            for number, count in stats.pixels.items():
                pixels[stats.colour(number)] += count
        smoothed = (
            "smoothed edges or JPEG compression cause such colours; export the maps without them"
        )
        if len(pixels) > images.MAX_CLASSES:
            return (
                f"The maps contain more than {images.MAX_CLASSES} colours, too many for classes:"
                f" {smoothed}"
            )
        rare = [colour for colour, count in pixels.items() if count < 1e-3 * pixels.total()]
        note = ""
        if rare:
            note = (
                f" ({len(rare)} of them on less than 0.1% of the pixels; if these are not classes:"
                f" {smoothed})"
            )
        lines = [
            f"class_{number} {show(colour)}"
            for number, (colour, _) in enumerate(pixels.most_common())
        ]
        return (
            f"List the colours in {classes}, one class per line, NAME #RRGGBB; all maps are then"
            f" read by colour. Put the colour of unknown pixels, if there is one, on the first line"
            f" (class 0). The maps contain {len(lines)} colours{note}, most frequent first:\n"
            + "\n".join(lines)
        )


def _thin(numbers: Integer[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    """Pixels of a map, (H, W), that differ from both neighbours in a row or column, (H, W) bool."""
    thin = np.zeros(numbers.shape, bool)
    for map_, along in ((numbers, thin), (numbers.T, thin.T)):
        changes = map_[1:] != map_[:-1]
        along[1:-1] |= changes[1:] & changes[:-1]
    return thin


def _count(numbers: Integer[np.ndarray, "..."]) -> dict[int, int]:
    """Counts the pixels of each value of an integer array."""
    if not numbers.size:
        return {}
    if numbers.min() >= 0 and numbers.max() < 2**16:
        counts = np.bincount(numbers.ravel())
        return {int(number): int(counts[number]) for number in np.flatnonzero(counts)}
    values, counts = np.unique(numbers, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))
