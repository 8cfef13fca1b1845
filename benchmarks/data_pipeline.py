"""Training samples per second of the input pipeline on one core, for each dataset.

    python -m benchmarks.data_pipeline [--seconds=10] [NAME ...]

Measured at 256 x 256 and batch 8, from prepared records, with the process pinned to one core. The
datasets are synthetic, in the layouts of the real ones: smooth images with noise, label maps of
blobs, ovals for face parts, random poses. Exemplars are distorted as in the release (`crop_flip`)
or as in the paper (`geometric`).
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cocosnet_jax import data
from cocosnet_jax.data import pipeline
from cocosnet_jax.data.labels import edges
from cocosnet_jax.settings import DataSettings

# Name: condition and channels.
DATASETS: dict[str, tuple[Any, int]] = {
    "ade20k": ("labels", 151),
    "celebahq": ("labels_glasses", 19),
    "celebahqedge": ("channels", 15),
    "deepfashion": ("channels", 20),
}
_PHOTOGRAPHS = 24
_SIDE = 320


def main() -> None:
    """Makes, prepares and measures each dataset, and prints its line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=list(DATASETS), help=", ".join(DATASETS))
    parser.add_argument("--seconds", type=float, default=10.0, help="per measurement")
    arguments = parser.parse_args()
    cores = os.sched_getaffinity(0)
    print(f"load {os.getloadavg()[0]:.1f} on {len(cores)} cores; samples per second on one core:")
    # TensorFlow starts as many threads as it finds cores after this.
    os.sched_setaffinity(0, {min(cores)})
    for name in arguments.names:
        condition, channels = DATASETS[name]
        with tempfile.TemporaryDirectory() as folder:
            _draw(name, Path(folder) / "source")
            rates = []
            distortion: Any
            for distortion in ("crop_flip", "geometric"):
                settings = DataSettings(
                    dataset=name,
                    source=f"{folder}/source",
                    data_dir=f"{folder}/prepared",
                    condition=condition,
                    channels=channels,
                    exemplar_list="random",
                    distortion=distortion,
                )
                data.prepare(settings)
                rates.append(f"{distortion} {_rate(settings, arguments.seconds):.0f}")
            print(f"{name:13s} {', '.join(rates)}", flush=True)


def _rate(settings: DataSettings, seconds: float) -> float:
    """Samples per second, after the pipeline's buffers have filled."""
    batches = pipeline.training_batches(data.open(settings), seed=0, batch_size=8)
    for _ in range(5):
        next(batches)
    made, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        made += len(next(batches).image)
    return made / (time.perf_counter() - began)


def _draw(name: str, root: Path) -> None:
    """Writes photographs and annotations in the dataset's own layout."""
    rng = np.random.default_rng(0)

    def save(path: Path, array: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)

    y, x = np.mgrid[:_SIDE, :_SIDE]
    for i in range(_PHOTOGRAPHS):
        coarse = Image.fromarray(rng.integers(0, 200, (24, 24, 3), np.uint8))
        smooth = np.asarray(coarse.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC))
        picture = np.minimum(smooth, 230) + rng.integers(0, 25, smooth.shape, np.uint8)
        blobs = rng.integers(0, 19, (8, 8), np.uint8).repeat(_SIDE // 8, 0).repeat(_SIDE // 8, 1)
        validation = i % 8 == 0
        if name == "ade20k":
            folder = root / ("validation" if validation else "training")
            save(folder / f"{i}.jpg", picture)
            save(folder / f"{i}.png", blobs)
            continue
        with_list = root / "val.txt"
        if validation:
            root.mkdir(exist_ok=True)
            with with_list.open("a") as file:
                file.write(f"{i}.jpg\n")
        if name == "deepfashion":
            save(root / f"img/{i}.jpg", picture)
            (root / "pose").mkdir(exist_ok=True)
            joints = np.column_stack([rng.uniform(5, _SIDE - 5, (18, 2)), np.ones(18)])
            people = {"people": [{"pose_keypoints_2d": joints.ravel().tolist()}]}
            (root / f"pose/{i}_keypoints.json").write_text(json.dumps(people))
            continue
        save(root / f"CelebA-HQ-img/{i}.jpg", picture)
        masks = root / "CelebAMask-HQ-mask-anno"
        if name == "celebahq":
            save(masks / f"all_parts_except_glasses/{i:05d}.png", blobs)
            continue
        for part in edges.EDGE_PARTS:
            (cy, cx), (ry, rx) = rng.integers(80, 240, 2), rng.integers(10, 80, 2)
            oval = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1
            save(masks / f"0/{i:05d}_{part}.png", oval.astype(np.uint8) * 255)


if __name__ == "__main__":
    main()
