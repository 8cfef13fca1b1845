"""Runs a module that gets a signal at a chosen moment, however fast or slow the machine is.

    python -m tests.signalled SIGTERM cocosnet_jax.watchdog:Watchdog.beat:2 MODULE ARGUMENTS ...

The signal comes before the second call of that function.
"""

import importlib
import itertools
import os
import runpy
import signal
import sys
from typing import Any


def main() -> None:
    name, moment = sys.argv[1:3]
    sys.argv = sys.argv[3:]
    file, function, count = moment.split(":")
    holder: Any = importlib.import_module(file)
    *parts, last = function.split(".")
    for part in parts:
        holder = getattr(holder, part)
    called, number = getattr(holder, last), itertools.count(1)

    def call(*arguments: Any, **options: Any) -> Any:
        if next(number) == int(count):
            os.kill(os.getpid(), signal.Signals[name])
        return called(*arguments, **options)

    setattr(holder, last, call)
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
