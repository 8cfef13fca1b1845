r"""Translates label maps, edges or poses to photographs in the style of exemplars.

    python -m cocosnet_jax.translate --checkpoint=runs/ade20k \
        --input=label.png --exemplar=photo.jpg --exemplar-label=photo.png --output=out.png

What an input is follows from the checkpoint's dataset: a label map; OpenPose's file; an edge map;
or a photograph in the dataset's own layout (CelebA-HQ, DeepFashion), whose annotations are found
as in training. An exemplar in such a layout needs no `--exemplar-label`. A checkpoint of a plain
translation network (`configs/ade20k.py:plain`) takes no exemplar at all.

`--input` may be a folder of inputs; `--output` is one then as well. All of them take the one
exemplar, or `--exemplar` and `--exemplar-label` are folders and `--list` says which input takes
which exemplar (`input,exemplar`, a line per input); inputs without a line are left out. Everything
is read once before the first picture is written, so that what is wrong is said at the start.

A pose is drawn on a canvas of its photograph's size. The photograph is found by the dataset's
layout (`poses/` beside `images/`, `pose/` beside `img/`) or beside the pose file; an exemplar's is
`--exemplar`. Where there is none, the file may say its canvas (`canvas_width`, `canvas_height`), or
`--pose-size=WIDTHxHEIGHT` does.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from cocosnet_jax import command, files
from cocosnet_jax.data import exemplars, images, inputs, problems
from cocosnet_jax.data.labels import poses
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import POSE_DATASETS, DataSettings, Settings, is_pose_size

_CHECKPOINT = flags.DEFINE_string("checkpoint", "", "a run's workdir, or one checkpoint in it")
_INPUT = flags.DEFINE_string("input", "", "label map, pose file, ..., or a folder of them")
_EXEMPLAR = flags.DEFINE_string("exemplar", "", "photograph, or with --list a folder of them")
_EXEMPLAR_LABEL = flags.DEFINE_string(
    "exemplar-label", "", "the exemplar's label map, or with --list a folder of them"
)
_LIST = flags.DEFINE_string("list", "", "exemplar list: lines `input,exemplar`")
_OUTPUT = flags.DEFINE_string("output", "", "picture to write (.png), or a folder")
_WARPED = flags.DEFINE_bool("warped", False, "also write the warped exemplar, as NAME_warped.png")
_SIZE = flags.DEFINE_integer(
    "size", 0, "side of the square that is drawn, a multiple of 32; 0 for that of the training"
)
_ORIGINAL_SIZE = flags.DEFINE_bool(
    "original-size", False, "resize results to the input's own width and height"
)
_POSE_SIZE = flags.DEFINE_string(
    "pose-size",
    "",
    "WIDTHxHEIGHT of the pictures in which the poses of --input were detected, or `photograph` for"
    " their photographs; needed only where neither photograph, file nor checkpoint tells",
)


class Pair(NamedTuple):
    """One translation to make, as files; what the model does not take is None."""

    label: Path
    exemplar: Path | None
    exemplar_label: Path | None
    output: Path


def main() -> int:
    """Reads the flags, checks every file, translates."""
    for flag in (_CHECKPOINT, _INPUT, _OUTPUT):
        if not flag.value:
            raise UserError(f"--{flag.name} is missing; --help shows an example")
    # Slow to import: missing flags are said first.
    from cocosnet_jax import checkpoint, workdir

    restored = checkpoint.restore_for_inference(_CHECKPOINT.value)
    settings = restored.settings
    side = side_of(settings.data, _SIZE.value)
    pose_size = _POSE_SIZE.value
    if not is_pose_size(pose_size):
        raise UserError(
            f"--pose-size={pose_size} must be WIDTHxHEIGHT, for example 128x192, or photograph"
        )
    if pose_size and settings.data.dataset not in POSE_DATASETS:
        print("note: this checkpoint takes no poses: --pose-size is not read")
    given = [flag.name for flag in (_EXEMPLAR, _EXEMPLAR_LABEL, _LIST) if flag.value]
    needed = needs_exemplar(settings)
    if needed and not _EXEMPLAR.value:
        raise UserError(
            "--exemplar is missing: name the photograph whose style the results take; only a"
            " checkpoint of a plain translation network (configs/ade20k.py:plain) needs none"
        )
    if not needed and given:
        print(f"note: this checkpoint takes no exemplar: --{given[0]} is not read")
    pairs = find_pairs(
        files.local(_INPUT.value, "--input"),
        files.local(_EXEMPLAR.value, "--exemplar") if needed else None,
        files.local(_EXEMPLAR_LABEL.value, "--exemplar-label")
        if needed and _EXEMPLAR_LABEL.value
        else None,
        _LIST.value if needed else "",
        files.local(_OUTPUT.value, "--output"),
        settings.data,
        needs_label=needs_exemplar_label(settings),
    )
    check(pairs, settings.data, warped=_WARPED.value, pose_size=pose_size)
    for folder in sorted({pair.output.parent for pair in pairs}):
        workdir.check_writable(checkpoint.absolute(folder), "output")
    translate(pairs, settings, side, restored.state, pose_size)
    print(f"step {restored.step} of {restored.folder}: {len(pairs)} picture(s) in {_OUTPUT.value}")
    return 0


def side_of(data: DataSettings, size: int) -> int:
    """The side of what is drawn: `--size`, or where that is 0 the training's.

    Raises:
      UserError: the networks cannot draw that size.
    """
    if not size:
        return data.image_size
    if size < 64 or size % 32:
        raise UserError(
            f"--size={size} cannot be drawn: it must be a multiple of 32, 64 or more, for example"
            f" {max(64, round(size / 32) * 32)}"
        )
    return size


def needs_exemplar(settings: Settings) -> bool:
    """Whether the networks of these settings look at an exemplar."""
    return settings.model.generator_condition != "input"


def needs_exemplar_label(settings: Settings) -> bool:
    """Whether the correspondence network of these settings is given the exemplar's map."""
    model = settings.model
    return model.mask_input != "none" and model.mask_at_inference


