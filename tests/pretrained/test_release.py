"""The release's tensors <-> ours: every tensor in its place, to the bit, at the release's sizes."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cocosnet_jax import checkpoint, settings
from cocosnet_jax.errors import UserError
from cocosnet_jax.pretrained import release, torch_files
from cocosnet_jax.pretrained.release_names import table

ROOT = Path(__file__).parents[2]
SPECS = ROOT / "tests" / "golden"

# Channels, adaptor kernel, maskmix, PONO (SPEC sections 1 and 8).
CASES = {
    "ade20k": (151, 3, True, True),
    "ade20k_ablation": (151, 3, True, False),
    "celebahq": (19, 4, True, True),
    "celebahqedge": (15, 4, True, True),
    "deepfashion": (20, 4, False, True),
}
NETS: dict[release.Net, str] = {"correspondence": "Corr", "generator": "G", "discriminator": "D"}


def make_settings(channels, kernel, maskmix, positional, width=64, ema=0.0):
    norm: Literal["positional", "batch"] = "positional" if positional else "batch"
    return settings.Settings(
        data=settings.DataSettings(channels=channels, exemplar_list="random", image_size=64),
        model=settings.ModelSettings(
            base_filters=width,
            adaptor_kernel=kernel,
            mask_input="features" if maskmix else "none",
            block_norm=norm,
            generator_norm=norm,
        ),
        optimiser=settings.OptimiserSettings(ema=ema),
    )


NARROW = make_settings(5, 4, True, True, width=4)


def filled(shapes, seed=0):
    """Distinct float32 numbers, cheaply: windows of one run of random numbers."""
    pool = np.random.default_rng(seed).standard_normal(2**20, np.float32)
    out = {}
    for i, (name, shape) in enumerate(shapes.items()):
        count = int(np.prod(shape))
        numbers = np.resize(np.roll(pool, -1009 * i), count).reshape(shape)
        tracked = name.endswith("num_batches_tracked")
        out[name] = np.zeros((), np.int64) if tracked else numbers
    return out


def narrow(net, config=NARROW, seed=0):
    """Tensors of a narrow network; the names are those that the full-size test checks."""
    shapes = {name: leaf.torch_shape for name, leaf in table(net, config).items()}
    return filled(shapes, seed)


def assert_equal(got, want):
    assert got.keys() == want.keys()
    for name in want:
        assert got[name].dtype == want[name].dtype, name
        np.testing.assert_array_equal(got[name], want[name], name)


@pytest.mark.parametrize("case", CASES)
def test_names_and_shapes_are_the_releases(case):
    spec = json.loads((SPECS / f"spec_{case}.json").read_text())
    for net, label in NETS.items():
        # Counters and the decoder that no step runs are not kept.
        wanted = {
            name: tuple(shape)
            for name, shape in spec[label].items()
            if ".dec." not in name and not name.endswith("num_batches_tracked")
        }
        ours = table(net, make_settings(*CASES[case]))
        assert {name: leaf.torch_shape for name, leaf in ours.items()} == wanted


# Gigabytes; names and shapes are compared above, and narrow networks below.
@pytest.mark.parity
@pytest.mark.parametrize("case", CASES)
def test_files_to_checkpoint_to_files_at_full_size(case, tmp_path):
    spec = json.loads((SPECS / f"spec_{case}.json").read_text())
    config = make_settings(*CASES[case])
    files = {}
    for net, label in NETS.items():
        files[net] = str(tmp_path / f"x_net_{label}.pth")
        torch_files.write(files[net], filled(spec[label]))
    state = release.train_state(config, files)
    # The four recipes through a checkpoint; batch norm, which none of them has, in memory.
    if case != "ade20k_ablation":
        checkpoints = checkpoint.Checkpoints(checkpoint.absolute(tmp_path / "run"), config)
        checkpoints.save(0, state, force=True)
        checkpoints.close()
        config, state, *_ = checkpoint.restore_for_inference(tmp_path / "run", all_networks=True)
        shutil.rmtree(tmp_path / "run")
    for file in files.values():
        Path(file).unlink()
    written = release.write_torch(config, state, tmp_path / "back")
    assert [path.name for path in written] == ["0_net_Corr.pth", "0_net_G.pth", "0_net_D.pth"]
    for path, label in zip(written, NETS.values(), strict=True):
        want = {n: x for n, x in filled(spec[label]).items() if ".dec." not in n}
        assert_equal(torch_files.read(path), want)
        path.unlink()


def test_layout_of_kernels_and_spectral_vectors():
    tensors = narrow("discriminator")
    params, variables = release.from_torch(tensors, "discriminator", NARROW)
    weight = tensors["discriminator_1.model2.0.0.weight_orig"]
    u = tensors["discriminator_1.model2.0.0.weight_u"]
    v = tensors["discriminator_1.model2.0.0.weight_v"]
    kernel = params["scale_1"]["conv_2"]["kernel"]
    assert weight.shape == (16, 8, 4, 4)
    assert kernel.shape == (4, 4, 8, 16)
    assert kernel[1, 3, 5, 7] == weight[7, 5, 1, 3]
    # sigma = u^T W v with W flattened to (out, rest), SPEC section 2.
    ours = variables["spectral"]["scale_1"]["conv_2"]
    np.testing.assert_allclose(
        ours["v"].astype(float) @ kernel.reshape(-1, 16).astype(float) @ ours["u"],
        u.astype(float) @ weight.reshape(16, -1).astype(float) @ v,
        rtol=1e-12,
    )


def test_names_that_change():
    """Places that a wrong table would exchange without any shape telling."""
    corr = narrow("correspondence")
    params, _ = release.from_torch(corr, "correspondence", NARROW)
    generator = narrow("generator")
    drawn, variables = release.from_torch(generator, "generator", NARROW)
    for ours, theirs in (
        (params["features"]["block_3"]["slope"], corr["layer.2.prelu.weight"][0]),
        (params["features"]["block_1"]["conv_1"]["bias"], corr["layer.0.conv2.bias"]),
        (params["theta"]["bias"], corr["theta.bias"]),
        (
            params["image_adaptor"]["block_2"]["norm_1"]["gamma"]["bias"],
            corr["adaptive_model_img.G_middle_0.norm_1.mlp_gamma.bias"],
        ),
        (drawn["stem"]["bias"], generator["fc.bias"]),
        (
            drawn["middle_1"]["norm_0"]["shared"]["bias"],
            generator["G_middle_1.norm_0.mlp_shared.1.bias"],
        ),
        (drawn["up_2"]["norm_s"]["beta"]["bias"], generator["up_2.norm_s.mlp_beta.bias"]),
        (drawn["attention"]["gamma"], generator["attn.gamma"]),
        (variables["spectral"]["attention"]["o"]["u"], generator["attn.o.weight_u"]),
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_float64_stays_float64():
    tensors = {name: x.astype(np.float64) for name, x in narrow("generator").items()}
    params, variables = release.from_torch(tensors, "generator", NARROW)
    assert {x.dtype for x in jax.tree.leaves((params, variables))} == {np.dtype(np.float64)}
    assert_equal(release.to_torch(params, variables, "generator", NARROW), tensors)


def test_batch_statistics():
    config = make_settings(5, 3, True, False, width=4)
    tensors = narrow("generator", config)
    count = "head_0.norm_0.param_free_norm.num_batches_tracked"
    params, variables = release.from_torch(tensors | {count: np.array(7)}, "generator", config)
    np.testing.assert_array_equal(
        variables["batch_stats"]["up_1"]["norm_s"]["batch_norm"]["var"],
        tensors["up_1.norm_s.param_free_norm.running_var"],
    )
    assert release.to_torch(params, variables, "generator", config)[count] == 0


def test_every_tensor_is_accounted_for():
    tensors = narrow("discriminator")
    tensors["discriminator_0.dec.9.bias"] = np.zeros(5, np.float32)  # ignored by name
    release.from_torch(tensors, "discriminator", NARROW)
    del tensors["discriminator_0.model0.0.bias"]
    tensors["discriminator_0.model4.0.weight"] = np.zeros((1, 32, 3, 3), np.float32)
    tensors["discriminator_2.model0.0.bias"] = np.zeros(4, np.float32)
    with pytest.raises(UserError) as error:
        release.from_torch(tensors, "discriminator", NARROW, "x.pth")
    for part in (
        "x.pth",
        "3 of its tensors differ",
        "discriminator_0.model0.0.bias (4,) is missing",
        "discriminator_2.model0.0.bias (4,) is unknown",
        "discriminator_0.model4.0.weight is (1, 32, 3, 3), but must be (1, 32, 4, 4)",
    ):
        assert part in str(error.value)


def test_networks_of_the_paper_have_no_place_in_the_release():
    model = dataclasses.replace(NARROW.model, generator_input="constant", feature_norm="batch")
    config = dataclasses.replace(NARROW, model=model)
    with pytest.raises(UserError, match="generator has no code"):
        table("generator", config)
    with pytest.raises(UserError, match="correspondence has no features/block_1/norm_0/mean"):
        table("correspondence", config)


# --- files ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Narrow files of all networks; the correspondence network's as DataParallel saves it."""
    folder, paths = tmp_path_factory.mktemp("files"), {}
    for seed, (net, label) in enumerate(NETS.items()):
        tensors = narrow(net, seed=seed)
        if net == "correspondence":
            tensors = {f"module.{name}": tensor for name, tensor in tensors.items()}
        paths[net] = str(folder / f"latest_net_{label}.pth")
        torch_files.write(paths[net], tensors)
    return paths


