import os
import socket
import subprocess
import sys

import jax
import pytest

from cocosnet_jax import distributed
from cocosnet_jax.errors import ProcessError
from tests.conftest import LIMIT_S, ROOT


def joining(port, index):
    line = (
        f"from cocosnet_jax import distributed; distributed.join('localhost:{port},2,{index}', 2)"
    )
    return subprocess.Popen(
        [sys.executable, "-c", line], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )


def test_a_process_that_never_joins_is_an_error_in_the_others():
    with socket.socket() as one, socket.socket() as other:
        one.bind(("localhost", 0))
        other.bind(("localhost", 0))
        ports = [one.getsockname()[1], other.getsockname()[1]]
    # The first without a second, and the second without a first.
    processes = [joining(port, index) for index, port in enumerate(ports)]
    errors = [process.communicate(timeout=LIMIT_S)[1] for process in processes]
    assert [process.returncode for process in processes] == [os.EX_TEMPFAIL] * 2, errors
    waited = f"process 0 waited at localhost:{ports[0]}, but not all of 2 processes have joined"
    assert f"error: --distributed: {waited} within 2 s. Check that" in errors[0]
    alone = (
        f"error: --distributed: process 1 of 2 got no answer from process 0 at localhost:{ports[1]}"
    )
    assert alone in errors[1]
    for text in errors:
        assert "--join_timeout" in text
        assert "Traceback" not in text
        assert "Check failure" not in text


def test_a_barrier_that_nobody_else_reaches_is_an_error(monkeypatch):
    limits = []

    def barrier(key, timeout_ms):
        limits.append(timeout_ms)
        raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: Barrier timed out")

    monkeypatch.setattr(distributed.ocp.multihost, "get_barrier_sync_fn", lambda: barrier)
    with pytest.raises(
        ProcessError, match=r"waited 1 hours for all to get here: pictures are written;"
    ):
        distributed.wait_for_all("pictures are written")
    with pytest.raises(ProcessError, match="waited 168 hours"):
        distributed.wait_for_all("data are prepared", hours=168)
    assert limits == [3_600_000, 604_800_000]
