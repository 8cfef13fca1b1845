"""Takes two training steps on 8 devices and on 1, and prints the results, for test_eight_devices.

    python -m tests.eight_devices [FILE [HOST:PORT,2,INDEX]]

Without arguments, one process compares 8 devices with one. It also saves the run on 8 devices, and
resumes it on one. With FILE, it keeps there what one device computes from small batches, with which
two processes of 4 devices each then compare. In float64, where rounding cannot hide a mistake: the
order of sums differs between these.
"""

import dataclasses
import functools
import json
import pickle
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh

from cocosnet_jax import compile_check, distributed, mesh, partition, settings, steps
from cocosnet_jax.checkpoint import Checkpoints
from cocosnet_jax.configs import ade20k
from cocosnet_jax.nn import (
    blocks,
    convolution,
    flash,
    flash_layout,
    initial,
    instance,
    modulation,
    streaming,
)
from cocosnet_jax.nn.modulation_kernels import Modulation
from cocosnet_jax.nn.padding import reflect_pad
from cocosnet_jax.pretrained import vgg as vgg_weights
from cocosnet_jax.types import Batch

# The paper's recipe, narrow. Batch norm, and losses in groups of 4, combine samples of several
# devices, each of which has one sample.
RECIPE = {
    "data": {"image_size": 64, "load_size": 64, "channels": 5, "exemplar_list": "random"},
    # Rematerialisation does not depend on devices, and takes long to compile.
    "model": {"base_filters": 2, "rematerialise": "nothing", "warped_mask": "direct"},
    "loss": {
        "mask": 100.0,
        "mask_schedule": "always",
        "self_warp": 10.0,
        "contextual": 0.0,
        "perceptual": 0.0,
        "pseudo_exemplar": 0.0,
    },
    "optimiser": {"ema": 0.9},
    "vgg": {"weights": "random", "width": 2},
}


def narrow(accumulate: int) -> settings.Settings:
    """The recipe with a step of this many small batches of 8."""
    config = ade20k.get_config()
    for section, fields in RECIPE.items():
        config[section].update(fields)
    config.train.batch_size, config.train.accumulate = 8 * accumulate, accumulate
    return settings.from_mapping(config.to_dict())


SETTINGS = narrow(1)


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


def jitted(devices: Mesh, accumulate: int) -> Any:
    """The training step."""
    return partition.jitted_step(narrow(accumulate), devices, 10)


def run(step: Any, devices: Mesh, accumulate: int) -> tuple[Any, Any, Any, int]:
    """Losses of two steps, the states before and after, and how often the step was compiled."""
    samples = 8 * accumulate
    state = partition.initial_state(narrow(accumulate), devices, 10)
    # This process's part of each small batch.
    processes = len({device.process_index for device in devices.devices.flat})
    own = np.arange(samples).reshape(accumulate, processes, -1)[:, jax.process_index()].ravel()
    before = jax.device_get(state)
    weights = vgg_weights.load("random", 2)
    losses = []
    for number in range(2):
        rows = jax.tree.map(lambda x: x[own], batch(number, samples, 64))
        state, found = step(state, weights, mesh.to_global(devices, rows, accumulate))
        losses.append(jax.device_get(found))
    return losses, before, jax.device_get(state), step._cache_size()


def next_step(step: Any, devices: Mesh, state: Any) -> Any:
    """The state after one more step."""
    weights = vgg_weights.load("random", 2)
    return jax.device_get(step(state, weights, mesh.to_global(devices, batch(2, 8, 64)))[0])


def resumed(state: Any, before: Mesh, after: Mesh) -> Any:
    """A state that was saved on the devices `before`, and restored on those `after`."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(epath.Path(folder), SETTINGS)
        checkpoints.save(2, jax.device_put(state, mesh.replicated(before)), force=True)
        checkpoints.wait()
        step, found = checkpoints.restore(mesh.replicated(after))
        checkpoints.close()
    assert step == 2
    return found


def rows_differ(many: Mesh, state: Any) -> tuple[float, float]:
    """The error of a 128 x 128 translation whose rows and positions are split over `many`.

    The second number is the error of the exemplar's last bits: what rounding does.
    """
    in_blocks = dataclasses.replace(SETTINGS.model, correlation="streaming")
    config = dataclasses.replace(SETTINGS, model=in_blocks)
    single = batch(0, 1, 128)
    alone = jax.jit(steps.predict_step(config, with_mask=True))
    wanted = alone(state, single)
    found = jax.jit(steps.predict_step(config, with_mask=True, mesh=many))(
        jax.device_put(state, mesh.replicated(many)), mesh.split_rows(many, single)
    )
    rounded = single._replace(exemplar=single.exemplar * (1 + 4 * np.finfo(np.float64).eps))
    return largest(found, wanted), largest(alone(state, rounded), wanted)


def share_of_padded_rows(many: Mesh) -> float:
    """The share of a padded convolution's operations that each device computes, of shared rows."""

    def flops(devices: Mesh) -> float:
        x = jax.ShapeDtypeStruct((1, 64, 64, 8), "float32", sharding=mesh.rows_of(devices, 4))
        kernel = jax.ShapeDtypeStruct((3, 3, 8, 8), "float32", sharding=mesh.replicated(devices))
        padded = jax.jit(lambda x, kernel: convolve(reflect_pad(x), kernel, 1))
        return padded.lower(x, kernel).compile().cost_analysis()["flops"]

    return flops(many) / flops(mesh.make(jax.devices()[:1]))


