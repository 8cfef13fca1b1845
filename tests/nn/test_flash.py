"""The kernels, interpreted on a CPU in registers of 8 lanes: tiny grids have many blocks."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cocosnet_jax import operations, warp
from cocosnet_jax.nn import blocks, flash, flash_kernels, flash_layout
from cocosnet_jax.nn.flash_layout import Layout

K = 20
# Grids that fill neither rows nor blocks; one grid row in a step (5 x 6), or several (7 x 3).
ROWS, COLUMNS = (5, 6), (7, 3)


@pytest.fixture
def small_registers(monkeypatch):
    monkeypatch.setattr(flash_layout, "LANES", 8)
    monkeypatch.setattr(flash_layout, "BLOCK", 16)


def numbers(seed=0, shift=1.0, samples=2, grids=(ROWS, COLUMNS)):
    """Features of input and exemplar, and the exemplar's values."""
    rng = np.random.default_rng(seed)
    theta, phi = (rng.normal(shift, 1, (samples, *grid, K)) for grid in grids)
    return theta, phi, rng.normal(size=(samples, math.prod(grids[1]), 3))


def sides(theta, phi, side):
    if side > 1:
        return [flash.Side.of_neighbourhoods(x, side) for x in (theta, phi)]
    return [flash.Side.of_vectors(warp.matching_features(x, 1, "channels")) for x in (theta, phi)]


def logits_by_hand(theta, phi, side):
    """Cosines of centred neighbourhoods, in float64: loops over positions and neighbours."""

    def features(x):
        h, w, k = x.shape
        reach = side // 2
        padded = np.zeros((h + 2 * reach, w + 2 * reach, k))
        padded[reach : reach + h, reach : reach + w] = x
        rows = [padded[i : i + side, j : j + side].ravel() for i in range(h) for j in range(w)]
        centred = [row - row.mean() for row in rows]
        return np.array([row / np.linalg.norm(row) for row in centred])

    return features(theta) @ features(phi).T


def softmax(x):
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize(
    ("side", "grids"),
    [
        (1, (ROWS, COLUMNS)),
        (1, ((5, 8), (4, 6))),  # whole registers
        (3, (ROWS, COLUMNS)),
    ],
)
def test_the_kernels_equal_the_formula_and_its_gradients(side, grids, small_registers):
    # 0.05 spreads the match over several positions, so that gradients are not all zero.
    temperature = 0.05

    def dense(theta, phi, values):
        match = warp.soft_match(theta, phi, temperature, match_kernel=side, correlation="dense")
        return match.to_input(values)

    def kernels(theta, phi, values):
        rows, columns = sides(theta, phi, side)
        return flash.attend(rows, columns, values, temperature, interpret=True)

    def both(function, *arguments):
        out, pull = jax.vjp(function, *arguments)
        return out, pull(jnp.sin(3 * out))

    arguments = numbers(grids=grids)
    with jax.enable_x64(True):
        expected = jax.jit(functools.partial(both, dense))(*arguments)
    found = jax.jit(functools.partial(both, kernels))(*(np.float32(x) for x in arguments))
    for i, (theta, phi, values) in enumerate(zip(*arguments, strict=True)):
        by_hand = softmax(logits_by_hand(theta, phi, side) / temperature) @ values
        np.testing.assert_allclose(found[0][i], by_hand, atol=1e-5)
    for a, b in zip(*(map(np.asarray, jax.tree.leaves(x)) for x in (expected, found)), strict=True):
        scale = np.abs(a).max()
        assert scale > 0
        np.testing.assert_allclose(b / scale, a / scale, atol=1e-5)


