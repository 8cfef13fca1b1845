"""Our numbers beside the release's, on weights and inputs made by rule (tests/golden/rule.py).

    python -m tests.parity [--dtype=float64|float32|bfloat16] [--precision=highest|default]
        [--golden=FOLDER] [--repeat=N] [CASE ...]

prints one line per case, the worst relative error of each kind. `test_parity.py` asserts them. With
`--repeat` the training step sees the case's batch N times over, in groups of the batch's own size:
losses and gradients must stay what they are (SPEC section 6, losses per replica).
"""

import argparse
import dataclasses
import functools
import importlib.util
import json
import os
import pathlib
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cocosnet_jax import model, settings, state, steps, vgg, warp
from cocosnet_jax.correspondence import Correspondence
from cocosnet_jax.encode import encode
from cocosnet_jax.pretrained import release
from cocosnet_jax.types import Batch

HERE = pathlib.Path(__file__).parent / "golden"
FOLDER = pathlib.Path(os.environ.get("COCOSNET_GOLDEN", HERE))
# The release's networks, as files name them: key in the spec, ours, prefix in the step, player.
NETS: tuple[tuple[str, release.Net, str, str], ...] = (
    ("G", "generator", "netG.", "generator"),
    ("Corr", "correspondence", "netCorr.", "generator"),
    ("D", "discriminator", "netD.", "discriminator"),
)
LOSSES = {
    "alignment": "no_vgg_feat",
    "adversarial": "GAN",
    "discriminator_features": "GAN_Feat",
    "pseudo_exemplar": "fm",
    "perceptual": "perc",
    "contextual": "contextual",
    "mask": "mask",
    "regularisation": "G_warp_cycle",
    "self_warp": "G_warp_self",
    "generator_total": "total_G",
    "discriminator_fake": "D_Fake",
    "discriminator_real": "D_real",
}
CONDITIONS = {"ade20k": "labels", "celebahq": "labels_glasses"}


