"""Two training steps on 8 devices and on 1, for test_train: prints what came out of each.

In float64, where rounding cannot hide a mistake: the order of sums differs between the two.
"""

import dataclasses
import json
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from cocosnet_jax import mesh, settings, steps, train, vgg_weights
from cocosnet_jax.types import Batch

SETTINGS = settings.from_mapping(
    {
        "data": {"image_size": 64, "load_size": 64, "channels": 5, "exemplar_list": "random"},
        # Batch norm and the masks' loss look across samples, and so across devices.
        "model": {"base_filters": 4, "feature_norm": "batch"},
        "loss": {"mask": 100.0, "contextual": 0.0, "perceptual": 0.0, "pseudo_exemplar": 0.0},
        "optimiser": {"ema": 0.9},
        "vgg": {"weights": "random", "width": 2},
    }
)


def batch(seed: int) -> Batch:
    """Eight samples; images as floats, which the step takes as they are."""
    rng = np.random.default_rng(seed)
    images = rng.uniform(-1, 1, (2, 8, 64, 64, 3))
    labels = rng.integers(0, 5, (2, 8, 4, 4, 1), np.uint8).repeat(16, 2).repeat(16, 3)
    itself = np.arange(8, dtype=np.float32) % 2
    return Batch(images[0], images[1], labels[0], labels[1], itself)


def run(devices: Mesh) -> tuple[Any, Any, Any, int]:
    """Losses of two steps, the states before and after, and how often the step was compiled."""
    step = train.jitted_step(SETTINGS, devices, 10)
    state = train.initial_state(SETTINGS, devices, 10)
    before = jax.device_get(state)
    weights = vgg_weights.load("random", 2)
    losses = []
    for number in range(2):
        state, found = step(state, weights, mesh.to_global(devices, batch(number)))
        losses.append(jax.device_get(found))
    return losses, before, jax.device_get(state), step._cache_size()


def rows_differ(many: Mesh, state: Any) -> float:
    """How far a translation is off whose rows and positions eight devices share."""
    streaming = dataclasses.replace(SETTINGS.model, correlation="streaming")
    config = dataclasses.replace(SETTINGS, model=streaming)
    single = Batch(*(array[:1] for array in batch(0)))
    wanted = jax.jit(steps.predict_step(config))(state, single)
    found = jax.jit(steps.predict_step(config, over=many))(
        jax.device_put(state, mesh.replicated(many)), mesh.split_rows(many, single)
    )
    return max(
        float(np.max(np.abs(np.asarray(a) - np.asarray(b))))
        for a, b in zip(found, wanted, strict=True)
    )


def main() -> None:
    """Runs both."""
    jax.config.update("jax_enable_x64", True)
    many = mesh.make()
    one = mesh.make(jax.devices()[:1])
    losses_many, _, state_many, compiled = run(many)
    losses_one, before, state_one, _ = run(one)

    def largest(a: Any, b: Any) -> float:
        return max(
            float(np.max(np.abs(x - y)))
            for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
        )

    names = ("params", "variables", "ema")
    print(
        json.dumps(
            {
                "devices": many.size,
                "rows_differ": rows_differ(many, before),
                "compiled": compiled,
                "types": sorted({str(leaf.dtype) for leaf in jax.tree.leaves(state_many)}),
                "losses": [
                    {name: [float(found[name]), float(wanted[name])] for name in wanted}
                    for found, wanted in zip(losses_many, losses_one, strict=True)
                ],
                "differ": {
                    n: largest(getattr(state_many, n), getattr(state_one, n)) for n in names
                },
                "moved": {n: largest(getattr(before, n), getattr(state_one, n)) for n in names},
            }
        )
    )


if __name__ == "__main__":
    main()
