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


@pytest.mark.parametrize(("dtype", "bound"), [(np.float32, 2e-6), (np.float64, 1e-14)])
@pytest.mark.parametrize("held", [2**17, 2**30])
def test_values_are_the_sums(arrays, dtype, bound, held, monkeypatch):
    # The smaller one makes strips of 8 rows, of which the last overlaps the one before.
    monkeypatch.setattr(winograd, "_HELD", held)
    x, kernel = arrays
    expected = by_sums(x, kernel)
    with jax.enable_x64(dtype == np.float64):
        found = jax.jit(winograd.convolve)(jnp.asarray(x, dtype), jnp.asarray(kernel, dtype))
    assert found.dtype == dtype
    assert np.abs(np.asarray(found) - expected).max() < bound * np.abs(expected).max()


def test_programs_with_gradients_convolve_without_it(arrays, monkeypatch):
    monkeypatch.setattr(winograd, "pays", lambda x, kernel: True)
    x, kernel = (jnp.asarray(array, "float32") for array in arrays)

    def loss(convolve):
        return jax.jit(jax.value_and_grad(lambda *both: jnp.sum(convolve(*both) ** 2), (0, 1)))

    ways = convolution.convolve, lambda x, kernel: convolution._plainly(x, kernel, 1, 0)
    found, wanted = (loss(way)(x, kernel) for way in ways)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    text = loss(convolution.convolve).lower(x, kernel).as_text()
    assert "stablehlo.convolution" in text
    assert "stablehlo.while" not in text


def test_it_is_chosen_for_many_channels_and_even_sizes_in_float32(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)

    def chosen(*shape, dtype=jnp.float32, side=3):
        x, kernel = jnp.zeros((1, *shape), dtype), jnp.zeros((side, side, shape[2], 128), dtype)
        return winograd.pays(x, kernel)

    assert chosen(34, 34, 128)
    assert not chosen(34, 34, 127)
    assert not chosen(18, 18, 128)
    assert not chosen(35, 34, 128)
    assert not chosen(34, 34, 128, dtype=jnp.bfloat16)
    assert not chosen(34, 34, 128, side=1)
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    assert not chosen(34, 34, 128)


def test_a_convolution_with_zeros_around_uses_it(arrays, monkeypatch):
    monkeypatch.setattr(winograd, "pays", lambda x, kernel: True)
    x, kernel = arrays
    expected = by_sums(np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), kernel)
    x, kernel = jnp.asarray(x, "float32"), jnp.asarray(kernel, "float32")
    np.testing.assert_allclose(convolution.convolve(x, kernel, padding=1), expected, atol=2e-5)
    text = jax.jit(lambda x: convolution.convolve(x, kernel, padding=1)).lower(x).as_text()
    assert "stablehlo.convolution" not in text
