import ast
import subprocess
import sys
import zlib

import numpy as np
import pytest

from cocosnet_jax.data.drawn import house, layout, style, things
from cocosnet_jax.data.drawn.scene import POINTS, draw_scene
from tests.conftest import ROOT

SIZE = 64
SEEDS = range(24)


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene(seed, seed + 100, SIZE) for seed in SEEDS]


# Of the image, and of label map and points.
@pytest.mark.parametrize(
    ("layout", "style", "size", "image_sum", "map_sum"),
    [
        (0, 0, 64, 1788238421, 1567560965),
        (7, 3, 73, 1603397254, 2071837475),
        (1_000_003, 1_000_000, 128, 587573921, 2295559940),
    ],
)
def test_scenes_are_the_same_on_every_machine(layout, style, size, image_sum, map_sum):
    drawn = draw_scene(layout, style, size)
    assert (drawn.image.shape, drawn.image.dtype) == ((size, size, 3), np.uint8)
    assert (drawn.label.shape, drawn.label.dtype) == ((size, size), np.uint8)
    places = np.nan_to_num(drawn.points * 16, nan=-1).round().astype(np.int32)
    found = [
        zlib.crc32(drawn.label.tobytes() + places.tobytes()),
        zlib.crc32(drawn.image.tobytes()),
    ]
    assert found == [map_sum, image_sum], (
        "other scenes are drawn: raise DrawnScenes.VERSION, and change the sums here"
    )


