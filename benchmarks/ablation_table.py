"""The table of `benchmarks.ablations`, from the numbers of its runs.

    python -m benchmarks.ablation_table docs/learning/ablations.json

prints it.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cocosnet_jax.configs import ablations

# Number -> its column, digits.
COLUMNS: dict[str, tuple[str, int]] = {
    "pck@0.1": ("PCK@0.1 ↑", 3),
    "warp_accuracy": ("warp accuracy ↑", 3),
    "fid": ("FID ↓", 1),
    "kid": ("KID x 1000 ↓", 1),
    "swd": ("SWD ↓", 1),
    "lpips": ("LPIPS ↓", 3),
    "semantic_consistency": ("semantic consistency ↑", 3),
    "style_relevance_colour": ("style relevance: colour ↑", 3),
    "style_relevance_texture": ("texture ↑", 3),
}
DASH = "-"
# For the last rows, which need no networks: row -> column -> key of the number in the file.
TRIVIAL: dict[str, dict[str, str]] = {
    "nearest place of the same class": {"pck@0.1": "pck@0.1_by_nearest_of_same_class"},
    "same position": {"pck@0.1": "pck@0.1_by_same_position"},
    "nearest colour": {"pck@0.1": "pck@0.1_by_nearest_colour"},
    "chance": {"pck@0.1": "pck@0.1_by_chance", "warp_accuracy": "warp_accuracy_by_chance"},
}


def main() -> None:
    """Prints the table of a file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("results", type=Path)
    print(of_file(parser.parse_args().results), end="")


def of_file(results: Path) -> str:
    """The table of the runs that `benchmarks.ablations` has written into a file."""
    return table(json.loads(results.read_text())["runs"], ablations.VARIANTS)


def table(runs: Sequence[Mapping[str, Any]], variants: Sequence[str]) -> str:
    """One row per variant that has runs: mean and standard deviation over its seeds (Markdown).

    The deviation is that of a sample (n - 1), and left out of one seed. Columns without any number
    are left out, and named below.

    Args:
      runs: finished runs, with `variant`, `seed` and `numbers`.
      variants: the order of the rows.
    """
    if not runs:
        return "no run is finished yet\n"
    shown = [name for name in COLUMNS if any(name in run["numbers"] for run in runs)]
    lines = [_row(["", "seeds", *(COLUMNS[name][0] for name in shown)])]
    lines.append(_row(["---"] * (2 + len(shown))))
    for variant in variants:
        of = [run["numbers"] for run in runs if run["variant"] == variant]
        if of:
            cells = [_cell([x[name] for x in of if name in x], COLUMNS[name][1]) for name in shown]
            lines.append(_row([f"`{variant}`", str(len(of)), *cells]))
    for title, names in TRIVIAL.items():
        values = {name: _first(runs, found) for name, found in names.items()}
        if any(value is not None for value in values.values()):
            cells = [
                DASH if (value := values.get(name)) is None else f"{value:.{COLUMNS[name][1]}f}"
                for name in shown
            ]
            lines.append(_row([title, "", *cells]))
    missing = [COLUMNS[name][0].rstrip(" ↑↓") for name in COLUMNS if name not in shown]
    if missing:
        lines += ["", f"Not measured, for lack of weights: {', '.join(missing)}."]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(values: Sequence[float], digits: int) -> str:
    if not values:
        return DASH
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def _first(runs: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """A number that is the same in all runs that have it."""
    return next((run["numbers"][name] for run in runs if name in run["numbers"]), None)


if __name__ == "__main__":
    main()
