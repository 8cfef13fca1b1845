"""The kernels of instance norm and PReLU, interpreted on a CPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cocosnet_jax.nn import instance
from cocosnet_jax.nn.blocks import ResidualBlock
from tests.nn.test_modulation import TWO, fits, lowered

SLOPE = 0.25


def numbers(shape, skip, dtype=np.float32):
    """A map, the slope, and what is added to the norm, rounded to a type."""
    rng = np.random.default_rng(0)
    x, other = (jnp.asarray(rng.normal(1, 2, shape), dtype) for _ in range(2))
    return x, jnp.float32(SLOPE), other if skip else None


def by_hand(x, slope, skip, padded):
    """Norm of each channel of each sample (biased variance), PReLU and reflection, in float64."""
    x = np.asarray(x, np.float64)
    y = (x - x.mean((1, 2), keepdims=True)) / np.sqrt(x.var((1, 2), keepdims=True) + 1e-5)
    if skip is not None:
        y = y + np.asarray(skip, np.float64)
    y = np.where(y > 0, y, float(slope) * y)
    return np.pad(y, ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect") if padded else y


def gradients(function, *arguments):
    """Of a sum with weights that differ from place to place, and are symmetric nowhere."""

    def loss(*arguments):
        y = function(*arguments)
        return jnp.sum(y * np.random.default_rng(1).normal(size=y.shape))

    return jax.grad(loss, (0, 1, 2) if arguments[2] is not None else (0, 1))(*arguments)


def plainly(padded):
    """`instance.plain` with the slope as `activate` takes it."""
    return lambda x, slope, skip: instance.plain(x, slope.reshape(1, 1), skip, padded)


# Channels that fill no register, and one and a bit; the least height and width; eight pictures per
# program, and all of them in one.
@pytest.mark.parametrize(
    ("shape", "skip", "padded"),
    [
        ((2, 4, 5, 6), False, True),
        ((2, 5, 4, 130), True, False),
        ((16, 4, 6, 3), True, True),
        ((24, 4, 5, 300), True, True),
        ((3, 6, 4, 5), False, False),
    ],
)
def test_the_kernels_equal_the_formula_and_its_gradients(shape, skip, padded):
    arguments = numbers(shape, skip)
    kernels = functools.partial(instance.activate, padded=padded, interpret=True)
    found = jax.jit(kernels)(*arguments)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, by_hand(*arguments, padded), rtol=1e-5, atol=1e-5)
    found = jax.jit(functools.partial(gradients, kernels))(*arguments)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda y: jnp.asarray(y, jnp.float64), arguments)
        wanted = gradients(plainly(padded), *wide)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * np.abs(other).max())


def test_bfloat16_is_rounded_once():
    arguments = numbers((8, 6, 5, 16), True, jnp.bfloat16)
    kernels = functools.partial(instance.activate, padded=True, interpret=True)
    found = jax.jit(kernels)(*arguments)
    assert found.dtype == jnp.bfloat16
    # Half a unit of eight bits, and float32's own rounding.
    np.testing.assert_allclose(
        np.asarray(found, np.float64), by_hand(*arguments, True), rtol=2**-8, atol=1e-5
    )
    found = jax.jit(functools.partial(gradients, kernels))(*arguments)
    assert [y.dtype for y in found] == [jnp.bfloat16, jnp.float32, jnp.bfloat16]
    wanted = gradients(plainly(True), *(y.astype(jnp.float32) for y in arguments))
    for one, other in zip(found, wanted, strict=True):
        # The gradients that arrive are rounded, too.
        np.testing.assert_allclose(
            one.astype(np.float32), other, rtol=0.02, atol=0.02 * np.abs(other).max()
        )


@pytest.mark.parametrize("skip", [False, True])
def test_tpus_run_kernels_and_other_devices_do_not(skip):
    arguments = numbers((2, 4, 4, 5), skip)
    function = functools.partial(instance.activate, padded=not skip)
    tpu, gpu = lowered(function, gradients, *arguments)
    # The result is kept for the backward pass.
    assert tpu.count("stablehlo.custom_call @tpu_custom_call") == 2
    assert "tpu_custom_call" not in gpu
    plain = plainly(not skip)
    np.testing.assert_array_equal(function(*arguments), plain(*arguments))
    for one, other in zip(
        gradients(function, *arguments), gradients(plain, *arguments), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


def test_devices_run_the_kernels_on_samples_of_their_own():
    function = functools.partial(instance.activate, padded=True, samples=TWO)
    tpu, _ = lowered(function, gradients, *numbers((16, 4, 4, 5), True))
    assert tpu.count("stablehlo.custom_call @tpu_custom_call") == 2
    # Forward, forward for the gradient, and backward.
    assert tpu.count("sdy.manual_computation") == 3


def test_maps_for_which_there_are_kernels():
    of = functools.partial(fits, instance)
    assert of(16, 64, 64, 407)
    assert of(4, 128, 128, 407)
    assert of(4, 64, 64, 407, samples=TWO)
    # Each of two devices has three pictures.
    assert not of(6, 64, 64, 407, samples=TWO)
    assert not of(5, 64, 64, 407, samples=TWO)
    assert not of(8, 128, 128, 407)
    assert not of(8, 3, 64, 407)
    assert not of(8, 4, 2000, 130)
    assert not of(8, 64, 64, 407, dtype=jnp.float16)


def test_a_block_gives_the_same_with_kernels(monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 8, 8, 5)).astype(np.float32)
    blocks = [ResidualBlock(kernels=kernels) for kernels in (False, True)]
    shapes = jax.eval_shape(lambda: blocks[0].init(jax.random.key(0), x, train=False))
    variables = jax.tree.map(lambda y: 0.3 * rng.normal(size=y.shape).astype(y.dtype), shapes)
    used = []

    def interpreted(x, slope, skip=None, *, padded, samples):
        used.append(padded)
        return kernels(x, slope, skip, padded=padded, samples=samples, interpret=True)

    kernels = instance.activate
    monkeypatch.setattr(instance, "activate", interpreted)

    def loss(variables, x, block):
        return jnp.sum(jnp.sin(block.apply(variables, x, train=False)))

    found = [
        jax.jit(jax.value_and_grad(loss, (0, 1)), static_argnums=2)(variables, x, b) for b in blocks
    ]
    assert used == [True, False]
    for other, one in zip(*map(jax.tree.leaves, found), strict=True):
        # The gradient of a bias before the norm is zero, but for rounding.
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-6 + 5e-6 * np.abs(other).max())
