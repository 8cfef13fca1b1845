"""The command: what it says, and what it writes."""

import dataclasses
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from PIL import Image

from cocosnet_jax import checkpoint
from cocosnet_jax.settings import DataSettings, LossSettings, ModelSettings, Settings
from tests.conftest import PLAIN_LOSS, PLAIN_MODEL
from tests.test_checkpoint import state_of

DATA = DataSettings(dataset="ade20k", channels=6, exemplar_list="random")


def test_a_place_that_cannot_be_written_to_is_said_before_compiling(program, untrained_run):
    arguments = program.translation_arguments(untrained_run, Path("/proc/1/out.png"))
    done = program.run("translate", *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: --output=/proc/1 cannot be written to")


def test_a_full_disk_is_one_line(program, untrained_run, tmp_path, monkeypatch):
    # All files are in the home folder, by ~, which the shell leaves alone after =.
    monkeypatch.setenv("HOME", str(program.folder))
    partial = program.folder / "full.png.partial"
    partial.symlink_to("/dev/full")
    arguments = program.translation_arguments(Path("~/untrained_run"), Path("~/full.png"))
    arguments = [argument.replace(str(program.folder), "~") for argument in arguments]
    done = program.run("translate", *arguments)
    assert done.stderr == (
        f"error: {program.folder}/full.png cannot be written ([Errno 28] No space left on device);"
        " free some space, or choose another folder\n"
    )
    assert done.returncode == 75
    assert not partial.is_symlink()
    assert not (program.folder / "full.png").exists()


def test_a_checkpoint_that_takes_an_exemplar_says_so(program, untrained_run, tmp_path):
    arguments = program.translation_arguments(untrained_run, tmp_path / "out.png")
    done = program.run("translate", *[a for a in arguments if not a.startswith("--exemplar=")])
    assert done.returncode == 2
    assert done.stderr.startswith("error: --exemplar is missing; name the photograph whose style")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("given", [[], ["--exemplar=none.jpg"]])
def test_a_plain_network_needs_no_exemplar(program, tmp_path, given):
    plain = Settings(
        data=dataclasses.replace(DATA, image_size=64, load_size=64),
        model=ModelSettings(**PLAIN_MODEL),
        loss=LossSettings(**PLAIN_LOSS),
    )
    checkpoints = checkpoint.Checkpoints(epath.Path(tmp_path) / "plain", plain)
    checkpoints.save(1, state_of(1, plain), force=True)
    checkpoints.close()
    done = program.run(
        "translate",
        f"--checkpoint={tmp_path}/plain",
        f"--input={program.folder}/ade/validation/ADE_val_0.png",
        f"--output={tmp_path}/out.png",
        *given,
    )
    assert done.returncode == 0, done.stderr
    note = "note: --exemplar is ignored, because this checkpoint takes no exemplar\n"
    assert (note in done.stdout) is bool(given)
    picture = np.asarray(Image.open(tmp_path / "out.png"))
    assert picture.shape == (64, 64, 3)
    assert picture.std() > 0


def test_another_size_than_the_trainings(program, untrained_run, tmp_path):
    arguments = program.translation_arguments(untrained_run, tmp_path / "out.jpg")
    done = program.run("translate", *arguments, "--size=96", "--confidence")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(
        r"compiling for 96 x 96 ...\ncompiled after \d+ s\n"
        r"translating a picture of 96 x 96 ...\ntranslated after \d+ s\n"
        rf"step 6 of .*: 1 picture\(s\) in {tmp_path}/out.jpg\n",
        done.stdout,
    )
    assert Image.open(tmp_path / "out.jpg").size == (96, 96)
    assert Image.open(tmp_path / "out.jpg").format == "JPEG"
    with Image.open(tmp_path / "out_confidence.png") as confidence:
        assert confidence.mode == "L"
        assert confidence.size == (96, 96)


def test_a_killed_grid_goes_on_and_ends(program, untrained_run, tmp_path):
    """Killed when the first results are there; the same command makes the others and the sheet."""
    ade, out = program.folder / "ade/validation", tmp_path / "out"
    exemplars = [f"--exemplar={ade}/ADE_val_{i}.jpg" for i in (1, 2)]
    maps = [f"--exemplar-label={ade}/ADE_val_{i}.png" for i in (1, 2)]
    flags = [f"--checkpoint={untrained_run}", f"--input={ade}", f"--output={out}", "--batch-size=1"]
    arguments = [*flags, *exemplars, *maps]

    def results():
        return {path: path.stat().st_mtime_ns for path in out.glob("*/*.png")}

    # When the third of eight pictures is about to be written.
    moment = "cocosnet_jax.files:write:3"
    killed = program.signalled("SIGKILL", moment, "translate", *arguments)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    before = results()
    assert len(before) == 2
    assert not (out / "grid.png").exists()
    done = program.run("translate", *arguments)
    assert done.returncode == 0, done.stderr
    assert f"8 picture(s) in {out}, of which {len(before)} were there already" in done.stdout
    after = results()
    assert len(after) == 8
    assert {path: after[path] for path in before} == before
    assert Image.open(out / "grid.png").size == (3 * 68 + 4, 5 * 68 + 4)


@pytest.mark.parity
def test_two_devices_share_a_folder_of_three(program, untrained_run, tmp_path):
    """Each takes whole pictures; the last batch is filled up."""
    ade = program.folder / "ade/validation"
    (tmp_path / "inputs").mkdir()
    for index in range(3):
        name = f"ADE_val_{index}.png"
        (tmp_path / "inputs" / name).write_bytes((ade / name).read_bytes())
    found = []
    for devices in (1, 2):
        arguments = program.translation_arguments(untrained_run, tmp_path / f"out_{devices}")
        arguments = [x for x in arguments if not x.startswith("--input=")]
        done = program.run("translate", *arguments, f"--input={tmp_path}/inputs", devices=devices)
        assert done.returncode == 0, done.stderr
        paths = sorted((tmp_path / f"out_{devices}").glob("*.png"))
        found.append(np.stack([np.asarray(Image.open(path), int) for path in paths]))
    one, two = found
    assert one.shape == two.shape == (3, 64, 64, 3)
    assert np.abs(one - two).max() <= 1
    assert min(np.abs(one[i] - one[i - 1]).mean() for i in range(3)) > 2


def test_missing_flags_are_one_line(program):
    done = program.run("translate", f"--checkpoint={Path('x')}")
    assert done.returncode == 2
    assert done.stderr == "error: --input is missing; --help shows an example\n"


def test_a_folder_without_checkpoint_is_one_line(program, tmp_path):
    flags = [f"--{name}={tmp_path}" for name in ("checkpoint", "input", "exemplar", "output")]
    done = program.run("translate", *flags)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path} contains no checkpoint")
    assert done.stderr.count("\n") == 1