def find_pairs(
    labels: Path,
    exemplar: Path | None,
    exemplar_label: Path | None,
    list_file: str,
    output: Path,
    data: DataSettings,
    *,
    needs_label: bool,
) -> list[Pair]:
    """Matches inputs with exemplars.

    Args:
      labels: an input, or a folder of them.
      exemplar: a photograph, or a folder that `list_file` names photographs in; None where the
        model takes none.
      exemplar_label: the same of its label maps, under the photographs' names with .png, or poses.
      list_file: exemplar list, or empty.
      output: where to write.
      data: of the model, which say what an input is.
      needs_label: whether the model takes the exemplar's label map.

    Raises:
      UserError: something is missing or does not fit together.
    """
    if not labels.exists():
        raise UserError(f"--input={labels} does not exist")

    def map_of(photograph: Path | None, given: Path | None) -> Path | None:
        if photograph is None or given is not None or not needs_label:
            return given
        if inputs.stands_for_itself(data, photograph):
            return photograph
        raise UserError(
            "--exemplar-label is missing: this checkpoint matches label maps as well as pictures"
            " (model.mask_input), so it takes the exemplar's label map; a run of"
            " configs/ade20k.py:noise or configs/ade20k.py needs none"
        )

    if not labels.is_dir():
        if list_file:
            raise UserError(f"--list goes with a folder of inputs, and --input={labels} is a file")
        if output.is_dir():
            output = output / f"{labels.stem}.png"
        return [Pair(labels, exemplar, map_of(exemplar, exemplar_label), _as_png(output))]

    names = _inputs_in(labels, data)
    if not names:
        raise UserError(f"--input={labels} holds no inputs for a model of {data.dataset}")
    if output.suffix.lower() in images.EXTENSIONS or output.is_file():
        raise UserError(f"--output={output} must be a folder, because --input={labels} is one")
    if not list_file:
        if exemplar is not None and exemplar.is_dir():
            raise UserError(
                f"--exemplar={exemplar} is a folder: name one photograph for all inputs, or say"
                " with --list which input takes which"
            )
        its_map = map_of(exemplar, exemplar_label)
        return [
            Pair(labels / name, exemplar, its_map, (output / name).with_suffix(".png"))
            for name in names
        ]

    if exemplar is None or not exemplar.is_dir():
        raise UserError(f"--exemplar={exemplar} must be a folder, because --list is given")
    if exemplar_label is not None and not exemplar_label.is_dir():
        raise UserError(f"--exemplar-label={exemplar_label} must be a folder: --list is given")
    photographs = [name for name in _files(exemplar) if name.lower().endswith(images.EXTENSIONS)]
    # A label map that lies beside its photograph is no photograph.
    others = {str(Path(name).with_suffix("")) for name in photographs if not name.endswith(".png")}
    photographs = [
        name
        for name in photographs
        if not name.endswith(".png") or str(Path(name).with_suffix("")) not in others
    ]
    keys = [inputs.list_name(data, name) for name in names]
    pairing = exemplars.resolve(
        list_file, keys, photographs, first_only=True, place=f"--exemplar={exemplar}"
    )
    exemplars.require_any(list_file, pairing, names, "inputs")
    if note := exemplars.left_out(list_file, pairing, names, "inputs"):
        print(note)
    pairs = []
    for place, (found, *_) in pairing.references.items():
        photograph = Path(photographs[found])
        given = inputs.annotation_in(data, exemplar_label, photograph) if exemplar_label else None
        label = map_of(exemplar / photograph, given)
        target = (output / names[place]).with_suffix(".png")
        pairs.append(Pair(labels / names[place], exemplar / photograph, label, target))
    return pairs


