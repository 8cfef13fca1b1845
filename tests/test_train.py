import dataclasses
import datetime
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import types
from concurrent.futures import Future
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from PIL import Image
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util import tensor_util

from cocosnet_jax import (
    alarms,
    checkpoint,
    hooks,
    interrupt,
    mesh,
    preparation,
    settings,
    train,
    workdir,
)
from cocosnet_jax.checkpoint import Checkpoints
from cocosnet_jax.data.dataset import Dataset
from cocosnet_jax.errors import UserError
from cocosnet_jax.pretrained import vgg as vgg_weights
from cocosnet_jax.state import all_finite
from tests import test_checkpoint
from tests.conftest import LIMIT_S, PLAIN, ROOT, STEPS
from tests.data.conftest import colours, draw_label
from tests.data.labels.test_label_maps import rgb


def final_state(folder):
    config = settings.from_json((folder / "settings.json").read_text())
    checkpoints = Checkpoints(epath.Path(folder), config)
    step, state = checkpoints.restore(mesh.replicated(mesh.make()))
    checkpoints.close()
    assert step == STEPS
    return jax.device_get(state)


def assert_whole(folder):
    state = final_state(folder)
    assert int(state.step) == STEPS
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["3", "6"]
    assert [path.name for path in (folder / "pictures").iterdir()] == ["step_0000006.png"]
    assert list((folder / "tensorboard").glob("events.out.tfevents.*"))
    assert jax.tree.all(jax.tree.map(lambda x: np.isfinite(x).all(), state))


def test_a_run_writes_checkpoints_pictures_and_tensorboard(plain):
    assert_whole(plain)


# A minute: the training step of every network. tests/test_shapes.py traces it in `make test`.
@pytest.mark.parity
def test_a_run_with_an_exemplar(program, tmp_path):
    program.train(tmp_path / "run")
    assert_whole(tmp_path / "run")


def test_a_run_carries_the_colours_of_its_label_maps(tmp_path, monkeypatch):
    label = draw_label(0) % 2
    for name in "ab":
        for folder, array in (
            ("images", colours(label)),
            ("labels", rgb(0x000000, 0xFF0000)[label]),
        ):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(array).save(tmp_path / f"{folder}/{name}.png")
    (tmp_path / "classes.txt").write_text("ground 0 0 0\n255 0 0 a house\n")
    data = settings.DataSettings(
        dataset="folder",
        source=str(tmp_path),
        data_dir=str(tmp_path / "prepared"),
        image_size=64,
        load_size=64,
        channels=2,
        exemplar_list="random",
    )
    config = settings.Settings(data=data, vgg=settings.VggSettings(weights="random", width=2))
    runs = []

    def record(run, *_):
        runs.append(run.settings)
        return run.last, None

    monkeypatch.setattr(train, "_first_state", record)
    train.train(config, epath.Path(tmp_path / "run"))
    assert runs[0].data.classes == "ground #000000\na house #FF0000"
    # The same command accepts the folder again, although the run's settings have classes by now.
    workdir.claim(epath.Path(tmp_path / "run"), runs[0])
    workdir.check(str(tmp_path / "run"), config)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_and_handlers_are_restored(number, capfd):
    before = signal.getsignal(number)
    with interrupt.Interruption() as interruption:
        assert interruption.signal == 0
        os.kill(os.getpid(), number)
        assert interruption.signal == number
        # A second signal would end the program.
        assert signal.getsignal(number) == signal.SIG_DFL
    assert signal.getsignal(number) == before
    assert "finishing this step and saving" in capfd.readouterr().out


def test_ctrl_c_ends_at_once_while_xla_compiles():
    """Python would react to it only after the compiler has finished, minutes later."""
    before = signal.getsignal(signal.SIGINT)
    with interrupt.ctrl_c_ends_at_once():
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == before