@pytest.mark.parametrize("products", ["float32", "bfloat16"])
def test_bfloat16_is_read_and_results_are_rounded_to_it_once(products, small_registers):
    """Four blocks of queries, and three of keys; both last ones are not full."""

    def dense(theta, phi, values):
        weights = jax.nn.softmax(jnp.einsum("bnk,bmk->bnm", theta, phi) / 4, -1)
        return jnp.einsum("bnm,bmv->bnv", weights, values)

    def kernels(theta, phi, values):
        rows, columns = (flash.Side.of_vectors(x) for x in (theta, phi))
        return flash.attend(rows, columns, values, 4.0, products=products, interpret=True)

    def both(function, grad, *arguments):
        out, pull = jax.vjp(function, *arguments)
        return out, *pull(grad)

    theta, phi, values = numbers(4, shift=0, grids=((7, 9), (5, 9)))
    grad = np.random.default_rng(5).normal(size=(2, 63, 3))
    wide = grad, theta.reshape(2, 63, K), phi.reshape(2, 45, K), values
    arguments = [x.astype(jnp.bfloat16) for x in wide]
    with jax.enable_x64(True):
        exact = [np.asarray(x) for x in both(dense, *map(np.float64, arguments))]
    found = jax.jit(functools.partial(both, kernels))(*arguments)
    assert {x.dtype for x in found} == {jnp.dtype(jnp.bfloat16)}
    of_values = 0, 3
    for i, (a, b) in enumerate(zip(exact, map(np.float64, map(np.asarray, found)), strict=True)):
        # A unit in the eighth bit of the largest number: half for rounding the result, half for
        # rounding what it is made of (the weighted values, and factors of the products).
        scale = np.abs(a).max()
        np.testing.assert_allclose(b / scale, a / scale, rtol=0, atol=2**-7)
        if products == "float32" and i in of_values:
            # Each number is rounded once, by half a unit in its own eighth bit.
            np.testing.assert_allclose(b / scale, a / scale, rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize("products", ["float32", "bf16x3"])
def test_sums_and_entropies_at_the_release_s_temperature(products, small_registers):
    """Means a hundred times the deviations, which centring takes away."""
    theta, phi, values = (np.float32(x) for x in numbers(1, shift=100, samples=1))

    @jax.jit
    def run(theta, phi, values):
        rows, columns = sides(theta, phi, 3)
        return flash.measure(rows, columns, values, 0.01, products=products, interpret=True)

    found = run(theta, phi, values)
    logits = logits_by_hand(*(x[0].astype(float) for x in (theta, phi)), 3) / 0.01
    weights = softmax(logits)
    tolerance = {"float32": 1e-3, "bf16x3": 1e-2}[products]
    top = logits.max(1)
    log_sum = top + np.log(np.exp(logits - top[:, None]).sum(1))
    entropy = -(weights * np.log(np.maximum(weights, 1e-300))).sum(1)
    np.testing.assert_allclose(found.log_sum[0, :, 0], log_sum, atol=tolerance)
    np.testing.assert_allclose(found.entropy[0, :, 0], entropy, atol=tolerance)
    np.testing.assert_allclose(found.values[0], weights @ values[0], atol=tolerance)


def test_a_line_finds_the_neighbours(small_registers):
    """Each grid's own numbers come back, and a step up or down the line is one in the grid."""
    for height, width in ((5, 6), (7, 3), (4, 11), (40, 1)):
        layout = Layout(height, width, 3)
        grid = np.arange(1, height * width + 1, dtype=np.float32).reshape(height, width)

        @jax.jit
        def run(x, layout=layout):
            line, halo = (layout.in_line(x[None, :, :, None], reach) for reach in (0, 1))
            starts = range(0, layout.length, layout.size)
            windows = [halo[:, start : start + layout.window] for start in starts]
            times, summed = map(
                layout.sum_windows, (jnp.ones_like(jnp.stack(windows, 1)), jnp.stack(windows, 1))
            )
            return [y[0, :, 0] for y in (line, halo, layout.from_line(line), times, summed)]

        line, halo, back, times, summed = map(np.asarray, run(grid))
        np.testing.assert_array_equal(back, grid.ravel())
        np.testing.assert_array_equal(summed, times * halo)
        assert set(times) <= {1, 2, 3}  # a window has up to two steps more than a block
        padded = np.pad(grid, ((1, 1), (0, 0)))
        assert np.count_nonzero(line) == grid.size
        for place in np.flatnonzero(line):
            row, column = divmod(int(line[place]) - 1, width)
            around = halo[place :: layout.step][:3]
            np.testing.assert_array_equal(around, padded[row : row + 3, column])


def test_rest_products_in_bfloat16():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(2, 64, 300)).astype(np.float32)
    exact = a.astype(float) @ b.astype(float).T
    scale = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)
    errors = {
        products: np.abs((flash_kernels.multiply(a, b, (1, 1), products) - exact) / scale).max()
        for products in ("float32", "bf16x3", "bfloat16")
    }
    assert errors["float32"] < 1e-6
    # Both parts keep 16 bits, so a product is off by at most 2^-16.
    assert errors["float32"] < errors["bf16x3"] < 2**-16
    # Half a unit in the eighth bit of each of both.
    assert errors["bf16x3"] < errors["bfloat16"] < 2**-8


