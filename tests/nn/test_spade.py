import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cocosnet_jax.nn import blocks
from cocosnet_jax.nn.blocks import NonLocalBlock, ResidualBlock
from cocosnet_jax.nn.condition import Condition
from cocosnet_jax.nn.resize import nearest
from cocosnet_jax.nn.spade import Spade, SpadeBlock
from tests.nn.test_conv import by_hand

RNG = np.random.default_rng(0)


def random_like(shapes):
    return jax.tree.map(lambda leaf: RNG.normal(size=leaf.shape) * 0.3, shapes)


def pn(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, ddof=1, keepdims=True) + 1e-5)


def conv3(x, layer):
    return by_hand(x, layer["kernel"], 1, 1, "reflect") + layer["bias"]


def spade(x, condition, p):
    rows = np.arange(x.shape[1]) * condition.shape[1] // x.shape[1]
    columns = np.arange(x.shape[2]) * condition.shape[2] // x.shape[2]
    shared = np.maximum(conv3(condition[:, rows][:, :, columns], p["shared"]), 0)
    return pn(x) * (1 + conv3(shared, p["gamma"])) + conv3(shared, p["beta"])


def lrelu(x):
    return np.where(x > 0, x, 0.2 * x)


# The smaller map is smaller than the kernels of gamma and beta, which convolve it separately.
@pytest.mark.parametrize("size", [4, 8])
def test_spade_by_formula(size):
    module = Spade(features=5, hidden=6)
    x, shared = RNG.normal(size=(2, size, size, 5)), RNG.uniform(size=(2, size, size, 6))
    with jax.enable_x64(True):
        shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), x, shared, train=False))
        params = random_like(shapes["params"])
        got = module.apply({"params": params}, jnp.asarray(x), jnp.asarray(shared), train=True)
    wanted = pn(x) * (1 + conv3(shared, params["gamma"])) + conv3(shared, params["beta"])
    np.testing.assert_allclose(got, wanted, rtol=1e-10, atol=1e-10)


def test_spade_block_by_formula():
    module = SpadeBlock(features=3, hidden=6)
    x, condition = RNG.normal(size=(1, 4, 4, 5)), RNG.normal(size=(1, 8, 8, 2))
    with jax.enable_x64(True):
        read = Condition(jnp.asarray(condition))
        shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), x, read, train=False))
        variables = random_like(dict(shapes))
        got = module.apply(variables, jnp.asarray(x), read, train=False)
    p = variables["params"]

    def normalised(name):
        kernel, vectors = p[name]["kernel"], variables["spectral"][name]
        sigma = vectors["v"] @ kernel.reshape(-1, kernel.shape[-1]) @ vectors["u"]
        return {**p[name], "kernel": kernel / sigma}

    assert p["conv_0"]["kernel"].shape[-1] == 3  # min(cin, cout)
    dx = conv3(lrelu(spade(x, condition, p["norm_0"])), normalised("conv_0"))
    dx = conv3(lrelu(spade(dx, condition, p["norm_1"])), normalised("conv_1"))
    shortcut = spade(x, condition, p["norm_s"]) @ normalised("conv_s")["kernel"][0, 0]
    np.testing.assert_allclose(got, shortcut + dx, rtol=1e-9, atol=1e-9)


def test_residual_block_by_formula():
    module = ResidualBlock()
    x = RNG.normal(size=(2, 4, 4, 3))
    with jax.enable_x64(True):
        shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), x, train=False))
        p = random_like(shapes["params"])
        got = module.apply({"params": p}, jnp.asarray(x), train=True)

    def instance(y):
        centred = y - y.mean((1, 2), keepdims=True)
        return centred / np.sqrt((centred**2).mean((1, 2), keepdims=True) + 1e-5)

    def prelu(y):
        return np.where(y >= 0, y, p["slope"] * y)

    y = prelu(instance(conv3(x, p["conv_0"])))
    expected = prelu(x + instance(conv3(y, p["conv_1"])))
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dense", [4096, 8])
def test_non_local_block_by_formula(dense, monkeypatch):
    # Above this number of positions, attention is streamed.
    monkeypatch.setattr(blocks, "DENSE_POSITIONS", dense)
    module = NonLocalBlock()
    x = RNG.normal(size=(1, 4, 6, 8))
    with jax.enable_x64(True):
        shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), x, train=False))
        variables = random_like(dict(shapes))
        got = module.apply(variables, jnp.asarray(x), train=False)

    def project(y, name):
        kernel = variables["params"][name]["kernel"][0, 0]
        u, v = (variables["spectral"][name][k] for k in "uv")
        return y @ kernel / (v @ kernel @ u)

    def pool(y):
        return y.reshape(1, 2, 2, 3, 2, -1).max((2, 4)).reshape(6, -1)

    logits = project(x, "theta").reshape(24, -1) @ pool(project(x, "phi")).T
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    attended = (weights @ pool(project(x, "g"))).reshape(1, 4, 6, -1)
    expected = x + variables["params"]["gamma"] * project(attended, "o")
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)


def test_nearest_picks_the_floor():
    x = np.arange(7.0)[None, :, None, None] * np.ones((1, 7, 7, 1))
    for size in (3, 5, 7, 14, 20):
        expected = np.floor(np.arange(size) * 7 / size)
        np.testing.assert_array_equal(nearest(jnp.asarray(x), size, 7)[0, :, 0, 0], expected)