def test_sigterm_removes_incomplete_files(monkeypatch):
    removed = []

    def prepare(_):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError
        finally:
            removed.append("half")

    monkeypatch.setattr(preparation.data, "prepare", prepare)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        preparation.prepare_data(settings.Settings().data)
    assert ended.value.code == 128 + signal.SIGTERM
    assert removed == ["half"]
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_while_a_line_is_printed(monkeypatch, capfd):
    class SignalInWrite(io.RawIOBase):
        sent = False

        def writable(self):
            return True

        def write(self, data):
            if not self.sent:
                self.sent = True
                os.kill(os.getpid(), signal.SIGINT)
            return len(data)

    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(SignalInWrite())))
    with interrupt.Interruption() as interruption:
        print("a line", flush=True)
        assert interruption.signal == signal.SIGINT
    assert "interrupted: finishing this step" in capfd.readouterr().out


def test_a_closed_output_does_not_end_a_run(program):
    """Ctrl-C in `main | tee log` ends tee first."""
    code = """if True:
        import os, signal, sys
        from cocosnet_jax import distributed, interrupt
        sys.stdin.read()
        with interrupt.Interruption() as interruption:
            os.kill(os.getpid(), signal.SIGINT)
            distributed.say("a line")
            distributed.say("another")
        sys.exit(int(interruption.signal))
    """
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=program.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    process.stdin.close()
    assert process.wait(LIMIT_S) == signal.SIGINT
    assert process.stderr.read() == ""
    process.stderr.close()


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(program, plain, capfd):
    folder = program.folder / "interrupted"
    arguments = program.train_arguments(
        folder,
        train__stop_after=STEPS,
        train__log_every=1,
        train__images_every=STEPS,
        **PLAIN,
    )

    moment = "cocosnet_jax.watchdog:Watchdog.beat:2"
    done = program.signalled("SIGTERM", moment, "main", *arguments)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert "run the same command again to resume" in done.stdout
    stopped_at = max(int(path.name) for path in (folder / "checkpoints").iterdir())
    assert 1 <= stopped_at < STEPS

    again = program.run("main", *arguments)
    assert again.returncode == 0, again.stderr
    assert f"resuming at step {stopped_at}" in again.stdout
    test_checkpoint.assert_same(final_state(plain), final_state(folder))

    config = settings.from_json((folder / "settings.json").read_text())
    assert train.train(config, epath.Path(folder)) == 0
    assert f"nothing to do: {folder} has {STEPS} of {STEPS} steps" in capfd.readouterr().out


# Another start of a whole run.
@pytest.mark.parity
def test_sigterm_ends_a_run_that_compiles_before_anything_is_written(program, tmp_path):
    arguments = program.train_arguments(tmp_path / "run", **PLAIN)
    moment = "cocosnet_jax.kept_step:step:1"
    done = program.signalled("SIGTERM", moment, "main", *arguments)
    # The signal itself ends the process.
    assert done.returncode == -signal.SIGTERM, done.stderr
    assert list((tmp_path / "run/checkpoints").iterdir()) == []
    assert not (tmp_path / "run/settings.json").exists()


def test_another_runs_workdir_is_refused(program, plain):
    before = {path: path.stat().st_mtime_ns for path in plain.rglob("*")}
    done = program.run("main", *program.train_arguments(plain, optimiser__beta2=0.5, **PLAIN))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "optimiser.beta2: 0.9, 0.5" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in plain.rglob("*")} == before


KERAS = {"vgg__weights": "keras"}


