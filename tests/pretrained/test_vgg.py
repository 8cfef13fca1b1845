"""Files of VGG-19 and VGG-16, against each other, Keras's own VGG-19 and NumPy in float64."""

import hashlib
from pathlib import Path

import h5py
import jax
import numpy as np
import pytest

from cocosnet_jax import vgg
from cocosnet_jax.errors import UserError
from cocosnet_jax.pretrained import torch_files
from cocosnet_jax.pretrained import vgg as vgg_weights

WIDTH = 4
# Torchvision's names of the layers.
INDEX = {
    "VGG-16": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
    "VGG-19": (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34),
}
NETWORKS = pytest.mark.parametrize("network", ["VGG-16", "VGG-19"])
REAL_VGG16 = Path(__file__).parents[2] / "../shared/weights/vgg16.pth"
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
CAFFE_MEAN = np.array([103.939, 116.779, 123.68])  # B, G, R in 0..255


def tensors(width=WIDTH, network="VGG-19"):
    """Name -> OIHW kernel and bias, He normal."""
    rng = np.random.default_rng(0)
    out, previous = {}, 3
    for name in vgg.LAYERS[network]:
        features = width * (1, 2, 4, 8, 8)[int(name[4]) - 1]
        kernel = rng.normal(size=(features, previous, 3, 3)) * np.sqrt(2 / (9 * previous))
        out[f"{name}.weight"] = kernel.astype(np.float32)
        out[f"{name}.bias"] = rng.normal(size=features).astype(np.float32) * 0.1
        previous = features
    return out


def torchvision(state, network="VGG-19", classifier=True):
    names = {n: f"features.{i}" for n, i in zip(vgg.LAYERS[network], INDEX[network], strict=True)}
    renamed = {f"{names[n.split('.')[0]]}.{n.split('.')[1]}": t for n, t in state.items()}
    return renamed | ({"classifier.0.weight": np.zeros((2, 3), np.float32)} if classifier else {})


def write_keras(path, state, network="VGG-19"):
    """The layout of vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5, and VGG-16's."""
    deep = {"VGG-16": 3, "VGG-19": 4}[network]
    with h5py.File(path, "w") as file:
        groups = []
        for stage, count in enumerate((2, 2, deep, deep, deep), 1):
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


@NETWORKS
def test_three_formats_of_the_same_weights_give_the_same_features(tmp_path, image, network):
    state = tensors(network=network)
    torch_files.write(tmp_path / "release.pth", state)
    write_keras(tmp_path / "keras.h5", state, network)
    release = vgg_weights.load(tmp_path / "release.pth", WIDTH)
    keras = vgg_weights.load(tmp_path / "keras.h5", WIDTH)
    assert release.preprocessing == keras.preprocessing == "caffe"
    want = vgg.features(release, image)
    assert_features(vgg.features(keras, image), want)

    # The same function on torchvision's input (RGB - MEAN) / STD: BGR and 255 * STD go into the
    # first kernel; the means differ by less than 0.001 of the range and are made equal here.
    first = state["conv1_1.weight"][:, ::-1] * (255 * STD[:, None, None]).astype(np.float32)
    for classifier in (True, False):
        theirs = torchvision(state | {"conv1_1.weight": first}, network, classifier)
        torch_files.write(tmp_path / "vision.pth", theirs)
        vision = vgg_weights.load(tmp_path / "vision.pth", WIDTH)
        assert vision.preprocessing == "torchvision"
        assert release.network == keras.network == vision.network == network
    shifted = image - 2 * (CAFFE_MEAN[::-1] / 255 - MEAN).astype(np.float32)
    assert_features(vgg.features(vision, shifted), want, 1e-5)


def in_numpy(tensors, image):
    """The layers of the losses in torchvision's VGG-16, as its paper describes it, in float64."""
    x = ((image.astype(np.float64) + 1) / 2 - MEAN) / STD
    found, index = {}, 0
    for stage, count in enumerate((2, 2, 3, 3, 3), 1):
        for j in range(1, count + 1):
            kernel = tensors[f"features.{index}.weight"].astype(np.float64)
            padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
            windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
            x = np.einsum("bhwiyx,oiyx->bhwo", windows, kernel, optimize=True)
            x = np.maximum(x + tensors[f"features.{index}.bias"], 0)
            found[f"relu{stage}_{j}"] = x
            index += 2
        if stage < 5:
            b, h, w, k = x.shape
            x, index = x.reshape(b, h // 2, 2, w // 2, 2, k).max((2, 4)), index + 1
    return found


def test_vgg16_against_numpy(tmp_path, image):
    state = torchvision(tensors(network="VGG-16"), "VGG-16")
    torch_files.write(tmp_path / "x.pth", state)
    got = vgg.features(vgg_weights.load(tmp_path / "x.pth", WIDTH), image)
    assert_features(got, in_numpy(state, image), 1e-5)


def test_trained_vgg16_against_numpy():
    if not REAL_VGG16.is_file():
        pytest.skip(f"{REAL_VGG16} is not there")
    weights = vgg_weights.load(REAL_VGG16)
    assert (weights.network, weights.preprocessing) == ("VGG-16", "torchvision")
    image = np.random.default_rng(1).uniform(-1, 1, (1, 16, 16, 3)).astype(np.float32)
    want = in_numpy(torch_files.read(REAL_VGG16), image)
    assert_features(vgg.features(weights, image), want, 1e-5)


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


@pytest.fixture
def keras_file(tmp_path, monkeypatch):
    """A small VGG-19 in Keras's format, in place of the one on the network."""
    path = tmp_path / "there/vgg19.h5"
    path.parent.mkdir()
    write_keras(path, tensors())
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(vgg_weights, "KERAS_URL", path.as_uri())
    monkeypatch.setattr(vgg_weights, "KERAS_HASH", hashlib.md5(path.read_bytes()).hexdigest())
    return path


def test_keras_is_fetched_once(tmp_path, keras_file):
    want = vgg_weights.load(keras_file, WIDTH)
    kept = tmp_path / "cache/models/vgg19.h5"
    for _ in range(2):
        jax.tree.map(np.testing.assert_array_equal, vgg_weights.load("keras", WIDTH), want)
        assert kept.is_file()
        keras_file.unlink(missing_ok=True)


def test_keras_out_of_reach_says_what_to_fetch_and_where_to(tmp_path, keras_file):
    content = keras_file.read_bytes()
    for damaged in (None, content[:-1]):
        keras_file.unlink()
        if damaged:
            keras_file.write_bytes(damaged)
        with pytest.raises(UserError) as error:
            vgg_weights.load("keras", WIDTH)
        for part in (
            "config.vgg.weights=keras",
            keras_file.as_uri(),
            hashlib.md5(content).hexdigest(),
            str(tmp_path / "cache/models/vgg19.h5"),
        ):
            assert part in str(error.value)
        keras_file.write_bytes(content)


def test_the_fetched_file_is_the_one_that_keras_fetches():
    theirs = pytest.importorskip("keras.src.applications.vgg19")
    assert theirs.WEIGHTS_PATH_NO_TOP == vgg_weights.KERAS_URL
    assert f'"{vgg_weights.KERAS_HASH}"' in Path(theirs.__file__).read_text()


@pytest.mark.parametrize("weights", ["", "nowhere/vgg19.pth"])
def test_no_file_says_where_to_get_one(weights):
    with pytest.raises(UserError) as error:
        vgg_weights.load(weights)
    for part in (
        "config.vgg.weights",
        "vgg19-dcbb9e9d.pth",
        "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "vgg19_conv.pth",
        "vgg16-397923af.pth",
        "config.vgg.weights=keras",
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
