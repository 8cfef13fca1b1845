"""Exemplar lists: which photographs may serve as exemplar for which image (SPEC section 1).

A list is UTF-8 text, one line per image, `key,ref1,ref2,...`, best first. Names are paths relative
to the dataset, with or without leading folders and extension, or just a unique file name. Windows
line ends and backslashes are accepted.

Training, evaluation and translation follow one rule: a list pairs the images that it names, and
images without a line are left out. A list that names none of the images is an error. Lines for
absent images are ignored, so one list works for a dataset and for parts of it.
"""

import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from etils import epath

from cocosnet_jax import files
from cocosnet_jax.data import problems
from cocosnet_jax.errors import UserError

_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


class Line(NamedTuple):
    """One line of a list: its number, counted from 1, its image and the image's exemplars."""

    number: int
    key: str
    references: tuple[str, ...]


def read_list(path: str | os.PathLike[str]) -> list[Line]:
    """Reads a list file; empty lines are ignored, names are as written.

    Raises:
      UserError: the file is missing, empty or not UTF-8, or lines have no exemplar.
    """
    try:
        text = epath.Path(path).expanduser().read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"exemplar list {path} does not exist; check the name") from None
    except UnicodeDecodeError as error:
        raise UserError(f"exemplar list {path} is not UTF-8 text ({error}); convert it") from None
    except OSError as error:
        raise UserError(f"exemplar list {path} cannot be read: {error}") from None
    lines, wrong = [], []
    for number, row in enumerate(text.splitlines(), 1):
        key, *references = [name.strip() for name in row.split(",")]
        references = [name for name in references if name]
        if key and references:
            lines.append(Line(number, key, tuple(references)))
        elif row.strip():
            wrong.append(f"line {number}: {row!r} must be 'key,ref1,ref2,...'")
    if not lines and not wrong:
        wrong.append("the file is empty; write one line 'key,ref1,ref2,...' per image")
    problems.raise_if_any(f"exemplar list {path}", wrong)
    return lines


def write_list(path: str | os.PathLike[str], references: Mapping[str, Sequence[str]]) -> None:
    """Writes `key,ref1,ref2,...` lines in the order given; whole or not at all.

    Raises:
      StorageError: it cannot be written.
    """
    text = "".join(",".join([key, *names]) + "\n" for key, names in references.items())
    files.write(epath.Path(path), text.encode())


def problem_of_name(name: str) -> str | None:
    """Why a list cannot contain a photograph's name, or None if it can."""
    if not name.isprintable():
        return f"{name!r} cannot be written as text; rename it"
    if "," in name or name != name.strip():
        return (
            f"{name!r} contains a comma, or a space at its start or end, which exemplar lists"
            " cannot; rename it"
        )
    return None


def same_look(key: str) -> str | None:
    """The part of a name that all images in one look share; None without it.

    DeepFashion names views of one person in the same clothes `.../PERSON/NN_V_VIEW.jpg`, where NN
    counts the person's outfits; drawn scenes of one style are named `style-NN/...`.
    """
    match = re.fullmatch(r"(.*/id_\d+/\d+)_\d+_[^/]+|(style-\d+)/[^/]+", normalise(key))
    return match[1] or match[2] if match else None


def normalise(name: str) -> str:
    """The form of a name used to compare it: forward slashes, no leading `./` or `/`, NFC."""
    name = unicodedata.normalize("NFC", name.strip()).replace("\\", "/")
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _stem(name: str) -> str:
    root, extension = os.path.splitext(name)
    return root if extension.lower() in _EXTENSIONS else name


