"""Options of XLA's compiler on CPUs, where a program may take longer to compile than to run."""

import os
from collections.abc import Mapping

from jax.sharding import Mesh

# Compiles in less time. Predictions run about as fast as at XLA's own level, as do training steps
# of networks whose `base_filters` are at most NARROW. At full width, a label map's convolution and
# its gradient take several times as long.
LESS: Mapping[str, bool | int] = {"xla_backend_optimization_level": 1}
NARROW = 16
# For a program that runs once: it compiles fastest, and runs slower.
LEAST: Mapping[str, bool | int] = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
}


def options(mesh: Mesh, wanted: Mapping[str, bool | int]) -> dict[str, bool | int | str]:
    """Returns those of the `wanted` options that apply, for `jax.jit(compiler_options=...)`.

    None apply on accelerators. What the user has set in XLA_FLAGS stays.
    """
    if mesh.devices.flat[0].platform != "cpu":
        return {}
    flags = os.environ.get("XLA_FLAGS", "")
    return {name: value for name, value in wanted.items() if name not in flags}
