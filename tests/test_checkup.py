import dataclasses
import shutil
import tomllib
import types
from pathlib import Path

import jax
import pytest

from cocosnet_jax import checkup, settings, workdir
from cocosnet_jax.checkpoint import absolute
from cocosnet_jax.checkup import Finding
from cocosnet_jax.errors import StorageError
from cocosnet_jax.settings import DataSettings, Settings, TrainSettings, VggSettings
from cocosnet_jax.state import state_shapes
from tests.conftest import PLAIN_LOSS, PLAIN_MODEL, ROOT

GIB = checkup.GIB


@pytest.fixture
def config(tmp_path):
    """A run that could start."""
    data = DataSettings(
        dataset="toy_scenes",
        data_dir=str(tmp_path / "prepared"),
        image_size=64,
        load_size=64,
        channels=11,
        exemplar_list="random",
        validation_exemplar_list="random",
    )
    model, loss = settings.ModelSettings(**PLAIN_MODEL), settings.LossSettings(**PLAIN_LOSS)
    return Settings(
        data=data, model=model, loss=loss, vgg=VggSettings("random"), train=TrainSettings()
    )


def problems(findings):
    return [f"{one.about}: {one.text}" for one in findings if one.state == "problem"]


def test_a_machine_and_a_run_without_problems(config, tmp_path, capsys):
    found = list(checkup.examine(config, str(tmp_path / "run")))
    assert problems(found) == []
    about = {one.about for one in found}
    assert about == {
        *("versions", "devices", "memory", "environment", "compilation cache"),
        *("batch", "weights", "data", "workdir"),
    }
    text = "\n".join(f"{one.state} {one.text}" for one in found)
    for part in (
        f"ok jax {jax.__version__}",
        f"ok {jax.local_device_count()} x cpu (cpu)",
        "note config.vgg.weights=random: an untrained VGG",
        "note not prepared yet: training does it first",
        "4 more checkpoints of 0.0",
    ):
        assert part in text
    # Nothing is left behind.
    assert list(tmp_path.iterdir()) == []
    assert checkup.report(found) == 0
    out = capsys.readouterr().out
    assert out.endswith(f"0 problem(s), {sum(one.state == 'note' for one in found)} note(s)\n")


def test_a_problem_is_the_exit_status(capsys):
    assert checkup.report([Finding("problem", "disk", "full"), Finding("note", "data", "few")]) == 1
    lines = ["problem disk: full", "note    data: few", "1 problem(s), 1 note(s)"]
    assert capsys.readouterr().out.splitlines() == lines


def test_the_versions_are_those_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = dict(
        line.split(" ;")[0].replace("[epath]", "").split(">=") for line in project["dependencies"]
    )
    tried = checkup.TRIED | dict.fromkeys(checkup.TENSORFLOW, checkup.TRIED_TENSORFLOW)
    for name, (low, high) in tried.items():
        assert required[name].split(",<")[1] == high
        assert required[name].split(",")[0].startswith(low)
    low, high = (".".join(map(str, version)) for version in checkup.TRIED_PYTHON)
    assert project["requires-python"] == f">={low},<{high}"


@pytest.mark.parametrize(
    ("version", "state", "said"),
    [
        ("0.10.2", "ok", "jax 0.10.2"),
        ("0.12.0.1", "ok", "jax 0.12.0.1"),
        ("0.9.9", "problem", "jax 0.9.9 was not tested; use a version from 0.10.2 to below 0.13"),
        ("0.13.0.dev1", "note", "jax 0.13.0.dev1 was not tested"),
        (None, "problem", "jax is not installed: pip install"),
    ],
)
def test_versions(version, state, said, monkeypatch):
    real = checkup._installed
    monkeypatch.setattr(checkup, "_installed", lambda n: version if n == "jax" else real(n))
    [found] = [one for one in checkup.versions() if one.text.startswith("jax ")]
    assert found.state == state
    assert found.text.startswith(said)


def test_broken_devices(monkeypatch):
    def fails():
        raise RuntimeError("Unable to initialize backend 'cuda':\n no driver")

    monkeypatch.setattr(jax, "local_devices", fails)
    monkeypatch.setattr(checkup, "host_memory", lambda: iter(()))
    [found] = problems(checkup.examine(None, ""))
    assert found.startswith("devices: JAX finds no device (Unable to initialize backend")
    assert "JAX_PLATFORMS" in found


