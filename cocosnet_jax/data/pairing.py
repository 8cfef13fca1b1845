"""Pairs the files of translations: each input with its exemplars and its output.

Messages name the flags of `cocosnet_jax.translate` (`--input`, `--exemplar`, ...). `pair_files`
checks and reads the files. This module needs neither TensorFlow nor JAX.
"""

from pathlib import Path
from typing import NamedTuple

from cocosnet_jax.data import exemplars, images, inputs, source_files
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import DataSettings

PICTURES = (".png", ".jpg", ".jpeg")  # endings of results


class Places(NamedTuple):
    """The files and folders that the user names.

    Attributes:
      labels: an input, or a folder of inputs.
      exemplars: photographs, or folders of them; empty if the model takes none.
      exemplar_labels: for each of `exemplars` its label map or pose, or the folder of these (same
        names); empty if they are not given.
      output: a file, or a folder.
    """

    labels: Path
    exemplars: tuple[Path, ...]
    exemplar_labels: tuple[Path, ...]
    output: Path


class Pair(NamedTuple):
    """The files of one translation.

    Attributes:
      label: the input.
      exemplars: one photograph; several for a blend; none if the model takes none.
      exemplar_labels: their label maps or poses; empty if the model does not take them.
      output: the result.
    """

    label: Path
    exemplars: tuple[Path, ...]
    exemplar_labels: tuple[Path, ...]
    output: Path


class _Exemplar(NamedTuple):
    """A photograph, its label map if the model takes it, and the name of results in its style."""

    photograph: Path
    label: Path | None
    name: str


def makes_grid(places: Places, list_file: str, blend: bool) -> bool:
    """Whether each input has a result for each exemplar, so that they make a grid."""
    several = len(places.exemplars) > 1 or any(path.is_dir() for path in places.exemplars)
    return several and not list_file and not blend


def find_pairs(
    places: Places,
    list_file: str,
    data: DataSettings,
    *,
    needs_label: bool,
    blend: bool = False,
    ending: str = ".png",
) -> list[Pair]:
    """Pairs inputs with exemplars.

    The result of an input NAME is OUTPUT/NAME.png, or OUTPUT itself if that is a file. In a grid,
    it is OUTPUT/NAME/EXEMPLAR.png for each exemplar, and the pairs of an input follow each other.

    Args:
      places: the user's files or folders. With a list, `exemplars` is one folder of photographs.
      list_file: exemplar list, or empty.
      data: the model's data settings, which determine the kind of input.
      needs_label: whether the model takes the exemplar's label map.
      blend: whether each input has all exemplars at once, instead of a result for each.
      ending: of results in a folder.

    Raises:
      UserError: a file is missing, or the arguments contradict each other.
    """
    labels, output = places.labels, places.output
    if not labels.exists():
        raise UserError(f"--input={labels} does not exist; name a file or a folder of inputs")
    grid = makes_grid(places, list_file, blend)
    if labels.is_dir():
        names = _inputs_in(labels, data, output)
        if not names:
            raise UserError(
                f"--input={labels} contains no inputs for a model of {data.dataset}"
                f" ({', '.join(inputs.endings(data))})"
            )
        if output.suffix.lower() in images.EXTENSIONS or output.is_file():
            raise UserError(f"--output={output} must be a folder, because --input={labels} is one")
        if list_file:
            return _listed_pairs(places, names, list_file, data, needs_label, ending)
        made = {labels / name: (output / name).with_suffix(ending) for name in names}
    else:
        if list_file:
            raise UserError(
                f"--list needs a folder of inputs, but --input={labels} is a file; leave --list"
                " out, or name a folder"
            )
        if grid and (output.suffix.lower() in images.EXTENSIONS or output.is_file()):
            raise UserError(
                f"--output={output} must be a folder, because several exemplars make several"
                " results; or set --blend for one result of all exemplars"
            )
        if grid or output.is_dir():
            output = output / f"{labels.stem}{ending}"
        elif output.suffix.lower() not in PICTURES:
            raise UserError(
                f"--output={output} must end in .png or .jpg, or be a folder that exists"
            )
        made = {labels: output}
    given = _exemplars(places, data, needs_label)
    if grid:
        _check_names(given)
        return [
            _pair(label, [exemplar], path.with_suffix("") / f"{exemplar.name}{ending}")
            for label, path in made.items()
            for exemplar in given
        ]
    return [_pair(label, given, path) for label, path in made.items()]


def _pair(label: Path, given: list[_Exemplar], output: Path) -> Pair:
    maps = tuple(exemplar.label for exemplar in given if exemplar.label)
    return Pair(label, tuple(exemplar.photograph for exemplar in given), maps, output)


def _exemplars(places: Places, data: DataSettings, needs_label: bool) -> list[_Exemplar]:
    """All exemplars that the user names, those of a folder in alphabetical order."""
    maps: tuple[Path | None, ...] = places.exemplar_labels
    if maps and len(maps) != len(places.exemplars):
        raise UserError(
            f"--exemplar is given {len(places.exemplars)} times, but --exemplar-label"
            f" {len(maps)} times; give each exemplar its label map, in the same order"
        )
    found = []
    for path, given in zip(places.exemplars, maps or (None,) * len(places.exemplars), strict=True):
        if not path.is_dir():
            label = _exemplar_label(path, given, data, needs_label)
            found.append(_Exemplar(path, label, path.stem))
            continue
        if given is not None and not given.is_dir():
            raise UserError(
                f"--exemplar-label={given} must be a folder, because --exemplar={path} is one"
            )
        photographs = photographs_in(path, places.output)
        if not photographs:
            raise UserError(
                f"--exemplar={path} contains no photographs ({', '.join(images.EXTENSIONS)})"
            )
        for name in photographs:
            file = inputs.annotation_in(data, given, Path(name), path) if given else None
            label = _exemplar_label(path / name, file, data, needs_label)
            found.append(_Exemplar(path / name, label, Path(name).with_suffix("").as_posix()))
    return found


