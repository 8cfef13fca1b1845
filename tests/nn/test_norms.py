import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cocosnet_jax.nn import norms


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(3, 2, (2, 4, 5, 6))


def test_positional_norm_is_unbiased_over_channels(x):
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred**2).sum(-1, keepdims=True) / (6 - 1)
    expected = centred / np.sqrt(variance + 1e-5)
    with jax.enable_x64(True):
        np.testing.assert_allclose(
            norms.positional_norm(jnp.asarray(x)), expected, rtol=1e-10, atol=1e-12
        )


def test_instance_norm_is_biased_over_positions(x):
    centred = x - x.mean((1, 2), keepdims=True)
    expected = centred / np.sqrt((centred**2).mean((1, 2), keepdims=True) + 1e-5)
    with jax.enable_x64(True):
        np.testing.assert_allclose(
            norms.instance_norm(jnp.asarray(x)), expected, rtol=1e-10, atol=1e-12
        )


@pytest.mark.parametrize(
    ("norm", "axes", "correction"),
    [(norms.positional_norm, -1, 1), (norms.instance_norm, (1, 2), 0)],
)
def test_gradients_equal_those_of_the_formula(x, norm, axes, correction):
    def formula(x):
        variance = x.var(axes, ddof=correction, keepdims=True)
        return (x - x.mean(axes, keepdims=True)) / jnp.sqrt(variance + 1e-5)

    weights = np.random.default_rng(1).normal(size=x.shape)
    with jax.enable_x64(True):
        ours, theirs = (
            jax.grad(lambda x, f=f: jnp.vdot(f(x), weights))(jnp.asarray(x))
            for f in (norm, formula)
        )
    np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


def test_bfloat16_statistics_are_float32(x):
    # 8 bits of mantissa would lose the deviation of values around 1000.
    y = jnp.asarray(1000 + 4 * np.round(x), jnp.bfloat16)
    wide = np.asarray(y, np.float64)
    expected = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(
        wide.var(-1, ddof=1, keepdims=True) + 1e-5
    )
    got = norms.positional_norm(y)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(got, np.float64), expected, atol=0.01)


def test_batch_norm_statistics(x):
    module = norms.BatchNorm()
    with jax.enable_x64(True):
        variables = {"batch_stats": {"mean": jnp.full(6, 0.5), "var": jnp.full(6, 2.0)}}
        got, new = module.apply(variables, jnp.asarray(x), train=True, mutable=["batch_stats"])
        evaluated = module.apply(variables, jnp.asarray(x), train=False)
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(got, (x - mean) / np.sqrt(variance + 1e-5), rtol=1e-10)
    np.testing.assert_allclose(new["batch_stats"]["mean"], 0.9 * 0.5 + 0.1 * mean, rtol=1e-12)
    unbiased = x.var((0, 1, 2), ddof=1)
    np.testing.assert_allclose(new["batch_stats"]["var"], 0.9 * 2 + 0.1 * unbiased, rtol=1e-12)
    np.testing.assert_allclose(evaluated, (x - 0.5) / np.sqrt(2 + 1e-5), rtol=1e-12)


def test_unit_length_and_its_gradient_at_zero():
    x = np.array([[3.0, 4.0], [0.0, 0.0]])
    with jax.enable_x64(True):
        np.testing.assert_allclose(
            norms.unit_length(jnp.asarray(x)), [[0.6, 0.8], [0, 0]], rtol=1e-15
        )
        gradient = jax.grad(lambda v: norms.unit_length(v).sum())(jnp.asarray(x))
    assert np.isfinite(gradient).all()
    # d(x / |x|) summed over outputs: (1 - unit * sum(unit)) / |x|.
    np.testing.assert_allclose(gradient[0], (1 - x[0] / 5 * 1.4) / 5, rtol=1e-12)
