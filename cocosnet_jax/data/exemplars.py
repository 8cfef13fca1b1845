"""Exemplar lists: which photographs may serve as exemplar for which image (SPEC section 1).

A list is UTF-8 text, one line per image, `key,ref1,ref2,...`, best first. Names are paths relative
to the dataset, with or without leading folders and extension, or just a unique file name. Windows
line ends and backslashes are read as they are.

One rule holds in training, evaluation and translation: a list pairs the images that it names, and
images without a line are left out. A list that names none of the images is an error. Lines for
images that are not there are passed over, so that one list serves a dataset and parts of it.
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
    """The lines of a list file; empty lines are passed over, names are as written.

    Raises:
      UserError: the file is missing, empty or not UTF-8, or lines name no exemplar.
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
            wrong.append(f"line {number}: {row!r} is not 'key,ref1,ref2,...'")
    if not lines and not wrong:
        wrong.append("it is empty; write one line 'key,ref1,ref2,...' per image")
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
    """Why no list can hold a photograph's name, or None."""
    if not name.isprintable():
        return f"{name!r} cannot be written as text; rename it"
    if "," in name or name != name.strip():
        return f"{name!r} has a comma or a space at its end, which lists cannot hold; rename it"
    return None


def same_look(key: str) -> str | None:
    """What the names of all images in one look share; None where a name does not tell.

    DeepFashion's views of one person in the same clothes are named `.../PERSON/NN_V_VIEW.jpg`,
    where NN counts the person's outfits; drawn scenes of one style `style-NN/...`.
    """
    match = re.fullmatch(r"(.*/id_\d+/\d+)_\d+_[^/]+|(style-\d+)/[^/]+", normalise(key))
    return match[1] or match[2] if match else None


def normalise(name: str) -> str:
    """A name as it is compared: forward slashes, no leading `./` or `/`, composed Unicode."""
    name = unicodedata.normalize("NFC", name.strip()).replace("\\", "/")
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _stem(name: str) -> str:
    root, extension = os.path.splitext(name)
    return root if extension.lower() in _EXTENSIONS else name


class KeyIndex:
    """Finds the position of a key by any of the names that a list may use for it."""

    def __init__(self, keys: Iterable[str]):
        # Every trailing part of every key, with and without extension; -1 where it is ambiguous.
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
        """The position of the key that `name` means; None if there is none, -1 if several."""
        name = normalise(name)
        for form in (name, _stem(name)):
            if (position := self._full.get(form)) is not None and position >= 0:
                return position
        for form in (name, _stem(name)):
            if (position := self._tail.get(form)) is not None:
                return position
            # The list's folders may begin above the dataset's.
            parts = form.split("/")
            for start in range(1, len(parts)):
                if (position := self._full.get("/".join(parts[start:]))) is not None:
                    return position
        return None


class Pairing(NamedTuple):
    """What a list says of the images that are there.

    Attributes:
      references: position of each image that the list names -> positions of its exemplars, best
        first; in the order of the images.
      passed_over: how many lines are for images that are not there.
    """

    references: dict[int, tuple[int, ...]]
    passed_over: int


def resolve(
    path: str | os.PathLike[str],
    keys: Sequence[str],
    references: Sequence[str],
    *,
    first_only: bool = False,
    pass_missing: bool = False,
    place: str = "the dataset",
) -> Pairing:
    """A list file as positions: of each image in `keys` that it names, exemplars in `references`.

    Args:
      path: the list file.
      keys: of the images.
      references: keys of what may be an exemplar.
      first_only: read only the first exemplar of each line.
      pass_missing: also pass over exemplars that are not in `references`.
      place: where the exemplars are, for messages.

    Raises:
      UserError: lists every line that names a missing or ambiguous exemplar, an ambiguous image,
        or an image that an earlier line has named.
    """
    key_index = KeyIndex(keys)
    reference_index = key_index if references is keys else KeyIndex(references)
    resolved: dict[int, tuple[int, ...]] = {}
    first_line: dict[int, int] = {}
    wrong: list[str] = []
    passed_over = 0
    ambiguous = "means several images; write its folder as well"
    for number, key, names in read_list(path):
        position = key_index.find(key)
        if position is None:
            passed_over += 1
            continue
        if position < 0:
            wrong.append(f"line {number}: image {key!r} {ambiguous}")
            continue
        if position in resolved:
            wrong.append(
                f"line {number}: image {key!r} was named in line {first_line[position]} already"
            )
            continue
        found = []
        for name in names[:1] if first_only else names:
            reference = reference_index.find(name)
            if reference is None:
                if not pass_missing:
                    wrong.append(f"line {number}: exemplar {name!r} is not in {place}")
            elif reference < 0:
                wrong.append(f"line {number}: exemplar {name!r} {ambiguous}")
            else:
                found.append(reference)
        resolved[position], first_line[position] = tuple(found), number
    problems.raise_if_any(f"exemplar list {path}", wrong)
    return Pairing(dict(sorted(resolved.items())), passed_over)


def require_any(
    path: str | os.PathLike[str], pairing: Pairing, keys: Sequence[str], what: str
) -> None:
    """Raises a `UserError` where a list names none of the images, `what` in the plural."""
    if not pairing.references:
        first = read_list(path)[0]
        raise UserError(
            f"exemplar list {path} names none of the {len(keys)} {what} ({keys[0]}, ...): line"
            f" {first.number} is for {first.key!r}; name another list"
        )


def left_out(
    path: str | os.PathLike[str], pairing: Pairing, keys: Sequence[str], what: str
) -> str | None:
    """One line that says which images a list leaves out; None where it names all of them."""
    missing = [key for position, key in enumerate(keys) if position not in pairing.references]
    if not missing:
        return None
    names = ", ".join(missing[:3]) + (", ..." if missing[3:] else "")
    line = (
        f"note: exemplar list {path} has lines for {len(pairing.references)} of the {len(keys)}"
        f" {what}; left out, without a line: {len(missing)} ({names})"
    )
    if pairing.passed_over:
        line += f"; lines for images that are not there: {pairing.passed_over}"
    return line
