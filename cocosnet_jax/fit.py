"""Compiles a program only where it fits in memory; otherwise the error says what would."""

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
    function: Any, arguments: tuple[Any, ...], over: Mesh, size: int, advice: str
) -> Any:
    """Compiles a jitted function for these arguments.

    Args:
      function: what `jax.jit` returned.
      arguments: what it will be called with, or its shapes.
      over: the devices that it will run on; they need not be there.
      size: side of its pictures in pixels.
      advice: what can be set to need less memory; `{size}` in it becomes a size that would fit.

    Returns:
      The compiled function, which takes such arguments.

    Raises:
      UserError: it needs more memory than one device has; the message says how much, and what
        would fit.
    """
    device = over.local_devices[0]
    limit = capacity(device)
    try:
        compiled = function.lower(*arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        smaller = advice.format(size=f"below {size}")
        first = str(error).splitlines()[0]
        raise UserError(
            f"pictures of {size} x {size} do not fit in the memory of one {device.device_kind}"
            f" ({first}): {smaller}"
        ) from error
    held, peak = planned(compiled)
    if limit and peak > limit:
        # What is not the state's grows with the area.
        fitting = size * math.sqrt(max(limit - held, 0) / max(peak - held, 1))
        fitting = int(fitting) // 32 * 32
        would = f"about {fitting}" if fitting >= 64 else f"below {size}"
        raise UserError(
            f"pictures of {size} x {size} need {peak / GIB:.1f} GiB, and one"
            f" {device.device_kind} has {limit / GIB:.1f} GiB: {advice.format(size=would)}"
        )
    _return_memory()
    return compiled


def planned(compiled: Any) -> tuple[int, int]:
    """Bytes of a device's memory that a compiled function takes.

    Returns:
      What its arguments and results hold, and that with its temporary memory: the peak.
    """
    plan = compiled.memory_analysis()
    held = plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
    return held, held + plan.temp_size_in_bytes


def capacity(device: jax.Device) -> int:
    """Bytes of memory that a device can use; 0 where it does not tell."""
    if device.platform == "cpu":
        machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        # A container may use less; `max` is what no limit is called.
        limit = CONTAINER_LIMIT.read_text().strip() if CONTAINER_LIMIT.exists() else "max"
        return min(machine, int(limit)) if limit.isdecimal() else machine
    try:
        statistics = device.memory_stats() or {}
    except jax.errors.JaxRuntimeError:
        return 0  # The device is not there: its compiler knows the limit, and refuses by itself.
    return int(statistics.get("bytes_limit", 0))


def _return_memory() -> None:
    """Gives back what the compiler has freed: a GiB or more, which glibc would keep."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return  # Another C library: nothing to do.
