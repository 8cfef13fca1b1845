"""The kernels of SPADE's modulation, interpreted on a CPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cocosnet_jax.generator import Generator
from cocosnet_jax.nn import modulation
from cocosnet_jax.nn.condition import Condition
from cocosnet_jax.nn.modulation_kernels import Modulation
from cocosnet_jax.nn.resize import upsample
from cocosnet_jax.nn.spade import SpadeBlock
from cocosnet_jax.settings import ModelSettings

# Two layers that read one map: before a 3 x 3 convolution, and before a 1 x 1.
BOTH = (True, False)
# A mesh to lower for: one device, twice.
TWO = jax.sharding.Mesh(np.array(jax.devices()[:1] * 2), ("data",))


def numbers(shape, dtype=np.float32, layers=2):
    """A map, and gamma and beta of layers that read it, rounded to a type."""
    rng = np.random.default_rng(0)
    *sides, channels = shape
    x = jnp.asarray(rng.normal(1, 2, shape), dtype)
    return x, tuple(
        Modulation(
            jnp.asarray(rng.normal(size=(*sides, 2 * channels)), dtype),
            jnp.asarray(rng.normal(size=(1, 2 * channels)), jnp.float32),
        )
        for _ in range(layers)
    )


def by_hand(x, modulations, padded):
    """The formula of the paper's equation 5, leaky ReLU and reflection, in float64."""
    x = np.asarray(x, np.float64)
    normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, ddof=1, keepdims=True) + 1e-5)
    found = []
    for (joined, bias), pad in zip(modulations, padded, strict=True):
        gamma, beta = np.split(np.asarray(joined, np.float64) + np.asarray(bias), 2, -1)
        y = normed * (1 + gamma) + beta
        if pad:
            y = np.pad(np.where(y > 0, y, 0.2 * y), ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")
        found.append(y)
    return found


def plain(x, modulations, padded):
    return modulation.plain(x, None, modulations, padded)


def gradients(function, x, modulations):
    """Of sums with weights that differ from place to place, and are symmetric nowhere."""

    def loss(x, modulations):
        outputs = function(x, modulations)
        weights = [np.random.default_rng(i).normal(size=y.shape) for i, y in enumerate(outputs)]
        return sum(jnp.sum(y * w) for y, w in zip(outputs, weights, strict=True))

    return jax.grad(loss, (0, 1))(x, modulations)


def test_what_else_reads_x_adds_to_its_gradient():
    x, modulations = numbers((2, 5, 6, 4), layers=1)
    kernels = functools.partial(modulation.modulate, padded=(True,), interpret=True)

    def with_x(x, modulations):
        y, same = kernels(x, modulations, with_x=True)
        return y, jnp.sin(same)

    def apart(x, modulations):
        return *kernels(x, modulations), jnp.sin(x)

    np.testing.assert_array_equal(with_x(x, modulations)[1], jnp.sin(x))
    found, wanted = (gradients(function, x, modulations) for function in (with_x, apart))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


# Sizes that fill no register, and the least height and width.
@pytest.mark.parametrize(("shape", "padded"), [((3, 5, 7, 6), BOTH), ((2, 4, 4, 5), (True,))])
def test_the_kernels_equal_the_formula_and_its_gradients(shape, padded):
    x, modulations = numbers(shape, layers=len(padded))
    kernels = functools.partial(modulation.modulate, padded=padded, interpret=True)
    for found, wanted in zip(
        jax.jit(kernels)(x, modulations), by_hand(x, modulations, padded), strict=True
    ):
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    found = jax.jit(functools.partial(gradients, kernels))(x, modulations)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda y: jnp.asarray(y, jnp.float64), (x, modulations))
        wanted = gradients(functools.partial(plain, padded=padded), *wide)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * np.abs(other).max())


# One row of pictures, and several; a width that fills no register.
@pytest.mark.parametrize(("shape", "padded"), [((3, 2, 5, 6), BOTH), ((2, 4, 3, 5), (True,))])
def test_an_x_of_half_the_size_is_upsampled(shape, padded):
    b, h, w, c = shape
    _, modulations = numbers((b, 2 * h, 2 * w, c), layers=len(padded))
    x, _ = numbers(shape)
    kernels = functools.partial(modulation.modulate, padded=padded, interpret=True)
    large = np.repeat(np.repeat(x, 2, 1), 2, 2)
    for found, wanted in zip(
        jax.jit(kernels)(x, modulations), by_hand(large, modulations, padded), strict=True
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    found = jax.jit(functools.partial(gradients, kernels))(x, modulations)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda y: jnp.asarray(y, jnp.float64), (x, modulations))
        of_large = functools.partial(plain, padded=padded)
        wanted = gradients(lambda x, modulations: of_large(upsample(x), modulations), *wide)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * np.abs(other).max())


