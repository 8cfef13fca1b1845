import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cocosnet_jax.nn import convolution
from cocosnet_jax.nn.conv import Conv, Weights, concatenate_weights
from cocosnet_jax.nn.convolution import convolve


def by_hand(x, kernel, stride, padding, mode):
    """Cross-correlation written as loops over output positions."""
    pad = [(0, 0), (padding, padding), (padding, padding), (0, 0)]
    x = np.pad(x, pad, "reflect" if mode == "reflect" else "constant")
    k = kernel.shape[0]
    h, w = (x.shape[1] - k) // stride + 1, (x.shape[2] - k) // stride + 1
    out = np.zeros((x.shape[0], h, w, kernel.shape[-1]))
    for i in range(h):
        for j in range(w):
            window = x[:, i * stride : i * stride + k, j * stride : j * stride + k]
            out[:, i, j] = np.tensordot(window, kernel, 3)
    return out


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "mode"),
    [
        (3, 1, 1, "zero"),
        (3, 1, 1, "reflect"),
        (4, 2, 1, "zero"),
        (3, 2, 1, "zero"),
        (1, 1, 0, "zero"),
    ],
)
def test_convolution(kernel, stride, padding, mode):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 8, 6, 3))
    module = Conv(5, kernel, stride, "reflect" if mode == "reflect" else padding)
    weights = {"kernel": rng.normal(size=(kernel, kernel, 3, 5)), "bias": rng.normal(size=5)}
    expected = by_hand(x, weights["kernel"], stride, padding, mode) + weights["bias"]
    narrow = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), weights)
    got = module.apply({"params": narrow}, jnp.asarray(x, jnp.float32), train=True)
    np.testing.assert_allclose(got, expected, atol=1e-4)
    with jax.enable_x64(True):
        got = module.apply({"params": weights}, jnp.asarray(x), train=True)
    np.testing.assert_allclose(got, expected, atol=1e-12)


def test_float64_gradients_equal_those_of_xlas_convolution():
    rng = np.random.default_rng(1)
    x, kernel = rng.normal(size=(1, 6, 6, 2)), rng.normal(size=(4, 4, 2, 3))

    def library(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (2, 2), [(1, 1)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    with jax.enable_x64(True):
        arguments = jnp.asarray(x), jnp.asarray(kernel)
        ours = jax.grad(lambda x, k: jnp.sum(convolve(x, k, 2, 1) ** 3), (0, 1))(*arguments)
        theirs = jax.grad(lambda x, k: jnp.sum(library(x, k) ** 3), (0, 1))(*arguments)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


# The least maps, one of a single row, and a kernel of another size.
@pytest.mark.parametrize(
    ("size", "kernel"),
    [((7, 5), 3), ((2, 3), 3), ((1, 4), 3), ((4, 1), 3), ((1, 1), 3), ((5, 6), 2)],
)
def test_the_gradient_of_reflection_by_its_edges_is_that_of_the_padded_map(size, kernel):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, *size, 3)), rng.normal(size=(kernel, kernel, 3, 4))
    with jax.enable_x64(True):
        y, pull = jax.vjp(lambda x: convolve(x, jnp.asarray(kernel), 1, "reflect"), jnp.asarray(x))
        grad = jnp.asarray(rng.normal(size=y.shape))
        found = convolution._to_reflected(x.shape, jnp.asarray(kernel), grad)
        np.testing.assert_allclose(found, pull(grad)[0], rtol=1e-12, atol=1e-12)


def test_tpus_convolve_the_edges_apart_where_it_pays():
    """One convolution forward, one for the kernel's gradient, one for x's, four for its edges."""

    def count(size, platform="tpu", padding="reflect", **options):
        def loss(x, kernel):
            return jnp.sum(jnp.sin(convolve(x, kernel, 1, padding, **options)))

        shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (size, (3, 3, 16, 16))]
        traced = jax.jit(jax.grad(loss, (0, 1))).trace(*shapes)
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        return text.count("stablehlo.convolution")

    large = (1, 256, 256, 16)
    assert count(large) == 7
    assert count(large, "cuda") == 3
    assert count(large, padding=1) == 3
    assert count(large, in_parts=True) == 3
    # Of 2**17 numbers per picture, however many there are.
    assert count((64, 64, 128, 16)) == 7
    assert count((64, 63, 128, 16)) == 3