# Tiny grids then have several blocks.
@mock.patch.object(flash_layout, "LANES", 8)
@mock.patch.object(flash_layout, "BLOCK", 16)
def kernels(devices: Mesh | None) -> tuple[Any, list[str]]:
    """What the kernels of the correlation give for 8 samples, interpreted on these devices.

    Returns:
      Values, sums and entropies of the warp, and the gradients of the values; the collectives of
      the program.
    """

    def run(theta: jax.Array, phi: jax.Array, values: jax.Array) -> Any:
        rows, columns = (flash.Side.of_neighbourhoods(x, 3) for x in (theta, phi))
        measured = flash.measure(rows, columns, values, 0.05, mesh=devices, interpret=True)

        def warped(theta: jax.Array, phi: jax.Array, values: jax.Array) -> jax.Array:
            rows, columns = (flash.Side.of_neighbourhoods(x, 3) for x in (theta, phi))
            return flash.attend(rows, columns, values, 0.05, mesh=devices, interpret=True)

        out, pull = jax.vjp(warped, theta, phi, values)
        return measured, pull(jnp.sin(3 * out))

    draw = np.random.default_rng(0).normal
    sizes = (5, 6, 4), (7, 3, 4), (21, 3)
    arguments = [draw(size=(8, *size)).astype(np.float32) for size in sizes]
    placed = mesh.split(devices) if devices else None
    with jax.enable_x64(False):
        compiled = jax.jit(run, in_shardings=placed).lower(*arguments).compile()
        found = jax.device_get(compiled(*jax.device_put(arguments, placed)))
    return found, sorted(compile_check.collectives(compiled.as_text()))


def modulated(devices: Mesh | None) -> Any:
    """What the kernels of SPADE's modulation give for 8 samples, and all gradients.

    With a bias, and for a map that is upsampled first.
    """

    def run(x: jax.Array, half: jax.Array, bias: jax.Array, layers: tuple[Modulation]) -> Any:
        modulate = functools.partial(
            modulation.modulate, padded=(True,), samples=devices, interpret=True
        )

        def both(x: jax.Array, half: jax.Array, bias: jax.Array, layers: tuple[Modulation]) -> Any:
            return modulate(x, layers, bias=bias), modulate(half, layers)

        out, pull = jax.vjp(both, x, half, bias, layers)
        return out, pull(jax.tree.map(lambda y: jnp.sin(3 * y), out))

    draw = np.random.default_rng(0).normal
    sizes = (8, 4, 6, 3), (8, 2, 3, 3), (3,), (8, 4, 6, 6), (1, 6)
    x, half, bias, joined, own = (draw(size=size).astype(np.float32) for size in sizes)
    arguments = (x, half, bias, (Modulation(joined, own),))
    if devices:
        rows, whole = mesh.split(devices), mesh.replicated(devices)
        places = (rows, rows, whole, (Modulation(rows, whole),))
        arguments = jax.device_put(arguments, places)
    with jax.enable_x64(False):
        return jax.device_get(jax.jit(run)(*arguments))


# What training changes, apart from the optimisers.
NAMES = ("params", "variables", "ema")


def normalised(devices: Mesh | None) -> Any:
    """What the kernels of instance norm give for 8 samples, and all gradients."""

    def run(x: jax.Array, slope: jax.Array, skip: jax.Array) -> Any:
        def activate(x: jax.Array, slope: jax.Array, skip: jax.Array) -> jax.Array:
            return instance.activate(x, slope, skip, padded=True, samples=devices, interpret=True)

        out, pull = jax.vjp(activate, x, slope, skip)
        return out, pull(jnp.sin(3 * out))

    draw = np.random.default_rng(0).normal
    x, skip = (draw(size=(8, 4, 5, 3)).astype(np.float32) for _ in range(2))
    arguments = (x, np.float32(0.25), skip)
    if devices:
        rows, whole = mesh.split(devices), mesh.replicated(devices)
        arguments = jax.device_put(arguments, (rows, whole, rows))
    with jax.enable_x64(False):
        return jax.device_get(jax.jit(run)(*arguments))