def _rule() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("golden_rule", HERE / "rule.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


rule = _rule()


def cases(folder: pathlib.Path = FOLDER) -> list[str]:
    """Names of all cases in the folder."""
    return sorted(path.stem.removeprefix("meta_") for path in folder.glob("meta_*.json"))


def release_settings(meta: dict[str, Any]) -> settings.Settings:
    """Settings from the options of a case; what it does not name is the release's default."""
    task, options = meta["task"], meta["options"]
    option = options.get
    norm = "positional" if option("PONO") else "batch"
    warped_mask = option("warp_mask_losstype", "none")
    upsampling = "bilinear" if option("warp_bilinear") else "nearest"
    values: dict[str, Any] = {
        "data": {
            "dataset": task,
            "image_size": meta["size"],
            "load_size": meta["size"],
            "condition": CONDITIONS.get(task, "channels"),
            "channels": rule.CHANNELS[task],
            "exemplar_list": "random",
        },
        "model": {
            "base_filters": option("ngf", 64),
            "adaptor_kernel": option("adaptor_kernel", 3),
            "warp_stride": option("warp_stride", 4),
            "block_norm": norm,
            "generator_norm": norm,
            "match_kernel": option("match_kernel", 3),
            "centre": "channels" if option("PONO_C") else "positions",
            "warp_upsampling": "patch" if option("warp_patch") else upsampling,
            "mask_input": "features" if option("maskmix") else "none",
            "mask_epochs": option("mask_epoch", -1) if option("noise_for_mask") else -1,
            "mask_at_inference": not option("noise_for_mask", False),
            "warped_mask": warped_mask,
            "non_local": bool(option("use_attention")),
        },
        "loss": {
            "pseudo_exemplar": 10 * option("fm_ratio", 0.1),
            "perceptual": option("weight_perceptual", 0.01),
            "perceptual_layer": "relu" + option("which_perceptual", "5_2"),
            "contextual": 10 * option("ctx_w", 1.0),
            "contextual_relu2_2": bool(option("use_22ctx")),
            "contextual_centre": "channels" if option("PONO") else "positions",
            "mask": option("weight_mask", 0.0) if warped_mask != "none" else 0.0,
            "regularisation": option("warp_cycle_w", 0.0),
            "self_warp": option("warp_self_w", 0.0),
        },
        "vgg": {"weights": "random"},
    }
    return settings.from_mapping(values)


def _nhwc(x: np.ndarray) -> np.ndarray:
    return np.asarray(x).transpose(0, 2, 3, 1)


def _nchw(x: jax.Array) -> np.ndarray:
    return np.asarray(x).transpose(0, 3, 1, 2)


def golden_batch(meta: dict[str, Any], condition: str, dtype: Any) -> Batch:
    """The rule's batch as the pipeline would carry it, with floating images."""
    drawn = rule.batch(meta)

    def planes(name: str, semantics: str) -> np.ndarray:
        if condition == "channels":
            return _nhwc(drawn[semantics]).astype(dtype)
        label = _nhwc(drawn[name]).astype(np.uint8)
        if condition == "labels":
            return label
        glasses = _nhwc(drawn[semantics])[..., rule.GLASSES :][..., :1].astype(np.uint8)
        return np.concatenate([label, glasses], -1)

    return Batch(
        _nhwc(drawn["image"]).astype(dtype),
        _nhwc(drawn["ref"]).astype(dtype),
        planes("label", "semantics"),
        planes("ref_label", "ref_semantics"),
        drawn["self_ref"].astype(dtype),
    )


# Four networks of one case: made for one precision, they serve the other too.
@functools.lru_cache(maxsize=4)
def _by_rule(folder: pathlib.Path, case: str, net: str) -> dict[str, np.ndarray]:
    meta, spec, _, _ = rule.load(folder, case)
    return rule.state_dict(spec[net], f"{meta['salt']}{net}/")


def golden_state(
    folder: pathlib.Path, case: str, s: settings.Settings, dtype: Any
) -> tuple[state.TrainState, vgg.VggWeights]:
    """State, without optimisers, and VGG weights of a case, made by rule and converted."""
    params: dict[str, Any] = {"generator": {}, "discriminator": {}}
    variables: dict[str, Any] = {"generator": {}, "discriminator": {}}
    for key, net, _, player in NETS:
        tensors = {
            name: value.astype(dtype) if value.ndim else value
            for name, value in _by_rule(folder, case, key).items()
        }
        net_params, net_variables = release.from_torch(tensors, net, s)
        if player == "discriminator":
            params[player], variables[player] = net_params, net_variables
            continue
        params[player][net] = net_params
        for collection, tree in net_variables.items():
            variables[player].setdefault(collection, {})[net] = tree
    params, variables = jax.tree.map(lambda x: jnp.asarray(x, dtype), (params, variables))
    tensors = _by_rule(folder, case, "VGG")
    weights = {
        name: {
            "kernel": jnp.asarray(tensors[f"{name}.weight"].transpose(2, 3, 1, 0), dtype),
            "bias": jnp.asarray(tensors[f"{name}.bias"], dtype),
        }
        for name in vgg.LAYERS["VGG-19"]
    }
    start = state.TrainState(jnp.zeros((), jnp.int32), params, variables, {}, None)
    return start, vgg.VggWeights(weights)


def _worst(errors: dict[str, float]) -> tuple[float, str]:
    # What is not a number is the worst.
    name = max(errors, key=lambda key: (np.isnan(errors[key]), errors[key]))
    return errors[name], name


def _run(function: Any, *args: Any) -> Any:
    # Each program runs once: compiling it fast is worth more than running it fast.
    options: dict[str, Any] = {}
    if jax.default_backend() == "cpu":
        options = {"xla_backend_optimization_level": 0}
    return jax.jit(function).lower(*args).compile(compiler_options=options)(*args)


def evaluation_arrays(
    s: settings.Settings, start: state.TrainState, weights: vgg.VggWeights, batch: Batch
) -> dict[str, np.ndarray]:
    """Every evaluation array of a case, as the release's run names and slices them."""

    def correlation(found: Correspondence) -> jax.Array:
        """Every position with every other, which the translation itself need not hold."""
        theta, phi = (
            warp.matching_features(x, s.model.match_kernel, s.model.centre)
            for x in (found.theta, found.phi)
        )
        return warp.correlation_logits(theta, phi, s.model.temperature)

    def compute(start: state.TrainState, weights: vgg.VggWeights, batch: Batch) -> tuple:
        inputs = encode(batch, s.data)
        variables = state.inference_variables(start)
        key = jax.random.key(0)
        translation = model.build(s).apply(variables, inputs, key, train=False)
        judged: Any = state.build_discriminator(s).apply(
            {"params": start.params["discriminator"], **start.variables["discriminator"]},
            inputs.semantics.tensor(),
            inputs.image,
            train=False,
        )
        logits = [scale[-1] for scale in judged]
        pairs = correlation(translation.correspondence)
        return translation, pairs, logits, vgg.features(weights, inputs.image)

    translation, pairs, logits, features = _run(compute, start, weights, batch)
    found = translation.correspondence
    return {
        "eval_fake_image": _nchw(translation.image),
        "eval_warp_out": _nchw(translation.warped_exemplar),
        "eval_correlation_rows": np.asarray(pairs)[:, ::16],
        "eval_adaptor_input": _nchw(found.adapted_input)[:, ::4],
        "eval_adaptor_exemplar": _nchw(found.adapted_exemplar)[:, ::4],
        "eval_theta": _nchw(found.theta)[:, ::4],
        "eval_phi": _nchw(found.phi)[:, ::4],
        **{f"eval_discriminator_{i}_logits": _nchw(x) for i, x in enumerate(logits)},
        **{
            f"vgg_r{name[-3]}{name[-1]}": _nchw(x)[:, ::16, ::4, ::4]
            for name, x in features.items()
        },
    }


def _tensors(
    params: dict[str, Any], variables: dict[str, Any], net: release.Net, s: settings.Settings
) -> dict[str, np.ndarray]:
    """One network's tensors under the release's names, taken from its player's trees."""
    if net != "discriminator":
        params = params[net]
        variables = {kind: tree[net] for kind, tree in variables.items() if net in tree}
    return {
        name: np.asarray(value, np.float64)
        for name, value in release.to_torch(params, variables, net, s).items()
    }


def measure(
    case: str,
    dtype: Any = np.float64,
    folder: pathlib.Path = FOLDER,
    *,
    bfloat16: bool = False,
    repeat: int = 1,
) -> dict[str, tuple[float, str]]:
    """Worst relative error of each kind and where it is; float32 leaves gradients out.

    With `bfloat16`, activations have that type, and parameters and inputs `dtype`. With `repeat`,
    the batch is repeated, and what is no mean over it, arrays and buffers, is left out.

    Arrays and images: largest difference over largest value. Losses and norms: relative.
    Projections of gradients and updates: over the norm. Buffers: over the norm.
    """
    meta, _, step, arrays = rule.load(folder, case)
    s = release_settings(meta)
    # Each program runs once, and has room for what the backward pass reads.
    network = dataclasses.replace(
        s.model,
        rematerialise="nothing" if repeat == 1 else "blocks",
        dtype="bfloat16" if bfloat16 else "float32",
    )
    with jax.enable_x64(dtype == np.float64):
        batch = golden_batch(meta, s.data.condition, dtype)
        # The release ran on one replica.
        loss = dataclasses.replace(s.loss, group_size=len(batch.image))
        s = dataclasses.replace(s, model=network, loss=loss)
        start, weights = golden_state(folder, case, s, dtype)
        computed = evaluation_arrays(s, start, weights, batch) if repeat == 1 else {}
        batch = jax.tree.map(lambda x: np.concatenate([x] * repeat), batch)

        def train(start: state.TrainState, weights: vgg.VggWeights, batch: Batch) -> Any:
            inputs = encode(batch, s.data)
            key = jax.random.key(0)
            grads, variables, metrics, translation = steps.gradients(
                s, start, weights, inputs, key, steps.gives_mask(s, start.step, 1)
            )
            pictures = (
                translation.image,
                translation.warped_exemplar,
                translation.warped_cycle,
                translation.warped_mask,
            )
            if dtype != np.float64:
                return metrics, pictures
            # Made here, the zeros of the optimisers need no memory of their own.
            opt_state = {
                name: optimiser.init(start.params[name])
                for name, optimiser in state.optimisers(s.optimiser, 1).items()
            }
            start = start.replace(opt_state=opt_state)
            after = steps.apply_gradients(s, start, grads, variables, 1)
            return metrics, pictures, grads, after.params, after.variables

        metrics, pictures, *rest = _run(train, start, weights, batch)
    names = ("fake_image", "warp_out", "warp_cycle", "warp_mask")
    for name, x in zip(names, pictures, strict=True):
        if x is not None:
            computed[f"train_{name}"] = _nchw(x)

    unmet = set(arrays.files) - set(computed)
    assert repeat > 1 or not unmet, f"{case}: nothing computed for {sorted(unmet)}"
    expected = {name.removeprefix("loss/") for name in step if name.startswith("loss/")}
    assert expected == {LOSSES[name] for name in metrics}, f"{case}: other losses than {expected}"
    errors: dict[str, dict[str, float]] = {}
    if repeat == 1:
        differences = {name: np.abs(computed[name] - arrays[name]).max() for name in arrays.files}
        errors["arrays"] = {
            name: float(difference / np.abs(arrays[name]).max())
            for name, difference in differences.items()
        }
        # Over full scale, -1 to 1.
        pictures_of = ("eval_fake_image", "train_fake_image")
        errors["image"] = {name: float(differences[name] / 2) for name in pictures_of}
    errors["losses"] = {
        name: abs(float(value) / step[f"loss/{LOSSES[name]}"] - 1)
        for name, value in metrics.items()
    }
    if rest:
        matched: set[str] = set()
        kinds = ("grad_norm", "grad_proj", "update_norm", "update_proj", "buffers")
        errors |= {kind: {} for kind in kinds}
        grads, after_params, after_variables = rest
        # One network at a time: each is held several times over.
        for _, net, prefix, player in NETS:
            before = _tensors(start.params[player], start.variables[player], net, s)
            now = _tensors(after_params[player], after_variables[player], net, s)
            gradient = _tensors(grads[player], after_variables[player], net, s)
            for short, value in now.items():
                name = prefix + short
                found = {"grad": gradient[short], "update": value - before[short]}
                for kind, array in found.items():
                    if (norm := step.get(f"{kind}_norm/{name}")) is None:
                        continue
                    matched.add(f"{kind}_norm/{name}")
                    errors[f"{kind}_norm"][name] = abs(float(np.linalg.norm(array)) / norm - 1)
                    difference = rule.projection(name, array) - step[f"{kind}_proj/{name}"]
                    errors[f"{kind}_proj"][name] = abs(difference) / norm
                # Of what stands still, only the values after the step count.
                if (projection := step.get(f"buffer_proj/{name}")) is not None:
                    matched.add(f"buffer_proj/{name}")
                    difference = rule.projection(name, value) - projection
                    errors["buffers"][name] = abs(difference) / float(np.linalg.norm(value))
        unmet = {
            name
            for name in step
            # The decoder in the discriminator's files is never run (SPEC section 5).
            if name.startswith(("grad_norm/", "update_norm/", "buffer_proj/"))
            and ".dec." not in name
        } - matched
        assert not unmet, f"{case}: nothing computed for {sorted(unmet)}"
    shown = ("losses", "grad_norm", "grad_proj") if repeat > 1 else tuple(errors)
    return {kind: _worst(errors[kind]) for kind in shown}


def line(case: str, dtype: str, worst: dict[str, tuple[float, str]]) -> str:
    """One line per case, as the docs show it."""
    figures = "  ".join(f"{kind} {error:.1e}" for kind, (error, _) in worst.items())
    return f"{case:16} {dtype:8}  {figures}"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*")
    parser.add_argument("--dtype", choices=("float64", "float32", "bfloat16"), default="float64")
    parser.add_argument("--precision", choices=("default", "highest"), default="default")
    parser.add_argument("--golden", type=pathlib.Path, default=FOLDER)
    parser.add_argument("--repeat", type=int, default=1)
    arguments = parser.parse_args()
    print(json.dumps({"device": jax.devices()[0].device_kind, "precision": arguments.precision}))
    with jax.default_matmul_precision(arguments.precision):
        for case in arguments.cases or cases(arguments.golden):
            low = arguments.dtype == "bfloat16"
            dtype = np.float32 if low else np.dtype(arguments.dtype).type
            worst = measure(case, dtype, arguments.golden, bfloat16=low, repeat=arguments.repeat)
            print(line(case, arguments.dtype, worst), flush=True)
            for kind, (error, name) in worst.items():
                print(f"    {kind}: {error:.2e} at {name}")


if __name__ == "__main__":
    main()
