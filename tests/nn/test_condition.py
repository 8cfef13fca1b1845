import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cocosnet_jax.nn import condition as module
from cocosnet_jax.nn.condition import Condition, convolve_condition
from cocosnet_jax.nn.conv import Weights
from tests.nn.test_conv import by_hand

RNG = np.random.default_rng(0)
CLASSES = 5


def drawn(dense):
    """A map with `dense` channels, labels of which two are no class, and a kernel."""
    labels = RNG.integers(0, CLASSES, (2, 6, 7))
    labels[0, 2, 3], labels[1, 4, 4] = 255, -1
    kernel = RNG.normal(size=(3, 3, dense + CLASSES, 4))
    return RNG.normal(size=(2, 6, 7, dense)), labels, kernel


def one_hot(labels):
    return (labels[..., None] == np.arange(CLASSES)).astype(float)


@pytest.mark.parametrize("dense", [0, 3])
@pytest.mark.parametrize("padding", [1, "reflect"])
@pytest.mark.parametrize("platform", ["cpu", "default"])
def test_convolution_and_gradients_by_formula(dense, padding, platform, monkeypatch):
    def chosen(*arrays, **functions):
        return functions[platform](*arrays)

    monkeypatch.setattr(jax.lax, "platform_dependent", chosen)
    monkeypatch.setattr(module, "ROWS_PAY", 0)
    x, labels, kernel = drawn(dense)
    made = np.concatenate([x, one_hot(labels)], -1)
    pull = RNG.normal(size=(2, 6, 7, 4))

    def ours(x, kernel):
        condition = Condition(x, jnp.asarray(labels), CLASSES)
        return convolve_condition(condition, Weights(kernel, None, None), padding)

    def plain(x, kernel):
        padded = jnp.pad(
            jnp.concatenate([x, one_hot(labels)], -1),
            ((0, 0), (1, 1), (1, 1), (0, 0)),
            mode="reflect" if padding == "reflect" else "constant",
        )
        shifts = [(i, j, padded[:, i : i + 6, j : j + 7]) for i in range(3) for j in range(3)]
        return sum(jnp.einsum("bhwc,co->bhwo", y, kernel[i, j]) for i, j, y in shifts)

    with jax.enable_x64(True):
        arguments = jnp.asarray(x), jnp.asarray(kernel)
        found, backward = jax.vjp(ours, *arguments)
        _, wanted_backward = jax.vjp(plain, *arguments)
        gradients, wanted = backward(jnp.asarray(pull)), wanted_backward(jnp.asarray(pull))
    expected = by_hand(made, kernel, 1, 1, "reflect" if padding == "reflect" else "constant")
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    for got, want in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


def test_gradients_of_a_large_class_in_bfloat16(monkeypatch):
    """A sum of many numbers, added one at a time, must not be in bfloat16."""
    monkeypatch.setattr(module, "ROWS_PAY", 0)
    dense, labels = jnp.zeros((1, 64, 64, 0), jnp.bfloat16), jnp.zeros((1, 64, 64), jnp.int32)

    def summed(kernel):
        return jnp.sum(
            convolve_condition(Condition(dense, labels, 2), Weights(kernel, None, None), "reflect")
        )

    gradient = jax.jit(jax.grad(summed))(jnp.zeros((3, 3, 2, 1), jnp.bfloat16))
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(gradient[:, :, 0], np.float32), 64 * 64)
    np.testing.assert_array_equal(np.asarray(gradient[:, :, 1], np.float32), 0)


def test_one_hot_channels_and_resizing():
    x, labels, _ = drawn(2)
    with jax.enable_x64(True):
        condition = Condition(jnp.asarray(x), jnp.asarray(labels), CLASSES)
        made = np.concatenate([x, one_hot(labels)], -1)
        assert condition.channels == made.shape[-1]
        np.testing.assert_array_equal(condition.tensor(), made)
        rows, columns = np.arange(3) * 6 // 3, np.arange(14) * 7 // 14
        smaller = condition.resize(3, 14, "nearest")
        assert smaller.labels is not None
        np.testing.assert_array_equal(smaller.tensor(), made[:, rows][:, :, columns])
        # Halfway between two positions, both classes have a share.
        between = condition.resize(3, 7, "bilinear").tensor()
        np.testing.assert_allclose(between, (made[:, 0::2] + made[:, 1::2]) / 2)


@pytest.mark.parametrize("classes", [5, 40])
def test_cpus_sum_rows_of_many_classes_and_accelerators_multiply(classes):
    shapes = (1, 6, 7, 0), (1, 6, 7), (3, 3, classes, 4)
    types = "float32", "int32", "float32"
    arguments = map(jax.ShapeDtypeStruct, shapes, types)

    def of(dense, labels, kernel):
        return convolve_condition(Condition(dense, labels, classes), Weights(kernel, None, None), 1)

    traced = jax.jit(of).trace(*arguments)
    convolutions = {
        platform: "convolution" in traced.lower(lowering_platforms=(platform,)).as_text()
        for platform in ("cpu", "tpu", "cuda")
    }
    assert convolutions == {"cpu": classes == 5, "tpu": True, "cuda": True}


def test_a_sum_of_rows_reads_each_index_once():
    # Had XLA a second gather for the indices, it would make them again for each channel: the sum
    # then takes ten times as long (python -m benchmarks.layers).
    dense, labels = jnp.zeros((1, 18, 18, 0)), jnp.zeros((1, 18, 18), int)
    step = jax.jit(module._by_rows).lower(dense, labels, jnp.zeros((3, 3, 40, 24)))
    assert step.compile().as_text().count(" gather(") == 1


@pytest.mark.parametrize("side", [3, 6, 12, 24])
def test_dense_channels_of_another_size_than_the_labels(side):
    dense = RNG.normal(size=(2, 6, 6, 3)).astype(np.float32)
    labels = RNG.integers(0, CLASSES, (2, 24, 24))
    found = Condition(dense, jnp.asarray(labels), CLASSES).resize(side, side, "nearest").tensor()
    index = np.arange(side)
    of_dense, of_labels = index * 6 // side, index * 24 // side
    np.testing.assert_array_equal(found[..., :3], dense[:, of_dense[:, None], of_dense])
    wanted = one_hot(labels[:, of_labels[:, None], of_labels])
    np.testing.assert_array_equal(found[..., 3:], wanted)