def test_an_accelerator_that_jax_does_not_see(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    real = Path.glob
    devices = {"nvidia[0-9]*": [Path("/dev/nvidia0")]}

    def glob(self, pattern):
        return devices.get(pattern, []) if self == Path("/dev") else real(self, pattern)

    monkeypatch.setattr(Path, "glob", glob)
    [found] = problems(checkup.devices())
    assert f'pip install "jax[cuda13]=={jax.__version__}"' in found


def test_memory_of_devices(monkeypatch):
    statistics = {"bytes_limit": 16 * GIB, "bytes_in_use": 2 * GIB}
    device = types.SimpleNamespace(
        device_kind="TPU v4", platform="tpu", memory_stats=lambda: statistics
    )
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert "2.0 of 16.0 GiB in use" in list(checkup.devices())[1].text


def test_environment(monkeypatch):
    monkeypatch.setenv("JAX_DEBUG_NANS", "True")
    monkeypatch.setenv("JAX_DISABLE_JIT", "0")
    monkeypatch.setenv("SLURM_NTASKS", "8")
    found = {one.text: one.state for one in checkup.environment()}
    assert found["JAX_DEBUG_NANS=True makes every step slow"] == "note"
    assert found["JAX_DISABLE_JIT=0"] == "ok"
    assert found["a launcher sets SLURM_NTASKS: give --distributed=auto to main"] == "note"


def test_compilation_cache(tmp_path, monkeypatch):
    def at(folder):
        monkeypatch.setattr(jax, "config", types.SimpleNamespace(jax_compilation_cache_dir=folder))
        return list(checkup.compilation_cache())

    [none] = at(None)
    assert (none.state, none.text[:5]) == ("note", "none:")
    (tmp_path / "program").write_bytes(bytes(100))
    [some] = at(str(tmp_path))
    assert some.state == "ok"
    [wrong] = problems(at("/proc/1/cache"))
    assert "cannot be written to" in wrong


@pytest.mark.parametrize(
    ("section", "fields", "said"),
    [
        ("train", {"batch_size": 6}, "batch: config.train.batch_size is 6, which does not split"),
        (
            "train",
            {"batch_size": 8, "accumulate": 4},
            "batch: config.train.batch_size is 8, which does not split evenly over 4 small batches",
        ),
        ("vgg", {"weights": "no.pth"}, "weights: config.vgg.weights is 'no.pth'"),
        ("vgg", {"weights": ""}, "weights: config.vgg.weights is empty"),
        ("data", {"source": "/nowhere"}, "data: config.data.source is '/nowhere'"),
        ("data", {"dataset": "ours"}, "data: config.data.dataset is 'ours'; it must be one of"),
        ("data", {"exemplar_list": "no.txt"}, "data: exemplar list no.txt does not exist"),
        ("data", {"data_dir": "/proc/1/data"}, "data: folder /proc/1/data: cannot be written"),
    ],
)
def test_what_a_run_lacks(config, section, fields, said, monkeypatch):
    if "batch_size" in fields:
        monkeypatch.setattr(jax, "device_count", lambda: 4)
        config = dataclasses.replace(config, loss=dataclasses.replace(config.loss, group_size=2))
    changed = dataclasses.replace(getattr(config, section), **fields)
    config = dataclasses.replace(config, **{section: changed})
    [found] = problems(checkup.examine(config, ""))
    assert found.startswith(said)


def test_a_damaged_weight_file(config, tmp_path):
    (tmp_path / "vgg.pth").write_bytes(b"no weights")
    config = dataclasses.replace(config, vgg=VggSettings(str(tmp_path / "vgg.pth")))
    [found] = problems(checkup.examine(config, ""))
    assert found.startswith(f"weights: {tmp_path / 'vgg.pth'}")


def test_weights_that_would_be_fetched(config, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    config = dataclasses.replace(config, vgg=VggSettings("keras"))
    [found] = checkup.weights(config)
    assert found.state == "note"
    assert f"to {tmp_path}/models/vgg19_" in found.text


def test_a_workdir_of_another_run(config, tmp_path):
    other = dataclasses.replace(config, optimiser=settings.OptimiserSettings(beta2=0.5))
    workdir.claim(absolute(tmp_path), other)
    [found] = problems(checkup.examine(config, str(tmp_path)))
    assert "optimiser.beta2: 0.5, 0.9" in found


@pytest.mark.parametrize(
    # In checkpoints: 3 are kept and a new one is complete before the oldest goes; so is the best.
    ("keep_best", "free", "state"),
    [
        ("", 0.5, "problem"),
        ("", 3.5, "note"),
        ("", 4, "ok"),
        ("swd", 5.5, "note"),
        ("swd", 6, "ok"),
    ],
)
def test_the_space_is_what_training_asks_for(
    config, tmp_path, monkeypatch, capsys, keep_best, free, state
):
    train = dataclasses.replace(config.train, evaluate_every=1, keep_best=keep_best)
    config = dataclasses.replace(config, train=train)
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state_shapes(config)))
    usage = types.SimpleNamespace(free=int(free * size))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    *_, found = checkup.run_folder(str(tmp_path), config)
    assert found.state == state
    assert ("GiB are free of" in found.text) == (state != "ok")
    # The same as `workdir.check_space`, which runs call.
    folder = absolute(tmp_path)
    if state == "problem":
        with pytest.raises(StorageError, match="free some space"):
            workdir.check_space(folder, config, size)
    else:
        workdir.check_space(folder, config, size)
        assert ("warning: " in capsys.readouterr().out) == (state == "note")


def test_what_breaks_unexpectedly_is_a_problem_and_the_rest_is_looked_at(monkeypatch):
    def breaks():
        raise KeyError("what")
        yield

    monkeypatch.setattr(checkup, "host_memory", breaks)
    found = list(checkup.examine(None, ""))
    assert problems(found) == ["memory: KeyError: 'what'"]
    assert found[-1].about == "compilation cache"
