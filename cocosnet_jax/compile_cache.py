"""Keeps compiled programs on disk, so that a restart does not compile again.

JAX's persistent compilation cache, in a folder of this user and this kind of CPU. JAX's own
variables take precedence: `JAX_COMPILATION_CACHE_DIR` names another folder, and
`JAX_ENABLE_COMPILATION_CACHE=false` switches the cache off.
"""

import contextlib
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import re
import sys
import tempfile
import warnings

CPU_INFO = pathlib.Path("/proc/cpuinfo")
# Bytes of all kept programs; those that were not used for longest are removed.
LIMIT = 2 * 2**30
# Programs that compile faster are not kept.
MIN_SECONDS = 0.3

_FOLDER, _SWITCH = "JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE"
_MIN_SECONDS = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"


def enable() -> None:
    """Switches the cache on, for this process and those that it starts.

    If the folder cannot be used, this is a note on stderr, not an error. Does not import JAX.
    """
    warnings.showwarning = _show_warning
    if folder() or not _switched_on():
        return
    own = default_folder()
    try:
        own.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=own) as trial:
            trial.write(b"x")
        prune(own.parent, LIMIT)
    except OSError as error:
        _say(
            f"compiled programs are not kept: {own} cannot be written ({error.strerror});"
            f" {_FOLDER}=FOLDER names another folder"
        )
        return
    _set(_FOLDER, str(own))
    if _MIN_SECONDS not in os.environ:
        _set(_MIN_SECONDS, MIN_SECONDS)


def folder() -> str:
    """Returns the folder of compiled programs, or an empty string if they are not kept."""
    return os.environ.get(_FOLDER, "") if _switched_on() else ""


def default_folder() -> pathlib.Path:
    """Returns the folder for this user, this version of jaxlib and this kind of CPU.

    A program that was compiled for another kind of CPU could end the process.
    """
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    version = importlib.metadata.version("jaxlib")
    name = f"jaxlib-{version}-{platform.machine()}-{cpu()}"
    return pathlib.Path(base).expanduser() / "cocosnet_jax" / "xla" / name


def cpu() -> str:
    """Returns a short name of the CPU's model and instruction sets."""
    # These lines determine what XLA compiles for, on x86-64 and on ARM; others change at any time.
    fixed = re.compile(r"vendor_id|cpu family|model|flags|Features|CPU (implementer|part)")
    try:
        first = CPU_INFO.read_text().split("\n\n")[0].splitlines()
    except OSError:
        first = []
    lines = [line for line in first if fixed.match(line)] or [platform.processor()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def prune(root: pathlib.Path, limit: int) -> None:
    """Removes the programs under `root` that were not used for longest, down to `limit` bytes."""
    found = []
    # Partly written ones, too, which a killed process leaves.
    for path in root.rglob("*-cache*"):
        # Another process may remove it at the same time.
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            found.append((max(status.st_atime, status.st_mtime), status.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= limit:
            return
        path.unlink(missing_ok=True)
        total -= size


def _switched_on() -> bool:
    return os.environ.get(_SWITCH, "1").lower() not in ("0", "false", "f", "no", "n", "off")


def _set(name: str, value: str | float) -> None:
    """Sets an option of JAX in the environment, which JAX reads when it is imported."""
    os.environ[name] = str(value)
    if jax := sys.modules.get("jax"):
        jax.config.update(name.lower(), value)


_noted: set[str] = set()


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: str | None = None,
) -> None:
    """Prints warnings, those of the cache as one note; removes a program that cannot be read.

    JAX never overwrites a program, so one that a crash has damaged would be compiled again at every
    start. JAX warns before it compiles, and keeps the new program if the old one is gone by then.
    """
    match = re.match(
        r"Error (reading|writing) persistent compilation cache entry for '(.+?)': (.*)",
        str(message),
        re.DOTALL,
    )
    if not match:
        text = warnings.formatwarning(message, category, filename, lineno, line)
        print(text, end="", file=sys.stderr)
        return
    what, program, reason = match.groups()
    if what == "reading":
        with contextlib.suppress(OSError):
            for path in pathlib.Path(folder()).glob(f"{program}-*-cache"):
                path.unlink(missing_ok=True)
    if what not in _noted:
        _noted.add(what)
        problem = "cannot be read, and is compiled again" if what == "reading" else "is not kept"
        _say(f"compiled program {program} in {folder()} {problem} ({reason.splitlines()[0]})")


def _say(text: str) -> None:
    print(f"note: {text}", file=sys.stderr, flush=True)
