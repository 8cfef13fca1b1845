"""What edit, makeup and correspond have in common: their flags, and how they read files."""

from pathlib import Path

import numpy as np
from absl import flags
from jaxtyping import UInt8

from cocosnet_jax import checkpoint, files, inference, workdir
from cocosnet_jax.data import images
from cocosnet_jax.errors import UserError
from cocosnet_jax.pretrained import CHECKPOINT_FLAG, or_shipped

# Flags are defined when a command starts, not when its module is imported: a program may import
# several commands for their functions.


def define_flags(**described: str) -> None:
    """Defines flags of text with these descriptions, `--checkpoint` and `--size`."""
    flags.DEFINE_string(
        "checkpoint",
        "",
        CHECKPOINT_FLAG,
    )
    for name, description in described.items():
        flags.DEFINE_string(name.replace("_", "-"), "", description)
    flags.DEFINE_integer(
        "size",
        0,
        "side of the square pictures that the networks see, a multiple of 32; 0 for the size of"
        " the training",
    )


def given(name: str) -> str:
    """The value of a flag of text, empty if it is not given."""
    return str(flags.FLAGS[name].value)


def file(name: str, kind: str = "") -> Path:
    """The file or folder that a flag names.

    Args:
      name: the flag.
      kind: what the flag has to name, for the message; empty if it may be left out.

    Raises:
      UserError: the flag is missing, or names a place in a bucket.
    """
    if kind and not given(name):
        raise UserError(f"--{name} is missing; name {kind}, --help shows an example")
    return files.local(given(name), f"--{name}")


def open_translator() -> inference.Translator:
    """The networks of `--checkpoint`, for pictures of `--size`.

    Raises:
      UserError: there is no such checkpoint, or its networks take no exemplar.
    """
    restored = checkpoint.restore_for_inference(or_shipped(given("checkpoint")))
    if not restored.settings.model.needs_exemplar:
        raise UserError(
            f"--checkpoint={given('checkpoint')} is a plain translation network, which finds no"
            " correspondence; name a checkpoint that takes an exemplar"
        )
    return inference.Translator(restored, int(flags.FLAGS["size"].value or 0))


def check_outputs(outputs: list[Path], read: list[Path]) -> None:
    """Checks that files can be written.

    Args:
      outputs: to be written.
      read: files that are read.

    Raises:
      UserError: a folder cannot be written to, an output would replace a file that is read, or
        two outputs are one file.
    """
    taken = {path.resolve() for path in read}
    for output in outputs:
        if output.resolve() in taken:
            raise UserError(
                f"--output: {output} would replace an input or another output; choose another"
                " --output, or rename the input"
            )
        taken.add(output.resolve())
    for folder in sorted({output.parent for output in outputs}):
        workdir.check_writable(checkpoint.absolute(folder), "output")


def at_size(
    photograph: UInt8[np.ndarray, "rows columns 3"], translator: inference.Translator
) -> UInt8[np.ndarray, "1 height width 3"]:
    """A batch of one photograph, at the translator's S x S."""
    return images.resize_photograph(photograph, (translator.size, translator.size))[None]
