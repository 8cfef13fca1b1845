"""What the launch programs share: their command line, the check of a run, and its commands."""

import argparse
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from cocosnet_jax.errors import UserError

PROJECT = Path(__file__).resolve().parents[1]


class Commands:
    """Runs commands in the project's folder, or prints them.

    Attributes:
      dry_run: whether they are printed, as lines for a shell, and not run.
    """

    def __init__(self, dry_run: bool) -> None:
        self.dry_run = dry_run

    def need(self, program: str, where_from: str) -> None:
        """Raises UserError if a program that commands start is not installed."""
        if not self.dry_run and not shutil.which(program):
            raise UserError(f"{program} is not installed: {where_from}")

    def run(self, *command: str, given: str = "") -> int:
        """Runs a command, whose output goes to the terminal.

        Args:
          command: program and arguments.
          given: text for its standard input.

        Returns:
          Its exit status; 0 if it was printed.
        """
        if self.dry_run:
            self._print(command, given)
            return 0
        return subprocess.run(command, cwd=PROJECT, input=given or None, text=True).returncode

    def must(self, *command: str, given: str = "") -> None:
        """Runs a command; raises UserError if it fails."""
        status = self.run(*command, given=given)
        if status:
            raise UserError(f"`{_shown(command)}` failed with status {status}; see above")

    def read(self, *command: str, assume: str) -> tuple[int, str, str]:
        """Runs a command that changes nothing, for its output.

        Args:
          command: program and arguments.
          assume: the output of a command that is printed.

        Returns:
          Its exit status, output and error output, stripped.
        """
        if self.dry_run:
            self._print(command, "")
            return 0, assume, ""
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
        return done.returncode, done.stdout.strip(), done.stderr.strip()

    def _print(self, command: Sequence[str], given: str) -> None:
        document = f" <<'EOF'\n{given.rstrip()}\nEOF" if given else ""
        print(f"{shlex.join(command)}{document}", flush=True)


def _shown(command: Sequence[str]) -> str:
    """The start of a command, short enough for a message."""
    line = " ".join(shlex.join(command).split())
    return line if len(line) <= 80 else f"{line[:77]}..."


class Parser(argparse.ArgumentParser):
    """A parser whose errors are `UserError`s."""

    def __init__(self, **options: object) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits a command line at `--` into the launch program's part and the run's."""
    given = list(arguments)
    place = given.index("--") if "--" in given else len(given)
    return given[:place], given[place + 1 :]


def parse(parser: Parser, arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The flags of a program that has commands, one of them `run`, and those of the run.

    Args:
      parser: has the command and its flags; `--env` and `--dry-run` are added.
      arguments: of the program.

    Raises:
      UserError: a flag is wrong or missing.
    """
    own, of_run = split(arguments)
    add = parser.add_argument
    add("--env", action="append", default=[], metavar="NAME=VALUE", help="variable of the run")
    add("--dry-run", action="store_true", help="print the commands and run none")
    flags = parser.parse_args(own)
    check_variables(flags.env)
    if of_run and flags.command != "run":
        raise UserError(f"`{flags.command}` takes no flags of a run: leave out what follows `--`")
    return flags, of_run


def check_name(flag: str, name: str) -> None:
    """Raises UserError if a name does not suit Google Cloud and Kubernetes."""
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", name):
        raise UserError(
            f"{flag}={name}: must be lower-case letters, digits and hyphens, at most 40, and begin"
            " with a letter"
        )


def check_variables(entries: Sequence[str]) -> None:
    """Raises UserError if a variable of the environment is not written NAME=VALUE."""
    for entry in entries:
        if not re.fullmatch(r"[A-Za-z_]\w*=.*", entry):
            raise UserError(f"--env={entry}: must be NAME=VALUE")


def check_run(arguments: Sequence[str], devices: int, *, bucket: bool) -> None:
    """Checks the flags and settings of a run, before anything is created for it.

    Args:
      arguments: of `cocosnet_jax.main`.
      devices: their number, over all hosts.
      bucket: whether the workdir must be in a bucket, because the hosts' disks are not kept.

    Raises:
      UserError: a flag or setting is wrong, or the batch does not split over the devices.
    """
    if not arguments:
        raise UserError("the run's own flags are missing: give them after `--`; see --help")
    workdir = [a.partition("=")[2] for a in arguments if a.lstrip("-").startswith("workdir=")]
    if bucket and not (workdir and workdir[-1].startswith("gs://")):
        found = f"is {workdir[-1]}" if workdir else "is missing"
        raise UserError(
            f"--workdir {found}; it must be in a bucket (gs://BUCKET/FOLDER), because the disks of"
            " the hosts are lost with them"
        )
    command = [sys.executable, "-m", "cocosnet_jax.main", *arguments, f"--check_for={devices}"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().rsplit("error: ", 1)[-1] or f"status {done.returncode}"
        raise UserError(last)
    say(done.stdout.strip())


def say(line: str) -> None:
    """Prints a line to standard error; standard output is for the commands and their output."""
    print(line, file=sys.stderr, flush=True)


def main(program: Callable[[Sequence[str]], int]) -> NoReturn:
    """Runs a launch program on the command line, and exits with its status."""
    try:
        status = program(sys.argv[1:])
    except UserError as error:
        say(f"error: {error}")
        status = error.status
    except KeyboardInterrupt:
        say("\ninterrupted; what was started goes on, and the same command continues from there")
        status = 130
    sys.exit(status)
