"""CoCosNet for JAX: exemplar-based image translation with dense correspondence."""

import os

__version__ = "0.1.0"

# On CPUs, XLA of jax 0.10 to 0.12 hands convolutions without padding to a library that takes five
# times as long over them as XLA's own (docs/performance.md). Read when JAX first finds its devices.
_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
if _FLAG not in (flags := os.environ.get("XLA_FLAGS", "")):
    os.environ["XLA_FLAGS"] = f"{flags} {_FLAG}=".strip()
