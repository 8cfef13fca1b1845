import dataclasses
import functools
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from etils import epath

from cocosnet_jax import checkpoint, integrity, mesh, settings
from cocosnet_jax.checkpoint import Checkpoints
from cocosnet_jax.errors import StorageError, UserError
from tests.conftest import LIMIT_S, PLAIN_LOSS, PLAIN_MODEL, ROOT

SETTINGS = settings.from_mapping(
    {
        "data": {"image_size": 64, "load_size": 64, "channels": 5, "exemplar_list": "random"},
        # Reading and writing take a while for each array, and this network has few.
        "model": PLAIN_MODEL,
        "loss": PLAIN_LOSS,
        "optimiser": {"ema": 0.9},
        "train": {"checkpoint_every": 2, "keep_checkpoints": 2},
    }
)


@functools.cache
def state_of(step, config=SETTINGS):
    """A state of random numbers: nothing to compile."""
    rng = np.random.default_rng(step)
    sharding = mesh.replicated(mesh.make())
    shapes = checkpoint.abstract_state(config, sharding)
    state = jax.tree.map(
        lambda x: jax.device_put(np.asarray(rng.standard_normal(x.shape), x.dtype), sharding),
        shapes,
    )
    return dataclasses.replace(state, step=jax.device_put(np.int32(step), sharding))


