r"""Shows which place of the exemplar belongs to which place of the input (figures 6, 8 and 17).

    python -m cocosnet_jax.apps.correspond --checkpoint=runs/ade20k --input=label.png \
        --exemplar=photo.jpg --points="120,80;200,310" --heat-maps --output=matches

The dense warps show all places: the exemplar warped to the input, and the input's picture warped to
the exemplar. The matches of single points are written as numbers and as a picture.

    warped_exemplar.png, warped_input.png
    matches.csv     number, x, y, match_x, match_y, confidence
    matches.png     both pictures side by side, the points and their matches with numbers
    heat_1.png ...  with --heat-maps: how similar each place is to point 1, ...

Points are x,y in pixels of the input's own file, from its upper left pixel 0,0; with
`--on=exemplar` they are on the exemplar, and their matches on the input. `--points` may also name a
CSV file with a point per line. A point keeps its place within the cell of the grid that is matched:
4 x 4 pixels of what the networks see, or 2 x 2 (`model.warp_stride`). The confidence says how sharp
the match is: 1 if one place has all of the softmax (equation 4), 0 if all places have the same, and
1 - log(k) / log(positions) if k places share it.
"""

import sys
from typing import NamedTuple

import numpy as np
import tqdm
from absl import flags
from jaxtyping import Float, UInt8

from cocosnet_jax import checkpoint, command, files, pictures
from cocosnet_jax.apps import drawing, reading
from cocosnet_jax.data import classes, images, inputs
from cocosnet_jax.data import points as points_lib
from cocosnet_jax.errors import UserError
from cocosnet_jax.inference import Translator
from cocosnet_jax.settings import is_pose_size

# Heat is exp((cosine - best cosine) / SOFTNESS). This is five times the release's temperature, with
# which only the best match would be visible.
SOFTNESS = 0.05


class Shown(NamedTuple):
    """Matches of points, and what shows them.

    Attributes:
      matches: x, y in pixels of the other picture, and the confidence, 0 to 1, of each point.
      picture: both pictures side by side, the input on the left, with numbered points.
      warped_exemplar: the exemplar, warped to the input, in the size of the input's picture.
      warped_input: the input's picture, warped to the exemplar, in the exemplar's size.
    """

    matches: Float[np.ndarray, "points 3"]
    picture: UInt8[np.ndarray, "rows columns 3"]
    warped_exemplar: UInt8[np.ndarray, "input_rows input_columns 3"]
    warped_input: UInt8[np.ndarray, "exemplar_rows exemplar_columns 3"]


def correspond(
    translator: Translator,
    label: UInt8[np.ndarray, "height width planes"],
    exemplar: UInt8[np.ndarray, "rows columns 3"],
    exemplar_label: UInt8[np.ndarray, "height width planes"] | None,
    points: Float[np.ndarray, "points 2"],
    *,
    picture: UInt8[np.ndarray, "input_rows input_columns 3"] | None = None,
    back: bool = False,
) -> Shown:
    """Finds the matches of points, and draws them.

    Args:
      translator: of S x S pixels.
      label: the input at S x S.
      exemplar: of any size.
      exemplar_label: its label map at S x S, if the networks take it.
      points: x, y in pixels of the input's picture, or with `back` of the exemplar; may be none.
      picture: shows the input, in any size; None for one made from `label`.
      back: match points of the exemplar to the input.

    Raises:
      UserError: a point lies outside of its picture.
    """
    if picture is None:
        picture = classes.show_in_own_colours(label, translator.settings.data)
    own, other = _own_and_other(picture, exemplar, points, back)
    pair = _batch(translator, label, exemplar, exemplar_label)
    match = translator.match(*pair, back=back)
    place, confidence = np.asarray(match.place[0]), np.asarray(match.confidence[0])
    matches = points_lib.move(points, place, confidence, own.shape, other.shape)
    # Warped as layers, which carry patches: they show more than the mean colours that some
    # networks warp.
    warped, returned = (
        np.rint(translator.warp(*pair, layer=layer.astype(np.float32), back=way)[0])
        for layer, way in ((pair[1], False), (reading.at_size(picture, translator), True))
    )
    sides = points, matches[:, :2]
    left, right = (
        drawing.number_points(*side)
        for side in zip((picture, exemplar), sides[::-1] if back else sides, strict=True)
    )
    return Shown(
        matches,
        drawing.side_by_side(left, right),
        images.resize_photograph(warped.astype(np.uint8), picture.shape[:2]),
        images.resize_photograph(returned.astype(np.uint8), exemplar.shape[:2]),
    )


def heat_map(
    translator: Translator,
    label: UInt8[np.ndarray, "height width planes"],
    exemplar: UInt8[np.ndarray, "rows columns 3"],
    exemplar_label: UInt8[np.ndarray, "height width planes"] | None,
    point: tuple[float, float],
    *,
    picture: UInt8[np.ndarray, "input_rows input_columns 3"] | None = None,
    back: bool = False,
    number: int = 1,
) -> UInt8[np.ndarray, "drawn_rows drawn_columns 3"]:
    """Draws a point, and beside it how similar each place of the other picture is to it.

    Arguments and errors as in `correspond`; `number` is the point's.
    """
    if picture is None:
        picture = classes.show_in_own_colours(label, translator.settings.data)
    points = np.array([point], float)
    own, other = _own_and_other(picture, exemplar, points, back)
    side = translator.size // translator.settings.model.warp_stride
    cell, _ = points_lib.cells(points, own.shape, (side, side))
    pair = _batch(translator, label, exemplar, exemplar_label)
    cosines = translator.similarity(*pair, cells=cell[None], back=back)[0, 0]
    one = drawing.number_points(own, points, number)
    heat = drawing.heat(other, np.exp((cosines - cosines.max()) / SOFTNESS))
    return drawing.side_by_side(heat, one) if back else drawing.side_by_side(one, heat)


