"""One tiny run of the program, from the command line, that several tests look at."""

import dataclasses
import fcntl
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import jaxtyping
import pytest

# First: they set up XLA, and check what is imported after them.
from tests import fast, preloaded, typechecks  # noqa: F401
from tests.data.conftest import CLASSES, draw_label, write_pair
from tests.untrained import write_run

ROOT = Path(__file__).parents[1]
# Seconds that a program may take. Only what hangs comes near it: a loaded machine is no failure.
LIMIT_S = 1800

# Small enough to compile in seconds: no VGG (its losses are tested by themselves).
TINY = {
    "data.channels": CLASSES,
    "data.image_size": 64,
    "data.load_size": 72,
    "data.exemplar_list": "random",
    "data.validation_exemplar_list": "random",
    "model.base_filters": 4,
    # What the backward pass recomputes is compiled twice.
    "model.rematerialise": "nothing",
    "loss.contextual": 0.0,
    "loss.perceptual": 0.0,
    "loss.pseudo_exemplar": 0.0,
    "vgg.weights": "random",
    "vgg.width": 2,
    "train.batch_size": 2,
    "train.evaluation_batch_size": 3,
    "train.images_every": 0,
    "train.checkpoint_every": 3,
    "train.log_every": 2,
}
# A translation network without exemplar has a third of the operations that XLA compiles: for what
# does not look at the networks.
PLAIN_MODEL = {
    "base_filters": 2,
    "generator_condition": "input",
    "warped_mask": "none",
    "mask_input": "none",
    "non_local": False,
    "rematerialise": "nothing",
}
PLAIN_LOSS = dict.fromkeys(
    ("alignment", "perceptual", "contextual", "mask", "regularisation", "self_warp"), 0.0
)
# As keywords of `train_arguments`.
PLAIN = {
    **{f"model__{name}": value for name, value in PLAIN_MODEL.items()},
    **{f"loss__{name}": value for name, value in PLAIN_LOSS.items()},
}
STEPS = 6


