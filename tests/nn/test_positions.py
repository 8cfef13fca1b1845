import jax
import jax.numpy as jnp
import numpy as np

from cocosnet_jax.nn.positions import mean_over_positions, spread

RNG = np.random.default_rng(0)


def test_mean_and_its_transpose():
    x, pull = RNG.normal(size=(2, 5, 7, 3)), RNG.normal(size=(2, 1, 1, 3))
    with jax.enable_x64(True):
        mean, backward = jax.vjp(mean_over_positions, jnp.asarray(x))
        to_x = backward(jnp.asarray(pull))[0]
        same, backward = jax.vjp(lambda y: spread(y, x.shape), jnp.asarray(pull))
        to_pull = backward(jnp.asarray(x))[0]
    np.testing.assert_allclose(mean, x.mean((1, 2), keepdims=True), rtol=1e-12)
    np.testing.assert_allclose(to_x, np.broadcast_to(pull / 35, x.shape), rtol=1e-12)
    np.testing.assert_array_equal(same, np.broadcast_to(pull, x.shape))
    np.testing.assert_allclose(to_pull, x.sum((1, 2), keepdims=True), rtol=1e-12)


def test_a_sum_of_many_numbers_in_bfloat16():
    # A bfloat16 sum of ones would stop at 256.
    _, backward = jax.vjp(lambda y: spread(y, (1, 1, 1024, 1)), jnp.zeros((1, 1, 1, 1), "bfloat16"))
    found = backward(jnp.ones((1, 1, 1024, 1), "bfloat16"))[0]
    assert found.dtype == jnp.bfloat16
    assert float(found.reshape(())) == 1024


def test_spreading_one_vector_to_all_samples():
    pull = RNG.normal(size=(2, 5, 7, 3))
    with jax.enable_x64(True):
        same, backward = jax.vjp(lambda y: spread(y, pull.shape), jnp.arange(3.0))
        found = backward(jnp.asarray(pull))[0]
    np.testing.assert_array_equal(same, np.broadcast_to(np.arange(3), pull.shape))
    np.testing.assert_allclose(found, pull.sum((0, 1, 2)), rtol=1e-12)
