"""Folders of finished pictures and what belongs to each: its truth, label map and exemplar.

`find` matches files by their names, `check` reads every one of them once, and `PictureSets` reads
them one by one. The messages name the flags of the command that measures.
"""

import collections
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int, UInt8

from cocosnet_jax import pictures
from cocosnet_jax.data import exemplars, images, pair_files, pairing, problems
from cocosnet_jax.errors import UserError

Format = Literal["png", "jpeg"]
_JPEG = (".jpg", ".jpeg")


@dataclasses.dataclass(frozen=True)
class PictureSets:
    """Files by position; lists that are not given are empty.

    Attributes:
      keys: name of each generated picture, without extension.
      generated: what is measured.
      real: photographs; the same positions as `keys` where they are `paired`.
      labels: label maps of the inputs.
      exemplars: whose style each picture should have.
      exemplar_labels: their label maps.
      others: more results of the same inputs, a list for each folder.
      paired: whether `real` has the truth of each picture.
      size: (height, width) of all pictures; those of another size are resized to it.
      resize: whether `size` was asked for, and pictures may have any.
      format: `jpeg` compresses what is generated before it is measured.
    """

    keys: list[str]
    generated: list[Path]
    real: list[Path]
    labels: list[Path]
    exemplars: list[Path]
    exemplar_labels: list[Path]
    others: list[list[Path]]
    paired: bool
    size: tuple[int, int] = (0, 0)
    resize: bool = False
    format: Format = "png"

    def picture(self, path: Path, *, generated: bool = False) -> UInt8[np.ndarray, "h w 3"]:
        """A picture at `size`; a generated one in `format`.

        Raises:
          UserError: it cannot be read.
        """
        image = images.read_photograph(path)
        if image.shape[:2] != self.size:
            image = images.resize_photograph(image, self.size)
        if generated and self.format == "jpeg" and path.suffix.lower() not in _JPEG:
            image = images.decode_photograph(pictures.to_jpeg(image))
        return image

    def label(self, path: Path) -> Int[np.ndarray, "h w"]:
        """A label map at `size`; raises what `images.read_label_map` raises."""
        label = images.read_label_map(path)
        return label if label.shape == self.size else images.resize_label(label, self.size)

    def files(self) -> list[Path]:
        """Every file, once."""
        groups = (self.generated, self.real, self.labels, self.exemplars, self.exemplar_labels)
        return sorted({path for group in (*groups, *self.others) for path in group})