@pytest.mark.parametrize("side", [1, 3])
def test_the_setting_runs_kernels_on_tpus_and_streams_elsewhere(side):
    def loss(correlation, theta, phi, values):
        match = warp.soft_match(theta, phi, 0.05, match_kernel=side, correlation=correlation)
        return jnp.sum(match.to_input(values) ** 2)

    def gradient(correlation):
        return jax.jit(jax.value_and_grad(functools.partial(loss, correlation), (0, 1, 2)))

    # Other shapes than above, whose traces are of small registers.
    theta, phi, values = (np.float32(x) for x in numbers())
    arguments = theta[..., :12], phi[..., :12], values
    pallas = gradient("pallas").trace(*arguments)
    kernels = pallas.lower(lowering_platforms=("tpu",)).as_text()
    assert kernels.count("stablehlo.custom_call @tpu_custom_call") == 3
    assert "tpu_custom_call" not in pallas.lower(lowering_platforms=("cuda",)).as_text()
    found, dense = (
        jax.jit(functools.partial(loss, correlation))(*arguments)
        for correlation in ("pallas", "dense")
    )
    np.testing.assert_allclose(found, dense, rtol=1e-5)


def test_devices_run_the_kernels_on_samples_of_their_own():
    two = jax.sharding.Mesh(np.array(jax.devices()[:1] * 2), ("data",))

    def loss(theta, phi, values):
        match = warp.soft_match(theta, phi, 0.05, correlation="pallas", samples=two)
        return jnp.sum(match.to_input(values) ** 2)

    gradient = jax.jit(jax.grad(loss, (0, 1, 2)))
    arguments = [np.float32(x) for x in numbers(samples=4)]
    lowered = gradient.trace(*arguments).lower(lowering_platforms=("tpu",)).as_text()
    assert lowered.count("stablehlo.custom_call @tpu_custom_call") == 3
    assert lowered.count("sdy.manual_computation") == 2  # forward, and both gradients
    # One sample of three would have no device.
    match = warp.soft_match(
        *(x[:3] for x in arguments[:2]), 0.05, correlation="pallas", samples=two
    )
    assert isinstance(match, warp.StreamingWarp)


def test_devices_that_share_positions_do_not_run_the_kernels():
    grid = jnp.ones((1, 4, 4, 2))
    two = jax.sharding.Mesh(np.array(jax.devices()[:1] * 2), ("data",))
    found = warp.soft_match(grid, grid, 0.01, correlation="pallas", mesh=two)
    assert isinstance(found, warp.StreamingWarp)


