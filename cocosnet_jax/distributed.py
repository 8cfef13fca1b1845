"""Runs of several processes: start-up, barriers, broadcasts, and output by the lead process."""

import itertools
import os
import re
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from cocosnet_jax.errors import UserError

_WEEK = 7 * 24 * 60 * 60 * 1000  # in milliseconds
_BARRIERS = itertools.count()  # numbers of the barriers that this process has waited at


def join(processes: str) -> None:
    """Starts JAX's distributed runtime. Must be called before any use of a device.

    Args:
      processes: `auto`, or HOST:PORT,PROCESSES,INDEX; empty for a single process.

    Raises:
      UserError: the value is none of these, or `auto` finds no cluster.
    """
    if not processes:
        return
    if processes == "auto":
        try:
            jax.distributed.initialize()
        except ValueError as error:
            raise UserError(
                f"--distributed=auto finds no cluster here ({error}); omit it for one process, or"
                " give HOST:PORT,PROCESSES,INDEX"
            ) from error
        return
    try:
        address, *numbers = processes.split(",")
        count, index = map(int, numbers)
        if not re.fullmatch(r".+:\d+", address) or not 0 <= index < count:
            raise ValueError
    except ValueError:
        raise UserError(
            f"--distributed={processes!r} must be `auto` or HOST:PORT,PROCESSES,INDEX, where"
            " INDEX is between 0 and PROCESSES - 1"
        ) from None
    jax.distributed.initialize(address, count, index)


def is_lead() -> bool:
    """Whether this is the first process, which prints, and writes what must be written once."""
    return jax.process_index() == 0


def say(line: str) -> None:
    """Prints a line from the lead process, and flushes it.

    If the reader has ended, as `| tee` does on Ctrl-C, this and later lines are discarded.
    """
    if is_lead():
        try:
            print(line, flush=True)
        except OSError:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def wait_for_all(what: str) -> None:
    """Waits, without a time limit, until all processes have called this.

    All processes call it equally often, in one order: that tells barriers of one name apart.

    Args:
      what: they wait for.
    """
    key = f"{what} ({next(_BARRIERS)})"
    # Barriers that use a device collective time out after a minute.
    ocp.multihost.get_barrier_sync_fn()(key=key, timeout_ms=_WEEK)


def from_lead(number: int, what: str) -> int:
    """Broadcasts a number from the lead process; `what` as in `wait_for_all`."""
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
