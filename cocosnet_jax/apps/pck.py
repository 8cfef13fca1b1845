r"""Measures the correspondence of photographs whose true correspondence is known: a table of PCK.

    python -m cocosnet_jax.apps.pck --checkpoint=runs/faces --source=faces68 --vgg=vgg16.pth \
        --output=pck

The folder has images/NAME.jpg, labels/NAME.png and keypoints*.npz (`cocosnet_jax.data.keypoints`),
and need not be the one that was trained on. Measured are the photographs that its val.txt lists, or
all of them if it has no such list or with `--all`. They are put in a circle in random order, by
`--seed`, and each is matched with the next `--exemplars` of the circle. So no photograph is its own
exemplar, and each is an exemplar as often as an input.

PCK@0.1 is the share of the input's points that are moved to within a tenth of the picture's side of
the same point of the exemplar. Of faces with 68 points, the parts (17 to 67) and the jaw (0 to 16)
are counted apart. The networks see the input's label map and the exemplar's photograph. Their
positions are compared by wide neighbourhoods, as `cocosnet_jax.apps.correspond` does it, and by
those of the warp; or by those of `--sides`. Beside them are

- the same networks before their training;
- `nearest_of_same_class`, `random_of_same_class`: pixels, by the label maps of both pictures;
- `both_label_maps`: the classes of the cells of both, compared by the wide neighbourhoods;
- `same_position`, and `chance`: a random cell, computed and not drawn;
- `colour`: the cell of the nearest mean colour, of both photographs;
- `VGG-16 relu4_2 at 256` and so on: the cell of the highest cosine of that layer's features, of
  both photographs, at 256 x 256 pixels and at the size that the networks see; of relu3_2 and
  relu4_2 also by the wide neighbourhoods. Needs `--vgg`.

Cells are those of the networks' grid, and a point keeps its place within its cell. +- is the
standard error over photographs.

`--output` gets pck.md, the table, and pck.json, which also has how sharp the networks' matches are
(`confidence`, 0 to 1). Several checkpoints, `--checkpoint=A,B`, get a line each.
"""

import dataclasses
import json
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import tqdm
from absl import flags

from cocosnet_jax import checkpoint, command, files, mesh, partition, vgg, workdir
from cocosnet_jax.data import images, inputs, keypoints, source_files
from cocosnet_jax.encode import unit_image
from cocosnet_jax.errors import UserError
from cocosnet_jax.inference import Translator
from cocosnet_jax.metrics import by_class, landmarks
from cocosnet_jax.metrics.landmarks import Counts, Sample
from cocosnet_jax.nn.resize import average_pool
from cocosnet_jax.pretrained import vgg as vgg_files

_VGG_SIZE = 256
_UNTRAINED = "the same networks, untrained"


