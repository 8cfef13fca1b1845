r"""Kills a run at random moments, restarts it, and compares it with an undisturbed one.

    python -m benchmarks.restarts --kills=20 --processes=1,2 [--seed=0] [--folder=FOLDER]

The run is a tiny one, without exemplar so that it starts fast, and with all else that a run has:
batch norm, spectral norm, averaged parameters, pictures, validation, the best checkpoint. It gets
SIGKILL while it starts, compiles, computes a step, writes a checkpoint, renames it when it is
complete, deletes an old one, and so on, in a random order; of several processes, one or all. It is
restarted by the same command. When it has come to its end, all that it has written is compared with
the undisturbed run: every array of every checkpoint bit by bit, which checkpoints are kept, the
best one and its number, settings, pictures, and the curves in TensorBoard. Then the next
run begins, until there are as many kills as wanted.

The program prints a line for each kill and for each comparison. It exits with status 1 if there is
a difference. With `--folder`, compiled programs and the undisturbed run stay there for the next
time.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from etils import epath
from PIL import Image
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from benchmarks.killed import Moment
from cocosnet_jax import integrity

ROOT = Path(__file__).parents[1]
STEPS = 12
CLASSES = 6
FIELDS: dict[str, object] = {
    "data.channels": CLASSES,
    "data.image_size": 64,
    "data.load_size": 64,
    "data.exemplar_list": "random",
    "data.validation_exemplar_list": "random",
    # Without exemplar, a third of the networks has to be compiled.
    "model.base_filters": 2,
    "model.generator_condition": "input",
    "model.generator_norm": "batch",
    "model.warped_mask": "none",
    "model.mask_input": "none",
    "model.non_local": False,
    "model.rematerialise": "nothing",
    **{
        f"loss.{name}": 0.0
        for name in (
            *("alignment", "contextual", "mask", "perceptual", "pseudo_exemplar"),
            *("regularisation", "self_warp"),
        )
    },
    "optimiser.ema": 0.9,
    "vgg.weights": "random",
    "vgg.width": 2,
    "train.batch_size": 2,
    "train.evaluation_batch_size": 2,
    "train.stop_after": STEPS,
    "train.log_every": 1,
    "train.images_every": 3,
    "train.checkpoint_every": 2,
    "train.keep_checkpoints": 2,
    "train.evaluate_every": 3,
    "train.evaluate_images": 4,
    "train.keep_best": "swd",
}
# Compile fast; the programs run for seconds.
XLA = {
    "xla_backend_optimization_level": "0",
    "xla_llvm_disable_expensive_passes": "true",
    "xla_cpu_use_fusion_emitters": "false",
    "xla_force_host_platform_device_count": "1",
}
# Seconds that surviving processes have to notice, before they are killed as well.
GRACE = 2.0
# Seconds after which a run that neither ends nor is killed has failed.
LIMIT = 1800.0

_STEP = r"\d+"
_TMP = rf"{_STEP}\.orbax-checkpoint-tmp"


def moments(rng: random.Random, seconds: dict[str, float]) -> Iterator[Moment]:
    """Endless moments, of each kind equally often.

    Args:
      rng: of all choices.
      seconds: how long the undisturbed run took to `start`, to `compile`, and for a `step`.
    """
    while True:
        every = [
            Moment("start", "", seconds=rng.uniform(0, seconds["start"])),
            Moment("compile", r"compiling for", seconds=rng.uniform(0, seconds["compile"])),
            *(
                Moment("step", r"step \d+/", rng.randint(1, 6), 0, rng.uniform(0, seconds["step"]))
                for _ in range(2)
            ),
            Moment(
                "preparation of the data", "(open|os.rename|os.mkdir) prepared/", rng.randint(1, 8)
            ),
            Moment("claim of the settings", r"(open|os.rename) run/settings.json.partial"),
            *(
                # The arrays are written by other threads than Python's.
                Moment("save", rf"os.mkdir run/checkpoints/{_TMP}$", rng.randint(1, 2), more, late)
                for more, late in [(rng.randint(0, 20), 0.0), (0, rng.uniform(0, 0.5))]
            ),
            *(
                Moment("commit", rf"os.rename run/checkpoints/{_TMP}$", rng.randint(1, 3), 0, late)
                for late in (0.0, rng.uniform(0, 0.005))
            ),
            *(
                Moment(
                    "deletion of an old checkpoint",
                    rf"shutil.rmtree run/checkpoints/{_STEP}$|os.remove run/checkpoints/{_STEP}/",
                    1,
                    rng.randint(0, 12),
                )
                for _ in range(2)
            ),
            Moment("clean-up after a kill", rf"shutil.rmtree run/checkpoints/{_TMP}", 1, 3),
            Moment("number of the best", r"(open|os.rename) run/best.json.partial"),
            Moment("save of the best", rf"os.mkdir run/best/{_TMP}$", 1, rng.randint(0, 25)),
            Moment("commit of the best", rf"os.rename run/best/{_TMP}$", 1, rng.randint(0, 4)),
            Moment("picture", r"(open|os.rename) run/pictures/", rng.randint(1, 3)),
        ]
        rng.shuffle(every)
        yield from every


# Where a run begins, as it says.
_BEGINNING = r"((?<=resuming at )step \d+|new run|nothing to do)"
_BY_OUTPUT = ("start", "compile", "step")


@dataclasses.dataclass
class Program:
    """The tiny run, as one or several processes."""

    folder: Path
    processes: int

    def command(self, trial: Path, module: str, *first: str) -> list[str]:
        """Starts a module; the workdir is TRIAL/run, and the data are prepared beside it."""
        fields = FIELDS | {
            "data.source": self.folder / "ade",
            "data.data_dir": trial / "prepared",
        }
        return [
            *(sys.executable, "-m", module, *first),
            *("--config=configs/ade20k.py:released", f"--workdir={trial / 'run'}"),
            *(f"--config.{name}={value}" for name, value in fields.items()),
        ]

    def environment(self) -> dict[str, str]:
        flags = " ".join(f"--{name}={value}" for name, value in XLA.items())
        ours = {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": flags,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        return {"JAX_COMPILATION_CACHE_DIR": str(self.folder / "compiled")} | os.environ | ours

    def start(
        self, trial: Path, victims: tuple[int, ...] = (), moment: Moment | None = None
    ) -> "Life":
        """Starts the run; `victims` kill themselves at the moment, or wait for `Life` to do so."""
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        started = []
        for index in range(self.processes):
            command = self.command(trial, "cocosnet_jax.main")
            if moment and moment.name not in _BY_OUTPUT and index in victims:
                told = json.dumps(moment._asdict())
                command = self.command(trial, "benchmarks.killed", told)
            if self.processes > 1:
                command += [f"--distributed=localhost:{port},{self.processes},{index}"]
            started.append(
                subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env=self.environment(),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        return Life(started, victims, moment)


class Life:
    """The processes of a run from a start to their end.

    Attributes:
      said: lines of all processes.
      clock: seconds from the start to the first line that begins with a word.
      victims: which of them are to be killed, in words.
    """

    def __init__(
        self,
        processes: list[subprocess.Popen[str]],
        victims: tuple[int, ...],
        moment: Moment | None,
    ):
        self._processes, self._killed, self._moment = processes, victims, moment
        # Either all, or a single one.
        self.victims = "all" if len(victims) == len(processes) else f"process {sum(victims)}"
        self._began, self._times = time.monotonic(), 0
        self.said: list[str] = []
        self.clock: dict[str, float] = {}
        self._readers = [threading.Thread(target=self._read, args=[x]) for x in processes]
        for reader in self._readers:
            reader.start()
        if moment and moment.name == "start":
            threading.Timer(moment.seconds, self._kill, [victims]).start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self.said.append(line)
            self.clock.setdefault(line.split(" ")[0], time.monotonic() - self._began)
            moment = self._moment
            if (
                moment
                and moment.name in ("compile", "step")
                and process is self._processes[0]
                and re.match(moment.pattern, line)
            ):
                self._times += 1
                if self._times == moment.times:
                    threading.Timer(moment.seconds, self._kill, [self._killed]).start()

    def _kill(self, which: tuple[int, ...]) -> None:
        for index in which:
            self._processes[index].kill()

    def end(self) -> bool:
        """Waits for the end; returns whether the run was killed, or else came to its own end."""
        limit = time.monotonic() + LIMIT
        while all(process.poll() is None for process in self._processes):
            if time.monotonic() > limit:
                self._kill(tuple(range(len(self._processes))))
                raise RuntimeError("hangs:\n" + "".join(self.said[-30:]))
            time.sleep(0.02)
        killed = any(self._processes[x].poll() == -signal.SIGKILL for x in self._killed)
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                alone = killed and len(self._killed) < len(self._processes)
                process.wait(GRACE if alone else 0 if killed else LIMIT)
        self._kill(tuple(range(len(self._processes))))
        for reader in self._readers:
            reader.join()
        statuses = [process.wait() for process in self._processes]
        if not killed and any(statuses):
            raise RuntimeError(f"ended with status {statuses}:\n" + "".join(self.said[-30:]))
        return killed

    def find(self, pattern: str) -> str:
        """The first group of a pattern in what was said; empty without one."""
        match = re.search(pattern, "".join(self.said))
        return match[1] if match else ""

    def last(self) -> str:
        """What the run did when it was killed, as far as is known."""
        lines = [line.strip() for line in self.said if line.strip()]
        events = [line.removeprefix("killed: ") for line in lines if line.startswith("killed: ")]
        return (events or [f"after: {lines[-1]}" if lines else "before any output"])[0][:58]


def draw(folder: Path, validation: int = 4) -> None:
    """Writes a small dataset in ADE20k's layout: squares in the colours of their classes."""
    rng = np.random.default_rng(0)
    for split, count in (("training", 8), ("validation", validation)):
        (folder / split).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            label = rng.integers(0, CLASSES, (4, 4), np.uint8).repeat(12, 0).repeat(12, 1)
            colours = np.stack([label * 40, 255 - label * 40, label * 0 + 128], -1)
            Image.fromarray(colours).save(folder / split / f"ADE_{index}.jpg", quality=95)
            Image.fromarray(label).save(folder / split / f"ADE_{index}.png")


