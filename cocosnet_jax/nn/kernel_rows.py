"""Maps as the kernels of norms and modulation see them: by rows, pictures beside channels."""

from jaxtyping import Array, Float

# Of the 128 MiB of on-chip memory that TPUs v4 to v6e have.
VMEM = 100 * 2**20
# Pictures that lie beside each other in a register of TPUs.
PICTURES = 8


def together(pictures: int) -> int:
    """How many pictures lie beside each other, as XLA stores maps; 0 where no kernel runs.

    A program of a kernel of instance norm holds as many.
    """
    if pictures % PICTURES == 0:
        return PICTURES
    return pictures if pictures in (2, 4) else 0


def by_rows(x: Float[Array, "b h w c"]) -> Float[Array, "h w b c"]:
    """A map as the kernels see it."""
    return x.transpose(1, 2, 0, 3)


def from_rows(x: Float[Array, "h w b c"]) -> Float[Array, "b h w c"]:
    """The inverse of `by_rows`."""
    return x.transpose(2, 0, 1, 3)
