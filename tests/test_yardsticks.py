import numpy as np
import pytest

from cocosnet_jax import evaluation, settings, yardsticks
from cocosnet_jax.errors import UserError
from cocosnet_jax.pretrained import torch_files


def test_all_missing_and_wrong_files_are_said_at_once(tmp_path):
    torch_files.write(tmp_path / "other.pth", {"weight": np.zeros(3, np.float32)})
    with pytest.raises(UserError) as error:
        yardsticks.load(
            inception=str(tmp_path / "other.pth"),
            vgg_weights="nowhere/vgg19.pth",
            lpips="nowhere/heads.npz",
        )
    for part in (
        "weight files has 3 problems",
        "other.pth: not the Inception of FID",
        "pt_inception-2015-12-05-6726825d.pth",
        "SHA-256 begins with 6726825d",
        "--vgg is 'nowhere/vgg19.pth', which is no file: set --vgg=keras",
        "vgg19_conv.pth",
        "--lpips=nowhere/heads.npz is no file",
        "lpips/weights/v0.1/vgg.pth",
    ):
        assert part in str(error.value)
    assert "config.vgg.weights" not in str(error.value)


def test_messages_name_the_setting_that_was_given(tmp_path):
    """A run has config.vgg.weights instead of --vgg."""
    run = settings.Settings(
        settings.DataSettings(exemplar_list="random"), vgg=settings.VggSettings("no.pth")
    )
    with pytest.raises(UserError, match=r"config\.vgg\.weights is 'no\.pth', which is no"):
        evaluation.networks_of(run, "", "", "")
    with pytest.raises(UserError, match=r"as config\.vgg\.weights, or as --lpips-vgg where"):
        yardsticks.load(lpips="heads.npz", vgg_flag="config.vgg.weights")
    (tmp_path / "damaged").write_bytes(b"no weights")
    for given, wrong in (
        ("keras", "--lpips-vgg=keras is no file; needed is torchvision's VGG-16"),
        (f"{tmp_path}/damaged", f"{tmp_path}/damaged"),
    ):
        with pytest.raises(UserError) as error:
            yardsticks.load(lpips="", lpips_vgg=given)
        assert wrong in str(error.value)
        assert "config.vgg.weights" not in str(error.value)


def test_lpips_takes_only_its_own_network(tmp_path):
    heads = {f"lin{i}": np.zeros(n) for i, n in enumerate((64, 128, 256, 512, 512))}
    np.savez(tmp_path / "heads.npz", **heads)
    with pytest.raises(UserError, match="--vgg is VGG-19"):
        yardsticks.load(vgg_weights="random", lpips=str(tmp_path / "heads.npz"), width=2)
    with pytest.raises(UserError, match="name it as --vgg, or as --lpips-vgg"):
        yardsticks.load(lpips=str(tmp_path / "heads.npz"))


def test_names_say_network_file_and_hash():
    found = yardsticks.load(vgg_weights="random", width=2)
    assert found.vgg_name.startswith("VGG-19 (Caffe), untrained")
    assert yardsticks.load() == yardsticks.Yardsticks()