def test_drawing_needs_no_tensorflow():
    code = "import sys, cocosnet_jax.data.drawn.scene; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
    brought = {
        alias.name.split(".")[0]
        for path in (ROOT / "cocosnet_jax/data/drawn").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert brought == {"numpy", "dataclasses"}


def test_a_style_changes_the_image_alone():
    drawn = [draw_scene(5, number, SIZE) for number in range(6)]
    for other in drawn[1:]:
        np.testing.assert_array_equal(other.label, drawn[0].label)
        np.testing.assert_array_equal(other.things, drawn[0].things)
        np.testing.assert_array_equal(other.points, drawn[0].points)
    images = np.stack([one.image for one in drawn]).astype(np.float64)
    for label in np.unique(drawn[0].label):
        means = images[:, drawn[0].label == label].mean(1)
        distances = np.abs(means[:, None] - means[None]).mean(-1)[np.triu_indices(6, 1)]
        assert distances.mean() > 20, things.CLASS_NAMES[label]


def test_neighbouring_classes_differ_in_colour():
    rng = np.random.Generator(np.random.PCG64(0))
    for _ in range(20):
        colours = style.draw_style(rng).colours
        for one, other in (("roof", "wall"), ("crown", "meadow"), ("mountain", "sky")):
            assert np.abs(colours[one] - colours[other]).max() > 0.08


def test_layouts_have_the_classes(scenes):
    present = np.stack([np.bincount(s.label.ravel(), minlength=things.NUM_CLASSES) for s in scenes])
    shares = (present > 0).mean(0)
    assert len(shares) == things.NUM_CLASSES == len(things.CLASS_NAMES)
    assert shares[things.UNKNOWN] == 0
    always = [things.SKY, things.MEADOW, things.WALL, things.ROOF, things.CROWN]
    assert shares[always].min() == 1
    assert shares[1:].min() > 0.2


def test_points_lie_on_their_things(scenes):
    of_class = {
        "house roof": things.ROOF,
        "house ridge": things.ROOF,
        "house wing's roof": things.ROOF,
    }
    of_class |= {"house": things.WALL, "tree": things.CROWN, "cloud": things.CLOUD}
    seen = np.zeros(len(POINTS), int)
    for drawn in scenes:
        assert drawn.points.dtype == np.float32
        owners: dict[tuple[str, int], set[int]] = {}
        for number, (name, (x, y)) in enumerate(zip(POINTS, drawn.points, strict=True)):
            if np.isnan(x):
                continue
            at = int(np.floor(y + 0.5)), int(np.floor(x + 0.5))
            wanted = next(label for start, label in of_class.items() if name.startswith(start))
            assert drawn.label[at] == wanted, name
            owners.setdefault((name.split()[0], wanted), set()).add(int(drawn.things[at]))
            seen[number] += 1
        # All of a name's beginning are on one thing.
        assert all(len(found) == 1 for found in owners.values())
    assert seen.min() > 0
    assert seen.sum() > 12 * len(scenes)


def test_a_mirrored_house_has_mirrored_points():
    right = house.House(0.5, 0.8, 0.4, 1, 0.7, 0.4, 0.6, 0.05, 0.4)
    left = house.House(0.5, 0.8, 0.4, -1, 0.7, 0.4, 0.6, 0.05, 0.4)
    x, y = np.meshgrid(*[np.linspace(0.01, 0.99, 50, dtype=np.float32)] * 2)
    for one, other in zip(house.things(right), house.things(left), strict=True):
        np.testing.assert_array_equal(one.inside(x, y), other.inside(x, y)[:, ::-1])
        for name, (u, v) in one.points.items():
            np.testing.assert_allclose(other.points[name], (1 - u, v), atol=1e-12)


def test_every_place_of_a_thing_has_the_coordinates_of_its_points():
    # The door's middle is at (0.2, 0.17) in the widths of any house.
    for seed in range(5):
        drawn = layout.draw_layout(np.random.Generator(np.random.PCG64(seed)))
        for thing in drawn:
            if "house door" in thing.points:
                x, y = (np.array([value]) for value in thing.points["house door"])
                np.testing.assert_allclose(np.ravel(thing.local(x, y)), (0.2, 0.17), atol=1e-12)


def test_a_scene_is_the_same_picture_at_every_size():
    small, large = draw_scene(3, 4, 64), draw_scene(3, 4, 192)
    reduced = large.image.reshape(64, 3, 64, 3, 3).mean((1, 3))
    assert np.abs(reduced - small.image).mean() < 3
    assert (large.label[1::3, 1::3] == small.label).mean() > 0.98
    both = ~np.isnan(small.points[:, 0]) & ~np.isnan(large.points[:, 0])
    np.testing.assert_allclose((large.points[both] + 0.5) / 3 - 0.5, small.points[both], atol=1e-4)


@pytest.mark.parametrize("arguments", [(-1, 0, 64), (0, -1, 64), (0, 0, 15)])
def test_impossible_arguments(arguments):
    with pytest.raises(ValueError, match="or more"):
        draw_scene(*arguments)


def share_found(scenes, guess):
    """PCK@0.1: how many points a matcher finds within a tenth of the picture's side."""
    found = []
    for number, one in enumerate(scenes * 5):
        other = scenes[(number + 1 + 4 * (number // len(scenes))) % len(scenes)]
        both = np.flatnonzero(~np.isnan(one.points[:, 0]) & ~np.isnan(other.points[:, 0]))
        for point in both:
            x, y = guess(one, other, one.points[point])
            wanted = other.points[point]
            found.append(np.hypot(x - wanted[0], y - wanted[1]) <= 0.1 * SIZE)
    return np.mean(found)


def test_position_colour_and_class_do_not_find_points(scenes):
    rng = np.random.default_rng(0)

    def at(array, place):
        return array[int(place[1] + 0.5), int(place[0] + 0.5)]

    def same_position(one, other, place):
        return place

    def nearest_colour(one, other, place):
        gap = np.abs(other.image.astype(int) - at(one.image, place)).sum(-1)
        y, x = np.unravel_index(np.argmin(gap), gap.shape)
        return x, y

    def same_class(one, other, place):
        y, x = np.nonzero(other.label == at(one.label, place))
        chosen = rng.integers(len(x))
        return x[chosen], y[chosen]

    def nearest_of_class(one, other, place):
        y, x = np.nonzero(other.label == at(one.label, place))
        chosen = np.argmin((x - place[0]) ** 2 + (y - place[1]) ** 2)
        return x[chosen], y[chosen]

    assert share_found(scenes, same_position) < 0.16
    assert share_found(scenes, nearest_colour) < 0.16
    assert share_found(scenes, same_class) < 0.28
    assert share_found(scenes, nearest_of_class) < 0.32


def test_the_page_on_data_lists_the_colours_of_label_maps():
    listed = (ROOT / "docs/data.md").read_text()
    colours = map(bytes, things.CLASS_COLOURS)
    for number, (name, colour) in enumerate(zip(things.CLASS_NAMES, colours, strict=True)):
        assert f"| {number} | {name} | #{colour.hex().upper()} |" in listed
