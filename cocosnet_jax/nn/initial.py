"""Initial values of parameters and stored statistics, by the name of the leaf (SPEC section 2).

Modules declare the shapes of their leaves with `blank`; `fill` gives them the values of `LEAVES`.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

# How many random numbers one draw makes.
DRAW = 2**20

# Standard normal noise of a leaf's shape -> the leaf's initial value.
Fill = Callable[[Float[Array, "..."]], Float[Array, "..."]]


def xavier_deviation(shape: Sequence[int]) -> float:
    """Standard deviation of Xavier normal weights with gain 0.02, for HWIO."""
    area = math.prod(shape[:-2])
    return 0.02 * math.sqrt(2 / (area * (shape[-2] + shape[-1])))


def _xavier(noise: Float[Array, "kh kw cin cout"]) -> Float[Array, "kh kw cin cout"]:
    return xavier_deviation(noise.shape) * noise


def _unit(noise: Float[Array, "k"]) -> Float[Array, "k"]:
    return noise / jnp.linalg.norm(noise)


def _constant(value: float) -> Fill:
    return lambda noise: jnp.full(noise.shape, value)


LEAVES: dict[str, Fill] = {
    "kernel": _xavier,
    "bias": _constant(0.0),
    "slope": _constant(0.25),  # of a PReLU
    "gamma": _constant(0.0),  # of a non-local block
    "code": lambda noise: noise,  # the generator's learned constant
    "u": _unit,  # of spectral norm
    "v": _unit,
    "mean": _constant(0.0),  # of batch norm
    "var": _constant(1.0),
}


def blank(*arguments: Any) -> Float[Array, "..."]:
    """Declares a leaf of this shape to Linen; its last argument is the shape.

    Linen calls it as (key, shape) for a parameter and as (shape) for a variable.
    """
    return jnp.zeros(arguments[-1])


def variable_shapes(module: nn.Module, *arguments: Any) -> dict[str, PyTree]:
    """Returns the shapes of the variables of `module`, in the structure that `module.init` returns.

    Args:
      module: its `__call__` takes `arguments` and `train`.
      arguments: arrays, or their shapes.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    return dict(jax.eval_shape(partial(module.init, train=False), key, *arguments))


def draw(key: jax.Array, shapes: PyTree) -> Float[Array, "_"]:
    """Returns standard normal numbers, at least as many as variables of these shapes have.

    All random leaves are slices of one sequence: with `module.init`, XLA compiles a generator for
    each of some 400 leaves, which takes minutes.
    """
    total = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    # In several draws, since each needs several times the memory of its result.
    keys = jax.random.split(key, -(-total // DRAW))
    return jax.lax.map(lambda piece: jax.random.normal(piece, (DRAW,)), keys).reshape(-1)


def fill(shapes: PyTree, noise: Float[Array, "_"]) -> dict[str, PyTree]:
    """Returns variables of these shapes, made of the numbers of `draw`.

    Raises:
      KeyError: there is a leaf whose name is not in `LEAVES`.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(shapes)
    filled, start = [], 0
    for path, leaf in leaves:
        name = path[-1].key
        if name not in LEAVES:
            where = jax.tree_util.keystr(path, simple=True, separator=".")
            raise KeyError(f"{where}: cocosnet_jax.nn.initial has no initial value for {name!r}")
        filled.append(LEAVES[name](noise[start : start + leaf.size].reshape(leaf.shape)))
        start += leaf.size
    return jax.tree_util.tree_unflatten(structure, filled)
