"""The folder of a run: whose it is, and whether it may be used.

settings.json   what the run is; another run's folder is refused by it
.in_use         locked while a run has the folder; it has its process
checkpoints/    see `cocosnet_jax.checkpoint`
tensorboard/    losses, speed and pictures
pictures/       the same pictures as PNG files
evaluation/     what `--mode=evaluate` measured
"""

import contextlib
import fcntl
import os
import uuid
from collections.abc import Iterator

from etils import epath

from cocosnet_jax import files
from cocosnet_jax import settings as settings_lib
from cocosnet_jax.checkpoint import absolute
from cocosnet_jax.data.labels import label_maps
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import Settings

_FILE = "settings.json"
_LOCK = ".in_use"


def check(workdir: str, settings: Settings) -> epath.Path:
    """Checks that a run with these settings may use the folder; changes nothing.

    Returns:
      The folder, in full.

    Raises:
      UserError: it is another run's, or cannot be written to.
    """
    folder = absolute(workdir)
    if "://" not in workdir:
        check_writable(folder, "workdir")
    file = folder / _FILE
    if not file.exists():
        return folder
    found = settings_lib.differences(_read(file), settings, "on_resume")
    if found:
        differences = [f"{field}: {values}" for field, values in found.items()]
        raise UserError(
            f"--workdir={workdir} holds a run with other settings; set them back, or choose another"
            f" --workdir, where --init_from={workdir} starts a new run from this one's weights."
            " They differ in (there, here):\n  " + "\n  ".join(differences)
        )
    return folder


def _read(file: epath.Path) -> Settings:
    """Raises UserError where a settings file is damaged, or of another version."""
    try:
        return settings_lib.from_json(file.read_text())
    except ValueError as error:
        raise UserError(
            f"{file} is damaged: it is not JSON ({error}); bring it back from a copy, or choose"
            " another --workdir"
        ) from error
    except UserError as error:
        raise UserError(
            f"{file} is of another version of this program ({error}); use that version, or choose"
            " another --workdir"
        ) from error


def check_colours(folder: epath.Path, settings: Settings) -> None:
    """Raises UserError where the run in the folder has learned other colours of classes."""
    if (file := folder / _FILE).exists():
        label_maps.check_same_colours(_read(file).data, settings.data)


def check_writable(folder: epath.Path, flag: str) -> None:
    """Raises UserError unless the flag's folder, or what it is to be made in, can be written to."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise UserError(f"--{flag}={folder}: {there} is a file; choose another --{flag}")
    # Asking for permission says yes to root on file systems that say no: trying is certain.
    try:
        # Processes of other machines, which share the folder, may have the same number.
        probe = there / f".cocosnet-{uuid.uuid4().hex}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"--{flag}={folder} cannot be written to: {error.strerror} in {there}; choose another"
            f" --{flag} or change its permissions"
        ) from error


@contextlib.contextmanager
def in_use(folder: epath.Path) -> Iterator[None]:
    """Keeps other runs out of the folder, for as long as this process has it.

    A place that is no folder of this machine's, or knows no locks, is not kept.

    Raises:
      UserError: another run has it.
    """
    if "://" in os.fspath(folder):
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / _LOCK, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise UserError(
                f"--workdir={folder} is in use by process {file.read().strip() or '?'}; stop that"
                " run, or choose another --workdir"
            ) from error
        except OSError:
            pass  # The file system knows no locks.
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def claim(folder: epath.Path, settings: Settings) -> None:
    """Makes the folder and writes its settings."""
    files.write(folder / _FILE, (settings_lib.to_json(settings) + "\n").encode())