def _inputs_in(folder: Path, data: DataSettings) -> list[str]:
    """The inputs below a folder; the pose of a photograph that is an input itself is none."""
    names = [name for name in _files(folder) if inputs.is_input(data, folder / name)]
    every = {(folder / name).absolute() for name in names}
    return [name for name in names if inputs.photograph_of(data, folder / name) not in every]


def _as_png(output: Path) -> Path:
    if output.suffix.lower() != ".png":
        raise UserError(f"--output={output} must end in .png, or be a folder that exists")
    return output


def _files(folder: Path) -> list[str]:
    """Paths below a folder, relative to it, in alphabetical order."""
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def check(
    pairs: list[Pair], data: DataSettings, *, warped: bool = False, pose_size: str = ""
) -> None:
    """Reads every file once, and looks at where results go.

    Args:
      pairs: what to translate.
      data: of the model.
      warped: whether warped exemplars are written as well.
      pose_size: of the inputs, `--pose-size`.

    Raises:
      UserError: lists what cannot be read, and what would be written over; or most poses fill only
        a corner of their photographs.
    """
    wrong = _written_over(pairs, data, warped)
    photographs = sorted({pair.exemplar for pair in pairs if pair.exemplar})
    maps = {
        (pair.exemplar_label, pair.exemplar)
        for pair in pairs
        if pair.exemplar_label and pair.exemplar
    }
    corners: list[str] = []
    exemplar_corners: list[str] = []

    def read_own(path: Path) -> None:
        corners.append(inputs.read_input(data, path, pose_size=pose_size).corner)

    def read_map_of(path: Path, exemplar: Path) -> None:
        exemplar_corners.append(inputs.read_input(data, path, photograph=exemplar).corner)

    reads: list[Callable[[], Any]]
    reads = [partial(read_own, path) for path in sorted({pair.label for pair in pairs})]
    # A pose is nothing without its photograph.
    alone = {path for path, _ in maps} if data.dataset not in POSE_DATASETS else set()
    reads += [partial(inputs.read_input, data, path) for path in sorted(alone)]
    reads += [partial(images.read_photograph, path) for path in photographs]
    reads += [partial(read_map_of, path, exemplar) for path, exemplar in sorted(maps)]
    for read in reads:
        try:
            read()
        except UserError as error:
            if str(error) not in wrong:
                wrong.append(str(error))
    problems.raise_if_any("nothing was translated", wrong)
    poses.check_corners(
        [bool(text) for text in corners], next(filter(None, corners), ""), "--pose-size"
    )
    if example := next(filter(None, exemplar_corners), ""):
        print(
            f"note: the joints of an exemplar lie in a corner of it ({example}): if its pose was"
            " detected in a smaller picture, detect it in --exemplar itself"
        )
    found = [pair.label for pair in pairs if inputs.finds_edges(data, pair.label)]
    if found:
        print(
            f"note: {found[0]}{' and others' if found[1:] else ''} in a folder images, without"
            " edges beside it: taken for photographs, in which edges are found"
        )


