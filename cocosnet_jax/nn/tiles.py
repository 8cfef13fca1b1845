"""Tiles of a grid of positions, and sums of products over the neighbours of two positions.

A tile's positions form a line, row by row. Each row ends with the padding that neighbourhoods reach
into, so that a neighbour has the same offset in the line from every position. Tiles are cut out of
the grid one at a time: the grid itself is never padded or copied.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class Tile(NamedTuple):
    """How a grid is cut into tiles of equal size.

    Attributes:
      width: of the grid.
      side: of the neighbourhoods.
      high, wide: rows and columns of a tile, divisors of the grid's.
    """

    width: int
    side: int
    high: int
    wide: int

    @classmethod
    def about(cls, near: int, height: int, width: int, side: int) -> "Tile":
        """Tiles of about `near` positions with few neighbours beyond their edges."""

        def cost(tile: "Tile") -> float:
            positions = tile.high * tile.wide
            size = max(positions / near, near / positions)
            return size * tile.around / positions * tile.stride / tile.wide

        tiles = (
            cls(width, side, high, wide) for high in divisors(height) for wide in divisors(width)
        )
        return min(tiles, key=cost)

    @property
    def reach(self) -> int:
        """Positions between the centre and the edge of a neighbourhood."""
        return self.side // 2

    @property
    def stride(self) -> int:
        """From a position to the one below, in a line."""
        return self.wide + 2 * self.reach

    @property
    def around(self) -> int:
        """Length of the line of a tile and its neighbours."""
        return (self.high + 2 * self.reach) * self.stride

    @property
    def length(self) -> int:
        """Length of the line of a tile alone."""
        return self.high * self.stride - 2 * self.reach

    def in_padding(self) -> np.ndarray:
        """Which places of a tile's line are padding."""
        return np.arange(self.length) % self.stride >= self.wide

    def corner(self, index: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Row and column of a tile's first position."""
        row, column = jnp.divmod(index, self.width // self.wide)
        return row * self.high, column * self.wide

    def take(
        self, x: Float[Array, "b h w k"], index: jax.Array, padding: float = 0
    ) -> Float[Array, "b length k"]:
        """The line of one tile."""
        b, _, _, k = x.shape
        row, column = self.corner(index)
        tile = jax.lax.dynamic_slice(x, (0, row, column, 0), (b, self.high, self.wide, k))
        between = ((0, 0), (0, 0), (0, 2 * self.reach), (0, 0))
        tile = jnp.pad(tile, between, constant_values=padding)
        return tile.reshape(b, -1, k)[:, : self.length]

    def _in_grid(self, line: Float[Array, "b length k"]) -> Float[Array, "b high wide k"]:
        b, _, k = line.shape
        line = jnp.pad(line, ((0, 0), (0, 2 * self.reach), (0, 0)))
        return line.reshape(b, self.high, self.stride, k)[:, :, : self.wide]

    def put(
        self, x: Float[Array, "b h w k"], line: Float[Array, "b length k"], index: jax.Array
    ) -> Float[Array, "b h w k"]:
        """Replaces one tile."""
        return jax.lax.dynamic_update_slice(x, self._in_grid(line), (0, *self.corner(index), 0))

    def add(
        self, x: Float[Array, "b h w k"], line: Float[Array, "b length k"], index: jax.Array
    ) -> Float[Array, "b h w k"]:
        """Adds to one tile."""
        start = (0, *self.corner(index), 0)
        tile = self._in_grid(line)
        return jax.lax.dynamic_update_slice(
            x, jax.lax.dynamic_slice(x, start, tile.shape) + tile, start
        )

    def _near(
        self, index: jax.Array, height: int
    ) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...], tuple[int, int]]:
        """Where a tile and its neighbours are.

        Returns:
          First row and column of a part of the grid, as large as a tile and its neighbours or as
          the grid; first row and column of the tile's neighbours in that part, when it is padded by
          the reach on all sides; rows and columns of the part.
        """
        reach = self.reach
        size = min(self.high + 2 * reach, height), min(self.stride, self.width)
        starts, offsets = [], []
        for own, part, whole in zip(self.corner(index), size, (height, self.width), strict=True):
            start = jnp.clip(own - reach, 0, whole - part)
            starts.append(start)
            offsets.append(own - start)
        return tuple(starts), tuple(offsets), size

    def take_around(
        self, x: Float[Array, "b h w k"], index: jax.Array
    ) -> Float[Array, "b around k"]:
        """The line of one tile and its neighbours, zero beyond the grid."""
        b, height, _, k = x.shape
        starts, offsets, size = self._near(index, height)
        part = jax.lax.dynamic_slice(x, (0, *starts, 0), (b, *size, k))
        edge = (self.reach, self.reach)
        part = jnp.pad(part, ((0, 0), edge, edge, (0, 0)))
        shape = (b, self.high + 2 * self.reach, self.stride, k)
        return jax.lax.dynamic_slice(part, (0, *offsets, 0), shape).reshape(b, -1, k)

    def add_around(
        self, x: Float[Array, "b h w k"], line: Float[Array, "b around k"], index: jax.Array
    ) -> Float[Array, "b h w k"]:
        """Adds to one tile and its neighbours; drops what lies beyond the grid."""
        b, height, _, k = x.shape
        reach = self.reach
        starts, offsets, (high, wide) = self._near(index, height)
        part = jnp.zeros((b, high + 2 * reach, wide + 2 * reach, k), line.dtype)
        line = line.reshape(b, self.high + 2 * reach, self.stride, k)
        part = jax.lax.dynamic_update_slice(part, line, (0, *offsets, 0))
        part = part[:, reach : reach + high, reach : reach + wide]
        start: tuple[jax.Array | int, ...] = (0, *starts, 0)
        return jax.lax.dynamic_update_slice(
            x, jax.lax.dynamic_slice(x, start, part.shape) + part, start
        )


def divisors(number: int) -> list[int]:
    """All divisors, from 1 on."""
    low = [size for size in range(1, math.isqrt(number) + 1) if number % size == 0]
    return low + [number // size for size in reversed(low) if size * size != number]


def _sum_along_diagonals(
    x: Float[Array, "b h w"], count: int, down: int, right: int
) -> Float[Array, "b high wide"]:
    """Sum of `count` windows of x, each `down` rows and `right` columns beyond the last."""
    high, wide = x.shape[1] - (count - 1) * down, x.shape[2] - (count - 1) * right
    windows = (x[:, i * down : i * down + high, i * right : i * right + wide] for i in range(count))
    return functools.reduce(jnp.add, windows)


def sum_neighbours(
    products: Float[Array, "b rows_around columns_around"], rows: Tile, columns: Tile
) -> Float[Array, "b rows columns"]:
    """Products of neighbourhoods, from the products of single positions.

    Sums over neighbours in a row, then over rows: 2 * side windows instead of side * side.
    """
    x = _sum_along_diagonals(products, rows.side, 1, 1)
    return _sum_along_diagonals(x, rows.side, rows.stride, columns.stride)


def spread_neighbours(
    grad: Float[Array, "b rows columns"], rows: Tile, columns: Tile
) -> Float[Array, "b rows_around columns_around"]:
    """The transpose of `sum_neighbours`."""
    # Neighbourhoods are symmetric, so it sums over the same windows.
    padding = [(0, 0), *((tile.around - tile.length,) * 2 for tile in (rows, columns))]
    return sum_neighbours(jnp.pad(grad, padding), rows, columns)
