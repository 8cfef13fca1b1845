import jax
import jax.numpy as jnp

from cocosnet_jax.nn.platform import by_platform, known


def ways(traced):
    """Three ways to compute something, which record that they are traced."""

    def way(name, factor):
        def compute(x):
            traced.append(name)
            return factor * x

        return compute

    return {"default": way("default", 1), "cpu": way("cpu", 2), "tpu": way("tpu", 3)}


def test_where_the_platform_is_known_its_way_alone_is_traced():
    for platform, way, result in (("cpu", "cpu", 2), ("tpu", "tpu", 3), ("gpu", "default", 1)):
        traced: list[str] = []
        with known(platform):
            assert by_platform(jnp.ones(()), **ways(traced)) == result
        assert traced == [way]


def test_otherwise_all_are_traced_and_the_device_decides():
    traced: list[str] = []
    assert jax.jit(lambda x: by_platform(x, **ways(traced)))(jnp.ones(())) == 2
    assert sorted(traced) == ["cpu", "default", "tpu"]


def test_a_trace_for_one_platform_is_not_used_for_another():
    function = jax.jit(lambda x: by_platform(x, **ways([])))
    results = []
    for platform in ("cpu", "tpu", None):
        with known(platform):
            results.append(float(function(jnp.ones(()))))
    assert results == [2, 3, 2]
