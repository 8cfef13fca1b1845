"""What a dataset's label maps have in common, and where they contradict each other."""

import collections
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cocosnet_jax.data import images
from cocosnet_jax.data.labels.label_maps import BLACK, WHITE, WHITE_NUMBERS, code_of, show

# So many numbers whose pixels are all on edges are no coincidence.
_FEW = 3


class _Seen(NamedTuple):
    """What a survey keeps of one map: pixels by number, the palette's bytes, and its kind."""

    pixels: dict[int, int]
    palette: bytes | None
    black_and_white: bool

    def colour(self, number: int) -> int:
        """The colour that a number is shown in."""
        if self.palette is not None:
            return code_of(self.palette[3 * number : 3 * number + 3])
        return min(255 * number if self.black_and_white else number, 255) * 0x010101


class Survey:
    """What all label maps of a folder hold together: some faults no single map shows."""

    def __init__(self) -> None:
        self._seen: dict[Path, _Seen] = {}
        self._in_colour: list[Path] = []
        self._thin: collections.Counter[int] = collections.Counter()
        self._colours: collections.Counter[int] = collections.Counter()
        self._palettes: dict[bytes, bytes] = {}
        self._lock = threading.Lock()

    def add(self, path: Path) -> np.ndarray:
        """Reads a map of class numbers, from any thread; returns them, (H, W) int32.

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
            self._seen[path] = _Seen(pixels, palette, black_and_white)
        return image.numbers

    def palette(self) -> dict[int, int]:
        """Colours by class number, of palette images that agree; empty where there are none."""
        return {
            number: seen.colour(number)
            for seen in self._seen.values()
            if seen.palette is not None
            for number in seen.pixels
        }

    def in_colour(self) -> str | None:
        """Whether most maps are in colour, as what is wrong with that."""
        count, total = len(self._in_colour), len(self._in_colour) + len(self._seen)
        if 2 * count <= total:
            return None
        return f"{count} of {total} label maps are in colour, for example {min(self._in_colour)}"

    def conflict(self) -> str | None:
        """Where palettes contradict each other: one number has two colours, or the reverse."""
        of_number: dict[int, tuple[int, Path]] = {}
        of_colour: dict[int, tuple[int, Path]] = {}
        for path, seen in sorted(self._seen.items()):
            if seen.palette is None:
                continue
            for number in seen.pixels:
                colour = seen.colour(number)
                other, where = of_number.setdefault(number, (colour, path))
                if other != colour:
                    return (
                        f"palettes differ from map to map: number {number} is {show(other)} in"
                        f" {where} and {show(colour)} in {path}, so that numbers do not tell"
                        " classes"
                    )
                also, where = of_colour.setdefault(colour, (number, path))
                # A palette may have a colour twice, and mean two classes by it.
                larger = self._seen[path if number > also else where]
                if also != number and larger.colour(min(number, also)) != colour:
                    return (
                        f"palettes differ from map to map: {show(colour)} is number {also} in"
                        f" {where} and number {number} in {path}, so that numbers do not tell"
                        " classes"
                    )
        return None

    def smoothed(self) -> str | None:
        """Which numbers seem to come from smoothed edges: they are but a pixel wide."""
        pixels: collections.Counter[int] = collections.Counter()
        for seen in self._seen.values():
            pixels.update(seen.pixels)
        numbers = sorted(number for number, thin in self._thin.items() if 2 * thin > pixels[number])
        # Few may be what is small or far away.
        if len(numbers) < _FEW or 10 * len(numbers) < len(pixels):
            return None
        listed = ", ".join(map(str, numbers[:8])) + (", ..." if numbers[8:] else "")
        return (
            f"note: the numbers {listed} ({len(numbers)} of {len(pixels)}) lie in label maps almost"
            " only as lines of one pixel's width: smoothed edges or JPEG compression make such"
            " numbers. If nobody drew these, draw the maps without, and resize them with nearest"
            " neighbour"
        )

    def marks_255(self, value_255: str, classes: Path) -> str | None:
        """What is wrong where maps hold 255 and `DataSettings.value_255` does not fit it.

        Args:
          value_255: that setting.
          classes: where a list of colours would be.
        """

        def holds_255(seen: _Seen) -> bool:
            return not seen.pixels.keys().isdisjoint(WHITE_NUMBERS)

        # Black and white maps of other numbers say by themselves what is white.
        maps = {
            path: seen
            for path, seen in sorted(self._seen.items())
            if holds_255(seen) or not seen.black_and_white
        }
        marked = [path for path, seen in maps.items() if holds_255(seen)]
        if not marked:
            return None
        pixels: collections.Counter[int] = collections.Counter()
        for seen in maps.values():
            pixels.update(seen.pixels)
        others = sorted(pixels.keys() - {0, *WHITE_NUMBERS})
        white = max(number for number in WHITE_NUMBERS if number in pixels)
        colour = maps[marked[0]].colour(255)
        if not others and colour != WHITE:
            leave = "leave config.data.value_255 out. " if value_255 else ""
            return (
                f"label maps hold only 0 and 255, which is {show(colour)}, for example {marked[0]}:"
                f" {leave}{self.list_to_write(classes)}"
            )
        if not others:
            way = "set --config.data.value_255=class_1, which makes white class 1 and black class 0"
            if value_255 == "unknown":
                return (
                    f"label maps hold only 0 and {white}, so that config.data.value_255=unknown"
                    f" leaves nothing but class 0: {way}"
                )
            return f"label maps hold only 0 and {white}, for example {marked[0]}: {way}"
        if value_255 == "unknown":
            return None
        ways = [
            "if it marks what is unknown (void), set --config.data.value_255=unknown, which makes"
            " it class 0"
        ]
        beside = ""
        if others:
            last = next(path for path, seen in maps.items() if others[-1] in seen.pixels)
            listed = ", ".join(map(str, others[:8])) + (", ..." if others[8:] else "")
            beside = f", beside {listed} (the last in {last})"
        if others == [1]:
            ways.append("if it is the same as 1, correct the maps")
        elif others and 64 <= others[-1] < 255:
            share = sum(pixels[value] for value in others) / pixels.total()
            if share < 0.2:
                smoothed = (
                    f"if what is between, {share:.1%} of the pixels, is smoothed edges of black and"
                    " white masks, make these black and white again (resize masks with nearest"
                    " neighbour) and set --config.data.value_255=class_1"
                )
                ways.insert(0, smoothed)
            ways.append(
                "if grey levels stand for classes, list them as colours in classes.txt, one class"
                " per line, NAME #RRGGBB"
            )
        return (
            f"{len(marked)} of {len(self._seen)} label maps hold {white}, for example {marked[0]}"
            f"{beside}: {'; '.join(ways)}"
        )

    def list_to_write(self, classes: Path) -> str:
        """What to write into `classes`, with the lines for the colours of all maps."""
        pixels = self._colours.copy()
        for seen in self._seen.values():
            for number, count in seen.pixels.items():
                pixels[seen.colour(number)] += count
        smoothed = "smoothed edges or JPEG compression make such colours; draw the maps without"
        if len(pixels) > images.MAX_CLASSES:
            return (
                f"The maps hold more than {images.MAX_CLASSES} colours, which is too many for"
                f" classes: {smoothed}"
            )
        rare = [colour for colour, count in pixels.items() if count < 1e-3 * pixels.total()]
        note = ""
        if rare:
            note = (
                f" ({len(rare)} of them on less than 0.1% of the pixels: if nobody drew these,"
                f" {smoothed})"
            )
        lines = [
            f"class_{number} {show(colour)}"
            for number, (colour, _) in enumerate(pixels.most_common())
        ]
        return (
            f"List their colours in {classes}, one class per line, NAME #RRGGBB, and all maps are"
            f" read by colour. Class 0 is unknown: its colour, where there is one, stands in the"
            f" first line. The maps hold {len(lines)} colours{note}, most frequent first:\n"
            + "\n".join(lines)
        )


def _thin(numbers: np.ndarray) -> np.ndarray:
    """Where a map, (H, W), differs from both neighbours in a row or in a column, (H, W) bool."""
    found = np.zeros(numbers.shape, bool)
    for map_, thin in ((numbers, found), (numbers.T, found.T)):
        changes = map_[1:] != map_[:-1]
        thin[1:-1] |= changes[1:] & changes[:-1]
    return found


def _count(numbers: np.ndarray) -> dict[int, int]:
    """Pixels by value of an integer array."""
    if not numbers.size:
        return {}
    if numbers.min() >= 0 and numbers.max() < 2**16:
        counts = np.bincount(numbers.ravel())
        return {int(number): int(counts[number]) for number in np.flatnonzero(counts)}
    values, counts = np.unique(numbers, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))
