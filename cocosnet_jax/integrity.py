"""Whether a checkpoint is whole: what disks and copying do to it is found before it is used.

All files of a checkpoint are read, and where one is damaged the newest checkpoint that is whole
takes its place.
"""

import json
import re
import sys

import orbax.checkpoint as ocp
import tensorstore as ts
from etils import epath

from cocosnet_jax import distributed
from cocosnet_jax.errors import StorageError, UserError

# Arrays that are read together.
_TOGETHER = 16
# What TensorStore says of files that are damaged, not out of reach.
_DAMAGE = re.compile(
    r"(DATA_LOSS|OUT_OF_RANGE|NOT_FOUND|INVALID_ARGUMENT|FAILED_PRECONDITION|UNIMPLEMENTED)\b"
)


def steps(folder: epath.Path) -> list[int]:
    """Steps of the checkpoints in a `checkpoints` folder, newest first; damaged ones as well."""
    # Orbax takes a copy of a user's, such as old_1000, for a step as well.
    found = [path.name for path in ocp.utils.checkpoint_steps_paths(folder)]
    return sorted((int(name) for name in found if name.isdigit()), reverse=True)


def newest_whole(folder: epath.Path, candidates: list[int]) -> tuple[int, list[int]]:
    """Chooses the newest checkpoint whose files are whole, and says which are passed over.

    The first process looks, and all take its choice.

    Args:
      folder: with the checkpoints.
      candidates: their steps, newest first.

    Returns:
      Its step, and the newer ones, which are damaged.

    Raises:
      UserError: all of them are damaged.
      StorageError: what is stored cannot be reached.
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
            # The others wait for an answer.
            unreachable = error
    chosen = distributed.from_lead(chosen, f"choice in {folder}")
    if unreachable:
        raise unreachable
    named = [f"{step} ({reason})" for step, reason in reasons.items()]
    if chosen < 0:
        others = [step for step in steps(folder) if step not in candidates]
        instead = f", or take another one of {', '.join(map(str, others))}" if others else ""
        raise UserError(
            f"no checkpoint in {folder} can be used; damaged: "
            + ", ".join(named or map(str, candidates))
            + f". Bring one back from a copy{instead}, or start anew in another --workdir"
        )
    if named:
        one = len(named) == 1
        print(
            f"{'checkpoint' if one else 'checkpoints'} {', '.join(named)} in {folder}"
            f" {'is' if one else 'are'} damaged: step {chosen} is used instead",
            file=sys.stderr,
            flush=True,
        )
    return chosen, [step for step in candidates if step > chosen]


def _damage(folder: epath.Path) -> str | None:
    """What is damaged in a checkpoint, in a few words; None where all of its files can be read.

    Raises:
      StorageError: a file cannot be reached, which says nothing about what is in it.
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
            return "state/manifest.ocdbt is missing or damaged"  # to TensorStore, a store is empty
        for entry in json.loads((state / "_METADATA").read_text())["tree_metadata"].values():
            name = ".".join(str(part["key"]) for part in entry["key_metadata"])
            if name not in stored and not entry["value_metadata"].get("skip_deserialize"):
                return f"the array {name} is missing or damaged"
        every = list(stored.values())
        for start in range(0, len(every), _TOGETHER):
            for read in [array.read() for array in every[start : start + _TOGETHER]]:
                read.result()
    except OSError as error:
        raise read_error(folder, error) from error
    # TensorStore raises a ValueError with its status in front.
    except ValueError as error:
        if not _DAMAGE.match(str(error)):
            raise read_error(folder, error) from error
        files = re.findall(rf'"{re.escape(str(folder))}/([^"]*[^"/])"', str(error))
        names = [f"the array {x}" for x in re.findall(r'"([\w.]+)/[^"/]*"', str(error))]
        return f"{[*files, *names, 'state'][0]} is missing or damaged"
    return None


def arrays(folder: epath.Path) -> dict[str, ts.TensorStore]:
    """A checkpoint's arrays, opened and not yet read; names are a state's keys joined by dots.

    Raises:
      ValueError: they cannot be opened; TensorStore's status comes first in the message.
    """
    path = f"{folder}/state/"
    base = path if "://" in path else {"driver": "file", "path": path}
    store = {"driver": "ocdbt", "base": base}
    # With a cache, the index is read once and not for every array.
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
    """Renames a checkpoint to `STEP.damaged`, a name that is not read."""
    target = folder.with_name(f"{folder.name}.damaged")
    number = 1
    while target.exists():
        number += 1
        target = folder.with_name(f"{folder.name}.damaged.{number}")
    try:
        folder.rename(target)
    except OSError as error:
        raise StorageError(
            f"{folder} is damaged and cannot be renamed to {target.name} ({error.strerror}); move"
            " it away, then run the same command again"
        ) from error


def read_error(folder: epath.Path, error: Exception) -> StorageError:
    """The error of a checkpoint that cannot be reached, which says nothing about what is in it."""
    return StorageError(
        f"checkpoint {folder} cannot be read: {reason(error)}; see whether its storage can be"
        " reached, then run the same command again"
    )


def reason(error: Exception) -> str:
    """The first line of a library's message, without its internal details."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    line = re.split(r" See full TensorStore details| \[[a-z_]+=|; additional", line)[0]
    # Long ones name temporary files first; the cause comes last.
    return line if len(line) < 200 else f"...{line[-200:]}"
