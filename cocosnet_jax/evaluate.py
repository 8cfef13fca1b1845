r"""Measures finished pictures, whoever made them, as the papers of this field do.

    python -m cocosnet_jax.evaluate --generated=results --real=photographs \
        --labels=labels --exemplars=photographs --exemplar-labels=labels --list=test.txt \
        --inception=pt_inception-2015-12-05-6726825d.pth --vgg=vgg19_conv.pth --output=report

FID and KID need `--inception`. Semantic consistency needs `--labels` and `--vgg`, and style
relevance the exemplars and their label maps as well. LPIPS needs `--lpips` and torchvision's
VGG-16. SWD needs nothing. What cannot be measured is left out, and the report says what to give.

Files belong together by their names, whatever their extensions are. `--list` (`picture,exemplar`, a
line per picture) says which exemplar each has; without it exemplars have the pictures' names.

`--output` gets metrics.json, metrics.md (a table beside the paper's figures), scores.csv with each
picture's scores, and best_and_worst.png to look at. An interrupted measuring goes on where it
stopped. `main --mode=evaluate` measures a run by the same code, and `--compare=A,B` makes one table
of several runs or outputs.
"""

from pathlib import Path

from absl import flags

from cocosnet_jax import command, files
from cocosnet_jax.errors import UserError

_GENERATED = flags.DEFINE_string("generated", "", "folder of the pictures to measure")
_REAL = flags.DEFINE_string("real", "", "folder of photographs")
_UNPAIRED = flags.DEFINE_bool(
    "unpaired",
    False,
    "the photographs are no truth of the single pictures: only the sets are compared, by FID, KID"
    " and SWD, and style relevance",
)
_LABELS = flags.DEFINE_string("labels", "", "folder of the inputs' label maps")
_EXEMPLARS = flags.DEFINE_string("exemplars", "", "folder of exemplars")
_EXEMPLAR_LABELS = flags.DEFINE_string("exemplar-labels", "", "folder of the exemplars' label maps")
_LIST = flags.DEFINE_string("list", "", "exemplar list: lines `picture,exemplar`")
_OTHERS = flags.DEFINE_list(
    "others", None, "folders of more results of the same inputs, for LPIPS between them: A,B"
)
_VGG = flags.DEFINE_string(
    "vgg", "", "VGG of consistency and relevance, as config.vgg.weights; the paper's is VGG-19"
)
_SIZE = flags.DEFINE_integer(
    "size", 0, "resize all pictures to this side (256 in the papers); 0 where they have one size"
)
_OUTPUT = flags.DEFINE_string("output", "", "folder for what is measured")
_BATCH = flags.DEFINE_integer("batch", 8, "pictures per pass through the networks", lower_bound=1)
_COMPARE = flags.DEFINE_list(
    "compare", None, "runs or outputs of evaluations, in one table: A,B; measures nothing"
)
_DISTRIBUTED = command.define_distributed()
_MEASURING = command.define_measuring()


def main() -> int:
    """Checks flags, weights and every file, measures, and writes what came out."""
    if _COMPARE.value:
        return _compare(_COMPARE.value)
    for flag in (_GENERATED, _REAL, _OUTPUT):
        if not flag.value:
            raise UserError(f"--{flag.name} is missing; --help shows an example")
    if _SIZE.value < 0 or 0 < _SIZE.value < 16:
        raise UserError(f"--size={_SIZE.value} must be 16 or more, 256 for example")

    # Slow to import: missing flags are said first.
    from cocosnet_jax import checkpoint, distributed, measure, report, subjects, workdir, yardsticks
    from cocosnet_jax.data import picture_sets

    distributed.join(_DISTRIBUTED.value)

    def local(flag: flags.FlagHolder[str]) -> Path | None:
        return files.local(flag.value, f"--{flag.name}") if flag.value else None

    output = files.local(_OUTPUT.value, "--output").absolute()
    target = checkpoint.absolute(output)
    workdir.check_writable(target, "output")
    given = _MEASURING()
    wrong = []
    try:
        sets = picture_sets.find(
            files.local(_GENERATED.value, "--generated"),
            files.local(_REAL.value, "--real"),
            labels=local(_LABELS),
            exemplar_folder=local(_EXEMPLARS),
            exemplar_labels=local(_EXEMPLAR_LABELS),
            list_file=_LIST.value,
            others=[files.local(folder, "--others") for folder in _OTHERS.value or []],
            paired=not _UNPAIRED.value,
        )
        sets = picture_sets.check(sets, _SIZE.value, given.format)
    except UserError as error:
        wrong.append(str(error))
    try:
        networks = yardsticks.load(given.inception, _VGG.value, given.lpips, given.lpips_vgg)
    except UserError as error:
        wrong.append(str(error))
    if wrong:
        raise UserError("\n".join(wrong))
    subject = subjects.of_folders(sets, _LIST.value)
    measured = measure.measure(subject, networks, output / "features", _BATCH.value)
    if distributed.is_lead():
        report.write(target, measured, subject, {"images": len(subject.keys)})
        report.show(target)
    return 0


def _compare(folders: list[str]) -> int:
    """Writes and prints the table of several evaluations."""
    from cocosnet_jax import checkpoint, report

    text = report.compare(folders)
    print(text, end="")
    if _OUTPUT.value:
        files.write(checkpoint.absolute(_OUTPUT.value) / "comparison.md", text.encode())
    return 0


def run() -> None:
    """The command `cocosnet-evaluate`."""
    command.run(main, __doc__)


if __name__ == "__main__":
    run()
