"""Whether a dataset's own files are still those that were prepared.

Two digests tell. The quick one is of names, sizes and times; where it is the same, the files are.
Where it is not, the other one decides, which is of names and content: a copy of the same files is
the same data, wherever and whenever it was made.
"""

import concurrent.futures
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import tqdm


def quick_digest(folder: Path, paths: Sequence[Path]) -> str:
    """Of names below `folder`, sizes and times; reads no file."""
    digest = hashlib.sha256()
    for path in paths:
        seen = path.stat() if path.exists() else None
        # The second time is the system's own, which no program sets back.
        facts = (seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns) if seen else None
        digest.update(f"{os.fsencode(path.relative_to(folder))!r} {facts}\n".encode())
    return digest.hexdigest()


def content_digest(folder: Path, paths: Sequence[Path]) -> str:
    """Of names below `folder` and all bytes; on all cores, with progress."""
    digest = hashlib.sha256()
    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
    try:
        contents = pool.map(_digest_of, paths)
        progress = tqdm.tqdm(contents, total=len(paths), desc="comparing files", unit=" files")
        for path, content in zip(paths, progress, strict=True):
            digest.update(f"{os.fsencode(path.relative_to(folder))!r} {content}\n".encode())
    finally:
        # On Ctrl-C, the files that are still waiting are not read first.
        pool.shutdown(cancel_futures=True)
    return digest.hexdigest()


def changed_after(paths: Sequence[Path], second: int) -> bool:
    """Whether a file, or a folder that files were added to or taken from, is newer."""
    places = {*paths, *(path.parent for path in paths)}
    return any(int(place.stat().st_mtime) > second for place in places if place.exists())


def _digest_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""  # A link to nothing.
