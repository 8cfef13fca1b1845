import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cocosnet_jax.nn.padding import reflect_pad


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 4)])
@pytest.mark.parametrize("platform", ["cpu", "default"])
def test_reflect_padding_and_its_gradient(size, platform, monkeypatch):
    def chosen(*arrays, **functions):
        return functions[platform](*arrays)

    monkeypatch.setattr(jax.lax, "platform_dependent", chosen)
    rng = np.random.default_rng(4)
    x = rng.normal(size=(2, *size, 3))
    # NumPy, too, repeats the only pixel of an axis.
    expected = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], "reflect")
    pull = rng.normal(size=expected.shape)
    places = np.pad(np.arange(x[0].size).reshape(x[0].shape), [(1, 1), (1, 1), (0, 0)], "reflect")
    wanted = [np.bincount(places.ravel(), sample.ravel()).reshape(x[0].shape) for sample in pull]
    with jax.enable_x64(True):
        padded, backward = jax.vjp(reflect_pad, jnp.asarray(x))
        gradient = backward(jnp.asarray(pull))[0]
    np.testing.assert_array_equal(padded, expected)
    np.testing.assert_allclose(gradient, wanted, rtol=1e-12, atol=1e-12)


def test_accelerators_do_not_gather_to_pad():
    traced = jax.jit(reflect_pad).trace(jax.ShapeDtypeStruct((1, 4, 4, 2), "float32"))
    gathers = {
        platform: "gather" in traced.lower(lowering_platforms=(platform,)).as_text()
        for platform in ("cpu", "tpu", "cuda")
    }
    assert gathers == {"cpu": True, "tpu": False, "cuda": False}
