"""Downloads that are easily taken for the one that is needed."""

import itertools
import os
import re
from pathlib import Path

_FULL_ADE20K = re.compile(r"(?:^|/)ADE_(?:train|val|frame)_\d+_seg\.png")
# What there is to see is seen early; the folder may be anything, and large.
_LOOKED_AT = 20_000


def of_full_ade20k(name: str) -> bool:
    """Whether a file's name is that of a label map of the full ADE20K."""
    return _FULL_ADE20K.search(name) is not None


def full_ade20k(path: str | Path) -> str:
    """What to say where `path` is a label map of the full ADE20K."""
    return (
        f"{path} is of the full ADE20K, whose label maps code objects and parts in colour; what is"
        " read is the scene parsing challenge's ADEChallengeData2016, with 150 classes, by"
        " configs/ade20k.py: http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip"
    )


def mistaken(folder: Path) -> str | None:
    """What a folder holds instead of the dataset that was looked for in it, where that is known."""
    names = (os.path.join(above, name) for above, _, names in os.walk(folder) for name in names)
    for name in itertools.islice(names, _LOOKED_AT):
        if of_full_ade20k(name):
            return full_ade20k(name)
        if "img_align_celeba" in name:
            return (
                f"{name} is of CelebA, which has no masks; CelebA-HQ with masks is CelebAMask-HQ:"
                " https://github.com/switchablenorms/CelebAMask-HQ"
            )
    return None
