"""Winograd's convolution is the convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cocosnet_jax.nn import convolution, winograd


@pytest.fixture
def arrays():
    """Input and kernel."""
    random = np.random.default_rng(0)
    return random.standard_normal((2, 24, 18, 5)), random.standard_normal((3, 3, 5, 7))


def by_sums(x, kernel):
    h, w = x.shape[1] - 2, x.shape[2] - 2
    windows = [x[:, i : i + h, j : j + w] @ kernel[i, j] for i in range(3) for j in range(3)]
    return np.sum(windows, 0)


@pytest.mark.parametrize(("dtype", "bound"), [(np.float32, 4e-6), (np.float64, 2e-14)])
@pytest.mark.parametrize("held", [2**16, 2**30])
def test_values_are_the_sums(arrays, dtype, bound, held, monkeypatch):
    # Tiles reach beyond 22 x 16 outputs. The smaller one makes 3 strips of 2 rows of tiles, of
    # which the last overlaps the one before.
    monkeypatch.setattr(winograd, "_HELD", held)
    x, kernel = arrays
    expected = by_sums(x, kernel)
    with jax.enable_x64(dtype == np.float64):
        found = jax.jit(winograd.convolve)(jnp.asarray(x, dtype), jnp.asarray(kernel, dtype))
    assert found.dtype == dtype
    assert np.abs(np.asarray(found) - expected).max() < bound * np.abs(expected).max()


def test_many_channels_keep_the_precision_of_float32():
    random = np.random.default_rng(0)
    x, kernel = random.standard_normal((1, 18, 18, 256)), random.standard_normal((3, 3, 256, 8))
    expected = by_sums(x, kernel)
    found = jax.jit(winograd.convolve)(jnp.asarray(x, "float32"), jnp.asarray(kernel, "float32"))
    error = np.asarray(found, np.float64) - expected
    # The direct sum has 3e-7, Winograd's usual points 3e-6.
    assert np.sqrt(np.mean(error**2) / np.mean(expected**2)) < 2e-6


def padded(x, padding):
    """By NumPy's own names for it."""
    side, mode = (1, "reflect") if padding == "reflect" else (padding, "constant")
    return jnp.pad(x, ((0, 0), (side, side), (side, side), (0, 0)), mode)


@pytest.mark.parametrize("padding", [0, 1, 2, "reflect"])
def test_gradients_are_those_of_the_convolution(arrays, padding, monkeypatch):
    x, kernel = (jnp.asarray(array, "float32") for array in arrays)

    def gradients(convolve):
        def loss(x, kernel):
            return jnp.sum(convolve(x, kernel) ** 2)

        return jax.jit(jax.grad(loss, (0, 1)))

    def plainly(x, kernel):
        return convolution._plainly(padded(x, padding), kernel, 1, 0)

    plain = gradients(plainly)(x, kernel)
    monkeypatch.setattr(winograd, "pays", lambda x, kernel: True)
    fast = gradients(lambda x, kernel: convolution.convolve(x, kernel, padding=padding))
    for found, wanted in zip(fast(x, kernel), plain, strict=True):
        assert jnp.abs(found - wanted).max() < 1e-5 * jnp.abs(wanted).max()
    # One convolution is left: the gradient of the kernel.
    assert fast.lower(x, kernel).as_text().count("stablehlo.convolution") == 1


def test_other_platforms_convolve(arrays, monkeypatch):
    monkeypatch.setattr(winograd, "pays", lambda x, kernel: True)
    x, kernel = (jnp.asarray(array, "float32") for array in arrays)
    step = jax.jit(jax.grad(lambda x, kernel: jnp.sum(convolution.convolve(x, kernel)), (0, 1)))
    text = step.trace(x, kernel).lower(lowering_platforms=("tpu",)).as_text()
    # The gradients of both; the result itself is not asked for.
    assert text.count("stablehlo.convolution") == 2
    assert "stablehlo.while" not in text


def test_it_is_chosen_for_many_channels_in_float32(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)

    def chosen(*shape, batch=1, dtype=jnp.float32, side=3):
        x, kernel = jnp.zeros((batch, *shape), dtype), jnp.zeros((side, side, shape[2], 128), dtype)
        return winograd.pays(x, kernel)

    assert chosen(66, 65, 128)
    assert chosen(34, 34, 128, batch=2)
    assert not chosen(34, 34, 128)
    assert not chosen(66, 66, 127)
    assert not chosen(66, 66, 128, dtype=jnp.bfloat16)
    assert not chosen(66, 66, 128, side=1)
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    assert not chosen(66, 66, 128)


@pytest.mark.parametrize("padding", [1, "reflect"])
def test_a_padded_convolution_uses_it(arrays, padding, monkeypatch):
    monkeypatch.setattr(winograd, "pays", lambda x, kernel: True)
    x, kernel = arrays
    expected = by_sums(np.asarray(padded(x, padding)), kernel)
    x, kernel = jnp.asarray(x, "float32"), jnp.asarray(kernel, "float32")
    found = convolution.convolve(x, kernel, padding=padding)
    assert np.abs(np.asarray(found) - expected).max() < 4e-6 * np.abs(expected).max()
    text = jax.jit(lambda x: convolution.convolve(x, kernel, padding=padding)).lower(x).as_text()
    assert "stablehlo.convolution" not in text


@pytest.mark.parametrize("padding", [1, "reflect"])
def test_the_backward_pass_keeps_no_padded_copy(arrays, padding):
    x, kernel = (jnp.asarray(array, "float32") for array in arrays)

    def padded_first(x, kernel):
        return convolution.convolve(x, kernel, padding=padding)

    _, pull = jax.vjp(padded_first, x, kernel)
    assert {kept.shape for kept in jax.tree.leaves(pull)} == {x.shape, kernel.shape}
