"""A tiny ADE20k, drawn: every colour tells its class, so pictures and maps can be compared."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cocosnet_jax.settings import DataSettings

CLASSES = 6


def colours(label: np.ndarray) -> np.ndarray:
    """The colour of each class: (..., 3) uint8, 40 grey levels or more apart in red."""
    return np.stack([label * 40, 255 - label * 40, label * 0 + 128], axis=-1).astype(np.uint8)


def draw_label(index: int, height: int = 90, width: int = 120) -> np.ndarray:
    """Large blobs, so that most pixels lie away from a border."""
    rng = np.random.default_rng(index)
    coarse = rng.integers(0, CLASSES, (3, 4))
    return coarse.repeat(height // 3, 0).repeat(width // 4, 1).astype(np.uint8)


def write_pair(folder: Path, name: str, label: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(colours(label)).save(folder / f"{name}.jpg", quality=100, subsampling=0)
    Image.fromarray(label).save(folder / f"{name}.png")


@pytest.fixture
def source(tmp_path):
    """A folder with 5 training and 4 validation pairs, labels beside the photographs."""
    for index in range(5):
        write_pair(tmp_path / "ade/training", f"ADE_train_{index}", draw_label(index))
    for index in range(4):
        write_pair(tmp_path / "ade/validation", f"ADE_val_{index}", draw_label(100 + index))
    return tmp_path / "ade"


@pytest.fixture
def settings(source, tmp_path):
    return DataSettings(
        dataset="ade20k",
        source=str(source),
        data_dir=str(tmp_path / "prepared"),
        image_size=32,
        load_size=48,
        channels=CLASSES,
        exemplar_list="random",
        validation_exemplar_list="random",
    )
