"""The names of splits, and lists of their photographs."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from cocosnet_jax.data import exemplars
from cocosnet_jax.data.source_files import read_text
from cocosnet_jax.errors import UserError

LISTS = {"train": "train.txt", "validation": "val.txt", "test": "test.txt"}
# Accepted names of folders and lists -> split.
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
# Names that resemble a split's, such as `train_old` and `TrainSet`, but not `trains`.
_LIKE_A_SPLIT = re.compile(rf"(?i:(?:{'|'.join(_SPLIT_NAMES)})(?:set|split|data)?)(?![a-z])")


def split_of(name: str) -> str:
    """The split of a name such as `val`, `Val`, `val2017` or `valA`; empty if none."""
    return _SPLIT_NAMES.get(re.sub(r"[-_]?(\d+|A)$", "", name).lower(), "")


def seems_a_split(folder: str) -> bool:
    """Whether a folder's name starts like a split's but is none."""
    name = folder.lower() if folder.isupper() else folder
    return not split_of(folder) and _LIKE_A_SPLIT.match(name) is not None


def _lists_in(paths: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    """The split and the path of each file whose name makes it a list of a split."""
    for path in sorted(paths):
        if path.suffix.lower() == ".txt" and (split := split_of(path.stem)) and path.is_file():
            yield split, path


def find_lists(root: Path) -> dict[str, Path]:
    """The lists in a dataset's folder by split, `train` first.

    Raises:
      UserError: a split has two lists.
    """
    lists: dict[str, Path] = {}
    for split, path in _lists_in(root.iterdir()):
        if split in lists:
            raise UserError(
                f"{lists[split]} and {path} both list the {split} split; remove one of them"
            )
        lists[split] = path
    return {split: lists[split] for split in LISTS if split in lists}


def read_lists(
    lists: Mapping[str, Path], all_keys: Sequence[str], faults: list[str]
) -> dict[str, list[str]]:
    """Reads the keys in each list; names refer to `all_keys`; appends problems to `faults`."""
    index = exemplars.KeyIndex(all_keys)
    keys_of = {}
    for split, path in lists.items():
        text = read_text(path)
        if not text.strip():
            faults.append(f"{path} is empty; list photographs in it, one per line, or remove it")
        keys = []
        for number, line in enumerate(map(str.strip, text.splitlines()), 1):
            if not line:
                continue
            position = index.find(line)
            if position is None or position < 0:
                what = "no photograph" if position is None else "several photographs"
                faults.append(f"{path}, line {number}: {line!r} matches {what}; correct the name")
            else:
                keys.append(all_keys[position])
        keys_of[split] = list(dict.fromkeys(keys))
    return keys_of


def lists_elsewhere(root: Path, source: Path, known: Collection[str]) -> list[str]:
    """Problems of split lists that are not directly in a dataset's folder.

    Args:
      root: that folder, searched two levels deep.
      source: the folder that the user named, `root` or the one above.
      known: the splits that are already defined; with any of them, a `test` list is not reported.
    """
    paths = [*root.glob("*/*.txt"), *root.glob("*/*/*.txt")]
    paths += source.glob("*.txt") if source != root else []
    return [
        f"{path} is in the wrong place, since lists must be in the dataset's folder; move it to"
        f" {root / LISTS[split]}, or remove it"
        for split, path in _lists_in(paths)
        if split not in known and (split != "test" or not known)
    ]