def _check_names(given: list[_Exemplar]) -> None:
    """Raises UserError if two exemplars would give their results the same name."""
    of: dict[str, Path] = {}
    for exemplar in given:
        if exemplar.name in of:
            raise UserError(
                f"--exemplar: {of[exemplar.name]} and {exemplar.photograph} have the same name,"
                " which is also that of their results; rename one of them"
            )
        of[exemplar.name] = exemplar.photograph


def photographs_in(folder: Path, output: Path) -> list[str]:
    """The photographs below a folder, without the label maps beside them.

    What lies in `output` is left out (`files_below`).
    """
    names = files_below(folder, output)
    names = [name for name in names if name.lower().endswith(images.EXTENSIONS)]
    maps, _ = _beside_each_other(names)
    return [name for name in names if name not in maps]


def _beside_each_other(names: list[str]) -> tuple[set[str], set[str]]:
    """The pictures that share their name with others: label maps, and their photographs."""
    of: dict[str, list[str]] = {}
    for name in names:
        if name.lower().endswith(images.EXTENSIONS):
            of.setdefault(str(Path(name).with_suffix("")), []).append(name)
    maps, photographs = set(), set()
    for group in of.values():
        endings = {Path(name).suffix.lower(): name for name in group}
        found = [endings[ending] for ending in inputs.LOSSLESS if ending in endings]
        if found and len(endings) > 1:
            maps.add(found[0])
            photographs |= {*group} - {found[0]}
    return maps, photographs


def _listed_pairs(
    places: Places,
    names: list[str],
    list_file: str,
    data: DataSettings,
    needs_label: bool,
    ending: str,
) -> list[Pair]:
    """The pairs of an exemplar list, for inputs with these names."""
    if len(places.exemplars) != 1 or not places.exemplars[0].is_dir():
        given = " --exemplar=".join(map(str, places.exemplars))
        raise UserError(f"--exemplar={given} must be one folder, because --list is given")
    folder, maps = places.exemplars[0], places.exemplar_labels
    if maps and (len(maps) != 1 or not maps[0].is_dir()):
        given = " --exemplar-label=".join(map(str, maps))
        raise UserError(f"--exemplar-label={given} must be one folder, because --list is given")
    photographs = photographs_in(folder, places.output)
    keys = [inputs.list_name(data, name) for name in names]
    pairing = exemplars.resolve(
        list_file, keys, photographs, first_only=True, place=f"--exemplar={folder}"
    )
    exemplars.require_match(list_file, pairing, names, "inputs")
    if note := exemplars.left_out_note(list_file, pairing, names, "inputs"):
        print(note)
    pairs = []
    for index, (reference, *_) in pairing.references.items():
        photograph = Path(photographs[reference])
        file = inputs.annotation_in(data, maps[0], photograph, folder) if maps else None
        label = _exemplar_label(folder / photograph, file, data, needs_label)
        exemplar = _Exemplar(folder / photograph, label, photograph.stem)
        target = (places.output / names[index]).with_suffix(ending)
        pairs.append(_pair(places.labels / names[index], [exemplar], target))
    return pairs


def _exemplar_label(
    photograph: Path, given: Path | None, data: DataSettings, needs_label: bool
) -> Path | None:
    """The file of an exemplar's map: the given one, or the photograph if its layout leads to it."""
    if given is not None or not needs_label:
        return given
    if inputs.has_annotation(data, photograph):
        return photograph
    raise UserError(
        "--exemplar-label is missing; this checkpoint needs the exemplar's label map"
        " (model.mask_input). Runs of configs/ade20k.py and configs/ade20k.py:noise do not"
    )


def _inputs_in(folder: Path, data: DataSettings, output: Path) -> list[str]:
    """The inputs below a folder.

    Without the photographs beside label maps, and the pose files of photographs that are inputs.
    """
    names = files_below(folder, output)
    _, photographs = _beside_each_other(names)
    if inputs.takes_photographs(data):
        photographs = set()
    names = [
        name for name in names if inputs.is_input(data, folder / name) and name not in photographs
    ]
    paths = {(folder / name).absolute() for name in names}
    return [name for name in names if inputs.photograph_of(data, folder / name) not in paths]


def files_below(folder: Path, output: Path | None = None) -> list[str]:
    """All files below a folder, as relative paths in alphabetical order.

    Links are followed. What lies in `output`, a folder below it, is left out: results of an earlier
    command.

    Raises:
      PermissionError: one of the folders may not be read, so that files would be missing.
    """
    own = None if output is None or output.resolve() == folder.resolve() else output.resolve()
    paths = (Path(name) for name, _ in source_files.files_below(folder))
    return sorted(
        path.relative_to(folder).as_posix()
        for path in paths
        if path.is_file() and (own is None or not path.resolve().is_relative_to(own))
    )
