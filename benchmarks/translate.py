"""Time per picture of `cocosnet_jax.translate` on a folder, in batches beside one by one.

    python -m benchmarks.translate [--pictures=64] [--batches=1,8] [--checkpoint=...] [--size=0]

Draws scenes as inputs, or takes `--input` and `--exemplar` for a checkpoint of other data, and
translates the folder with each batch size in turn, `--rounds` times: reading, computing and
writing, compiled before. The median of each batch size is printed, and its ratio to the first.
Drawn scenes are of 128 x 128, and the shipped model is used, if no other is named.
"""

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from pathlib import Path

import jax
from PIL import Image

from cocosnet_jax.data import pair_files, pairing
from cocosnet_jax.data.drawn.scene import draw_scene
from cocosnet_jax.inference import Translator
from cocosnet_jax.pretrained import SHIPPED
from cocosnet_jax.translations import Options, Translations

SIDE = 128


def main() -> None:
    """Draws a folder, translates it, prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint", default=str(SHIPPED))
    parser.add_argument("--size", type=int, default=0, help="S; 0 for the training's")
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--pictures", type=int, default=64, help="drawn inputs")
    parser.add_argument("--input", type=Path, help="a folder of inputs instead")
    parser.add_argument("--exemplar", type=Path)
    parser.add_argument("--batches", default="1,8", help="batch sizes")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    translator = Translator(arguments.checkpoint, arguments.size, bfloat16=arguments.bfloat16)
    data = translator.settings.data
    sizes = [int(size) for size in arguments.batches.split(",")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, exemplar = arguments.input, arguments.exemplar
        if source is None:
            source, exemplar = folder / "inputs", folder / "exemplar.png"
            _draw(source, exemplar, arguments.pictures)
        pairs = pairing.find_pairs(
            pairing.Places(source, (exemplar,), (), folder / "results"),
            "",
            data,
            needs_label=translator.settings.model.needs_exemplar_label,
        )
        for size in sizes:
            translator.compile(size)
        seconds: dict[int, list[float]] = {size: [] for size in sizes}
        for _ in range(arguments.rounds):
            for size in sizes:
                reader = pair_files.Reader(data, translator.size)
                began = time.perf_counter()
                with contextlib.redirect_stdout(io.StringIO()):  # its progress
                    Translations(translator, reader, Options()).write(pairs, size)
                seconds[size].append((time.perf_counter() - began) / len(pairs))
    first = statistics.median(seconds[sizes[0]])
    print(f"{jax.devices()[0].device_kind}, {len(pairs)} pictures of {translator.size}")
    for size in sizes:
        middle = statistics.median(seconds[size])
        print(
            f"  in batches of {size}: {1000 * middle:.1f} ms per picture"
            f" ({1000 * min(seconds[size]):.1f} to {1000 * max(seconds[size]):.1f}),"
            f" ratio {middle / first:.2f}"
        )


def _draw(inputs: Path, exemplar: Path, count: int) -> None:
    inputs.mkdir()
    for number in range(count):
        label = draw_scene(number, number, SIDE).label
        Image.fromarray(label).save(inputs / f"scene_{number}.png")
    Image.fromarray(draw_scene(count, count, SIDE).image).save(exemplar)


if __name__ == "__main__":
    main()
