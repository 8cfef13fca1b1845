"""What a run finds when it was killed, or when its disk failed; see docs/restarting.md.

`python -m benchmarks.restarts` kills whole runs.
"""

import contextlib
import dataclasses
import os
import random
import shutil
import tempfile
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath

from cocosnet_jax import checkpoint, checkup, integrity, mesh, workdir
from cocosnet_jax.checkpoint import Checkpoints
from cocosnet_jax.errors import StorageError, UserError
from tests.test_checkpoint import SETTINGS, assert_same, state_of


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A workdir with checkpoints of steps 2 and 4."""
    folder = epath.Path(tmp_path_factory.mktemp("saved"))
    checkpoints = Checkpoints(folder, SETTINGS)
    for step in (2, 4):
        checkpoints.save(step, state_of(step))
    checkpoints.close()
    return folder


@pytest.fixture
def run(saved, tmp_path):
    """A copy of it."""
    return epath.Path(shutil.copytree(saved, tmp_path, dirs_exist_ok=True))


def resumed(folder):
    """Step and state that a run resumes from."""
    checkpoints = Checkpoints(folder, SETTINGS)
    step, state = checkpoints.restore(mesh.replicated(mesh.make()))
    checkpoints.close()
    return step, state


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def content(folder):
    """All arrays of a checkpoint; None if they cannot be read."""
    try:
        return {x: y.read().result().tobytes() for x, y in integrity.arrays(folder).items()}
    except ValueError:
        return None


def test_a_single_bit_that_changes_an_array_is_found(run, capfd):
    """Neither zarr nor OCDBT nor their compression would find it."""
    rng = random.Random(0)
    folder = run / "checkpoints"
    wanted = content(folder / "4")
    files = [path for path in Path(folder / "4/state").rglob("*") if path.is_file()]
    only_by_checksum = 0
    # Arrays fill most of the largest file. Names and sizes of the others differ from save to save.
    file = max(files, key=lambda path: path.stat().st_size)
    before = file.read_bytes()
    for _ in range(24):
        place = rng.randrange(len(before))
        changed = bytearray(before)
        changed[place] ^= 1 << rng.randrange(8)
        file.write_bytes(bytes(changed))
        found = content(folder / "4")
        step, damaged = integrity.newest_whole(folder, [4, 2])
        said = capfd.readouterr().err
        if found != wanted:
            assert (step, damaged) == (2, [4]), file
            assert "using step 2 instead" in said
            only_by_checksum += found is not None and "not as it was saved" in said
        file.write_bytes(before)
    assert only_by_checksum >= 8
    assert integrity.newest_whole(folder, [4, 2]) == (4, [])


def test_a_changed_array_is_named_and_the_one_before_is_used(run, capfd):
    store = integrity.arrays(run / "checkpoints/4")["params.generator.generator.head.conv_0.bias"]
    value = store.read().result()
    value[0] = np.nextafter(value[0], 1)
    store.write(value).result()
    step, state = resumed(run)
    assert step == 2
    assert_same(state, state_of(2))
    assert capfd.readouterr().err == (
        "checkpoint 4 (the array params.generator.generator.head.conv_0.bias is not as it was"
        f" saved) in {run}/checkpoints is damaged; using step 2 instead\n"
    )
    assert names(run / "checkpoints") == ["2", "4.damaged"]


def test_a_changed_setting_is_damage(run, capfd):
    file = run / "checkpoints/4/settings/metadata"
    file.write_text(file.read_text().replace('"seed": 0', '"seed": 1'))
    assert resumed(run)[0] == 2
    assert "(settings/metadata is not as it was saved)" in capfd.readouterr().err


@pytest.mark.parametrize("text", ["[]", '{"state": 3, "settings": 0}', '{"tree_metadata": [1]}'])
@pytest.mark.parametrize("file", ["checksums/metadata", "state/_METADATA"])
def test_json_of_another_form_is_damage(run, file, text, capfd):
    (run / "checkpoints/4" / file).write_text(text)
    assert integrity.newest_whole(run / "checkpoints", [4, 2]) == (2, [4])
    assert f"{file} is damaged" in capfd.readouterr().err


def test_a_checkpoint_of_an_earlier_version_has_no_checksums(run):
    shutil.rmtree(run / "checkpoints/4/checksums")
    step, state = resumed(run)
    assert step == 4
    assert_same(state, state_of(4))


def test_what_a_killed_run_leaves_is_tidied_up(run):
    """A checkpoint that was being written, and one that was being deleted."""
    folder = run / "checkpoints"
    shutil.copytree(folder / "4", folder / "6.orbax-checkpoint-tmp")
    shutil.rmtree(folder / "6.orbax-checkpoint-tmp/state/d")
    (folder / "0/state/d").mkdir(parents=True)
    step, state = resumed(run)
    assert step == 4
    assert_same(state, state_of(4))
    assert "0" not in names(folder)
    checkpoints = Checkpoints(run, SETTINGS)
    checkpoints.save(6, state_of(6))
    checkpoints.close()
    assert names(folder) == ["4", "6"]


def test_many_checkpoints_are_not_deleted_when_a_run_keeps_fewer(run):
    """Only the next save does that."""
    for step in (6, 8):
        shutil.copytree(run / "checkpoints/4", run / f"checkpoints/{step}")
    resumed(run)
    assert names(run / "checkpoints") == ["2", "4", "6", "8"]


@contextlib.contextmanager
def as_nobody(folder):
    """Takes root's rights, to whom permissions mean nothing, and opens the way to the folder."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture
