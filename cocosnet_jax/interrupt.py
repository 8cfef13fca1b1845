"""Ctrl-C and SIGTERM: what a run still does before it ends."""

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
def ends_at_once() -> Iterator[None]:
    """Lets Ctrl-C end the program where Python would not hear of it, in minutes of XLA's compiler.

    SIGTERM does that by itself; with several processes JAX has caught it, and the first step is
    taken and saved before the program ends.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def ends_in_order() -> Iterator[None]:
    """Lets SIGTERM end the program by an exception, so that half-made files are removed.

    With several processes nothing changes: JAX has caught SIGTERM.
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
    """Ctrl-C or SIGTERM: the step is finished first; a second one ends the program at once.

    With several processes JAX catches SIGTERM itself and lets all processes agree on a step
    (`Checkpoints.preempted`); Ctrl-C is turned into it.

    Attributes:
      signal: the signal that came, or 0.
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
            # Not print, which raises where the signal came while another line was being printed.
            with contextlib.suppress(OSError):
                os.write(
                    1,
                    b"interrupted: finishing this step and saving;"
                    b" once more ends the program unsaved\n",
                )
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self.signal = number
