"""What is measured: folders of pictures, or the translations of a run."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from cocosnet_jax import pictures
from cocosnet_jax.data import images, source_files
from cocosnet_jax.data.dataset import Dataset
from cocosnet_jax.data.picture_sets import PictureSets

_KINDS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}

Read = Callable[[int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is measured, by position.

    Attributes:
      keys: names of the generated pictures.
      real_count: photographs; as many as `keys` where they are `paired`.
      generated, real: position -> (H, W, 3) uint8.
      label, exemplar, exemplar_label: position of a generated picture -> its input's label map
        (H, W), its exemplar (H, W, 3) and the exemplar's label map; None where there is none.
      others: more results of the same inputs.
      paired: whether photograph i is the truth of picture i.
      size: (H, W).
      identity: everything about the generated pictures that determines their rows (`measure`).
      real_identity: the same for the photographs.
      protocol: what the report states beside each number: format, resize, list.
      outputs: files of a run's translations, in the order of `keys`; empty for folders.
    """

    keys: Sequence[str]
    real_count: int
    generated: Read
    real: Read
    label: Read | None
    exemplar: Read | None
    exemplar_label: Read | None
    others: Sequence[Read]
    paired: bool
    size: tuple[int, int]
    identity: Any
    real_identity: Any
    protocol: dict[str, str]
    outputs: Sequence[epath.Path] = ()


def of_folders(sets: PictureSets, list_file: str) -> Subject:
    """Folders of finished pictures, which `picture_sets.check` has found readable."""

    def reader(paths: list[Path]) -> Read:
        return lambda index: sets.picture(paths[index])

    def maps(paths: list[Path]) -> Read | None:
        return (lambda index: sets.label(paths[index]).astype(np.uint8)) if paths else None

    def results(paths: list[Path]) -> Read:
        return lambda index: sets.picture(paths[index], generated=True)

    protocol = {"format": _format_of(sets)}
    if sets.resize:
        protocol["resize"] = "bicubic with antialiasing, by Pillow; label maps nearest"
    if sets.exemplars:
        protocol["exemplars"] = list_file or "of the pictures' own names"
    return Subject(
        keys=sets.keys,
        real_count=len(sets.real),
        generated=results(sets.generated),
        real=reader(sets.real),
        label=maps(sets.labels),
        exemplar=reader(sets.exemplars) if sets.exemplars else None,
        exemplar_label=maps(sets.exemplar_labels),
        others=[results(paths) for paths in sets.others],
        paired=sets.paired,
        size=sets.size,
        # By role: the same folders in other roles are other rows.
        identity=[
            *(_digest(paths) for paths in (sets.generated, sets.real, sets.labels)),
            *(_digest(paths) for paths in (sets.exemplars, sets.exemplar_labels, *sets.others)),
            *(sets.format, sets.paired),
        ],
        real_identity=_digest(sets.real),
        protocol=protocol,
    )


def _digest(paths: list[Path]) -> str:
    """Of names, sizes and times."""
    return source_files.quick_digest(Path("/"), [path.absolute() for path in paths])


def _hash(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def _format_of(sets: PictureSets) -> str:
    kinds = {_KINDS.get(path.suffix.lower(), path.suffix.lower()) for path in sets.generated}
    described = f"{' and '.join(sorted(kinds))} as found"
    if sets.format == "jpeg" and kinds != {"JPEG"}:
        described += f", compressed as JPEG of quality {pictures.JPEG_QUALITY} where it is not JPEG"
    return described


def of_run(
    dataset: Dataset, outputs: epath.Path, picture_format: str, has_classes: bool, made_by: str
) -> Subject:
    """The translations of a validation split, which are in `outputs` or will be written there.

    Args:
      dataset: of the run.
      outputs: folder of the translations, under the images' keys.
      picture_format: `png` or `jpeg`, how they were written.
      has_classes: whether its label maps hold classes.
      made_by: identifies the checkpoint.
    """
    pairs = dataset.evaluation("validation")
    places = list(pairs.references)
    keys = [pairs.images.keys[place] for place in places]
    paths = [(outputs / key).with_suffix(f".{picture_format}") for key in keys]

    def exemplar(index: int) -> tuple[np.ndarray, np.ndarray]:
        reference = pairs.references[places[index]]
        return pairs.images[places[index]] if reference is None else pairs.pool[reference]

    def generated(index: int) -> np.ndarray:
        return images.decode_photograph(paths[index].read_bytes())

    data = dataset.settings
    real_identity = [str(data), dataset.content, _hash(keys)]
    # The content of an exemplar list may change under the same name.
    references = [
        keys[number] if (place := pairs.references[index]) is None else pairs.pool.keys[place]
        for number, index in enumerate(places)
    ]
    format_text = "PNG"
    if picture_format == "jpeg":
        format_text = f"JPEG of quality {pictures.JPEG_QUALITY}"
    return Subject(
        keys=keys,
        real_count=len(keys),
        generated=generated,
        real=lambda index: pairs.images[places[index]][0],
        label=(lambda index: pairs.images[places[index]][1][..., 0]) if has_classes else None,
        exemplar=lambda index: exemplar(index)[0],
        exemplar_label=(lambda index: exemplar(index)[1][..., 0]) if has_classes else None,
        others=(),
        paired=True,
        size=(data.image_size, data.image_size),
        identity=[*real_identity, _hash(references), made_by, picture_format],
        real_identity=real_identity,
        protocol={
            "format": format_text,
            "truth": f"{data.dataset} at {data.image_size}",
            "exemplars": data.validation_exemplar_list or "each picture's own truth",
        },
        outputs=paths,
    )
