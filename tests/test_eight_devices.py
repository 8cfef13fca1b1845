"""Training on eight simulated devices equals training on one (tests/eight_devices.py)."""

import json
import subprocess
import sys

import pytest

from tests.conftest import LIMIT_S, ROOT


# Minutes: XLA compiles the training step for eight devices and for one.
@pytest.mark.parity
def test_eight_devices_compute_what_one_computes(program):
    done = subprocess.run(
        [sys.executable, "-m", "tests.eight_devices"],
        cwd=ROOT,
        env=program.environment(devices=8),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["devices"] == 8
    assert found["rows_shared_by"] == [1, 1, 8, 8]
    assert found["rows_differ"] < 1e-10
    assert found["samples"] == list(range(16))
    assert found["compiled"] == 1
    assert found["types"] == ["float64", "int32"]
    for losses in found["losses"]:
        assert {"mask", "alignment", "discriminator_real"} <= losses.keys()
        for name, (many, one) in losses.items():
            assert many == pytest.approx(one, rel=1e-7), name
    for name, moved in found["moved"].items():
        assert moved > 1e-5
        assert found["differ"][name] < 1e-6 * moved, name
        # Saved on eight devices, resumed on one.
        assert found["differ_resumed"][name] < 1e-5 * moved, name