class KeyIndex:
    """Finds the position of a key by any name that a list may use for it."""

    def __init__(self, keys: Iterable[str]):
        # All trailing parts of all keys, with and without extension; -1: ambiguous.
        self._full: dict[str, int] = {}
        self._tail: dict[str, int] = {}
        for position, key in enumerate(keys):
            name = normalise(key)
            for form in {name, _stem(name)}:
                self._add(self._full, form, position)
                parts = form.split("/")
                for start in range(len(parts)):
                    self._add(self._tail, "/".join(parts[start:]), position)

    @staticmethod
    def _add(table: dict[str, int], name: str, position: int) -> None:
        if table.setdefault(name, position) != position:
            table[name] = -1

    def find(self, name: str) -> int | None:
        """The position of the key that `name` refers to; None: no key, -1: several."""
        name = normalise(name)
        for form in (name, _stem(name)):
            if (position := self._full.get(form)) is not None and position >= 0:
                return position
        for form in (name, _stem(name)):
            if (position := self._tail.get(form)) is not None:
                return position
            # Names in the list may start with folders above the dataset.
            parts = form.split("/")
            for start in range(1, len(parts)):
                if (position := self._full.get("/".join(parts[start:]))) is not None:
                    return position
        return None


class Pairing(NamedTuple):
    """A list, resolved to positions.

    Attributes:
      references: position of a listed image -> positions of its exemplars, best first; in the
        order of the images.
      ignored: number of lines for absent images.
    """

    references: dict[int, tuple[int, ...]]
    ignored: int


def resolve(
    path: str | os.PathLike[str],
    keys: Sequence[str],
    references: Sequence[str],
    *,
    first_only: bool = False,
    pass_missing: bool = False,
    place: str = "the dataset",
) -> Pairing:
    """Resolves a list file: the images it names, as positions in `keys`, and their exemplars.

    Args:
      path: the list file.
      keys: of the images.
      references: keys of the possible exemplars.
      first_only: read only the first exemplar of each line.
      pass_missing: ignore exemplars that are not in `references`.
      place: where the exemplars are, for messages.

    Raises:
      UserError: lists every line that names a missing or ambiguous exemplar, an ambiguous image,
        or an image that already has a line.
    """
    key_index = KeyIndex(keys)
    reference_index = key_index if references is keys else KeyIndex(references)
    resolved: dict[int, tuple[int, ...]] = {}
    first_line: dict[int, int] = {}
    wrong: list[str] = []
    ignored = 0
    ambiguous = "matches several images; add its folder to the name"
    for number, key, names in read_list(path):
        position = key_index.find(key)
        if position is None:
            ignored += 1
            continue
        if position < 0:
            wrong.append(f"line {number}: image {key!r} {ambiguous}")
            continue
        if position in resolved:
            wrong.append(
                f"line {number}: image {key!r} already has line {first_line[position]}; keep one"
                " of the two"
            )
            continue
        positions = []
        for name in names[:1] if first_only else names:
            reference = reference_index.find(name)
            if reference is None:
                if not pass_missing:
                    wrong.append(f"line {number}: exemplar {name!r} is not in {place}")
            elif reference < 0:
                wrong.append(f"line {number}: exemplar {name!r} {ambiguous}")
            else:
                positions.append(reference)
        resolved[position], first_line[position] = tuple(positions), number
    problems.raise_if_any(f"exemplar list {path}", wrong)
    return Pairing(dict(sorted(resolved.items())), ignored)


def require_match(
    path: str | os.PathLike[str], pairing: Pairing, keys: Sequence[str], what: str
) -> None:
    """Raises a `UserError` if a list names none of the images; `what` is their plural noun."""
    if not pairing.references:
        first = read_list(path)[0]
        raise UserError(
            f"exemplar list {path} names none of the {len(keys)} {what} ({keys[0]}, ...); its line"
            f" {first.number} is for {first.key!r}: use another list"
        )


def left_out_note(
    path: str | os.PathLike[str], pairing: Pairing, keys: Sequence[str], what: str
) -> str | None:
    """A line for the user about images without a line in a list; None if it names all of them."""
    missing = [key for position, key in enumerate(keys) if position not in pairing.references]
    if not missing:
        return None
    names = ", ".join(missing[:3]) + (", ..." if missing[3:] else "")
    line = (
        f"note: exemplar list {path} has lines for {len(pairing.references)} of the {len(keys)}"
        f" {what}; the other {len(missing)} are left out ({names})"
    )
    if pairing.ignored:
        line += f"; lines for absent images: {pairing.ignored}"
    return line
