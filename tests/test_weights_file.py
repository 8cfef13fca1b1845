"""Files of weights: what is written is read, and what is wrong with a file is one error."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from etils import epath

from cocosnet_jax import checkpoint, settings, weights_file
from cocosnet_jax.configs import drawn
from cocosnet_jax.errors import UserError
from cocosnet_jax.pretrained import SHIPPED
from cocosnet_jax.state import inference_variables
from tests.test_checkpoint import SETTINGS, assert_same, state_of


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = epath.Path(tmp_path_factory.mktemp("run"))
    checkpoints = checkpoint.Checkpoints(workdir, SETTINGS)
    checkpoints.save(7, state_of(7), force=True)
    checkpoints.close()
    return workdir


@pytest.fixture(scope="module")
def written(program, run):
    """The file of that run, by the command."""
    file = run / "weights.safetensors"
    done = program.run("convert", f"--checkpoint={run}", f"--safetensors={file}")
    assert done.returncode == 0, done.stderr
    return file


def test_the_file_has_the_run_bit_for_bit(run, written):
    ours, theirs = map(checkpoint.restore_for_inference, (written, run))
    assert_same(inference_variables(ours.state), inference_variables(theirs.state))
    assert (ours.settings, ours.step) == (theirs.settings, 7)
    assert ours.folder == written


def test_bfloat16_is_rounded_and_comes_back_as_float32(tmp_path):
    file = epath.Path(tmp_path) / "half.safetensors"
    weights_file.write(file, SETTINGS, state_of(7), ml_dtypes.bfloat16)
    found = inference_variables(checkpoint.restore_for_inference(file).state)

    def check(half, whole):
        assert half.dtype == whole.dtype
        np.testing.assert_array_equal(half, np.asarray(whole).astype(ml_dtypes.bfloat16))

    jax.tree.map(check, found, inference_variables(state_of(7)))


def other_arrays(file, change):
    """A whole file whose arrays are other ones."""
    found = weights_file.read(file)
    change(found.arrays)
    metadata = {
        "settings": json.dumps(settings.to_file(found.settings)),
        "step": "1",
        "checksum": weights_file._checksum(found.arrays),
    }
    return safetensors.numpy.save(found.arrays, metadata)


def flipped(content):
    changed = bytearray(content)
    changed[-5] ^= 16
    return bytes(changed)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda file: file.read_bytes()[:-100], "is damaged, or no safetensors file"),
        (lambda file: b"PNG" * 100, "is damaged, or no safetensors file"),
        (lambda file: b"", "is damaged, or no safetensors file"),
        (lambda file: flipped(file.read_bytes()), "is damaged: its arrays have another checksum"),
        (
            lambda file: safetensors.numpy.save({"a": np.zeros(3)}),
            "was written by another program: its metadata have no checksum",
        ),
        (
            lambda file: other_arrays(file, lambda arrays: arrays.popitem()),
            "of another version of this program .* is missing in it, and here",
        ),
        (
            lambda file: other_arrays(file, lambda arrays: arrays.update(more=np.zeros(2))),
            r"of another version of this program \(more is \(2,\) in it, and here not there\)",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_one_error(written, tmp_path, make, message):
    file = tmp_path / "wrong.safetensors"
    file.write_bytes(make(written))
    with pytest.raises(UserError, match=message) as caught:
        checkpoint.restore_for_inference(file)
    assert str(file) in str(caught.value)


def test_a_file_that_is_missing_or_has_not_all_networks(written, tmp_path):
    with pytest.raises(UserError, match=r"none\.safetensors does not exist"):
        checkpoint.restore_for_inference(tmp_path / "none.safetensors")
    with pytest.raises(UserError, match="give the workdir of the run"):
        checkpoint.restore_for_inference(written, all_networks=True)


def test_the_shipped_model_is_small_and_of_its_recipe():
    assert SHIPPED.stat().st_size <= 8 * 2**20
    config = drawn.get_config("colours")
    config.vgg.weights = "vgg16.pth"
    found = weights_file.read(SHIPPED)
    recipe = settings.from_mapping(config.to_dict()).on_devices(1)
    # Its last run, on a CPU, took small batches and stopped within two epochs.
    assert settings.differences(recipe, found.settings) == {
        "optimiser.constant_epochs": "6, 0",
        "optimiser.decay_epochs": "4, 2",
        "optimiser.ema": "0.999, 0.998",
        "train.batch_size": "16, 4",
    }
    assert found.step == 1820
