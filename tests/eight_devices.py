"""Two training steps on 8 devices and on 1: prints the largest differences (see test_train)."""

import dataclasses
import json

import jax
import numpy as np
from jax.sharding import AxisType

from cocosnet_jax import mesh, settings, train, vgg_weights
from cocosnet_jax.types import Batch

SETTINGS = settings.from_mapping(
    {
        "data": {"image_size": 64, "load_size": 64, "channels": 5, "exemplar_list": "random"},
        "model": {"base_filters": 4, "feature_norm": "batch"},
        "loss": {"mask": 100.0, "contextual": 0.0, "perceptual": 0.0},
        # The release's 1e-8 turns a gradient's last bit into a step of full size.
        "optimiser": {"discriminator_eps": 1e-3, "ema": 0.9},
        "vgg": {"weights": "random", "width": 2},
    }
)


def batch(seed):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (2, 8, 64, 64, 3), np.uint8)
    labels = rng.integers(0, 5, (2, 8, 4, 4, 1), np.uint8).repeat(16, 2).repeat(16, 3)
    itself = np.arange(8, dtype=np.float32) % 2
    return Batch(images[0], images[1], labels[0], labels[1], itself)


def run(devices):
    """Losses of two steps, the state after them, and how often the step was compiled."""
    step = train.jitted_step(SETTINGS, devices, 10)
    state = train.initial_state(SETTINGS, devices, 10)
    start = jax.device_get(state.params)
    weights = vgg_weights.load("random", 2)
    losses = []
    for number in range(2):
        state, found = step(state, weights, mesh.to_global(devices, batch(number)))
        losses.append(jax.device_get(found))
    return losses, start, jax.device_get(dataclasses.replace(state)), step._cache_size()


def main():
    many = mesh.make()
    one = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])
    losses_many, _, state_many, compiled = run(many)
    losses_one, start, state_one, _ = run(one)

    def largest(a, b):
        return max(
            float(np.max(np.abs(np.float64(x) - np.float64(y))))
            for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
        )

    relative = [
        abs(float(found[name]) / float(wanted[name]) - 1)
        for found, wanted in zip(losses_many, losses_one, strict=True)
        for name in wanted
    ]
    print(
        json.dumps(
            {
                "devices": many.size,
                "compiled": compiled,
                "loss": max(relative),
                "params": largest(state_many.params, state_one.params),
                "ema": largest(state_many.ema, state_one.ema),
                "variables": largest(state_many.variables, state_one.variables),
                "moved": largest(state_one.params, start),
            }
        )
    )


if __name__ == "__main__":
    main()