def test_shapes_tell_the_settings(files):
    for case in ("ade20k_ablation", "deepfashion"):
        channels, kernel, maskmix, positional = CASES[case]
        config = make_settings(channels, kernel, maskmix, positional, width=6)
        norm = "positional" if positional else "batch"
        common = {"model.base_filters": 6, "data.channels": channels}
        stride = {"model.warp_stride": 4} if kernel == 4 else {}
        assert release.describe(narrow("correspondence", config), "correspondence") == {
            **common,
            **stride,
            "model.adaptor_kernel": kernel,
            "model.mask_input": "features" if maskmix else "none",
            "model.block_norm": norm,
        }, case
        assert release.describe(narrow("generator", config), "generator") == {
            **common, "model.generator_norm": norm, "model.non_local": True
        }  # fmt: skip
        assert release.describe(narrow("discriminator", config), "discriminator") == {
            **common, "model.non_local": True
        }  # fmt: skip


def test_another_config_is_refused_field_by_field(files):
    config = make_settings(7, 3, False, True, width=4)
    with pytest.raises(UserError) as error:
        release.train_state(config, files)
    for part in (
        f"config.data.channels is 7, {files['correspondence']} has 5",
        f"config.data.channels is 7, {files['generator']} has 5",
        f"config.model.adaptor_kernel is 3, {files['correspondence']} has 4",
        f"config.model.mask_input is 'none', {files['correspondence']} has features",
    ):
        assert part in str(error.value)