@pytest.mark.parametrize(
    ("changed", "given", "said"),
    [
        ({"data__source": "/nowhere"}, [], "config.data.source is '/nowhere', which is not a"),
        ({"vgg__weights": "no.pth"}, [], "config.vgg.weights is 'no.pth'"),
        # What is wrong is said before VGG is fetched.
        (KERAS | {"data__source": "/nowhere"}, [], "config.data.source is '/nowhere', which is"),
        (KERAS | {"data__exemplar_list": "no.txt"}, [], "exemplar list no.txt does not exist"),
        (KERAS, ["--init_from=/nowhere"], "/nowhere contains no checkpoint"),
        (KERAS, ["--mode=evaluate"], "run contains no checkpoint"),
    ],
)
def test_missing_files_are_an_error_before_anything_is_written(
    program, tmp_path, monkeypatch, changed, given, said
):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    fields = {"data__data_dir": tmp_path / "data", "vgg__width": 64} | changed
    done = program.run("main", *program.train_arguments(tmp_path / "run", **fields), *given)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def loop(tmp_path, monkeypatch):
    """The training loop with a given step function, on a state of random numbers."""
    config = dataclasses.replace(
        test_checkpoint.SETTINGS,
        vgg=settings.VggSettings("random", 2),
        train=settings.TrainSettings(batch_size=1, log_every=4, images_every=0),
    )
    folder = epath.Path(tmp_path)
    monkeypatch.setattr(train.pipeline, "training_batches", lambda *_, **__: iter(int, 1))
    monkeypatch.setattr(train.mesh, "to_global", lambda _, batch, k: batch)

    def run(step, checkpoint_every=50, **changes):
        """Saves take the most of the time."""
        changes["checkpoint_every"] = checkpoint_every
        monkeypatch.setattr(train.kept_step, "step", lambda *_: (step, None))
        changed = dataclasses.replace(config, train=dataclasses.replace(config.train, **changes))
        checkpoints = Checkpoints(folder, changed)
        try:
            dataset, began = mock.Mock(Dataset), time.time()
            begun = train.Run(changed, dataset, folder, 10, last=8, began=began, kept=Future())
            weights = vgg_weights.load("random", 2)
            train.loop(begun, checkpoints, 0, test_checkpoint.state_of(0, config), weights)
        finally:
            checkpoints.close()

    return run


def good_until(loss, parameter):
    """A step function whose loss or parameters are not finite from these steps on."""

    # Not compiled, and computes with numbers of the host.
    @jax.transfer_guard("allow")
    def step(state, weights, batch):
        number = int(state.step) + 1
        poison = jnp.nan if number >= parameter else 0.0
        ema = jax.tree.map(lambda x: x + poison, state.ema)
        losses = {"mask": jnp.float32(np.inf if number >= loss else 1), "alignment": jnp.ones(())}
        return dataclasses.replace(state, step=state.step + 1, ema=ema), losses

    return step


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(loop, tmp_path):
    with pytest.raises(UserError, match=r"the loss mask is inf at step 7; checkpoint 6 is good"):
        loop(good_until(loss=7, parameter=99), checkpoint_every=2)
    restored = checkpoint.restore_for_inference(tmp_path)
    assert restored.step == 6
    assert all_finite(restored.state)


@pytest.fixture
def watched(monkeypatch):
    """Steps that are measured."""
    seen = []

    class PeriodicValidation:
        def __init__(self, *_):
            pass

        def begin(self, step, state):
            seen.append(step)

        def __call__(self, step, state, board):
            seen.append(step)

        def close(self):
            seen.append("closed")

    monkeypatch.setattr(train, "PeriodicValidation", PeriodicValidation)
    return seen


def test_a_run_is_measured_at_intervals_and_at_its_end(loop, watched):
    loop(good_until(loss=99, parameter=99), evaluate_every=3)
    assert watched == [0, 3, 6, 8, "closed"]


@pytest.fixture
def happened(monkeypatch, watched):
    """What a run does at its steps, in order."""
    save = Checkpoints.save

    def saves(self, step, state, **options):
        if done := save(self, step, state, **options):
            watched.append(f"saved {step}")
        return done

    monkeypatch.setattr(Checkpoints, "save", saves)
    monkeypatch.setattr(hooks.Pictures, "__call__", lambda _, step, *__: watched.append("picture"))
    monkeypatch.setattr(hooks.TensorBoard, "flush", lambda _: watched.append("flushed"))
    return watched


