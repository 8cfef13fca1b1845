"""Writes small files atomically, and checks paths: where they are, and if they can be written."""

import hashlib
import importlib.util
import os
import uuid
from pathlib import Path

from etils import epath

from cocosnet_jax.errors import StorageError, UserError


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether a path is in a bucket, such as `gs://BUCKET/FOLDER` (pathlib would corrupt it)."""
    return "://" in os.fspath(path)


def local(path: str | os.PathLike[str], name: str) -> Path:
    """Returns a path on this machine, with `~` expanded.

    Args:
      path: as the user wrote it.
      name: of its flag or setting.

    Raises:
      UserError: it is in a bucket.
    """
    if is_url(path):
        raise UserError(
            f"{name}={os.fspath(path)} is in a bucket, but must be on this machine; copy it (gcloud"
            " storage cp -r), or mount the bucket (gcsfuse)"
        )
    return Path(path).expanduser()


def check_bucket(path: str | os.PathLike[str]) -> None:
    """Checks that this program can use the bucket that a path is in.

    Raises:
      UserError: it is not Google's, a package is missing, or it cannot be reached.
    """
    if not os.fspath(path).startswith("gs://"):
        raise UserError(
            f"{os.fspath(path)} is in a bucket of a kind that is not supported; use gs://BUCKET/..."
            " (Google Cloud Storage), or a folder on this machine"
        )
    # Orbax imports it late, when the first checkpoint is looked for.
    if importlib.util.find_spec("google.cloud") is None or not importlib.util.find_spec(
        "google.cloud.storage"
    ):
        raise UserError(
            f"{os.fspath(path)} needs the package google-cloud-storage, which is not installed:"
            " pip install google-cloud-storage"
        )
    try:
        epath.Path(path).exists()
    # TensorFlow's errors are not OSErrors.
    except Exception as error:
        raise UserError(
            f"{os.fspath(path)} cannot be reached: {str(error).splitlines()[0]}. Check the bucket's"
            " name, the network, and that this machine may read it (gcloud auth"
            " application-default login, or its service account)"
        ) from error


def probe(folder: str | os.PathLike[str]) -> tuple[Path, OSError | None]:
    """Tries to write to a folder on this machine, or to its nearest parent that exists.

    Permission bits do not tell: root may write to them, but not to a read-only file system.

    Returns:
      The folder that was tried (or a file in its place), and the error; None if it can be written
      to.
    """
    existing = Path(folder)
    # Unlike Path.exists, this takes a folder in one that cannot be entered for missing.
    while not os.path.exists(existing) and existing != existing.parent:
        existing = existing.parent
    # A unique name, because processes of several machines may probe the same folder.
    file = existing / f".cocosnet-{uuid.uuid4().hex}"
    try:
        file.touch()
        file.unlink()
    except OSError as error:
        return existing, error
    return existing, None


def write(path: epath.Path, content: bytes) -> None:
    """Writes a file atomically, and creates its folder.

    Raises:
      StorageError: it cannot be written.
    """
    if is_url(path):
        # A bucket shows an object only when it is whole.
        try:
            path.write_bytes(content)
        # TensorFlow's errors are not OSErrors.
        except Exception as error:
            raise StorageError(
                f"{path} cannot be written ({error}); check that the bucket exists and that this"
                " machine may write to it"
            ) from error
        return
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(content)
            partial.replace(path)
        except BaseException:  # Ctrl-C as well
            partial.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written ({error}); free some space, or choose another folder"
        ) from error


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content in hexadecimal, which says exactly which file it was.

    Raises:
      UserError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