def _own_and_other(
    picture: UInt8[np.ndarray, "input_rows input_columns 3"],
    exemplar: UInt8[np.ndarray, "rows columns 3"],
    points: Float[np.ndarray, "points 2"],
    back: bool,
) -> tuple[UInt8[np.ndarray, "_ _ 3"], UInt8[np.ndarray, "_ _ 3"]]:
    """The picture on which the points are, and the other, in which their matches are.

    Raises:
      UserError: a point lies outside of its picture.
    """
    own, other = (exemplar, picture) if back else (picture, exemplar)
    points_lib.check(points, own.shape, "exemplar" if back else "input")
    return own, other


def _batch(
    translator: Translator,
    label: UInt8[np.ndarray, "height width planes"],
    exemplar: UInt8[np.ndarray, "rows columns 3"],
    exemplar_label: UInt8[np.ndarray, "height width planes"] | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """One pair as the translator takes it."""
    given = None if exemplar_label is None else exemplar_label[None]
    return label[None], reading.at_size(exemplar, translator), given


def main() -> None:
    """Reads the flags and files, matches, writes."""
    input_file = reading.file("input", "the label map, edges or pose")
    exemplar_file = reading.file("exemplar", "the photograph to match it with")
    output = reading.file("output", "a folder to write")
    if output.suffix.lower() in images.EXTENSIONS or output.is_file():
        raise UserError(f"--output={output} must be a folder")
    points = points_lib.parse(reading.given("points"))
    back = flags.FLAGS["on"].value == "exemplar"
    with_heat = flags.FLAGS["heat-maps"].value
    if with_heat and not len(points):
        raise UserError("--heat-maps needs --points, for example --points='120,80;200,310'")
    pose_size = reading.given("pose-size")
    if not is_pose_size(pose_size):
        raise UserError(
            f"--pose-size={pose_size} must be WIDTHxHEIGHT, for example 128x192, or photograph"
        )
    translator = reading.open_translator()
    data = translator.settings.data
    given = inputs.read_input(data, input_file, translator.size, pose_size=pose_size)
    whole = inputs.read_input(data, input_file, given.size, pose_size=pose_size)
    picture = classes.show_in_own_colours(whole.planes, data)
    exemplar = images.read_photograph(exemplar_file)
    exemplar_label = None
    label_file = reading.file("exemplar-label")
    if translator.settings.model.needs_exemplar_label:
        if not reading.given("exemplar-label"):
            if not inputs.has_annotation(data, exemplar_file):
                raise UserError("--exemplar-label is missing; this checkpoint reads it")
            label_file = exemplar_file
        exemplar_label = inputs.read_input(
            data, label_file, translator.size, photograph=exemplar_file
        ).planes
    _own_and_other(picture, exemplar, points, back)  # before it compiles
    names = ["warped_exemplar.png", "warped_input.png", "matches.png", "matches.csv"]
    names += [f"heat_{number}.png" for number in range(1, len(points) + 1)]
    reading.check_outputs(
        [output / name for name in names], [input_file, exemplar_file, label_file]
    )
    print(f"compiling for {translator.size} x {translator.size} ...", flush=True)
    folder = checkpoint.absolute(output)
    pair = translator, given.planes, exemplar, exemplar_label
    shown = correspond(*pair, points, picture=picture, back=back)
    pictures.write_png(folder / "warped_exemplar.png", shown.warped_exemplar)
    pictures.write_png(folder / "warped_input.png", shown.warped_input)
    if len(points):
        pictures.write_png(folder / "matches.png", shown.picture)
        files.write(folder / "matches.csv", points_lib.as_csv(points, shown.matches))
    heated = tqdm.tqdm(points if with_heat else [], "heat maps", file=sys.stdout, delay=1)
    for number, (x, y) in enumerate(heated, 1):
        drawn = heat_map(*pair, (x, y), picture=picture, back=back, number=number)
        pictures.write_png(folder / f"heat_{number}.png", drawn)
    print(f"{len(points)} match(es) and the warps in {output}")


def run() -> None:
    """The command `cocosnet-correspond`."""
    reading.define_flags(
        input="label map, edges or pose",
        exemplar="the photograph",
        exemplar_label="the exemplar's label map, if the networks read it",
        points="points to match, in pixels: x,y;x,y or a CSV file",
        output="folder to write",
        pose_size="WIDTHxHEIGHT of the picture in which the pose of --input was detected, or"
        " `photograph`; needed only if photograph, file and checkpoint do not determine it",
    )
    flags.DEFINE_enum(
        "on", "input", ["input", "exemplar"], "the picture on which the points of --points are"
    )
    flags.DEFINE_bool("heat-maps", False, "also draw the similarity to each point")
    command.run(main, __doc__)


if __name__ == "__main__":
    run()