def largest(a: Any, b: Any) -> float:
    """The largest difference of two trees."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    # NumPy's max, unlike Python's, propagates NaN.
    return float(np.max([np.max(np.abs(np.asarray(x) - np.asarray(y))) for x, y in pairs]))


def compare(many: tuple[Any, ...], one: tuple[Any, ...]) -> dict[str, Any]:
    """What many devices and one computed: losses of both, and how far apart the states are."""
    (losses_many, _, state_many, compiled), (losses_one, before, state_one, _) = many, one
    return {
        "compiled": compiled,
        "types": sorted({str(leaf.dtype) for leaf in jax.tree.leaves(state_many)}),
        "losses": [
            {name: [float(found[name]), float(wanted[name])] for name in wanted}
            for found, wanted in zip(losses_many, losses_one, strict=True)
        ],
        "differ": {n: largest(getattr(state_many, n), getattr(state_one, n)) for n in NAMES},
        "moved": {n: largest(getattr(before, n), getattr(state_one, n)) for n in NAMES},
    }


def by_one_device(file: Path) -> dict[str, Any]:
    """Writes what one device computes from small batches."""
    one = mesh.make(jax.devices()[:1])
    file.write_bytes(pickle.dumps(run(jitted(one, 2), one, 2)))
    return {}


def by_one_process() -> dict[str, Any]:
    """Compares 8 devices with one."""
    many, one = mesh.make(), mesh.make(jax.devices()[:1])
    step = jitted(one, 1)
    wanted = run(step, one, 1)
    found = run(jitted(many, 1), many, 1)
    after_resumed = next_step(step, one, resumed(found[2], many, one))
    after_one = next_step(step, one, jax.device_put(wanted[2], mesh.replicated(one)))
    (split, collectives), (whole, _) = kernels(many), kernels(None)
    numbered = batch(0, 16, 16)._replace(self_reference=np.arange(16))
    return {
        "devices": many.size,
        "rows_shared_by": [mesh.for_rows(coarsest).size for coarsest in (2, 4, 8, 16)],
        "rows_differ": rows_differ(mesh.make(jax.devices()[:4]), wanted[1]),
        "share_of_padded_rows": share_of_padded_rows(many),
        "kernels_differ": largest(split, whole),
        "kernels_moved": min(float(np.abs(x).max()) for x in jax.tree.leaves(whole)),
        "kernels_communicate": collectives,
        "modulated_differ": largest(modulated(many), modulated(None)),
        "normalised_differ": largest(normalised(many), normalised(None)),
        "samples": mesh.to_local(mesh.to_global(many, numbered).self_reference).tolist(),
        "compared": compare(found, wanted),
        "differ_resumed": {
            n: largest(getattr(after_resumed, n), getattr(after_one, n)) for n in NAMES
        },
    }


def by_two_processes(file: Path) -> dict[str, Any]:
    """Compares the 8 devices of two processes with what one computed, in small batches.

    Small batches are the harder case, and each more step takes a minute to compile.
    tests/test_two_processes.py has the step of one batch.
    """
    many = mesh.make()
    wanted = pickle.loads(file.read_bytes())
    return {
        "devices": many.size,
        "processes": jax.process_count(),
        "compared": compare(run(jitted(many, 2), many, 2), wanted),
    }


# Smaller draws of random numbers, for networks that are much smaller than in real runs.
@mock.patch.object(initial, "DRAW", 2**16)
# Several blocks for each device, also in non-local blocks.
@mock.patch.object(streaming, "BLOCK", 64)
@mock.patch.object(blocks, "DENSE_POSITIONS", 1024)
@mock.patch.object(convolution, "_convolve_patches", convolve)
def main() -> None:
    """Runs and prints a line of JSON."""
    file, processes = sys.argv[1:2], sys.argv[2:]
    jax.config.update("jax_enable_x64", True)
    if processes:
        distributed.join(processes[0])
    if file:
        found = (by_two_processes if processes else by_one_device)(Path(*file))
    else:
        found = by_one_process()
    distributed.say(json.dumps(found))


if __name__ == "__main__":
    main()
