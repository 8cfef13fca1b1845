import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cocosnet_jax.nn.resize import max_pool, nearest, upsample


@pytest.mark.parametrize("size", [(4, 6), (5, 7)])
def test_max_pool_and_its_gradient_equal_linens(size):
    rng = np.random.default_rng(0)
    # Few values, so that blocks have several highest pixels: the first gets the gradient.
    x = jnp.asarray(rng.integers(0, 3, (2, *size, 3)), jnp.float32)
    pull = jnp.asarray(rng.normal(size=(2, size[0] // 2, size[1] // 2, 3)), jnp.float32)
    ours, backward = jax.vjp(max_pool, x)
    theirs, their_backward = jax.vjp(lambda x: nn.max_pool(x, (2, 2), (2, 2)), x)
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(backward(pull)[0], their_backward(pull)[0])


@pytest.mark.parametrize("size", range(1, 19))
def test_of_two_nearest_resizes_the_second_alone_gives_the_same(size):
    """From the warp's 4 x 4 positions to a picture's 16 x 16 pixels, and on to a layer's size."""
    x = np.arange(4 * 4, dtype=np.float32).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(nearest(nearest(x, 16, 16), size, size), nearest(x, size, size))


def test_upsampling_repeats_each_pixel():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 5, 4)), jnp.float32)
    np.testing.assert_array_equal(upsample(x), np.repeat(np.repeat(x, 2, 1), 2, 2))
    np.testing.assert_array_equal(upsample(x), nearest(x, 6, 10))