def test_a_bias_is_added_first():
    x, modulations = numbers((3, 5, 7, 6))
    bias = jnp.asarray(np.random.default_rng(1).normal(size=6), jnp.float32)

    def kernels(given, modulations):
        x, bias = given
        return modulation.modulate(x, modulations, BOTH, bias=bias, interpret=True)

    for found, wanted in zip(
        jax.jit(kernels)((x, bias), modulations), by_hand(x + bias, modulations, BOTH), strict=True
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    found = jax.jit(functools.partial(gradients, kernels))((x, bias), modulations)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda y: jnp.asarray(y, jnp.float64), ((x, bias), modulations))

        def added(given, modulations):
            x, bias = given
            return plain(x + bias, modulations, BOTH)

        wanted = gradients(added, *wide)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * np.abs(other).max())


def test_bfloat16_is_rounded_once():
    x, modulations = numbers((8, 6, 5, 16), jnp.bfloat16)
    kernels = functools.partial(modulation.modulate, padded=BOTH, interpret=True)
    for found, wanted in zip(
        jax.jit(kernels)(x, modulations), by_hand(x, modulations, BOTH), strict=True
    ):
        assert found.dtype == jnp.bfloat16
        # Half a unit of eight bits, and float32's own rounding.
        np.testing.assert_allclose(np.asarray(found, np.float64), wanted, rtol=2**-8, atol=1e-5)
    found = jax.jit(functools.partial(gradients, kernels))(x, modulations)
    assert [y.dtype for y in jax.tree.leaves(found)] == [
        y.dtype for y in jax.tree.leaves((x, modulations))
    ]
    wide = jax.tree.map(lambda y: y.astype(jnp.float32), (x, modulations))
    wanted = gradients(functools.partial(plain, padded=BOTH), *wide)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        # The gradients that arrive are rounded, too.
        np.testing.assert_allclose(
            one.astype(np.float32), other, rtol=0.02, atol=0.02 * np.abs(other).max()
        )


def lowered(function, gradients, *arguments):
    """The text of a function and its gradient for TPUs, and for other accelerators."""
    both = jax.jit(lambda *given: (function(*given), gradients(function, *given)))
    traced = both.trace(*arguments)
    return [traced.lower(lowering_platforms=(name,)).as_text() for name in ("tpu", "cuda")]


def test_tpus_run_kernels_and_other_devices_do_not():
    arguments = numbers((8, 4, 4, 5))
    function = functools.partial(modulation.modulate, padded=BOTH)
    tpu, gpu = lowered(function, gradients, *arguments)
    assert tpu.count("stablehlo.custom_call @tpu_custom_call") == 2
    assert "tpu_custom_call" not in gpu
    otherwise = functools.partial(plain, padded=BOTH)
    for found, wanted in zip(function(*arguments), otherwise(*arguments), strict=True):
        np.testing.assert_array_equal(found, wanted)
    found, wanted = (gradients(each, *arguments) for each in (function, otherwise))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


def test_devices_run_the_kernels_on_samples_of_their_own():
    function = functools.partial(modulation.modulate, padded=BOTH, samples=TWO)
    tpu, _ = lowered(function, gradients, *numbers((16, 4, 4, 5)))
    assert tpu.count("stablehlo.custom_call @tpu_custom_call") == 2
    # Forward, forward for the gradient, and backward.
    assert tpu.count("sdy.manual_computation") == 3


def fits(module, *shape, samples=None, dtype=jnp.bfloat16):
    """What a module's `fits` says of a map."""
    answers = []
    x = jax.ShapeDtypeStruct(shape, dtype)
    jax.eval_shape(lambda x: answers.append(module.fits(x, samples)), x)
    return answers[0]


