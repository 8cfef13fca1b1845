r"""Trains on a Cloud TPU slice: queues it, waits, installs, runs on all hosts, follows the log.

    python -m launch.tpu_vm run --tpu=ade20k --zone=us-west4-a --type=v5litepod-16 \
        --data=gs://my-bucket/data -- \
        --config=configs/ade20k.py --workdir=gs://my-bucket/runs/ade20k \
        --config.data.source=data/ADEChallengeData2016 --config.vgg.weights=keras \
        --config.data.exemplar_list=data/train.txt \
        --config.data.validation_exemplar_list=data/test.txt

The flags after `--` are those of cocosnet_jax.main. `run` queues a Spot slice unless it is there,
waits until it is ready, copies the committed project to every host, installs it, starts the run and
follows its log. When the slice is preempted, `run` deletes what is left of it, queues it again, and
resumes the run from its workdir. The run does not need this program to go on: the same command,
given again from any machine, finds it. Other commands:

    create    queue the slice and wait until it is ready
    log       follow the log of the run on the first host
    stop      let the run save a checkpoint and end; the slice stays
    status    the state of the slice
    delete    delete the slice; the workdir in the bucket stays

`--dry-run` prints the commands and runs none. Needs gcloud, signed in, and for slices with several
hosts `ssh-add ~/.ssh/google_compute_engine`. Run it in the project's folder, with its Python.
"""

import argparse
import re
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from cocosnet_jax.errors import UserError
from launch import commands, tpu_host
from launch.commands import PROJECT, Commands, say

# Generation -> (runtime version, what N of `GENERATION-N` counts per chip, its valid values).
# https://cloud.google.com/tpu/docs/runtimes and the page of each generation.
_SIZES = (1, 4, 8, 16, 32, 64, 128, 256)
_GENERATIONS: dict[str, tuple[str, int, Sequence[int]]] = {
    "v5litepod": ("v2-alpha-tpuv5-lite", 1, _SIZES),
    "v6e": ("v2-alpha-tpuv6e", 1, _SIZES),
    "v5p": ("v2-alpha-tpuv5", 2, range(8, 12289, 8)),
    "v4": ("tpu-ubuntu2204-base", 2, range(8, 8193, 8)),
}
# States of a queued resource whose slice is gone, https://cloud.google.com/tpu/docs/queued-resources.
_GONE = ("FAILED", "SUSPENDED")
PAUSE = 30.0  # seconds between two looks at the slice
ATTEMPTS = 5  # at installing and at starting, while hosts come up
CRASHES = 3  # after so many, a run is not started again


def chips_of(accelerator: str) -> int:
    """Number of chips of an accelerator type, such as 16 for `v5litepod-16`.

    Raises:
      UserError: there is no such type.
    """
    match = re.fullmatch(r"([a-z0-9]+)-(\d+)", accelerator)
    if not match or match[1] not in _GENERATIONS:
        known = ", ".join(f"{name}-N" for name in _GENERATIONS)
        raise UserError(f"--type={accelerator} is unknown; use one of {known}")
    _, per_chip, sizes = _GENERATIONS[match[1]]
    if int(match[2]) not in sizes:
        some = list(map(str, sizes))
        valid = ", ".join(some if len(some) < 10 else [*some[:3], "...", some[-1]])
        raise UserError(f"--type={accelerator} does not exist; N of {match[1]}-N is one of {valid}")
    return int(match[2]) // per_chip