def differences(
    found: Path, wanted: Path, saved: Sequence[str] = ("checkpoints", "best")
) -> list[str]:
    """What differs between all that two runs have written; `saved` are folders of checkpoints."""
    differ = []
    for name in saved:
        ours, theirs = (
            sorted(path.name for path in (trial / "run" / name).iterdir())
            for trial in (found, wanted)
        )
        if ours != theirs:
            differ.append(f"{name} has {ours}, not {theirs}")
        for step in sorted(set(ours) & set(theirs)):
            one, other = (_arrays(trial / "run" / name / step) for trial in (found, wanted))
            unlike = [x for x in one.keys() | other.keys() if one.get(x) != other.get(x)]
            differ += [f"{name}/{step}: {x}" for x in sorted(unlike)]
    for read in (_files, _curves):
        some, known = read(found), read(wanted)
        differ += sorted(x for x in some.keys() | known.keys() if some.get(x) != known.get(x))
    return differ


def _arrays(checkpoint: Path) -> dict[str, bytes]:
    stored = integrity.arrays(epath.Path(checkpoint)).items()
    return {name: np.asarray(array.read().result()).tobytes() for name, array in stored}


def _files(trial: Path) -> dict[str, object]:
    """All files but those of checkpoints, TensorBoard, the process and its use of time."""
    apart = ("checkpoints/", "best/", "tensorboard/", ".in_use", "goodput.json")
    run = trial / "run"
    found = {str(path.relative_to(run)): path for path in run.rglob("*") if path.is_file()}
    return {
        # The settings have the place of the data.
        name: path.read_bytes().replace(str(trial).encode(), b"")
        for name, path in found.items()
        if not name.startswith(apart)
    }


