import json
import types

import jax
import jax.numpy as jnp
import pytest
from etils import epath

from cocosnet_jax import watching
from cocosnet_jax.watching import FILE, Clock, Goodput, Speed


@pytest.fixture
def time(monkeypatch):
    """The clock's time, which only what is measured moves."""
    now = types.SimpleNamespace(seconds=1000.0)
    clock = types.SimpleNamespace(monotonic=lambda: now.seconds, time=lambda: now.seconds)
    monkeypatch.setattr(watching, "time", clock)

    def wait(results):
        now.seconds += results or 0.0

    # Results are the seconds that the device still takes.
    monkeypatch.setattr(watching.jax, "block_until_ready", wait)
    return now


def run(time, clock, steps, *, data, dispatch, device, pause):
    def slow():
        while True:
            time.seconds += data
            yield 0

    batches = clock.batches(slow())
    for _ in range(steps):
        next(batches)
        time.seconds += dispatch
        clock.dispatched(device)
    clock.wait()
    time.seconds += pause


def test_time_is_split_and_nothing_is_lost(time):
    clock = Clock()
    run(time, clock, 4, data=0.5, dispatch=0.25, device=2.0, pause=3.0)
    spent = clock.take()
    # The device is waited for after the dispatch of the next step, or at the end.
    assert spent == (4 * 0.5, 4 * 0.25 + 3.0, 4 * 2.0, 3.0)
    assert spent.total == time.seconds - 1000
    assert clock.computed == 4 * 0.25 + 4 * 2.0
    assert clock.take() == (0, 0, 0, 0)


def test_the_step_just_begun_is_not_waited_for(monkeypatch):
    waited: list[object] = []
    monkeypatch.setattr(watching.jax, "block_until_ready", waited.append)
    clock = Clock()
    for step in range(3):
        clock.dispatched(step)
    assert waited == [None, 0, 1]
    clock.wait()
    assert waited == [None, 0, 1, 2]


def test_speed(time, monkeypatch, tmp_path):
    monkeypatch.setattr(watching.jax, "device_count", lambda: 2)
    monkeypatch.setattr(watching.operations, "peak", lambda _: 1e12)
    speed = Speed(6, Goodput(epath.Path(tmp_path), 0, began=980.0), products=8e11)
    run(time, speed.clock, 4, data=0.5, dispatch=0.25, device=2.0, pause=1.0)
    numbers = speed.report(4)
    assert numbers["images_per_second"] == 24 / 12
    assert numbers["images_per_second_per_chip"] == 12 / 12
    assert numbers["seconds_per_step"] == 3
    parts = [numbers[f"seconds_per_step/{name}"] for name in ("data", "host", "device")]
    assert parts == [0.5, 0.5, 2.0]
    assert numbers["data_share"] == 2 / 12
    # 8e11 operations in 3 s, of 2 x 1e12 a second.
    assert numbers["mfu"] == pytest.approx(8e11 / 3 / 2e12)
    # 9 s of steps, 32 s after the start.
    assert numbers["goodput"] == 9 / 32
    line = watching.describe(numbers | {"memory/peak_gib": 11.25})
    assert line == (
        "2 images/s (1 per chip)  3 s/step (data 17 %, host 17 %, device 67 %)  MFU 13.3%"
        "  memory 11.2 GiB  goodput 28%"
    )


def test_mfu_is_left_out_where_the_peak_is_unknown(time, tmp_path):
    speed = Speed(6, Goodput(epath.Path(tmp_path), 0, began=980.0), products=8e11)
    run(time, speed.clock, 1, data=0, dispatch=1, device=1, pause=0)
    assert "mfu" not in speed.report(1)


def test_memory_of_the_fullest_device(monkeypatch):
    def device(used, most):
        statistics = {"bytes_in_use": used << 30, "peak_bytes_in_use": most << 30}
        return types.SimpleNamespace(memory_stats=lambda: statistics)

    unknown = types.SimpleNamespace(memory_stats=lambda: None)
    monkeypatch.setattr(watching.jax, "local_devices", lambda: [device(2, 5), device(3, 4)])
    assert watching.memory() == {"memory/in_use_gib": 3, "memory/peak_gib": 5}
    monkeypatch.setattr(watching.jax, "local_devices", lambda: [unknown])
    assert watching.memory() == {}


def test_goodput_survives_restarts_and_does_not_count_repeated_steps(time, tmp_path):
    folder = epath.Path(tmp_path)
    first = Goodput(folder, 0, began=1000.0)
    first.save(0, 0.0)
    first.save(10, 40.0)
    first.save(20, 80.0)
    time.seconds = 1100.0
    # Up to step 25, whose steps after 20 are lost in the crash.
    assert first.share(100.0) == 1
    time.seconds = 1200.0
    second = Goodput(folder, 20, began=1200.0)
    assert second.share(0.0) == 80 / 200
    second.save(30, 45.0)
    time.seconds = 1400.0
    # Step 30's checkpoint was damaged, and 20's.
    third = Goodput(folder, 10, began=1400.0)
    assert third.share(0.0) == 40 / 400
    third.save(20, 60.0)
    assert json.loads((folder / FILE).read_text()) == {
        "began": 1000.0,
        "seconds": {"0": 0.0, "10": 40.0, "20": 100.0},
    }


@pytest.mark.parametrize("content", ["{", "[]", '{"began": "soon"}', '{"began": 5}'])
def test_a_damaged_file_is_reported_and_begun_anew(time, tmp_path, content, capsys):
    (tmp_path / FILE).write_text(content)
    time.seconds = 1010.0
    goodput = Goodput(epath.Path(tmp_path), 5, began=1000.0)
    assert goodput.share(5.0) == 0.5
    assert f"{tmp_path / FILE} cannot be read" in capsys.readouterr().out


def test_a_full_disk_does_not_end_a_run(time, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    Goodput(epath.Path(tmp_path / "file"), 5, began=1000.0).save(6, 1.0)
    assert "goodput: " in capsys.readouterr().out


def test_waiting_for_the_step_before_costs_little():
    """Of a step of 10 ms, 1 % would be 100 microseconds."""
    import time as real

    clock, result = Clock(), jax.block_until_ready(jnp.ones(()))
    batches = clock.batches(iter(int, 1))
    seconds = []
    # The fastest round, by this thread's own time: a loaded machine is no failure.
    for _ in range(10):
        began = real.thread_time()
        for _ in range(100):
            next(batches)
            clock.dispatched(result)
        seconds.append(real.thread_time() - began)
    assert min(seconds) < 0.01
