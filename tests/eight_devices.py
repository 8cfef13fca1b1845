"""Takes two training steps on 8 devices and on 1, and prints the results, for test_eight_devices.

The run on 8 devices is also saved, resumed on 1, and compared after its next step.

In float64, where rounding cannot hide a mistake: the order of sums differs between the two.
"""

import dataclasses
import json
import tempfile
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh

from cocosnet_jax import mesh, partition, settings, steps
from cocosnet_jax.checkpoint import Checkpoints
from cocosnet_jax.nn import blocks, conv, initial, streaming
from cocosnet_jax.pretrained import vgg as vgg_weights
from cocosnet_jax.types import Batch

SETTINGS = settings.from_mapping(
    {
        "data": {"image_size": 64, "load_size": 64, "channels": 5, "exemplar_list": "random"},
        # Batch norm, and losses in groups of 4, combine samples of several devices, each of which
        # has one sample. Rematerialisation does not depend on devices, and takes long to compile.
        "model": {"base_filters": 2, "feature_norm": "batch", "rematerialise": "nothing"},
        "loss": {
            "mask": 100.0,
            "self_warp": 10.0,
            "contextual": 0.0,
            "perceptual": 0.0,
            "pseudo_exemplar": 0.0,
        },
        "optimiser": {"ema": 0.9},
        "vgg": {"weights": "random", "width": 2},
    }
)


def convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """The convolution that float32 uses, which is the one that XLA splits in real runs.

    Float64's patches take XLA twice as long to compile.
    """
    dimensions = ("NHWC", "HWIO", "NHWC")
    strides = (stride, stride)
    return jax.lax.conv_general_dilated(x, kernel, strides, "VALID", dimension_numbers=dimensions)


def batch(seed: int, samples: int, size: int) -> Batch:
    """Float images, which the step uses unchanged, and labels in squares of 16 pixels."""
    rng = np.random.default_rng(seed)
    images = rng.uniform(-1, 1, (2, samples, size, size, 3))
    squares = rng.integers(0, 5, (2, samples, size // 16, size // 16, 1), np.uint8)
    labels = squares.repeat(16, 2).repeat(16, 3)
    itself = np.arange(samples, dtype=np.float32) % 2
    return Batch(images[0], images[1], labels[0], labels[1], itself)


def run(devices: Mesh) -> tuple[Any, Any, Any, Any]:
    """Losses of two steps, the states before and after (this on the devices), and the step."""
    step = partition.jitted_step(SETTINGS, devices, 10)
    state = partition.initial_state(SETTINGS, devices, 10)
    before = jax.device_get(state)
    weights = vgg_weights.load("random", 2)
    losses = []
    for number in range(2):
        state, found = step(state, weights, mesh.to_global(devices, batch(number, 8, 64)))
        losses.append(jax.device_get(found))
    return losses, before, state, step


def next_step(step: Any, devices: Mesh, state: Any) -> Any:
    """The state after one more step."""
    weights = vgg_weights.load("random", 2)
    return jax.device_get(step(state, weights, mesh.to_global(devices, batch(2, 8, 64)))[0])


def resumed(state: Any, devices: Mesh) -> Any:
    """A state that was saved where it is, and restored on other devices."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(epath.Path(folder), SETTINGS)
        checkpoints.save(2, state, force=True)
        checkpoints.wait()
        step, found = checkpoints.restore(mesh.replicated(devices))
        checkpoints.close()
    assert step == 2
    return found


def rows_differ(many: Mesh, state: Any) -> float:
    """The error of a 128 x 128 translation whose rows and positions are split over `many`."""
    in_blocks = dataclasses.replace(SETTINGS.model, correlation="streaming")
    config = dataclasses.replace(SETTINGS, model=in_blocks)
    single = batch(0, 1, 128)
    wanted = jax.jit(steps.predict_step(config, with_mask=True))(state, single)
    found = jax.jit(steps.predict_step(config, with_mask=True, mesh=many))(
        jax.device_put(state, mesh.replicated(many)), mesh.split_rows(many, single)
    )
    errors = jax.tree.map(lambda a, b: np.max(np.abs(np.asarray(a) - np.asarray(b))), found, wanted)
    return float(np.max(jax.tree.leaves(errors)))


# Smaller draws of random numbers, for networks that are much smaller than in real runs.
@mock.patch.object(initial, "DRAW", 2**16)
# Several blocks for each device, also in non-local blocks.
@mock.patch.object(streaming, "BLOCK", 64)
@mock.patch.object(blocks, "DENSE_POSITIONS", 1024)
@mock.patch.object(conv, "_convolve_patches", convolve)
def main() -> None:
    """Runs both and prints a line of JSON."""
    jax.config.update("jax_enable_x64", True)
    many = mesh.make()
    one = mesh.make(jax.devices()[:1])
    losses_many, _, state_many, step_many = run(many)
    losses_one, before, state_one, step_one = run(one)
    after_resumed = next_step(step_one, one, resumed(state_many, one))
    after_one = next_step(step_one, one, jax.tree.map(jnp.copy, state_one))

    def largest(a: Any, b: Any) -> float:
        pairs = zip(*map(jax.tree.leaves, jax.device_get((a, b))), strict=True)
        # NumPy's max, unlike Python's, propagates NaN.
        return float(np.max([np.max(np.abs(x - y)) for x, y in pairs]))

    names = ("params", "variables", "ema")
    numbered = batch(0, 16, 16)._replace(self_reference=np.arange(16))
    print(
        json.dumps(
            {
                "devices": many.size,
                "rows_shared_by": [mesh.for_rows(coarsest).size for coarsest in (2, 4, 8, 16)],
                "rows_differ": rows_differ(mesh.make(jax.devices()[:4]), before),
                "samples": mesh.to_local(mesh.to_global(many, numbered).self_reference).tolist(),
                "compiled": step_many._cache_size(),
                "types": sorted({str(leaf.dtype) for leaf in jax.tree.leaves(state_many)}),
                "losses": [
                    {name: [float(found[name]), float(wanted[name])] for name in wanted}
                    for found, wanted in zip(losses_many, losses_one, strict=True)
                ],
                "differ": {
                    n: largest(getattr(state_many, n), getattr(state_one, n)) for n in names
                },
                "differ_resumed": {
                    n: largest(getattr(after_resumed, n), getattr(after_one, n)) for n in names
                },
                "moved": {n: largest(getattr(before, n), getattr(state_one, n)) for n in names},
            }
        )
    )


if __name__ == "__main__":
    main()
