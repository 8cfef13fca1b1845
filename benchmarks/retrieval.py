"""Time and memory of the exact search of `cocosnet_jax.search`, on random features.

    python -m benchmarks.retrieval --images=60000 --width=512 --k=10

Features are written to a file and mapped into memory, as in retrieval. A hundred queries are
checked against NumPy in float64. Memory is the process's own, JAX included (Linux's RssAnon,
sampled during the search); it excludes pages of the mapped file, which the system can reclaim.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from benchmarks.memory import Memory
from cocosnet_jax import search
from cocosnet_jax.features import Rows


def main() -> None:
    """Measures one search, compilation included."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=60_000, help="queries, and candidates")
    parser.add_argument("--width", type=int, default=512, help="numbers per feature")
    parser.add_argument("--k", type=int, default=10, help="exemplars per image")
    arguments = parser.parse_args()
    count, width, k = arguments.images, arguments.width, arguments.k
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        rows = Rows(Path(folder) / "features", count)
        for start in range(0, count, 1000):
            block = rng.standard_normal((min(1000, count - start), width), np.float32)
            rows.append(block / np.linalg.norm(block, axis=1, keepdims=True))
        features = rows.array()
        own = np.arange(count, dtype=np.int32)
        jax.devices()
        with Memory() as memory:
            began = time.perf_counter()
            found = search.nearest(features, features, k, own, progress=True)
            seconds = time.perf_counter() - began

        asked = rng.choice(count, min(100, count), replace=False)
        exact = features[asked].astype(np.float64) @ np.asarray(features, np.float64).T
        exact[np.arange(len(asked)), asked] = -np.inf
        best = -np.sort(-exact, axis=1)[:, :k]
        error = np.abs(found.similarities[asked] - best).max()
        assert error < 1e-5, error
    speed = 2e-9 * count * count * width / seconds
    print(f"{count} x {count}, width {width}, k {k}: {seconds:.1f} s ({speed:.0f} GFLOP/s)")
    print(f"memory: {memory.peak:.0f} MiB at most, {memory.before:.0f} before the search")
    print(f"worst error of a cosine: {error:.1e}")
    print(f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