def test_a_step_is_saved_after_all_else_of_it_is_written(loop, happened):
    """A run that is killed once it is saved resumes after it, and repeats nothing of it."""
    loop(good_until(loss=99, parameter=99), 2, evaluate_every=4, images_every=4)
    of_four = happened[happened.index("saved 2") + 1 : happened.index("saved 4") + 1]
    assert of_four == ["picture", 4, "flushed", "saved 4"]
    assert happened[-5:] == ["picture", 8, "flushed", "saved 8", "closed"]


def test_a_step_is_saved_first_where_the_run_is_told_to_stop(loop, happened):
    """The machine may be taken away; the next start measures what was not measured any more."""
    good = good_until(loss=99, parameter=99)

    def step(state, weights, batch):
        if len(happened) and happened[-1] == "saved 2":
            os.kill(os.getpid(), signal.SIGTERM)
        return good(state, weights, batch)

    loop(step, 2, evaluate_every=3, images_every=3)
    after = happened[happened.index("saved 2") + 1 :]
    assert after == ["saved 3", "picture", 3, "flushed", "closed"]


def test_what_is_not_finite_is_not_measured(loop, watched):
    with pytest.raises(UserError, match="a parameter is not finite at step 7"):
        loop(good_until(loss=99, parameter=7), evaluate_every=7)
    assert watched == [0]


def test_an_accidental_transfer_in_a_step_is_an_error(loop):
    good, add = good_until(loss=99, parameter=99), jax.jit(jnp.add)

    def step(state, weights, batch):
        state, losses = good(state, weights, batch)
        # A transfer from the host in each step.
        return state, losses | {"mask": add(losses["mask"], np.ones((), np.float32))}

    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        loop(step)


class _FullDisk:
    """A TensorBoard writer that fails when something is written, in the writer's thread."""

    def __init__(self, *_):
        pass

    def write_scalars(self, **_):
        raise OSError(28, "No space left on device")

    def flush(self):
        pass

    close = flush


@pytest.mark.parametrize("broken", ["folder", "disk"])
def test_a_run_goes_on_without_tensorboard(broken, loop, tmp_path, monkeypatch, capsys):
    if broken == "folder":
        (tmp_path / "tensorboard").write_text("a file")
    else:
        monkeypatch.setattr(hooks.metric_writers, "SummaryWriter", _FullDisk)
    loop(good_until(loss=99, parameter=99))
    assert checkpoint.restore_for_inference(tmp_path).step == 8
    said = [line for line in capsys.readouterr().out.splitlines() if "TensorBoard files" in line]
    assert len(said) == 1
    assert {"folder": "Not a directory", "disk": "No space left"}[broken] in said[0]


def test_a_second_run_in_the_same_folder_is_refused(tmp_path):
    folder = epath.Path(tmp_path / "run")
    refused = pytest.raises(UserError, match=f"in use by process {os.getpid()}; stop that run")
    with workdir.in_use(folder), refused, workdir.in_use(folder):
        raise AssertionError
    with workdir.in_use(folder):
        pass


def test_a_run_that_could_not_start_leaves_the_folder_free(loop, tmp_path):
    def does_not_fit(*_):
        raise UserError("pictures do not fit")

    with pytest.raises(UserError, match="do not fit"):
        loop(does_not_fit)
    assert not (tmp_path / "settings.json").exists()
    loop(good_until(loss=99, parameter=99))
    assert settings.from_json((tmp_path / "settings.json").read_text()).train.checkpoint_every == 50


def test_converted_weights_are_trained_further(tmp_path, monkeypatch):
    """Converted weights are a checkpoint of step 0."""
    config = dataclasses.replace(
        test_checkpoint.SETTINGS,
        vgg=settings.VggSettings("random", 2),
        train=settings.TrainSettings(batch_size=1),
    )
    converted = test_checkpoint.state_of(3, config)
    checkpoints = Checkpoints(epath.Path(tmp_path), config)
    checkpoints.save(0, converted, force=True)
    checkpoints.close()
    begun = []

    def loop(run, checkpoints, start, state, weights):
        begun.append((start, state))
        return 0

    dataset = types.SimpleNamespace(settings=config.data, training=range(8))
    monkeypatch.setattr(train, "prepare_data", lambda _: dataset)
    monkeypatch.setattr(train, "loop", loop)
    assert train.train(config, epath.Path(tmp_path)) == 0
    [(start, state)] = begun
    assert start == 0
    test_checkpoint.assert_same(state, converted)