class Slice:
    """A slice of a Cloud TPU, requested as a queued resource of the same name."""

    def __init__(self, flags: argparse.Namespace, shell: Commands) -> None:
        self._flags, self._shell = flags, shell
        self._where = [f"--zone={flags.zone}"]
        if flags.project:
            self._where.append(f"--project={flags.project}")

    def state(self, assume: str = "ACTIVE") -> str:
        """The state of the queued resource; empty if there is none."""
        status, state, problem = self._shell.read(
            *self._queued("describe"), "--format=value(state.state)", assume=assume
        )
        if status and not re.search("NOT_FOUND|not found", problem):
            last = problem.splitlines()[-1] if problem else f"status {status}"
            raise UserError(f"gcloud cannot describe {self._flags.tpu}: {last}")
        return "" if status else state

    def ensure(self) -> None:
        """Queues the slice unless it is there, and waits until it is ready.

        Raises:
          UserError: the request failed, for example for lack of quota.
        """
        state, requested, began = self.state(assume=""), False, time.monotonic()
        while state != "ACTIVE":
            if state in _GONE:
                if requested and state == "FAILED":
                    self._shell.run(*self._queued("describe"), "--format=yaml(state)")
                    raise UserError(
                        f"the request of {self._flags.tpu} failed, see above; delete it with the"
                        " command `delete`, and try another --zone or --type"
                    )
                say(f"{self._flags.tpu} is {state.lower()}: deleting it, and queuing it again")
                self.delete()
                state, requested = "", False
            if not state and not requested:
                self._create()
                requested = True
            else:
                minutes = (time.monotonic() - began) / 60
                say(f"{self._flags.tpu}: {state.lower()}, for {minutes:.0f} minutes so far")
                time.sleep(PAUSE)
            state = self.state()

    def _create(self) -> None:
        flags = self._flags
        runtime = flags.runtime_version or _GENERATIONS[flags.type.split("-")[0]][0]
        options = [] if flags.on_demand else ["--spot"]
        if flags.service_account:
            options.append(f"--service-account={flags.service_account}")
        self._shell.must(
            *self._queued("create"),
            f"--node-id={flags.tpu}",
            f"--accelerator-type={flags.type}",
            f"--runtime-version={runtime}",
            *options,
        )

    def delete(self) -> None:
        """Deletes the slice and its request."""
        self._shell.must(*self._queued("delete"), "--force", "--quiet")

    def install(self) -> bool:
        """Copies the committed project and the data to every host; returns whether it succeeded."""
        with tempfile.TemporaryDirectory() as folder:
            archive = str(Path(folder) / "cocosnet_jax.tar.gz")
            if self._shell.dry_run:
                archive = "cocosnet_jax.tar.gz"
            self._shell.must("git", "archive", "--format=tar.gz", f"--output={archive}", "HEAD")
            copied = self._shell.run(
                *("gcloud", "compute", "tpus", "tpu-vm", "scp", archive),
                *(f"{self._flags.tpu}:cocosnet_jax.tar.gz", *self._where, "--worker=all"),
            )
        return not copied and not self._on("all", tpu_host.install(self._flags.data))

    def start(self, arguments: Sequence[str]) -> bool:
        """Starts the run on every host on which it is not running; returns whether it succeeded.

        Raises:
          UserError: another run is going on.
        """
        status = self._on("all", tpu_host.start(arguments, self._flags.env))
        if status == tpu_host.OTHER_RUN:
            raise UserError(f"another run is on {self._flags.tpu}; end it with the command `stop`")
        return not status

    def stop(self) -> int:
        """Lets the run save and end on all hosts."""
        return self._on("all", tpu_host.STOP)

    def follow(self) -> None:
        """Follows the log of the first host, until the run ends or the connection does."""
        self._on("0", tpu_host.FOLLOW)

    def of_run(self, assume: str) -> str:
        """`none`, `going on` or the exit status of the run on the first host.

        Empty if the host does not answer. See `tpu_host.STATUS`.
        """
        _, output, _ = self._shell.read(*self._ssh("0", tpu_host.STATUS), assume=f"run: {assume}")
        found = re.search(r"^run: (.+)$", output, re.MULTILINE)
        return found[1] if found else ""

    def _on(self, worker: str, script: str) -> int:
        return self._shell.run(*self._ssh(worker, script))

    def _ssh(self, worker: str, script: str) -> list[str]:
        return [
            *("gcloud", "compute", "tpus", "tpu-vm", "ssh", self._flags.tpu, *self._where),
            *(f"--worker={worker}", f"--command={script}"),
        ]

    def _queued(self, action: str) -> list[str]:
        name = self._flags.tpu
        return ["gcloud", "compute", "tpus", "queued-resources", action, name, *self._where]


