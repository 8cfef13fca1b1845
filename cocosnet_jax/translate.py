r"""Translates label maps, edges or poses to photographs in the style of exemplars.

    python -m cocosnet_jax.translate --checkpoint=runs/ade20k \
        --input=label.png --exemplar=photo.jpg --exemplar-label=photo.png --output=out.png

The checkpoint's dataset determines the kind of input: a label map, OpenPose's file, an edge map, or
a photograph in the dataset's own layout (CelebA-HQ, DeepFashion), with annotations as in training.
An exemplar in such a layout needs no `--exemplar-label`. A checkpoint of a plain translation
network (`configs/ade20k.py:plain`) takes no exemplar. Without
`--checkpoint`, the program's own small model of drawn scenes is used; `python -m
cocosnet_jax.apps.demo` writes an input and an exemplar for it.

`--input` may be a folder of inputs; `--output` must then be a folder too. Label maps may be PNG,
BMP, TIFF or WebP, as long as they are stored without loss. The photograph X.jpg beside a label map
X.png is left out. All inputs use the same
exemplars, unless `--exemplar` and `--exemplar-label` are folders and `--list` gives each input its
exemplar (lines `input,exemplar`; if a line has several exemplars, the first is used). Inputs
without a line are left out.

Several exemplars are given by a folder, or by `--exemplar` several times. Each input then has a
result in the style of each, OUTPUT/INPUT/EXEMPLAR.png, and OUTPUT/grid.png shows them all: inputs
at the left, exemplars along the top. With `--blend`, each input has one result instead: each of its
places takes what matches it best in any of the exemplars.

With several devices, each translates whole pictures. If there are fewer pictures than devices, or a
picture does not fit in the memory of one, the devices share the rows of each picture, provided that
their number divides SIZE / 32 (8 devices: 256, 512, ...).

An input of any width and height is resized to the square that the networks see, photographs by
bicubic interpolation and label maps by the nearest pixel; edges and poses are drawn at that size.
`--original-size` resizes the result back. `--confidence` writes a grey picture for each result: how
sharp the match of each place is, 1 - H / log(n), where H is the entropy of the softmax over the n
places of the exemplar (of all exemplars in a blend). White (255) is 1, where one place has all the
weight; black (0) is 0, where all have the same.

All files are checked before the first picture is written. The metadata of a result contain a digest
of everything that it was made from. If the command is interrupted and run again, finished results
are kept, and those whose input, exemplar, checkpoint or options have changed are made again.

A pose is drawn on a canvas of its photograph's size. The photograph is found by the dataset's
layout (`images/` beside `poses/`, `img/` beside `pose/`) or beside the pose file; that of the
exemplar's pose is `--exemplar`. Without a photograph, the file (`canvas_width`, `canvas_height`) or
`--pose-size=WIDTHxHEIGHT` states the size.
"""

import time
from typing import TYPE_CHECKING

from absl import flags

from cocosnet_jax import command, files
from cocosnet_jax.errors import UserError
from cocosnet_jax.pretrained import CHECKPOINT_FLAG, or_shipped
from cocosnet_jax.settings import POSE_DATASETS, Settings, is_pose_size

