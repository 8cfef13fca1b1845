"""A process that has imported what the programs import, and forks itself for each program.

Importing TensorFlow takes as long as most of what tests ask of a program. A program that is started
here is a process of its own all the same: it imports this project, reads its flags and environment,
and ends as one that Python has started. It runs without the checks of tests/typechecks.py.
"""

import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]

# What programs import but this project's own modules, which read flags and environment.
_LIBRARIES = (
    *("jax", "flax.linen", "optax", "orbax.checkpoint", "tensorflow", "tensorflow_datasets"),
    *("clu.metric_writers", "cv2", "ml_collections.config_flags", "PIL.Image", "scipy.ndimage"),
)


class Request(NamedTuple):
    """What to start.

    Attributes:
      arguments: of Python after `-m`: a module and its arguments.
      environment: of the program. JAX's own variables are those of the server.
      said: file for what the program prints.
      errors: file for its errors.
      limit_s: seconds after which it is ended.
    """

    arguments: list[str]
    environment: dict[str, str]
    said: str
    errors: str
    limit_s: int


class Started(NamedTuple):
    """A program that was started."""

    server: "Server"
    request: Request
    pid: int

    def said(self) -> str:
        """What it has printed so far."""
        return Path(self.request.said).read_text()

    def runs(self) -> bool:
        """Whether it has not ended yet."""
        return bool(self.server.ask(-self.pid))

    def wait(self) -> subprocess.CompletedProcess[str]:
        """Waits for its end."""
        status = self.server.ask(self.pid)
        errors = Path(self.request.errors).read_text()
        return subprocess.CompletedProcess(self.request.arguments, status, self.said(), errors)


class Server:
    """The process, which is asked by one thread."""

    def __init__(self, folder: Path, environment: dict[str, str]):
        """Starts it; `folder` exists, and gets what the programs print."""
        self._folder, self._count = folder, 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.preloaded"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, arguments: list[str], environment: dict[str, str], limit_s: int) -> Started:
        """Starts `python -m ARGUMENTS` in the project's folder."""
        self._count += 1
        files = (str(self._folder / f"{self._count}_{name}") for name in ("said", "errors"))
        request = Request(arguments, environment, *files, limit_s)
        return Started(self, request, self.ask(request))

    def ask(self, request: Request | int) -> int:
        """Starts a process; tells the status of one at its end, or whether it runs.

        Args:
          request: what to start; the number of a process to wait for; minus the number of one that
            may run.

        Returns:
          The number of the process; its exit status; 1 if it runs, or else 0.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """Ends it."""
        self._process.communicate()


def _serve() -> Request | None:
    """Does what is asked for until the end of the input; in a new process, returns its request."""
    statuses: dict[int, int] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        if isinstance(asked, int):
            one = abs(asked)
            if one not in statuses:
                ended, status = os.waitpid(one, os.WNOHANG if asked < 0 else 0)
                if ended:
                    statuses[one] = os.waitstatus_to_exitcode(status)
            print(statuses[one] if asked > 0 else int(one not in statuses), flush=True)
            continue
        request = Request(*asked)
        # Before the child, which may be slow to begin, so that they can be read at once.
        for file in (request.said, request.errors):
            Path(file).touch()
        with warnings.catch_warnings():
            # From Python 3.12 on, of threads: here only an allocator's, which is made for this.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if not child:
            return request
        print(child, flush=True)
    return None


def _become(request: Request) -> None:
    os.environ.clear()
    os.environ.update(request.environment)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, file in ((1, request.said), (2, request.errors)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_TRUNC), number)
    signal.alarm(request.limit_s)
    sys.argv = request.arguments
    runpy.run_module(request.arguments[0], run_name="__main__", alter_sys=True)


def main() -> None:
    for name in _LIBRARIES:
        importlib.import_module(name)
    # When a program ends, Python looks for garbage once more: not among the libraries.
    gc.collect()
    gc.freeze()
    if request := _serve():
        _become(request)


if __name__ == "__main__":
    main()
