"""A dataset's own files: what there are, and whether they are still those that were prepared.

Two digests tell whether they are the same. The quick one is of names, sizes and times; where it is
the same, the files are. Where it is not, the other one decides, which is of names and content: a
copy of the same files is the same data, wherever and whenever it was made.
"""

import concurrent.futures
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tqdm

from cocosnet_jax.errors import UserError


def files_below(folder: str | Path, above: tuple[int, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every file below a folder with its size and time (`os.stat`), in alphabetical order.

    Links are followed, but not into a folder that one is in already (inode numbers `above`). A
    link to nothing counts as a file, so that whoever reads it says so.
    """
    here = (*above, os.stat(folder).st_ino)
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_dir():
                if entry.stat().st_ino not in here:
                    yield from files_below(entry.path, here)
            elif entry.is_file() or entry.is_symlink():
                yield entry.path, entry.stat(follow_symlinks=entry.is_file())


def read_text(path: Path) -> str:
    """A text file; raises a `UserError`."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as UTF-8 text ({error}); replace it") from None


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
