"""A translator whose correspondence is known: places with equal colours belong together."""

import jax
import jax.numpy as jnp
import numpy as np

from cocosnet_jax.checkpoint import Restored
from cocosnet_jax.inference import Translator
from cocosnet_jax.settings import DataSettings, ModelSettings, Settings
from cocosnet_jax.types import Outputs

SIZE, CELLS = 64, 16
STEP = SIZE // CELLS
SETTINGS = Settings(
    data=DataSettings(
        dataset="folder_poses",
        condition="channels",
        channels=3,
        exemplar_list="random",
        image_size=SIZE,
        load_size=SIZE,
    ),
    model=ModelSettings(match_kernel=1, mask_input="none", warped_mask="none"),
)


class Exact(Translator):
    """Matches cells by red and green, and translates to a picture of one grey level."""

    def __init__(self):
        super().__init__(Restored(SETTINGS, None, 0, None))

    @property
    def reading_kernel(self):
        """Cells are compared one by one."""
        return 1

    def _features(self, state, batch):
        def one_hot(picture):
            cells = picture.reshape(-1, CELLS, STEP, CELLS, STEP, 3).mean((2, 4))
            row, column = jnp.moveaxis(jnp.rint(cells[..., :2] / STEP), -1, 0)
            return jax.nn.one_hot(row * CELLS + column, CELLS**2)

        return one_hot(batch.label), one_hot(batch.exemplar)

    def translate(self, label, exemplar=None, exemplar_label=None, **_):
        return Outputs(np.zeros((*label.shape[:3], 3), np.float32), None, None)


def coded(size: int = SIZE, right: int = 0) -> np.ndarray:
    """A picture whose red tells the row and whose green tells the column of each of its cells.

    Args:
      size: side of the picture, a multiple of CELLS.
      right: cells by which everything is shifted; what goes out comes in on the left.
    """
    row, column = np.mgrid[:CELLS, :CELLS]
    column = (column - right) % CELLS
    cells = np.stack([row * STEP, column * STEP, np.full_like(row, 77)], -1).astype(np.uint8)
    return np.kron(cells, np.ones((size // CELLS, size // CELLS, 1), np.uint8))
