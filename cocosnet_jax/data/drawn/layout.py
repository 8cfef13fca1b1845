"""What is where in a drawn scene."""

import numpy as np

from cocosnet_jax.data.drawn import house as houses
from cocosnet_jax.data.drawn.arithmetic import pick
from cocosnet_jax.data.drawn.house import House
from cocosnet_jax.data.drawn.things import (
    EVERYWHERE,
    HILL,
    MEADOW,
    MOUNTAIN,
    SKY,
    SUN,
    WATER,
    Thing,
    below,
    bush,
    cloud,
    ellipse,
    fence,
    ridge,
    trail,
    tree,
)


def draw_layout(rng: np.random.Generator) -> list[Thing]:
    """Draws the things of a scene, from the farthest to the nearest.

    Of every kind that has named points, the first or largest is the main one and has them: those
    of another house or tree would be ambiguous.
    """
    horizon = between(rng, 0.34, 0.58)
    above = _sun_and_clouds(rng, horizon)
    shape: tuple[float, ...] = (horizon,)
    if above and above[0].label == SUN:
        left, top, right, bottom = above[0].box
        shape = (horizon, (left + right) / 2, (top + bottom) / 2, (right - left) / 2)
    things = [Thing(SKY, EVERYWHERE, lambda x, y: y < 2, lambda x, y: (x, y), shape), *above]
    things += _backdrop(rng, horizon)
    ground, foot = _ground(rng, horizon)
    things += ground
    standing = _objects(rng, foot)
    for _, thing in sorted(standing, key=lambda pair: pair[0]):
        things += thing
    return things


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """A number between two."""
    return low + (high - low) * float(rng.random())


def _sun_and_clouds(rng: np.random.Generator, horizon: float) -> list[Thing]:
    things: list[Thing] = []
    if rng.random() < 0.85:
        radius = between(rng, 0.06, 0.13)
        x, y = between(rng, 0.1, 0.9), horizon * between(rng, 0.2, 0.8)
        things.append(ellipse(SUN, x, y, radius, radius))
    count = pick(rng, [0, 1, 2, 2, 3])
    sizes = np.sort(rng.random(count))[::-1]
    for number, size in enumerate(sizes.tolist()):
        x, base = between(rng, 0.0, 1.0), horizon * between(rng, 0.25, 0.8)
        puffs = rng.random((pick(rng, [3, 4, 5]), 2))
        drawn = cloud(x, base, 0.09 + 0.15 * size, puffs)
        things.append(_unnamed(drawn) if number else drawn)
    return things


def _backdrop(rng: np.random.Generator, horizon: float) -> list[Thing]:
    """Mountains, if any."""
    if rng.random() < 0.3:
        return []
    height = horizon * between(rng, 0.4, 0.8)
    heights = rng.random(pick(rng, [3, 4, 5]) + 3)
    skyline = ridge(horizon + 0.04 - height * heights, pick(rng, [0.0, 0.6, 1.0]))
    bottom, highest = min(horizon + 0.2, 1.0), horizon + 0.04 - height
    return [below(MOUNTAIN, skyline, bottom, height, highest)]


def _ground(rng: np.random.Generator, horizon: float) -> tuple[list[Thing], float]:
    """Hill, meadow and water, and the y below which things may stand."""

    def rolling(label: int, top: float, swing: float) -> Thing:
        heights = top + swing * (rng.random(pick(rng, [1, 2, 3]) + 3) - 0.5)
        return below(label, ridge(heights, 0.0), 1.0, 0.25, top - swing / 2)

    kind = pick(rng, ["hill", "hill", "sea", "sea", "pond", "pond"])
    things: list[Thing] = []
    top = horizon
    if kind == "hill" or rng.random() < 0.3:
        things.append(rolling(HILL, top, between(rng, 0.06, 0.16)))
        top += between(rng, 0.08, 0.16)
    if kind == "sea":
        depth = between(rng, 0.06, 0.16)
        level = top + 0.02
        things.append(below(WATER, lambda x: x * 0 + level, 1.0, depth, level))
        top = level + depth
    swing = between(rng, 0.04, 0.12)
    things.append(rolling(MEADOW, top, swing))
    foot = min(top + swing / 2 + 0.03, 0.8)
    if kind == "pond":
        across, x = between(rng, 0.16, 0.34), between(rng, 0.0, 1.0)
        y = between(rng, min(foot + 0.06, 0.86), 0.94)
        things.append(ellipse(WATER, x, y, across, across * 0.3))
    return things, foot


