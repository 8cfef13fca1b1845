import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cocosnet_jax import warp
from cocosnet_jax.nn import streaming
from cocosnet_jax.nn.resize import bilinear, from_patches, to_patches
from cocosnet_jax.nn.tiles import Tile
from tests.by_hand import features_by_hand

RNG = np.random.default_rng(0)
H, W, K = 3, 4, 5


def softmax(x, axis):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


@pytest.mark.parametrize("side", [1, 3])
@pytest.mark.parametrize("centre", ["channels", "positions"])
def test_correlation_and_warp_by_formula(side, centre):
    theta, phi = RNG.normal(size=(2, H, W, K))
    values, back = RNG.normal(size=(2, H * W, 7))

    def run(theta, phi, values, back):
        a, b = (warp.matching_features(x[None], side, centre) for x in (theta, phi))
        match = warp.DenseWarp(warp.correlation_logits(a, b, 0.01))
        return match.logits[0], match.to_input(values[None])[0], match.to_exemplar(back[None])[0]

    with jax.enable_x64(True):
        found, carried, returned = jax.jit(run)(theta, phi, values, back)
    logits = features_by_hand(theta, side, centre) @ features_by_hand(phi, side, centre).T / 0.01
    np.testing.assert_allclose(found, logits, atol=1e-10)
    np.testing.assert_allclose(carried, softmax(logits, 1) @ values, atol=1e-10)
    np.testing.assert_allclose(returned, softmax(logits.T, 1) @ back, atol=1e-10)


@pytest.mark.parametrize(("dtype", "bound"), [(np.float64, 1e-10), (np.float32, 1e-5)])
@pytest.mark.parametrize(
    ("side", "centre"), [(1, "channels"), (3, "channels"), (5, "channels"), (3, "positions")]
)
# With maxima of earlier blocks, of some, and, as on accelerators, always of all.
@pytest.mark.parametrize("largest_sum", [streaming.LARGEST_SUM, 20, 0])
def test_streaming_equals_the_dense_warp(side, centre, dtype, bound, largest_sum, monkeypatch):
    monkeypatch.setattr(streaming, "LARGEST_SUM", largest_sum)
    monkeypatch.setattr(streaming, "BLOCK", 8)  # 1 x 2 grid rows do not hide a swap of the two
    rng = np.random.default_rng(1)
    # Means as large as deviations, so that centring matters.
    theta, phi = rng.normal(1, 1, (2, 5, 6, 40)), rng.normal(-1, 1, (2, 6, 4, 40))
    values, back = rng.normal(size=(2, 24, 7)), rng.normal(size=(2, 30, 7))
    # 0.05 spreads the match over several positions, so that gradients are not all zero.
    temperature = 0.05

    def run(correlation, theta, phi, values, back):
        match = warp.soft_match(
            theta, phi, temperature, match_kernel=side, centre=centre, correlation=correlation
        )
        carried, returned = match.to_input(values), match.to_exemplar(back)
        return jnp.sum(carried**3) + jnp.sum(jnp.sin(returned)), (carried, returned)

    with jax.enable_x64(dtype == np.float64):
        arguments = [jnp.asarray(x, dtype) for x in (theta, phi, values, back)]
        dense, streamed = (
            jax.jit(
                jax.value_and_grad(
                    functools.partial(run, correlation), argnums=(0, 1, 2, 3), has_aux=True
                )
            )(*arguments)
            for correlation in ("dense", "streaming")
        )
    for a, b in zip(*(map(np.asarray, jax.tree.leaves(x)) for x in (dense, streamed)), strict=True):
        scale = np.abs(a).max()
        assert scale > 0
        np.testing.assert_allclose(b / scale, a / scale, atol=bound, rtol=0)


@pytest.mark.parametrize("constant", [0.0, 0.1, 0.3])
def test_streaming_of_neighbourhoods_without_contrast(constant):
    """Constant neighbourhoods match all positions equally."""
    theta = jnp.full((1, 4, 5, 8), constant).at[:, 3, 4].set(jnp.arange(8.0))
    phi = jax.random.normal(jax.random.key(0), theta.shape)
    values = jax.random.normal(jax.random.key(1), (1, 20, 2))

    def run(theta):
        match = warp.soft_match(theta, phi, 0.05, match_kernel=3, correlation="streaming")
        return jnp.sum(jnp.sin(match.to_input(values))), match.to_input(values)

    gradient, carried = jax.jit(jax.grad(run, has_aux=True))(theta)
    inside = 1 * 5 + 1  # a neighbourhood that has no padding either
    np.testing.assert_allclose(carried[0, inside], values[0].mean(0), atol=1e-4)
    assert np.abs(gradient).max() < 1e3


