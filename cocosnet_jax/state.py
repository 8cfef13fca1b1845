"""The train state: parameters, their moving average, running statistics and optimisers' state."""

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from cocosnet_jax import model
from cocosnet_jax.discriminator import Discriminator
from cocosnet_jax.encode import Inputs
from cocosnet_jax.nn.condition import Condition
from cocosnet_jax.nn.conv import activation_dtype
from cocosnet_jax.nn.initial import draw, fill, variable_shapes
from cocosnet_jax.settings import OptimiserSettings, Settings

# Image size for initialisation. No parameter depends on it: the size of the learned code comes
# from the settings.
INIT_SIZE = 32


@flax.struct.dataclass
class TrainState:
    """Everything that a training step changes; a pytree.

    The player `generator` is the correspondence network together with the translation network.

    Attributes:
      step: optimisation steps taken.
      params: {"generator": ..., "discriminator": ...}, the learned parameters.
      variables: spectral vectors and batch statistics, with the same two keys.
      opt_state: the optimisers' state, with the same two keys.
      ema: moving average of params["generator"], or None without `optimiser.ema`.
    """

    step: Int[Array, ""]
    params: dict[str, PyTree]
    variables: dict[str, PyTree]
    opt_state: dict[str, PyTree]
    ema: PyTree


def build_discriminator(settings: Settings) -> Discriminator:
    """Returns the discriminator that these settings describe."""
    s = settings.model
    dtype = activation_dtype(s.dtype)
    return Discriminator(s.base_filters, s.non_local, s.spectral_everywhere, dtype)


def learning_rate(base: float, s: OptimiserSettings, steps_per_epoch: int) -> optax.Schedule:
    """Constant for `constant_epochs`, then falls by equal steps per epoch to 0 (SPEC section 7)."""

    def schedule(step: Any) -> Any:
        # As a float of the enabled precision: a quotient of integers would always be float32.
        decayed = jnp.maximum(step // steps_per_epoch - s.constant_epochs, 0) * 1.0
        rate = base * jnp.maximum(1 - decayed / max(s.decay_epochs, 1), 0.0)
        # Without the barrier, XLA computes the rate again for each parameter.
        return jax.lax.optimization_barrier(rate)

    return schedule


def adam(
    rate: optax.Schedule, s: OptimiserSettings, eps: float
) -> optax.GradientTransformationExtraArgs:
    """Adam; if beta1 is 0, without the first moment, which would equal the gradient."""
    if s.beta1:
        scale = optax.scale_by_adam(s.beta1, s.beta2, eps)
    else:
        scale = optax.scale_by_rms(s.beta2, eps, eps_in_sqrt=False, bias_correction=True)
    return optax.chain(scale, optax.scale_by_learning_rate(rate))


def optimisers(
    s: OptimiserSettings, steps_per_epoch: int
) -> dict[str, optax.GradientTransformationExtraArgs]:
    """Adam for each player, with its own learning rate and epsilon."""
    rates = {
        "generator": (s.generator_rate, s.generator_eps),
        "discriminator": (s.discriminator_rate, s.discriminator_eps),
    }
    return {
        name: adam(learning_rate(rate, s, steps_per_epoch), s, eps)
        for name, (rate, eps) in rates.items()
    }


def create_state(settings: Settings, key: jax.Array, steps_per_epoch: int) -> TrainState:
    """Returns a state at step 0; a pure function, for `jax.jit` and `jax.eval_shape`."""
    shapes = player_shapes(settings)
    return fill_state(settings, shapes, draw_players(key, shapes), steps_per_epoch)


def player_shapes(settings: Settings) -> dict[str, PyTree]:
    """Returns the shapes of both players' parameters and variables, {"generator": ..., ...}."""
    found = _player_shapes(settings, str(jax.dtypes.canonicalize_dtype(float)))
    return jax.tree.map(lambda shape: shape, found)  # a copy


# Tracing the networks takes seconds, and a start needs their shapes more than once.
@functools.lru_cache(maxsize=16)
def _player_shapes(settings: Settings, dtype: str) -> dict[str, PyTree]:
    del dtype  # of what is made, which a setting of JAX decides

    def example() -> tuple[Inputs, jax.Array]:
        image = jnp.zeros((1, INIT_SIZE, INIT_SIZE, 3))
        condition = Condition(jnp.zeros((1, INIT_SIZE, INIT_SIZE, settings.data.channels)))
        label = jnp.zeros((1, INIT_SIZE, INIT_SIZE), jnp.int32)
        inputs = Inputs(image, image, condition, condition, label, label, jnp.zeros(1))
        return inputs, jax.random.key(0)

    inputs, key = jax.eval_shape(example)
    return {
        "generator": variable_shapes(model.build(settings), inputs, key),
        "discriminator": variable_shapes(
            build_discriminator(settings), inputs.semantics.dense, inputs.image
        ),
    }


def draw_players(key: jax.Array, shapes: dict[str, PyTree]) -> dict[str, Float[Array, "_"]]:
    """Returns the random numbers of both players' initial variables."""
    keys = jax.random.split(key)
    return {name: draw(keys[i], shapes[name]) for i, name in enumerate(shapes)}


def fill_state(
    settings: Settings,
    shapes: dict[str, PyTree],
    noise: dict[str, Float[Array, "_"]],
    steps_per_epoch: int,
) -> TrainState:
    """Returns a state at step 0.

    Args:
      settings: of the run.
      shapes: of `player_shapes`.
      noise: of `draw_players`.
      steps_per_epoch: determines the learning rate.
    """
    variables = {name: fill(shapes[name], noise[name]) for name in shapes}
    params = {name: collections.pop("params") for name, collections in variables.items()}
    opt_state = {
        name: optimiser.init(params[name])
        for name, optimiser in optimisers(settings.optimiser, steps_per_epoch).items()
    }
    # A copy, since the step donates the state, and donated buffers must not be shared.
    ema = jax.tree.map(jnp.copy, params["generator"]) if settings.optimiser.ema else None
    return TrainState(jnp.zeros((), jnp.int32), params, variables, opt_state, ema)


def state_shapes(settings: Settings, steps_per_epoch: int = 1) -> TrainState:
    """Shapes and types (`jax.ShapeDtypeStruct`) of a state; only schedules depend on epochs."""
    create = functools.partial(create_state, settings, steps_per_epoch=steps_per_epoch)
    return jax.eval_shape(create, jax.random.key(0))


def inference_variables(state: TrainState) -> dict[str, PyTree]:
    """Variables of `CoCosNet` for inference, with the averaged weights if there are any."""
    params = state.params["generator"] if state.ema is None else state.ema
    return {"params": params, **state.variables["generator"]}


def parameter_table(params: dict[str, PyTree]) -> str:
    """A table of the number of parameters in each network and its modules.

    Args:
      params: of a TrainState, as arrays or shapes.
    """

    def size(tree: PyTree) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    networks = {**params["generator"], "discriminator": params["discriminator"]}
    lines = ["parameters:"]
    for name, modules in networks.items():
        parts = [f"{part} {size(tree):,}" for part, tree in modules.items()]
        lines.append(f"  {name:<14}{size(modules):>12,}  ({', '.join(parts)})")
    return "\n".join([*lines, f"  {'total':<14}{size(networks):>12,}"])


def all_finite(tree: PyTree) -> bool:
    """Whether every number of a tree is finite.

    Checked on the host: a checkpoint copies the state there anyway, and XLA takes long to compile
    reductions of some thousand arrays.
    """
    return all(np.isfinite(leaf.addressable_data(0)).all() for leaf in jax.tree.leaves(tree))
