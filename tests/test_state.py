import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from cocosnet_jax import mesh, partition, settings, state
from cocosnet_jax.nn.initial import xavier_deviation

SETTINGS = settings.from_mapping(
    {
        "data": {"image_size": 64, "load_size": 64, "channels": 5, "exemplar_list": "random"},
        "model": {"base_filters": 4},
        "optimiser": {"constant_epochs": 2, "decay_epochs": 4, "ema": 0.9},
        "vgg": {"weights": "random"},
    }
)


@pytest.fixture(scope="module")
def made():
    return jax.device_get(partition.initial_state(SETTINGS, mesh.make(), 10))


def test_initial_parameters_have_the_releases_distribution(made):
    leaves = traverse_util.flatten_dict(made.params)
    ratios = []
    for path, value in leaves.items():
        if path[-1] == "kernel":
            ratios.append(value / xavier_deviation(value.shape))
        else:
            assert np.all(value == (0.25 if path[-1] == "slope" else 0)), path
    together = np.concatenate([x.ravel() for x in ratios])
    assert together.std() == pytest.approx(1, rel=0.01)
    assert abs(together.mean()) < 0.01
    # Kernels are independent of each other.
    firsts = [x.ravel()[0] for x in ratios]
    assert len(set(firsts)) == len(firsts)


def test_initial_variables(made):
    for player in made.variables.values():
        for path, value in traverse_util.flatten_dict(player["spectral"]).items():
            assert np.linalg.norm(value) == pytest.approx(1, rel=1e-5), path


def test_the_average_starts_as_a_copy_of_the_weights(made):
    jax.tree.map(np.testing.assert_array_equal, made.ema, made.params["generator"])


def test_learning_rate_is_constant_then_falls_by_equal_steps():
    rate = state.learning_rate(1e-3, SETTINGS.optimiser, steps_per_epoch=10)
    rates = [float(rate(epoch * 10 + 9)) for epoch in range(7)]
    expected = [1e-3, 1e-3, 1e-3, 7.5e-4, 5e-4, 2.5e-4, 0]
    np.testing.assert_allclose(rates, expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("beta1", [0.0, 0.5])
def test_adam_equals_optax(beta1):
    config = settings.OptimiserSettings(beta1=beta1, beta2=0.9)
    rng = np.random.default_rng(0)
    params = {"a": jnp.asarray(rng.normal(size=(2, 3))), "b": jnp.asarray(rng.normal(size=4))}
    ours = state.adam(optax.constant_schedule(0.1), config, 1e-3)
    wanted = optax.adam(0.1, beta1, 0.9, 1e-3)
    our_state, wanted_state = ours.init(params), wanted.init(params)
    for _ in range(3):
        grads = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), params)
        updates, our_state = ours.update(grads, our_state)
        expected, wanted_state = wanted.update(grads, wanted_state)
        for got, right in zip(jax.tree.leaves(updates), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(got, right, rtol=2e-6)


def test_the_table_of_parameters_adds_up(made):
    *lines, total = state.parameter_table(made.params).splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["correspondence", "generator", "discriminator"]
    counts = [int(line.split()[1].replace(",", "")) for line in lines]
    everything = sum(leaf.size for leaf in jax.tree.leaves(made.params))
    assert sum(counts) == everything
    assert total.split() == ["total", f"{everything:,}"]
    for line, count in zip(lines, counts, strict=True):
        parts = line[line.index("(") + 1 : -1].split(", ")
        assert sum(int(part.split()[1].replace(",", "")) for part in parts) == count


def test_shapes_are_a_copy_of_those_that_are_kept():
    one, other = (state.player_shapes(SETTINGS) for _ in range(2))
    assert one == other
    del one["generator"]["params"]
    assert state.player_shapes(SETTINGS) == other
    with jax.enable_x64(True):
        state.player_shapes(SETTINGS)
    assert state.player_shapes(SETTINGS) == other