def test_maps_for_which_there_are_kernels():
    of = functools.partial(fits, modulation)
    assert of(8, 64, 64, 512)
    assert of(16, 64, 64, 512, samples=TWO)
    assert of(8, 96, 96, 512, samples=TWO)
    assert of(2, 512, 512, 64)
    # Each of two devices has three pictures.
    assert not of(6, 96, 96, 512, samples=TWO)
    assert not of(17, 64, 64, 512, samples=TWO)
    assert not of(8, 16, 16, 1024)
    assert not of(8, 512, 2048, 64)
    assert not of(8, 3, 512, 64)
    assert not of(8, 64, 64, 512, dtype=jnp.float16)


def interpret(monkeypatch):
    """Interprets the kernels; returns a list of layers' padding, biases and `with_x`, as used."""
    used, kernels = [], modulation.modulate

    def interpreted(x, modulations, padded, *, bias, with_x, samples):
        used.append((padded, bias is not None, with_x))
        options = {"bias": bias, "with_x": with_x, "samples": samples}
        return kernels(x, modulations, padded, **options, interpret=True)

    monkeypatch.setattr(modulation, "modulate", interpreted)
    monkeypatch.setattr(modulation, "fits", lambda *_: True)
    return used


@pytest.mark.parametrize("features", [3, 5])
def test_a_block_gives_the_same_with_kernels(features, monkeypatch):
    """With and without a shortcut of its own."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 8, 8, 5)).astype(np.float32)
    condition = Condition(rng.normal(size=(2, 8, 8, 2)).astype(np.float32))
    blocks = [SpadeBlock(features, hidden=6, kernels=kernels) for kernels in (False, True)]
    shapes = jax.eval_shape(lambda: blocks[0].init(jax.random.key(0), x, condition, train=False))
    variables = jax.tree.map(lambda y: 0.3 * rng.normal(size=y.shape).astype(y.dtype), shapes)

    def loss(variables, x, block):
        return jnp.sum(jnp.sin(block.apply(variables, x, condition, train=False)))

    used = interpret(monkeypatch)
    found = [
        jax.jit(jax.value_and_grad(loss, (0, 1)), static_argnums=2)(variables, x, b) for b in blocks
    ]
    first = (BOTH, False, False) if features == 3 else ((True,), False, True)
    assert used == [first, ((True,), True, False)]
    for other, one in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=5e-6 * np.abs(other).max())


def test_a_block_upsamples_on_the_chip(monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 4, 4, 5)).astype(np.float32)
    condition = Condition(rng.normal(size=(2, 8, 8, 2)).astype(np.float32))
    plainly = SpadeBlock(3, hidden=6)
    large = upsample(x)
    shapes = jax.eval_shape(lambda: plainly.init(jax.random.key(0), large, condition, train=False))
    variables = jax.tree.map(lambda y: 0.3 * rng.normal(size=y.shape).astype(y.dtype), shapes)

    def before(variables, x):
        return jnp.sum(jnp.sin(plainly.apply(variables, upsample(x), condition, train=False)))

    def on_chip(variables, x):
        block = SpadeBlock(3, hidden=6, kernels=True, upsample=True)
        return jnp.sum(jnp.sin(block.apply(variables, x, condition, train=False)))

    used = interpret(monkeypatch)
    found, wanted = (
        jax.jit(jax.value_and_grad(f, (0, 1)))(variables, x) for f in (on_chip, before)
    )
    assert used == [(BOTH, False, False), ((True,), True, False)]
    for one, other in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=5e-6 * np.abs(other).max())


@pytest.mark.parametrize(("norm", "count"), [("positional", 3), ("batch", 0)])
def test_the_generator_upsamples_on_the_chip_where_kernels_fit(norm, count, monkeypatch):
    """Before up_0, up_1 and up_3; middle_0 adds its input, and up_2 follows the attention."""
    settings = ModelSettings(base_filters=4, modulation="pallas", generator_norm=norm)
    module = Generator(settings, code_size=4)
    read = []

    def recorded(x, modulations, padded, *, bias, with_x, samples):
        read.append((x.shape[1], modulations[0].joined.shape[1]))
        row = None if bias is None else bias[None]
        found = modulation.plain(x, row, modulations, padded)
        return (*found, x) if with_x else found

    monkeypatch.setattr(modulation, "modulate", recorded)
    condition = Condition(jnp.zeros((8, 128, 128, 3)))
    image, _ = jax.eval_shape(
        lambda: module.init_with_output(jax.random.key(0), condition, 128, 128, train=False)
    )
    assert image.shape == (8, 128, 128, 3)
    small = [sizes for sizes in read if sizes[0] != sizes[1]]
    assert small == [(8, 16), (16, 32), (64, 128)][:count]