if TYPE_CHECKING:
    from cocosnet_jax.data.pairing import Places

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    "",
    CHECKPOINT_FLAG,
)
_INPUT = flags.DEFINE_string("input", "", "label map, pose file, ..., or a folder of them")
_EXEMPLAR = flags.DEFINE_multi_string(
    "exemplar", [], "photograph, or a folder of photographs; may be given several times"
)
_EXEMPLAR_LABEL = flags.DEFINE_multi_string(
    "exemplar-label",
    [],
    "the exemplar's label map, or for a folder of exemplars the folder of theirs; as many times as"
    " --exemplar, in the same order",
)
_BLEND = flags.DEFINE_bool(
    "blend", False, "one result of all exemplars together, instead of one for each exemplar"
)
_LIST = flags.DEFINE_string("list", "", "exemplar list: lines `input,exemplar`")
_OUTPUT = flags.DEFINE_string("output", "", "picture to write (.png, .jpg), or a folder")
_FORMAT = flags.DEFINE_enum(
    "format",
    "png",
    ["png", "jpeg"],
    "format of pictures in a folder; jpeg has quality 95 and full colour resolution (4:4:4)",
)
_WARPED = flags.DEFINE_bool("warped", False, "also write the warped exemplar, as NAME_warped")
_CONFIDENCE = flags.DEFINE_bool(
    "confidence", False, "also write how sharp the match of each place is, as NAME_confidence.png"
)
_SIZE = flags.DEFINE_integer(
    "size", 0, "side of the square result, a multiple of 32; 0 for the size of the training"
)
_ORIGINAL_SIZE = flags.DEFINE_bool(
    "original-size", False, "resize results to the input's own width and height"
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch-size",
    0,
    "pictures per batch, which all devices share evenly. 0 chooses: one per device on CPUs, where"
    " larger batches are not faster; on GPUs and TPUs, per device, the pixels of eight pictures of"
    " 256 x 256, or fewer if they do not fit in memory",
    lower_bound=0,
)
_BFLOAT16 = flags.DEFINE_bool(
    "bfloat16",
    False,
    "compute the networks in bfloat16, which is faster, takes less memory on GPUs and TPUs, and is"
    " slightly less exact; by default, as in training",
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
    from cocosnet_jax import checkpoint, inference, translations, workdir
    from cocosnet_jax.data import pair_files, pairing

    restored = checkpoint.restore_for_inference(or_shipped(_CHECKPOINT.value))
    settings = restored.settings
    translator = inference.Translator(
        restored,
        _SIZE.value,
        bfloat16=_BFLOAT16.value,
        advice="set a smaller --batch-size, or --size to {size}"
        if _BATCH_SIZE.value > 1
        else "set --size to {size}",
    )
    needed = settings.model.needs_exemplar
    _check_flags(settings, needed)
    places = _places(needed)
    exemplar_list = _LIST.value if needed else ""
    ending = {"png": ".png", "jpeg": ".jpg"}[_FORMAT.value]
    pairs = pairing.find_pairs(
        places,
        exemplar_list,
        settings.data,
        needs_label=settings.model.needs_exemplar_label,
        blend=_BLEND.value,
        ending=ending,
    )
    sheets = None
    if pairing.makes_grid(places, exemplar_list, _BLEND.value):
        sheets = translations.Sheets(pairs, places.output, ending, translator.size)
    extra = pair_files.Extra(needed and _WARPED.value, needed and _CONFIDENCE.value)
    pair_files.check(
        pairs,
        settings.data,
        extra=extra,
        sheets=list(sheets.files) if sheets else [],
        pose_size=_POSE_SIZE.value,
    )
    for folder in sorted({pair.output.parent for pair in pairs}):
        workdir.check_writable(checkpoint.absolute(folder), "output")
    reader = pair_files.Reader(settings.data, translator.size, _POSE_SIZE.value)
    made = translations.Translations(
        translator, reader, translations.Options(extra, _ORIGINAL_SIZE.value)
    )
    missing = made.missing(pairs)
    if missing:
        size = f"{translator.size} x {translator.size}"
        print(f"compiling for {size} ...", flush=True)
        began = time.monotonic()
        # For the number of all pairs, so that an interrupted command continues with the same
        # program.
        batch_size = made.compile(pairs, _BATCH_SIZE.value)
        print(f"compiled after {time.monotonic() - began:.0f} s", flush=True)
        if len(missing) == 1:
            # Its networks are one program, so there is no progress to show.
            print(f"translating a picture of {size} ...", flush=True)
        began = time.monotonic()
        made.write(missing, batch_size)
        print(f"translated after {time.monotonic() - began:.0f} s", flush=True)
    if sheets:
        sheets.write(reader, settings.data, _ORIGINAL_SIZE.value)
    there = len(pairs) - len(missing)
    print(
        f"step {restored.step} of {restored.folder}: {len(pairs)} picture(s) in {_OUTPUT.value}"
        + (f", of which {there} were there already" if there else "")
    )
    return 0


def _check_flags(settings: Settings, needed: bool) -> None:
    """Checks the flags that depend on the checkpoint; `needed` says whether it takes exemplars."""
    if not is_pose_size(_POSE_SIZE.value):
        raise UserError(
            f"--pose-size={_POSE_SIZE.value} must be WIDTHxHEIGHT, for example 128x192, or"
            " photograph"
        )
    if _POSE_SIZE.value and settings.data.dataset not in POSE_DATASETS:
        print("note: --pose-size is ignored, because this checkpoint takes no poses")
    if needed and not any(_EXEMPLAR.value):
        raise UserError(
            "--exemplar is missing; name the photograph whose style the results take (only a"
            " checkpoint of a plain translation network, configs/ade20k.py:plain, needs none)"
        )
    if needed and _BLEND.value and _LIST.value:
        raise UserError(
            "--blend and --list are both given, but a list gives each input one exemplar; leave"
            " out one of them"
        )
    of_exemplars = (_EXEMPLAR, _EXEMPLAR_LABEL, _LIST, _BLEND, _WARPED, _CONFIDENCE)
    given = [flag.name for flag in of_exemplars if flag.value]
    if not needed and given:
        print(f"note: --{given[0]} is ignored, because this checkpoint takes no exemplar")


def _places(needed: bool) -> "Places":
    """The files and folders of the flags; without exemplars unless they are `needed`."""
    from cocosnet_jax.data import pairing

    exemplars, labels = (
        tuple(files.local(path, f"--{flag.name}") for path in flag.value if path and needed)
        for flag in (_EXEMPLAR, _EXEMPLAR_LABEL)
    )
    return pairing.Places(
        files.local(_INPUT.value, "--input"),
        exemplars,
        labels,
        files.local(_OUTPUT.value, "--output"),
    )


def run() -> None:
    """The command `cocosnet-translate`."""
    command.run(main, __doc__)


if __name__ == "__main__":
    run()