def run(tpu: Slice, arguments: Sequence[str]) -> int:
    """Runs to the end, over preemptions; returns the run's exit status."""
    crashes, attempts = 0, 0
    while True:
        tpu.ensure()
        # The files of a run that is going on are left alone.
        installed = tpu.of_run(assume="none") == "going on" or tpu.install()
        if not (installed and tpu.start(arguments)):
            attempts += 1
            if attempts >= ATTEMPTS and tpu.state() == "ACTIVE":
                raise UserError("the hosts cannot be reached, or installing fails; see above")
            time.sleep(PAUSE)
            continue
        attempts = 0
        ended = _followed(tpu)
        # Status 2 is settings, data or losses, which a restart would meet again; 130 is `stop`.
        if ended in (0, 2, 130):
            return ended
        # After SIGTERM (143) the slice may be about to end. Other ends are errors if it stays.
        if ended not in (None, 143) and tpu.state() == "ACTIVE":
            crashes += 1
            if crashes == CRASHES:
                say(f"the run has ended with an error {CRASHES} times, the last time with {ended}")
                return ended
            # Ends the run on hosts on which it has not ended yet.
            tpu.stop()
        say("starting the run again")
        time.sleep(PAUSE)


def _followed(tpu: Slice) -> int | None:
    """Follows the log, over lost connections; the exit status, None if the slice is gone."""
    while True:
        tpu.follow()
        status = tpu.of_run(assume="0")
        if status.isdecimal():
            return int(status)
        if status == "none":  # The slice was made again, without the run.
            return None
        if tpu.state() != "ACTIVE":
            return None
        say("no connection; following the log again")
        time.sleep(PAUSE)


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The flags of this program, checked, and those of the run.

    Raises:
      UserError: a flag is wrong or missing.
    """
    parser = commands.Parser(prog="python -m launch.tpu_vm", description=__doc__)
    add = parser.add_argument
    add("command", choices=["run", "create", "log", "stop", "status", "delete"])
    add("--tpu", required=True, help="name of the slice")
    add("--zone", required=True, help="zone that has this type, such as us-west4-a")
    add("--project", default="", help="Google Cloud project; by default, gcloud's")
    add("--type", default="", help="accelerator type, such as v5litepod-16 (run, create)")
    add("--runtime-version", default="", help="software of the hosts; by default, that for JAX")
    add("--on-demand", action="store_true", help="not Spot: dearer, and not preempted")
    add("--service-account", default="", help="account of the hosts; it must reach the bucket")
    add("--data", default="", help="folder in a bucket, copied to data/ of every host")
    add("--delete", action="store_true", help="delete the slice when the run has ended (run)")
    flags, of_run = commands.parse(parser, arguments)
    commands.check_name("--tpu", flags.tpu)
    if not re.fullmatch(r"[a-z]+-[a-z]+\d+-[a-z]", flags.zone):
        raise UserError(f"--zone={flags.zone} is no zone; give one such as us-west4-a")
    if flags.data and not flags.data.startswith("gs://"):
        raise UserError(f"--data={flags.data}: must be in a bucket, gs://BUCKET/FOLDER")
    if flags.command in ("run", "create"):
        if not flags.type:
            raise UserError("--type is missing, the accelerator type, such as v5litepod-16")
        chips = chips_of(flags.type)
        if flags.command == "run":
            commands.check_run(of_run, chips, bucket=True)
    return flags, of_run


def main(arguments: Sequence[str]) -> int:
    """Runs one of the commands; returns the exit status."""
    flags, of_run = parse(arguments)
    shell = Commands(flags.dry_run)
    shell.need("gcloud", "https://cloud.google.com/sdk/docs/install")
    tpu = Slice(flags, shell)
    if flags.command == "create":
        tpu.ensure()
    elif flags.command == "log":
        tpu.follow()
    elif flags.command == "stop":
        return tpu.stop()
    elif flags.command == "status":
        state = tpu.state()
        if not flags.dry_run:
            print(state or f"there is no {flags.tpu} in {flags.zone}")
    elif flags.command == "delete":
        if tpu.state():
            tpu.delete()
    else:
        return _run(flags, tpu, of_run)
    return 0


def _run(flags: argparse.Namespace, tpu: Slice, of_run: list[str]) -> int:
    changed = subprocess.run(
        ["git", "status", "--short", "--untracked-files=no"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
    ).stdout
    if changed:
        say(f"note: changes that are not committed are not copied:\n{changed.rstrip()}")
    status = run(tpu, of_run)
    if flags.delete:
        tpu.delete()
    else:
        say(f"{flags.tpu} costs money until it is deleted: give the command `delete`")
    return status


if __name__ == "__main__":
    commands.main(main)
