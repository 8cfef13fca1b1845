"""Sets up XLA for tests, whose programs run a few times: compiling them takes longest.

tests/conftest.py imports this module before JAX, which reads the environment when it is imported.
"""

import atexit
import os
import shutil
import tempfile

_OPTIONS: dict[str, bool | int] = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    # XLA's older way to generate code for fused operations takes two thirds of the time.
    "xla_cpu_use_fusion_emitters": False,
}
FLAGS = " ".join(f"--{name}={str(value).lower()}" for name, value in _OPTIONS.items())
if "COCOSNET_XLA_DEFAULT" in os.environ:  # `make parity`: numbers as users compile them
    FLAGS = ""
if FLAGS not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}".strip()

# A folder of compiled programs, which pytest's workers and the programs that they start share: they
# find it in the environment.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _compiled = tempfile.mkdtemp(prefix="compiled_")
    atexit.register(shutil.rmtree, _compiled, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"