def _written_over(pairs: list[Pair], data: DataSettings, warped: bool) -> list[str]:
    """Files that a result would replace: what is read, or another result."""
    given = {path for pair in pairs for path in pair[:-1] if path is not None}
    # A pose is drawn in its photograph's size.
    given |= {path for pair in pairs if (path := inputs.photograph_of(data, pair.label))}
    read = {path.resolve() for path in given}
    found = {inputs.annotations_of(data, pair.label) for pair in pairs}
    annotations = [folder.resolve() for folder in found if folder is not None]
    inputs_of: dict[Path, Path] = {}
    wrong = []
    for pair in pairs:
        for path in (pair.output, *([_warped_file(pair.output)] if warped else [])):
            full = path.expanduser().resolve()
            if full in read or any(full.is_relative_to(folder) for folder in annotations):
                wrong.append(f"--output: {path} would replace a file that is read")
            elif full in inputs_of:
                wrong.append(
                    f"{inputs_of[full]} and {pair.label} would both become {path}; rename one"
                )
            inputs_of.setdefault(full, pair.label)
    return wrong


def _warped_file(output: Path) -> Path:
    return output.with_name(f"{output.stem}_warped.png")


def translate(
    pairs: list[Pair], settings: Settings, size: int, state: Any, pose_size: str = ""
) -> None:
    """Makes and writes the translations, one by one.

    Args:
      pairs: what to translate.
      settings: of the training.
      size: side of the pictures that are drawn.
      state: to translate with.
      pose_size: of the inputs, `--pose-size`.

    Raises:
      UserError: pictures of this size do not fit in the device's memory.
      StorageError: a picture cannot be written.
    """
    import jax
    import tqdm

    from cocosnet_jax import mesh, pictures
    from cocosnet_jax.checkpoint import absolute
    from cocosnet_jax.fit import compile_to_fit
    from cocosnet_jax.generator import COARSEST
    from cocosnet_jax.steps import predict_step
    from cocosnet_jax.types import Batch

    # One picture at a time: several devices share its rows.
    devices = mesh.for_rows(size // COARSEST)
    state = jax.device_put(state, mesh.replicated(devices))

    def read(pair: Pair) -> tuple[Batch, tuple[int, int]]:
        """The batch that is the pair, and the input's own height and width."""
        exemplar = np.zeros((1, size, size, 3), np.uint8)
        if pair.exemplar is not None:
            photograph = images.read_photograph(pair.exemplar)
            exemplar = images.resize_photograph(photograph, (size, size))[None]
        given = inputs.read_input(settings.data, pair.label, size, pose_size=pose_size)
        # A model that is not given the exemplar's map does not look at it.
        own = given
        if pair.exemplar_label is not None:
            own = inputs.read_input(
                settings.data, pair.exemplar_label, size, photograph=pair.exemplar
            )
        batch = Batch(
            # The truth is not known, and nothing in a translation reads it.
            image=np.zeros_like(exemplar),
            exemplar=exemplar,
            label=given.planes[None],
            exemplar_label=own.planes[None],
            self_reference=np.zeros(1, np.float32),
        )
        return mesh.split_rows(devices, batch), given.size

    print("compiling ...", flush=True)
    predict = compile_to_fit(
        jax.jit(predict_step(settings, over=devices)),
        # All pictures have the first one's shapes.
        (state, read(pairs[0])[0]),
        devices,
        size,
        "set --size to {size}",
    )
    for pair in tqdm.tqdm(
        pairs, desc="translating", disable=len(pairs) == 1, unit=" pictures", file=sys.stdout
    ):
        batch, original_size = read(pair)
        outputs = jax.device_get(predict(state, batch))
        results = {pair.output: outputs.image[0]}
        if _WARPED.value and outputs.warped_exemplar is not None:
            results[_warped_file(pair.output)] = outputs.warped_exemplar[0]
        for path, image in results.items():
            picture = pictures.to_bytes(image)
            if _ORIGINAL_SIZE.value:
                picture = images.resize_photograph(picture, original_size)
            pictures.write_png(absolute(path), picture)


def run() -> None:
    """The command `cocosnet-translate`."""
    command.run(main, __doc__)


if __name__ == "__main__":
    run()
