"""The folder of a run: checks that a run may use it, and locks it.

settings.json   the run's settings; a run with other settings may not use the folder
.in_use         locked while a run uses the folder; contains its process number
checkpoints/    see `cocosnet_jax.checkpoint`
best/           the best checkpoint, and best.json its number; see `cocosnet_jax.best`
tensorboard/    losses, speed and pictures
pictures/       the same pictures as PNG files
goodput.json    time of the steps up to each checkpoint; see `cocosnet_jax.watching`
profile/        traces of steps (`train.profile`)
stacks_*.txt    what the threads of a process did when it hung; see `cocosnet_jax.watchdog`
evaluation/     results of `--mode=evaluate`
"""

import contextlib
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator

from etils import epath

from cocosnet_jax import distributed, files, integrity
from cocosnet_jax import settings as settings_lib
from cocosnet_jax.checkpoint import absolute
from cocosnet_jax.data.labels import label_maps
from cocosnet_jax.errors import StorageError, UserError
from cocosnet_jax.settings import Settings

_FILE = "settings.json"
_LOCK = ".in_use"


def check(workdir: str, settings: Settings, *, evaluates: bool = False) -> epath.Path:
    """Checks that a run with these settings may use the folder; changes nothing.

    Args:
      workdir: of the run.
      settings: of the run.
      evaluates: whether it only evaluates, possibly on another number of devices, so that the batch
        of its training may differ.

    Returns:
      The folder's absolute path.

    Raises:
      UserError: it belongs to another run, or cannot be written to.
    """
    folder = absolute(workdir)
    if files.is_url(workdir):
        _check_bucket_writable(folder)
    else:
        check_writable(folder, "workdir")
    file = folder / _FILE
    differences: dict[str, str] = {}
    if file.exists():
        differences = settings_lib.differences(_read(file), settings, "on_resume")
    if evaluates:
        differences.pop("train.batch_size", None)
    if differences:
        lines = [f"{field}: {values}" for field, values in differences.items()]
        raise UserError(
            f"--workdir={workdir} contains a run with other settings. Restore them, or choose"
            f" another --workdir, where --init_from={workdir} can start from this run's weights."
            " Different settings (in the workdir, now):\n  " + "\n  ".join(lines)
        )
    # Another user's run may have made these.
    for name in ("checkpoints", "best"):
        if "://" not in workdir and (folder / name).exists():
            check_writable(folder / name, "workdir")
    return folder


def _read(file: epath.Path) -> Settings:
    """Reads settings; raises UserError if the file is damaged or from another version."""
    try:
        return settings_lib.from_json(file.read_text())
    except OSError as error:
        raise UserError(
            f"{file} cannot be read: {error.strerror}; change its permissions"
        ) from error
    except ValueError as error:
        raise UserError(
            f"{file} is damaged: it is not JSON ({error}); restore it from a copy, or choose"
            " another --workdir"
        ) from error
    except UserError as error:
        raise UserError(
            f"{file} is from another version of this program ({error}); use that version, or choose"
            " another --workdir"
        ) from error


def settings_of(folder: epath.Path) -> Settings:
    """The settings of the run in a folder.

    Raises:
      UserError: it has none, or they are damaged or from another version.
    """
    file = folder / _FILE
    if not file.exists():
        raise UserError(
            f"{folder} has no {_FILE}, which describes its data; first evaluate it by"
            " `python -m cocosnet_jax.main --mode=evaluate` with its config"
        )
    return _read(file)


def check_colours(folder: epath.Path, settings: Settings) -> None:
    """Raises UserError if the run in the folder was trained with other class colours."""
    if (file := folder / _FILE).exists():
        label_maps.check_same_colours(_read(file).data, settings.data)


def check_writable(folder: epath.Path, flag: str) -> None:
    """Raises UserError unless a folder, or its nearest existing parent, can be written to."""
    existing, error = files.probe(folder)
    if not existing.is_dir():
        raise UserError(f"--{flag}={folder}: {existing} is a file; choose another --{flag}")
    if error is not None:
        raise UserError(
            f"--{flag}={folder} cannot be written to: {error.strerror} in {existing}; choose"
            f" another --{flag} or change its permissions"
        ) from error


def _check_bucket_writable(folder: epath.Path) -> None:
    """Raises UserError unless the workdir can be read from a bucket and written to it."""
    probe = folder / f".cocosnet-{uuid.uuid4().hex}"
    try:
        probe.write_bytes(b"")
        probe.unlink()
    # TensorFlow's errors are not OSErrors.
    except Exception as error:
        raise UserError(
            f"--workdir={folder} cannot be written to: {str(error).splitlines()[0]}. Check the"
            " bucket's name, and that this machine may write to it (gcloud auth"
            " application-default login, or its service account)"
        ) from error


@contextlib.contextmanager
def in_use(folder: epath.Path) -> Iterator[None]:
    """Locks the folder for this process, to keep other runs out.

    Buckets, and file systems without locks, are not locked.

    Raises:
      UserError: another run uses the folder, or it cannot be written to.
    """
    if "://" in os.fspath(folder):
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = open(folder / _LOCK, "a+")  # noqa: SIM115
    except OSError as error:
        raise UserError(
            f"{folder / _LOCK} cannot be written: {error.strerror}; change its permissions, or"
            " choose another --workdir"
        ) from error
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise UserError(
                f"--workdir={folder} is in use by process {file.read().strip() or '?'}; stop that"
                " run, or choose another --workdir"
            ) from error
        except OSError:
            pass  # The file system has no locks.
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def check_space(folder: epath.Path, settings: Settings, size: int) -> None:
    """Checks that the disk has space for the checkpoints of a run; warns if it may not suffice.

    Args:
      folder: the workdir, which exists.
      settings: of the run.
      size: of a checkpoint in bytes.

    Raises:
      StorageError: not even one fits.
    """
    if files.is_url(folder):
        return
    free = shutil.disk_usage(folder).free
    missing = missing_checkpoints(folder, settings)
    have = f"the disk of {folder} has {_gigabytes(free)} free"
    if free < size:
        raise StorageError(
            f"{have}, but a checkpoint of this model takes {_gigabytes(size)}; free some space, or"
            " choose another --workdir"
        )
    if free < missing * size:
        distributed.say(
            f"warning: {have}; its checkpoints will take {_gigabytes(missing * size)} more. Free"
            " some space, or lower config.train.keep_checkpoints, which is"
            f" {settings.train.keep_checkpoints}"
        )


def missing_checkpoints(folder: epath.Path, settings: Settings) -> int:
    """The number of checkpoints that a run will add to the most that its folder ever holds.

    A checkpoint is deleted only when its successor is complete, so for a moment there is one more
    than `train.keep_checkpoints`, and two in `best`.
    """
    most = {"checkpoints": settings.train.keep_checkpoints + 1}
    if settings.train.keep_best:
        most["best"] = 2
    return sum(max(0, count - len(integrity.steps(folder / name))) for name, count in most.items())


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.3g} GB"


def claim(folder: epath.Path, settings: Settings) -> None:
    """Creates the folder and writes the settings into it."""
    files.write(folder / _FILE, (settings_lib.to_json(settings) + "\n").encode())
