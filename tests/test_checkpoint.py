import dataclasses
import functools
import subprocess
import sys

import jax
import numpy as np
import pytest
from etils import epath

from cocosnet_jax import checkpoint, mesh, settings
from cocosnet_jax.checkpoint import Checkpoints
from cocosnet_jax.errors import UserError
from tests.conftest import ROOT

SETTINGS = settings.from_mapping(
    {
        "data": {"image_size": 64, "load_size": 64, "channels": 5, "exemplar_list": "random"},
        "model": {"base_filters": 4},
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
    restored = checkpoints.restore(sharding)
    checkpoints.close()
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
            with pytest.raises(UserError, match=f"is of another model.*\n  {differs}$"):
                checkpoints.restore(sharding)
        else:
            assert_same(checkpoints.restore(sharding), state_of(7))
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
    with pytest.raises(UserError, match="holds no checkpoint: give a run's workdir"):
        checkpoint.restore_for_inference(path)


@pytest.mark.parametrize("damaged", ["*", "d/*"])
def test_a_damaged_checkpoint_is_named(damaged, tmp_path):
    checkpoints = Checkpoints(epath.Path(tmp_path), SETTINGS)
    checkpoints.save(2, state_of(2))
    checkpoints.wait()
    files = [x for x in (tmp_path / "checkpoints/2/state").rglob(damaged) if x.is_file()]
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match=r"checkpoints/2 cannot be read: .*older one"):
        checkpoint.restore_for_inference(tmp_path)
    with pytest.raises(UserError, match=r"checkpoints/2 cannot be read: .*older one"):
        checkpoints.restore(mesh.replicated(mesh.make()))
    checkpoints.close()


FULL_DISK = """
import resource, sys
from etils import epath
from cocosnet_jax.checkpoint import Checkpoints
from cocosnet_jax.errors import UserError
from tests import test_checkpoint as t

checkpoints = Checkpoints(epath.Path(sys.argv[1]), t.SETTINGS)
checkpoints.save(2, t.state_of(2))
checkpoints.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    checkpoints.save(4, t.state_of(4))
    checkpoints.close()
except UserError as error:
    print("UserError:", error)
"""


def test_full_disk_is_an_error_and_the_last_checkpoint_stays(tmp_path):
    """A limit on file sizes stands for the disk: the write fails in the background all the same."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.startswith("UserError: checkpoint of step 4 cannot be written"), done.stderr
    assert "step 2 is intact" in done.stdout
    restored = checkpoint.restore_for_inference(tmp_path)
    assert restored.step == 2
    assert_same(restored.state.ema, state_of(2).ema)
