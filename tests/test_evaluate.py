"""The command that measures folders of pictures, as a user runs it."""

import json

import numpy as np
import pytest
from PIL import Image


def test_folders_are_measured(program, tmp_path):
    rng = np.random.default_rng(0)
    for name in ("results", "photographs"):
        (tmp_path / name).mkdir()
        for index in range(3):
            pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{index}.png")
    given = [f"--generated={tmp_path}/results", f"--real={tmp_path}/photographs"]
    done = program.run("evaluate", *given, f"--output={tmp_path}/report", devices=2)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "report/metrics.json").read_text())
    assert found["images"] == 3
    assert found["swd"] == pytest.approx((found["swd_32"] + found["swd_16"]) / 2)
    assert f"| SWD | lower | {found['swd']:.2f} | 10.50 |" in done.stdout
    assert "--inception=pt_inception-2015-12-05-6726825d.pth" in done.stdout