def find(
    generated: Path,
    real: Path,
    *,
    labels: Path | None = None,
    exemplar_folder: Path | None = None,
    exemplar_labels: Path | None = None,
    list_file: str = "",
    others: Sequence[Path] = (),
    paired: bool = True,
) -> PictureSets:
    """Matches the files of folders by their names, without looking at extensions.

    What `translate` writes beside its results (`pair_files.beside_results`) is left out, and named
    in a message.

    Args:
      generated: what is measured.
      real: photographs.
      labels: label maps of the inputs, under the generated pictures' names.
      exemplar_folder: exemplars, under the generated pictures' names or as `list_file` says.
      exemplar_labels: their label maps, under the exemplars' names.
      list_file: lines `picture,exemplar`; pictures without a line are left out, and counted in a
        message.
      others: folders of more results, under the generated pictures' names.
      paired: whether each photograph is the truth of the picture of its name.

    Raises:
      UserError: lists every file without a counterpart.
    """
    given = {"--generated": generated, "--real": real}
    given |= {
        flag: folder
        for flag, folder in (
            ("--labels", labels),
            ("--exemplars", exemplar_folder),
            ("--exemplar-labels", exemplar_labels),
        )
        if folder
    }
    given |= {f"--others={folder}": folder for folder in others}
    wrong = [
        f"{flag.split('=')[0]}={folder} is no folder"
        for flag, folder in given.items()
        if not folder.is_dir()
    ]
    problems.raise_if_any("this evaluation", wrong)
    left_out: dict[Path, None] = {}

    def pictures_in(folder: Path) -> list[str]:
        names = pairing.files_below(folder)
        names = [name for name in names if name.lower().endswith(images.EXTENSIONS)]
        beside = pair_files.beside_results(names)
        left_out.update(dict.fromkeys(folder / name for name in sorted(beside)))
        return [name for name in names if name not in beside]

    ours, photographs = pictures_in(generated), pictures_in(real)
    for flag, folder, found in (("generated", generated, ours), ("real", real, photographs)):
        if not found:
            wrong.append(f"--{flag}={folder} holds no pictures ({', '.join(images.EXTENSIONS)})")
    problems.raise_if_any("this evaluation", wrong)
    named: list[str] | None = None
    if list_file:
        if exemplar_folder is None:
            raise UserError("--list goes with --exemplars, the folder that it names exemplars in")
        candidates = pictures_in(exemplar_folder)
        listed = exemplars.resolve(
            list_file, ours, candidates, first_only=True, place=f"--exemplars={exemplar_folder}"
        )
        exemplars.require_match(list_file, listed, ours, "pictures")
        if note := exemplars.left_out_note(list_file, listed, ours, "pictures"):
            print(note)
        named = [candidates[places[0]] for places in listed.references.values()]
        ours = [ours[place] for place in listed.references]

    def partners(folder: Path | None, names: Sequence[str], flag: str) -> list[Path]:
        if folder is None:
            return []
        there = pictures_in(folder)
        index = exemplars.KeyIndex(there)
        found = []
        for name in names:
            place = index.find(name)
            if place is None or place < 0:
                what = "none" if place is None else "several"
                wrong.append(f"{flag}={folder} has {what} of the name of {name}")
            else:
                found.append(folder / there[place])
        return found

    if paired:
        truths = partners(real, ours, "--real")
        index = exemplars.KeyIndex(ours)
        if not list_file:
            wrong += [
                f"--generated={generated} has none of the name of {name}"
                for name in photographs
                if index.find(name) is None
            ]
        if wrong:
            wrong.append(
                f"{len(ours)} generated and {len(photographs)} real pictures: where they do not"
                " belong together one by one, set --unpaired (FID, KID and SWD alone)"
            )
    else:
        truths = [real / name for name in photographs]
    if named is None:
        chosen = partners(exemplar_folder, ours, "--exemplars")
        named = ours
    else:
        assert exemplar_folder is not None
        chosen = [exemplar_folder / name for name in named]
    sets = PictureSets(
        keys=[str(Path(name).with_suffix("")) for name in ours],
        generated=[generated / name for name in ours],
        real=truths,
        labels=partners(labels, ours, "--labels"),
        exemplars=chosen,
        exemplar_labels=partners(exemplar_labels, named, "--exemplar-labels"),
        others=[partners(folder, ours, "--others") for folder in others],
        paired=paired,
    )
    problems.raise_if_any("this evaluation", wrong)
    if left_out:
        shown = ", ".join(map(str, [*left_out][:3])) + (", ..." if len(left_out) > 3 else "")
        print(
            f"note: {len(left_out)} file(s) that `translate` writes beside its results are left"
            f" out: {shown}"
        )
    return sets


def check(sets: PictureSets, size: int, picture_format: Format) -> PictureSets:
    """Reads every file once, so that nothing is wrong with them later.

    Args:
      sets: by `find`.
      size: side that all pictures are resized to; 0 where all have one size.
      picture_format: `jpeg` measures what is generated after compression.

    Returns:
      The sets with size and format.

    Raises:
      UserError: lists what cannot be read, and pictures of other sizes than most have.
    """
    maps = {*sets.labels, *sets.exemplar_labels}
    sizes: dict[Path, tuple[int, int]] = {}

    def problem_of(path: Path) -> str | None:
        try:
            if path in maps:
                array = images.read_label_map(path)
                images.check_classes(str(path), array, 256)
            else:
                array = images.read_photograph(path)
        except UserError as error:
            return str(error)
        sizes[path] = (array.shape[0], array.shape[1])
        return None

    wrong = problems.find(problem_of, sets.files(), "files")
    wanted = (size, size)
    if not size and sizes:
        # What most have; of equally many, most of the generated pictures.
        counts = collections.Counter(sizes.values())
        generated = collections.Counter(sizes.get(path) for path in sets.generated)
        wanted = max(counts, key=lambda size: (counts[size], generated[size]))
        height, width = wanted
        others = [path for path in sets.files() if sizes.get(path, wanted) != wanted]
        wrong += [
            f"{path} has {sizes[path][1]}x{sizes[path][0]} pixels (width x height), and"
            f" {len(sizes) - len(others)} of {len(sizes)} files have {width}x{height}:"
            " --size=SIDE resizes all"
            for path in others
        ]
    problems.raise_if_any("this evaluation", wrong)
    return dataclasses.replace(sets, size=wanted, resize=bool(size), format=picture_format)