class Faces:
    """A folder of photographs with label maps and points.

    Attributes:
      keys: the photographs' paths below the folder.
    """

    def __init__(self, source: Path, points_file: Path | None = None, everything: bool = False):
        """Finds the photographs.

        Args:
          source: the folder.
          points_file: the file of points; None for the one in the folder.
          everything: also take photographs that val.txt does not list.

        Raises:
          UserError: folders or points are missing, or val.txt is wrong.
        """
        if not all((source / name).is_dir() for name in ("images", "labels")):
            raise UserError(
                f"--source={source} does not have the folders images and labels; name a folder that"
                " has them"
            )
        path = points_file or keypoints.find(str(source))
        if path is None:
            others = ", ".join(sorted(x.name for x in source.glob("*.npz")))
            raise UserError(
                f"--source={source} has no file keypoints*.npz; name the file of points with"
                f" --keypoints{f' (is it {others}?)' if others else ''}"
            )
        self._source, self._points = source, keypoints.Keypoints(path, source)
        found = [
            Path(name).relative_to(source).as_posix()
            for name, _ in source_files.files_below(source / "images")
            if name.lower().endswith(images.EXTENSIONS)
        ]
        listed = found if everything else _listed(source, found)
        self.keys = [key for key in listed if self._points.has(key)]
        if len(self.keys) < 2:
            raise UserError(
                f"{path} has points of {len(self.keys)} of the {len(listed)} photographs in"
                f" {source / 'images'}, and pairs need two; its names must be those of the"
                " photographs"
            )

    def read(self, key: str, translator: Translator, weights: vgg.VggWeights | None) -> Sample:
        """Reads a photograph, its label map and points, and computes the features to match.

        Raises:
          UserError: a file is missing or does not fit.
        """
        path, size, data = self._source / key, translator.size, translator.settings.data
        labels, name = self._source / "labels", Path(key).relative_to("images")
        label = inputs.annotation_in(data, labels, name, self._source / "images")
        if not label.is_file():
            raise UserError(f"{path} has no label map {label}; add it, or remove the photograph")
        planes = inputs.read_input(data, label, size, photograph=path).planes
        points = self._points.of(key, size)
        assert points is not None
        photograph = images.read_photograph(path)
        grid = size // translator.settings.model.warp_stride
        image = images.resize_photograph(photograph, (size, size))
        features = {"colour": average_pool(unit_image(jnp.asarray(image[None])), size // grid)}
        for side in (_VGG_SIZE, size) if weights is not None else ():
            resized = images.resize_photograph(photograph, (side, side))[None]
            for layer, cells in landmarks.vgg_cells(weights, resized, grid).items():
                features[f"{weights.network} {layer} at {side}"] = cells  # type: ignore[union-attr]
        return Sample(image, planes, points, {k: np.asarray(x[0]) for k, x in features.items()})


def _listed(source: Path, keys: list[str]) -> list[str]:
    """The photographs that val.txt lists, or all of them."""
    # Slow to import.
    from cocosnet_jax.data.builders import splits

    path = splits.find_lists(source).get("validation")
    if path is None:
        return keys
    faults: list[str] = []
    listed = splits.read_lists({"validation": path}, keys, faults)["validation"]
    if faults:
        raise UserError(f"{faults[0]}; or set --all to measure all photographs")
    return listed


def measure(
    faces: Faces,
    translators: Mapping[str, Translator],
    weights: vgg.VggWeights | None,
    exemplars: int,
    seed: int,
    sides: Sequence[int] = (),
) -> tuple[Counts, dict[str, float]]:
    """Matches all pairs.

    Args:
      faces: the photographs.
      translators: the networks by their names in the table, for pictures of one size and grid.
      weights: VGG, or None to leave it out.
      exemplars: of each photograph.
      seed: of the pairs.
      sides: of the neighbourhoods by which the networks' positions are compared; by default those
        by which points are matched, and the warp's.

    Returns:
      What was found, and the mean confidence of each of the networks by each side.
    """
    exemplars = min(exemplars, len(faces.keys) - 1)
    circle = landmarks.circle(len(faces.keys), exemplars, seed)
    first = next(iter(translators.values()))
    data, wide = first.settings.data, first.reading_kernel
    grid = first.size // first.settings.model.warp_stride
    recent: deque[Sample] = deque(maxlen=exemplars)
    pairs, found = [], []
    confidence: dict[str, float] = defaultdict(float)
    # The inputs of the first exemplars are the last of the circle: each of these is read twice.
    start = [number for number, _ in circle[-exemplars:]]
    for number in tqdm.tqdm(start, desc="reading", delay=2):
        recent.appendleft(faces.read(faces.keys[number], first, weights))
    for number, given in tqdm.tqdm(circle, desc="matching", unit=" exemplars"):
        exemplar = faces.read(faces.keys[number], first, weights)
        labels = np.stack([sample.label for sample in recent])
        same = (np.repeat(x[None], exemplars, 0) for x in (exemplar.image, exemplar.label))
        batch = labels, *same
        places = {}
        for name, translator in translators.items():
            own = translator.reading_kernel, translator.settings.model.match_kernel
            for side in dict.fromkeys(sides or own):
                match = translator.match(*batch, match_kernel=side)
                places[_by(name, side)] = np.asarray(match.place)
                confidence[_by(name, side)] += float(match.confidence.mean()) / len(circle)
        for k, sample in enumerate(recent):
            pairs.append((given[k], number))
            by_wide = landmarks.match_vgg(sample, exemplar, wide)
            if data.condition != "channels":
                by_wide[by_class.BOTH_MAPS] = by_class.match_maps(
                    sample.label[..., 0], exemplar.label[..., 0], data.channels, grid, wide
                )
            by_all = {name: x[k] for name, x in places.items()}
            by_all |= {_by(name, wide): x for name, x in by_wide.items()}
            found.append(landmarks.of_pair(sample, exemplar, by_all))
        recent.appendleft(exemplar)
    return landmarks.collect(pairs, found), confidence


def _by(name: str, side: int) -> str:
    """A matcher's name in the table."""
    return f"{name}, {side} x {side}"


def _open(names: Sequence[str], averaged: bool) -> dict[str, Translator]:
    """The networks of all checkpoints, and those of the first before training.

    Args:
      names: of the checkpoints.
      averaged: take the averaged weights where there are any, or else the last step's.

    Raises:
      UserError: one cannot be read, has no correspondence, or sees other pictures than the first.
    """
    restored = [checkpoint.restore_for_inference(name, all_networks=not averaged) for name in names]
    if not averaged:
        restored = [x._replace(state=dataclasses.replace(x.state, ema=None)) for x in restored]
    for name, one in zip(names, restored, strict=True):
        if not one.settings.model.needs_exemplar:
            raise UserError(f"--checkpoint={name} is a plain translation network, without exemplar")
        seen = [
            (x.data.image_size, x.model.warp_stride, x.data.classes, x.data.channels)
            for x in (one.settings, restored[0].settings)
        ]
        if seen[0] != seen[1]:
            raise UserError(
                f"--checkpoint: {name} and {names[0]} differ in the size of pictures, the grid or"
                " the classes; measure them one by one"
            )
    settings = restored[0].settings
    start = partition.initial_state(settings, mesh.make(), 1)
    translators = {
        f"{name}, step {one.step}": Translator(one)
        for name, one in zip(names, restored, strict=True)
    }
    translators[_UNTRAINED] = Translator(restored[0]._replace(state=start, step=0))
    return translators


def main() -> None:
    """Checks the flags and files, measures, writes and prints."""
    given: Any = flags.FLAGS
    names, output = given["checkpoint"].value, given["output"].value
    for flag in ("checkpoint", "source", "output"):
        if not given[flag].value:
            raise UserError(f"--{flag} is missing; --help shows an example")
    source = files.local(given["source"].value, "--source")
    points_file = given["keypoints"].value
    faces = Faces(
        source,
        files.local(points_file, "--keypoints") if points_file else None,
        given["all"].value,
    )
    folder = checkpoint.absolute(output)
    workdir.check_writable(folder, "output")
    translators = _open(names, given["averaged"].value)
    vgg_name = given["vgg"].value
    vgg_file = Path(vgg_name).expanduser()
    weights = vgg_files.load(vgg_name, flag="--vgg") if vgg_name else None
    if weights is None:
        print("--vgg is not given: VGG's features are left out")
    first = next(iter(translators.values()))
    exemplars, seed = given["exemplars"].value, given["seed"].value
    sides = [int(side) for side in given["sides"].value or ()]
    counts, confidence = measure(faces, translators, weights, exemplars, seed, sides)
    content = {
        "source": source.name,
        "photographs": len(faces.keys),
        "pairs": len(counts.pairs),
        "points": int(counts.seen.sum()),
        "exemplars": min(exemplars, len(faces.keys) - 1),
        "seed": seed,
        "size": first.size,
        "grid": first.size // first.settings.model.warp_stride,
        "averaged": given["averaged"].value,
        "exemplar_labels": first.settings.model.needs_exemplar_label,
        "vgg": f"{vgg_file.name}, sha256 {files.sha256(vgg_file)}" if vgg_file.is_file() else "",
        "confidence": confidence,
        "pck": landmarks.shares(counts),
    }
    files.write(folder / "pck.json", (json.dumps(content, indent=2) + "\n").encode())
    files.write(folder / "pck.md", landmarks.as_table(content).encode())
    print(f"\n{landmarks.as_table(content)}\npck.md and pck.json: {folder}")


def run() -> None:
    """The command `cocosnet-pck`."""
    flags.DEFINE_list("checkpoint", None, "runs' workdirs, checkpoints in them, or weights: A,B")
    flags.DEFINE_string("source", "", "folder with images, labels and keypoints*.npz")
    flags.DEFINE_string("keypoints", "", "the file of points, if it is not keypoints*.npz there")
    flags.DEFINE_string("vgg", "", "VGG-16 or VGG-19 to compare with, as config.vgg.weights")
    flags.DEFINE_string("output", "", "folder to write")
    flags.DEFINE_integer("exemplars", 5, "exemplars of each photograph", lower_bound=1)
    flags.DEFINE_list(
        "sides", None, "of compared neighbourhoods: odd numbers, as 3,9; default: see above"
    )
    flags.register_validator(
        "sides",
        lambda sides: all(side.isdecimal() and int(side) % 2 for side in sides or ()),
        message="must be odd numbers, as --sides=3,9",
    )
    flags.DEFINE_integer("seed", 0, "of the pairs", lower_bound=0)
    flags.DEFINE_bool(
        "averaged",
        True,
        "measure averaged weights if there are any, as translations use them; --noaveraged takes"
        " the last step's, for the first thousands of steps",
    )
    flags.DEFINE_bool("all", False, "also measure photographs that val.txt does not list")
    command.run(main, __doc__)


if __name__ == "__main__":
    run()
