"""Everything that training changes: parameters, optimisers, running statistics, the average."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Int, PyTree

from cocosnet_jax import model
from cocosnet_jax.discriminator import Discriminator
from cocosnet_jax.encode import Inputs
from cocosnet_jax.nn.condition import Condition
from cocosnet_jax.nn.initial import initialise
from cocosnet_jax.settings import OptimiserSettings, Settings

# Spatial size and batch at which parameters are made; no parameter but the learned code depends
# on the size, and that one takes it from the settings.
INIT_SIZE = 32


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


def create_state(settings: Settings, key: jax.Array, steps_per_epoch: int) -> TrainState:
    """A state at step 0, pure: fit for `jax.eval_shape` and for `jit` with `out_shardings`."""
    generator_key, discriminator_key = jax.random.split(key)
    image = jnp.zeros((1, INIT_SIZE, INIT_SIZE, 3))
    semantics = jnp.zeros((1, INIT_SIZE, INIT_SIZE, settings.data.channels))
    label = jnp.zeros((1, INIT_SIZE, INIT_SIZE), jnp.int32)
    condition = Condition(semantics)
    inputs = Inputs(image, image, condition, condition, label, label, jnp.zeros(1))
    variables = {
        "generator": initialise(model.build(settings), generator_key, inputs, generator_key),
        "discriminator": initialise(
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


def parameter_table(params: dict[str, PyTree]) -> str:
    """How many parameters each network has, and in which modules; a line per network.

    Args:
      params: of a TrainState, arrays or shapes.
    """

    def size(tree: PyTree) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    networks = {**params["generator"], "discriminator": params["discriminator"]}
    lines = ["parameters:"]
    for name, modules in networks.items():
        parts = [f"{part} {size(tree):,}" for part, tree in modules.items()]
        lines.append(f"  {name:<14}{size(modules):>12,}  ({', '.join(parts)})")
    return "\n".join([*lines, f"  {'in all':<14}{size(networks):>12,}"])


def all_finite(tree: PyTree) -> bool:
    """Whether every number of a tree is finite.

    Looked at on the host: a checkpoint brings the state there anyway, and a program that reduces
    some thousand arrays takes XLA long to compile.
    """
    return all(np.isfinite(leaf.addressable_data(0)).all() for leaf in jax.tree.leaves(tree))