@pytest.mark.parametrize("cosines", [np.linspace(-1, 1, 64), np.repeat([-1.0, 1.0], 32)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_streaming_with_the_best_match_in_the_last_block(cosines, dtype, monkeypatch):
    """Logits rise from -100 to 100, slowly and at once: e^200 is no float32."""
    monkeypatch.setattr(streaming, "BLOCK", 8)
    # The rows' own cosines with the first axis are 1 and 0.6.
    rows = np.array([[1, 0], [0.6, 0.8]] * 8)
    columns = np.stack([cosines, np.sqrt(1 - cosines**2)], -1)
    values = np.random.default_rng(6).normal(size=(64, 3))

    def run(rows, columns, values):
        sides = streaming.Side.of_vectors(rows), streaming.Side.of_vectors(columns)
        return streaming.measure(*sides, values, 0.01)

    with jax.enable_x64(dtype == np.float64):
        found = jax.jit(run)(*(x[None].astype(dtype) for x in (rows, columns, values)))
    logits = rows @ columns.T / 0.01
    top = logits.max(1, keepdims=True)
    log_sum = top + np.log(np.exp(logits - top).sum(1, keepdims=True))
    weights = np.exp(logits - log_sum)
    entropy = -(weights * (logits - log_sum)).sum(1, keepdims=True)
    bound = 1e-9 if dtype == np.float64 else 1e-4
    np.testing.assert_allclose(found.values[0], weights @ values, atol=bound)
    np.testing.assert_allclose(found.log_sum[0], log_sum, atol=bound)
    np.testing.assert_allclose(found.entropy[0], entropy, atol=bound)


@pytest.mark.parametrize("ratio", [10, 100])
def test_streaming_of_features_with_a_large_mean(ratio):
    """Centring may subtract much more than it leaves."""
    theta, phi = np.random.default_rng(2).normal(ratio, 1, (2, 1, 8, 8, 64))
    values = np.random.default_rng(3).normal(size=(1, 64, 3))

    def run(correlation, theta, phi, values):
        match = warp.soft_match(theta, phi, 0.01, match_kernel=3, correlation=correlation)
        return match.to_input(values)

    arguments = [x.astype(np.float32) for x in (theta, phi, values)]
    with jax.enable_x64(True):
        exact = jax.jit(functools.partial(run, "dense"))(*(x.astype(float) for x in arguments))
    found = jax.jit(functools.partial(run, "streaming"))(*arguments)
    np.testing.assert_allclose(found, exact, atol=1e-3)


@pytest.mark.parametrize("correlation", ["dense", "streaming"])
@pytest.mark.parametrize(("side", "centre"), [(1, "positions"), (3, "channels")])
def test_a_blend_has_one_softmax_over_all_exemplars(side, centre, correlation, monkeypatch):
    """By the formula: each exemplar's own features, and equation 4 over all their positions."""
    monkeypatch.setattr(streaming, "BLOCK", 8)
    rng = np.random.default_rng(4)
    theta, phi = rng.normal(size=(2, H, W, K)), rng.normal(1, 1, (6, H, W, K))
    values = rng.normal(size=(6, H * W, 7))

    def run(theta, phi, values):
        match = warp.soft_match(
            jnp.repeat(theta, 3, 0),
            phi,
            0.1,
            match_kernel=side,
            centre=centre,
            correlation=correlation,
        )
        return warp.blend(match, values, 3)

    with jax.enable_x64(True):
        found = jax.jit(run)(theta, phi, values)
    for i in range(2):
        own = slice(3 * i, 3 * i + 3)
        columns = np.concatenate([features_by_hand(x, side, centre) for x in phi[own]])
        logits = features_by_hand(theta[i], side, centre) @ columns.T / 0.1
        weights = softmax(logits, 1)
        entropy = -(weights * np.log(weights)).sum(1)
        np.testing.assert_allclose(found.values[i], weights @ np.concatenate(values[own]))
        np.testing.assert_allclose(found.log_sum[i, :, 0], np.log(np.exp(logits).sum(1)))
        np.testing.assert_allclose(found.entropy[i, :, 0], entropy)


def test_confidence_between_even_and_certain():
    found = warp.confidence(jnp.log(jnp.array([1.0, 4.0, 16.0])), 16)
    np.testing.assert_allclose(found, [1, 0.5, 0], atol=1e-6)


def test_tiles_of_grids_that_do_not_divide_well():
    def tile(*grid):
        found = Tile.about(2048, *grid, 3)
        return found.high, found.wide

    assert tile(64, 64) == (32, 64)
    assert tile(272, 272) == (16, 136)
    # A tile of one row would read three.
    assert tile(67, 67) == (67, 67)


@pytest.mark.parametrize("side", [1, 3, 5])
def test_tiles_find_the_neighbours(side):
    """A tile's line has the grid's numbers, zeros beyond it, and gives them back."""
    height, width, reach = 4, 6, side // 2
    grid = 1 + np.arange(height * width, dtype=np.float32).reshape(1, height, width, 1)
    padded = np.pad(grid[0, ..., 0], reach)
    for high, wide in ((2, 3), (1, 6), (4, 2), (4, 6)):
        tile = Tile(width, side, high, wide)

        @jax.jit
        def run(x, tile=tile, high=high, wide=wide):
            back, total = jnp.zeros_like(x), jnp.zeros_like(x)
            lines = []
            for i in map(jnp.asarray, range(height * width // (high * wide))):
                inner, around = tile.take(x, i, padding=-1), tile.take_around(x, i)
                back, total = tile.put(back, inner, i), tile.add_around(total, around, i)
                lines.append((inner, around))
            return back, tile.add(back, lines[0][0], jnp.asarray(0)), total, lines

        back, added, total, lines = run(grid)
        np.testing.assert_array_equal(back, grid)
        np.testing.assert_array_equal(added[0, :high, :wide], 2 * grid[0, :high, :wide])
        np.testing.assert_array_equal(added[0, high:], grid[0, high:])
        expected = np.zeros_like(padded)
        corners = [(i, j) for i in range(0, height, high) for j in range(0, width, wide)]
        for (row, column), (inner, around) in zip(corners, lines, strict=True):
            window = padded[row : row + high + 2 * reach, column : column + wide + 2 * reach]
            np.testing.assert_array_equal(around[0, :, 0], window.ravel())
            expected[row : row + high + 2 * reach, column : column + wide + 2 * reach] += window
            own = window[reach : reach + high, reach : reach + wide]
            own = np.pad(own, ((0, 0), (0, 2 * reach)), constant_values=-1).ravel()
            np.testing.assert_array_equal(inner[0, :, 0], own[: tile.length])
            np.testing.assert_array_equal(tile.in_padding(), own[: tile.length] < 0)
        found = expected[reach : reach + height, reach : reach + width]
        np.testing.assert_array_equal(total[0, ..., 0], found)


def test_even_neighbourhoods_are_an_error():
    with pytest.raises(ValueError, match="must be odd, not 2"):
        streaming.Side.of_neighbourhoods(jnp.ones((1, 4, 4, 2)), 2)


def test_auto_streams_many_positions(monkeypatch):
    grid = jnp.ones((1, 2, 4, 1))
    assert isinstance(warp.soft_match(grid, grid, 0.01), warp.DenseWarp)
    assert isinstance(
        warp.soft_match(grid, grid, 0.01, correlation="streaming"), warp.StreamingWarp
    )
    # Streaming by neighbourhoods needs fewer operations than the dense correlation.
    assert isinstance(warp.soft_match(grid, grid, 0.01, match_kernel=3), warp.StreamingWarp)
    monkeypatch.setattr(warp, "DENSE_POSITIONS", 7)
    assert isinstance(warp.soft_match(grid, grid, 0.01), warp.StreamingWarp)


@pytest.mark.parametrize("side", [1, 3])
def test_streaming_memory_at_1024_pixels(side):
    def loss(theta, phi, values):
        match = warp.soft_match(theta, phi, 0.01, match_kernel=side)
        return jnp.sum(match.to_input(values) ** 2)

    shapes = [
        jax.ShapeDtypeStruct(shape, jnp.float32)
        for shape in ((1, 256, 256, 256), (1, 256, 256, 256), (1, 65_536, 3))
    ]
    compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*shapes).compile()
    memory = compiled.memory_analysis()
    # One 65,536 x 65,536 matrix is 16 GiB, theta, phi and the values together 0.13 GiB.
    assert memory.temp_size_in_bytes < 0.25 * 2**30


def test_identical_features_warp_onto_themselves():
    x = jnp.asarray(RNG.normal(size=(1, 8, 8, 64)), jnp.float32)
    values = jnp.asarray(RNG.normal(size=(1, 64, 3)), jnp.float32)
    unit = warp.matching_features(x, 1, "channels")
    match = warp.DenseWarp(warp.correlation_logits(unit, unit, 0.01))
    np.testing.assert_allclose(match.to_input(values), values, atol=1e-5)


def test_patches_fold_back():
    x = RNG.normal(size=(2, 8, 12, 3))
    patches = to_patches(jnp.asarray(x, jnp.float32), 4)
    assert patches.shape == (2, 2, 3, 48)
    np.testing.assert_array_equal(patches[1, 1, 2].reshape(4, 4, 3), np.float32(x[1, 4:8, 8:12]))
    np.testing.assert_array_equal(from_patches(patches, 4), np.float32(x))


def test_bilinear_has_half_pixel_centres():
    x = RNG.normal(size=(1, 4, 4, 1))
    got = bilinear(jnp.asarray(x, jnp.float32), 8, 4)[0, :, :, 0]
    source = np.clip((np.arange(8) + 0.5) / 2 - 0.5, 0, 3)
    low = np.floor(source).astype(int)
    high, part = np.minimum(low + 1, 3), (source - low)[:, None]
    expected = x[0, low, :, 0] * (1 - part) + x[0, high, :, 0] * part
    np.testing.assert_allclose(got, expected, atol=1e-6)
