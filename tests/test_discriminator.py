import jax
import jax.numpy as jnp
import numpy as np

from cocosnet_jax.discriminator import Discriminator, halve
from cocosnet_jax.nn.initial import draw, fill, variable_shapes
from cocosnet_jax.nn.interleave import interleave, separate


def test_two_images_per_map_equal_separate_calls():
    rng = np.random.default_rng(1)
    module = Discriminator(base_filters=2)
    with jax.enable_x64(True):
        semantics, real, fake = (
            jnp.asarray(rng.normal(size=(2, 32, 32, channels))) for channels in (5, 3, 3)
        )
        shapes = variable_shapes(module, semantics, real)
        variables = fill(shapes, draw(jax.random.key(0), shapes))
        variables = jax.tree.map(lambda x: x.astype(jnp.float64), variables)

        def features(variables, semantics, real, fake):
            images = (interleave(real, fake), real, fake)
            return [module.apply(variables, semantics, x, train=False) for x in images]

        together, *alone = jax.jit(features)(variables, semantics, real, fake)
        both = separate(together)
        # The expected first layer: a convolution of map and image, concatenated.
        first = jax.tree.map(np.asarray, variables["params"]["scale_0"]["conv_0"])
        x = np.pad(np.concatenate([semantics, real], -1), ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = np.lib.stride_tricks.sliding_window_view(x, (4, 4), (1, 2))[:, ::2, ::2]
    expected = np.einsum("bhwcij,ijck->bhwk", patches, first["kernel"]) + first["bias"]
    expected = np.where(expected > 0, expected, 0.2 * expected)
    np.testing.assert_allclose(alone[0][0][0], expected, rtol=1e-12, atol=1e-12)
    for found, wanted in zip(both, alone, strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), found, wanted)


def test_halving_leaves_padding_out_of_averages():
    x = np.random.default_rng(0).normal(size=(2, 6, 5, 3))
    with jax.enable_x64(True):
        got = np.asarray(halve(jnp.asarray(x)))
    assert got.shape == (2, 3, 3, 3)
    for i in range(3):
        for j in range(3):
            rows, columns = slice(max(2 * i - 1, 0), 2 * i + 2), slice(max(2 * j - 1, 0), 2 * j + 2)
            expected = x[:, rows, columns].mean((1, 2))
            np.testing.assert_allclose(got[:, i, j], expected, rtol=1e-12, atol=1e-14)


def test_halving_in_bfloat16_rounds_once():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 6, 3)), jnp.bfloat16)
    got = halve(x)
    assert got.dtype == jnp.bfloat16
    wanted = halve(x.astype(jnp.float32))
    np.testing.assert_array_equal(got, wanted.astype(jnp.bfloat16))