def test_exchanged_and_strange_files(files, tmp_path):
    swapped = {**files, "generator": files["correspondence"]}
    with pytest.raises(UserError, match="contains the release's correspondence, not its generator"):
        release.train_state(NARROW, swapped)
    strange = str(tmp_path / "strange.pth")
    torch_files.write(strange, {"weight": np.zeros((2, 3))})
    with pytest.raises(UserError, match=r"strange.pth.*has no fc.weight, but weight \(2, 3\)"):
        release.train_state(NARROW, {**files, "generator": strange})


@pytest.mark.parity
def test_without_discriminator_and_with_averages(files, tmp_path):
    config = make_settings(5, 4, True, True, width=4, ema=0.999)
    nets: tuple[release.Net, ...] = ("correspondence", "generator")
    average: dict[release.Net, str] = {}
    for net in nets:
        average[net] = str(tmp_path / f"{net}_ema.pth")
        torch_files.write(average[net], narrow(net, seed=9))
    weights = {net: files[net] for net in average}
    state = release.train_state(config, weights, average)
    fresh = state.params["discriminator"]["scale_0"]["conv_1"]["kernel"]
    assert np.std(fresh) == pytest.approx(0.02 * np.sqrt(2 / (16 * 12)), rel=0.1)  # Xavier
    for got, seed in ((state.params["generator"], 1), (state.ema, 9)):
        want = narrow("generator", seed=seed)["fc.bias"]
        np.testing.assert_array_equal(got["generator"]["stem"]["bias"], want)

    written = release.write_torch(config, state, tmp_path / "back")
    assert sorted(path.name for path in written) == [
        "0_net_Corr.pth", "0_net_Corr_ema.pth", "0_net_D.pth", "0_net_G.pth", "0_net_G_ema.pth"
    ]  # fmt: skip
    got = torch_files.read(tmp_path / "back" / "0_net_Corr_ema.pth")
    np.testing.assert_array_equal(got["phi.weight"], narrow("correspondence", seed=9)["phi.weight"])
    # Without files of averages they start at the weights.
    plain = release.train_state(config, files)
    jax.tree.map(np.testing.assert_array_equal, plain.ema, plain.params["generator"])
    assert plain.opt_state["generator"][0].count == 0


def test_command_line(program, files, tmp_path):
    config = [
        "--config=configs/ade20k.py:released",
        "--config.model.base_filters=4",
        "--config.data.channels=5",
        "--config.model.adaptor_kernel=4",
    ]
    names = [f"--corr={files['correspondence']}", f"--generator={files['generator']}"]
    names += [f"--discriminator={files['discriminator']}"]
    done = program.run("convert", *config, *names, f"--output={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert "input channels 5, base filters 4, adaptor kernel 4" in done.stdout
    restored = checkpoint.restore_for_inference(tmp_path / "run")
    assert restored.settings.model.adaptor_kernel == 4
    assert jnp.shape(restored.state.params["generator"]["generator"]["stem"]["bias"]) == (64,)

    given = [f"--checkpoint={tmp_path / 'run'}", f"--output={tmp_path / 'back'}"]
    done = program.run("convert", "--to-torch", *given)
    assert done.returncode == 0, done.stderr
    for seed, (net, label) in enumerate(NETS.items()):
        got = torch_files.read(tmp_path / "back" / f"0_net_{label}.pth")
        assert_equal(got, narrow(net, seed=seed))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"corr": ""}, "--corr or --generator is missing"),
        ({"corr-ema": "x.pth"}, "only one of --corr-ema and --generator-ema"),
        ({"corr-ema": "x.pth", "generator-ema": "y.pth"}, "config.optimiser.ema is 0"),
        ({"corr": "nowhere.pth"}, "nowhere.pth: cannot be read"),
        ({"output": ""}, "--output is missing"),
    ],
)
def test_command_line_errors(program, files, tmp_path, given, message):
    names = {"corr": files["correspondence"], "generator": files["generator"]}
    named = names | {"output": str(tmp_path / "run")} | given
    flags = [f"--{name}={value}" for name, value in named.items()]
    done = program.run("convert", "--config=configs/ade20k.py:released", *flags)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}")
    assert not (tmp_path / "run").exists()