# Curves of time and memory, which differ from run to run.
_TIMES = ("images_per_second", "seconds_per_step", "goodput", "data_share", "memory/", "mfu")


def _curves(trial: Path) -> dict[str, object]:
    """Tag and step -> values: one, however often a step was computed. Times are left out."""
    found: dict[str, set[bytes]] = {}
    for file in (trial / "run/tensorboard").glob("events.*"):
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                if not value.tag.startswith(_TIMES):
                    values = found.setdefault(f"TensorBoard: {value.tag}, step {event.step}", set())
                    values.add(value.tensor.SerializeToString())
    return dict(found)


def experiment(
    folder: Path, processes: int, kills: int, seed: int, kinds: str = ""
) -> tuple[int, int]:
    """Kills runs of some processes, prints a table, and compares each with an undisturbed run.

    Args:
      folder: has the dataset, and gets all runs.
      processes: of each run.
      kills: how many at least.
      seed: of the moments.
      kinds: only moments whose name begins with this pattern.

    Returns:
      The numbers of kills and of differences.
    """
    program = Program(folder, processes)
    wanted, trial = folder / f"undisturbed_{processes}", folder / f"killed_{processes}"
    seconds = undisturbed(program, wanted)
    print(f"undisturbed: {', '.join(f'{x} {y:.1f} s' for x, y in seconds.items())}", flush=True)
    rng = random.Random(seed * 100 + processes)
    some = (moment for moment in moments(rng, seconds) if re.match(kinds, moment.name))
    done = different = 0
    while done < kills:
        shutil.rmtree(trial, ignore_errors=True)
        row, killed = "", True
        while killed:
            moment = next(some) if done < kills else None
            life = program.start(trial, victims_of(rng, processes, moment), moment)
            killed = life.end()
            if row:
                print(row + (life.find(_BEGINNING) or "none: killed before"), flush=True)
            if damaged := life.find(r"(checkpoints? .* damaged; .*)"):
                print(f"      {damaged}", flush=True)
            if killed and moment:
                done += 1
                row = f"{done:4}  {life.victims:<12}{moment.name:<30}{life.last():<60}resumed at: "
        differ = differences(trial, wanted)
        different += len(differ)
        compared = sum(len(_arrays(x)) for x in trial.glob("run/[cb]*/*") if x.is_dir())
        print(f"      ended: {compared} arrays compared, {len(differ)} differences", flush=True)
        for line in differ[:20]:
            print(f"      {line}", flush=True)
    return done, different


