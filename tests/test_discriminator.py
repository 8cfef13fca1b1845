import jax
import jax.numpy as jnp
import numpy as np

from cocosnet_jax.discriminator import halve


def test_halving_does_not_count_padding():
    x = np.random.default_rng(0).normal(size=(2, 6, 5, 3))
    with jax.enable_x64(True):
        got = np.asarray(halve(jnp.asarray(x)))
    assert got.shape == (2, 3, 3, 3)
    for i in range(3):
        for j in range(3):
            rows, columns = slice(max(2 * i - 1, 0), 2 * i + 2), slice(max(2 * j - 1, 0), 2 * j + 2)
            expected = x[:, rows, columns].mean((1, 2))
            np.testing.assert_allclose(got[:, i, j], expected, rtol=1e-12, atol=1e-14)
