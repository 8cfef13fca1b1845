"""3 x 3 convolution with four times fewer multiplications, by Winograd's minimal filtering.

F(4 x 4, 3 x 3) of Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016): a
tile of 4 x 4 outputs takes 36 multiplications per pair of channels instead of 144. Tiles of 6 x 6
inputs are transformed, multiplied by the transformed kernel as 36 matrix products over channels,
and transformed back.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Array, Float

_TILE = 4
# Where polynomials are evaluated, beside infinity. With these, results in float32 are off by less
# than half of what they are with the usual 0, 1, -1, 2 and -2.
_POINTS = np.array([0, 0.75, -0.75, 1.5, -1.5])
# Bytes of transformed tiles, of inputs and of outputs, that are held at once, unless the
# transformed kernel has more.
_HELD = 16 * 2**20


def _transforms() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matrices that transform a line: 6 inputs, 3 numbers of a kernel, and 6 products to 4 outputs.

    They are Toom and Cook's: a product of two polynomials follows from its values at the points.
    Transposed, the algorithm computes a correlation.
    """
    others = [np.delete(_POINTS, i) for i in range(len(_POINTS))]
    of_input = np.zeros((6, 6))
    of_input[:5, :5] = [np.poly(other)[::-1] for other in others]
    of_input[5] = np.poly(_POINTS)[::-1]
    scales = [np.prod(point - other) for point, other in zip(_POINTS, others, strict=True)]
    powers = np.vander(_POINTS, _TILE, increasing=True)
    of_kernel = np.vstack([powers[:, :3] / np.array(scales)[:, None], [0, 0, 1]])
    of_products = np.vstack([powers, [0, 0, 0, 1]]).T
    return of_input, of_kernel, of_products


_OF_INPUT, _OF_KERNEL, _OF_PRODUCTS = _transforms()
# Each row's factors other than 0, and their places: (4, 6). Two rows have three of them, and a 0.
_PLACES = np.argsort(_OF_INPUT == 0, 1, kind="stable")[:, :4].T
_FACTORS = np.take_along_axis(_OF_INPUT.T, _PLACES, 0)


def pays(x: Float[Array, "b height width cin"], kernel: Float[Array, "kh kw cin cout"]) -> bool:
    """Whether `convolve(x, kernel)` is possible, and faster than XLA's convolution.

    It is for float32 on one CPU, with many channels and enough positions to repay the kernel's
    transform (`python -m benchmarks.layers`). Several CPU devices stand for accelerators. x is not
    padded yet.
    """
    b, height, width, cin = x.shape
    if jax.default_backend() != "cpu" or jax.device_count() > 1 or export.is_symbolic_dim(b):
        return False
    suitable = x.dtype == jnp.float32 and kernel.shape[:2] == (3, 3)
    return suitable and min(cin, kernel.shape[3]) >= 128 and b * height * width >= 2048


def convolve(
    x: Float[Array, "b height width cin"], kernel: Float[Array, "3 3 cin cout"]
) -> Float[Array, "b h w cout"]:
    """Cross-correlation without padding; in float32, off by up to 3e-6 of the largest number."""
    b, cout, h, w = x.shape[0], kernel.shape[3], x.shape[1] - 2, x.shape[2] - 2
    down, right = -(-h // _TILE), -(-w // _TILE)
    x = jnp.pad(x, ((0, 0), (0, _TILE * down - h), (0, _TILE * right - w), (0, 0)))
    of_kernel = jnp.asarray(np.kron(_OF_KERNEL, _OF_KERNEL), x.dtype)
    of_products = jnp.asarray(np.kron(_OF_PRODUCTS, _OF_PRODUCTS), x.dtype)
    strips, count = _strips(b, down, right, kernel)

    def add(i: Array, y: Array) -> Array:
        start = _TILE * jnp.minimum(i * count, down - count)
        # Transformed in the loop, since the result is larger than the kernel: XLA might transform
        # all kernels of a network first, and hold them.
        start, now = jax.lax.optimization_barrier((start, kernel))
        transformed = _exact(of_kernel, now.reshape(9, -1)).reshape(36, -1, cout)
        tiles = _tiles(jax.lax.dynamic_slice_in_dim(x, start, _TILE * count + 2, 1))
        products = jnp.einsum("ktc,kcd->ktd", tiles, transformed)
        strip = _exact(of_products, products.reshape(36, -1))
        strip = strip.reshape(_TILE, _TILE, b, count, right, cout).transpose(2, 3, 0, 4, 1, 5)
        strip = strip.reshape(b, _TILE * count, _TILE * right, cout)
        return jax.lax.dynamic_update_slice_in_dim(y, strip, start, 1)

    # Filled with any number, since all are replaced. One from within x, not from its padding, keeps
    # XLA from making the array long before, and holding it.
    y = jnp.full((b, _TILE * down, _TILE * right, cout), x[0, h // 2, w // 2, 0])
    return jax.lax.fori_loop(0, strips, add, y)[:, :h, :w]


def _strips(b: int, down: int, right: int, kernel: Float[Array, "3 3 cin cout"]) -> tuple[int, int]:
    """Number of strips that are computed one after the other, and rows of tiles in each.

    They reduce memory, and make large maps faster. The last one overlaps the one before if they
    are no divisor of all rows.
    """
    cin, cout = kernel.shape[2:]
    number = 36 * kernel.dtype.itemsize
    held = max(_HELD, number * cin * cout)
    strips = -(-number * b * down * right * (cin + cout) // held)
    in_strip = -(-down // min(max(2, strips), down))
    return -(-down // in_strip), in_strip


def _tiles(x: Float[Array, "b height width c"]) -> Float[Array, "36 tiles c"]:
    """The transforms of all tiles of 6 x 6 pixels, which overlap by two."""
    height, width, c = x.shape[1:]
    rows = _transform_lines(x, (height - 2) // _TILE, 1)
    both = _transform_lines(rows, (width - 2) // _TILE, 3)
    return both.transpose(1, 3, 0, 2, 4, 5).reshape(36, -1, c)


def _transform_lines(x: Array, tiles: int, axis: int) -> Array:
    """Transforms the lines along an axis, which becomes two: number in the tile, and tile."""
    y: Array | float = 0.0
    for places, factors in zip(_PLACES, _FACTORS, strict=True):
        lines = jnp.take(x, _TILE * np.arange(tiles) + places[:, None], axis, mode="clip")
        y = y + lines * np.expand_dims(factors, (*range(1, x.ndim + 1 - axis),)).astype(x.dtype)
    return jnp.asarray(y)


def _exact(a: Float[Array, "m k"], b: Float[Array, "k n"]) -> Float[Array, "m n"]:
    return jnp.dot(a, b, precision=jax.lax.Precision.HIGHEST)
