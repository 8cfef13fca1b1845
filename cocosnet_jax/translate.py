r"""Translates label maps, edges or poses to photographs in the style of exemplars.

    python -m cocosnet_jax.translate --checkpoint=runs/ade20k \
        --input=label.png --exemplar=photo.jpg --exemplar-label=photo.png --output=out.png

The checkpoint's dataset determines the kind of input: a label map, OpenPose's file, an edge map, or
a photograph in the dataset's own layout (CelebA-HQ, DeepFashion), with annotations as in training.
An exemplar in such a layout needs no `--exemplar-label`. A checkpoint of a plain translation
network (`configs/ade20k.py:plain`) takes no exemplar. Without
`--checkpoint`, the program's own small model of drawn scenes is used; `python -m
cocosnet_jax.apps.demo` writes an input and an exemplar for it.

`--input` may be a folder of inputs; `--output` must then be a folder too. All inputs use the same
exemplar, unless `--exemplar` and `--exemplar-label` are folders and `--list` gives each input its
exemplar (lines `input,exemplar`); inputs without a line are left out. All files are checked before
the first picture is written.

A pose is drawn on a canvas of its photograph's size. The photograph is found by the dataset's
layout (`images/` beside `poses/`, `img/` beside `pose/`) or beside the pose file; that of the
exemplar's pose is `--exemplar`. Without a photograph, the file (`canvas_width`, `canvas_height`) or
`--pose-size=WIDTHxHEIGHT` states the size.
"""

import sys
from typing import TYPE_CHECKING

from absl import flags

from cocosnet_jax import command, files
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import POSE_DATASETS, is_pose_size

if TYPE_CHECKING:
    from cocosnet_jax.data.pairing import Pair
    from cocosnet_jax.inference import Translator

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    "",
    "a run's workdir, one checkpoint in it, or a file of weights (.safetensors); if empty, the"
    " shipped model of drawn scenes",
)
_INPUT = flags.DEFINE_string("input", "", "label map, pose file, ..., or a folder of them")
_EXEMPLAR = flags.DEFINE_string(
    "exemplar", "", "photograph, or with --list a folder of photographs"
)
_EXEMPLAR_LABEL = flags.DEFINE_string(
    "exemplar-label", "", "the exemplar's label map, or with --list a folder of them"
)
_LIST = flags.DEFINE_string("list", "", "exemplar list: lines `input,exemplar`")
_OUTPUT = flags.DEFINE_string("output", "", "picture to write (.png), or a folder")
_WARPED = flags.DEFINE_bool("warped", False, "also write the warped exemplar, as NAME_warped.png")
_SIZE = flags.DEFINE_integer(
    "size", 0, "side of the square result, a multiple of 32; 0 for the size of the training"
)
_ORIGINAL_SIZE = flags.DEFINE_bool(
    "original-size", False, "resize results to the input's own width and height"
)
_POSE_SIZE = flags.DEFINE_string(
    "pose-size",
    "",
    "WIDTHxHEIGHT of the pictures in which the poses of --input were detected, or `photograph` for"
    " their photographs; needed only if photograph, file and checkpoint do not determine it",
)


def main() -> int:
    """Reads the flags, checks every file, translates."""
    for flag in (_INPUT, _OUTPUT):
        if not flag.value:
            raise UserError(f"--{flag.name} is missing; --help shows an example")
    # Slow imports, after the checks of the flags.
    from cocosnet_jax import checkpoint, inference, workdir
    from cocosnet_jax.data import pairing
    from cocosnet_jax.pretrained import SHIPPED

    if not _CHECKPOINT.value:
        print("--checkpoint is not given: using the shipped model of drawn scenes")
    restored = checkpoint.restore_for_inference(_CHECKPOINT.value or SHIPPED)
    settings = restored.settings
    translator = inference.Translator(restored, _SIZE.value)
    pose_size = _POSE_SIZE.value
    if not is_pose_size(pose_size):
        raise UserError(
            f"--pose-size={pose_size} must be WIDTHxHEIGHT, for example 128x192, or photograph"
        )
    if pose_size and settings.data.dataset not in POSE_DATASETS:
        print("note: --pose-size is ignored, because this checkpoint takes no poses")
    given = [flag.name for flag in (_EXEMPLAR, _EXEMPLAR_LABEL, _LIST) if flag.value]
    needed = inference.needs_exemplar(settings)
    if needed and not _EXEMPLAR.value:
        raise UserError(
            "--exemplar is missing; name the photograph whose style the results take (only a"
            " checkpoint of a plain translation network, configs/ade20k.py:plain, needs none)"
        )
    if not needed and given:
        print(f"note: --{given[0]} is ignored, because this checkpoint takes no exemplar")
    places = pairing.Pair(
        files.local(_INPUT.value, "--input"),
        files.local(_EXEMPLAR.value, "--exemplar") if needed else None,
        files.local(_EXEMPLAR_LABEL.value, "--exemplar-label")
        if needed and _EXEMPLAR_LABEL.value
        else None,
        files.local(_OUTPUT.value, "--output"),
    )
    pairs = pairing.find_pairs(
        places,
        _LIST.value if needed else "",
        settings.data,
        needs_label=inference.needs_exemplar_label(settings),
    )
    pairing.check(pairs, settings.data, warped=_WARPED.value, pose_size=pose_size)
    for folder in sorted({pair.output.parent for pair in pairs}):
        workdir.check_writable(checkpoint.absolute(folder), "output")
    print("compiling ...", flush=True)
    translator.compile()
    _write_translations(translator, pairs)
    print(f"step {restored.step} of {restored.folder}: {len(pairs)} picture(s) in {_OUTPUT.value}")
    return 0


def _write_translations(translator: "Translator", pairs: list["Pair"]) -> None:
    """Computes and writes the translations one by one.

    Raises:
      StorageError: a picture cannot be written.
    """
    import numpy as np
    import tqdm

    from cocosnet_jax import pictures
    from cocosnet_jax.checkpoint import absolute
    from cocosnet_jax.data import images, pairing

    data = translator.settings.data
    for pair in tqdm.tqdm(
        pairs, desc="translating", disable=len(pairs) == 1, unit=" pictures", file=sys.stdout
    ):
        planes = pairing.read(pair, data, translator.size, pose_size=_POSE_SIZE.value)
        outputs = translator.translate(planes.label, planes.exemplar, planes.exemplar_label)
        results = {pair.output: outputs.image[0]}
        if _WARPED.value and outputs.warped_exemplar is not None:
            results[pairing.warped_file(pair.output)] = outputs.warped_exemplar[0]
        for path, image in results.items():
            picture = pictures.to_bytes(np.asarray(image))
            if _ORIGINAL_SIZE.value:
                picture = images.resize_photograph(picture, planes.original_size)
            pictures.write_png(absolute(path), picture)


def run() -> None:
    """The command `cocosnet-translate`."""
    command.run(main, __doc__)


if __name__ == "__main__":
    run()
