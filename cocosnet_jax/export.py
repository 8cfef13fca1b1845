r"""Exports a checkpoint as a program that runs without this package.

    python -m cocosnet_jax.export --checkpoint=runs/ade20k --output=exported
    cd exported && python run.py result.png label.png photo.jpg

The folder receives

    program.jax          the translation in the format of `jax.export`, for CPUs, NVIDIA GPUs and
                         TPUs, for any number of pictures at once
    weights.safetensors  its weights, which `--checkpoint` of the other commands accepts, too
    model.json           names, shapes, types and meaning of inputs and outputs; the classes
    run.py               an example; it needs jax, numpy, safetensors and pillow
    model.onnx           with --onnx: the translation of one picture with its weights

Without `--checkpoint`, the shipped model of drawn scenes is exported. docs/export.md says more.
"""

import json

from absl import flags

from cocosnet_jax import command, files
from cocosnet_jax.errors import UserError
from cocosnet_jax.pretrained import CHECKPOINT_FLAG, or_shipped

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    "",
    CHECKPOINT_FLAG,
)
_OUTPUT = flags.DEFINE_string("output", "", "folder to write; a new one, or an earlier export's")
_SIZE = flags.DEFINE_integer(
    "size", 0, "side of the square pictures, a multiple of 32; 0 for the size of the training"
)
_ONNX = flags.DEFINE_bool(
    "onnx", False, "also write model.onnx, for one picture at a time; needs jax2onnx"
)

PROGRAM, WEIGHTS, ABOUT, RUN = "program.jax", "weights.safetensors", "model.json", "run.py"
ONNX = "model.onnx"

EXAMPLE = '''\
"""Translates a picture: python run.py RESULT.png, then the inputs as model.json lists them."""

import json
import pathlib
import sys

import jax
import numpy as np
from jax import export
from PIL import Image, ImageOps
from safetensors.numpy import load_file

FOLDER = pathlib.Path(__file__).parent
ABOUT = json.loads((FOLDER / "model.json").read_text())
NAMES = [about["name"].upper() for about in ABOUT["inputs"]]


def read(path, about):
    """A picture of any size, or an array (height, width, planes) as .npy, as a batch of one."""
    _, height, width, planes = about["shape"]
    if path.endswith(".npy"):
        return np.load(path)[None]
    picture, how = Image.open(path), Image.Resampling.NEAREST
    if about["name"] == "exemplar":
        picture, how = ImageOps.exif_transpose(picture), Image.Resampling.BICUBIC
        if picture.mode.startswith("I;16"):
            picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
        picture = picture.convert("RGB")
    picture = picture.resize((width, picture.height), how).resize((width, height), how)
    array = np.asarray(picture)
    if array.size != height * width * planes or array.max() > about["range"][1]:
        wanted = f"{planes} number(s) per pixel, 0 to {about['range'][1]}"
        sys.exit(f"{path} is no {about['name']}, which has {wanted}")
    return array.astype(np.uint8).reshape(1, height, width, planes)


if len(sys.argv) != 2 + len(NAMES):
    sys.exit(f"usage: python run.py RESULT.png {' '.join(NAMES)}")
result, *given = sys.argv[1:]
program = export.deserialize((FOLDER / "program.jax").read_bytes())
weights = load_file(FOLDER / "weights.safetensors")
inputs = [read(path, about) for path, about in zip(given, ABOUT["inputs"])]
outputs = jax.jit(program.call)(weights, *inputs)
image = np.rint((np.asarray(outputs["image"][0]) + 1) * 127.5).astype(np.uint8)
Image.fromarray(image).save(result)
'''


def main() -> None:
    """Reads the flags, exports, writes."""
    if not _OUTPUT.value:
        raise UserError("--output is missing; name the folder to write")
    # Slow imports, after the checks of the flags.
    from cocosnet_jax import checkpoint, inference, portable, weights_file, workdir

    folder = checkpoint.absolute(files.local(_OUTPUT.value, "--output"))
    workdir.check_writable(folder, "output")
    names = {PROGRAM, WEIGHTS, ABOUT, RUN, ONNX}
    if others := sorted({path.name for path in folder.glob("*")} - names):
        raise UserError(
            f"--output={_OUTPUT.value} contains {others[0]}, which is no part of an export; name a"
            " new folder"
        )
    settings, state, step, _ = checkpoint.restore_for_inference(or_shipped(_CHECKPOINT.value))
    size = inference.side_of(settings.data, _SIZE.value)
    contents = {}
    if _ONNX.value:
        print("converting to ONNX, which takes a minute or more ...", flush=True)
        contents[ONNX] = portable.to_onnx(settings, state, size)
    print(f"lowering for {', '.join(portable.PLATFORMS)} ...", flush=True)
    contents[PROGRAM] = bytes(portable.lower(settings, state, size).serialize())
    contents[RUN] = EXAMPLE.encode()
    about = portable.describe(settings, size, step)
    contents[ABOUT] = (json.dumps(about, indent=2) + "\n").encode()
    (folder / ONNX).unlink(missing_ok=True)  # It may be an earlier export's.
    weights_file.write(folder / WEIGHTS, settings, state)
    for name, content in contents.items():
        files.write(folder / name, content)
    for name in sorted({*contents, WEIGHTS}):
        print(f"{folder / name}: {(folder / name).stat().length / 2**20:.2f} MiB")


def run() -> None:
    """The command `cocosnet-export`."""
    command.run(main, __doc__)


if __name__ == "__main__":
    run()