def _objects(rng: np.random.Generator, foot: float) -> list[tuple[float, list[Thing]]]:
    """Houses, trees, a path, a fence and bushes, each with the y at which it stands."""
    main = _house(rng, between(rng, foot + 0.02, 0.93), between(rng, 0.32, 0.56))
    standing = [(main.base, houses.things(main))]
    if rng.random() < 0.45:
        small = _house(
            rng, between(rng, foot, main.base - 0.01), main.width * between(rng, 0.4, 0.7)
        )
        if abs(small.x - main.x) > 0.5 * main.width:
            standing.append((small.base, [_unnamed(x) for x in houses.things(small)]))

    if rng.random() < 0.75 and main.base < 0.9:
        width = main.width * 0.1
        end = (between(rng, 0.1, 0.9), 1.0)
        door = main.place(0.2, 0.0)
        path = trail(door, end, between(rng, -1.6, 1.6), (width, between(rng, 0.07, 0.14)))
        standing.append((0.0, [path]))

    heights = [between(rng, 0.34, 0.62)]
    heights += [heights[0] * between(rng, 0.4, 0.8) for _ in range(pick(rng, range(4)))]
    kinds = [pick(rng, range(4)) for _ in range(2)]
    for number, height in enumerate(heights):
        # A main tree that stands clear of the house's middle, others anywhere.
        places = rng.random(4)
        clear = [x for x in places.tolist() if abs(x - main.x) > 0.36 * main.width + 0.05]
        x = clear[0] if clear else float(main.x < 0.5) * 0.9 + 0.05
        base = between(rng, foot, 0.97) if number else between(rng, max(foot, 0.66), 0.97)
        kind = kinds[min(number, 1)]
        wide = between(rng, 0.8, 1.15)
        parts = tree(x, base, height, kind, wide)
        standing.append((base, parts if number == 0 else [_unnamed(thing) for thing in parts]))

    if rng.random() < 0.5:
        left, length = between(rng, -0.1, 0.7), between(rng, 0.3, 0.7)
        base, height = between(rng, foot + 0.08, 0.98), between(rng, 0.08, 0.13)
        pitch = between(rng, 0.05, 0.07)
        standing.append((base, [fence(left, left + length, base, height, pitch)]))
    for _ in range(pick(rng, range(4))):
        width = between(rng, 0.06, 0.13)
        x, base = between(rng, 0.0, 1.0), between(rng, foot, 1.02)
        standing.append((base, [bush(x, base, width, width * between(rng, 0.7, 1.1))]))
    return standing


def _house(rng: np.random.Generator, base: float, width: float) -> House:
    gable = rng.random() < 0.4
    return House(
        x=between(rng, 0.16, 0.84),
        base=base,
        width=width,
        mirror=pick(rng, [1, -1]),
        wall=between(rng, 0.42, 0.88),
        roof=between(rng, 0.32, 0.55) * (1.2 if gable else 0.9),
        ridge=0.0 if gable else between(rng, 0.5, 0.9),
        lean=between(rng, -0.08, 0.08),
        wing=pick(rng, [0.0, 1.0]) * between(rng, 0.3, 0.48),
    )


def _unnamed(thing: Thing) -> Thing:
    return Thing(thing.label, thing.box, thing.inside, thing.local, thing.shape)
