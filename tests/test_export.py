"""What is exported: the translation, without this package, for every platform and batch."""

import importlib.metadata
import json
import os
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from etils import epath
from flax import linen as nn
from jax import export
from PIL import Image
from safetensors.numpy import load_file

from cocosnet_jax import checkpoint, pictures, portable, steps, weights_file
from cocosnet_jax.data import images, inputs
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import DataSettings, ModelSettings, Settings
from cocosnet_jax.types import Batch
from tests.conftest import LIMIT_S
from tests.untrained import untrained

SIZE = 64
DATA = DataSettings(
    dataset="ade20k", channels=6, exemplar_list="random", image_size=SIZE, load_size=SIZE
)
# As the release's, in all that the program depends on: masks, neighbourhoods, streaming.
SETTINGS = Settings(
    data=DATA,
    model=ModelSettings(
        base_filters=2, mask_input="features", match_kernel=3, warp_upsampling="patch"
    ),
)
COUNT = 3


@pytest.fixture(scope="module")
def folder(program, tmp_path_factory):
    path = tmp_path_factory.mktemp("export")
    weights = epath.Path(path) / "in.safetensors"
    weights_file.write(weights, SETTINGS, untrained(SETTINGS))
    done = program.run("export", f"--checkpoint={weights}", f"--output={path}/out")
    assert done.returncode == 0, done.stderr
    return path / "out"


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """An input, its exemplar and the exemplar's map, as pictures of other sizes."""
    folder = tmp_path_factory.mktemp("pair")
    rng = np.random.default_rng(1)
    sizes = {"label.png": (80, 100), "photo.png": (90, 60, 3), "other.png": (90, 60)}
    for name, size in sizes.items():
        high = 256 if len(size) == 3 else 6
        Image.fromarray(rng.integers(0, high, size, np.uint8)).save(folder / name)
    return [folder / name for name in sizes]


@pytest.fixture(scope="module")
def arrays(pair):
    """The pair as this package reads it, and two more."""
    rng = np.random.default_rng(0)
    label, other = rng.integers(0, 6, (2, COUNT - 1, SIZE, SIZE, 1), np.uint8)
    exemplar = rng.integers(0, 256, (COUNT - 1, SIZE, SIZE, 3), np.uint8)
    photograph = images.read_photograph(pair[1])
    read = (
        inputs.read_input(DATA, pair[0], SIZE).planes,
        images.resize_photograph(photograph, (SIZE, SIZE)),
        inputs.read_input(DATA, pair[2], SIZE).planes,
    )
    more = label, exemplar, other
    return [np.stack([first, *rest]) for first, rest in zip(read, more, strict=True)]


@pytest.fixture(scope="module")
def expected(arrays):
    label, exemplar, other = arrays
    batch = Batch(exemplar, exemplar, label, other, np.zeros(COUNT, np.float32))
    return jax.jit(steps.predict_step(SETTINGS))(untrained(SETTINGS), batch)


def test_the_exported_program_is_the_translation(folder, arrays, expected):
    program = export.deserialize((folder / "program.jax").read_bytes())
    assert program.platforms == ("cpu", "cuda", "tpu")
    # Any number of pictures.
    assert [str(x.shape[0]) for x in program.in_avals[-3:]] == ["b"] * 3
    weights = load_file(folder / "weights.safetensors")
    outputs = jax.jit(program.call)(weights, *arrays)
    # 1e-5 of full scale, which is 2.
    for name in ("image", "warped_exemplar"):
        wanted = np.asarray(getattr(expected, name))
        np.testing.assert_allclose(outputs[name], wanted, rtol=0, atol=2e-5)
    # The weights are not in the program, and are those of a checkpoint.
    assert (folder / "program.jax").stat().st_size < 1e6
    restored = checkpoint.restore_for_inference(folder / "weights.safetensors")
    assert restored.settings == SETTINGS


def test_an_export_has_no_kernels(monkeypatch):
    """They run on TPUs, for a number of pictures that is known when they are compiled."""
    used: list[Settings] = []
    monkeypatch.setattr(steps, "predict_step", used.append)
    portable.translation(Settings(model=ModelSettings(correlation="pallas", modulation="pallas")))
    assert [(s.model.correlation, s.model.modulation) for s in used] == [("streaming", "plain")]


def run_example(folder, tmp_path, *arguments):
    program = (
        "import runpy, sys; sys.modules['cocosnet_jax'] = None;"
        f"sys.argv = {['run.py', *arguments]!r}; runpy.run_path({str(folder / 'run.py')!r})"
    )
    return subprocess.run(
        [sys.executable, "-I", "-c", program],
        cwd=tmp_path,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )


def test_the_example_says_what_it_needs(folder, pair, tmp_path):
    done = run_example(folder, tmp_path, "result.png", str(pair[0]))
    assert done.returncode == 1
    assert done.stderr == "usage: python run.py RESULT.png LABEL EXEMPLAR EXEMPLAR_LABEL\n"
    Image.new("RGB", (8, 8)).save(tmp_path / "colours.png")
    done = run_example(folder, tmp_path, "result.png", "colours.png", *map(str, pair[1:]))
    assert done.returncode == 1
    assert done.stderr == "colours.png is no label, which has 1 number(s) per pixel, 0 to 5\n"
    # In 16 bits, of which the lower 8 would be a class.
    Image.fromarray(np.full((8, 8), 257, np.uint16)).save(tmp_path / "deep.png")
    done = run_example(folder, tmp_path, "result.png", "deep.png", *map(str, pair[1:]))
    assert done.stderr == "deep.png is no label, which has 1 number(s) per pixel, 0 to 5\n"


def test_the_example_runs_without_this_package(folder, pair, expected, tmp_path):
    done = run_example(folder, tmp_path, "result.png", *map(str, pair))
    assert done.returncode == 0, done.stderr
    wanted = pictures.to_bytes(np.asarray(expected.image[0]))
    found = np.asarray(Image.open(tmp_path / "result.png"))
    assert np.abs(found.astype(int) - wanted).max() <= 1
    assert np.mean(found != wanted) < 0.01


def test_model_json_describes_inputs_and_outputs(folder):
    about = json.loads((folder / "model.json").read_text())
    assert [x["name"] for x in about["inputs"]] == ["label", "exemplar", "exemplar_label"]
    assert about["inputs"][0] == {
        "name": "label",
        "shape": ["b", SIZE, SIZE, 1],
        "dtype": "uint8",
        "range": [0, 5],
        "meaning": "the class number of each pixel",
    }
    program = export.deserialize((folder / "program.jax").read_bytes())
    for described, aval in zip(about["inputs"], program.in_avals[-3:], strict=True):
        assert described["shape"][1:] == list(aval.shape[1:])
        assert described["dtype"] == aval.dtype.name
    assert sorted(x["name"] for x in about["outputs"]) == ["image", "warped_exemplar"]
    for described, aval in zip(about["outputs"], program.out_avals, strict=True):
        assert described["shape"][1:] == list(aval.shape[1:])
        assert described["dtype"] == aval.dtype.name


def test_a_folder_of_other_files_is_left_alone(program, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    done = program.run("export", f"--output={tmp_path}")
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"error: --output={tmp_path} contains notes.txt, which is no part"
    )
    done = program.run("export")
    assert done.stderr == "error: --output is missing; name the folder to write\n"


def test_what_the_converter_to_onnx_does_not_know_is_replaced():
    """By operations with the same results."""
    x = jax.random.normal(jax.random.key(0), (2, 6, 8, 3))
    own = nn.max_pool(x, (2, 2), (2, 2)), nn.avg_pool(x, (2, 2), (2, 2))

    def translate(*arrays):
        return portable.translation(SETTINGS)(weights_file.arrays_of(untrained(SETTINGS)), *arrays)

    shapes = [jax.ShapeDtypeStruct((1, SIZE, SIZE, p), np.uint8) for p in (1, 3, 1)]
    unknown = ("platform_index", "reduce_window")
    before = str(jax.make_jaxpr(translate)(*shapes))
    assert all(name in before for name in unknown)
    with portable.simple_operations():
        after = str(jax.make_jaxpr(translate)(*shapes))
        pooled = nn.max_pool(x, (2, 2), (2, 2)), nn.avg_pool(x, (2, 2), (2, 2))
    assert not any(name in after for name in unknown)
    np.testing.assert_array_equal(pooled[0], own[0])
    np.testing.assert_allclose(pooled[1], own[1], rtol=1e-6)


def test_onnx_without_its_converter_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(UserError, match=r"--onnx needs jax2onnx .* docs/export.md says how"):
        portable.to_onnx(SETTINGS, untrained(SETTINGS), SIZE)


def test_a_converter_of_another_jax_is_one_line(monkeypatch):
    def to_onnx(function, **_):
        raise AttributeError("module 'jax._src.core' has no attribute 'ClosedJaxpr'")

    monkeypatch.setitem(sys.modules, "jax2onnx", types.SimpleNamespace(to_onnx=to_onnx))
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.17.1")
    monkeypatch.setattr(jax, "make_jaxpr", lambda function: lambda *shapes: None)
    monkeypatch.setattr(portable, "jaxpr_as_fun", lambda traced: None)
    with pytest.raises(UserError, match=r"jax2onnx 0.17.1 cannot convert .* \(AttributeError: mod"):
        portable.to_onnx(SETTINGS, untrained(SETTINGS), SIZE)
