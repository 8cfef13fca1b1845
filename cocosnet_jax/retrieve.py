r"""Finds the exemplars of every image and writes them as a list, `key,ref1,ref2,...`, best first.

    python -m cocosnet_jax.retrieve --config=configs/ade20k.py --config.data.source=FOLDER \
        --config.vgg.weights=vgg19.pth --output=ref.txt

lists for each training photograph the training photographs most like it. With --split=validation
the list is for validation photographs, and its exemplars are training photographs. The query is
then the photograph itself, which is what is to be made; the paper's query is the output of a plain
translation network, a run of `configs/ade20k.py:plain`:

    python -m cocosnet_jax.retrieve ... --split=validation --checkpoint=PLAIN_RUN --output=test.txt

Photographs are compared by the cosine of their VGG features (relu5_2, mean over positions). The
search is exact, on the accelerator, in blocks: its memory does not grow with the number of images.
Features are kept in `OUTPUT.features/`; an interrupted run goes on from there, and another --k
needs no new ones.
"""

import sys

from absl import flags

from cocosnet_jax import command, files
from cocosnet_jax.errors import UserError

_SETTINGS = command.define_config(trains=False)
_OUTPUT = flags.DEFINE_string("output", "", "list file to write")
_SPLIT = flags.DEFINE_enum("split", "train", ["train", "validation"], "whose exemplars to find")
_K = flags.DEFINE_integer("k", 10, "exemplars per image", lower_bound=1)
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", "", "run of a plain translation network, whose outputs are the queries"
)
_BATCH = flags.DEFINE_integer("batch", 16, "photographs per pass through VGG", lower_bound=1)


def main() -> int:
    """Checks the flags, finds the exemplars, writes the list."""
    # The lists are what is to be made.
    settings = _SETTINGS({"data.exemplar_list": "", "data.validation_exemplar_list": ""})
    output = files.local(_OUTPUT.value, "--output")
    if not _OUTPUT.value or output.is_dir() or not output.absolute().parent.is_dir():
        raise UserError(f"--output={_OUTPUT.value} must name a file in a folder that exists")
    # Slow to import: what is wrong with the flags is said first.
    from cocosnet_jax import search

    try:
        search.write_list(
            settings,
            output,
            split=_SPLIT.value,
            k=_K.value,
            checkpoint_path=_CHECKPOINT.value,
            batch_size=_BATCH.value,
        )
    except KeyboardInterrupt:
        print("interrupted: the same command goes on where this one stopped", file=sys.stderr)
        return 130
    return 0


def run() -> None:
    """The command `cocosnet-retrieve`."""
    command.run(main, __doc__)


if __name__ == "__main__":
    run()