def undisturbed(program: Program, trial: Path) -> dict[str, float]:
    """Makes the undisturbed run, unless it is there; returns how long its phases took."""
    timed = trial.with_suffix(".json")
    if not timed.exists():
        # Twice: the second time, programs are compiled, as in restarts.
        for _ in range(2):
            shutil.rmtree(trial, ignore_errors=True)
            life = program.start(trial)
            life.end()
        seconds = {
            "start": life.clock["compiling"],
            "compile": life.clock["compiled,"] - life.clock["compiling"],
            "step": (life.clock["finished"] - life.clock["compiled,"]) / STEPS,
        }
        timed.write_text(json.dumps(seconds))
    found: dict[str, float] = json.loads(timed.read_text())
    return found


def victims_of(rng: random.Random, processes: int, moment: Moment | None) -> tuple[int, ...]:
    """Which of the processes are to be killed at a moment: all, the first or the last one."""
    everyone = tuple(range(processes))
    choice = [everyone, everyone[:1], everyone[-1:]]
    if moment is None:
        return ()
    if moment.name not in _BY_OUTPUT:
        # The first process does nearly all of it.
        choice += choice[:2]
    return rng.choice(choice)


def command(
    parser: argparse.ArgumentParser,
    prepare: Callable[[Path], None],
    experiment: Callable[[Path, int, argparse.Namespace], tuple[int, int]],
) -> int:
    """Makes an experiment with each number of processes, and prints their sums.

    Args:
      parser: has the program's own flags, and gets those of all experiments.
      prepare: writes what is missing into a folder.
      experiment: prints its table; takes the folder, the number of processes and the flags; returns
        the numbers of kills and of differences.

    Returns:
      The exit status: 1 if there is a difference, or else 0.
    """
    parser.add_argument("--kills", type=int, default=20, help="of each number of processes")
    parser.add_argument("--processes", default="1,2", help="numbers of processes")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="for all files, which stay there")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        prepare(folder)
        found = [
            (count, *experiment(folder, count, arguments))
            for count in map(int, arguments.processes.split(","))
        ]
    for count, kills, different in found:
        print(f"{count} process(es): {kills} kills, {different} differences")
    return int(any(different for *_, different in found))


def main() -> int:
    """Makes the experiments and prints their tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kinds", default="", help="only moments whose name matches this pattern")

    def prepare(folder: Path) -> None:
        if not (folder / "ade").exists():
            draw(folder / "ade")

    def trial(folder: Path, processes: int, given: argparse.Namespace) -> tuple[int, int]:
        return experiment(folder, processes, given.kills, given.seed, given.kinds)

    return command(parser, prepare, trial)


if __name__ == "__main__":
    sys.exit(main())
