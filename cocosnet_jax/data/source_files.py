"""A dataset's own files: lists them, and detects changes since preparation.

Two digests detect changes. The quick one covers names, sizes and times; if it is unchanged, so are
the files. Otherwise the second one decides, which covers names and content: a copy of the same
files is the same data, wherever and whenever it was made.
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
    """Every file below a folder with its `os.stat` result, in alphabetical order.

    Links are followed, except to a folder above (inode numbers `above`). A broken link counts as a
    file, so that reading it reports the problem.
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
    """Reads a UTF-8 text file; raises a `UserError` if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as UTF-8 text ({error}); replace it") from None


def quick_digest(folder: Path, paths: Sequence[Path]) -> str:
    """Digest of names below `folder`, sizes and times; reads no file."""
    digest = hashlib.sha256()
    for path in paths:
        stat = path.stat() if path.exists() else None
        # Programs can set mtime back, but not ctime.
        facts = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) if stat else None
        digest.update(f"{os.fsencode(path.relative_to(folder))!r} {facts}\n".encode())
    return digest.hexdigest()


def content_digest(folder: Path, paths: Sequence[Path]) -> str:
    """Digest of names below `folder` and all bytes; on all cores, with progress."""
    digest = hashlib.sha256()
    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
    try:
        contents = pool.map(_digest_of, paths)
        progress = tqdm.tqdm(contents, total=len(paths), desc="comparing files", unit=" files")
        for path, content in zip(paths, progress, strict=True):
            digest.update(f"{os.fsencode(path.relative_to(folder))!r} {content}\n".encode())
    finally:
        # On Ctrl-C, do not read the remaining files first.
        pool.shutdown(cancel_futures=True)
    return digest.hexdigest()


def changed_after(paths: Sequence[Path], second: int) -> bool:
    """Whether a file or its folder (where files were added or removed) changed after `second`."""
    places = {*paths, *(path.parent for path in paths)}
    return any(int(place.stat().st_mtime) > second for place in places if place.exists())


def _digest_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""  # A broken link.
