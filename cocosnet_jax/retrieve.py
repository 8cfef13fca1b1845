r"""Finds the exemplars of every image and writes them as a list, `key,ref1,ref2,...`, best first.

    python -m cocosnet_jax.retrieve --config=configs/ade20k.py --config.data.source=FOLDER \
        --config.vgg.weights=vgg19.pth --output=ref.txt

This lists the most similar training photographs for each training photograph. With
--split=validation, it lists training photographs for each validation photograph. The query is then
the validation photograph itself, the result that a translation aims at. The paper's query is the
output of a plain translation network instead, a run of `configs/ade20k.py:plain`:

    python -m cocosnet_jax.retrieve ... --split=validation --checkpoint=PLAIN_RUN --output=test.txt

Photographs are compared by the cosine of their VGG features (relu5_2, mean over positions). The
search is exact and runs on the accelerator in blocks, so its memory does not grow with the number
of images. `OUTPUT.features/` caches the features, so that an interrupted run continues, and another
--k is fast.
"""

import sys

from absl import flags

from cocosnet_jax import command, files
from cocosnet_jax.errors import UserError

_SETTINGS = command.define_config(trains=False)
_OUTPUT = flags.DEFINE_string("output", "", "list file to write")
_SPLIT = flags.DEFINE_enum(
    "split", "train", ["train", "validation"], "the images to find exemplars for"
)
_K = flags.DEFINE_integer("k", 10, "exemplars per image", lower_bound=1)
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", "", "run of a plain translation network, whose outputs are the queries"
)
_BATCH = flags.DEFINE_integer("batch", 16, "photographs per pass through VGG", lower_bound=1)


def main() -> int:
    """Checks the flags, finds the exemplars, writes the list."""
    # The command makes the lists.
    settings = _SETTINGS({"data.exemplar_list": "", "data.validation_exemplar_list": ""})
    output = files.local(_OUTPUT.value, "--output")
    if not _OUTPUT.value or output.is_dir() or not output.absolute().parent.is_dir():
        raise UserError(f"--output={_OUTPUT.value} must be a file in a folder that exists")
    # Slow import, after the checks of the flags.
    from cocosnet_jax import checkpoint, search, workdir

    workdir.check_writable(checkpoint.absolute(output.parent), "output")
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
        print("interrupted: run the same command again to continue", file=sys.stderr)
        return 130
    return 0


def run() -> None:
    """The command `cocosnet-retrieve`."""
    command.run(main, __doc__)


if __name__ == "__main__":
    run()
