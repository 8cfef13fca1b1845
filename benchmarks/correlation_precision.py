"""Which precision the correspondence needs: errors of logits, softmax and warp against float64.

    python -m benchmarks.correlation_precision [--positions=4096] [--width=2304]

Features are unit vectors around shared directions, like those of the network: a position has a
cosine near 0.9 with its true partner, and near 0.8 with others of its class. The first rows round
the inputs as bfloat16 and TF32 units do, or split them into two parts of bfloat16 as the kernels'
`bf16x3` does; the others use this machine at each precision.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np


def unit(x: np.ndarray) -> np.ndarray:
    """Centres vectors of the last axis and scales them to length 1."""
    x = x - x.mean(-1, keepdims=True)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def features(positions: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of input and exemplar, (n, k) each; equal indices are true partners."""
    rng = np.random.default_rng(0)
    classes = rng.normal(size=(12, width))[rng.integers(0, 12, positions)]
    place = classes + 0.35 * rng.normal(size=(positions, width))
    return tuple(unit(place + 0.3 * rng.normal(size=place.shape)) for _ in "xy")  # type: ignore[return-value]


def rounded(x: np.ndarray, bits: int) -> np.ndarray:
    """Rounds float32 to nearest with this number of mantissa bits."""
    scale = np.uint32(1 << (23 - bits))
    raw = np.asarray(x, np.float32).view(np.uint32)
    return ((raw + scale // 2) & ~(scale - np.uint32(1))).view(np.float32)


def parts(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rounds float32 to bfloat16, and rounds what that leaves to bfloat16."""
    high = rounded(x, 7)
    return high, rounded(np.asarray(x, np.float32) - high, 7)


def softmax(x: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--positions", type=int, default=4096)
    parser.add_argument("--width", type=int, default=2304)
    arguments = parser.parse_args()
    theta, phi = features(arguments.positions, arguments.width)
    colours = np.random.default_rng(1).uniform(-1, 1, (arguments.positions, 3))
    exact = theta @ phi.T / 0.01
    weights = softmax(exact)
    warped = weights @ colours
    device = jax.devices()[0].device_kind
    print(f"{device}, {arguments.positions} positions, {arguments.width} numbers; worst errors")
    print("| product | logit | softmax weight | warped colour |\n|---|---|---|---|")

    def row(name: str, logits: np.ndarray) -> None:
        got = softmax(np.asarray(logits, np.float64))
        errors = (logits - exact, got - weights, got @ colours - warped)
        print(f"| {name} | " + " | ".join(f"{np.abs(e).max():.1e}" for e in errors) + " |")

    for name, bits in (("inputs rounded to bfloat16", 7), ("inputs rounded to TF32", 10)):
        row(name, rounded(theta, bits) @ rounded(phi, bits).T / np.float32(0.01))
    (theta_high, theta_low), (phi_high, phi_low) = map(parts, (theta, phi))
    split = theta_low @ phi_high.T + theta_high @ phi_low.T + theta_high @ phi_high.T
    row("two parts of bfloat16, three products", split / np.float32(0.01))
    for precision in ("default", "high", "highest"):
        product = jnp.einsum("nk,mk->nm", jnp.float32(theta), jnp.float32(phi), precision=precision)
        row(f"float32 here, precision={precision}", np.asarray(product / 0.01))


if __name__ == "__main__":
    main()
