import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cocosnet_jax.nn import remat
from cocosnet_jax.nn.blocks import ResidualBlock
from cocosnet_jax.nn.condition import Condition
from cocosnet_jax.nn.conv import Conv
from cocosnet_jax.nn.spade import SpadeBlock

KINDS: tuple[remat.Rematerialise, ...] = ("nothing", "elementwise", "blocks")


class Chain(nn.Module):
    """Successive blocks, of which the backward pass recomputes `what`."""

    what: remat.Rematerialise
    blocks: int

    @nn.compact
    def __call__(self, x, condition):
        for i in range(self.blocks):
            block = SpadeBlock(x.shape[-1], 4, name=f"block_{i}")
            x = remat.apply(block, x, Condition(condition), train=True, what=self.what)
        return x


def loss_of(chain):
    def loss(variables, x, condition):
        drawn, new = chain.apply(variables, x, condition, mutable=["spectral"])
        return jnp.mean(jnp.square(drawn)), new

    return loss


def shapes_of(chain, *arrays):
    return dict(jax.eval_shape(chain.init, jax.random.key(0), *arrays))


def test_results_are_the_same():
    rng = np.random.default_rng(0)
    found = {}
    with jax.enable_x64(True):
        arrays = [jnp.asarray(rng.normal(size=(1, 8, 8, k))) for k in (4, 3)]
        shapes = shapes_of(Chain("nothing", 1), *arrays)
        variables = jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape)), shapes)
        for kind in KINDS:
            step = jax.jit(jax.value_and_grad(loss_of(Chain(kind, 1)), has_aux=True))
            found[kind] = step.lower(variables, *arrays).compile()(variables, *arrays)
    for kind in KINDS[1:]:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12),
            found[kind],
            found["nothing"],
        )


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the option is of XLA on CPUs")
@pytest.mark.parity
def test_memory_falls():
    arrays = [jax.ShapeDtypeStruct((1, 64, 64, k), jnp.float32) for k in (4, 3)]
    # As for the training step on CPUs, where XLA would otherwise undo rematerialisation.
    options = {"xla_disable_hlo_passes": "cse_barrier_expander"}
    needed = []
    for kind in KINDS:
        chain = Chain(kind, 6)
        step = jax.jit(jax.grad(loss_of(chain), has_aux=True))
        compiled = step.lower(shapes_of(chain, *arrays), *arrays).compile(options)
        needed.append(compiled.memory_analysis().temp_size_in_bytes)
    assert needed[1] < 0.9 * needed[0]
    assert needed[2] < 0.9 * needed[1]


class Normalised(nn.Module):
    """A convolution with spectral norm, of which the backward pass recomputes `what`."""

    what: remat.Rematerialise

    @nn.compact
    def __call__(self, x):
        def call(module, x):
            return Conv(3, 3, spectral=True, name="conv")(x, train=True)

        return remat.rematerialise(call, self.what)(self, x)


def test_spectral_norm_is_never_recomputed():
    x, roots = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32), {}
    for kind in KINDS:
        module = Normalised(kind)
        shapes = shapes_of(module, x)

        def loss(params, spectral, x, module=module):
            variables = {"params": params, "spectral": spectral}
            made, new = module.apply(variables, x, mutable=["spectral"])
            return jnp.sum(made**3), new

        lowered = jax.jit(jax.grad(loss, has_aux=True)).lower(
            *map(shapes.get, ("params", "spectral")), x
        )
        roots[kind] = lowered.as_text().count("stablehlo.sqrt")
    # One square root to normalise each of the two vectors.
    assert roots == dict.fromkeys(KINDS, 2)


@pytest.mark.parametrize(
    ("block", "again"), [(SpadeBlock(8, 4, kernels=True), 2), (ResidualBlock(kernels=True), 1)]
)
def test_what_kernels_computed_is_kept(block, again):
    """Of four kernels, two are for gradients. No gradient needs a residual block's last norm."""
    x, condition = (jax.ShapeDtypeStruct((8, 16, 16, k), jnp.float32) for k in (8, 3))
    arrays = (x, Condition(condition)) if isinstance(block, SpadeBlock) else (x,)
    shapes = jax.eval_shape(
        lambda *arrays: block.init(jax.random.key(0), *arrays, train=True), *arrays
    )
    counts = {}
    for kind in KINDS:

        def loss(variables, *arrays, kind=kind):
            made, _ = nn.apply(
                lambda module, *arrays: remat.apply(module, *arrays, train=True, what=kind),
                block,
                mutable=["spectral"],
            )(variables, *arrays)
            return jnp.sum(made**2)

        traced = jax.jit(jax.grad(loss, (0, 1))).trace(shapes, *arrays)
        lowered = traced.lower(lowering_platforms=("tpu",)).as_text()
        counts[kind] = lowered.count("stablehlo.custom_call @tpu_custom_call")
    assert counts == {"nothing": 4, "elementwise": 4, "blocks": 4 + again}
