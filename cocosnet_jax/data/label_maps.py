"""One's own label maps: which class each pixel has.

A map holds class numbers, or colours that `classes.txt` gives numbers. This file has one class per
line, from class 0 on, and blank lines do not count:

    NAME                    maps hold class numbers
    NAME COLOUR             maps are read by colour, whether in colour, grey or with a palette
    NAME COLOUR COLOUR      several colours are one class
    COLOUR NAME

A colour is `#RRGGBB` or three numbers from 0 to 255 with spaces or commas between. A name may hold
spaces. Either every class has a colour or none has.
"""

import collections
import functools
import re
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cocosnet_jax.data import images, problems
from cocosnet_jax.errors import UserError

_BLACK, _WHITE = 0x000000, 0xFFFFFF
# The highest number of 8 bits and of 16.
_WHITE_NUMBERS = (255, 65535)
_COLOUR = r"(?:#[0-9a-fA-F]{6}|\d{1,3}[\s,]+\d{1,3}[\s,]+\d{1,3})(?![^\s,:])"
_COLOUR_LAST = re.compile(rf"(\S.*?)[\s,:]+({_COLOUR}(?:[\s,]+{_COLOUR})*)")
_COLOUR_FIRST = re.compile(rf"({_COLOUR}(?:[\s,]+{_COLOUR})*)[\s,:]+(\S.*)")
# What was meant to be a colour.
_MISTYPED = re.compile(r"(?:^|.*\s)#[0-9a-fA-F]{3,8}(?:\s.*|$)")
# Maps whose edges were smoothed hold many colours that nobody drew.
_MANY_COLOURS = 16


class ClassList(NamedTuple):
    """The classes of `classes.txt`, or none.

    Attributes:
      names: of every class.
      colours: of every class, red * 65536 + green * 256 + blue; empty where maps hold numbers.
    """

    names: tuple[str, ...] = ()
    colours: tuple[tuple[int, ...], ...] = ()

    def text(self) -> str:
        """The list as `parse_classes` reads it."""
        colours = self.colours or [()] * len(self.names)
        return "\n".join(
            " ".join([name, *map(show, own)]) for name, own in zip(self.names, colours, strict=True)
        )


def show(colour: int) -> str:
    """A colour as `#RRGGBB`."""
    return f"#{colour:06X}"


@functools.lru_cache(maxsize=4)
def parse_classes(text: str, where: str) -> ClassList:
    """The classes that a text lists.

    Args:
      text: as `classes.txt` has it, see above.
      where: what errors call the text.

    Raises:
      UserError: lists every line that is wrong.
    """
    names: list[str] = []
    colours: list[tuple[int, ...]] = []
    line_of: dict[int | str, int] = {}
    wrong = []
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if not line:
            continue
        name, own = line, ""
        if match := _COLOUR_FIRST.fullmatch(line):
            own, name = match.groups()
        elif match := _COLOUR_LAST.fullmatch(line):
            name, own = match.groups()
        elif re.fullmatch(_COLOUR, line):
            wrong.append(f"line {number}, {line!r}, has no name: write NAME COLOUR")
        elif _MISTYPED.fullmatch(line):
            wrong.append(f"line {number}, {line!r}, has no colour #RRGGBB of six digits")
        found = tuple(map(_colour, re.findall(_COLOUR, own)))
        if -1 in found:
            wrong.append(f"line {number}, {line!r}, has a number above 255 in its colour")
        names.append(name)
        colours.append(found)
        # Without colours, names may repeat: nothing is found by them.
        things: list[int | str] = [*found, name] if found else []
        for thing in things:
            if (other := line_of.setdefault(thing, number)) != number:
                what = show(thing) if isinstance(thing, int) else repr(thing)
                wrong.append(
                    f"{what} is in line {other} and in line {number}: a class has one line, with"
                    " all of its colours, and a colour has one class"
                )
    without = [name for name, own in zip(names, colours, strict=True) if not own]
    if 0 < len(without) < len(names) and not wrong:
        wrong.append(
            f"{without[0]!r} has no colour, and {len(names) - len(without)} other classes have:"
            " give all of them a colour, NAME #RRGGBB, or none"
        )
    problems.raise_if_any(where, wrong)
    return ClassList(tuple(names), tuple(colours) if any(colours) else ())


def _colour(text: str) -> int:
    """The colour of a text, or -1 where a number is above 255."""
    if text.startswith("#"):
        return int(text[1:], 16)
    red, green, blue = map(int, re.findall(r"\d+", text))
    return (red << 16) + (green << 8) + blue if max(red, green, blue) < 256 else -1


