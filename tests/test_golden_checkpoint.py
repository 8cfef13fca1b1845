r"""A checkpoint of each version of the settings is restored by every later one.

`tests/golden/checkpoint/` holds a run of networks as narrow as they can be, packed, and what it
draws. Both are made by

    python -m tests.test_golden_checkpoint tests/golden/checkpoint

A change that cannot read the run breaks its users' checkpoints: map renamed fields in
`settings.RENAMED`, and leave these files as they are.
"""

import functools
import json
import shutil
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath
from flax import traverse_util

from cocosnet_jax import checkpoint, mesh, settings, state, steps, workdir
from cocosnet_jax.checkpoint import Checkpoints
from cocosnet_jax.errors import UserError
from cocosnet_jax.nn.initial import xavier_deviation
from cocosnet_jax.types import Batch

GOLDEN = Path(__file__).parent / "golden/checkpoint"
STEP = 3
SIZE = 64
SETTINGS = settings.from_mapping(
    {
        "data": {
            "image_size": SIZE,
            "load_size": SIZE,
            "channels": 4,
            "exemplar_list": "random",
        },
        "model": {"base_filters": 2},
        "optimiser": {"ema": 0.9},
        "train": {"batch_size": 2},
        "vgg": {"weights": "random", "width": 2},
    }
)


def batch() -> Batch:
    """Two pictures of noise, and maps in squares of 16 pixels."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (2, 2, SIZE, SIZE, 3), np.uint8)
    squares = rng.integers(0, 4, (2, 2, SIZE // 16, SIZE // 16, 1), np.uint8)
    labels = squares.repeat(16, 2).repeat(16, 3)
    return Batch(*pictures, *labels, np.zeros(2, np.float32))


def coarse_state() -> state.TrainState:
    """A state of random numbers that are rounded to few values, which take little space in a file.

    Kernels are larger than at the start of training, for pictures with contrast, and spectral
    vectors belong to them.
    """
    create = functools.partial(state.create_state, SETTINGS, steps_per_epoch=10)
    made = jax.device_get(jax.jit(create)(jax.random.key(0)))
    params, variables = map(traverse_util.flatten_dict, (made.params, made.variables))
    for path, value in params.items():
        if path[-1] == "kernel":
            unit = xavier_deviation(value.shape)
            params[path] = np.float32(20 * unit * np.clip(np.round(value / (1.5 * unit)), -1, 1))
            if (u := (path[0], "spectral", *path[1:-1], "u")) in variables:
                matrix = params[path].reshape(-1, value.shape[-1])
                left, _, right = np.linalg.svd(matrix, full_matrices=False)
                variables[u] = np.float32(right[0])
                variables[(*u[:-1], "v")] = np.float32(left[:, 0])
        elif path[-1] == "bias":
            params[path] = np.float32(np.arange(value.size) % 3 - 1) / 16
        elif path[-1] == "gamma":
            params[path] = np.float32(0.5)
    learned, stored = map(traverse_util.unflatten_dict, (params, variables))
    # An average that is not the weights: who translates with the wrong ones is found out.
    ema = jax.tree.map(lambda x: np.float32(1.25 * x), learned["generator"])
    moments = jax.tree.map(lambda x: np.full_like(x, 0.5), made.opt_state)
    return state.TrainState(np.int32(STEP), learned, stored, moments, ema)


def translation(folder: Path) -> dict[str, np.ndarray]:
    """Every eighth pixel of what the newest checkpoint draws, and of the warped exemplar."""
    restored = checkpoint.restore_for_inference(folder)
    outputs = jax.jit(steps.predict_step(restored.settings))(restored.state, batch())
    drawn = {"image": outputs.image, "warped_exemplar": outputs.warped_exemplar}
    return {name: np.asarray(value)[:, ::8, ::8] for name, value in drawn.items()}


def make(folder: Path) -> None:
    """Writes the run, packed, and its translation."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        run = Path(temporary)
        write(run)
        shutil.make_archive(str(folder / "run"), "xztar", run)
        np.savez_compressed(folder / "translation.npz", **translation(run))


def write(folder: Path) -> None:
    """Writes the run."""
    run = epath.Path(folder)
    workdir.claim(run, SETTINGS)
    checkpoints = Checkpoints(run, SETTINGS)
    replicated = mesh.replicated(mesh.make())
    checkpoints.save(STEP, jax.device_put(coarse_state(), replicated), force=True)
    checkpoints.close()


@pytest.fixture
def run(tmp_path):
    shutil.unpack_archive(GOLDEN / "run.tar.xz", tmp_path, filter="data")
    return tmp_path


def test_it_translates_as_it_did(run):
    found, wanted = translation(run), np.load(GOLDEN / "translation.npz")
    assert found.keys() == set(wanted)
    for name, numbers in found.items():
        assert wanted[name].std() > 0.05, name  # no grey picture
        np.testing.assert_allclose(numbers, wanted[name], atol=1e-3, err_msg=name)


def test_the_run_resumes_from_it(run):
    folder = workdir.check(str(run), SETTINGS)
    checkpoints = Checkpoints(folder, SETTINGS)
    step, resumed = checkpoints.restore(mesh.replicated(mesh.make()))
    checkpoints.close()
    assert (step, int(resumed.step)) == (STEP, STEP)
    for leaf in jax.tree.leaves(resumed.opt_state):
        assert np.all(np.asarray(leaf) == (0 if leaf.dtype == np.int32 else 0.5))
    for average, weight in zip(
        jax.tree.leaves(resumed.ema), jax.tree.leaves(resumed.params["generator"]), strict=True
    ):
        np.testing.assert_allclose(average, 1.25 * np.asarray(weight), rtol=1e-6)


def test_a_field_that_was_renamed_since_is_no_other_version(run, monkeypatch):
    now = settings.VERSION + 1
    monkeypatch.setattr(settings, "VERSION", now)
    monkeypatch.setattr(settings, "RENAMED", {now: {"optimiser.decay": "optimiser.ema"}})
    for file in (run / "settings.json", run / f"checkpoints/{STEP}/settings/metadata"):
        values = json.loads(file.read_text())
        values["optimiser"]["decay"] = values["optimiser"].pop("ema")
        file.write_text(json.dumps(values))
    workdir.check(str(run), SETTINGS)
    assert checkpoint.restore_for_inference(run).settings == SETTINGS


def test_a_later_version_is_said_to_be_one(run):
    file = run / f"checkpoints/{STEP}/settings/metadata"
    file.write_text(json.dumps({**json.loads(file.read_text()), "version": 99}))
    wanted = (
        r"3 is from another version of this program \(settings of version 99; this program reads"
    )
    with pytest.raises(UserError, match=wanted):
        checkpoint.restore_for_inference(run)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
