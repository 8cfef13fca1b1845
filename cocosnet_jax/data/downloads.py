"""Recognises downloads that are easily mistaken for the required one."""

import itertools
import os
import re
from pathlib import Path

_FULL_ADE20K = re.compile(r"(?:^|/)ADE_(?:train|val|frame)_\d+_seg\.png")
# The folder may be anything, and large; so many names suffice.
_MAX_FILES = 20_000


def is_full_ade20k_label(name: str) -> bool:
    """Whether a file is named like a label map of the full ADE20K."""
    return _FULL_ADE20K.search(name) is not None


def full_ade20k_message(path: str | Path) -> str:
    """The message for `path`, a label map of the full ADE20K."""
    return (
        f"{path} belongs to the full ADE20K, whose label maps encode objects and parts in colour,"
        " which cannot be read here; use configs/ade20k.py with the scene parsing challenge's"
        " ADEChallengeData2016 (150 classes):"
        " http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip"
    )


def wrong_download(folder: Path) -> str | None:
    """The message if a folder holds a known wrong download, or None."""
    names = (os.path.join(above, name) for above, _, names in os.walk(folder) for name in names)
    for name in itertools.islice(names, _MAX_FILES):
        if is_full_ade20k_label(name):
            return full_ade20k_message(name)
        if "img_align_celeba" in name:
            return (
                f"{name} belongs to CelebA, which has no masks; use CelebAMask-HQ:"
                " https://github.com/switchablenorms/CelebAMask-HQ"
            )
    return None
