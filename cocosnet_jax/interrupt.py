"""How a run ends on Ctrl-C and SIGTERM."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import jax

from cocosnet_jax import distributed


@contextlib.contextmanager
def ctrl_c_ends_at_once() -> Iterator[None]:
    """Makes Ctrl-C end the program at once; Python's handler would wait until XLA has compiled.

    SIGTERM ends a single process at once anyway. With several processes JAX catches it, and the run
    ends after the first step is saved.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """Makes SIGTERM raise SystemExit, so that incomplete files are removed.

    Does nothing with several processes, where JAX catches SIGTERM.
    """
    if jax.process_count() > 1:
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Interruption:
    """Notes Ctrl-C or SIGTERM so that the loop can stop; a second signal ends the program at once.

    With several processes JAX catches SIGTERM and makes all of them stop at the same step
    (`Checkpoints.preempted`), and Ctrl-C is turned into SIGTERM.

    Attributes:
      signal: number of the received signal, or 0.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        caught = [signal.SIGINT] if jax.process_count() > 1 else [signal.SIGINT, signal.SIGTERM]
        self._before = {number: signal.signal(number, self._note) for number in caught}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        if distributed.is_lead():
            # Not print, which raises if the signal interrupted another print.
            with contextlib.suppress(OSError):
                os.write(
                    1,
                    b"interrupted: finishing this step and saving;"
                    b" interrupt again to end without saving\n",
                )
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self.signal = number
