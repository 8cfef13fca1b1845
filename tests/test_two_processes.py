"""One run by two processes, as on two hosts: trained, stopped, resumed.

tests/test_evaluate.py has two processes measure a checkpoint.
"""

import os
import re
import signal
import time

import pytest

from tests.conftest import PLAIN


def arguments_of(program, workdir, stop_after):
    return program.train_arguments(
        workdir,
        train__stop_after=stop_after,
        train__evaluation_batch_size=2,
        train__log_every=1,
        **PLAIN,
    )


@pytest.fixture(scope="module")
def stopped(program, tmp_path_factory):
    """Workdir, output and step of a run that a SIGTERM to the second process ended."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    # To the end of the schedule, which is far away: the signal comes first on any machine.
    first, second = program.start_two(*arguments_of(program, workdir, 0))
    while first.runs() and "compiled, first step done" not in first.said():
        time.sleep(0.1)
    os.kill(second.pid, signal.SIGTERM)
    ended = [process.wait() for process in (first, second)]
    errors = "".join(done.stderr for done in ended)
    assert [done.returncode for done in ended] == [128 + signal.SIGTERM] * 2, errors
    said = ended[0].stdout
    return workdir, said, max(int(path.name) for path in (workdir / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def resumed(program, stopped):
    """The same run, resumed by the script for two more steps."""
    workdir, _, step = stopped
    done = program.run_by_two(*arguments_of(program, workdir, step + 2))
    assert done.returncode == 0, done.stderr
    return workdir, done.stdout, step + 2


def test_both_stop_at_one_step_and_save_it(stopped):
    workdir, said, step = stopped
    assert f"interrupted and saved at step {step}; run the same command again" in said
    # Whole: what is being written has another name.
    assert (workdir / "checkpoints" / str(step)).is_dir()
    assert all(path.name.isdigit() for path in (workdir / "checkpoints").iterdir())
    # Every step is said once, by the first.
    steps = [line.split()[1].split("/")[0] for line in said.splitlines() if line[:5] == "step "]
    assert steps == [str(number) for number in range(1, step + 1)]


def test_the_losses_are_those_of_one_process(stopped, plain):
    """The halves of the batch are different ones, and the mean is over both."""

    def first_losses(said):
        [line] = [line for line in said.splitlines() if line.startswith("step 1/")]
        losses = re.findall(r"  ([a-z_]+) ([\d.e+-]+)(?=  |$)", line)
        return {name: float(value) for name, value in losses}

    one = first_losses((plain / "said.txt").read_text())
    assert {
        "adversarial",
        "discriminator_features",
        "discriminator_real",
        "generator_total",
    } <= one.keys()
    # Printed with four digits.
    assert first_losses(stopped[1]) == pytest.approx(one, rel=2e-3)


def test_resumed_by_two_processes(stopped, resumed):
    workdir, said, last = resumed
    assert f"resuming at step {stopped[2]} from {workdir}" in said
    assert f"finished at step {last}" in said
    assert max(int(path.name) for path in (workdir / "checkpoints").iterdir()) == last


# Two more runs.
@pytest.mark.long
def test_what_is_measured_does_not_depend_on_the_number_of_processes(program, tmp_path):
    """Networks that do not learn, so that their numbers are equal to the last digit."""

    def arguments(name):
        return [
            *arguments_of(program, tmp_path / name, 1),
            "--config.train.evaluate_every=1",
            "--config.train.evaluate_images=3",
            "--config.train.keep_best=swd",
            "--config.optimiser.generator_rate=0.0",
            "--config.optimiser.discriminator_rate=0.0",
        ]

    one = program.run("main", *arguments("one"))
    two = program.run_by_two(*arguments("two"))
    assert (one.returncode, two.returncode) == (0, 0), one.stderr + two.stderr

    def measured(done):
        return [line for line in done.stdout.splitlines() if ", validation: " in line]

    assert len(measured(one)) == 2
    assert measured(one) == measured(two)
    texts = [(tmp_path / name / "best.json").read_text() for name in ("one", "two")]
    assert texts[0] == texts[1]
    assert "best so far: swd" in two.stdout
    assert [path.name for path in (tmp_path / "two/best").iterdir()] == ["1"]


def test_processes_end_together_on_a_wrong_setting(program, tmp_path):
    arguments = program.train_arguments(
        tmp_path / "run", data__source="/nowhere", train__evaluation_batch_size=2
    )
    error = "error: config.data.source is '/nowhere', which is not a folder"
    for process in program.start_two(*arguments):
        done = process.wait()
        assert done.returncode == 2, done.stderr
        assert done.stderr.count(error) == done.stderr.count("error: ") == 1
    assert not (tmp_path / "run").exists()
