"""Points in pictures: read, moved by a match, and written.

Points are x and y in pixels, whole numbers at pixels' middles, from the upper left pixel 0,0.
"""

import csv
import io
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from cocosnet_jax import files
from cocosnet_jax.errors import UserError


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


def check(points: Float[np.ndarray, "points 2"], size: tuple[int, ...], name: str) -> None:
    """Checks that points lie in their picture.

    Args:
      points: x, y in pixels.
      size: height and width of the picture in pixels.
      name: what the message calls it.

    Raises:
      UserError: one lies outside.
    """
    rows, columns = size[:2]
    for number, (x, y) in enumerate(points, 1):
        if not (-0.5 <= x <= columns - 0.5 and -0.5 <= y <= rows - 0.5):
            raise UserError(
                f"point {number}, {x:g},{y:g}, is outside of the {name}, which has"
                f" {columns}x{rows} pixels; its x is 0 to {columns - 1}, its y 0 to {rows - 1}"
            )


def parse(given: str) -> Float[np.ndarray, "points 2"]:
    """The points of `--points`: `x,y;x,y`, or the name of a CSV file with x and y in its columns.

    The first two columns of the file are read, or those that its first line calls x and y: so the
    program's own `matches.csv` can be read again. Further columns are ignored.

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