def read(path: Path, classes: ClassList, value_255: str, where: str) -> np.ndarray:
    """The class of each pixel of a label map.

    Args:
      path: its file.
      classes: whose colours the map has, if they have any.
      value_255: see `DataSettings`.
      where: what errors call the list of classes.

    Returns:
      (H, W) int32; not checked against the number of classes where the map holds numbers.

    Raises:
      UserError: the file cannot be read, or holds a colour that no class has.
    """
    if value_255 == "class_1":
        advice = (
            "with config.data.value_255=class_1 a label map is black and white: correct the map, or"
            " the setting"
        )
        return _by_colour(path, {_BLACK: 0, _WHITE: 1}, advice)
    if classes.colours:
        numbers = {colour: number for number, own in enumerate(classes.colours) for colour in own}
        return _by_colour(path, numbers, f"{where} has no such class: correct the map, or the list")
    return without_void(images.read_label_map(path), value_255)


def without_void(label: np.ndarray, value_255: str) -> np.ndarray:
    """A map of numbers, (H, W) int32, with class 0 in place of 255 where that is `unknown`."""
    if value_255 == "unknown":
        label[np.isin(label, _WHITE_NUMBERS)] = 0
    return label


def _by_colour(path: Path, numbers: Mapping[int, int], advice: str) -> np.ndarray:
    colours = images.read_colours(path)
    known = np.array(sorted(numbers), np.int32)
    places = np.minimum(np.searchsorted(known, colours), len(known) - 1)
    listed = known[places] == colours
    if not listed.all():
        counts = collections.Counter(colours[~listed].tolist()).most_common()
        shown = ", ".join(f"{show(colour)} ({count} pixels)" for colour, count in counts[:5])
        more = f" and {len(counts) - 5} more" if len(counts) > 5 else ""
        if len(counts) > _MANY_COLOURS:
            advice += "; so many colours come from smoothed edges or JPEG compression"
        elif all(colour == (colour & 255) * 0x010101 for colour, _ in counts):
            advice += " (if maps hold class numbers, the list must not have colours)"
        raise UserError(f"{path} holds the colours {shown}{more}; {advice}")
    return np.array([numbers[colour] for colour in known.tolist()], np.int32)[places]


def check_palette(path: Path, palette: Mapping[int, int], where: str) -> None:
    """Raises a `UserError` where a palette image gives the numbers of `palette` other colours.

    Args:
      path: the image; one without a palette is left alone.
      palette: colours by class number.
      where: what the message calls that palette.
    """
    image = images.read_label_image(path)
    if image.palette is None:
        return
    number_of = {colour: number for number, colour in palette.items()}
    for number in np.unique(image.numbers).tolist():
        colour = _code(image.palette[number])
        if palette.get(number, colour) != colour or (number not in palette and colour in number_of):
            other = palette.get(number)
            theirs = (
                f"{number} is {show(other)}"
                if other is not None
                else (f"{show(colour)} is {number_of[colour]}")
            )
            raise UserError(
                f"{path} has another palette than {where}: number {number} is {show(colour)} in it,"
                f" but there {theirs}; save the map with that palette, or its class numbers as an"
                " 8-bit grey PNG"
            )


def palette_text(palette: Mapping[int, int]) -> str:
    """A palette as text, `NUMBER #RRGGBB` a line."""
    return "\n".join(f"{number} {show(colour)}" for number, colour in sorted(palette.items()))


@functools.lru_cache(maxsize=4)
def parse_palette(text: str) -> Mapping[int, int]:
    """The inverse of `palette_text`."""
    rows = (line.split() for line in text.splitlines())
    return {int(number): int(colour[1:], 16) for number, colour in rows}


def _code(rgb: Iterable[int]) -> int:
    red, green, blue = map(int, rgb)
    return (red << 16) + (green << 8) + blue


class _Seen(NamedTuple):
    """What a survey keeps of one map: pixels by number, the palette's bytes, and its kind."""

    pixels: dict[int, int]
    palette: bytes | None
    black_and_white: bool

    def colour(self, number: int) -> int:
        """The colour that a number is shown in."""
        if self.palette is not None:
            return _code(self.palette[3 * number : 3 * number + 3])
        return min(255 * number if self.black_and_white else number, 255) * 0x010101


