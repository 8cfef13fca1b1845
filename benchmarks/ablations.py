r"""Trains and measures the paper's ablations, and writes them as one table.

    python -m benchmarks.ablations --folder=runs/ablations --vgg=vgg16.pth --seeds=0,1,2 \
        [--variants=full,no_domain] [--lpips=vgg.pth] [--inception=pt_inception...pth]

`configs/ablations.py` says what the variants are. Each is trained with the first seed, then each
with the next. The table, `FOLDER/ablations.md`, holds what is finished, and says how many seeds
each row has. `FOLDER/NAME-SEED` is an ordinary workdir, which `translate` takes as its checkpoint.

After an interruption the same command goes on, in the middle of a run as well. Numbers are kept in
`--results`: runs that it holds are not trained again, so a copy of this file continues elsewhere.
A run that fails is named at the end, the others go on, and the exit status is 1.

Programs are compiled once per variant, for all seeds; the folder keeps them.
"""

import argparse
import dataclasses
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import tqdm
from etils import epath

from benchmarks import ablation_table, short_run
from cocosnet_jax import checkpoint, files, workdir, yardsticks
from cocosnet_jax import settings as settings_lib
from cocosnet_jax.apps import drawn_pairs
from cocosnet_jax.configs import ablations
from cocosnet_jax.data.drawn.splits import VALIDATION_SCENES
from cocosnet_jax.errors import UserError
from cocosnet_jax.preparation import prepare_data
from cocosnet_jax.pretrained import vgg as vgg_weights
from cocosnet_jax.settings import Settings

TABLE = "ablations.md"


class Run(NamedTuple):
    """One run.

    Attributes:
      variant: one of `configs.ablations.VARIANTS`.
      settings: its settings, with its seed.
    """

    variant: str
    settings: Settings

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.variant}-{self.settings.train.seed}"


# Trains and measures a run; the function is called with numbers of steps as they are done.
Do = Callable[[Run, Callable[[int], object]], Mapping[str, float]]


