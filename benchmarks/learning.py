"""Does it still learn? A short run, whose end is compared with a recorded band.

    python -m benchmarks.learning [--seed=100] [--without=pseudo_exemplar]

trains `configs/ablations.py:full` with an untrained narrow VGG, which needs no file, on drawn
scenes of 64 x 64, translates scenes that were not trained on and measures them. The exit status is
1 if a number is outside of its band. `--without` leaves a term of the objective out, to see the
check fail.

    python -m benchmarks.learning --record --seeds=0,1,2,3,4

records the bands in `benchmarks/learning.json`, after a change that is meant to move them. A band
is the interval in which a run of another seed lies with a probability of 99 %, if the numbers of
seeds are normally distributed: mean +- t s sqrt(1 + 1 / n), with Student's t of n - 1 degrees of
freedom. A run that is better than the band fails, too: record the band again then.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import scipy.stats
import tqdm
from etils import epath

from benchmarks import short_run
from cocosnet_jax import files
from cocosnet_jax import settings as settings_lib
from cocosnet_jax.apps import drawn_pairs
from cocosnet_jax.configs import ablations
from cocosnet_jax.errors import UserError
from cocosnet_jax.preparation import prepare_data
from cocosnet_jax.pretrained import vgg
from cocosnet_jax.settings import LossSettings, Settings
from cocosnet_jax.yardsticks import Yardsticks

# Steps of an epoch: half of what the ablations take.
EPOCH = 20
SCENES = 64
PROBABILITY = 0.99
# What is compared -> digits.
NUMBERS = {"warp_accuracy": 3, "pck@0.1": 3, "error_to_truth": 1, "swd": 1}


def main() -> int:
    """Trains and compares, or records."""
    terms = [field.name for field in dataclasses.fields(LossSettings) if field.type is float]
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=100, help="of the run that is compared")
    parser.add_argument("--without", choices=terms, default="", help="term to leave out")
    parser.add_argument("--record", action="store_true", help="train --seeds, record their bands")
    parser.add_argument("--seeds", default="0,1,2,3,4", help="of the runs that are recorded")
    parser.add_argument("--bands", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--data_dir", default="", help="as config.data.data_dir")
    given = parser.parse_args()
    if given.record:
        return record(given.seeds.split(","), given.bands, given.data_dir)
    bands = read(given.bands)
    if given.seed in bands["seeds"]:
        raise UserError(f"--seed={given.seed} is one of the recorded runs; name another one")
    return report(measured(recipe(given.seed, given.without, given.data_dir)), bands)


def record(seeds: Sequence[str], path: Path, data_dir: str) -> int:
    """Trains with all seeds, and writes their bands."""
    if len(set(seeds)) < 3 or not all(seed.isdecimal() for seed in seeds):
        raise UserError(f"--seeds={','.join(seeds)} must be three different numbers or more")
    with tempfile.TemporaryDirectory() as compiled:
        # Seeds share their programs.
        jax.config.update("jax_compilation_cache_dir", compiled)
        found = [measured(recipe(int(seed), "", data_dir)) for seed in seeds]
    bands = {
        "seeds": [int(seed) for seed in seeds],
        "bands": {name: band([x[name] for x in found]) for name in NUMBERS},
    }
    files.write(epath.Path(path), (json.dumps(bands, indent=2) + "\n").encode())
    print(json.dumps(bands["bands"], indent=2))
    print(f"recorded: {path}")
    return 0


def measured(settings: Settings) -> dict[str, float]:
    """Trains and measures."""
    dataset = prepare_data(settings.data)
    weights = vgg.load(settings.vgg.weights, settings.vgg.width)
    steps = settings.epochs * EPOCH
    with (
        # A folder of an earlier call would have what earlier code trained.
        tempfile.TemporaryDirectory() as folder,
        tqdm.tqdm(
            total=steps, desc=f"seed {settings.train.seed}", unit=" steps", file=sys.stdout
        ) as bar,
    ):
        trained = short_run.train(settings, dataset, weights, epath.Path(folder), EPOCH, bar.update)
    pairs = drawn_pairs.draw_pairs(SCENES, settings.data.image_size)
    return short_run.measured(settings, trained.state, pairs, Yardsticks())


def recipe(seed: int, without: str, data_dir: str) -> Settings:
    """The settings of a run, without one term if it is named."""
    config = ablations.get_config()
    config.data.data_dir = data_dir
    config.vgg.weights, config.vgg.width = "random", 16
    config.train.seed = seed
    if without:
        config.loss[without] = 0.0
    return settings_lib.from_mapping(config.to_dict())


def band(values: Sequence[float]) -> dict[str, float]:
    """Mean, standard deviation over seeds, and the band's ends."""
    n = len(values)
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(scipy.stats.t.ppf((1 + PROBABILITY) / 2, n - 1)) * deviation * (1 + 1 / n) ** 0.5
    found = {"mean": mean, "deviation": deviation, "low": mean - half, "high": mean + half}
    return {name: round(value, 5) for name, value in found.items()}


def read(path: Path) -> dict[str, Any]:
    """The recorded bands.

    Raises:
      UserError: there are none, or the file is damaged.
    """
    try:
        bands = json.loads(path.read_text())
        for name in NUMBERS:
            float(bands["bands"][name]["low"]), float(bands["bands"][name]["high"])
        return dict(bands) | {"seeds": list(bands["seeds"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--bands={path} has no bands ({error!r}); record them by --record"
        ) from error


def report(found: Mapping[str, float], bands: Mapping[str, Any]) -> int:
    """Prints the numbers beside their bands; returns the exit status."""
    status = 0
    for name, digits in NUMBERS.items():
        low, high = bands["bands"][name]["low"], bands["bands"][name]["high"]
        inside = low <= found[name] <= high
        status |= not inside
        mark = "" if inside else "   outside"
        band_text = f"{low:.{digits}f} to {high:.{digits}f}"
        print(f"{name:<16}{found[name]:>8.{digits}f}   band {band_text}{mark}")
    return int(status)


if __name__ == "__main__":
    short_run.run(main)
