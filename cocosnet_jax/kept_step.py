"""Keeps compiled training steps on disk, so that a restart need not trace them either.

JAX's own cache spares a restart the work of XLA. But to find a program there, JAX must trace and
lower it, which is a third of the time of a warm start (docs/performance.md, "Starting"). A step
that is kept here is found by everything that it depends on: the package's source, settings, shapes,
devices, versions and options.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import os
import pathlib
import pickle
import zlib
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any, NamedTuple

import jax
from etils import epath
from jax.experimental import serialize_executable
from jax.sharding import Mesh

from cocosnet_jax import compile_cache, files, fit, operations, partition
from cocosnet_jax.distributed import say
from cocosnet_jax.errors import StorageError
from cocosnet_jax.settings import Settings, TrainSettings

PACKAGE = pathlib.Path(__file__).parent
_CACHE_HIT = "/jax/compilation_cache/cache_hits"
# Settings of the loop around the step, on which the compiled step does not depend.
_OF_LOOP = (
    *("stop_after", "log_every", "images_every", "checkpoint_every", "keep_checkpoints", "profile"),
    *("evaluation_batch_size", "evaluate_every", "evaluate_images", "keep_best", "hang_minutes"),
)


class Kept(NamedTuple):
    """A compiled step that was kept.

    Attributes:
      arguments: the digest of the arguments that it was compiled for.
      program: the step.
      products: operations of its matrix products, or None.
    """

    arguments: str
    program: Any
    products: float | None


def read_ahead(settings: Settings, mesh: Mesh, steps_per_epoch: int) -> Future[Kept | None]:
    """Starts to read a kept step in the background, which takes seconds.

    The arguments, which `step` needs to compile one, need not be known yet.

    Returns:
      The step, which may be one for other arguments; None if none was kept, or it cannot be loaded.
    """
    file = _file(settings, mesh, steps_per_epoch)
    thread = concurrent.futures.ThreadPoolExecutor(1)
    try:
        return thread.submit(lambda: _read(file) if file else None)
    finally:
        thread.shutdown(wait=False)


def step(
    settings: Settings,
    mesh: Mesh,
    steps_per_epoch: int,
    arguments: tuple[Any, ...],
    ahead: Future[Kept | None],
) -> tuple[Any, float | None]:
    """Returns the result of `partition.compile_step`, read from disk if it was kept.

    With several processes, each compiles, because all must run the same program. A step that JAX
    found in its own cache is not kept here: on CPUs, XLA saves a loaded program without some of its
    functions.

    Args:
      settings: of the run.
      mesh: the devices.
      steps_per_epoch: determines learning rate and mask warm-up.
      arguments: state, VGG weights and a batch.
      ahead: the result of `read_ahead` for the same settings, mesh and steps per epoch.

    Returns:
      The step, and the operations of its matrix products (`partition.products`), which are None
      if the device's peak rate is not known.

    Raises:
      UserError: see `partition.compile_step`.
    """
    given = _digest(*_described(arguments))
    if (kept := ahead.result()) and kept.arguments == given:
        say("the training step is that of an earlier start: using its compiled program")
        return kept.program, kept.products
    made_from = settings, mesh, steps_per_epoch, arguments
    with _events() as events:
        compiled = partition.compile_step(*made_from)
    counted = operations.peak(mesh.devices.flat[0]) is not None
    products = partition.products(*made_from) if counted else None
    file = _file(settings, mesh, steps_per_epoch)
    if file and _CACHE_HIT not in events:
        _write(file, Kept(given, compiled, products))
    return compiled, products


@contextlib.contextmanager
def _events() -> Iterator[list[str]]:
    """Collects the names of JAX's events."""
    events: list[str] = []

    def listen(event: str, **_: str | int) -> None:
        events.append(event)

    jax.monitoring.register_event_listener(listen)
    try:
        yield events
    finally:
        jax.monitoring.unregister_event_listener(listen)


def folder() -> epath.Path | None:
    """Returns the folder of compiled programs, or None if steps are not kept."""
    name = compile_cache.folder() if jax.process_count() == 1 else ""
    return epath.Path(name) if name else None


def _file(settings: Settings, mesh: Mesh, steps_per_epoch: int) -> epath.Path | None:
    """The file of a compiled step, named by all that it depends on except its arguments.

    None if steps are not kept.
    """
    if not (kept := folder()):
        return None
    defaults = {name: getattr(TrainSettings, name) for name in _OF_LOOP}
    train = dataclasses.replace(settings.train, **defaults)
    device = mesh.devices.flat[0]
    options = {
        name: value
        for name, value in jax.config.values.items()
        if not name.startswith(("jax_compilation_cache", "jax_persistent_cache"))
    }
    key = _digest(
        _source(),
        [importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax")],
        dataclasses.replace(settings, train=train),
        steps_per_epoch,
        mesh,
        (device.device_kind, device.client.platform_version, fit.capacity(device)),
        compile_cache.cpu(),
        sorted((name, repr(value)) for name, value in options.items()),
        [os.environ.get(name) for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")],
    )
    return kept / f"step-{key}-cache"


def _described(arguments: tuple[Any, ...]) -> tuple[Any, list[tuple[Any, ...]]]:
    """What a compiled step depends on in its arguments: structure, shapes, types, shardings."""
    leaves, tree = jax.tree.flatten(arguments)
    return tree, [(leaf.shape, str(leaf.dtype), str(leaf.sharding)) for leaf in leaves]


def _digest(*values: object) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()


@functools.cache
def _source() -> str:
    """A digest of this package's source."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(PACKAGE)} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _read(file: epath.Path) -> Kept | None:
    """Reads what `_write` wrote; None if it is missing, damaged, or cannot be loaded any more."""
    try:
        content = file.read_bytes()
    # TensorFlow's errors, of a file in a bucket, are not OSErrors.
    except Exception:
        return None
    if hashlib.sha256(content[32:]).digest() != content[:32]:
        return None
    try:
        arguments, products, *program = pickle.loads(zlib.decompress(content[32:]))
        return Kept(arguments, serialize_executable.deserialize_and_load(*program), products)
    # A driver's or a library's errors can be of any kind, and must not stop every later start.
    except Exception as error:
        say(f"note: the kept step {file} cannot be loaded, and is compiled again ({error})")
        return None


def _write(file: epath.Path, kept: Kept) -> None:
    """Keeps a compiled step; if that fails, a note says why."""
    try:
        program = serialize_executable.serialize(kept.program)
        content = zlib.compress(pickle.dumps((kept.arguments, kept.products, *program)), 1)
        files.write(file, hashlib.sha256(content).digest() + content)
    except (StorageError, ValueError, RuntimeError) as error:  # Not every backend can serialise it.
        say(f"note: the compiled step is not kept for the next start ({error})")
