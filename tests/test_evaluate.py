"""The command that measures folders of pictures, as a user runs it."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.conftest import STEPS


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("results", "others", "photographs"):
        (tmp_path / name).mkdir()
        for index in range(3):
            pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{index}.png")
    return tmp_path


def test_folders_are_measured(program, folder):
    given = [f"--generated={folder}/results", f"--real={folder}/photographs"]
    done = program.run("evaluate", *given, f"--output={folder}/report", devices=2)
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "report/metrics.json").read_text())
    assert found["images"] == 3
    assert found["swd"] == pytest.approx((found["swd_32"] + found["swd_16"]) / 2)
    assert f"| SWD | lower | {found['swd']:.2f} | 10.50 |" in done.stdout
    assert "--inception=pt_inception-2015-12-05-6726825d.pth" in done.stdout


def test_results_do_not_go_among_the_pictures(program, folder):
    given = f"--generated={folder}/results", f"--real={folder}/photographs"
    done = program.run("evaluate", *given, f"--output={folder}/photographs/")
    assert done.returncode == 2
    assert done.stderr == "error: --output and --real are one folder; name another --output\n"


def test_nothing_is_fetched_for_pictures_that_do_not_belong_together(program, folder, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(folder / "keras"))
    (folder / "photographs/0.png").unlink()
    given = [f"--generated={folder}/results", f"--real={folder}/photographs", "--vgg=keras"]
    done = program.run("evaluate", *given, f"--output={folder}/report")
    assert done.returncode == 2
    assert f"--real={folder}/photographs has none of the name of 0.png" in done.stderr
    assert not (folder / "keras").exists()


def test_runs_and_folders_are_compared_and_measured_where_they_were_not(program, plain, folder):
    (folder / "before").mkdir()
    protocols = {"swd": "another way"}
    (folder / "before/metrics.json").write_text(json.dumps({"swd": 12.5, "protocols": protocols}))
    run = shutil.copytree(plain, folder / "run")
    compared = f"--compare={folder}/before,{folder}/results,{run}"
    given = [compared, f"--real={folder}/photographs", f"--output={folder}/out", "--format=jpeg"]
    done = program.run("evaluate", *given)
    assert done.returncode == 0, done.stderr
    (measured,) = run.glob("evaluation/step_*/metrics.json")
    paths = [folder / "before/metrics.json", folder / "out/2_results/metrics.json", measured]
    found = [json.loads(path.read_text()) for path in paths]
    numbers = " | ".join(f"{content['swd']:.2f}" for content in found)
    assert f"| SWD | lower | {numbers} | 10.50 |" in done.stdout
    assert (folder / "out/comparison.md").read_text() in done.stdout
    assert f"- {run}: checkpoints/{STEPS}, step {STEPS}" in done.stdout
    assert f"- {folder}/before: another way" in done.stdout
    how = "format: PNG as found, compressed as JPEG of quality 75 where it is not JPEG"
    assert how in found[1]["protocols"]["swd"]
    assert "format: JPEG of quality 75" in found[2]["protocols"]["swd"]
    assert len(list(measured.parent.rglob("*.jpeg"))) == 4