def assert_same(a, b):
    # Fails as well where the structures differ.
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Seven steps, saved as they are due, then the last one by force."""
    workdir = epath.Path(tmp_path_factory.mktemp("run"))
    checkpoints = Checkpoints(workdir, SETTINGS)
    saved = [step for step in range(1, 8) if checkpoints.save(step, state_of(step))]
    assert saved == [2, 4, 6]
    assert checkpoints.save(7, state_of(7), force=True)
    assert not checkpoints.save(7, state_of(7), force=True)
    checkpoints.close()
    return workdir


def test_the_newest_are_kept(written):
    assert sorted(path.name for path in (written / "checkpoints").iterdir()) == ["6", "7"]


def test_restores_every_bit_where_it_belongs(written):
    sharding = mesh.replicated(mesh.make())
    checkpoints = Checkpoints(written, SETTINGS)
    assert checkpoints.latest_step == 7
    step, restored = checkpoints.restore(sharding)
    checkpoints.close()
    assert step == 7
    assert_same(restored, state_of(7))
    assert all(leaf.sharding == sharding for leaf in jax.tree.leaves(restored))


@pytest.mark.parametrize(
    ("section", "change", "differs"),
    [
        ("model", {"centre": "positions"}, "model.centre: 'channels', 'positions'"),
        ("model", {"mask_epochs": 3}, ""),
        ("optimiser", {"ema": 0.0}, r"optimiser\.ema: 0\.\d+, 0\.0"),
        ("optimiser", {"ema": 0.7}, ""),
    ],
)
def test_weights_of_another_model_are_refused(written, section, change, differs):
    part = dataclasses.replace(getattr(SETTINGS, section), **change)
    checkpoints = Checkpoints(written, dataclasses.replace(SETTINGS, **{section: part}))
    sharding = mesh.replicated(mesh.make())
    try:
        if differs:
            with pytest.raises(UserError, match=f"belongs to another model.*\n  {differs}$"):
                checkpoints.restore(sharding)
        else:
            assert_same(checkpoints.restore(sharding)[1], state_of(7))
    finally:
        checkpoints.close()


@pytest.mark.parametrize(
    ("path", "step"), [(".", 7), ("checkpoints", 7), ("checkpoints/6", 6), ("checkpoints/7", 7)]
)
def test_translation_needs_a_path_only(written, path, step):
    restored = checkpoint.restore_for_inference(written / path)
    assert restored.settings == SETTINGS
    assert restored.step == step
    assert_same(restored.state.ema, state_of(step).ema)
    assert_same(restored.state.variables["generator"], state_of(step).variables["generator"])
    assert restored.state.opt_state == {}


def test_without_an_average_the_parameters_are_read(tmp_path):
    plain = dataclasses.replace(SETTINGS, optimiser=settings.OptimiserSettings(ema=0.0))
    checkpoints = Checkpoints(epath.Path(tmp_path), plain)
    checkpoints.save(2, state_of(2, plain))
    checkpoints.close()
    restored = checkpoint.restore_for_inference(tmp_path)
    assert restored.state.ema is None
    assert_same(restored.state.params["generator"], state_of(2, plain).params["generator"])


def test_a_relative_path_is_made_whole(written, monkeypatch):
    monkeypatch.chdir(written.parent)
    assert checkpoint.restore_for_inference(written.name).step == 7


@pytest.mark.parametrize("there", [False, True])
def test_no_checkpoint_says_what_to_give(tmp_path, there):
    path = tmp_path if there else tmp_path / "none"
    with pytest.raises(UserError, match="contains no checkpoint; name a run's workdir"):
        checkpoint.restore_for_inference(path)


def cut(*patterns):
    """Cuts files off in their middle."""

    def damage(folder):
        for pattern in patterns:
            found = [file for file in folder.glob(pattern) if file.is_file()]
            assert found
            for file in found:
                file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    return damage


def remove(pattern):
    def damage(folder):
        found = list(folder.glob(pattern))
        assert found
        for path in found:
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def zero(folder):
    """As a file system does that lost what was written last: length without content."""
    for file in (folder / "state/ocdbt.process_0/d").iterdir():
        file.write_bytes(bytes(file.stat().st_size))


# Beside each, what the one line must name.
DAMAGES = {
    "everything": (cut("state/**/*"), "state/_METADATA is damaged"),
    "arrays": (cut("state/ocdbt.process_0/d/*"), "is missing or damaged"),
    "index": (cut("state/d/*"), "state/d/"),
    "manifest": (cut("state/manifest.ocdbt"), "state/manifest.ocdbt is missing or damaged"),
    "shapes": (cut("state/array_metadatas/*"), "state/array_metadatas/process_0 is damaged"),
    "settings": (cut("settings/metadata"), "settings/metadata is damaged"),
    "zeros": (zero, "is missing or damaged"),
    "no arrays": (remove("state/ocdbt.process_0/d/*"), "the array ema.generator."),
    "no manifest": (remove("state/manifest.ocdbt"), "state/manifest.ocdbt is missing or damaged"),
    "no settings": (remove("settings"), "settings/metadata is missing"),
    "empty state": (remove("state/*"), "state/_METADATA is missing"),
    "no state": (remove("state"), "state/_METADATA is missing"),
    "empty": (remove("*"), "settings/metadata is missing"),
}


def damaged(error_output, folder):
    """What the one line says is damaged in step 7; nothing else may be there."""
    [line] = error_output.splitlines()
    match = re.fullmatch(r"checkpoint 7 \((.*)\) in (.*) is damaged; using step 6 instead", line)
    assert match[2] == f"{folder}/checkpoints"
    return match[1]


@pytest.mark.parametrize(("damage", "named"), DAMAGES.values(), ids=DAMAGES)
def test_damage_is_found_and_named_in_a_line(written, damage, named, tmp_path, capfd):
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    damage(tmp_path / "checkpoints/7")
    folder = epath.Path(tmp_path) / "checkpoints"
    assert integrity.newest_whole(folder, [7, 6]) == (6, [7])
    assert named in damaged(capfd.readouterr().err, tmp_path)


def test_the_newest_whole_checkpoint_takes_a_damaged_ones_place(written, tmp_path, capfd):
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    cut("state/d/*")(tmp_path / "checkpoints/7")
    restored = checkpoint.restore_for_inference(tmp_path)
    assert restored.step == 6
    assert_same(restored.state.ema, state_of(6).ema)
    # One line, and no output from the threads of libraries.
    assert damaged(capfd.readouterr().err, tmp_path).startswith("state/d/")
    # Reading changes nothing.
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["6", "7"]

    checkpoints = Checkpoints(epath.Path(tmp_path), SETTINGS)
    step, state = checkpoints.restore(mesh.replicated(mesh.make()))
    assert step == 6
    assert_same(state, state_of(6))
    assert damaged(capfd.readouterr().err, tmp_path).startswith("state/d/")
    # The run comes to step 7 again, and saves there.
    assert checkpoints.save(7, state_of(7), force=True)
    checkpoints.close()
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["6", "7", "7.damaged"]
    assert checkpoint.restore_for_inference(tmp_path).step == 7
    assert capfd.readouterr().err == ""


def test_damaged_twice_nothing_is_lost(written, tmp_path):
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    for name in ("7.damaged", "7.damaged.2", "old_9"):
        (tmp_path / "checkpoints" / name).mkdir()
    remove("state")(tmp_path / "checkpoints/7")
    checkpoints = Checkpoints(epath.Path(tmp_path), SETTINGS)
    checkpoints.restore(mesh.replicated(mesh.make()))
    checkpoints.close()
    assert (tmp_path / "checkpoints/7.damaged.3/settings").is_dir()
    assert integrity.steps(epath.Path(tmp_path) / "checkpoints") == [6]


def test_all_damaged_is_one_error_that_names_them(written, tmp_path):
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    remove("state")(tmp_path / "checkpoints/6")
    cut("settings/metadata")(tmp_path / "checkpoints/7")
    checkpoints = Checkpoints(epath.Path(tmp_path), SETTINGS)
    both = (
        r"damaged: 7 \(settings/metadata is damaged\), 6 \(state/_METADATA is missing\)\. Restore"
    )
    with pytest.raises(UserError, match=both):
        checkpoint.restore_for_inference(tmp_path)
    with pytest.raises(UserError, match=both):
        checkpoints.restore(mesh.replicated(mesh.make()))
    checkpoints.close()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["6", "7"]


def test_a_damaged_step_that_is_asked_for_is_an_error(written, tmp_path):
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    remove("state/_METADATA")(tmp_path / "checkpoints/7")
    with pytest.raises(
        UserError, match=r"7 \(state/_METADATA is missing\).* use another step \(6\)"
    ):
        checkpoint.restore_for_inference(tmp_path / "checkpoints/7")
    with pytest.raises(UserError, match=r"has no checkpoint of this step; it has 7, 6$"):
        checkpoint.restore_for_inference(tmp_path / "checkpoints/5")


def test_another_version_is_not_damage(written, tmp_path):
    """Its settings or its arrays are whole, and other ones."""
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    remove("checksums")(tmp_path / "checkpoints/7")
    file = tmp_path / "checkpoints/7/settings/metadata"
    known = file.read_text()
    file.write_text(known.replace('"seed"', '"speed"'))
    with pytest.raises(
        UserError, match=r"7 is from another version .*config\.train\.speed is unknown"
    ):
        checkpoint.restore_for_inference(tmp_path)
    file.write_text(known.replace('"base_filters": 2', '"base_filters": 6'))
    with pytest.raises(UserError, match=r"checkpoints/7 does not match its own settings"):
        checkpoint.restore_for_inference(tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["6", "7"]


def test_storage_out_of_reach_is_not_damage(written, monkeypatch):
    def refuse(*_, **__):
        raise ValueError("PERMISSION_DENIED: Error opening file [tensorstore_spec='x'\nand more")

    monkeypatch.setattr(integrity, "arrays", refuse)
    with pytest.raises(
        StorageError, match=r"7 cannot be read: PERMISSION_DENIED: Error opening fi"
    ):
        checkpoint.restore_for_inference(written)


FULL_DISK = """
import dataclasses, resource, sys, time
from etils import epath
from cocosnet_jax.checkpoint import Checkpoints
from cocosnet_jax.errors import UserError
from tests import test_checkpoint as t

train = dataclasses.replace(t.SETTINGS.train, keep_checkpoints=1)
checkpoints = Checkpoints(epath.Path(sys.argv[1]), dataclasses.replace(t.SETTINGS, train=train))
checkpoints.save(2, t.state_of(2))
checkpoints.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    checkpoints.save(4, t.state_of(4))
    # No checkpoint is due at this step: the error does not wait for the next one.
    for _ in range(6000):
        checkpoints.due(5)
        time.sleep(0.1)
except UserError as error:
    print("UserError:", error)
"""


def test_full_disk_is_an_error_and_the_last_checkpoint_stays(tmp_path):
    """A limit on file sizes stands for the disk: the write fails in the background all the same.

    Only one checkpoint is kept, and it is not deleted before the next one is complete.
    """
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.stdout.startswith("UserError: checkpoint of step 4 cannot be written"), done.stderr
    assert "step 2 is intact" in done.stdout
    restored = checkpoint.restore_for_inference(tmp_path)
    assert restored.step == 2
    assert_same(restored.state.ema, state_of(2).ema)
