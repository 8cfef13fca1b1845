"""A step of small batches beside a step of one large batch."""

import dataclasses
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cocosnet_jax import accumulation, losses, mesh, partition, settings, steps
from cocosnet_jax.data import pipeline
from cocosnet_jax.encode import batch_shapes, encode, random_batch
from cocosnet_jax.errors import UserError
from cocosnet_jax.nn import convolution
from cocosnet_jax.nn.conv import Conv
from cocosnet_jax.nn.norms import BatchNorm
from cocosnet_jax.pretrained import vgg as vgg_weights
from cocosnet_jax.state import TrainState, state_shapes
from tests.eight_devices import convolve
from tests.untrained import untrained

SAMPLES = 4


# Without VGG, which takes long to compile.
NO_VGG = {"contextual": 0.0, "perceptual": 0.0, "pseudo_exemplar": 0.0}


def config(accumulate, loss=(), **model):
    return settings.from_mapping(
        {
            "data": {"image_size": 64, "load_size": 64, "channels": 5, "exemplar_list": "random"},
            # Noise replaces the masks from the first step on.
            "model": {
                "base_filters": 2,
                "rematerialise": "nothing",
                "mask_epochs": 0,
                **model,
            },
            "loss": {
                "mask": 100.0,
                "self_warp": 10.0,
                "colour": 10.0,
                "class_colour": 10.0,
                "warp_class_colour": 10.0,
                "regularisation": 1.0,
                **dict(loss),
            },
            "optimiser": {"ema": 0.9},
            "vgg": {"weights": "random", "width": 2},
            "train": {"batch_size": SAMPLES, "accumulate": accumulate},
        }
    )


def batch(dtype=np.float32):
    """Samples whose shares in their group differ, as floats."""
    rng = np.random.default_rng(0)
    drawn = random_batch(config(1).data, SAMPLES)
    # Exemplars without some of the classes.
    drawn.exemplar_label[1:3] %= 3
    image, exemplar = rng.uniform(-1, 1, (2, *drawn.image.shape)).astype(dtype)
    itself = np.array([1, 0, 1, 1], np.float32)
    return drawn._replace(image=image, exemplar=exemplar, self_reference=itself)


