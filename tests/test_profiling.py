import gzip
import json

import jax
import jax.numpy as jnp
import pytest
from etils import epath

from cocosnet_jax import profiling
from cocosnet_jax.errors import UserError
from cocosnet_jax.profiling import Profile
from cocosnet_jax.settings import TrainSettings


def trace(profile, steps):
    double = jax.jit(lambda x: 2 * x)
    x = double(jnp.ones(()))
    for step in steps:
        profile.before(step)
        with jax.profiler.TraceAnnotation(f"step {step}"):
            x = double(x)
        profile.after(step, x)


def test_the_steps_are_traced_and_no_others(tmp_path, capsys):
    profile = Profile("3:4", epath.Path(tmp_path), start=1, last=8)
    trace(profile, range(2, 7))
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert f"xprof --logdir={tmp_path / 'profile'}" in out
    [file] = tmp_path.glob("profile/**/*.trace.json.gz")
    names = {
        event.get("name") for event in json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    }
    assert {f"step {step}" for step in range(2, 7)} & names == {"step 3", "step 4"}
    assert list(tmp_path.glob("profile/**/*.xplane.pb"))


def test_a_run_that_ends_early_writes_its_trace(tmp_path, capsys):
    profile = Profile("3:9", epath.Path(tmp_path), start=0, last=20)
    trace(profile, range(1, 5))
    profile.close()
    assert list(tmp_path.glob("profile/**/*.xplane.pb"))
    profile.close()
    assert capsys.readouterr().out.count("trace of steps") == 1


@pytest.mark.parametrize(("start", "last"), [(4, 8), (0, 2)])
def test_steps_that_a_start_does_not_have_are_said(tmp_path, capsys, start, last):
    Profile("3:4", epath.Path(tmp_path), start=start, last=last)
    assert "nothing is traced" in capsys.readouterr().out


def test_a_trace_that_fails_does_not_end_a_run(tmp_path, capsys, monkeypatch):
    def fails(*_):
        raise RuntimeError("No space left on device")

    for name in ("start_trace", "stop_trace"):
        with monkeypatch.context() as patch:
            patch.setattr(profiling.jax.profiler, "start_trace", lambda *_: None)
            patch.setattr(profiling.jax.profiler, name, fails)
            trace(Profile("1:2", epath.Path(tmp_path), start=0, last=8), range(1, 5))
        out = capsys.readouterr().out
        assert out.count("cannot be traced: No space left on device") == out.count("\n") == 1


@pytest.mark.parametrize("value", ["5", "5:", "a:b", "0:3", "7:5", "1:101", "-1:2"])
def test_wrong_steps_are_an_error(value):
    with pytest.raises(
        UserError, match=rf"config\.train\.profile is '{value}'; it must be FIRST:LA"
    ):
        TrainSettings(profile=value)


def test_right_steps_are_none():
    assert TrainSettings(profile="1:100").profile == "1:100"
