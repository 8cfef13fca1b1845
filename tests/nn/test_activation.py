"""Activations: values, gradients, and what the backward pass keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cocosnet_jax.nn.activation import leaky_relu, relu

X = np.array([-2.0, -0.5, 0.0, 0.5, 3.0], np.float32)


@pytest.mark.parametrize(
    ("activate", "below", "at_zero"), [(relu, 0.0, 0.0), (leaky_relu, np.float32(0.2), 1.0)]
)
def test_values_and_gradient(activate, below, at_zero):
    y, pull = jax.vjp(activate, jnp.asarray(X))
    np.testing.assert_array_equal(y, np.where(X < 0, below * X, X))
    [gradient] = pull(jnp.full(X.shape, 10.0))
    expected = 10 * np.where(X < 0, below, [0, 0, at_zero, 1, 1])
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)
    # The output alone is kept.
    [kept] = [leaf for leaf in jax.tree.leaves(pull) if np.shape(leaf) == X.shape]
    np.testing.assert_array_equal(kept, y)
