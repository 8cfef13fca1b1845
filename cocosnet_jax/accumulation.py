"""One training step from several small batches: gradient accumulation.

The step needs the memory of one small batch, and equals a step on the whole batch:

- Losses and gradients are means over the small batches. Terms per group (SPEC section 6) come out
  exactly, even if a group is split among small batches: the divisors of a group depend on the data
  alone, and are computed first.
- Parameters and spectral vectors are the same for every small batch, so the power iteration of
  spectral norm happens once per step. Noise depends on the sample.
- Optimisers and the moving average take one step.

Batch norm is the exception. It normalises a small batch by the statistics of that small batch (of
all devices), and each small batch moves the running statistics, as in PyTorch.

Every device takes its part of every small batch, so no image moves between devices. Gradients are
summed over the devices once per small batch, not once per step.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import PyTree

from cocosnet_jax import losses, vgg
from cocosnet_jax.encode import encode
from cocosnet_jax.settings import Settings
from cocosnet_jax.state import TrainState
from cocosnet_jax.steps import Metrics, TrainStep, apply_gradients, gives_mask, gradients
from cocosnet_jax.types import Batch


def shares_of(settings: Settings, batch: Batch) -> losses.Shares:
    """The shares of all samples in their groups, as (small batches, b)."""

    def of_small(small: Batch) -> tuple[Any, Any]:
        inputs = encode(small, settings.data)
        return inputs.self_reference, losses.mask_counts(settings, inputs)

    self_reference, counts = jax.vmap(of_small)(batch)
    shape, r = self_reference.shape, settings.loss.group_size
    q = losses.self_reference_weights(self_reference.reshape(-1), r)
    if counts is None:
        return losses.Shares(q.reshape(shape))
    of_mask = losses.mask_shares(counts.reshape(-1), r, counts.dtype)
    return losses.Shares(q.reshape(shape), of_mask.reshape(shape))


def train_step(settings: Settings, steps_per_epoch: int, devices: Mesh | None = None) -> TrainStep:
    """Returns the training step of `train.accumulate` small batches.

    Args:
      settings: of the run.
      steps_per_epoch: determines learning rate and mask warm-up, which depend on the epoch.
      devices: those that split each small batch, or None.

    Returns:
      (state, VGG weights, batch, key) -> (state, weighted losses of the whole batch). The arrays of
      the batch are (small batches, b, ...), in the order of the samples.
    """
    count = settings.train.accumulate

    def step(
        state: TrainState, vgg_weights: vgg.VggWeights, batch: Batch, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        give_mask = gives_mask(settings, state.step, steps_per_epoch)

        def add(carried: tuple[PyTree, PyTree], small: Any) -> tuple[tuple[PyTree, PyTree], Any]:
            (variables, sums), (number, rows, shares) = carried, small
            # Batch statistics have moved on; spectral vectors start where the step started.
            current = {
                player: {
                    name: variables[player][name] if name == "batch_stats" else values
                    for name, values in collections.items()
                }
                for player, collections in state.variables.items()
            }
            grads, variables, metrics, _ = gradients(
                settings,
                dataclasses.replace(state, variables=current),
                vgg_weights,
                encode(rows, settings.data),
                key,
                give_mask,
                shares,
                number * len(rows.image),
                devices,
            )
            return (variables, jax.tree.map(jnp.add, sums, grads)), metrics

        zeros = jax.tree.map(jnp.zeros_like, state.params)
        parts = jnp.arange(count), batch, shares_of(settings, batch)
        (variables, sums), metrics = jax.lax.scan(add, (state.variables, zeros), parts)
        grads = jax.tree.map(lambda x: x / count, sums)
        new_state = apply_gradients(settings, state, grads, variables, steps_per_epoch)
        return new_state, jax.tree.map(lambda x: x.mean(0), metrics)

    return step
