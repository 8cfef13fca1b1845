import threading
import time

from etils import epath

from cocosnet_jax import watchdog
from cocosnet_jax.watchdog import Watchdog

LIMIT_MINUTES = 0.5 / 60


def wait_for_stacks(release):
    """A function whose name is to be found in the stacks."""
    release.wait()


def hang(folder, capfd, seconds, beats=1):
    """What is written while a thread waits."""
    release = threading.Event()
    thread = threading.Thread(target=wait_for_stacks, args=(release,))
    thread.start()
    try:
        with Watchdog(epath.Path(folder), LIMIT_MINUTES) as dog:
            for _ in range(beats):
                dog.beat()
                time.sleep(seconds)
    finally:
        release.set()
        thread.join()
    return capfd.readouterr().err


def test_a_run_that_hangs_says_where_once_per_hang(tmp_path, capfd):
    said = hang(tmp_path, capfd, 1.5)
    file = tmp_path / "stacks_0.txt"
    assert said.count("warning: no step has ended for") == 1
    assert f"the stacks of all threads are above and in {file}" in said
    for text in (said, file.read_text()):
        assert "in wait_for_stacks" in text
        assert "in hang" in text
    # Two hangs, with a step between them.
    assert hang(tmp_path, capfd, 1.5, beats=2).count("warning: ") == 2


def test_steps_in_time_and_compilation_are_no_hang(tmp_path, capfd):
    assert hang(tmp_path, capfd, 0.01, beats=20) == ""
    # Before the first step.
    with Watchdog(epath.Path(tmp_path), LIMIT_MINUTES):
        time.sleep(1)
    assert capfd.readouterr().err == ""
    assert list(tmp_path.iterdir()) == []


def test_long_steps_have_more_time(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(watchdog, "TIMES_MEAN", 5.0)
    with Watchdog(epath.Path(tmp_path), LIMIT_MINUTES) as dog:
        for seconds in (0.3, 0.3, 1.0):
            dog.beat()
            time.sleep(seconds)
    assert capfd.readouterr().err == ""


def test_no_minutes_are_no_watch(tmp_path, capfd):
    with Watchdog(epath.Path(tmp_path), 0) as dog:
        dog.beat()
        time.sleep(1)
    assert capfd.readouterr().err == ""


def test_a_folder_that_cannot_be_written(tmp_path, capfd):
    (tmp_path / "file").write_text("")
    said = hang(tmp_path / "file", capfd, 1.5)
    assert "in wait_for_stacks" in said
    assert "stacks_0.txt cannot be written" in said
