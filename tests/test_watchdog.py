import threading
import time
import types

import pytest
from etils import epath

from cocosnet_jax import watchdog
from cocosnet_jax.watchdog import Watchdog
from tests.conftest import LIMIT_S

LIMIT_MINUTES = 0.5


@pytest.fixture
def reports(tmp_path, monkeypatch, capfd):
    """The number of reports while steps end at the given times, in seconds, until another time.

    Time passes only while the watchdog waits.
    """

    def count(ends, until, minutes=LIMIT_MINUTES):
        now, left = 0.0, sorted(ends)
        dog = Watchdog(epath.Path(tmp_path), minutes)

        def wait(seconds):
            nonlocal now
            wakes = now + seconds
            while left and left[0] <= wakes:
                now = left.pop(0)
                dog.beat()
            now = wakes
            return now >= until

        clock = types.SimpleNamespace(monotonic=lambda: now, strftime=time.strftime)
        monkeypatch.setattr(watchdog, "time", clock)
        monkeypatch.setattr(dog, "_done", types.SimpleNamespace(wait=wait))
        dog._watch()
        return capfd.readouterr().err.count("warning: no step has ended for")

    return count


def test_a_hang_is_reported_once(reports):
    assert reports([0], 300) == 1
    # Two hangs, with a step between them.
    assert reports([0, 100], 300) == 2


def test_steps_in_time_and_compilation_are_no_hang(reports, tmp_path):
    assert reports(range(0, 300, 20), 300) == 0
    # Before the first step.
    assert reports([], 300) == 0
    assert list(tmp_path.iterdir()) == []


def test_long_steps_have_more_time(reports, monkeypatch):
    monkeypatch.setattr(watchdog, "TIMES_MEAN", 5.0)
    steps = [0, 20, 40, 60]
    # Five times 20 s, and the watchdog looks every 7.5 s.
    assert reports([*steps, 155], 160) == 0
    assert reports([*steps, 175], 180) == 1


def wait_for_release(release):
    """A function whose name is to be found in the stacks."""
    release.wait()


def hang(folder, minutes, ended):
    """Runs a watchdog while a thread waits, until `ended` says so."""
    release = threading.Event()
    thread = threading.Thread(target=wait_for_release, args=(release,))
    thread.start()
    end = time.monotonic() + LIMIT_S
    try:
        with Watchdog(epath.Path(folder), minutes) as dog:
            dog.beat()
            while not ended() and time.monotonic() < end:
                time.sleep(0.02)
    finally:
        release.set()
        thread.join()


def test_a_run_that_hangs_says_where(tmp_path, capfd):
    file = tmp_path / "stacks_0.txt"
    hang(tmp_path, 0.001, lambda: file.exists() and file.stat().st_size)
    said = capfd.readouterr().err
    assert "warning: no step has ended for" in said
    assert f"the stacks of all threads are above and in {file}" in said
    for text in (said, file.read_text()):
        assert "in wait_for_release" in text
        assert "in hang" in text


def test_a_folder_that_cannot_be_written(tmp_path, capfd):
    (tmp_path / "file").write_text("")
    said = []

    def ended():
        said.append(capfd.readouterr().err)
        return "cannot be written" in "".join(said)

    hang(tmp_path / "file", 0.001, ended)
    assert "in wait_for_release" in "".join(said)
    assert "stacks_0.txt cannot be written" in "".join(said)


def test_a_bucket_that_fails_is_said_too(tmp_path, capfd, monkeypatch):
    """Errors of buckets are TensorFlow's."""

    def fail(*_):
        raise RuntimeError("the bucket is away")

    monkeypatch.setattr(type(epath.Path(tmp_path)), "write_bytes", fail)
    said = []

    def ended():
        said.append(capfd.readouterr().err)
        return "no step has ended" in "".join(said)

    hang(tmp_path, 0.001, ended)
    assert "stacks_0.txt cannot be written: the bucket is away" in "".join(said)


def test_no_minutes_are_no_watch(tmp_path):
    before = threading.active_count()
    with Watchdog(epath.Path(tmp_path), 0) as dog:
        dog.beat()
        assert threading.active_count() == before
