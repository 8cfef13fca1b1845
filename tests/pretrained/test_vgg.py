"""VGG-19 files of three formats, against each other and against Keras's own VGG-19."""

import h5py
import jax
import numpy as np
import pytest

from cocosnet_jax import vgg
from cocosnet_jax.errors import UserError
from cocosnet_jax.pretrained import torch_files
from cocosnet_jax.pretrained import vgg as vgg_weights

WIDTH = 4
INDEX = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)  # torchvision's vgg19
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
CAFFE_MEAN = np.array([103.939, 116.779, 123.68])  # B, G, R in 0..255


def tensors(width=WIDTH):
    """Name -> OIHW kernel and bias, He normal."""
    rng = np.random.default_rng(0)
    out, previous = {}, 3
    for name in vgg.LAYERS:
        features = width * (1, 2, 4, 8, 8)[int(name[4]) - 1]
        kernel = rng.normal(size=(features, previous, 3, 3)) * np.sqrt(2 / (9 * previous))
        out[f"{name}.weight"] = kernel.astype(np.float32)
        out[f"{name}.bias"] = rng.normal(size=features).astype(np.float32) * 0.1
        previous = features
    return out


def torchvision(state):
    names = {name: f"features.{i}" for name, i in zip(vgg.LAYERS, INDEX, strict=True)}
    renamed = {f"{names[n.split('.')[0]]}.{n.split('.')[1]}": t for n, t in state.items()}
    return renamed | {"classifier.0.weight": np.zeros((2, 3), np.float32)}


def write_keras(path, state):
    """The layout of vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5."""
    with h5py.File(path, "w") as file:
        groups = []
        for stage, count in enumerate((2, 2, 4, 4, 4), 1):
            for j in range(1, count + 1):
                group = f"block{stage}_conv{j}"
                kernel = state[f"conv{stage}_{j}.weight"].transpose(2, 3, 1, 0)
                bias = state[f"conv{stage}_{j}.bias"]
                names = [f"{group}_W_1:0", f"{group}_b_1:0"]
                for name, array in zip(names, (kernel, bias), strict=True):
                    file[f"{group}/{name}"] = array
                file[group].attrs["weight_names"] = [name.encode() for name in names]
                groups.append(group.encode())
            file.create_group(f"block{stage}_pool").attrs["weight_names"] = np.array([], "S1")
            groups.append(f"block{stage}_pool".encode())
        file.attrs["layer_names"] = groups


@pytest.fixture
def image():
    return np.random.default_rng(1).uniform(-1, 1, (2, 32, 48, 3)).astype(np.float32)


def assert_features(got, want, tolerance=0.0):
    for layer in vgg.LOSS_LAYERS:
        scale = np.abs(want[layer]).max()
        assert scale > 0
        np.testing.assert_allclose(got[layer], want[layer], rtol=0, atol=tolerance * scale)


def test_three_formats_of_the_same_weights_give_the_same_features(tmp_path, image):
    state = tensors()
    torch_files.write(tmp_path / "release.pth", state)
    write_keras(tmp_path / "keras.h5", state)
    release = vgg_weights.load(tmp_path / "release.pth", WIDTH)
    keras = vgg_weights.load(tmp_path / "keras.h5", WIDTH)
    assert release.preprocessing == keras.preprocessing == "caffe"
    want = vgg.features(release, image)
    assert_features(vgg.features(keras, image), want)

    # The same function on torchvision's input (RGB - MEAN) / STD: BGR and 255 * STD go into the
    # first kernel; the means differ by less than 0.001 of the range and are made equal here.
    first = state["conv1_1.weight"][:, ::-1] * (255 * STD[:, None, None]).astype(np.float32)
    torch_files.write(tmp_path / "vision.pth", torchvision(state | {"conv1_1.weight": first}))
    vision = vgg_weights.load(tmp_path / "vision.pth", WIDTH)
    assert vision.preprocessing == "torchvision"
    shifted = image - 2 * (CAFFE_MEAN[::-1] / 255 - MEAN).astype(np.float32)
    assert_features(vgg.features(vision, shifted), want, 1e-5)


