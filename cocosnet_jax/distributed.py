"""Several processes that make one run: joining, waiting, agreeing, and who speaks."""

import os
import re
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from cocosnet_jax.errors import UserError

_WEEK = 7 * 24 * 60 * 60 * 1000  # in milliseconds


def join(others: str) -> None:
    """Starts JAX's distributed runtime, before anything touches a device.

    Args:
      others: `auto`, or HOST:PORT,PROCESSES,INDEX; empty for one process.

    Raises:
      UserError: it is neither, or `auto` finds no cluster.
    """
    if not others:
        return
    if others == "auto":
        try:
            jax.distributed.initialize()
        except ValueError as error:
            raise UserError(
                f"--distributed=auto finds no cluster here ({error}); leave it out for one process,"
                " or say HOST:PORT,PROCESSES,INDEX"
            ) from error
        return
    try:
        address, processes, index = others.split(",")
        count, own = int(processes), int(index)
        if not re.fullmatch(r".+:\d+", address) or not 0 <= own < count:
            raise ValueError
    except ValueError:
        raise UserError(
            f"--distributed={others!r} must be `auto` or HOST:PORT,PROCESSES,INDEX, where"
            " INDEX is between 0 and PROCESSES - 1"
        ) from None
    jax.distributed.initialize(address, count, own)


def is_lead() -> bool:
    """Whether this process is the first: it prints, and writes what only one may write."""
    return jax.process_index() == 0


def say(line: str) -> None:
    """Prints a line at once, once for all processes.

    Where nobody reads it any more, the run goes on: Ctrl-C ends `| tee` first.
    """
    if is_lead():
        try:
            print(line, flush=True)
        except OSError:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def wait_for_all(what: str) -> None:
    """Waits until every process is here, however long that takes.

    Args:
      what: names the place; no two places in a run may have one name.
    """
    # What waits by a collective of the devices gives up in a minute.
    ocp.multihost.get_barrier_sync_fn()(key=what, timeout_ms=_WEEK)


def from_lead(number: int, what: str) -> int:
    """Returns the first process's number, in every process; `what` as in `wait_for_all`."""
    if jax.process_count() == 1:
        return number
    wait_for_all(what)
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def gather_rows(rows: np.ndarray) -> np.ndarray:
    """Rows of this process -> those of all processes, in the processes' order, in each of them."""
    if jax.process_count() == 1:
        return rows
    counts = multihost_utils.process_allgather(np.array([len(rows)]))[:, 0]
    padding = [(0, int(counts.max()) - len(rows)), *[(0, 0)] * (rows.ndim - 1)]
    # As bytes: the devices would round float64 to float32.
    content = np.ascontiguousarray(np.pad(rows, padding)).view(np.uint8)
    every = multihost_utils.process_allgather(content).view(rows.dtype)
    return np.concatenate([some[:count] for some, count in zip(every, counts, strict=True)])
