"""Detects damaged checkpoints before they are used.

All arrays of a checkpoint are read and compared with the checksums that were saved with them: the
file formats have no checksum of an array's content. If a checkpoint is damaged, the newest
undamaged one is used instead.
"""

import concurrent.futures
import json
import re
import sys
import zlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from etils import epath
from jaxtyping import PyTree
from numpy.typing import ArrayLike

from cocosnet_jax import distributed
from cocosnet_jax.errors import StorageError, UserError

# The item of a checkpoint that holds its checksums.
_CHECKSUMS = "checksums"
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
        _report(
            f"{'checkpoint' if one else 'checkpoints'} {', '.join(damaged)} in {folder}"
            f" {'is' if one else 'are'} damaged; using step {chosen} instead"
        )
    return chosen, [step for step in candidates if step > chosen]


def move_damaged_aside(folder: epath.Path) -> None:
    """Renames all damaged checkpoints of a folder to `STEP.damaged`, and reports them.

    The lead process does it for all processes.

    Raises:
      StorageError: the storage cannot be reached.
    """
    reasons: dict[int, str] = {}
    try:
        if distributed.is_lead():
            for step in steps(folder):
                if reason := _damage(folder / str(step)):
                    reasons[step] = reason
    finally:
        move_aside(folder, list(reasons))
    for step, reason in reasons.items():
        _report(f"checkpoint {step} ({reason}) in {folder} is damaged; it is renamed")


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def checksums(state: PyTree, settings: Any) -> dict[str, Any]:
    """Checksums of a checkpoint's content, saved with it as its item `checksums`.

    Args:
      state: arrays, each of them whole on every device.
      settings: what JSON takes.

    Returns:
      The CRC-32 of the settings, and of each array by its name.
    """

    def of_array(array: ArrayLike) -> int:
        return _checksum(array.addressable_data(0) if isinstance(array, jax.Array) else array)

    leaves = by_name(state)
    # Threads, because zlib takes a second for each 1.4 GB.
    with concurrent.futures.ThreadPoolExecutor() as threads:
        of_state = dict(zip(leaves, threads.map(of_array, leaves.values()), strict=True))
    return {"settings": _checksum_of_json(settings), "state": of_state}


def by_name(state: PyTree) -> dict[str, Any]:
    """Leaves of a state by the names of `arrays`."""
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _checksum(array: ArrayLike) -> int:
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _checksum_of_json(content: Any) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


class _DamageError(Exception):
    """Says in a few words what is damaged."""


def _damage(folder: epath.Path) -> str | None:
    """Describes the damage of a checkpoint in a few words; None if it is whole.

    Raises:
      StorageError: a file cannot be reached, so its state is unknown.
    """
    try:
        _verify(folder)
    except _DamageError as damage:
        return str(damage)
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


def _verify(folder: epath.Path) -> None:
    """Reads a whole checkpoint; raises _DamageError, or what reading raises."""
    settings = _read_json(folder, "settings/metadata")
    wanted = _names(_read_json(folder, "state/_METADATA"))
    known = None
    # Checkpoints of earlier versions have no checksums: their files must be readable.
    if (folder / _CHECKSUMS).exists():
        content = _read_json(folder, f"{_CHECKSUMS}/metadata")
        try:
            known = dict(content["state"])
            settings_intact = content["settings"] == _checksum_of_json(settings)
        except (KeyError, TypeError, ValueError) as error:
            raise _DamageError(f"{_CHECKSUMS}/metadata is damaged") from error
        if not settings_intact:
            raise _DamageError("settings/metadata is not as it was saved")
        if known.keys() != wanted:
            raise _DamageError(f"state/_METADATA or {_CHECKSUMS}/metadata is damaged")
    if (shapes := folder / "state/array_metadatas").is_dir():
        for file in sorted(shapes.iterdir()):
            _read_json(folder, str(file.relative_to(folder)))
    stored = arrays(folder)
    if not stored:
        # Without this file, TensorStore takes the store for empty.
        raise _DamageError("state/manifest.ocdbt is missing or damaged")
    if missing := sorted(wanted - stored.keys()):
        raise _DamageError(f"the array {missing[0]} is missing or damaged")
    names = list(stored)
    for start in range(0, len(names), _CONCURRENT):
        some = {name: stored[name].read() for name in names[start : start + _CONCURRENT]}
        for name, reading in some.items():
            array = reading.result()
            if known is not None and _checksum(array) != known.get(name):
                raise _DamageError(f"the array {name} is not as it was saved")


def _read_json(folder: epath.Path, name: str) -> Any:
    try:
        return json.loads((folder / name).read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _DamageError(f"{name} is missing") from error
    except ValueError as error:
        raise _DamageError(f"{name} is damaged") from error


def _names(metadata: Any) -> set[str]:
    """Names of the arrays that a checkpoint must have, from Orbax's description of its state."""
    try:
        return {
            ".".join(str(part["key"]) for part in entry["key_metadata"])
            for entry in metadata["tree_metadata"].values()
            if not entry["value_metadata"].get("skip_deserialize")
        }
    except (AttributeError, KeyError, TypeError) as error:
        raise _DamageError("state/_METADATA is damaged") from error


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


def check_shapes(folder: epath.Path, wanted: PyTree) -> None:
    """Raises UserError unless a checkpoint has all arrays of `wanted`, with the same shapes."""
    stored = {name: array.shape for name, array in arrays(folder).items()}
    shapes = {name: x.shape for name, x in by_name(wanted).items()}
    wrong = [name for name, shape in shapes.items() if stored.get(name) != shape]
    if wrong:
        name = wrong[0]
        raise UserError(
            f"checkpoint {folder} does not match its own settings: {len(wrong)} arrays differ, such"
            f" as {name}, which is {stored.get(name, 'missing')}, not {shapes[name]}. It is from"
            " another version of this program, or has other optimisers; use that version, or start"
            " a new run from its weights with --init_from"
        )


def move_aside(folder: epath.Path, damaged: list[int]) -> None:
    """Renames checkpoints to `STEP.damaged`, which is ignored.

    The lead process does it for all processes.

    Raises:
      StorageError: one cannot be renamed.
    """
    try:
        for step in damaged if distributed.is_lead() else ():
            source, target = folder / str(step), folder / f"{step}.damaged"
            number = 1
            while target.exists():
                number += 1
                target = folder / f"{step}.damaged.{number}"
            source.rename(target)
    except OSError as error:
        raise StorageError(
            f"{source} is damaged, and cannot be renamed to {target.name} ({error.strerror}); move"
            " it elsewhere, then run the same command again"
        ) from error
    finally:
        distributed.wait_for_all(f"damaged checkpoints of {folder} are renamed")


def read_error(folder: epath.Path, error: Exception) -> StorageError:
    """The error of a checkpoint that cannot be reached."""
    return StorageError(
        f"checkpoint {folder} cannot be read: {reason(error)}; check that its storage can be"
        " reached, then run the same command again. If that does not help, move this checkpoint"
        " elsewhere: a run resumes from the one before"
    )


def reason(error: Exception) -> str:
    """The first line of a library's message, without its internal details."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    line = re.split(r" See full TensorStore details| \[[a-z_]+=|; additional", line)[0]
    # Long messages begin with temporary files and end with the cause.
    return line if len(line) < 200 else f"...{line[-200:]}"