@dataclasses.dataclass
class Program:
    """Runs entry points as a user does, with compiled programs kept between them.

    Attributes:
      folder: of a dataset, and of runs that tests share.
      server: starts programs without importing the libraries anew.
    """

    folder: Path
    server: preloaded.Server

    def environment(self, devices: int = 1) -> dict[str, str]:
        return os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"{fast.FLAGS} --xla_force_host_platform_device_count={devices}",
        }

    def command(self, module: str, *arguments: str) -> list[str]:
        return [sys.executable, "-m", f"cocosnet_jax.{module}", *arguments]

    def start(self, module: str, *arguments: str, devices: int = 1) -> preloaded.Started:
        """Starts a module of any package."""
        return self.server.start([module, *arguments], self.environment(devices), LIMIT_S)

    def run(
        self, module: str, *arguments: str, devices: int = 1
    ) -> subprocess.CompletedProcess[str]:
        return self.start(f"cocosnet_jax.{module}", *arguments, devices=devices).wait()

    def start_two(self, *arguments: str) -> tuple[preloaded.Started, preloaded.Started]:
        """Starts two processes of `main`."""
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        first, second = (
            self.start("cocosnet_jax.main", *arguments, f"--distributed=localhost:{port},2,{index}")
            for index in range(2)
        )
        return first, second

    def signalled(
        self, name: str, moment: str, module: str, *arguments: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs a module that gets a signal at a moment, which tests/signalled.py explains."""
        module = f"cocosnet_jax.{module}"
        return self.start("tests.signalled", name, moment, module, *arguments).wait()

    def run_by_two(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Two processes of `main`, by the script that users run."""
        return subprocess.run(
            ["launch/local_multiprocess.sh", "2", *arguments],
            cwd=ROOT,
            env=self.environment() | {"PYTHON": sys.executable},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )

    def train(self, workdir: Path, **changed: object) -> str:
        """Trains `STEPS` steps, and returns what was printed."""
        arguments = self.train_arguments(
            workdir, train__stop_after=STEPS, train__images_every=STEPS, **changed
        )
        done = self.run("main", *arguments)
        assert done.returncode == 0, done.stderr
        assert f"finished at step {STEPS}" in done.stdout
        return done.stdout

    def fields(self) -> dict[str, object]:
        prepared = self.folder / "prepared"
        return TINY | {"data.source": str(self.folder / "ade"), "data.data_dir": str(prepared)}

    def train_arguments(self, workdir: Path, **changed: object) -> list[str]:
        fields = self.fields() | {name.replace("__", "."): value for name, value in changed.items()}
        overrides = [f"--config.{name}={value}" for name, value in fields.items()]
        return ["--config=configs/ade20k.py:released", f"--workdir={workdir}", *overrides]

    def translation_arguments(self, checkpoint: Path, output: Path) -> list[str]:
        ade = self.folder / "ade/validation"
        return [
            f"--checkpoint={checkpoint}",
            f"--input={ade}/ADE_val_0.png",
            f"--exemplar={ade}/ADE_val_1.jpg",
            f"--exemplar-label={ade}/ADE_val_1.png",
            f"--output={output}",
        ]


@pytest.fixture(autouse=True)
def steps_are_not_kept(monkeypatch):
    """What a test puts in place of a function is not in the digest by which a step is found."""
    monkeypatch.setattr("cocosnet_jax.kept_step.folder", lambda: None)


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("program")
    for index in range(8):
        write_pair(folder / "ade/training", f"ADE_train_{index}", draw_label(index))
    for index in range(4):
        write_pair(folder / "ade/validation", f"ADE_val_{index}", draw_label(100 + index))
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    server = preloaded.Server(tmp_path_factory.mktemp("said"), environment)
    yield Program(folder, server)
    server.close()


# Whole networks in them are traced many times, and take a third longer with the checks of
# tests/typechecks.py. tests/test_shapes.py traces whole networks with the checks.
UNCHECKED = {
    *("test_api.py", "test_applications.py", "test_best.py", "test_checkpoint.py", "test_demo.py"),
    *("test_evaluation.py", "test_export.py", "test_fine_tuning.py", "test_golden_checkpoint.py"),
    *("test_hooks.py", "test_inference.py", "test_parity.py", "test_release.py", "test_search.py"),
    *("test_steps.py", "test_train.py"),
}


@pytest.fixture(scope="module", autouse=True)
def checks(request):
    jaxtyping.config.update("jaxtyping_disable", request.path.name in UNCHECKED)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def shared_folder(tmp_path_factory):
    """The folder that all workers of one test run share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def untrained_run(program):
    """The workdir of a run with every network, as they are before training, at step `STEPS`."""
    write_run(program.folder / "untrained_run", program.fields(), STEPS)
    return program.folder / "untrained_run"


@pytest.fixture(scope="session")
def plain(program, tmp_path_factory):
    """The workdir of a plain network's run of `STEPS` steps; `said.txt` is what it printed.

    It is trained once for all workers; each has a copy.
    """
    source = shared_folder(tmp_path_factory) / "plain"
    with source.with_suffix(".lock").open("w") as lock:
        # The other worker waits here until the run is done.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not source.exists():
            running = program.folder / "plain_running"
            said = program.train(running, train__log_every=1, **PLAIN)
            (running / "said.txt").write_text(said)
            running.rename(source)
    return shutil.copytree(source, program.folder / "plain")


def assert_same_numbers(one, other):
    """Two metrics.json of the same pictures, up to rounding."""
    for name, value in other.items():
        # A pixel that is rounded another way moves what is measured on pictures.
        tolerance = 1e-2 if name.startswith("swd") else 1e-5
        if isinstance(value, dict | str):
            assert one[name] == value
        else:
            assert one[name] == pytest.approx(value, rel=tolerance), name
    assert one.keys() == other.keys()


# The longest first, so that both workers end at about the same time; a file is one worker's
# (--dist=loadfile), since its tests share what they compile.
LONGEST = (
    *("test_eight_devices.py", "test_accumulation.py", "test_bucket.py"),
    *("test_two_processes.py", "test_train.py", "test_evaluation.py", "test_parity.py"),
    *("test_inference.py", "test_demo.py", "test_translate.py", "test_release.py"),
    *("test_applications.py", "test_evaluate.py", "test_export.py", "test_api.py"),
    *("test_checkpoint.py", "test_shapes.py", "test_fine_tuning.py", "test_pipeline.py"),
    *("test_steps.py", "test_warp.py", "test_golden_checkpoint.py", "test_restarting.py"),
    *("test_hooks.py", "test_compile_check.py", "test_flash.py", "test_swd.py"),
)


def pytest_collection_modifyitems(items):
    # A stable sort: the other files follow in their own order.
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(LONGEST)))


def pytest_terminal_summary(terminalreporter):
    """Prints what tests measured; a worker's own output does not reach the terminal."""
    reports = [report for some in terminalreporter.stats.values() for report in some]
    lines = [
        value
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == "parity" and report.when == "call"
    ]
    if lines:
        terminalreporter.section("worst relative errors against the release")
        terminalreporter.write_line("\n".join(sorted(lines)))
