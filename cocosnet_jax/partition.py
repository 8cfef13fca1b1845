"""The state and the step over a mesh: made on every device at once, jitted, compiled to fit."""

from typing import Any

import jax
from jax.sharding import Mesh

from cocosnet_jax import mesh, rng
from cocosnet_jax.fit import compile_to_fit
from cocosnet_jax.settings import Settings
from cocosnet_jax.state import TrainState, create_state
from cocosnet_jax.steps import Metrics, train_step
from cocosnet_jax.types import Batch
from cocosnet_jax.vgg import VggWeights


def initial_state(settings: Settings, devices: Mesh, steps_per_epoch: int) -> TrainState:
    """Returns the state at step 0, made on every device at once."""

    def create(key: jax.Array) -> TrainState:
        state = create_state(settings, key, steps_per_epoch)
        # Constants are weakly typed, a step's results are not: without this the step would be
        # compiled for both.
        return jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), state)

    return jax.jit(create, out_shardings=mesh.replicated(devices))(
        rng.key(settings.train.seed, "init")
    )


def jitted_step(settings: Settings, devices: Mesh, steps_per_epoch: int) -> Any:
    """Returns the jitted training step, (state, VGG weights, batch) -> (state, losses).

    The state is donated. Keys follow from the step, so no key is carried.
    """
    everywhere, rows = mesh.replicated(devices), mesh.split(devices)
    step = train_step(settings, steps_per_epoch)

    def keyed(state: TrainState, weights: VggWeights, batch: Batch) -> tuple[TrainState, Metrics]:
        return step(state, weights, batch, rng.key(settings.train.seed, "train", state.step))

    options = {}
    if devices.devices.flat[0].platform == "cpu":
        # Otherwise XLA merges what the backward pass computes again with what it is to replace.
        options["xla_disable_hlo_passes"] = "cse_barrier_expander"
    # Said for results too: a state placed otherwise would be compiled for a second time.
    return jax.jit(
        keyed,
        donate_argnums=0,
        in_shardings=(everywhere, everywhere, rows),
        out_shardings=everywhere,
        compiler_options=options,
    )


def compile_step(
    settings: Settings, devices: Mesh, steps_per_epoch: int, arguments: tuple[Any, ...]
) -> Any:
    """Returns the training step compiled for (state, VGG weights, batch), or for their shapes.

    Raises:
      UserError: it does not fit in a device's memory; the message says what would.
    """
    return compile_to_fit(
        jitted_step(settings, devices, steps_per_epoch),
        arguments,
        devices,
        settings.data.image_size,
        "set config.data.image_size to {size}, or a smaller config.train.batch_size, or"
        " config.model.rematerialise=blocks, or config.model.dtype=bfloat16",
    )
