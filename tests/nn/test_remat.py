import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cocosnet_jax.generator import Generator
from cocosnet_jax.settings import ModelSettings

KINDS = ("nothing", "elementwise", "blocks")
# Each runs once: compiling fast is what counts.
FAST: dict[str, bool | int | str] = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}


def loss_of(kind):
    s = ModelSettings(base_filters=2, non_local=False, rematerialise=kind)
    generator = Generator(s, 2)

    def loss(variables, condition):
        image, _ = generator.apply(variables, condition, 64, 64, train=True, mutable=["spectral"])
        return jnp.mean(jnp.square(image))

    return generator, loss


def test_results_are_the_same():
    rng = np.random.default_rng(0)
    found = {}
    with jax.enable_x64(True):
        condition = jnp.asarray(rng.normal(size=(1, 64, 64, 3)))
        generator, _ = loss_of("nothing")
        shapes = jax.eval_shape(
            lambda: generator.init(jax.random.key(0), condition, 64, 64, train=False)
        )
        variables = jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape)), dict(shapes))
        for kind in KINDS:
            step = jax.jit(jax.value_and_grad(loss_of(kind)[1]))
            found[kind] = step.lower(variables, condition).compile(FAST)(variables, condition)
    for kind in KINDS[1:]:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12),
            found[kind],
            found["nothing"],
        )


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the option is of XLA on CPUs")
def test_memory_falls():
    needed = []
    for kind in KINDS:
        generator, loss = loss_of(kind)
        condition = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
        shapes = jax.eval_shape(
            lambda c, g=generator: g.init(jax.random.key(0), c, 64, 64, train=False), condition
        )
        options = FAST | {"xla_disable_hlo_passes": "cse_barrier_expander"}
        compiled = jax.jit(jax.grad(loss)).lower(dict(shapes), condition).compile(options)
        needed.append(compiled.memory_analysis().temp_size_in_bytes)
    assert needed[1] < 0.9 * needed[0]
    assert needed[2] < 0.9 * needed[1]
