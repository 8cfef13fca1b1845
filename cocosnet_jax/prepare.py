"""Checks a dataset's files and makes the records that training reads.

    python -m cocosnet_jax.prepare --config=configs/ade20k.py --source=FOLDER

Everything wrong with the files is reported at once, before anything is written. A run that was
interrupted leaves nothing behind; the same command starts again. `--preview=sheet.png` draws a
contact sheet of pairs and distortions as training will see them.
"""

import dataclasses
import os
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image, ImageDraw

from cocosnet_jax import command, data
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import DataSettings

_SETTINGS = command.define_config()
_SOURCE = flags.DEFINE_string("source", "", "the dataset's own folder; sets config.data.source")
_PREVIEW = flags.DEFINE_string("preview", "", "write a contact sheet to this PNG file")

_COLUMNS = ("input", "image", "exemplar", "distorted exemplar", "its input")
_ROWS = 8
_CAPTION = 16  # pixels


def contact_sheet(settings: DataSettings, rows: int = _ROWS) -> np.ndarray:
    """Pairs and distortions as training sees them, from the start of seed 0.

    Each row shows one sample: its input, the image, the exemplar of its list (or the image itself,
    where there is none), the image distorted into its own exemplar, and the input under the same
    distortion.

    Args:
      settings: which data; it must be prepared.
      rows: number of samples.

    Returns:
      (caption + rows * H, 5 * H, 3) uint8.
    """
    from cocosnet_jax.data import pipeline

    # Both see the same images and crops: a sample's random numbers do not depend on its pairing.
    always, never = (
        dataclasses.replace(settings, exemplar_probability=probability)
        for probability in (1.0 if settings.exemplar_list else 0.0, 0.0)
    )
    paired = next(pipeline.training_batches(always, seed=0, batch_size=rows))
    itself = next(pipeline.training_batches(never, seed=0, batch_size=rows))
    columns = [
        _coloured(np.asarray(paired.label)),
        paired.image,
        paired.exemplar,
        itself.exemplar,
        _coloured(np.asarray(itself.exemplar_label)),
    ]
    grid = np.concatenate([np.concatenate(list(column), axis=0) for column in columns], axis=1)
    sheet = Image.new("RGB", (grid.shape[1], grid.shape[0] + _CAPTION), "white")
    draw = ImageDraw.Draw(sheet)
    for column, caption in enumerate(_COLUMNS):
        draw.text((column * settings.image_size + 3, 2), caption, fill="black")
    sheet.paste(Image.fromarray(grid), (0, _CAPTION))
    return np.asarray(sheet)


def _coloured(label: np.ndarray) -> np.ndarray:
    """(b, H, W, p) uint8 to (b, H, W, 3): a colour per class, or the strongest plane in grey."""
    if label.shape[-1] > 2:
        return np.repeat(label.max(-1, keepdims=True), 3, axis=-1)
    # Hues a golden ratio apart: neighbouring class numbers look different.
    hues = np.arange(256) * (255 * 0.618034) % 255
    wheel = np.stack([hues, np.full(256, 150), np.full(256, 230)], axis=-1).astype(np.uint8)
    palette = np.asarray(Image.fromarray(wheel[None], "HSV").convert("RGB"))[0].copy()
    palette[0] = 0
    return palette[label[..., 0]]


def main() -> None:
    """Prepares, says what there is, and draws the contact sheet where one is asked for."""
    config = flags.FLAGS["config"].value
    if config is not None:
        if _SOURCE.value:
            config.data.source = _SOURCE.value
        # A list belongs to training; preparing needs none.
        if not config.data.exemplar_list:
            config.data.exemplar_probability = 0.0
    settings = _SETTINGS().data
    preview = _PREVIEW.value
    if preview and (not preview.endswith(".png") or not Path(preview).absolute().parent.is_dir()):
        raise UserError(f"--preview={preview} must name a .png file in a folder that exists")
    data.prepare(settings)
    builder = data.open_builder(settings)
    counts = {split: len(keys) for split, keys in builder.info.metadata["keys"].items()}
    print(
        f"{settings.dataset} is prepared in {builder.data_dir}: "
        + ", ".join(f"{count} {split}" for split, count in counts.items())
    )
    if preview:
        partial = f"{preview}.partial"
        Image.fromarray(contact_sheet(settings)).save(partial, "png")
        os.replace(partial, preview)
        print(f"contact sheet: {preview}")


if __name__ == "__main__":
    command.run(main)
