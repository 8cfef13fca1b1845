"""The names of splits, and the lists of photographs that have them."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from cocosnet_jax.data import exemplars
from cocosnet_jax.data.source_files import read_text
from cocosnet_jax.errors import UserError

LISTS = {"train": "train.txt", "validation": "val.txt", "test": "test.txt"}
# What folders and lists call a split.
_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "development": "validation",
    "eval": "validation",
    "evaluation": "validation",
    "test": "test",
    "testing": "test",
}
# What seems to name a split, as `train_old` and `TrainSet` do, but `trains` does not.
_LIKE_A_SPLIT = re.compile(rf"(?i:(?:{'|'.join(_SPLIT_NAMES)})(?:set|split|data)?)(?![a-z])")


def split_of(name: str) -> str:
    """The split that a name means, in any case, as `val`, `val2017` or `valA`; empty if none."""
    return _SPLIT_NAMES.get(re.sub(r"[-_]?(\d+|A)$", "", name).lower(), "")


def seems_a_split(folder: str) -> bool:
    """Whether a folder's name starts with a split's and means none."""
    name = folder.lower() if folder.isupper() else folder
    return not split_of(folder) and _LIKE_A_SPLIT.match(name) is not None


def _lists_in(paths: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    """The split and the path of each file that its name makes a list of a split."""
    for path in sorted(paths):
        if path.suffix.lower() == ".txt" and (split := split_of(path.stem)) and path.is_file():
            yield split, path


def find_lists(root: Path) -> dict[str, Path]:
    """The lists in a dataset's folder by split, `train` first.

    Raises:
      UserError: a split has two.
    """
    found: dict[str, Path] = {}
    for split, path in _lists_in(root.iterdir()):
        if split in found:
            raise UserError(
                f"{found[split]} and {path} both list the {split} split; remove one of them"
            )
        found[split] = path
    return {split: found[split] for split in LISTS if split in found}


def read_lists(
    lists: Mapping[str, Path], every: Sequence[str], found: list[str]
) -> dict[str, list[str]]:
    """The keys in each list, of `every` key that there is; adds what is wrong to `found`."""
    index = exemplars.KeyIndex(every)
    keys_of = {}
    for split, path in lists.items():
        text = read_text(path)
        if not text.strip():
            found.append(f"{path} is empty: list photographs in it, one per line, or remove it")
        keys = []
        for number, line in enumerate(map(str.strip, text.splitlines()), 1):
            if not line:
                continue
            position = index.find(line)
            if position is None or position < 0:
                what = "no photograph" if position is None else "several photographs"
                found.append(f"{path}, line {number}: {line!r} means {what}")
            else:
                keys.append(every[position])
        keys_of[split] = list(dict.fromkeys(keys))
    return keys_of


def lists_elsewhere(root: Path, source: Path, known: Collection[str]) -> list[str]:
    """What is wrong with lists that do not lie in a dataset's folder.

    Args:
      root: that folder; folders in it are looked into, two deep.
      source: the folder that was named, `root` or the one above.
      known: the splits that are known otherwise; with any of them, `test` is not missed.
    """
    paths = [*root.glob("*/*.txt"), *root.glob("*/*/*.txt")]
    paths += source.glob("*.txt") if source != root else []
    return [
        f"{path} is not read, because lists lie right in the dataset's folder: move it to"
        f" {root / LISTS[split]}, or remove it"
        for split, path in _lists_in(paths)
        if split not in known and (split != "test" or not known)
    ]