class Survey:
    """What all label maps of a folder hold together: some faults no single map shows."""

    def __init__(self) -> None:
        self._seen: dict[Path, _Seen] = {}
        self._in_colour: list[Path] = []
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
        pixels = _count(image.numbers)
        palette, black_and_white = None, image.bilevel
        if image.palette is not None:
            palette = image.palette.tobytes()
            shown = {_code(image.palette[number]) for number in pixels}
            black_and_white = shown <= {_BLACK, _WHITE}
        with self._lock:
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

    def maps_in_colour(self, classes: Path) -> str | None:
        """What is wrong where most maps are in colour; `classes` is the list that is missing."""
        count, total = len(self._in_colour), len(self._in_colour) + len(self._seen)
        if 2 * count <= total:
            return None
        return (
            f"{count} of {total} label maps are in colour, for example {min(self._in_colour)}."
            f" {self._ask_for_list(classes)}"
        )

    def conflict(self, classes: Path) -> str | None:
        """Where palettes contradict each other: one number has two colours, or the reverse."""
        if (found := self._conflict()) is None:
            return None
        return f"{found}, so that numbers do not tell classes. {self._ask_for_list(classes)}"

    def _conflict(self) -> str | None:
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
                        f" {where} and {show(colour)} in {path}"
                    )
                also, where = of_colour.setdefault(colour, (number, path))
                # A palette may have a colour twice, and mean two classes by it.
                larger = self._seen[path if number > also else where]
                if also != number and larger.colour(min(number, also)) != colour:
                    return (
                        f"palettes differ from map to map: {show(colour)} is number {also} in"
                        f" {where} and number {number} in {path}"
                    )
        return None

    def marks_255(self, value_255: str) -> str | None:
        """What is wrong where maps hold 255 and `DataSettings.value_255` does not fit it."""
        marked = {
            path: seen
            for path, seen in sorted(self._seen.items())
            if not seen.black_and_white and any(white in seen.pixels for white in _WHITE_NUMBERS)
        }
        if not marked:
            return None
        pixels: collections.Counter[int] = collections.Counter()
        for seen in self._seen.values():
            if not seen.black_and_white:
                pixels.update(seen.pixels)
        white = sum(pixels.pop(value, 0) for value in _WHITE_NUMBERS)
        others = sorted(value for value in pixels if value)
        flag = "--config.data.value_255"
        if not others:
            if value_255 == "unknown":
                return (
                    "label maps hold only 0 and 255, so that with config.data.value_255=unknown"
                    f" nothing is left but class 0: set {flag}=class_1, which makes white class 1"
                )
            return (
                "label maps hold only 0 and 255, black and white, for example"
                f" {next(iter(marked))}: set {flag}=class_1, which makes white class 1 (0 stays"
                " class 0), here and for training"
            )
        if value_255 == "unknown":
            return None
        between = sum(pixels[value] for value in others)
        total = between + pixels[0] + white
        example = next(
            path
            for path, seen in sorted(self._seen.items())
            if not seen.black_and_white and others[-1] in seen.pixels
        )
        if len(others) >= 8 and others[-1] >= 128 and between <= 0.2 * total:
            return (
                f"label maps hold 0, 255 and {len(others)} grey levels between them, on"
                f" {between / total:.1%} of the pixels, for example {others[-1]} in {example}:"
                " masks of black and white whose edges were smoothed. Make them black and white"
                f" again (resize masks with nearest neighbour), and set {flag}=class_1"
            )
        listed = ", ".join(map(str, others[:8])) + (", ..." if len(others) > 8 else "")
        ways = [f"if it marks what is unknown (void), set {flag}=unknown, which makes it class 0"]
        if others == [1]:
            ways.append("if it is the same as 1, correct the maps")
        elif others[-1] >= 64 and 4 * len(others) < others[-1]:
            ways.append(
                f"if grey levels stand for classes ({others[-1]} in {example}), list them as"
                " colours in classes.txt, one class per line: NAME #RRGGBB"
            )
        return (
            f"{len(marked)} of {len(self._seen)} label maps hold 255, for example"
            f" {next(iter(marked))}, beside the class numbers 0, {listed}: {'; '.join(ways)}"
        )

    def _ask_for_list(self, classes: Path) -> str:
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
        rare = [colour for colour, count in pixels.items() if count < 1e-4 * pixels.total()]
        note = f" ({len(rare)} of them on hardly any pixel: {smoothed})" * (
            len(rare) > _MANY_COLOURS
        )
        lines = [
            f"class_{number} {show(colour)}"
            for number, (colour, _) in enumerate(pixels.most_common())
        ]
        return (
            f"List their colours in {classes}, one class per line, NAME #RRGGBB, and all maps are"
            f" read by colour. The first line is class 0, unknown. The maps hold {len(lines)}"
            f" colours{note}, most frequent first:\n" + "\n".join(lines)
        )


def _count(numbers: np.ndarray) -> dict[int, int]:
    """Pixels by value of an integer map."""
    if numbers.min() >= 0 and numbers.max() < 2**16:
        counts = np.bincount(numbers.ravel())
        return {int(number): int(counts[number]) for number in np.flatnonzero(counts)}
    values, counts = np.unique(numbers, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))
