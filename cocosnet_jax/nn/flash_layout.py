"""Where the kernels of `flash` find positions: grids as lines whose neighbours are aligned."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cocosnet_jax.nn.neighbourhoods import centre

# Approximate queries and keys of a block, without their neighbours. Twice as many need 14 % fewer
# products of 3 x 3 neighbourhoods, and three times as long to compile.
BLOCK = 1024
LANES = 128
# The logit of a key that only fills a block. Minus infinity would give NaN in a block of such keys.
NEVER = -1e30


def as_read(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """As the kernels read it: float32, or a narrower type, which fewer bytes bring to the chip."""
    return x if x.dtype.itemsize < 4 else x.astype(jnp.float32)


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


class Layout(NamedTuple):
    """A grid of positions as one line, in which neighbours are apart by whole vector registers.

    The line consists of steps of `step` positions, a multiple of 128. A step holds one grid row, or
    `groups` of them which are `depth` rows apart, so that narrow grids fill it. The neighbour
    below a position is then one step further, in all groups, and the neighbour to the right is one
    position further. Features have `reach` further steps at both ends, with the rows above and
    below each group (zeros beyond the grid).
    """

    height: int
    width: int
    side: int  # of the neighbourhood

    @classmethod
    def of_vectors(cls, number: int) -> "Layout":
        """Of vectors without neighbours, in an order that needs no copy if they fill registers."""
        width = 1 if number % LANES else LANES
        return cls(number // width, width, 1)

    @property
    def reach(self) -> int:
        return self.side // 2

    @property
    def row(self) -> int:
        """Length of a grid row with padding: a divisor or a multiple of 128."""
        if self.width <= LANES:
            return 1 << (self.width - 1).bit_length()
        return _round_up(self.width, LANES)

    @property
    def groups(self) -> int:
        return max(LANES // self.row, 1)

    @property
    def step(self) -> int:
        return self.groups * self.row

    @property
    def depth(self) -> int:
        return -(-self.height // self.groups)

    @property
    def blocks(self) -> int:
        return -(-self.depth // max(BLOCK // self.step, 1))

    @property
    def steps(self) -> int:
        """Steps of a block."""
        return -(-self.depth // self.blocks)

    @property
    def size(self) -> int:
        """Positions of a block."""
        return self.steps * self.step

    @property
    def window(self) -> int:
        """Positions of a block and of its neighbours above and below."""
        return (self.steps + 2 * self.reach) * self.step

    @property
    def length(self) -> int:
        """Positions of all blocks."""
        return self.blocks * self.size

    def in_line(self, x: Float[Array, "b h w k"], reach: int = 0) -> Float[Array, "b length k"]:
        """Lays out a grid, with `reach` steps before and after it."""
        b, _, _, k = x.shape
        below = self.groups * self.depth - self.height + reach
        x = jnp.pad(x, ((0, 0), (reach, below), (0, self.row - self.width), (0, 0)))
        rows = self.depth + 2 * reach
        groups = [x[:, i * self.depth :][:, :rows] for i in range(self.groups)]
        x = jnp.stack(groups, 2).reshape(b, rows * self.step, k)
        return jnp.pad(x, ((0, 0), (0, self.length - self.depth * self.step), (0, 0)))

    def from_line(self, x: Float[Array, "b length k"]) -> Float[Array, "b n k"]:
        """Takes the positions of the grid out of a line without neighbours."""
        b, _, k = x.shape
        x = x[:, : self.depth * self.step].reshape(b, self.depth, self.groups, self.row, k)
        x = x.swapaxes(1, 2).reshape(b, -1, self.row, k)[:, : self.height, : self.width]
        return x.reshape(b, -1, k)

    def sum_windows(self, x: Float[Array, "b blocks window k"]) -> Float[Array, "b length_halo k"]:
        """Adds up what each block gives for its window; windows of blocks overlap."""
        b, _, _, k = x.shape
        halo = 2 * self.reach * self.step
        total = jnp.zeros((b, self.length + halo, k), x.dtype)
        for start in range(0, self.window, self.size):
            part = x[:, :, start : start + self.size]
            part = jnp.pad(part, ((0, 0), (0, 0), (0, self.size - part.shape[2]), (0, 0)))
            part = part.reshape(b, self.length, k)[:, : self.length + halo - start]
            total = total.at[:, start : start + part.shape[1]].add(part)
        return total


class Compared(NamedTuple):
    """What positions are compared by, in the line of their layout.

    Attributes:
      features: (b, length_halo, k), unit vectors; or vectors minus their means, zeros beyond the
        grid, whose products are added up over a neighbourhood. Float32, or narrower for vectors.
      marks: (b, rows, length): a row for each position of the neighbourhood, then a row with the
        scale and a row with `NEVER` where there is no position, 0 elsewhere. The rows of the
        neighbourhood hold the means of its vectors, minus their mean, times sqrt(k); unit vectors
        have none.
    """

    features: Float[Array, "b length_halo k"]
    marks: Float[Array, "b rows length"]


def _marks(around: Float[Array, "b h w s"], scale: Float[Array, "b h w"], layout: Layout) -> Array:
    marks = jnp.concatenate([around, scale[..., None], jnp.ones_like(scale)[..., None]], -1)
    padding = -marks.shape[-1] % 8
    line = layout.in_line(jnp.pad(marks, ((0, 0), (0, 0), (0, 0), (0, padding))))
    never = around.shape[-1] + 1
    line = line.at[..., never].set((1 - line[..., never]) * NEVER)
    return line.swapaxes(1, 2)


def by_vector(x: Float[Array, "b n k"], layout: Layout) -> Compared:
    """Positions that are compared by these vectors, unchanged."""
    x = as_read(x).reshape(x.shape[0], layout.height, layout.width, -1)
    none = jnp.zeros((*x.shape[:-1], 0), jnp.float32)
    scale = jnp.ones(x.shape[:-1], jnp.float32)
    return Compared(layout.in_line(x), _marks(none, scale, layout))


def by_neighbourhood(x: Float[Array, "b h w k"], side: int) -> Compared:
    """Splits neighbourhoods into what is added up over neighbours, and what is not.

    Each vector is the mean of its channels and the rest. The product of two centred neighbourhoods
    is the sum of the rests' products, plus k times the product of their means, which are centred
    in each neighbourhood. Neither part is a small difference of large numbers.
    """
    x = x.astype(jnp.float32)
    layout = Layout(x.shape[1], x.shape[2], side)
    found = centre(x, side)
    around = np.sqrt(x.shape[-1]) * (found.means - found.means.mean(-1, keepdims=True))
    marks = _marks(around, found.scale[..., 0], layout)
    return Compared(layout.in_line(x - found.own, layout.reach), marks)
