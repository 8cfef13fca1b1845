r"""Measures finished pictures, made by any program, as the papers of this field do.

    python -m cocosnet_jax.evaluate --generated=results --real=photographs \
        --labels=labels --exemplars=photographs --exemplar-labels=labels --list=test.txt \
        --inception=pt_inception-2015-12-05-6726825d.pth --vgg=vgg19_conv.pth --output=report

FID and KID need `--inception`. Semantic consistency needs `--labels` and `--vgg`, and style
relevance the exemplars and their label maps as well. LPIPS needs `--lpips` and torchvision's
VGG-16. SWD needs nothing. What cannot be measured is left out, and the report says what to give.

Files of the same name belong together; extensions do not matter. What `translate` writes beside
its results (`_warped`, `_confidence`, the sheets of a grid) is left out. `--list`
(`picture,exemplar`, a line per picture) names the exemplar of each picture; without it, exemplars
have the pictures' names.

`--output` gets metrics.json, metrics.md (a table beside the paper's figures), scores.csv with each
picture's scores, and best_and_worst.png to look at. After an interruption, the same command
continues where it stopped. `main --mode=evaluate` measures a run by the same code.

`--compare=A,B` makes one table of several runs, outputs of evaluations, and folders of pictures.
Folders that were not measured yet are measured first, by the other flags, as `--generated` would
be. Runs that were never evaluated are measured at their newest checkpoint, by their own settings.
Of other runs, the table has the newest evaluation, and names its step.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from absl import flags
from etils import epath

from cocosnet_jax import command, files
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import Settings

if TYPE_CHECKING:
    from cocosnet_jax import yardsticks
    from cocosnet_jax.data import picture_sets

_GENERATED = flags.DEFINE_string("generated", "", "folder of the pictures to measure")
_REAL = flags.DEFINE_string("real", "", "folder of photographs")
_UNPAIRED = flags.DEFINE_bool(
    "unpaired",
    False,
    "the photographs are not the truth of single pictures: measure only FID, KID and SWD, which"
    " compare sets, and style relevance",
)
_LABELS = flags.DEFINE_string("labels", "", "folder of the inputs' label maps")
_EXEMPLARS = flags.DEFINE_string("exemplars", "", "folder of exemplars")
_EXEMPLAR_LABELS = flags.DEFINE_string("exemplar-labels", "", "folder of the exemplars' label maps")
_LIST = flags.DEFINE_string("list", "", "exemplar list: lines `picture,exemplar`")
_OTHERS = flags.DEFINE_list(
    "others", None, "folders of more results of the same inputs, for LPIPS between them: A,B"
)
_VGG = flags.DEFINE_string(
    "vgg", "", "VGG of consistency and relevance, as in config.vgg.weights; the paper uses VGG-19"
)
_SIZE = flags.DEFINE_integer(
    "size", 0, "resize all pictures to this side (256 in the papers); 0 if they all have one size"
)
_OUTPUT = flags.DEFINE_string("output", "", "folder of the results")
_BATCH = flags.DEFINE_integer("batch", 8, "pictures per pass through the networks", lower_bound=1)
_COMPARE = flags.DEFINE_list(
    "compare",
    None,
    "runs, outputs of evaluations and folders of pictures, in one table: A,B; those that are not"
    " measured yet are measured first",
)
_JOIN = command.define_distributed()
_MEASURING = command.define_measuring()


def main() -> int:
    """Checks flags, weights and every file, measures, and writes the results."""
    compared = _COMPARE.value or []
    if compared and _GENERATED.value:
        raise UserError("--generated and --compare are both given; name all pictures in --compare")
    for flag in () if compared else (_GENERATED, _REAL, _OUTPUT):
        if not flag.value:
            raise UserError(f"--{flag.name} is missing; --help shows an example")
    if _SIZE.value < 0 or 0 < _SIZE.value < 16:
        raise UserError(f"--size={_SIZE.value} must be 16 or more, 256 for example")

    # Slow to import, so missing flags are reported first.
    from cocosnet_jax import distributed

    _JOIN()
    if compared:
        return _compare(compared)
    output = _output()
    ready = _check({"--generated": files.local(_GENERATED.value, "--generated")}, {})
    _measure(ready.sets["--generated"], ready.networks, output, output / "features")
    if distributed.is_lead():
        from cocosnet_jax import checkpoint, report

        report.show(checkpoint.absolute(output))
    return 0


def _compare(names: list[str]) -> int:
    """Measures what is not measured yet, then writes and prints the table."""
    from cocosnet_jax import checkpoint, distributed, evaluation, integrity, report

    folders = {name: checkpoint.absolute(name) for name in names}
    found = {name: report.find(folder) for name, folder in folders.items()}
    missing = [name for name in names if found[name] is None]
    runs = [name for name in missing if integrity.steps(folders[name] / checkpoint.FOLDER)]
    pictures = [name for name in missing if name not in runs]
    for name in pictures:
        if not folders[name].is_dir():
            raise UserError(f"--compare: {name} is no folder")
    for flag in (_REAL, _OUTPUT) if pictures else ():
        if not flag.value:
            raise UserError(
                f"--compare: {', '.join(pictures)} is neither an evaluation nor a run; to measure"
                f" pictures there, set --{flag.name}"
            )
    if pictures:
        _output()
    ready = _check(
        {name: files.local(name, "--compare") for name in pictures},
        {name: folders[name] for name in runs},
    )
    for place, name in enumerate(names):
        if name in runs:
            settings, networks = ready.runs[name]
            target = evaluation.evaluate(
                settings, folders[name], networks, picture_format=_MEASURING().format
            )
            found[name] = target / report.JSON
        elif name in pictures:
            output = _output() / f"{place + 1}_{folders[name].name}"
            distributed.say(f"measuring {name}; output: {output}")
            # All share one folder of features, so those of the photographs are computed once.
            _measure(ready.sets[name], ready.networks, output, _output() / "features")
            found[name] = checkpoint.absolute(output) / report.JSON
    if distributed.is_lead():
        text = report.compare({name: path for name, path in found.items() if path is not None})
        print(text, end="")
        if _OUTPUT.value:
            files.write(checkpoint.absolute(_OUTPUT.value) / "comparison.md", text.encode())
    return 0


class _Ready(NamedTuple):
    """The checked arguments: sets of pictures by name, their networks, and runs with theirs."""

    sets: dict[str, "picture_sets.PictureSets"]
    networks: "yardsticks.Yardsticks"
    runs: dict[str, "tuple[Settings, yardsticks.Yardsticks]"]


def _check(pictures: Mapping[str, Path], runs: Mapping[str, epath.Path]) -> _Ready:
    """Reads every file once, so that errors are found before the measuring begins.

    Args:
      pictures: name -> folder of generated pictures.
      runs: name -> workdir.

    Raises:
      UserError: lists all that is wrong.
    """
    import jax

    from cocosnet_jax import evaluation, preparation, workdir, yardsticks
    from cocosnet_jax.data import picture_sets

    def local(flag: flags.FlagHolder[str]) -> Path | None:
        return files.local(flag.value, f"--{flag.name}") if flag.value else None

    given = _MEASURING()
    wrong = []
    ready = _Ready({}, yardsticks.Yardsticks(), {})
    for name, folder in pictures.items():
        try:
            sets = picture_sets.find(
                folder,
                files.local(_REAL.value, "--real"),
                labels=local(_LABELS),
                exemplar_folder=local(_EXEMPLARS),
                exemplar_labels=local(_EXEMPLAR_LABELS),
                list_file=_LIST.value,
                others=[files.local(folder, "--others") for folder in _OTHERS.value or []],
                paired=not _UNPAIRED.value,
            )
            ready.sets[name] = picture_sets.check(sets, _SIZE.value, given.format)
        except UserError as error:
            wrong.append(str(error))
    try:
        # Nothing is downloaded for a command that ends with an error.
        if pictures and not (wrong and _VGG.value == "keras"):
            networks = yardsticks.load(given.inception, _VGG.value, given.lpips, given.lpips_vgg)
            ready = ready._replace(networks=networks)
        for name, folder in runs.items():
            settings = workdir.settings_of(folder).on_devices(jax.device_count())
            preparation.check_data(settings.data)
            networks = evaluation.networks_of(
                settings, given.inception, given.lpips, given.lpips_vgg
            )
            ready.runs[name] = settings, networks
    except UserError as error:
        wrong.append(str(error))
    if wrong:
        raise UserError("\n".join(wrong))
    return ready


def _output() -> Path:
    """The folder `--output`; raises UserError if it has pictures, or cannot be written to."""
    from cocosnet_jax import checkpoint, workdir

    output = files.local(_OUTPUT.value, "--output").absolute()
    # The next measuring would take what is written there for pictures.
    for flag in (_GENERATED, _REAL, _LABELS, _EXEMPLARS, _EXEMPLAR_LABELS):
        if flag.value and output == files.local(flag.value, f"--{flag.name}").absolute():
            raise UserError(f"--output and --{flag.name} are one folder; name another --output")
    workdir.check_writable(checkpoint.absolute(output), "output")
    return output


def _measure(
    sets: "picture_sets.PictureSets",
    networks: "yardsticks.Yardsticks",
    output: Path,
    features: Path,
) -> None:
    """Measures checked pictures, and writes the results into `output`."""
    from cocosnet_jax import checkpoint, distributed, measure, report, subjects

    subject = subjects.of_folders(sets, _LIST.value)
    measured = measure.measure(subject, networks, features, _BATCH.value)
    if distributed.is_lead():
        numbers = {"images": len(subject.keys)}
        report.write(checkpoint.absolute(output), measured, subject, numbers)


def run() -> None:
    """The command `cocosnet-evaluate`."""
    command.run(main, __doc__)


if __name__ == "__main__":
    run()
