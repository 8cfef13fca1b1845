"""3 x 3 convolution with 2.25 times fewer multiplications, by Winograd's minimal filtering.

F(2 x 2, 3 x 3) of Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016): a
tile of 2 x 2 outputs takes 16 multiplications per pair of channels instead of 36. Tiles of 4 x 4
inputs are transformed, multiplied by the transformed kernel as 16 matrix products over channels,
and transformed back. The coefficients are 0, 1, -1 and 1/2, so float32 results are about as exact
as those of the direct sum.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Array, Float

# The transform of a tile's four rows, or columns: number i adds two of them, each times a sign.
_PLACES = np.array([[0, 1, 1, 1], [2, 2, 2, 3]])
_SIGNS = np.array([[1, 1, -1, 1], [-1, 1, 1, -1]])
# The kernel's, for rows and columns together: (16, 9).
_OF_LINE = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
_OF_KERNEL = np.kron(_OF_LINE, _OF_LINE)
# Bytes of transformed tiles, of inputs and of outputs, that are held at once.
_HELD = 32 * 2**20


def pays(x: Float[Array, "b height width cin"], kernel: Float[Array, "kh kw cin cout"]) -> bool:
    """Whether `convolve(x, kernel)` is possible, and faster than XLA's convolution.

    It is for float32 on one CPU, with many channels and enough positions to repay the kernel's
    transform (`python -m benchmarks.layers`). Several CPU devices stand for accelerators. x is not
    padded yet.
    """
    b, height, width, cin = x.shape
    if jax.default_backend() != "cpu" or jax.device_count() > 1 or export.is_symbolic_dim(b):
        return False
    even = height % 2 == width % 2 == 0
    suitable = x.dtype == jnp.float32 and kernel.shape[:2] == (3, 3) and even
    return suitable and min(cin, kernel.shape[3]) >= 128 and b * height * width >= 1024


def convolve(
    x: Float[Array, "b height width cin"], kernel: Float[Array, "3 3 cin cout"]
) -> Float[Array, "b h w cout"]:
    """Cross-correlation without padding; height and width must be even.

    XLA convolves where the program is compiled for another platform than CPUs.
    """
    return jax.lax.platform_dependent(x, kernel, cpu=_by_tiles, default=_plainly)


def _plainly(x: Array, kernel: Array) -> Float[Array, "b h w cout"]:
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _by_tiles(x: Array, kernel: Array) -> Float[Array, "b h w cout"]:
    b, h, w, cout = x.shape[0], x.shape[1] - 2, x.shape[2] - 2, kernel.shape[3]
    of_kernel = jnp.asarray(_OF_KERNEL, x.dtype)
    strips, count = _strips(x, cout)

    def add(i: Array, y: Array) -> Array:
        start = jnp.minimum(i * count, h - count)
        # Transformed in the loop, since the result is larger than the kernel: XLA might transform
        # all kernels of a network first, and hold them.
        start, now = jax.lax.optimization_barrier((start, kernel))
        transformed = _exact(of_kernel, now.reshape(9, -1)).reshape(16, -1, cout)
        tiles = _tiles(jax.lax.dynamic_slice_in_dim(x, start, count + 2, 1))
        products = jnp.einsum("ktc,kcd->ktd", tiles, transformed)
        p = products.reshape(4, 4, b, count // 2, w // 2, cout)
        pairs = [
            jnp.stack([q[0] + q[1] + q[2], q[1] - q[2] - q[3]], 3)
            for q in (p[0] + p[1] + p[2], p[1] - p[2] - p[3])
        ]
        strip = jnp.stack(pairs, 2).reshape(b, count, w, cout)
        return jax.lax.dynamic_update_slice_in_dim(y, strip, start, 1)

    return jax.lax.fori_loop(0, strips, add, jnp.zeros((b, h, w, cout), x.dtype))


def _strips(x: Float[Array, "b height width cin"], cout: int) -> tuple[int, int]:
    """Number of strips that are computed one after the other, and rows of each, an even number.

    They reduce memory, and make large maps faster. The last one overlaps the one before if they
    are no divisor of all rows.
    """
    b, height, width, cin = x.shape
    pairs = (height - 2) // 2
    strips = max(2, -(-4 * b * height * width * (cin + cout) * x.dtype.itemsize // _HELD))
    in_strip = -(-pairs // min(strips, pairs))
    return -(-pairs // in_strip), 2 * in_strip


def _tiles(x: Float[Array, "b height width c"]) -> Float[Array, "16 tiles c"]:
    """The transforms of all tiles of 4 x 4 pixels, which overlap by two."""
    height, width, c = x.shape[1:]
    h, w = (height - 2) // 2, (width - 2) // 2
    tiles: Array | float = 0.0
    for down, row_signs in zip(_PLACES, _SIGNS, strict=True):
        for right, column_signs in zip(_PLACES, _SIGNS, strict=True):
            rows = (2 * np.arange(h) + down[:, None])[:, None, :, None]
            columns = (2 * np.arange(w) + right[:, None])[:, None, :]
            signs = np.outer(row_signs, column_signs)[:, :, None, None, None]
            # One gather: XLA would compile each of 16 slices.
            tiles = tiles + x[:, rows, columns] * signs.astype(x.dtype)
    return jnp.asarray(tiles).transpose(1, 2, 0, 3, 4, 5).reshape(16, -1, c)


def _exact(a: Float[Array, "m k"], b: Float[Array, "k n"]) -> Float[Array, "m n"]:
    return jnp.dot(a, b, precision=jax.lax.Precision.HIGHEST)
