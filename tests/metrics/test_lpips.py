"""LPIPS against figures of its own code, where VGG-16 and its heads are."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from cocosnet_jax.errors import UserError
from cocosnet_jax.metrics import lpips
from cocosnet_jax.pretrained import lpips as heads_files
from cocosnet_jax.pretrained import torch_files
from cocosnet_jax.pretrained import vgg as vgg_weights
from tests.metrics.figures import FOLDER, smooth

WEIGHTS = Path(__file__).parents[3] / "shared/weights"


def heads(rng):
    return {f"lin{i}": rng.random(n, np.float32) for i, n in enumerate((64, 128, 256, 512, 512))}


@pytest.mark.parity
@pytest.mark.skipif(
    not (WEIGHTS / "vgg16.pth").is_file(),
    reason="../shared/weights has no vgg16.pth, which is too large to be kept with the tests",
)
def test_distances_are_the_figures():
    wanted = json.loads((FOLDER / "lpips.json").read_text())
    network = vgg_weights.load(WEIGHTS / "vgg16.pth")
    its_heads = heads_files.load(WEIGHTS / "lpips_vgg16_heads.npz")
    image = smooth("sc/pictures", 4, 256)
    with jax.enable_x64(True):
        features = jax.jit(lpips.features)(network, image)
        rows = [[*map(int, pair.split("_"))] for pair in wanted]
        ours, theirs = (
            jax.tree.map(lambda x: x[np.array(side)], features) for side in zip(*rows, strict=True)
        )
        found = jax.jit(lpips.distance)(its_heads, ours, theirs)
    assert np.asarray(found) == pytest.approx(list(wanted.values()), rel=1e-8, abs=1e-12)


def test_both_files_of_the_heads_are_read(tmp_path):
    arrays = heads(np.random.default_rng(0))
    np.savez(tmp_path / "heads", **arrays)
    package = {f"{name}.model.1.weight": x.reshape(1, -1, 1, 1) for name, x in arrays.items()}
    torch_files.write(tmp_path / "vgg.pth", package)
    one, other = heads_files.load(tmp_path / "heads.npz"), heads_files.load(tmp_path / "vgg.pth")
    assert list(one) == list(other) == list(lpips.LAYERS)
    for layer, array in zip(lpips.LAYERS, arrays.values(), strict=True):
        np.testing.assert_array_equal(one[layer], array)
        np.testing.assert_array_equal(other[layer], array)


def test_wrong_heads_say_what_is_needed(tmp_path):
    arrays = heads(np.random.default_rng(0))
    np.savez(tmp_path / "alex.npz", **arrays | {"lin1": np.zeros(192)})
    with pytest.raises(UserError, match=r"lin1 is \(192,\) and should have 128") as error:
        heads_files.load(tmp_path / "alex.npz")
    assert "lpips/weights/v0.1/vgg.pth" in str(error.value)
    del arrays["lin3"]
    np.savez(tmp_path / "four.npz", **arrays)
    with pytest.raises(UserError, match="lin3 is missing"):
        heads_files.load(tmp_path / "four.npz")
    with pytest.raises(UserError, match=r"--lpips=nowhere\.npz is no file.*vgg\.pth"):
        heads_files.load("nowhere.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "alex.npz").read_bytes()[:500])
    with pytest.raises(UserError, match=r"cut\.npz"):
        heads_files.load(tmp_path / "cut.npz")


def test_another_network_is_refused():
    with pytest.raises(ValueError, match="not caffe's VGG-19"):
        lpips.features(vgg_weights.load("random", 2), np.zeros((1, 16, 16, 3), np.float32))


def test_pairs_of_results():
    assert lpips.pairs(3) == [(0, 1), (0, 2), (1, 2)]
