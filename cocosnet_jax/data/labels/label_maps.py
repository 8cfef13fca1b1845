"""The user's own label maps: reads the class of each pixel.

A map contains class numbers, or colours that `classes.txt` maps to classes. This file has one class
per line, starting with class 0; blank lines are ignored:

    NAME                    maps contain class numbers
    NAME COLOUR             maps are read by colour, whether in colour, grey or with a palette
    NAME COLOUR COLOUR      several colours are one class
    COLOUR NAME

A colour is `#RRGGBB` or three numbers from 0 to 255, separated by spaces or commas. A name may
contain spaces. Either all classes have colours or none.
"""

import collections
import functools
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from cocosnet_jax.data import images, problems
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import DataSettings

BLACK, WHITE = 0x000000, 0xFFFFFF
# White in 8 and in 16 bits.
WHITE_NUMBERS = (255, 65535)
_COLOUR = r"(?:#[0-9a-fA-F]{6}|\d{1,3}[\s,]+\d{1,3}[\s,]+\d{1,3})(?![^\s,:])"
_COLOUR_LAST = re.compile(rf"(\S.*?)[\s,:]+({_COLOUR}(?:[\s,]+{_COLOUR})*)")
_COLOUR_FIRST = re.compile(rf"({_COLOUR}(?:[\s,]+{_COLOUR})*)[\s,:]+(\S.*)")
_COLOUR_BEHIND = re.compile(rf"(?:^|[\s,:]){_COLOUR}$")
# Probably meant as a colour.
_MISTYPED = re.compile(r"(?:^|.*\s)#[0-9a-fA-F]{3,8}(?:\s.*|$)")
# Colours that look like class numbers.
_DARK_GREYS = range(0, 0x404040, 0x010101)
# More unlisted colours than this come from smoothing or compression.
_MANY_COLOURS = 16


class ClassList(NamedTuple):
    """The classes of `classes.txt`; empty without it.

    Attributes:
      names: the name of each class.
      colours: the colours of each class, red * 65536 + green * 256 + blue; empty if maps contain
        numbers.
    """

    names: tuple[str, ...] = ()
    colours: tuple[tuple[int, ...], ...] = ()

    def text(self) -> str:
        """The inverse of `parse_classes`."""
        colours = self.colours or [()] * len(self.names)
        return "\n".join(
            " ".join([name, *map(show, own)]) for name, own in zip(self.names, colours, strict=True)
        )


def show(colour: int) -> str:
    """A colour as `#RRGGBB`."""
    return f"#{colour:06X}"


