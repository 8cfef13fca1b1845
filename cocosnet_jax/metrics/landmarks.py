"""PCK of single pairs of photographs, point by point, and its standard error.

`metrics.pck` counts whole batches of an evaluation. Here every pair is kept, since the pairs of
several exemplars share photographs: their error follows from the photographs, not from the number
of pairs.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer, Shaped

from cocosnet_jax import vgg
from cocosnet_jax.data import points as points_lib
from cocosnet_jax.encode import unit_image
from cocosnet_jax.matching import best_match
from cocosnet_jax.metrics import by_class
from cocosnet_jax.metrics.pck import ALPHAS, FACE_GROUPS, by_chance
from cocosnet_jax.nn.norms import unit_length
from cocosnet_jax.nn.resize import average_pool, bilinear

DRAWS = 500  # of the bootstrap

# Layers of VGG that are also compared by wide neighbourhoods.
WIDE = ("relu3_2", "relu4_2")

_by_chance = jax.jit(by_chance, static_argnums=(2, 3, 4))


class Sample(NamedTuple):
    """A photograph with its label map and points, of S x S pixels.

    Attributes:
      image: the photograph.
      label: its label map.
      points: x and y in pixels; NaN where a point is absent.
      features: matcher -> vectors of the cells of the grid; the nearest one is the match.
    """

    image: Integer[np.ndarray, "size size 3"]
    label: Integer[np.ndarray, "size size planes"]
    points: Float[np.ndarray, "points 2"]
    features: Mapping[str, Float[np.ndarray, "h w _"]]


class Counts(NamedTuple):
    """What was found in each pair.

    Attributes:
      pairs: input and exemplar, as numbers of photographs.
      seen: which points lie inside both.
      right: matcher -> the probability that each of these points is matched correctly; mostly 0
        or 1.
    """

    pairs: Int[np.ndarray, "pairs 2"]
    seen: Bool[np.ndarray, "pairs points"]
    right: dict[str, Float[np.ndarray, "pairs alphas points"]]


def circle(count: int, exemplars: int, seed: int) -> list[tuple[int, list[int]]]:
    """Pairs `count` photographs: each with the next `exemplars` of a circle in random order.

    Returns:
      Each exemplar with its inputs, in the order of the circle.
    """
    order = np.random.default_rng(seed).permutation(count).tolist()
    return [(order[at], [order[at - k] for k in range(1, exemplars + 1)]) for at in range(count)]


def of_pair(
    given: Sample, exemplar: Sample, places: Mapping[str, Int[np.ndarray, "h w 2"]]
) -> tuple[Bool[np.ndarray, "points"], dict[str, Float[np.ndarray, "alphas points"]]]:
    """Matches the points of one pair.

    Args:
      given: the input.
      exemplar: its exemplar.
      places: networks -> row and column of the exemplar's cell that belongs to each cell.

    Returns:
      `Counts.seen` and `Counts.right` of the pair.
    """
    size = len(given.image)
    h, w = next(iter(places.values())).shape[:2]
    both = np.stack([given.points, exemplar.points])
    seen = np.all((both >= -0.5) & (both < size - 0.5), (0, 2))
    own, truth = both[:, seen]
    cell, within = points_lib.cells(own, (size, size), (h, w))
    rows, columns = cell.T
    matched = {name: place[rows, columns] for name, place in places.items()}
    matched["same_position"] = cell
    for name, wanted in given.features.items():
        there = exemplar.features[name].reshape(h * w, -1)
        distance = np.square(there).sum(-1) - 2 * wanted[rows, columns] @ there.T
        matched[name] = np.stack(np.divmod(np.argmin(distance, 1), w), -1)
    found = {
        name: ((place + within) * (size / np.array([h, w])) - 0.5)[:, ::-1]
        for name, place in matched.items()
    }
    bounds = np.array(ALPHAS)[:, None] * size
    right = {name: np.hypot(*(at - truth).T) <= bounds for name, at in found.items()}
    right |= by_class.shares(own, truth, given.label[..., 0], exemplar.label[..., 0])
    # For all points, so that this has one shape and compiles once.
    every = (jnp.asarray(np.where(seen[:, None], x, 0)[None], jnp.float32) for x in both)
    right["chance"] = np.asarray(_by_chance(*every, h, w, size))[:, 0, seen]

    def of_all(values: Shaped[np.ndarray, "alphas seen"]) -> Float[np.ndarray, "alphas points"]:
        spread = np.zeros((len(ALPHAS), len(seen)))
        spread[:, seen] = values
        return spread

    return seen, {name: of_all(values) for name, values in right.items()}


@functools.partial(jax.jit, static_argnums=2)
def vgg_cells(
    weights: vgg.VggWeights, images: Integer[Array, "b size size 3"], grid: int
) -> dict[str, Float[Array, "b grid grid _"]]:
    """VGG's features by layer, averaged over the cells of a grid; unit vectors.

    Layers of fewer positions are resized.
    """

    def on_grid(x: Array) -> Array:
        return average_pool(x, x.shape[1] // grid) if x.shape[1] > grid else bilinear(x, grid, grid)

    found = vgg.features(weights, unit_image(images))
    return {layer: unit_length(on_grid(x)) for layer, x in found.items()}


def match_vgg(given: Sample, exemplar: Sample, side: int) -> dict[str, Int[np.ndarray, "h w 2"]]:
    """Matches VGG's features of `WIDE` layers by neighbourhoods, as the networks' are matched.

    Args:
      given: the input.
      exemplar: its exemplar.
      side: of the neighbourhoods.

    Returns:
      name of the features -> places as in `of_pair`.
    """
    return {
        name: np.asarray(best_match(cells[None], exemplar.features[name][None], 1.0, side).place[0])
        for name, cells in given.features.items()
        if any(layer in name for layer in WIDE)
    }


def collect(
    pairs: Sequence[tuple[int, int]],
    found: Sequence[
        tuple[Bool[np.ndarray, "points"], dict[str, Float[np.ndarray, "alphas points"]]]
    ],
) -> Counts:
    """Joins what `of_pair` returned for all pairs."""
    names = found[0][1]
    return Counts(
        np.array(pairs),
        np.stack([seen for seen, _ in found]),
        {name: np.stack([right[name] for _, right in found]) for name in names},
    )


def shares(counts: Counts) -> dict[str, dict[str, tuple[float, float]]]:
    """PCK and its standard error, over all points of all pairs.

    The error is estimated by the bootstrap: photographs are drawn with replacement, and a pair
    counts as often as both of its photographs were drawn together, so that pairs with a photograph
    in common do not count as independent.

    Returns:
      matcher -> `parts@0.05` and so on of faces with 68 points, or `all@0.05` -> (share, error).
    """
    points = counts.seen.shape[1]
    groups = FACE_GROUPS if points == 68 else {"all": slice(None)}
    photographs = int(counts.pairs.max()) + 1
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(photographs, np.full(photographs, 1 / photographs), DRAWS)
    weights = drawn[:, counts.pairs[:, 0]] * drawn[:, counts.pairs[:, 1]]
    table: dict[str, dict[str, tuple[float, float]]] = {name: {} for name in counts.right}
    for group, part in groups.items():
        seen = counts.seen[:, part].sum(1)
        for number, alpha in enumerate(ALPHAS) if seen.any() else ():
            for name, right in counts.right.items():
                hits = right[:, number, part].sum(1)
                with np.errstate(invalid="ignore"):
                    spread = np.nanstd((weights @ hits) / (weights @ seen))
                share = float(hits.sum() / seen.sum())
                table[name][f"{group}@{alpha:g}"] = share, float(spread)
    return table


def as_table(content: Mapping[str, Any]) -> str:
    """The table of `apps.pck`'s pck.md, from the content of its pck.json."""
    columns = list(next(iter(content["pck"].values())))
    lines = [
        f"PCK of {content['points']} points in {content['pairs']} pairs of"
        f" {content['photographs']} photographs of {content['source']}, {content['exemplars']}"
        f" exemplars each, seed {content['seed']}; {content['size']} x {content['size']} pixels,"
        f" {content['grid']} x {content['grid']} cells. The networks"
        f" {'read' if content['exemplar_labels'] else 'did not read'} the exemplars' label maps.",
        "",
        f"| | {' | '.join(columns)} |",
        f"|---|{'---|' * len(columns)}",
    ]
    for name, values in content["pck"].items():
        cells = (f"{share:.3f} +- {error:.3f}" for share, error in values.values())
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
