"""Notices that a run hangs, and writes down what its threads are doing."""

import faulthandler
import os
import sys
import tempfile
import threading
import time

import jax
from etils import epath

# A step may take this many times the mean of the steps before it.
TIMES_MEAN = 20.0


class Watchdog:
    """A thread that reports when no step has ended for a long time. It does not end the run.

    A run waits forever, without an error, if another of its processes has ended or lost its network
    connection, or if storage does not answer. The stacks of the threads show which of these it is.
    Every process has its own watchdog; look at the process that waits at another place than the
    others.

    The run is not ended, because a slow bucket recovers by itself, and a launcher can end a run
    that does not.
    """

    def __init__(self, folder: epath.Path, minutes: float):
        """Waits for the first `beat`.

        Args:
          folder: the workdir, which gets the stacks as `stacks_PROCESS.txt`.
          minutes: time without a step after which to report, if 20 mean steps take no longer; 0
            never reports.
        """
        self._file = folder / f"stacks_{jax.process_index()}.txt"
        self._limit = 60 * minutes
        self._beat = 0.0  # When the newest step ended.
        self._beats = 0
        self._mean = 0.0  # Seconds per step, without those that were reported.
        self._reported = 0  # Number of the beat after which a hang was reported.
        self._stacks = b""
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Watchdog":
        if self._limit:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._limit:
            self._thread.join()

    def beat(self) -> None:
        """Notes that a step has ended. The first, which includes compilation, starts the watch."""
        now = time.monotonic()
        if self._beats > self._reported:
            # The mean of the newest hundred or so.
            self._mean += (now - self._beat - self._mean) / min(self._beats, 100)
        self._beats, self._beat = self._beats + 1, now

    def _watch(self) -> None:
        while not self._done.wait(min(self._limit / 4, 10)):
            beats, silent = self._beats, time.monotonic() - self._beat
            limit = max(self._limit, TIMES_MEAN * self._mean)
            if beats > self._reported and silent > limit:
                self._reported = beats
                self._report(silent)

    def _report(self, silent: float) -> None:
        process = f"process {jax.process_index()}: " if jax.process_count() > 1 else ""
        faulthandler.dump_traceback(sys.__stderr__ or 2)
        try:
            # faulthandler needs a file of this machine, and the workdir may be in a bucket.
            with tempfile.TemporaryFile() as stacks:
                faulthandler.dump_traceback(stacks)
                stacks.seek(0)
                # Earlier hangs of this start stay in the file; buckets cannot append.
                when = time.strftime("%Y-%m-%d %H:%M:%S")
                self._stacks += f"{when}, no step for {silent:.0f} s\n".encode() + stacks.read()
                self._file.write_bytes(self._stacks)
            where = f"above and in {self._file}"
        except Exception as error:  # Errors of buckets are not OSErrors.
            where = f"above ({self._file} cannot be written: {error})"
        message = (
            f"warning: {process}no step has ended for {silent / 60:.3g} minutes; the stacks of all"
            f" threads are {where}. The run goes on waiting. Check whether all processes are alive"
            " and whether storage and network answer; if it does not recover, end it with SIGKILL"
            " and give the same command again. config.train.hang_minutes changes the limit\n"
        )
        # In one write, and not print: another thread may hold its lock.
        os.write(2, message.encode())
