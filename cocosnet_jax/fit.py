"""Compiles a program and checks that it fits in memory; if not, the error suggests what does."""

import ctypes
import math
import os
import pathlib
from typing import Any

import jax
from jax.sharding import Mesh

from cocosnet_jax.errors import UserError

GIB = 2**30
CONTAINER_LIMIT = pathlib.Path("/sys/fs/cgroup/memory.max")


def compile_to_fit(
    function: Any, arguments: tuple[Any, ...], mesh: Mesh, size: int, advice: str
) -> Any:
    """Compiles a jitted function for these arguments.

    Args:
      function: a result of `jax.jit`.
      arguments: its future arguments, or their shapes.
      mesh: the devices that will run it, which this machine need not have.
      size: side of the images in pixels.
      advice: how the user can reduce memory; `{size}` in it is replaced by a size that fits.

    Returns:
      The compiled function.

    Raises:
      UserError: it needs more memory than one device has; the message states how much, and
        suggests settings that fit.
    """
    device = mesh.local_devices[0]
    limit = capacity(device)
    try:
        compiled = function.lower(*arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        smaller = advice.format(size=f"below {size}")
        first = str(error).splitlines()[0]
        raise UserError(
            f"images of {size} x {size} do not fit in the memory of one {device.device_kind}"
            f" ({first}): {smaller}"
        ) from error
    held, peak = planned(compiled)
    if limit and peak > limit:
        # Temporary memory is about proportional to the area of the images.
        fits = size * math.sqrt(max(limit - held, 0) / max(peak - held, 1))
        fits = int(fits) // 32 * 32
        smaller = f"about {fits}" if fits >= 64 else f"below {size}"
        raise UserError(
            f"images of {size} x {size} need {peak / GIB:.1f} GiB, but one"
            f" {device.device_kind} has {limit / GIB:.1f} GiB: {advice.format(size=smaller)}"
        )
    _release_freed_memory()
    return compiled


def planned(compiled: Any) -> tuple[int, int]:
    """Bytes of each device's memory that a compiled function needs, as XLA plans it.

    Returns:
      The bytes of arguments and results, and the peak, which includes temporary memory.
    """
    plan = compiled.memory_analysis()
    held = plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
    return held, held + plan.temp_size_in_bytes


def capacity(device: jax.Device) -> int:
    """Bytes of memory that a device can use, or 0 if unknown."""
    if device.platform == "cpu":
        machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        # A container may have less; the file contains `max` if there is no limit.
        limit = CONTAINER_LIMIT.read_text().strip() if CONTAINER_LIMIT.exists() else "max"
        return min(machine, int(limit)) if limit.isdecimal() else machine
    try:
        statistics = device.memory_stats() or {}
    except jax.errors.JaxRuntimeError:
        return 0  # This machine lacks the device. Its compiler knows the limit and enforces it.
    return int(statistics.get("bytes_limit", 0))


def _release_freed_memory() -> None:
    """Returns memory that the compiler freed, a GiB or more, from glibc to the system."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return  # Not glibc.