def main() -> int:
    """Trains what is not finished, and writes the table after every run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", default="runs/ablations", help="of the runs and the table")
    parser.add_argument("--results", help="JSON of all numbers; FOLDER/ablations.json")
    parser.add_argument("--vgg", default="", help="of losses and metrics, as config.vgg.weights")
    parser.add_argument("--lpips", default="", help="LPIPS's heads, where --vgg is VGG-16")
    parser.add_argument("--inception", default="", help="pytorch-fid's Inception, for FID and KID")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--variants", default=",".join(ablations.VARIANTS), help="which to train")
    parser.add_argument("--scenes", type=int, default=32, help="to measure")
    parser.add_argument("--data_dir", default="", help="as config.data.data_dir")
    given = parser.parse_args()
    runs = plan(given.variants.split(","), given.seeds.split(","), given.vgg, given.data_dir)
    if not 2 <= given.scenes <= VALIDATION_SCENES:
        raise UserError(f"--scenes={given.scenes} must be 2 to {VALIDATION_SCENES}")
    folder = checkpoint.absolute(given.folder)
    workdir.check_writable(folder, "folder")
    results = checkpoint.absolute(given.results or folder / "ablations.json")
    # Untrained weights judge nothing.
    judge = "" if given.vgg == "random" else given.vgg
    networks = yardsticks.load(given.inception, judge, given.lpips)
    how = {
        "scenes": given.scenes,
        "epoch": ablations.EPOCH,
        "vgg": networks.vgg_name or given.vgg,
        "lpips": networks.lpips_name,
        "inception": networks.inception_name if networks.inception else "",
        "full": settings_lib.to_file(variant_settings("full")),
    }
    done = read(results, how)
    remaining = [run for run in runs if not find(done, run)]
    print(f"{len(runs) - len(remaining)} of {len(runs)} runs are in {results}", flush=True)
    jax.config.update("jax_compilation_cache_dir", os.fspath(folder / "compiled"))
    failed = []
    with workdir.in_use(folder):
        if remaining:
            do = make(folder, networks, given.vgg, given.scenes)
            failed = do_all(remaining, do, lambda: write(folder, results, how, done), done, folder)
        write(folder, results, how, done)
    print(f"\n{(folder / TABLE).read_text()}\nwritten: {folder / TABLE}, {results}")
    for name in failed:
        print(f"failed: {name}: {folder / name / 'failed.txt'}", file=sys.stderr)
    return 1 if failed else 0


def variant_settings(variant: str, seed: int = 0, vgg: str = "", data_dir: str = "") -> Settings:
    """The settings of a variant, as a run has them."""
    settings = settings_lib.from_mapping(ablations.get_config(variant).to_dict())
    return dataclasses.replace(
        settings,
        data=dataclasses.replace(settings.data, data_dir=data_dir),
        vgg=dataclasses.replace(settings.vgg, weights=vgg or settings.vgg.weights),
        train=dataclasses.replace(settings.train, seed=seed),
    )


def plan(variants: Sequence[str], seeds: Sequence[str], vgg: str, data_dir: str = "") -> list[Run]:
    """All runs in their order: every variant with the first seed, then with the next.

    Raises:
      UserError: a flag is wrong.
    """
    unknown = [name for name in variants if name not in ablations.VARIANTS]
    if unknown or not variants:
        raise UserError(
            f"--variants={','.join(variants)}: choose among {', '.join(ablations.VARIANTS)}"
        )
    if not seeds or not all(seed.isdecimal() for seed in seeds):
        raise UserError(f"--seeds={','.join(seeds)} must be numbers, such as 0,1,2")
    if not vgg:
        raise UserError(
            "--vgg is missing: name torchvision's VGG-16 or VGG-19 (vgg16-397923af.pth), or"
            " 'random' to try the program out"
        )
    return [
        Run(variant, variant_settings(variant, seed, vgg, data_dir))
        for seed in dict.fromkeys(map(int, seeds))
        for variant in dict.fromkeys(variants)
    ]


def make(folder: epath.Path, networks: yardsticks.Yardsticks, vgg: str, scenes: int) -> Do:
    """Reads weights and data once, and returns what does a run in its folder."""
    weights = vgg_weights.load(vgg)
    pairs = drawn_pairs.draw_pairs(scenes, variant_settings("full").data.image_size)

    def do(run: Run, advance: Callable[[int], object]) -> Mapping[str, float]:
        dataset = prepare_data(run.settings.data)
        trained = short_run.train(
            run.settings, dataset, weights, folder / run.name, ablations.EPOCH, advance
        )
        return short_run.measured(run.settings, trained.state, pairs, networks)

    return do


def do_all(
    runs: Sequence[Run],
    do: Do,
    keep: Callable[[], None],
    done: list[dict[str, Any]],
    folder: epath.Path,
) -> list[str]:
    """Does all runs, and keeps each as soon as it is finished.

    Args:
      runs: what to do, in this order.
      do: does one.
      keep: writes `done`.
      done: finished runs; extended.
      folder: for the errors of those that failed.

    Returns:
      The names of those that failed.
    """
    failed = []
    steps = sum(run.settings.epochs * ablations.EPOCH for run in runs)
    with tqdm.tqdm(total=steps, unit=" steps", file=sys.stdout) as bar:
        for run in runs:
            bar.set_description(run.name)
            began, counted = time.monotonic(), bar.n
            try:
                numbers = dict(do(run, bar.update))
            # Whatever stops one run must not stop the others, which may take hours.
            except Exception as error:
                failed.append(run.name)
                bar.write(f"failed: {run.name}: {error}", file=sys.stderr)
                text = error if isinstance(error, UserError) else traceback.format_exc()
                files.write(folder / run.name / "failed.txt", f"{text}\n".encode())
                bar.update(counted + run.settings.epochs * ablations.EPOCH - bar.n)
                continue
            done.append(
                {
                    "variant": run.variant,
                    "seed": run.settings.train.seed,
                    "changes": changes(run.variant),
                    "minutes": round((time.monotonic() - began) / 60, 1),
                    "numbers": {name: round(value, 5) for name, value in numbers.items()},
                }
            )
            keep()
    return failed


def changes(variant: str) -> dict[str, str]:
    """Fields in which a variant differs from `full`, with both values."""
    return settings_lib.differences(variant_settings("full"), variant_settings(variant))


def find(done: Sequence[Mapping[str, Any]], run: Run) -> bool:
    """Whether the results hold a run.

    Raises:
      UserError: it was done with other settings of the variant.
    """
    for one in done:
        if (one["variant"], one["seed"]) == (run.variant, run.settings.train.seed):
            if one["changes"] != changes(run.variant):
                raise UserError(
                    f"the results hold {run.name} of another recipe, {one['changes']}, and"
                    f" configs/ablations.py has {changes(run.variant)}: take the run out of the"
                    " file and delete its folder, or set other --results and --folder"
                )
            return True
    return False


def read(results: epath.Path, how: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The finished runs of a file; none where there is no file yet.

    Raises:
      UserError: it is no such file, or of other settings, scenes or weights.
    """
    if not results.exists():
        return []
    try:
        content = json.loads(results.read_text())
        runs, theirs = content["runs"], content["how"]
        found = {name: theirs[name] for name in how}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--results={results} is no file of this program ({error!r}); name another one"
        ) from error
    # As settings, so that fields that were added since have their defaults.
    full, full_now = (settings_lib.from_file(x["full"]) for x in (found, how))
    wrong = {
        name: f"{value!r}, {how[name]!r}"
        for name, value in found.items()
        if name != "full" and value != how[name]
    }
    wrong |= settings_lib.differences(full, full_now)
    if wrong:
        lines = [f"{name}: {values}" for name, values in wrong.items()]
        raise UserError(
            f"--results={results} holds runs of other settings; set them again, or name another"
            " --results and --folder. Different (in the file, now):\n  " + "\n  ".join(lines)
        )
    return list(runs)


def write(
    folder: epath.Path,
    results: epath.Path,
    how: Mapping[str, Any],
    done: Sequence[Mapping[str, Any]],
) -> None:
    """Writes all finished runs, and their table."""
    order = {name: place for place, name in enumerate(ablations.VARIANTS)}
    runs = sorted(done, key=lambda run: (order[run["variant"]], run["seed"]))
    files.write(results, (json.dumps({"how": how, "runs": runs}, indent=1) + "\n").encode())
    files.write(folder / TABLE, ablation_table.table(runs, ablations.VARIANTS).encode())


if __name__ == "__main__":
    short_run.run(main)