def spectral_conv(size=5):
    rng = np.random.default_rng(2)
    kernel = rng.normal(size=(3, 3, 4, 5))
    u, v = rng.normal(size=5), rng.normal(size=36)
    variables = {
        "params": {"kernel": kernel},
        "spectral": {"u": u / np.linalg.norm(u), "v": v / np.linalg.norm(v)},
    }
    return Conv(5, 3, use_bias=False, spectral=True), variables, rng.normal(size=(1, size, size, 4))


# The kernel has 36 rows: with 25 positions sigma divides the output, with 64 the kernel.
both_places = pytest.mark.parametrize("size", [5, 8])


@both_places
def test_spectral_norm_iterates_in_training_only(size):
    module, variables, x = spectral_conv(size)
    kernel, (u, v) = variables["params"]["kernel"], variables["spectral"].values()
    matrix = kernel.reshape(-1, 5).T  # (out, rest)
    with jax.enable_x64(True):
        trained, new = module.apply(variables, jnp.asarray(x), train=True, mutable=["spectral"])
        evaluated = module.apply(variables, jnp.asarray(x), train=False)
    new_v = matrix.T @ u / np.linalg.norm(matrix.T @ u)
    new_u = matrix @ new_v / np.linalg.norm(matrix @ new_v)
    np.testing.assert_allclose(new["spectral"]["v"], new_v, rtol=1e-12)
    np.testing.assert_allclose(new["spectral"]["u"], new_u, rtol=1e-12)
    plain = by_hand(x, kernel, 1, 0, "zero")
    np.testing.assert_allclose(trained, plain / (new_u @ matrix @ new_v), rtol=1e-9)
    np.testing.assert_allclose(evaluated, plain / (u @ matrix @ v), rtol=1e-9)


@both_places
def test_spectral_norm_gradient_holds_vectors_fixed(size):
    module, variables, x = spectral_conv(size)
    random = np.random.default_rng(3)
    params = {**variables["params"], "bias": random.normal(size=5)}
    module = module.copy(use_bias=True)
    with jax.enable_x64(True):
        arguments = jax.tree.map(jnp.asarray, (params, x))
        direction = jax.tree.map(
            lambda leaf: jnp.asarray(random.normal(size=leaf.shape)), arguments
        )

        def value(params, x):
            return jnp.sum(jnp.sin(module.apply({**variables, "params": params}, x, train=False)))

        def moved(by):
            return value(*jax.tree.map(lambda leaf, d: leaf + by * d, arguments, direction))

        gradients = jax.grad(value, (0, 1))(*arguments)
        slope = float(sum(jax.tree.leaves(jax.tree.map(jnp.vdot, gradients, direction))))
        step = 1e-6
        finite = float(moved(step) - moved(-step)) / (2 * step)
    assert slope == pytest.approx(finite, rel=1e-7)


def test_repeated_calls_converge_to_the_largest_singular_value():
    module, variables, x = spectral_conv()
    matrix = variables["params"]["kernel"].reshape(-1, 5)
    with jax.enable_x64(True):
        for _ in range(200):
            out, new = module.apply(variables, jnp.asarray(x), train=True, mutable=["spectral"])
            variables = {**variables, **new}
    plain = by_hand(x, variables["params"]["kernel"], 1, 0, "zero")
    largest = np.linalg.svd(matrix, compute_uv=False)[0]
    np.testing.assert_allclose(out, plain / largest, rtol=1e-6)


@pytest.mark.parametrize("divide_output", [False, True])
def test_concatenated_weights(divide_output):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(1, 6, 6, 4))
    layers = [
        (rng.normal(size=(3, 3, 4, k)), rng.uniform(1, 2), rng.normal(size=k)) for k in (2, 3)
    ]
    expected = [by_hand(x, kernel, 1, 0, "zero") / s + bias for kernel, s, bias in layers]
    with jax.enable_x64(True):
        weights = concatenate_weights([Weights(*map(jnp.asarray, layer)) for layer in layers])
        found = weights.convolve(
            lambda kernel: convolve(jnp.asarray(x), kernel),
            jnp.float64,
            divide_output=divide_output,
        )
    np.testing.assert_allclose(found, np.concatenate(expected, -1), rtol=1e-12, atol=1e-12)


def test_bfloat16_products_are_divided_in_float32():
    # In bfloat16, 1 / sigma would be rounded to 1, for all outputs of a layer.
    weights = Weights(jnp.ones((1, 1, 1, 1)), jnp.float32(1 / 1.0037), None)
    ones = jnp.ones((1, 8, 8, 1), jnp.bfloat16)
    found = weights.convolve(lambda kernel: 127 * ones * kernel, jnp.bfloat16, divide_output=True)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(found, np.float32), 127.5)
