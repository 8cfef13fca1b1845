"""Checks a dataset's files and writes the records for training.

    python -m cocosnet_jax.prepare --config=configs/ade20k.py --source=FOLDER

All problems of the files are reported at once, before anything is written. Ctrl-C and SIGTERM leave
nothing behind; the same command starts again. `--preview=sheet.png` writes a contact sheet of pairs
and distortions as in training.
"""

import dataclasses
import signal
import sys

from absl import flags

from cocosnet_jax import command, data, files
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import DataSettings

_SETTINGS = command.define_config(trains=False)
_SOURCE = flags.DEFINE_string("source", "", "the dataset's own folder; sets config.data.source")
_PREVIEW = flags.DEFINE_string("preview", "", "write a contact sheet to this PNG file")


def main() -> int:
    """Prepares the data, prints a summary, and writes the contact sheet on request."""
    settings = _SETTINGS({"data.source": _SOURCE.value} if _SOURCE.value else None).data
    preview = files.local(_PREVIEW.value, "--preview").absolute() if _PREVIEW.value else None
    if preview is not None:
        # Slow imports, only needed here.
        from cocosnet_jax import checkpoint, workdir

        if preview.suffix != ".png" or not preview.parent.is_dir():
            raise UserError(
                f"--preview={_PREVIEW.value} must be a .png file in a folder that exists"
            )
        workdir.check_writable(checkpoint.absolute(preview.parent), "preview")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if settings.channels == 0:
            settings = _with_counted_classes(settings)
        dataset = data.prepare(settings)
    except KeyboardInterrupt:
        print("interrupted: nothing is prepared; run the same command again", file=sys.stderr)
        return 130
    print(
        f"{settings.dataset} is prepared in {dataset.folder}: "
        + ", ".join(f"{count} {split}" for split, count in dataset.lengths.items())
    )
    for note in dataset.notes:
        print(note)
    if preview is not None:
        from cocosnet_jax import pictures
        from cocosnet_jax.data.preview import contact_sheet

        pictures.write_png(checkpoint.absolute(preview), contact_sheet(dataset))
        print(f"contact sheet: {_PREVIEW.value}")
    return 0


def _with_counted_classes(settings: DataSettings) -> DataSettings:
    """Counts the classes of the user's label maps, and prints the settings for training."""
    pixels = data.count_classes(settings)
    shares = [f"{label} {share:.1%}" for label, share in enumerate(pixels / pixels.sum()) if share]
    print(f"found {len(pixels)} classes; share of pixels by class: " + ", ".join(shares))
    if 2 * len(shares) < len(pixels):
        print(
            f"note: only {len(shares)} of the numbers 0 to {len(pixels) - 1} occur, but every"
            f" number takes memory and time; consider numbering the classes 0 to {len(shares) - 1}"
        )
    needed = f"--config.data.channels={len(pixels)}"
    if settings.value_255:
        needed += f" --config.data.value_255={settings.value_255}"
    print(f"for training, add {needed}")
    return dataclasses.replace(settings, channels=len(pixels))


def run() -> None:
    """The command `cocosnet-prepare`."""
    command.run(main, __doc__)


if __name__ == "__main__":
    run()
