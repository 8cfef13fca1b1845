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
CSV file with a point per line. A point keeps its place within the cell of the grid that is matched,
4 x 4 pixels of what the networks see. The confidence is the share of the softmax (equation 4) on
the match and the cells next to it: 1 if the match is sharp, near 0 if many places are about as
similar.
"""

import csv
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags
from jaxtyping import Float, Int, UInt8

from cocosnet_jax import checkpoint, command, files, inference, pictures
from cocosnet_jax.apps import drawing, reading
from cocosnet_jax.data import images, inputs
from cocosnet_jax.errors import UserError
from cocosnet_jax.inference import Translator
from cocosnet_jax.settings import is_pose_size

# What the cosine falls short of the best by where a heat map has 1/e of its heat: five times the
# temperature of the release, or only the best match would be seen.
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
        picture = reading.show_input(label, translator.settings.data)
    own, other = (exemplar, picture) if back else (picture, exemplar)
    check_points(points, own, "exemplar" if back else "input")
    pair = _batch(translator, label, exemplar, exemplar_label)
    match = translator.match(*pair, back=back)
    matches = move(points, match.place[0], match.confidence[0], own.shape, other.shape)
    small = reading.at_size(picture, translator).astype(np.float32)
    warped = pictures.to_bytes(np.asarray(translator.warp(*pair)[0]))
    returned = np.asarray(translator.warp(*pair, layer=small, back=True)[0])
    sides = points, matches[:, :2]
    left, right = (
        drawing.number_points(*side)
        for side in zip((picture, exemplar), sides[::-1] if back else sides, strict=True)
    )
    return Shown(
        matches,
        drawing.side_by_side(left, right),
        images.resize_photograph(warped, picture.shape[:2]),
        images.resize_photograph(np.rint(returned).astype(np.uint8), exemplar.shape[:2]),
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
        picture = reading.show_input(label, translator.settings.data)
    own, other = (exemplar, picture) if back else (picture, exemplar)
    points = np.array([point], float)
    check_points(points, own, "exemplar" if back else "input")
    side = translator.size // translator.settings.model.warp_stride
    cell, _ = cells(points, own.shape, (side, side))
    pair = _batch(translator, label, exemplar, exemplar_label)
    cosines = translator.similarity(*pair, cells=cell[None], back=back)[0, 0]
    one = drawing.number_points(own, points, number)
    heat = drawing.heat(other, np.exp((cosines - cosines.max()) / SOFTNESS))
    return drawing.side_by_side(heat, one) if back else drawing.side_by_side(one, heat)


def _batch(
    translator: Translator,
    label: UInt8[np.ndarray, "height width planes"],
    exemplar: UInt8[np.ndarray, "rows columns 3"],
    exemplar_label: UInt8[np.ndarray, "height width planes"] | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """One pair as the translator takes it."""
    given = None if exemplar_label is None else exemplar_label[None]
    return label[None], reading.at_size(exemplar, translator), given


def cells(
    points: Float[np.ndarray, "points 2"], size: tuple[int, ...], grid: tuple[int, ...]
) -> tuple[Int[np.ndarray, "points 2"], Float[np.ndarray, "points 2"]]:
    """The cells in which points lie.

    Args:
      points: x, y in pixels, whole numbers at pixels' middles.
      size: height and width of their picture in pixels.
      grid: rows and columns of the grid over the picture.

    Returns:
      Row and column of each point's cell, and its place within it: down and right, 0 to 1.
    """
    scaled = (points[:, ::-1] + 0.5) * (np.array(grid[:2]) / size[:2])
    cell = np.clip(np.floor(scaled).astype(int), 0, np.array(grid[:2]) - 1)
    return cell, scaled - cell


def move(
    points: Float[np.ndarray, "points 2"],
    place: Int[np.ndarray, "h w 2"],
    confidence: Float[np.ndarray, "h w"],
    size: tuple[int, ...],
    other_size: tuple[int, ...],
) -> Float[np.ndarray, "points 3"]:
    """Moves points by a match; they keep their places within their cells.

    Args:
      points: x, y in pixels.
      place: row and column of each cell's match, in a grid of as many cells.
      confidence: of each cell's match.
      size: height and width of the points' picture in pixels.
      other_size: of the other picture.

    Returns:
      x, y in pixels of the other picture, and the confidence.
    """
    cell, within = cells(points, size, place.shape)
    row, column = cell.T
    moved = (place[row, column] + within) * (np.array(other_size[:2]) / place.shape[:2]) - 0.5
    return np.column_stack([moved[:, ::-1], confidence[row, column]])


def check_points(
    points: Float[np.ndarray, "points 2"], picture: UInt8[np.ndarray, "rows columns 3"], name: str
) -> None:
    """Raises a `UserError` if a point lies outside of a picture, which the message calls `name`."""
    rows, columns, _ = picture.shape
    for number, (x, y) in enumerate(points, 1):
        if not (-0.5 <= x <= columns - 0.5 and -0.5 <= y <= rows - 0.5):
            raise UserError(
                f"point {number}, {x:g},{y:g}, is outside of the {name}, which has"
                f" {columns}x{rows} pixels; its x is 0 to {columns - 1}, its y 0 to {rows - 1}"
            )


def parse_points(given: str) -> Float[np.ndarray, "points 2"]:
    """The points of `--points`: `x,y;x,y`, or the name of a CSV file with x and y in its columns.

    Further columns of the file are ignored, and so is a first line without numbers. If its first
    line has columns x and y, these are read: so the program's own `matches.csv` can be read again.

    Raises:
      UserError: there is a point that is not two numbers, or the file cannot be read.
    """
    if not given:
        return np.zeros((0, 2))
    place = "--points"
    rows = [row.split(",") for row in given.split(";") if row.strip()]
    columns = 0, 1
    if given.lower().endswith(".csv"):
        place = str(files.local(given, "--points"))
        try:
            text = Path(place).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--points={place} cannot be read as a text file ({error})") from error
        rows = [row for row in csv.reader(io.StringIO(text)) if row]
        head = [word.strip().lower() for word in rows[0]] if rows else []
        if {"x", "y"} <= set(head):
            columns = head.index("x"), head.index("y")
            rows = rows[1:]
    points = []
    for number, row in enumerate(rows, 1):
        try:
            points.append([float(row[column]) for column in columns])
            if not np.isfinite(points[-1]).all():
                raise ValueError
        except (ValueError, IndexError):
            raise UserError(
                f"{place}: point {number} is {','.join(row)!r}; write each point as two numbers,"
                " x,y"
            ) from None
    if not points:
        raise UserError(f"{place} has no points; write each as two numbers, x,y")
    return np.array(points)


def as_csv(points: Float[np.ndarray, "points 2"], matches: Float[np.ndarray, "points 3"]) -> bytes:
    """The text of `matches.csv`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["number", "x", "y", "match_x", "match_y", "confidence"])
    for number, (point, match) in enumerate(zip(points, matches, strict=True), 1):
        found = [f"{match[0]:.2f}", f"{match[1]:.2f}", f"{match[2]:.3f}"]
        writer.writerow([number, *(f"{x:g}" for x in point), *found])
    return text.getvalue().encode()


