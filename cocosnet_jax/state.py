"""Everything that training changes: parameters, optimisers, running statistics, the average."""

from functools import partial
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Int, PyTree

from cocosnet_jax import model
from cocosnet_jax.discriminator import Discriminator
from cocosnet_jax.nn.condition import Condition
from cocosnet_jax.nn.conv import xavier_deviation
from cocosnet_jax.settings import OptimiserSettings, Settings

# Spatial size and batch at which parameters are made; no parameter but the learned code depends
# on the size, and that one takes it from the settings.
INIT_SIZE = 32
# Random numbers drawn at once.
DRAW = 2**20
# What leaves that are not random start at, by name.
CONSTANTS = {"bias": 0.0, "gamma": 0.0, "slope": 0.25, "mean": 0.0, "var": 1.0}


@flax.struct.dataclass
class TrainState:
    """One flat structure, a pytree; `generator` stands for correspondence and generator.

    Attributes:
      step: optimisation steps taken.
      params: {"generator": ..., "discriminator": ...}, what the optimisers change.
      variables: the same two keys: spectral vectors and batch statistics.
      opt_state: the same two keys.
      ema: average of params["generator"], or None where none is kept.
    """

    step: Int[jax.Array, ""]
    params: dict[str, PyTree]
    variables: dict[str, PyTree]
    opt_state: dict[str, PyTree]
    ema: PyTree


def build_discriminator(settings: Settings) -> Discriminator:
    """The discriminator of these settings."""
    dtype = jnp.bfloat16 if settings.model.dtype == "bfloat16" else None
    return Discriminator(settings.model, dtype)


def learning_rate(base: float, s: OptimiserSettings, steps_per_epoch: int) -> optax.Schedule:
    """Constant for `constant_epochs`, then one equal drop per epoch to 0 (SPEC section 7)."""

    def schedule(step: Any) -> Any:
        # As a float of the precision in force: an integer's quotient is always a float32.
        decayed = jnp.maximum(step // steps_per_epoch - s.constant_epochs, 0) * 1.0
        return base * jnp.maximum(1 - decayed / max(s.decay_epochs, 1), 0.0)

    return schedule


def adam(
    rate: optax.Schedule, s: OptimiserSettings, eps: float
) -> optax.GradientTransformationExtraArgs:
    """Adam; where beta1 is 0, without the first moment, which is the gradient itself."""
    if s.beta1:
        scale = optax.scale_by_adam(s.beta1, s.beta2, eps)
    else:
        scale = optax.scale_by_rms(s.beta2, eps, eps_in_sqrt=False, bias_correction=True)
    return optax.chain(scale, optax.scale_by_learning_rate(rate))


def optimisers(
    s: OptimiserSettings, steps_per_epoch: int
) -> dict[str, optax.GradientTransformationExtraArgs]:
    """Adam for each player, at its own rate and epsilon."""
    rates = {
        "generator": (s.generator_rate, s.generator_eps),
        "discriminator": (s.discriminator_rate, s.discriminator_eps),
    }
    return {
        name: adam(learning_rate(rate, s, steps_per_epoch), s, eps)
        for name, (rate, eps) in rates.items()
    }


def _initialise(module: nn.Module, key: jax.Array, *args: Any) -> dict[str, PyTree]:
    """`module.init(key, *args, train=False)`, with every random leaf cut from one draw.

    Linen draws each of the some 400 random leaves by a program of its own, which takes XLA
    minutes to compile; the distributions here are the same.
    """
    shapes = jax.eval_shape(partial(module.init, train=False), key, *args)
    leaves, structure = jax.tree_util.tree_flatten_with_path(dict(shapes))
    total = sum(leaf.size for _, leaf in leaves)
    # Piece by piece: a draw needs several times the memory of what it yields.
    keys = jax.random.split(key, -(-total // DRAW))
    noise = jax.lax.map(lambda piece: jax.random.normal(piece, (DRAW,)), keys).reshape(-1)
    filled, start = [], 0
    for path, leaf in leaves:
        name = path[-1].key
        value = noise[start : start + leaf.size].reshape(leaf.shape)
        start += leaf.size
        if name == "kernel":
            value = xavier_deviation(leaf.shape) * value
        elif name in ("u", "v"):  # of spectral norm
            value = value / jnp.linalg.norm(value)
        elif name != "code":  # biases, gains, slopes and running statistics are not random
            value = jnp.full(leaf.shape, CONSTANTS[name])
        filled.append(value)
    return jax.tree_util.tree_unflatten(structure, filled)


def create_state(settings: Settings, key: jax.Array, steps_per_epoch: int) -> TrainState:
    """A state at step 0, pure: fit for `jax.eval_shape` and for `jit` with `out_shardings`."""
    generator_key, discriminator_key = jax.random.split(key)
    image = jnp.zeros((1, INIT_SIZE, INIT_SIZE, 3))
    semantics = jnp.zeros((1, INIT_SIZE, INIT_SIZE, settings.data.channels))
    label = jnp.zeros((1, INIT_SIZE, INIT_SIZE), jnp.int32)
    condition = Condition(semantics)
    inputs = model.Inputs(image, image, condition, condition, label, label, jnp.zeros(1))
    variables = {
        "generator": _initialise(model.build(settings), generator_key, inputs, generator_key),
        "discriminator": _initialise(
            build_discriminator(settings), discriminator_key, semantics, image
        ),
    }
    params = {name: collections.pop("params") for name, collections in variables.items()}
    opt_state = {
        name: optimiser.init(params[name])
        for name, optimiser in optimisers(settings.optimiser, steps_per_epoch).items()
    }
    # A copy: the state is donated to the step, and donated buffers must not be shared.
    ema = jax.tree.map(jnp.copy, params["generator"]) if settings.optimiser.ema else None
    return TrainState(jnp.zeros((), jnp.int32), params, variables, opt_state, ema)


def inference_variables(state: TrainState) -> dict[str, PyTree]:
    """What `CoCosNet.apply` takes for translation: the averaged weights where they are kept."""
    params = state.params["generator"] if state.ema is None else state.ema
    return {"params": params, **state.variables["generator"]}
