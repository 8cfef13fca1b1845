"""Initial state and training step on a mesh: initialised, jitted and compiled for its devices."""

import functools
from typing import Any

import jax
from jax.sharding import Mesh

from cocosnet_jax import accumulation, compiler, operations, rng
from cocosnet_jax.fit import compile_to_fit
from cocosnet_jax.mesh import replicated, split, split_small
from cocosnet_jax.nn import platform
from cocosnet_jax.settings import Settings
from cocosnet_jax.state import TrainState, draw_players, fill_state, player_shapes
from cocosnet_jax.steps import Metrics, train_step
from cocosnet_jax.types import Batch
from cocosnet_jax.vgg import VggWeights


def initial_state(settings: Settings, mesh: Mesh, steps_per_epoch: int) -> TrainState:
    """Returns the state at step 0, which every device computes for itself."""
    shapes = player_shapes(settings)

    def create(noise: dict[str, jax.Array]) -> TrainState:
        state = fill_state(settings, shapes, noise, steps_per_epoch)
        # Constants are weakly typed, but a step's results are not. Without this conversion, the
        # step would be compiled twice.
        return jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), state)

    key = rng.key(settings.train.seed, "init")
    # Two programs, since only the second takes long to compile, and only the first takes long to
    # run.
    noise = jax.jit(lambda key: draw_players(key, shapes), out_shardings=replicated(mesh))(key)
    options = compiler.options(mesh, compiler.LEAST)
    return jax.jit(create, out_shardings=replicated(mesh), compiler_options=options)(noise)


# Cached, so that `products` does not trace it a second time.
@functools.lru_cache(maxsize=1)
def jitted_step(settings: Settings, mesh: Mesh, steps_per_epoch: int) -> Any:
    """Returns the jitted training step, (state, VGG weights, batch) -> (state, losses).

    The state is donated. The random key is derived from `state.step`. With `train.accumulate` the
    batch consists of small batches (`mesh.to_global`).
    """
    accumulates = settings.train.accumulate > 1
    make = accumulation.train_step if accumulates else train_step
    step = make(settings, steps_per_epoch, mesh)
    rows = split_small(mesh) if accumulates else split(mesh)

    def step_with_key(
        state: TrainState, weights: VggWeights, batch: Batch
    ) -> tuple[TrainState, Metrics]:
        # How other platforms compute something is not traced then.
        with platform.known(mesh.devices.flat[0].platform):
            return step(state, weights, batch, rng.key(settings.train.seed, "train", state.step))

    narrow = settings.model.base_filters <= compiler.NARROW
    options = compiler.options(mesh, compiler.LESS if narrow else {})
    if mesh.devices.flat[0].platform == "cpu":
        # Otherwise XLA merges rematerialised operations with the original ones, which undoes it.
        options["xla_disable_hlo_passes"] = "cse_barrier_expander"
    return jax.jit(
        step_with_key,
        donate_argnums=0,
        in_shardings=(replicated(mesh), replicated(mesh), rows),
        # If XLA chose another sharding of the state, the next step would be compiled again.
        out_shardings=replicated(mesh),
        compiler_options=options,
    )


def compile_step(
    settings: Settings, mesh: Mesh, steps_per_epoch: int, arguments: tuple[Any, ...]
) -> Any:
    """Returns the training step, compiled for (state, VGG weights, batch) or for their shapes.

    Raises:
      UserError: it does not fit in a device's memory; the message suggests settings that fit.
    """
    return compile_to_fit(
        jitted_step(settings, mesh, steps_per_epoch),
        arguments,
        mesh,
        settings.data.image_size,
        "set config.data.image_size to {size}, or a smaller config.train.batch_size, or"
        " a higher config.train.accumulate, or config.model.rematerialise=blocks, or"
        " config.model.dtype=bfloat16",
    )


def products(
    settings: Settings, mesh: Mesh, steps_per_epoch: int, arguments: tuple[Any, ...]
) -> float | None:
    """Operations of a step's matrix products and convolutions, over all devices; None if unknown.

    Costs little after `compile_step` with the same arguments.
    """
    try:
        traced = jitted_step(settings, mesh, steps_per_epoch).trace(*arguments)
        return operations.count(traced.jaxpr, mesh.devices.flat[0].platform).products
    except operations.UnknownTripCountError:
        return None
