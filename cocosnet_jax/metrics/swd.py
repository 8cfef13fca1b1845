"""Sliced Wasserstein distance of two sets of pictures, as progressive GANs introduced it.

The protocol (SPEC section 11): a Laplacian pyramid of each picture down to 16 x 16; per level 128
random patches of 7 x 7 x 3 of each picture, each channel of all patches of a set normalised to mean
0 and deviation 1; 4 x 128 random directions; the mean absolute difference of the sorted
projections, times 1000. Both sets have the same number of pictures. The papers' number is the
average over levels.

The estimate is random: a seed decides patches and directions. The distance of two halves of one set
is not 0 but a noise floor that falls with the number of pictures, so a distance must be reported
together with that number.
"""

import concurrent.futures
import os
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

SEED = 0
SMALLEST = 16
PATCHES = 128
SIDE = 7
DIRECTIONS = 4 * 128
# Projections that are sorted at once, 128 MiB for each set.
_AT_ONCE = 2**25
_BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)

_Pictures = Float[Array, "b _ _ c"]


def levels(side: int) -> tuple[int, ...]:
    """Sides of the pyramid's levels, the picture's own first.

    Raises:
      ValueError: the side is not 16 times a power of two.
    """
    if side < SMALLEST or side & (side - 1):
        raise ValueError(f"SWD needs pictures whose side is a power of two from 16 on, not {side}")
    found = [side]
    while found[-1] > SMALLEST:
        found.append(found[-1] // 2)
    return tuple(found)


def positions(side: int, indices: Sequence[int], seed: int, of: str) -> Int[np.ndarray, "b l p 2"]:
    """Upper left corners of each picture's patches, (pictures, levels, 128, (row, column)).

    They depend on the picture's place in its set and on nothing else, so that any number of hosts
    draws the same. Centres are drawn from [3, size - 3), where all of a patch is in the picture.

    Args:
      side: of the pictures.
      indices: the pictures' places in the set.
      seed: of the estimate.
      of: names the set, so that both sets draw independently.
    """
    drawn = [
        [
            np.random.default_rng([seed, *of.encode(), index, level]).integers(
                0, level - SIDE + 1, (PATCHES, 2)
            )
            for level in levels(side)
        ]
        for index in indices
    ]
    return np.array(drawn, np.int32)


def descriptors(
    image: Shaped[Array, "b height width 3"], corners: Int[Array, "b l p 2"]
) -> Float[Array, "b l p numbers"]:
    """Patches of a batch's pyramids, (b, levels, 128, 7 * 7 * 3); pure.

    Args:
      image: square pictures of any range.
      corners: by `positions`.
    """

    def patch(level: Float[Array, "height width 3"], corner: Int[Array, "2"]) -> Array:
        return jax.lax.dynamic_slice(level, (*corner, jnp.int32(0)), (SIDE, SIDE, 3)).reshape(-1)

    of_level = jax.vmap(jax.vmap(patch, (None, 0)))
    pyramid = laplacian_pyramid(jnp.asarray(image, jnp.float32))
    found = [of_level(level, corners[:, place]) for place, level in enumerate(pyramid)]
    return jnp.stack(found, 1)


def laplacian_pyramid(image: _Pictures) -> list[_Pictures]:
    """What each level adds to the next smaller one, and the smallest level itself."""
    pyramid = [image]
    for _ in levels(image.shape[1])[1:]:
        larger = pyramid[-1]
        smaller = _blur(larger)[:, ::2, ::2]
        pyramid[-1] = larger - _blown_up(smaller)
        pyramid.append(smaller)
    return pyramid


def _blur(image: _Pictures) -> _Pictures:
    """The 5 x 5 binomial filter; borders are mirrored, without repeating the outermost pixel."""
    for axis in (1, 2):
        size = image.shape[axis]
        padding = [(0, 0)] * 4
        padding[axis] = (2, 2)
        wide = jnp.pad(image, padding, mode="reflect")
        image = sum(
            (
                weight * jax.lax.slice_in_dim(wide, i, i + size, axis=axis)
                for i, weight in enumerate(_BINOMIAL)
            ),
            jnp.zeros_like(image),
        )
    return image


def _blown_up(image: _Pictures) -> _Pictures:
    """Twice the size: zeros between the pixels, then the same filter, times 4."""
    b, h, w, c = image.shape
    wide = jnp.zeros((b, 2 * h, 2 * w, c), image.dtype).at[:, ::2, ::2].set(image)
    return 4 * _blur(wide)


def distance(
    a: Float[np.ndarray, "n p numbers"],
    b: Float[np.ndarray, "m p numbers"],
    seed: int = SEED,
    gather: Callable[[np.ndarray], np.ndarray] = np.asarray,
    on_done: Callable[[int], object] = lambda count: None,
) -> float:
    """The distance of one level, times 1000.

    Args:
      a: patches of one set; both may be memory-mapped.
      b: patches of as many pictures of the other set.
      seed: of the directions.
      gather: where several hosts hold parts of the sets, (rows, ...) of this host -> those of all.
      on_done: called with the number of further directions that are done, `DIRECTIONS` in all.

    Raises:
      ValueError: the sets have different numbers of pictures.
    """
    if a.shape != b.shape:
        raise ValueError(f"SWD compares equal numbers of pictures, not {len(a)} and {len(b)}")
    drawn = np.random.default_rng(seed).standard_normal((DIRECTIONS, a.shape[-1]))
    directions = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    spreads = [_spread(x, gather) for x in (a, b)]
    # The rows of all hosts, so that all hosts take the same number of steps.
    rows = int(gather(np.array([[len(a)]])).sum()) * a.shape[1]
    at_once = min(DIRECTIONS, max(1, _AT_ONCE // rows))
    total = 0.0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, DIRECTIONS, at_once):
            chosen = directions[start : start + at_once]
            first, second = (
                gather(_projections(x, chosen, *spread)).T.copy()
                for x, spread in zip((a, b), spreads, strict=True)
            )
            parts = [part for x in (first, second) for part in np.array_split(x, 8)]
            list(pool.map(np.ndarray.sort, parts))
            total += np.abs(first - second).sum(dtype=np.float64)
            on_done(len(chosen))
    return float(1000 * total / (DIRECTIONS * rows))


def _spread(
    x: np.ndarray, gather: Callable[[np.ndarray], np.ndarray]
) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
    """Mean and deviation of each channel over all of a set's patches."""
    total, squares = np.zeros(3), np.zeros(3)
    for picture in x:
        pixels = np.asarray(picture, np.float64).reshape(-1, 3)
        total += pixels.sum(0)
        squares += (pixels**2).sum(0)
    total, squares, count = gather(np.array([[total, squares, np.full(3, x.size / 3)]])).sum(0)
    mean = total / count
    # Flat pictures have no deviation, and no difference either.
    return mean, np.sqrt(np.maximum(squares / count - mean**2, 1e-12))


def _projections(
    x: np.ndarray,
    directions: Float[np.ndarray, "directions numbers"],
    mean: Float[np.ndarray, "3"],
    deviation: Float[np.ndarray, "3"],
) -> Float[np.ndarray, "np directions"]:
    """Projections of the normalised patches; it is the directions that are changed for it."""
    scaled = directions / np.tile(deviation, SIDE * SIDE)
    offset = scaled @ np.tile(mean, SIDE * SIDE)
    out = np.empty((x.shape[0] * x.shape[1], len(directions)), np.float32)
    at_once = max(1, 8192 // x.shape[1])
    for start in range(0, len(x), at_once):
        rows = np.asarray(x[start : start + at_once], np.float32).reshape(-1, x.shape[-1])
        place = start * x.shape[1]
        out[place : place + len(rows)] = rows @ scaled.T.astype(np.float32) - offset
    return out
