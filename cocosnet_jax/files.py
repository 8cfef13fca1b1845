"""Small files, written whole or not at all."""

from etils import epath

from cocosnet_jax.errors import StorageError


def write(path: epath.Path, content: bytes) -> None:
    """Writes a file; folders above it are made, and a file in its place stays until it is whole.

    Raises:
      StorageError: it cannot be written.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(content)
            partial.replace(path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written ({error}); make room, or choose another place"
        ) from error
