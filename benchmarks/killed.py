"""Runs `cocosnet_jax.main` and kills it at a given moment: see `benchmarks.restarts`.

    python -m benchmarks.killed 'MOMENT' FLAGS OF cocosnet_jax.main ...

MOMENT is JSON of a `Moment`. Python reports each file that it opens, renames or deletes before it
does so; at the chosen one, the process sends itself SIGKILL.
"""

import json
import os
import re
import signal
import sys
import threading
import time
from typing import Any, NamedTuple

# What changes files, as Python's audit events call it.
_EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")


class Moment(NamedTuple):
    """When a process is killed.

    Attributes:
      name: of the kind of moment.
      pattern: of the event and the path that begin it, such as `os.mkdir .*/checkpoints/`; of
        another kind of moment, the line of output that begins it.
      times: the process is killed after it has begun this often.
      more: further events in the folder, before the process is killed.
      seconds: time to wait after that.
    """

    name: str
    pattern: str
    times: int = 1
    more: int = 0
    seconds: float = 0.0


def kill_at(moment: Moment, folder: str) -> None:
    """Makes Python kill this process at a moment of what it does in a folder."""
    begun, left, ended = 0, moment.more, False
    pattern = re.compile(moment.pattern)
    lock = threading.Lock()

    def die(event: str) -> None:
        time.sleep(moment.seconds)
        # Tells the parent at which event this process was killed.
        os.write(1, f"\nkilled: {event}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal begun, left, ended
        if event not in _EVENTS or ended or not isinstance(arguments[0], str | os.PathLike):
            return
        path = os.fspath(arguments[0])
        # Files are deleted by their name in an open folder.
        deletes = begun == moment.times and event in ("os.remove", "os.rmdir")
        if not isinstance(path, str) or not (path.startswith(folder) or deletes):
            return
        said = f"{event} {path.removeprefix(folder).lstrip('/')}"
        with lock:
            if begun < moment.times:
                begun += bool(pattern.match(said))
                if begun < moment.times:
                    return
            if left:
                left -= 1
                return
            ended = True
        if moment.seconds:
            threading.Thread(target=die, args=(said,), daemon=True).start()
        else:
            die(said)

    sys.addaudithook(hook)


def main() -> None:
    """Sets the moment, and runs the program."""
    moment = Moment(**json.loads(sys.argv.pop(1)))
    [workdir] = (x.split("=", 1)[1] for x in sys.argv if x.startswith("--workdir="))
    # The data are prepared beside it.
    kill_at(moment, os.path.dirname(workdir))
    from cocosnet_jax import main as program

    program.run()


if __name__ == "__main__":
    main()
