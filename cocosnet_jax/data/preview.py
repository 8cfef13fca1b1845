"""A contact sheet, on which a user can check pairs and distortions."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from cocosnet_jax import pictures
from cocosnet_jax.data import pipeline
from cocosnet_jax.data.dataset import Dataset

# They fit above pictures of 64 pixels.
COLUMNS = ("input", "image", "exemplar", "distorted", "its input")
_ROWS = 8
_CAPTION = 16  # pixels


def contact_sheet(dataset: Dataset, rows: int = _ROWS) -> UInt8[np.ndarray, "height width 3"]:
    """Draws the first training samples of seed 0.

    Each row shows one sample: its input, the image, the exemplar from the list (or the image itself
    without a list), the image distorted into its own exemplar, and the input under the same
    distortion.

    Args:
      dataset: the data and their settings.
      rows: number of samples.

    Returns:
      (caption + rows * H, 5 * H, 3) uint8.
    """
    # The two have the same images and crops: a sample's random numbers do not depend on pairing.
    settings = dataset.settings
    with_list, without_list = (
        dataset.replace(exemplar_probability=probability)
        for probability in (1.0 if settings.exemplar_list else 0.0, 0.0)
    )
    paired = next(pipeline.training_batches(with_list, seed=0, batch_size=rows))
    distorted = next(pipeline.training_batches(without_list, seed=0, batch_size=rows))
    columns = [
        pictures.show_input(np.asarray(paired.label), settings.condition),
        paired.image,
        paired.exemplar,
        distorted.exemplar,
        pictures.show_input(np.asarray(distorted.exemplar_label), settings.condition),
    ]
    grid = np.concatenate([np.concatenate(list(column), axis=0) for column in columns], axis=1)
    sheet = Image.new("RGB", (grid.shape[1], grid.shape[0] + _CAPTION), "white")
    draw = ImageDraw.Draw(sheet)
    for column, caption in enumerate(COLUMNS):
        draw.text((column * settings.image_size + 3, 2), caption, fill="black")
    sheet.paste(Image.fromarray(grid), (0, _CAPTION))
    return np.asarray(sheet)
