r"""Kills an evaluation at random moments, restarts it, and compares it with an undisturbed one.

    python -m benchmarks.restarts_evaluation --kills=20 --processes=1,2 [--seed=0] [--folder=FOLDER]

The run has tiny networks with a correspondence, which were never trained, and ten validation
pictures in batches of three. `main --mode=evaluate` gets SIGKILL at any time from its start to its
end, and while it writes a translation, the counts of a batch, features, the report or TensorBoard.
It is started again by the same command. When it has come to its end, every file that it has written
is compared with the undisturbed one's, byte by byte: translations, counts, features, metrics.json,
tables; and so are the curves in TensorBoard. Then the next evaluation begins, until there are as
many kills as wanted.

The program prints a line for each kill and for each comparison, and exits with status 1 if there is
a difference. `benchmarks.restarts` does the same with training.
"""

import argparse
import dataclasses
import random
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import restarts
from benchmarks.killed import Moment
from benchmarks.restarts import Program, differences, victims_of

PICTURES = 10
STEP = 6
FIELDS: dict[str, object] = {
    "data.channels": restarts.CLASSES,
    "data.image_size": 64,
    "data.load_size": 64,
    "data.exemplar_list": "random",
    "data.validation_exemplar_list": "random",
    "model.base_filters": 2,
    "loss.contextual": 0.0,
    "loss.perceptual": 0.0,
    "loss.pseudo_exemplar": 0.0,
    "vgg.weights": "random",
    "vgg.width": 2,
    "train.batch_size": 2,
    "train.evaluation_batch_size": 3,
}


@dataclasses.dataclass
class Evaluation(Program):
    """The evaluation, as one or several processes."""

    def command(self, trial: Path, module: str, *first: str) -> list[str]:
        """Starts a module; the workdir is TRIAL/run, and all trials have the same data."""
        return [
            *(sys.executable, "-m", module, *first, "--mode=evaluate"),
            *("--config=configs/ade20k.py:released", f"--workdir={trial / 'run'}"),
            *(f"--config.{name}={value}" for name, value in self.fields().items()),
        ]

    def fields(self) -> dict[str, object]:
        """The settings of the run."""
        data = {"source": str(self.folder / "ade"), "data_dir": str(self.folder / "prepared")}
        return FIELDS | {f"data.{name}": value for name, value in data.items()}


def moments(rng: random.Random, seconds: float) -> Iterator[Moment]:
    """Endless moments, of each kind equally often; `seconds` is how long an evaluation takes."""
    of_step, write = r"run/evaluation/step_\d+", "(open|os.rename)"
    while True:
        every = [
            # `start` is by the clock.
            *(Moment("start", "", seconds=rng.uniform(0, seconds)) for _ in range(2)),
            Moment("translation", f"{write} {of_step}/outputs/", rng.randint(1, 2 * PICTURES)),
            Moment("counts", f"{write} {of_step}/counts/", rng.randint(1, 8)),
            Moment("grid", f"{write} {of_step}/grid.png"),
            Moment("features", f"{write} run/evaluation/features/", rng.randint(1, 16)),
            Moment("report", f"{write} {of_step}/metrics", rng.randint(1, 4)),
            # Python does not report what TensorFlow writes.
            Moment("TensorBoard", rf"os.rename {of_step}/metrics.md", 1, 0, rng.uniform(0, 0.2)),
        ]
        rng.shuffle(every)
        yield from every


def experiment(folder: Path, processes: int, kills: int, seed: int) -> tuple[int, int]:
    """Kills evaluations by some processes, and compares each with an undisturbed one.

    Args:
      folder: has the dataset and the run, and gets all evaluations.
      processes: of each evaluation.
      kills: how many at least.
      seed: of the moments.

    Returns:
      The numbers of kills and of differences.
    """
    program = Evaluation(folder, processes)
    wanted, trial = folder / f"undisturbed_{processes}", folder / f"killed_{processes}"
    seconds = 0.0
    # Twice: the second time, programs are compiled, as in restarts.
    for _ in range(2):
        _begin(folder, wanted)
        began = time.monotonic()
        program.start(wanted).end()
        seconds = time.monotonic() - began
    print(f"undisturbed: {seconds:.0f} s", flush=True)
    rng = random.Random(seed * 100 + processes)
    some, done, different = moments(rng, seconds), 0, 0
    while done < kills:
        _begin(folder, trial)
        killed = True
        while killed:
            moment = next(some) if done < kills else None
            life = program.start(trial, victims_of(rng, processes, moment), moment)
            killed = life.end()
            there = life.find(r"(\d+ of \d+ pictures are translated)") or "nothing translated"
            if killed and moment:
                done += 1
                print(
                    f"{done:4}  {life.victims:<12}{moment.name:<14}{life.last():<60}{there}",
                    flush=True,
                )
        differ = differences(trial, wanted, ["checkpoints"])
        different += len(differ)
        print(f"      ended ({there} before): {len(differ)} differences", flush=True)
        for line in differ[:20]:
            print(f"      {line}", flush=True)
    return done, different


def _begin(folder: Path, trial: Path) -> None:
    """Makes a workdir without evaluation; its checkpoint keeps its time, by which it is known."""
    shutil.rmtree(trial, ignore_errors=True)
    shutil.copytree(folder / "run", trial / "run")


def prepare(folder: Path) -> None:
    """Writes the dataset and the run, unless they are there."""
    from tests.untrained import write_run

    if not (folder / "run").exists():
        restarts.draw(folder / "ade", PICTURES)
        write_run(folder / "run", Evaluation(folder, 1).fields(), STEP)


def main() -> int:
    """Makes the experiments and prints their tables."""

    def trial(folder: Path, processes: int, given: argparse.Namespace) -> tuple[int, int]:
        return experiment(folder, processes, given.kills, given.seed)

    return restarts.command(argparse.ArgumentParser(), prepare, trial)


if __name__ == "__main__":
    sys.exit(main())
