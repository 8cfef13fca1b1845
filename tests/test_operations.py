import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cocosnet_jax import operations, vgg
from cocosnet_jax.nn import streaming
from cocosnet_jax.pretrained import vgg as vgg_weights


def counted(function, *shapes):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return operations.count(jax.jit(function).trace(*arguments).jaxpr, "cpu")


def convolution(x, kernel, **options):
    options = {"window_strides": (1, 1), "padding": [(0, 0)] * 2} | options
    return jax.lax.conv_general_dilated(
        x, kernel, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
    )


@pytest.mark.parametrize(
    ("function", "shapes", "products"),
    [
        (jnp.dot, [(3, 5), (5, 7)], 2 * 3 * 5 * 7),
        (lambda a, b: jnp.einsum("bnk,bmk->bnm", a, b), [(2, 3, 5), (2, 7, 5)], 2 * 2 * 3 * 7 * 5),
        # 4 x 3 results of 3 x 2 x 6 products each.
        (convolution, [(2, 6, 4, 6), (3, 2, 6, 5)], 2 * 2 * 5 * (4 * 3) * (3 * 2 * 6)),
        # Along each side of 5, the outer two of 5 places read 2 of 3: 13 pairs.
        (
            lambda x, k: convolution(x, k, padding=[(1, 1)] * 2),
            [(1, 5, 5, 4), (3, 3, 4, 6)],
            2 * 13**2 * 4 * 6,
        ),
        # Places 0, 2 and 4 of a side of 5.
        (
            lambda x, k: convolution(x, k, window_strides=(2, 2)),
            [(1, 5, 5, 4), (1, 1, 4, 6)],
            2 * 3**2 * 4 * 6,
        ),
        # A transposed convolution: the zeros between the 3 numbers of a side are not counted. Of
        # 5 + 2 places, each number is read by 3.
        (
            lambda x, k: convolution(x, k, padding=[(2, 2)] * 2, lhs_dilation=(2, 2)),
            [(1, 3, 3, 4), (3, 3, 4, 6)],
            2 * (3 * 3) ** 2 * 4 * 6,
        ),
        # Each of 2 groups has 2 of 4 channels.
        (
            lambda x, k: convolution(x, k, feature_group_count=2),
            [(1, 3, 3, 4), (3, 3, 2, 6)],
            2 * 9 * 2 * 6,
        ),
        # Two passes back for one forward.
        (
            jax.grad(lambda a, b: jnp.sum(a @ b), (0, 1)),
            [(3, 5), (5, 7)],
            2 * (2 * 3 * 5 * 7),
        ),
    ],
)
def test_products_are_those_of_the_formulas(function, shapes, products):
    assert counted(function, *shapes).products == products


def test_loops_count_as_often_as_they_run():
    def often(a, b):
        def row(_, x):
            return jax.lax.fori_loop(0, 3, lambda _, y: y @ b, x)

        return jax.lax.fori_loop(0, 4, row, a)

    def mapped(a, b):
        return jax.lax.map(lambda x: x @ b, a)

    assert counted(often, (5, 5), (5, 5)).products == 4 * 3 * 2 * 5**3
    assert counted(mapped, (6, 5, 5), (5, 5)).products == 6 * 2 * 5**3


def test_a_streamed_match_has_the_operations_of_a_dense_one_and_of_what_it_recomputes():
    n, k, v = 2 * streaming.BLOCK, 8, 4

    def warp(rows, columns, values):
        sides = (streaming.Side.of_vectors(x) for x in (rows, columns))
        return jnp.sum(streaming.attend(*sides, values, 0.01))

    shapes = [(1, n, k), (1, n, k), (1, n, v)]
    products, warped = 2 * n * n * k, 2 * n * n * v
    assert counted(warp, *shapes).products == products + warped
    # The backward pass: the correlation again and its two gradients, then those of weights and
    # values.
    back = 3 * products + 2 * warped
    total = counted(jax.grad(warp, (0, 1, 2)), *shapes).products
    assert total == products + warped + back


def test_the_dearer_branch_counts_and_an_unknown_number_is_none():
    def branch(a):
        return jax.lax.cond(a[0, 0] > 0, lambda: a @ a @ a, lambda: a @ a)

    assert counted(branch, (5, 5)).products == 2 * 2 * 5**3

    def until(a):
        return jax.lax.while_loop(lambda x: x[0, 0] < 9, lambda x: x @ x, a)

    with pytest.raises(operations.UnknownTripCountError):
        counted(until, (5, 5))


@pytest.mark.parametrize(("platform", "times"), [("cpu", 1), ("gpu", 3), ("tpu", 2)])
def test_a_platforms_own_way_counts(platform, times):
    def chosen(a):
        ways = {"cpu": lambda x: x @ x, "cuda": lambda x: x @ x @ x @ x}
        return jax.lax.platform_dependent(a, **ways, default=lambda x: x @ x @ x)

    traced = jax.jit(chosen).trace(jax.ShapeDtypeStruct((5, 5), jnp.float32))
    assert operations.count(traced.jaxpr, platform).products == times * 2 * 5**3


def test_the_count_is_xlas_own_where_nothing_loops():
    """A network and its gradients, VGG's, whose convolutions have all kinds of padding."""
    weights = vgg_weights.load("random", 8)

    def loss(image, params):
        found = vgg.features(weights.replace(params=params), image)
        return sum(jnp.mean(jnp.square(x)) for x in found.values())

    traced = jax.jit(jax.grad(loss, (0, 1))).trace(
        np.zeros((1, 64, 64, 3), np.float32), weights.params
    )
    xla = traced.lower().compile().cost_analysis()["flops"]
    found = operations.count(traced.jaxpr, "cpu")
    assert found.total == pytest.approx(xla, rel=0.05)
    assert found.products > 0.9 * found.total


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("TPU v5p", 459e12),
        ("TPU v6 lite", 918e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA GeForce RTX 4090", None),
        ("TPU v9", None),
        ("cpu", None),
    ],
)
def test_a_peak_is_known_or_none(kind, peak):
    assert operations.peak(types.SimpleNamespace(device_kind=kind)) == peak
