"""The FID Inception against pytorch-fid's own features, on weights by rule."""

import json

import jax
import numpy as np
import pytest

from cocosnet_jax.errors import UserError
from cocosnet_jax.metrics import inception
from cocosnet_jax.pretrained import inception as inception_weights
from cocosnet_jax.pretrained import torch_files
from tests.metrics.figures import FOLDER, SALT, pictures
from tests.parity import rule

WANTED = np.load(FOLDER / "inception_features.npz")
SPEC = json.loads((FOLDER / "inception_spec.json").read_text())


def tensor(name, shape):
    if name.endswith(".weight") and len(shape) == 1:
        return 1 + 0.1 * rule.normal(name, shape, SALT)
    return rule.tensor(name, shape, SALT)


@pytest.fixture(scope="module")
def tensors():
    return {name: tensor(name, shape) for name, shape in SPEC.items()}


def errors(params, dtype):
    """Worst relative error of each set of pictures."""
    pool3 = jax.jit(inception.pool3)
    worst = {}
    for size, count in ((256, 3), (64, 2)):
        image = (pictures(f"fid/{size}", count, size) / 127.5 - 1).astype(dtype)
        wanted = WANTED[f"pool3_{size}"]
        found = np.asarray(pool3(params, image))
        assert found.dtype == dtype
        worst[size] = np.abs(found - wanted).max() / np.abs(wanted).max()
    return worst


@pytest.mark.parity
def test_features_in_float64(tensors):
    with jax.enable_x64(True):
        worst = errors(inception_weights.from_torch(tensors), np.float64)
    assert max(worst.values()) < 1e-6


def test_features_in_float32_of_the_file(tensors, tmp_path):
    path = tmp_path / "any name.pth"
    torch_files.write(path, {name: np.asarray(t, np.float32) for name, t in tensors.items()})
    loaded = inception_weights.load(path)
    assert max(errors(loaded.params, np.float32).values()) < 1e-4


def test_wrong_and_missing_files_say_which_is_needed(tensors, tmp_path):
    with pytest.raises(UserError) as error:
        inception_weights.load(tmp_path / "nowhere.pth")
    for part in ("nowhere.pth is no file", inception_weights.FILE, "https://github", "SHA-256"):
        assert part in str(error.value)
    changed = {
        name: t for name, t in tensors.items() if not name.startswith("Mixed_7c.branch_pool")
    }
    changed["Conv2d_1a_3x3.conv.weight"] = np.zeros((32, 3, 5, 5))
    with pytest.raises(UserError) as error:
        inception_weights.from_torch(changed, "some.pth")
    for part in (
        "some.pth: not the Inception of FID",
        "Conv2d_1a_3x3.conv.weight is (32, 3, 5, 5) and should be (32, 3, 3, 3)",
        "Mixed_7c.branch_pool.conv.weight is missing",
        inception_weights.FILE,
    ):
        assert part in str(error.value)


def test_the_hash_tells_pytorch_fids_own_file():
    for digest, words in (("6726825d" + "0" * 56, "pytorch-fid's"), ("0" * 64, "not pytorch-fid")):
        assert f", {words}" in inception_weights.Inception({}, digest).name
