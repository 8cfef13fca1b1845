"""Writes the results of evaluations: numbers, tables beside the paper's, scores, pictures.

`write` makes metrics.json, metrics.md, scores.csv and best_and_worst.png of one evaluation;
`compare` makes one table of several.
"""

import csv
import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from cocosnet_jax import files, pictures
from cocosnet_jax.errors import UserError
from cocosnet_jax.measure import Measured
from cocosnet_jax.subjects import Subject

JSON = "metrics.json"
# Rows of the sheet.
_SHOWN = 8
# Number -> its name in the tables, whether lower or higher is better, digits.
_ROWS: dict[str, tuple[str, str, int]] = {
    "fid": ("FID", "lower", 2),
    "kid": ("KID x 1000", "lower", 3),
    "swd": ("SWD", "lower", 2),
    "semantic_consistency": ("Semantic consistency", "higher", 3),
    "style_relevance_colour": ("Style relevance, colour", "higher", 3),
    "style_relevance_texture": ("Style relevance, texture", "higher", 3),
    "lpips": ("LPIPS to the truth", "lower", 3),
    "lpips_diversity": ("LPIPS between results of one input", "higher is more diverse", 3),
}
# Tables 1 to 3 of the paper (SPEC section 10); masks by a third party (SPEC section 11).
PUBLISHED: dict[str, dict[str, float]] = {
    "ADE20k": {
        "fid": 26.4,
        "swd": 10.5,
        "semantic_consistency": 0.862,
        "style_relevance_colour": 0.962,
        "style_relevance_texture": 0.941,
    },
    "ADE20k outdoor": {"fid": 42.4, "swd": 11.5, "semantic_consistency": 0.873},
    "CelebA-HQ edges": {
        "fid": 14.3,
        "semantic_consistency": 0.949,
        "style_relevance_colour": 0.977,
        "style_relevance_texture": 0.958,
    },
    "CelebA-HQ masks": {"fid": 21.8},
    "DeepFashion": {
        "fid": 14.4,
        "semantic_consistency": 0.968,
        "style_relevance_colour": 0.982,
        "style_relevance_texture": 0.958,
    },
}
_NOTE = (
    "Published: CoCosNet, tables 1 to 3 of the paper; masks by a third party. The FID of edges is"
    " that of pictures saved as JPEG: the same outputs as PNG give 16.95. The released ADE20k"
    " weights give 33.3, measured by another party. Later work, FID of DeepFashion and CelebA-HQ"
    " edges: CoCosNet v2 12.8, 12.9; MIDMs 10.9, 15.7; EBDM 10.6, 11.8. Consistency and relevance"
    " compare with the published figures only where they are of VGG-19 with Caffe's weights."
)


