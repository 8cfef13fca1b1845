"""An export of the shipped model, run beside `Translator.translate`.

    python -m cocosnet_jax.export --output=exported --onnx
    python -m benchmarks.exported --folder=exported

prints, for `program.jax` and, if it is there, `model.onnx`, the largest difference of any number of
the results, as a share of full scale (from -1 to 1), and seconds per picture. Inputs are drawn
scenes that were not trained on. `model.onnx` needs onnxruntime.
"""

import argparse
import pathlib
import time
from collections.abc import Callable

import jax
import numpy as np
from jax import export
from safetensors.numpy import load_file

from cocosnet_jax.data.drawn.scene import draw_scene
from cocosnet_jax.data.drawn.splits import SHARING, VALIDATION_SEED
from cocosnet_jax.inference import Translator
from cocosnet_jax.pretrained import SHIPPED

# Translates labels and exemplars; returns images and warped exemplars.
Run = Callable[[np.ndarray, np.ndarray], list[np.ndarray]]


def pairs(count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Label maps of scenes, each with another scene in another style."""
    scenes = [
        draw_scene(VALIDATION_SEED + 70 * i, VALIDATION_SEED + 70 * i // SHARING, size)
        for i in range(count)
    ]
    label = np.stack([scene.label for scene in scenes])[..., None]
    return label, np.roll(np.stack([scene.image for scene in scenes]), 1, 0)


def programs(folder: pathlib.Path) -> dict[str, Run]:
    """What an export contains, by the names of its files."""
    program = jax.jit(export.deserialize(bytearray((folder / "program.jax").read_bytes())).call)
    weights = load_file(folder / "weights.safetensors")

    def run_program(label: np.ndarray, exemplar: np.ndarray) -> list[np.ndarray]:
        outputs = jax.device_get(program(weights, label, exemplar))
        return [outputs["image"], outputs["warped_exemplar"]]

    found: dict[str, Run] = {"program.jax": run_program}
    if (folder / "model.onnx").exists():
        import onnxruntime

        session = onnxruntime.InferenceSession(folder / "model.onnx")

        def run_onnx(label: np.ndarray, exemplar: np.ndarray) -> list[np.ndarray]:
            wanted = ["image", "warped_exemplar"]
            results = [
                session.run(wanted, {"label": label[i : i + 1], "exemplar": exemplar[i : i + 1]})
                for i in range(len(label))
            ]
            return [np.concatenate(parts) for parts in zip(*results, strict=True)]

        found["model.onnx"] = run_onnx
    return found


def main() -> None:
    """Runs all on the same pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--pictures", type=int, default=4)
    arguments = parser.parse_args()
    translator = Translator(SHIPPED)
    label, exemplar = pairs(arguments.pictures, translator.size)

    def translate(label: np.ndarray, exemplar: np.ndarray) -> list[np.ndarray]:
        outputs = translator.translate(label, exemplar)
        assert outputs.warped_exemplar is not None
        return [np.asarray(outputs.image), np.asarray(outputs.warped_exemplar)]

    expected = translate(label, exemplar)
    for name, run in {"translate": translate, **programs(arguments.folder)}.items():
        results = run(label, exemplar)  # Compiles.
        began = time.perf_counter()
        run(label, exemplar)
        seconds = (time.perf_counter() - began) / len(label)
        image, warped = (
            np.abs(found - wanted).max() / 2
            for found, wanted in zip(results, expected, strict=True)
        )
        print(f"{name:<12} image {image:.1e}, warped {warped:.1e}, {seconds:.2f} s per picture")


if __name__ == "__main__":
    main()