def shared():
    """A folder that everybody may enter, unlike those of pytest."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    (folder / "run/checkpoints").mkdir(parents=True)
    yield folder / "run"
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("closed", "mode", "named"),
    [
        (".", 0o555, "--workdir={run} cannot be written to: Permission denied in {run};"),
        (".", 0o000, "--workdir={run} cannot be written to: Permission denied in {run};"),
        ("..", 0o000, "--workdir={run} cannot be written to: Permission denied in {run.parent};"),
        (
            "checkpoints",
            0o555,
            "--workdir={run}/checkpoints cannot be written to: Permission denied in {run}/ch",
        ),
        ("settings.json", 0o000, "{run}/settings.json cannot be read: Permission denied;"),
    ],
)
def test_a_workdir_without_permission_is_named(shared, closed, mode, named):
    workdir.claim(epath.Path(shared), SETTINGS)
    shared.chmod(0o777)
    (shared / "checkpoints").chmod(0o777)
    (shared / closed).resolve().chmod(mode)
    with as_nobody(shared), pytest.raises(UserError) as error:
        workdir.check(str(shared), SETTINGS)
    assert str(error.value).startswith(named.format(run=shared))


def test_the_doctor_names_a_folder_that_cannot_be_entered(shared):
    shared.chmod(0o000)
    with as_nobody(shared):
        found = checkup._disk("workdir", shared / "new", "folder", 0)
    said = "folder: cannot be written to (Permission denied); choose another folder"
    assert found == ("problem", "workdir", said)


def test_a_lock_of_another_user_is_named(shared):
    (shared / ".in_use").touch()
    (shared / ".in_use").chmod(0o444)
    match = rf"^{shared}/\.in_use cannot be written: Permission denied; change its permissions"
    with as_nobody(shared), pytest.raises(UserError, match=match), workdir.in_use(shared):
        raise AssertionError


@pytest.mark.parametrize(
    ("free", "keep_best", "says"),
    [
        (0.9, "", "error"),
        # Checkpoints 2 and 4 are there, a third one is written before the first is deleted.
        (1.1, "", ""),
        (2.9, "pck@0.1", "will take 3 GB more"),
        (3.1, "pck@0.1", ""),
    ],
)
def test_a_disk_that_is_too_small_is_said_before_training(
    saved, free, keep_best, says, monkeypatch, capsys
):
    usage = shutil._ntuple_diskusage(0, 0, int(free * 1e9))
    monkeypatch.setattr(workdir.shutil, "disk_usage", lambda _: usage)
    train = dataclasses.replace(SETTINGS.train, evaluate_every=1, keep_best=keep_best)
    settings = dataclasses.replace(SETTINGS, train=train)
    if says == "error":
        match = r"has 0\.9 GB free, but a checkpoint of this model takes 1 GB; free some space"
        with pytest.raises(StorageError, match=match):
            workdir.check_space(saved, settings, 10**9)
        return
    workdir.check_space(saved, settings, 10**9)
    said = capsys.readouterr().out
    assert says in said
    assert bool(said) == bool(says)


def test_checksums_are_those_of_zlib():
    """Of the bytes of each array, whatever its type and shape."""
    state = {"a": jax.numpy.arange(6.0).reshape(2, 3), "b": {"c": jax.numpy.bfloat16(1.5)}}
    found = integrity.checksums(state, {"x": 1})
    values = np.arange(6, dtype="<f4").tobytes(), b"\xc0\x3f"
    assert found["state"] == dict(zip(("a", "b.c"), map(zlib.crc32, values), strict=True))


def test_the_translator_uses_the_one_before_too(run, capfd):
    (run / "checkpoints/4/checksums/metadata").write_text("{")
    assert checkpoint.restore_for_inference(run).step == 2
    assert names(run / "checkpoints") == ["2", "4"]
    assert "checksums/metadata is damaged" in capfd.readouterr().err


# Minutes: a run is started eight times.
@pytest.mark.long
def test_a_run_that_is_killed_ends_as_an_undisturbed_one(tmp_path):
    from benchmarks import restarts  # Imports TensorFlow.

    restarts.draw(tmp_path / "ade")
    assert restarts.experiment(tmp_path, processes=1, kills=5, seed=1) == (5, 0)
    undisturbed, killed = tmp_path / "undisturbed_1", tmp_path / "killed_1"
    # A difference of one bit would be found.
    step = max(integrity.steps(epath.Path(killed) / "run/checkpoints"))
    store = integrity.arrays(epath.Path(killed) / f"run/checkpoints/{step}")["step"]
    store.write(np.int32(step ^ 1)).result()
    (killed / "run/pictures/step_0000003.png").unlink()
    assert restarts.differences(killed, undisturbed) == [
        f"checkpoints/{step}: step",
        "pictures/step_0000003.png",
    ]


# Minutes: an evaluation is started seven times or more.
@pytest.mark.long
def test_an_evaluation_that_is_killed_ends_as_an_undisturbed_one(tmp_path):
    from benchmarks import restarts, restarts_evaluation  # Import TensorFlow.

    restarts_evaluation.prepare(tmp_path)
    assert restarts_evaluation.experiment(tmp_path, processes=1, kills=4, seed=0)[1] == 0
    undisturbed, killed = tmp_path / "undisturbed_1", tmp_path / "killed_1"
    # A difference of one digit would be found.
    [report] = killed.glob("run/evaluation/*/metrics.json")
    report.write_text(report.read_text().replace("1", "2", 1))
    name = str(report.relative_to(killed / "run"))
    assert restarts.differences(killed, undisturbed, ["checkpoints"]) == [name]