def write(
    target: epath.Path, measured: Measured, subject: Subject, other: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes all files of one evaluation; one process does.

    Args:
      target: their folder.
      measured: the numbers.
      subject: what they are of.
      other: further numbers, which come first in metrics.json; for a run, also `checkpoint` and
        `step`.

    Returns:
      What metrics.json holds.

    Raises:
      StorageError: a file cannot be written.
    """
    content: dict[str, Any] = {**other, **measured.numbers}
    content |= {"protocols": measured.protocols, "left_out": measured.left_out}
    files.write(target / JSON, (json.dumps(content, indent=2) + "\n").encode())
    this = {"this": content}
    text = f"{table(this)}\n\n{_NOTE}\n"
    if "checkpoint" in content:
        text = f"Checkpoint {content['checkpoint']}, step {content['step']}.\n\n{text}"
    if measured.protocols:
        made = "\n".join(f"- {name}: {how}" for name, how in measured.protocols.items())
        text += f"\nHow each number was made:\n\n{made}\n"
    if measured.left_out:
        missing = "\n".join(f"- {name}: {what}" for name, what in measured.left_out.items())
        text += f"\nNot measured:\n\n{missing}\n"
    files.write(target / "metrics.md", text.encode())
    if measured.scores:
        files.write(target / "scores.csv", _csv(measured).encode())
        pictures.write_png(target / "best_and_worst.png", _sheet(measured, subject))
    else:  # Those of an earlier evaluation would be taken for this one's.
        for name in ("scores.csv", "best_and_worst.png"):
            (target / name).unlink(missing_ok=True)
    return content


def show(target: epath.Path) -> None:
    """Prints the table of an evaluation, and where the rest of it is."""
    print((target / "metrics.md").read_text())
    print(f"pictures and {JSON}: {target}")


def table(columns: Mapping[str, Mapping[str, Any]]) -> str:
    """A Markdown table of evaluations, by name, and of the published figures."""
    return _table(columns, PUBLISHED)


def _table(
    columns: Mapping[str, Mapping[str, Any]], published: Mapping[str, Mapping[str, float]]
) -> str:
    heads = [*columns, *(f"{name} (published)" for name in published)]
    every = [*columns.values(), *published.values()]
    lines = ["| | better | " + " | ".join(heads) + " |", "|---" * (len(heads) + 2) + "|"]
    for name, (title, better, digits) in _ROWS.items():
        if not any(name in numbers for numbers in every):
            continue
        scale = 1000 if name == "kid" else 1
        cells = [
            f"{scale * numbers[name]:.{digits}f}" if name in numbers else "" for numbers in every
        ]
        lines.append(f"| {title} | {better} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def find(folder: epath.Path) -> epath.Path | None:
    """The numbers of an evaluation's output, or of a run's newest evaluation; None without any."""
    if (folder / JSON).exists():
        return folder / JSON
    steps = sorted((folder / "evaluation").glob(f"step_*/{JSON}"))
    return steps[-1] if steps else None


def compare(evaluations: Mapping[str, epath.Path]) -> str:
    """One table of several evaluations, and a note on numbers that were measured differently.

    Args:
      evaluations: name -> its metrics.json.

    Raises:
      UserError: a file is no metrics.json.
    """
    found = {name: _read(path) for name, path in evaluations.items()}
    lines = [table(found), "", _NOTE]
    checkpoints = {
        name: f"{content['checkpoint']}, step {content['step']}"
        for name, content in found.items()
        if "checkpoint" in content
    }
    if checkpoints:
        lines += ["", "Checkpoints:", ""]
        lines += [f"- {name}: {checkpoint}" for name, checkpoint in checkpoints.items()]
    for number in _ROWS:
        protocols = {
            name: content["protocols"][number]
            for name, content in found.items()
            if number in content.get("protocols", {})
        }
        if len(set(protocols.values())) > 1:
            lines += [
                "",
                f"{_ROWS[number][0]} was measured in different ways and cannot be compared:",
                "",
            ]
            lines += [f"- {name}: {how}" for name, how in protocols.items()]
    return "\n".join(lines) + "\n"


def _read(path: epath.Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
        assert isinstance(content, dict)
    except (OSError, ValueError, AssertionError) as error:
        raise UserError(f"{path} cannot be read ({error}); evaluate again") from error
    return content


def _csv(measured: Measured) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["picture", *measured.scores])
    for key, *values in zip(measured.keys, *measured.scores.values(), strict=True):
        writer.writerow([key, *(f"{value:.6g}" for value in values)])
    return buffer.getvalue()


def order(measured: Measured) -> np.ndarray:
    """Places of the pictures, best first: by LPIPS where it was measured, or the first score."""
    if "lpips" in measured.scores:
        return np.argsort(measured.scores["lpips"], kind="stable")
    first = next(iter(measured.scores.values()))
    return np.argsort(-first, kind="stable")


def _sheet(measured: Measured, subject: Subject) -> np.ndarray:
    """The best pictures, then the worst: input, exemplar, what was generated and the truth."""
    places = order(measured)
    if len(places) > 2 * _SHOWN:
        places = np.concatenate([places[:_SHOWN], places[-_SHOWN:]])
    rows = []
    for place in map(int, places):
        row = []
        if subject.label is not None:
            row.append(pictures.palette(256)[np.asarray(subject.label(place))])
        if subject.exemplar is not None:
            row.append(subject.exemplar(place))
        row.append(subject.generated(place))
        if subject.paired:
            row.append(subject.real(place))
        rows.append(row)
    return pictures.tile(rows)
