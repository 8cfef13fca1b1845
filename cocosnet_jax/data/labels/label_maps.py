"""One's own label maps: which class each pixel has.

A map holds class numbers, or colours that `classes.txt` gives numbers. This file has one class per
line, from class 0 on; blank lines do not count:

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
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cocosnet_jax.data import images, problems
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import DataSettings

BLACK, WHITE = 0x000000, 0xFFFFFF
# The highest number of 8 bits and of 16.
WHITE_NUMBERS = (255, 65535)
_COLOUR = r"(?:#[0-9a-fA-F]{6}|\d{1,3}[\s,]+\d{1,3}[\s,]+\d{1,3})(?![^\s,:])"
_COLOUR_LAST = re.compile(rf"(\S.*?)[\s,:]+({_COLOUR}(?:[\s,]+{_COLOUR})*)")
_COLOUR_FIRST = re.compile(rf"({_COLOUR}(?:[\s,]+{_COLOUR})*)[\s,:]+(\S.*)")
_COLOUR_BEHIND = re.compile(rf"(?:^|[\s,:]){_COLOUR}$")
# What was meant to be a colour.
_MISTYPED = re.compile(r"(?:^|.*\s)#[0-9a-fA-F]{3,8}(?:\s.*|$)")
# What class numbers look like.
_DARK_GREYS = range(0, 0x404040, 0x010101)
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
            if "#" not in own and re.match(r"\d+[\s,]", name):
                wrong.append(
                    f"line {number}, {line!r}, has more than three numbers before its name; leave"
                    " class numbers out, or write NAME #RRGGBB"
                )
        elif match := _COLOUR_LAST.fullmatch(line):
            name, own = match.groups()
        elif re.fullmatch(_COLOUR, line):
            wrong.append(f"line {number}, {line!r}, has no name: write NAME COLOUR")
        elif _MISTYPED.fullmatch(line):
            wrong.append(f"line {number}, {line!r}, has no colour #RRGGBB of six digits")
        found = tuple(map(_colour, re.findall(_COLOUR, own)))
        if own and _COLOUR_BEHIND.search(name):
            wrong.append(f"line {number}, {line!r}, has colours before and behind a name")
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


def read(
    path: Path, classes: ClassList, value_255: str, unlisted: str, if_numbers: str = ""
) -> np.ndarray:
    """The class of each pixel of a label map.

    Args:
      path: its file.
      classes: whose colours the map has, if they have any.
      value_255: see `DataSettings`.
      unlisted: what errors say of colours that no class has: "which ...".
      if_numbers: what errors advise where these look like class numbers; if empty, to change the
        dataset's settings.

    Returns:
      (H, W) int32; not checked against the number of classes where the map holds numbers.

    Raises:
      UserError: the file cannot be read, or holds a colour that no class has.
    """
    if value_255 == "class_1":
        unlisted = (
            "but by config.data.value_255=class_1 label maps are black and white: correct the map"
            " (its edges must not be smoothed)"
        )
        other = "leave config.data.value_255 out, or set it to unknown"
        return _by_colour(path, {BLACK: 0, WHITE: 1}, unlisted, if_numbers or other)
    if classes.colours:
        numbers = {colour: number for number, own in enumerate(classes.colours) for colour in own}
        other = "take the colours out of classes.txt"
        return _by_colour(path, numbers, unlisted, if_numbers or other)
    return without_void(images.read_label_map(path), value_255)


def without_void(label: np.ndarray, value_255: str) -> np.ndarray:
    """A map of numbers, (H, W) int32, with class 0 in place of 255 where that is `unknown`."""
    if value_255 == "unknown":
        label[np.isin(label, WHITE_NUMBERS)] = 0
    return label


def _by_colour(
    path: Path, numbers: Mapping[int, int], unlisted: str, if_numbers: str
) -> np.ndarray:
    """The number of each pixel's colour; the last two are what an error says of other colours."""
    colours = images.read_colours(path)
    known = np.array(sorted(numbers), np.int32)
    places = np.minimum(np.searchsorted(known, colours), len(known) - 1)
    listed = known[places] == colours
    if not listed.all():
        counts = collections.Counter(colours[~listed].tolist()).most_common()
        shown = ", ".join(f"{show(colour)} ({count} pixels)" for colour, count in counts[:5])
        more = f" and {len(counts) - 5} more" if len(counts) > 5 else ""
        note = ""
        if len(counts) > _MANY_COLOURS:
            note = "; so many colours come from smoothed edges or JPEG compression"
        elif all(colour in _DARK_GREYS for colour, _ in counts):
            note = f"; if these are class numbers, {if_numbers}"
        raise UserError(f"{path} holds the colours {shown}{more}, {unlisted}{note}")
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
        colour = code_of(image.palette[number])
        if number in palette:
            differs, theirs = palette[number] != colour, f"{number} is {show(palette[number])}"
        else:
            other = number_of.get(colour)
            differs, theirs = other is not None, f"{show(colour)} is {other}"
        if differs:
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


def code_of(rgb: Iterable[int]) -> int:
    """A colour as one number, 0xRRGGBB."""
    red, green, blue = map(int, rgb)
    return (red << 16) + (green << 8) + blue


def check_same_colours(theirs: DataSettings, ours: DataSettings) -> None:
    """Raises a `UserError` where the colours of a class differ between a model and a dataset.

    Args:
      theirs: of the run that trained the model.
      ours: of the dataset as it is.
    """
    before, now = _colours_by_class(theirs), _colours_by_class(ours)
    for number in sorted(before.keys() & now.keys()):
        if before[number] != now[number]:
            raise UserError(
                f"class {number} of the label maps is {now[number]}, but was {before[number]} when"
                " the model was trained: set the colours back (classes.txt, or the maps' palette),"
                " or train another model in another --workdir"
            )


def _colours_by_class(data: DataSettings) -> dict[int, str]:
    if listed := parse_classes(data.classes, "config.data.classes").colours:
        return {number: " ".join(sorted(map(show, own))) for number, own in enumerate(listed)}
    return {number: show(colour) for number, colour in parse_palette(data.palette).items()}