def main() -> None:
    """Reads the flags and files, matches, writes."""
    input_file = reading.file("input", "the label map, edges or pose")
    exemplar_file = reading.file("exemplar", "the photograph to match it with")
    output = reading.file("output", "a folder to write")
    if output.suffix.lower() in images.EXTENSIONS or output.is_file():
        raise UserError(f"--output={output} must be a folder")
    points = parse_points(reading.given("points"))
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
    own = inputs.read_input(data, input_file, given.size, pose_size=pose_size)
    picture = reading.show_input(own.planes, data)
    exemplar = images.read_photograph(exemplar_file)
    exemplar_label = None
    label_file = reading.file("exemplar-label")
    if inference.needs_exemplar_label(translator.settings):
        if not reading.given("exemplar-label"):
            if not inputs.has_annotation(data, exemplar_file):
                raise UserError("--exemplar-label is missing; this checkpoint reads it")
            label_file = exemplar_file
        exemplar_label = inputs.read_input(
            data, label_file, translator.size, photograph=exemplar_file
        ).planes
    check_points(points, exemplar if back else picture, "exemplar" if back else "input")
    reading.check_outputs([output / "matches.csv"], [])
    print("compiling ...", flush=True)
    folder = checkpoint.absolute(output)
    pair = translator, given.planes, exemplar, exemplar_label
    shown = correspond(*pair, points, picture=picture, back=back)
    pictures.write_png(folder / "warped_exemplar.png", shown.warped_exemplar)
    pictures.write_png(folder / "warped_input.png", shown.warped_input)
    if len(points):
        pictures.write_png(folder / "matches.png", shown.picture)
        files.write(folder / "matches.csv", as_csv(points, shown.matches))
    for number, (x, y) in enumerate(points if with_heat else [], 1):
        drawn = heat_map(*pair, (x, y), picture=picture, back=back, number=number)
        pictures.write_png(folder / f"heat_{number}.png", drawn)
    print(f"{len(points)} matches and the warps in {output}")


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