def test_a_bad_state_is_never_saved_even_if_the_losses_look_good(loop, tmp_path):
    with pytest.raises(UserError, match=r"a parameter is not finite at step 6; checkpoint 4"):
        loop(good_until(loss=99, parameter=5), checkpoint_every=2)
    assert checkpoint.restore_for_inference(tmp_path).step == 4


def test_slow_data_are_said_once_and_the_time_is_split(loop, monkeypatch, tmp_path, capsys):
    def slow():
        while True:
            time.sleep(0.1)
            yield 1

    monkeypatch.setattr(train.pipeline, "training_batches", lambda *_, **__: slow())
    # Between saves, which take long on a slow machine, there are steps that only wait.
    loop(good_until(loss=99, parameter=99), checkpoint_every=4, log_every=2)
    out = capsys.readouterr().out
    assert out.count("data are slower than the devices") == 1
    [day, second] = re.findall(
        r"step 8/8 \(100 %\)  (\S+) (\S+)  .* s/step \(data \d+ %, host \d+ %, device", out
    )[0]
    said = datetime.datetime.fromisoformat(f"{day} {second}")
    assert abs((datetime.datetime.now() - said).total_seconds()) < 600
    assert "MFU" not in out
    steps = json.loads((tmp_path / "goodput.json").read_text())["seconds"]
    assert list(steps) == ["0", "4", "8"]
    seconds = list(steps.values())
    assert seconds[0] == 0
    assert seconds == sorted(seconds)
    [file] = (tmp_path / "tensorboard").glob("events.*")
    values = [(x.step, y) for x in EventFileLoader(str(file)).Load() for y in x.summary.value]
    shares = {x: tensor_util.make_ndarray(y.tensor) for x, y in values if y.tag == "data_share"}
    # One curve, of all steps that are logged.
    assert list(shares) == [2, 4, 6, 8]
    assert 0.2 < max(shares.values()) <= 1


def test_a_saturated_discriminator_is_said(loop, monkeypatch, capsys):
    good = good_until(loss=99, parameter=99)

    @jax.transfer_guard("allow")
    def step(state, weights, batch):
        state, losses = good(state, weights, batch)
        zero = losses["alignment"] * 0
        return state, losses | {
            "adversarial": zero + 30,
            "discriminator_fake": zero,
            "discriminator_real": zero,
        }

    patient = [alarm._replace(steps=min(alarm.steps, 4)) for alarm in alarms.ALARMS]
    monkeypatch.setattr(alarms, "ALARMS", patient)
    loop(step, log_every=2)
    assert capsys.readouterr().out.count("the discriminator is saturated") == 1


def test_a_step_that_hangs_is_written_down(loop, tmp_path, capfd):
    good, stacks = good_until(loss=99, parameter=99), tmp_path / "stacks_0.txt"

    def stuck_step(state, weights, batch):
        end = time.monotonic() + LIMIT_S
        while int(state.step) == 4 and not stacks.exists() and time.monotonic() < end:
            time.sleep(0.05)
        return good(state, weights, batch)

    loop(jax.transfer_guard("allow")(stuck_step), hang_minutes=0.6 / 60)
    assert "in stuck_step" in stacks.read_text()
    # On a loaded machine, saving may take as long.
    assert "warning: no step has ended for" in capfd.readouterr().err


def test_some_steps_are_traced(loop, tmp_path, capsys):
    loop(good_until(loss=99, parameter=99), profile="3:4")
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert "trace of steps" in capsys.readouterr().out