def attention(**attributes):
    """Loss and gradients of a non-local block that streams attention."""
    module = blocks.NonLocalBlock(**attributes)
    x = np.random.default_rng(3).normal(size=(4, 8, 6, 16)).astype(np.float32)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), x, train=False))
    rng = np.random.default_rng(4)
    # Positive, so that no kernel is divided by a small sigma.
    variables = jax.tree.map(lambda s: rng.uniform(0, 1, s.shape).astype(np.float32), shapes)

    def loss(params, x):
        changed = variables | {"params": params}
        return jnp.mean(module.apply(changed, x, train=False) ** 2)

    return jax.jit(jax.value_and_grad(loss, (0, 1))), (variables["params"], x)


def test_the_generators_attention_runs_kernels_on_tpus_and_streams_elsewhere(monkeypatch):
    monkeypatch.setattr(blocks, "DENSE_POSITIONS", 8)
    two = jax.sharding.Mesh(np.array(jax.devices()[:1] * 2), ("data",))
    for attributes, kernels in (
        ({"kernels": True}, 3),
        ({"kernels": True, "samples": two}, 3),
        ({"kernels": True, "dtype": jnp.bfloat16}, 3),
        ({}, 0),
        # Devices that share positions.
        ({"kernels": True, "mesh": two}, 0),
    ):
        gradient, arguments = attention(**attributes)
        lowered = gradient.trace(*arguments).lower(lowering_platforms=("tpu",)).as_text()
        assert lowered.count("stablehlo.custom_call @tpu_custom_call") == kernels
    gradient, arguments = attention(kernels=True)
    plain, _ = attention()
    jax.tree.map(np.testing.assert_array_equal, gradient(*arguments), plain(*arguments))


# TPUs round products in both ways; here, only the kernels' products can be rounded.
@pytest.mark.parametrize(("products", "tolerance"), [("float32", 1e-5), ("bfloat16", 1e-2)])
def test_the_generators_attention_by_kernels_is_that_of_the_plain_way(
    products, tolerance, monkeypatch, small_registers
):
    monkeypatch.setattr(blocks, "DENSE_POSITIONS", 8)
    plain, arguments = attention()
    expected = plain(*arguments)
    attend = flash.attend

    def interpreted(*arguments, **options):
        assert options["products"] == "bfloat16"
        return attend(*arguments, **(options | {"products": products, "interpret": True}))

    def as_on_tpus(*arguments, default, tpu=None, **_):
        return (tpu or default)(*arguments)

    monkeypatch.setattr(blocks.flash, "attend", interpreted)
    monkeypatch.setattr(jax.lax, "platform_dependent", as_on_tpus)
    gradient, _ = attention(kernels=True)
    for a, b in zip(*map(jax.tree.leaves, (expected, gradient(*arguments))), strict=True):
        scale = np.abs(a).max()
        assert scale > 0
        np.testing.assert_allclose(b / scale, a / scale, atol=tolerance)


def test_the_products_of_all_blocks_count(monkeypatch):
    monkeypatch.setattr(flash_layout, "BLOCK", 128)

    def run(rows, columns, values):
        return flash.attend(
            flash.Side.of_vectors(rows), flash.Side.of_vectors(columns), values, 0.01
        )

    shapes = [jax.ShapeDtypeStruct((1, *x), jnp.float32) for x in ((256, 16), (384, 16), (384, 8))]
    found = operations.count(jax.jit(run).trace(*shapes).jaxpr, "tpu")
    assert found.products == 256 * 384 * 2 * (16 + 8)


def test_sides_of_neighbourhoods_must_be_odd_and_equal():
    grid, values = np.ones((1, 4, 4, 2), np.float32), np.ones((1, 16, 1), np.float32)
    with pytest.raises(ValueError, match="must be odd, not 2"):
        flash.Side.of_neighbourhoods(grid, 2)

    def run(grid, values):
        rows, columns = (flash.Side.of_neighbourhoods(grid, side) for side in (3, 5))
        return flash.attend(rows, columns, values, 0.01)

    with pytest.raises(ValueError, match="side 3, columns of 5"):
        jax.eval_shape(run, grid, values)