@functools.lru_cache(maxsize=4)
def parse_classes(text: str, where: str) -> ClassList:
    """Parses a list of classes.

    Args:
      text: in the format of `classes.txt`, see above.
      where: where the text is from, for messages.

    Raises:
      UserError: lists all invalid lines.
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
                    f"line {number}, {line!r}, has more than three numbers before the name; leave"
                    " out class numbers, or write NAME #RRGGBB"
                )
        elif match := _COLOUR_LAST.fullmatch(line):
            name, own = match.groups()
        elif re.fullmatch(_COLOUR, line):
            wrong.append(f"line {number}, {line!r}, has no name; write NAME COLOUR")
        elif _MISTYPED.fullmatch(line):
            wrong.append(
                f"line {number}, {line!r}, has an invalid colour; write six digits, #RRGGBB"
            )
        codes = tuple(map(_colour, re.findall(_COLOUR, own)))
        if own and _COLOUR_BEHIND.search(name):
            wrong.append(
                f"line {number}, {line!r}, has colours before and after the name; write them on one"
                " side"
            )
        if -1 in codes:
            wrong.append(f"line {number}, {line!r}, has a number above 255 in its colour")
        names.append(name)
        colours.append(codes)
        # Without colours, names may repeat, since nothing refers to them.
        entries: list[int | str] = [*codes, name] if codes else []
        for entry in entries:
            if (other := line_of.setdefault(entry, number)) != number:
                what = show(entry) if isinstance(entry, int) else repr(entry)
                wrong.append(
                    f"{what} is in line {other} and in line {number}; write each class on one line,"
                    " with all of its colours, and each colour once"
                )
    without = [name for name, own in zip(names, colours, strict=True) if not own]
    if 0 < len(without) < len(names) and not wrong:
        wrong.append(
            f"{without[0]!r} has no colour, but {len(names) - len(without)} other classes have;"
            " give every class a colour (NAME #RRGGBB), or none"
        )
    problems.raise_if_any(where, wrong)
    return ClassList(tuple(names), tuple(colours) if any(colours) else ())


def _colour(text: str) -> int:
    """Parses a colour; -1 if a number is above 255."""
    if text.startswith("#"):
        return int(text[1:], 16)
    red, green, blue = map(int, re.findall(r"\d+", text))
    return (red << 16) + (green << 8) + blue if max(red, green, blue) < 256 else -1


def read(
    path: images.FileName, classes: ClassList, value_255: str, unlisted: str, if_numbers: str = ""
) -> images.ClassMap:
    """Reads the class of each pixel of a label map.

    Args:
      path: its file.
      classes: the classes; if they have colours, the map is read by colour.
      value_255: see `DataSettings`.
      unlisted: end of the message about unlisted colours: "which ...".
      if_numbers: advice of that message if the colours look like class numbers; by default, to
        change the dataset's settings.

    Returns:
      (H, W) int32; class numbers are not checked against the number of classes.

    Raises:
      UserError: the file cannot be read, or contains a colour that no class has.
    """
    if value_255 == "class_1":
        unlisted = (
            "but config.data.value_255=class_1 requires black and white maps; correct the map (its"
            " edges must not be smoothed)"
        )
        other = "leave out config.data.value_255, or set it to unknown"
        return _by_colour(path, {BLACK: 0, WHITE: 1}, unlisted, if_numbers or other)
    if classes.colours:
        numbers = {colour: number for number, own in enumerate(classes.colours) for colour in own}
        other = "remove the colours from classes.txt"
        return _by_colour(path, numbers, unlisted, if_numbers or other)
    return without_void(images.read_label_map(path), value_255)


def without_void(label: images.ClassMap, value_255: str) -> images.ClassMap:
    """Replaces 255 by class 0 in a map of numbers, (H, W) int32, if `value_255` is `unknown`."""
    if value_255 == "unknown":
        label[np.isin(label, WHITE_NUMBERS)] = 0
    return label


def _by_colour(
    path: images.FileName, numbers: Mapping[int, int], unlisted: str, if_numbers: str
) -> images.ClassMap:
    """The class number of each pixel's colour; the last two arguments are as in `read`."""
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
            note = "; this many colours usually come from smoothed edges or JPEG compression"
        elif all(colour in _DARK_GREYS for colour, _ in counts):
            note = f"; if these are class numbers, {if_numbers}"
        raise UserError(f"{path} contains the colours {shown}{more}, {unlisted}{note}")
    return np.array([numbers[colour] for colour in known.tolist()], np.int32)[places]


def check_palette(path: images.FileName, palette: Mapping[int, int], where: str) -> None:
    """Raises a `UserError` if a palette image contradicts `palette`.

    Args:
      path: the image; one without a palette is accepted.
      palette: colours by class number.
      where: what has that palette, for the message.
    """
    image = images.read_label_image(path)
    if image.palette is None:
        return
    number_of = {colour: number for number, colour in palette.items()}
    for number in np.unique(image.numbers).tolist():
        colour = code_of(image.palette[number])
        if number in palette:
            differs, expected = palette[number] != colour, f"{number} is {show(palette[number])}"
        else:
            other = number_of.get(colour)
            differs, expected = other is not None, f"{show(colour)} is {other}"
        if differs:
            raise UserError(
                f"the palette of {path} differs from that of {where}: here {number} is"
                f" {show(colour)}, there {expected}; save the map with the palette of {where}, or"
                " its class numbers as an 8-bit grey PNG"
            )


def palette_text(palette: Mapping[int, int]) -> str:
    """A palette as text, `NUMBER #RRGGBB` per line."""
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
    """Raises a `UserError` if a class has different colours in a model and a dataset.

    Args:
      theirs: the data settings of the model's training.
      ours: the data settings of the dataset.
    """
    before, now = _colours_by_class(theirs), _colours_by_class(ours)
    for number in sorted(before.keys() & now.keys()):
        if before[number] != now[number]:
            raise UserError(
                f"class {number} is {now[number]} in the label maps, but was {before[number]} when"
                " the model was trained; restore the colours (classes.txt, or the maps' palette),"
                " or train a new model in another --workdir"
            )


def _colours_by_class(data: DataSettings) -> dict[int, str]:
    if listed := parse_classes(data.classes, "config.data.classes").colours:
        return {number: " ".join(sorted(map(show, own))) for number, own in enumerate(listed)}
    return {number: show(colour) for number, colour in parse_palette(data.palette).items()}
