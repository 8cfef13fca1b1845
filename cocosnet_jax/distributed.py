"""Runs of several processes: start-up, barriers, broadcasts, and output by the lead process."""

import contextlib
import itertools
import os
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from cocosnet_jax.errors import ProcessError, UserError

JOIN_S = 600  # default limit: machines of a cluster may start minutes apart
_BARRIERS = itertools.count()  # numbers of the barriers that this process has waited at


def join(processes: str, limit_s: int = JOIN_S) -> None:
    """Starts JAX's distributed runtime. Must be called before any use of a device.

    If not all processes have joined in time, the program ends with an error: JAX can neither go on
    nor return.

    Args:
      processes: `auto`, or HOST:PORT,PROCESSES,INDEX; empty for a single process.
      limit_s: time for all processes to join, in seconds.

    Raises:
      UserError: the value is none of these, or `auto` finds no cluster.
    """
    if not processes:
        return
    # JAX's own limit comes later, and would abort the program.
    jax_limit_s = limit_s + 60
    if processes == "auto":
        try:
            with _ends_after(limit_s, lambda: "not all processes of this cluster have joined"):
                jax.distributed.initialize(initialization_timeout=jax_limit_s)
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
    with _ends_after(limit_s, lambda: _missing(address, count, index)):
        jax.distributed.initialize(address, count, index, initialization_timeout=jax_limit_s)


@contextlib.contextmanager
def _ends_after(limit_s: float, problem: Callable[[], str]) -> Iterator[None]:
    """Ends the program with an error if the context takes longer."""

    def end() -> None:
        sys.stderr.write(
            f"error: --distributed: {problem()} within {limit_s:.0f} s. Check that every process"
            " was started with the same address and number of processes and its own index, that"
            " none has ended with an error, and that firewalls let the port through; machines that"
            " start late need a higher --join_timeout\n"
        )
        sys.stderr.flush()
        os._exit(ProcessError.status)

    timer = threading.Timer(limit_s, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _missing(address: str, count: int, index: int) -> str:
    """What is missing for all processes to join."""
    if index:
        host, port = address.rsplit(":", 1)
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        except OSError as error:
            return f"process {index} of {count} got no answer from process 0 at {address} ({error})"
    return f"process {index} waited at {address}, but not all of {count} processes have joined"


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


def wait_for_all(what: str, *, hours: float = 1) -> None:
    """Waits until all processes have called this.

    All processes must call it equally often and in the same order, because barriers are numbered.
    If a process dies, JAX ends the others after 100 seconds without its heartbeat; the limit here
    is for a process that lives and hangs.

    Args:
      what: what they wait for, for messages.
      hours: time limit.

    Raises:
      ProcessError: the time is up.
    """
    key = f"{what} ({next(_BARRIERS)})"
    try:
        # Barriers that use a device collective time out after a minute.
        ocp.multihost.get_barrier_sync_fn()(key=key, timeout_ms=round(hours * 60 * 60 * 1000))
    except jax.errors.JaxRuntimeError as error:
        if "DEADLINE_EXCEEDED" not in str(error):
            raise
        raise ProcessError(
            f"process {jax.process_index()} of {jax.process_count()} waited {hours:g} hours for all"
            f" to get here: {what}; another process hangs. Look at the last lines of each, end them"
            " all, and run the same command again"
        ) from error


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