def test_full_size_against_keras(tmp_path, image):
    """Keras reads the same .h5 file and has the Caffe preprocessing of its own."""
    keras = pytest.importorskip("keras")
    state = tensors(64)
    write_keras(tmp_path / "vgg19.h5", state)
    network = keras.applications.VGG19(include_top=False, weights=None, input_shape=(32, 48, 3))
    network.load_weights(tmp_path / "vgg19.h5")
    outputs = [network.get_layer(f"block{i}_conv2").output for i in range(1, 6)]
    network = keras.Model(network.input, outputs)
    pixels = keras.applications.vgg19.preprocess_input((image + 1) * 127.5)
    want = dict(zip(vgg.LOSS_LAYERS, map(np.asarray, network(pixels)), strict=True))

    got = vgg_weights.load(tmp_path / "vgg19.h5")
    assert_features(vgg.features(got, image), want, 1e-5)
    (tmp_path / "vgg19.h5").unlink()


def test_random_is_he_normal_at_any_width_and_always_the_same():
    weights = vgg_weights.load("random", 8)
    again = vgg_weights.load("random", 8)
    jax.tree.map(np.testing.assert_array_equal, weights, again)
    kernel = np.asarray(weights.params["conv5_4"]["kernel"])
    assert kernel.shape == (3, 3, 64, 64)
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.02)
    assert weights.preprocessing == "caffe"


@pytest.mark.parametrize("weights", ["", "nowhere/vgg19.pth"])
def test_no_file_says_where_to_get_one(weights):
    with pytest.raises(UserError) as error:
        vgg_weights.load(weights)
    for part in (
        "config.vgg.weights",
        "vgg19-dcbb9e9d.pth",
        "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "vgg19_conv.pth",
        "config.vgg.weights=random",
    ):
        assert part in str(error.value)
    assert weights in str(error.value)


def test_wrong_tensors_are_listed_with_their_shapes(tmp_path):
    path = tmp_path / "x.pth"
    state = tensors()
    del state["conv3_2.bias"]
    state["conv4_1.weight"] = np.zeros((32, 16, 1, 1), np.float32)
    state["conv9.weight"] = np.zeros((7,), np.float32)
    torch_files.write(path, state)
    with pytest.raises(UserError) as error:
        vgg_weights.load(path, WIDTH)
    for part in (
        str(path),
        "conv3_2/bias is missing",
        "conv4_1/kernel is (1, 1, 16, 32) and should be (3, 3, 16, 32)",
        "conv9/kernel (7,) is unknown",
    ):
        assert part in str(error.value)


def test_batch_norm_variant_of_torchvision_is_refused(tmp_path):
    state = torchvision(tensors()) | {"features.1.running_mean": np.zeros(4, np.float32)}
    torch_files.write(tmp_path / "x.pth", state)
    with pytest.raises(UserError, match=r"features.1/running_mean \(4,\) is unknown"):
        vgg_weights.load(tmp_path / "x.pth", WIDTH)


def test_damaged_keras_file(tmp_path):
    path = tmp_path / "x.h5"
    write_keras(path, tensors())
    whole = path.read_bytes()
    # Cut off; the last group's table overwritten; the description of float32 overwritten.
    table, float32 = whole.rindex(b"SNOD"), bytes((23, 8, 0, 23))
    no_table = whole[:table] + b"    " + whole[table + 4 :]
    for damaged in (whole[:3000], no_table, whole.replace(float32, b"    ")):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="truncated or damaged"):
            vgg_weights.load(path, WIDTH)
    with h5py.File(path, "w") as file:
        file["something/else"] = np.zeros(3)
    with pytest.raises(UserError, match="conv1_1/kernel is missing"):
        vgg_weights.load(path, WIDTH)
