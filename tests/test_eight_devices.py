"""Training on eight simulated devices equals training on one (tests/eight_devices.py)."""

import json
import socket
import subprocess
import sys

import pytest

from tests.conftest import LIMIT_S, ROOT


def start(program, devices, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.eight_devices", *map(str, arguments)],
        cwd=ROOT,
        env=program.environment(devices=devices),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process):
    """The line of JSON of a process that has ended well; None if it printed none."""
    said, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, errors
    # Gloo, which connects the processes, prints lines of its own.
    found = [line for line in said.splitlines() if line.startswith("{")]
    return json.loads(*found) if found else None


def assert_equal(found):
    assert found["compiled"] == 1
    assert found["types"] == ["float64", "int32"]
    for losses in found["losses"]:
        assert {"mask", "regularisation", "alignment", "discriminator_real"} <= losses.keys()
        for name, (many, one) in losses.items():
            assert many == pytest.approx(one, rel=1e-7), name
    for name, differ in found["differ"].items():
        assert found["moved"][name] > 1e-5
        assert differ < 1e-6 * found["moved"][name], name


# Minutes: XLA compiles the training step for eight devices and for one.
@pytest.mark.parity
def test_eight_devices_compute_what_one_computes(program):
    found = ended(start(program, 8))
    assert found["devices"] == 8
    assert found["rows_shared_by"] == [1, 1, 8, 8]
    # Images are in [-1, 1]; the softmax over positions amplifies rounding.
    error, rounding = found["rows_differ"]
    assert error < 20 * rounding < 1e-6
    # An eighth, and the rows beside it.
    assert found["share_of_padded_rows"] == pytest.approx(0.15, abs=0.01)
    # The kernels of the correlation: float32.
    assert found["kernels_differ"] < 1e-5 < 1e-2 < found["kernels_moved"]
    assert found["kernels_communicate"] == []
    # The kernels of SPADE's modulation, with gradients of biases, which all devices share.
    assert found["modulated_differ"] < 1e-5
    # Those of instance norm, with that of a slope.
    assert found["normalised_differ"] < 1e-5
    assert found["samples"] == list(range(16))
    assert_equal(found["compared"])
    for name, differ in found["differ_resumed"].items():
        # Saved on eight devices, resumed on one.
        assert differ < 1e-5 * found["compared"]["moved"][name], name


@pytest.mark.long
def test_two_processes_with_four_devices_each_compute_what_one_computes_in_small_batches(
    program, tmp_path
):
    file = tmp_path / "one.pickle"
    assert ended(start(program, 1, file)) == {}
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    first, second = (start(program, 4, file, f"localhost:{port},2,{i}") for i in range(2))
    found = ended(first)
    assert ended(second) is None
    assert (found["devices"], found["processes"]) == (8, 2)
    assert_equal(found["compared"])