@pytest.mark.parametrize("accumulate", [2, 4])
def test_shares_are_those_of_whole_groups(accumulate):
    """Groups of 4 are split among small batches of 2 and of 1."""
    s = config(accumulate)
    whole = losses.group_shares(s, encode(batch(), s.data))
    found = accumulation.shares_of(s, mesh.to_global(mesh.make(), batch(), accumulate))
    for name in losses.Shares._fields:
        expected = getattr(whole, name)
        assert len(set(np.asarray(expected))) > 1 or name == "mask"
        np.testing.assert_array_equal(
            getattr(found, name), np.reshape(expected, (accumulate, SAMPLES // accumulate))
        )


class Network(nn.Module):
    """One convolution with spectral norm, then batch norm."""

    @nn.compact
    def __call__(self, x):
        x = Conv(2, 1, spectral=True, use_bias=False, name="conv")(x, train=True)
        return BatchNorm(name="norm")(x, train=True)


def test_spectral_norm_advances_once_and_batch_norm_with_every_small_batch(monkeypatch):
    images = np.random.default_rng(1).normal(size=(4, 2, 2, 3)).astype(np.float32)
    kernel = np.random.default_rng(2).normal(size=(3, 2))
    u = np.array([0.6, 0.8])
    params = {"conv": {"kernel": jnp.asarray(kernel, jnp.float32).reshape(1, 1, 3, 2)}}
    variables = {
        "spectral": {"conv": {"u": jnp.asarray(u, jnp.float32), "v": jnp.zeros(3)}},
        "batch_stats": {"norm": {"mean": jnp.zeros(2), "var": jnp.ones(2)}},
    }
    firsts = []

    def gradients(s, state, vgg, inputs, key, give_mask, shares, first, devices):
        def loss(params):
            y, new = Network().apply(
                {"params": params, **state.variables["generator"]},
                inputs.image,
                mutable=["spectral", "batch_stats"],
            )
            return jnp.mean(y**3), new

        (value, new), grads = jax.value_and_grad(loss, has_aux=True)(state.params["generator"])
        firsts.append(first)
        return {"generator": grads}, {"generator": new}, {"loss": value}, None

    def apply_gradients(s, state, grads, variables, steps_per_epoch):
        return dataclasses.replace(state, params=grads, variables=variables)

    monkeypatch.setattr(accumulation, "gradients", gradients)
    monkeypatch.setattr(accumulation, "apply_gradients", apply_gradients)
    s = config(2)
    label = np.zeros((4, 2, 2, 1), np.uint8)
    rows = batch()._replace(image=images, exemplar=images, label=label, exemplar_label=label)
    small = jax.tree.map(lambda x: jnp.asarray(x).reshape(2, 2, *x.shape[1:]), rows)
    state = TrainState(
        jnp.int32(0), {"generator": params}, {"generator": variables}, {"generator": ()}, None
    )
    step = jax.jit(accumulation.train_step(dataclasses.replace(s, loss=without_mask(s)), 1))
    found, metrics = jax.device_get(step(state, None, small, jax.random.key(0)))

    # By the formulas: one power iteration (SPEC section 2), two moves of the running statistics.
    v = kernel @ u / np.linalg.norm(kernel @ u)
    after = v @ kernel / np.linalg.norm(v @ kernel)
    outputs = images.astype(float) @ (kernel / (v @ kernel @ after))
    mean, variance, expected_loss = np.zeros(2), np.ones(2), []
    for part in (outputs[:2].reshape(-1, 2), outputs[2:].reshape(-1, 2)):
        mean += 0.1 * (part.mean(0) - mean)
        variance += 0.1 * (part.var(0, ddof=1) - variance)
        expected_loss.append(np.mean(((part - part.mean(0)) / np.sqrt(part.var(0) + 1e-5)) ** 3))
    moved = found.variables["generator"]
    np.testing.assert_allclose(moved["spectral"]["conv"]["v"], v, rtol=1e-5)
    np.testing.assert_allclose(moved["spectral"]["conv"]["u"], after, rtol=1e-5)
    np.testing.assert_allclose(moved["batch_stats"]["norm"]["mean"], mean, rtol=1e-4)
    np.testing.assert_allclose(moved["batch_stats"]["norm"]["var"], variance, rtol=1e-4)
    np.testing.assert_allclose(metrics["loss"], np.mean(expected_loss), rtol=1e-4)
    # Traced: every small batch knows the number of its first sample.
    assert len(firsts) == 1
    assert np.shape(firsts[0]) == ()


def without_mask(s):
    return dataclasses.replace(s.loss, mask=0.0)


@pytest.mark.parametrize(("processes", "accumulate"), [(1, 3), (2, 3), (2, 1), (4, 2)])
def test_processes_share_every_small_batch(processes, accumulate):
    rows = [
        pipeline.rows_of("config.train.batch_size", 24, index, processes, accumulate)
        for index in range(processes)
    ]
    # The small batches, each in the order of the processes.
    together = np.concatenate([x.reshape(accumulate, -1) for x in rows], 1)
    np.testing.assert_array_equal(together.ravel(), np.arange(24))


def test_a_number_that_does_not_split_the_batch_is_refused():
    with pytest.raises(
        UserError, match=r"train\.accumulate is 3, .* set accumulate to one of 1, 2, 4"
    ):
        config(3)
    with pytest.raises(UserError, match=r"train\.accumulate is 0; it must be 1 or more"):
        config(0)
    # 16 samples split into 4, but not on 8 devices.
    mesh.check_batch(32, 8, accumulate=4)
    with pytest.raises(UserError) as error:
        mesh.check_batch(16, 8, group_size=4, accumulate=4)
    assert (
        "batch_size is 16, which does not split evenly over 4 small batches"
        " (config.train.accumulate) on each of 8 devices; set it to a multiple of 32, for example"
    ) in str(error.value)


def trained(accumulate, kind, **changed):
    """The state before and after a step, and its losses."""
    s, one = config(accumulate, **changed), mesh.make()

    def wide(x):
        return np.asarray(x, kind) if x.dtype == np.float32 else np.asarray(x)

    before = jax.tree.map(wide, untrained(s))
    weights = jax.tree.map(wide, vgg_weights.load("random", 2))
    step = partition.jitted_step(s, one, 10)
    placed = mesh.to_global(one, batch(kind), accumulate)
    after, found = step(jax.device_put(before, mesh.replicated(one)), weights, placed)
    return before, jax.device_get(after), jax.device_get(found)


def moments(state):
    """Adam's second moments: 0.1 times the gradients' squares."""
    return [np.asarray(x) for x in jax.tree.leaves(state.opt_state) if np.ndim(x)]


# A minute for each compilation.
@pytest.mark.long
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_small_batches_of_one_sample_equal_the_large_batch(dtype, record_property):
    double = dtype == "float64"
    kind: Any = np.float64
    changed: dict[str, Any] = {}
    if not double:
        kind, changed = np.float32, {"loss": NO_VGG, "dtype": dtype}
    with jax.enable_x64(double), mock.patch.object(convolution, "_convolve_patches", convolve):
        before, large, expected = trained(1, kind, **changed)
        _, small, found = trained(SAMPLES, kind, **changed)
    # In bfloat16, other sums are rounded to 8 bits.
    loss_bound, gradient_bound = (1e-12, 1e-9) if double else (4e-2, 5e-2)
    ours = {"mask", "self_warp", "colour", "class_colour", "warp_class_colour"}
    assert ours | {"discriminator_real"} <= found.keys()
    assert double == ("pseudo_exemplar" in found)
    worst = max(abs(float(found[name] / expected[name]) - 1) for name in expected)
    pairs = [
        (np.sqrt(x), np.sqrt(y))
        for x, y in zip(moments(small), moments(large), strict=True)
        if y.max() > 1e-20
    ]
    if double:
        gradient = max(np.abs(x - y).max() / y.max() for x, y in pairs)
    else:
        # Together: those of a bias before a norm are nothing but rounding.
        gradient = sum(np.square(x - y).sum() for x, y in pairs) ** 0.5
        gradient /= sum(np.square(y).sum() for _, y in pairs) ** 0.5
    said = f"accumulation, {dtype}: losses {worst:.1e}, gradients {gradient:.1e}"
    record_property("parity", said)
    print(said)
    assert worst < loss_bound
    assert gradient < gradient_bound
    # Spectral vectors do not depend on the data.
    bound = 1e-12 if double else 1e-6
    for x, y in zip(
        jax.tree.leaves(small.variables), jax.tree.leaves(large.variables), strict=True
    ):
        np.testing.assert_allclose(x, y, rtol=0, atol=bound)
    for name in ("params", "ema") if double else ():
        trees = (getattr(state, name) for state in (before, large, small))
        leaves = zip(*map(jax.tree.leaves, trees), strict=True)
        differ, moved = np.max(
            [[np.abs(z - y).max(), np.abs(y - x).max()] for x, y, z in leaves], axis=0
        )
        assert differ < 1e-6 * moved


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_networks_know_which_devices_split_the_batch(accumulate, monkeypatch):
    """XLA cannot split the kernels of the correlation without that."""
    wanted = config(accumulate)
    start, devices = state_shapes(wanted), mesh.make(jax.devices()[:1])
    build = mock.Mock(side_effect=InterruptedError)
    monkeypatch.setattr(steps.model, "build", build)
    step = partition.jitted_step(wanted, devices, 1)
    with pytest.raises(InterruptedError):
        step.trace(
            start, vgg_weights.load("random", 2), batch_shapes(wanted.data, SAMPLES, accumulate)
        )
    build.assert_called_once_with(wanted, devices)
