import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cocosnet_jax.nn import initial


class Named(nn.Module):
    """A module with a single leaf."""

    name_of_leaf: str
    collection: str = "params"

    @nn.compact
    def __call__(self, x, *, train):
        if self.collection == "params":
            return x + self.param(self.name_of_leaf, initial.blank, (3, 3, 16, 32))
        return x + self.variable(self.collection, self.name_of_leaf, initial.blank, (500,)).value


def value(name, collection="params"):
    shapes = initial.variable_shapes(Named(name, collection), jnp.zeros(()))
    variables = initial.fill(shapes, initial.draw(jax.random.key(0), shapes))
    return np.asarray(variables[collection][name])


def test_xavier_deviation():
    # fan_in = 9 * 16, fan_out = 9 * 32.
    deviation = initial.xavier_deviation((3, 3, 16, 32))
    assert deviation == pytest.approx(0.02 * np.sqrt(2 / (9 * 16 + 9 * 32)))
    assert value("kernel").std() == pytest.approx(deviation, rel=0.05)


@pytest.mark.parametrize(
    ("name", "wanted"), [("bias", 0), ("slope", 0.25), ("gamma", 0), ("mean", 0), ("var", 1)]
)
def test_constants(name, wanted):
    np.testing.assert_array_equal(value(name), wanted)


def test_spectral_vectors_are_random_directions():
    u = value("u", "spectral")
    assert np.linalg.norm(u) == pytest.approx(1, rel=1e-5)
    assert u.std() == pytest.approx(1 / np.sqrt(500), rel=0.1)


def test_the_learned_code_is_standard_normal():
    assert value("code").std() == pytest.approx(1, rel=0.05)


def test_a_leaf_without_an_initial_value_is_an_error():
    with pytest.raises(KeyError, match=r"params\.scale: .* no initial value for 'scale'"):
        value("scale")
