"""Detects damaged checkpoints before they are used.

All files of a checkpoint are read. If one is damaged, the newest undamaged checkpoint is used
instead.
"""

import json
import re
import sys

import orbax.checkpoint as ocp
import tensorstore as ts
from etils import epath

from cocosnet_jax import distributed
from cocosnet_jax.errors import StorageError, UserError

# Number of arrays that are read concurrently.
_CONCURRENT = 16
# TensorStore's errors for damaged (not unreachable) files.
_DAMAGE = re.compile(
    r"(DATA_LOSS|OUT_OF_RANGE|NOT_FOUND|INVALID_ARGUMENT|FAILED_PRECONDITION|UNIMPLEMENTED)\b"
)


def steps(folder: epath.Path) -> list[int]:
    """Steps of the checkpoints in a `checkpoints` folder, newest first, damaged ones included."""
    # Orbax also lists a user's copies, such as old_1000.
    names = [path.name for path in ocp.utils.checkpoint_steps_paths(folder)]
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def newest_whole(folder: epath.Path, candidates: list[int]) -> tuple[int, list[int]]:
    """Chooses the newest undamaged checkpoint, and reports the damaged ones.

    The lead process chooses for all processes.

    Args:
      folder: the folder of the checkpoints.
      candidates: their steps, newest first.

    Returns:
      The chosen step, and the steps of newer checkpoints, which are damaged.

    Raises:
      UserError: all checkpoints are damaged.
      StorageError: the storage cannot be reached.
    """
    chosen = -1
    reasons: dict[int, str] = {}
    unreachable: StorageError | None = None
    if distributed.is_lead():
        try:
            for step in candidates:
                reason = _damage(folder / str(step))
                if reason is None:
                    chosen = step
                    break
                reasons[step] = reason
        except StorageError as error:
            # Raised below, because the other processes wait for an answer.
            unreachable = error
    chosen = distributed.from_lead(chosen, f"choice in {folder}")
    if unreachable:
        raise unreachable
    damaged = [f"{step} ({reason})" for step, reason in reasons.items()]
    if chosen < 0:
        others = [step for step in steps(folder) if step not in candidates]
        instead = f", use another step ({', '.join(map(str, others))})" if others else ""
        raise UserError(
            f"no checkpoint in {folder} can be used; damaged: "
            + ", ".join(damaged or map(str, candidates))
            + f". Restore one from a copy{instead}, or start a new run in another --workdir"
        )
    if damaged:
        one = len(damaged) == 1
        print(
            f"{'checkpoint' if one else 'checkpoints'} {', '.join(damaged)} in {folder}"
            f" {'is' if one else 'are'} damaged; using step {chosen} instead",
            file=sys.stderr,
            flush=True,
        )
    return chosen, [step for step in candidates if step > chosen]


def _damage(folder: epath.Path) -> str | None:
    """Describes the damage of a checkpoint in a few words; None if all its files can be read.

    Raises:
      StorageError: a file cannot be reached, so its state is unknown.
    """
    state = folder / "state"
    texts = [folder / "settings/metadata", state / "_METADATA"]
    try:
        if (state / "array_metadatas").is_dir():
            texts += sorted((state / "array_metadatas").iterdir())
        for file in texts:
            try:
                json.loads(file.read_text())
            except (FileNotFoundError, NotADirectoryError):
                return f"{file.relative_to(folder)} is missing"
            except ValueError:
                return f"{file.relative_to(folder)} is damaged"
        stored = arrays(folder)
        if not stored:
            # Without this file, TensorStore takes the store for empty.
            return "state/manifest.ocdbt is missing or damaged"
        for entry in json.loads((state / "_METADATA").read_text())["tree_metadata"].values():
            name = ".".join(str(part["key"]) for part in entry["key_metadata"])
            if name not in stored and not entry["value_metadata"].get("skip_deserialize"):
                return f"the array {name} is missing or damaged"
        stores = list(stored.values())
        for start in range(0, len(stores), _CONCURRENT):
            for future in [array.read() for array in stores[start : start + _CONCURRENT]]:
                future.result()
    except OSError as error:
        raise read_error(folder, error) from error
    # TensorStore raises a ValueError that begins with its status.
    except ValueError as error:
        if not _DAMAGE.match(str(error)):
            raise read_error(folder, error) from error
        files = re.findall(rf'"{re.escape(str(folder))}/([^"]*[^"/])"', str(error))
        names = [f"the array {x}" for x in re.findall(r'"([\w.]+)/[^"/]*"', str(error))]
        return f"{[*files, *names, 'state'][0]} is missing or damaged"
    return None


def arrays(folder: epath.Path) -> dict[str, ts.TensorStore]:
    """Opens a checkpoint's arrays without reading them; names are a state's keys joined by dots.

    Raises:
      ValueError: they cannot be opened; the message begins with TensorStore's status.
    """
    path = f"{folder}/state/"
    base = path if "://" in path else {"driver": "file", "path": path}
    store = {"driver": "ocdbt", "base": base}
    # With a cache, the index is read once, not once per array.
    context = ts.Context({"cache_pool": {"total_bytes_limit": 100_000_000}})
    keys = ts.KvStore.open(store, context=context).result().list().result()
    names = [key.decode().removesuffix("/.zarray") for key in keys if key.endswith(b"/.zarray")]
    opened = {
        name: ts.open(
            {"driver": "zarr", "kvstore": {**store, "path": f"{name}/"}}, open=True, context=context
        )
        for name in names
    }
    return {name: array.result() for name, array in opened.items()}


def move_aside(folder: epath.Path) -> None:
    """Renames a checkpoint to `STEP.damaged`, which is ignored."""
    target = folder.with_name(f"{folder.name}.damaged")
    number = 1
    while target.exists():
        number += 1
        target = folder.with_name(f"{folder.name}.damaged.{number}")
    try:
        folder.rename(target)
    except OSError as error:
        raise StorageError(
            f"{folder} is damaged, and cannot be renamed to {target.name} ({error.strerror}); move"
            " it elsewhere, then run the same command again"
        ) from error


def read_error(folder: epath.Path, error: Exception) -> StorageError:
    """The error of a checkpoint that cannot be reached."""
    return StorageError(
        f"checkpoint {folder} cannot be read: {reason(error)}; check that its storage can be"
        " reached, then run the same command again"
    )


def reason(error: Exception) -> str:
    """The first line of a library's message, without its internal details."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    line = re.split(r" See full TensorStore details| \[[a-z_]+=|; additional", line)[0]
    # Long messages begin with temporary files and end with the cause.
    return line if len(line) < 200 else f"...{line[-200:]}"
