"""The commands edit, makeup and correspond: on files, with the shipped model."""

import csv
import types

import numpy as np
import pytest
from absl import flags
from PIL import Image

from cocosnet_jax import inference
from cocosnet_jax.apps import correspond, edit, gallery, makeup, reading
from cocosnet_jax.data.drawn.things import SKY, SUN, TRUNK
from cocosnet_jax.errors import UserError
from cocosnet_jax.pretrained import SHIPPED

SIZE = 128
MODULES = {"edit": edit, "makeup": makeup, "correspond": correspond}
DEFAULTS = {
    **dict.fromkeys(("checkpoint", "photograph", "label", "edited", "output", "portrait"), ""),
    **dict.fromkeys(("portrait-label", "strokes", "made-up", "portraits", "labels", "input"), ""),
    **dict.fromkeys(("exemplar", "exemplar-label", "points", "pose-size"), ""),
    **{"size": 0, "paste": False, "seam": None, "on": "input", "heat-maps": False},
}


@pytest.fixture(scope="module")
def translator():
    return inference.Translator(SHIPPED)


@pytest.fixture
def run(translator, monkeypatch):
    """Runs a command with these flags, and the translator that all tests share."""

    def main(command, **given):
        values = DEFAULTS | {name.replace("_", "-"): value for name, value in given.items()}
        assert values.keys() == DEFAULTS.keys()
        holders = {
            name: types.SimpleNamespace(value=str(value) if DEFAULTS[name] == "" else value)
            for name, value in values.items()
        }
        monkeypatch.setattr(flags, "FLAGS", holders)
        monkeypatch.setattr(reading, "open_translator", lambda: translator)
        MODULES[command].main()

    return main


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A folder of photographs, their label maps in `labels`, and the first scene."""
    folder = tmp_path_factory.mktemp("scenes")
    (folder / "labels").mkdir()
    (folder / "photographs").mkdir()
    drawn = [gallery.scene(number, SIZE) for number in (64, 54)]
    for name, scene in zip("ab", drawn, strict=True):
        Image.fromarray(scene.image).save(folder / f"photographs/{name}.png")
        Image.fromarray(scene.label).save(folder / f"labels/{name}.png")
    return folder, drawn[0]


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_an_edited_photograph(run, scenes, tmp_path):
    folder, scene = scenes
    edited = np.where(scene.label == SUN, SKY, scene.label)
    Image.fromarray(edited).save(tmp_path / "edited.png")
    given = {
        "photograph": folder / "photographs/a.png",
        "label": folder / "labels/a.png",
        "edited": tmp_path / "edited.png",
    }
    run("edit", **given, output=tmp_path / "pasted.png", paste=True, seam=5)
    pasted, rows, columns = read(tmp_path / "pasted.png"), *np.nonzero(scene.label == SUN)
    far = np.ones((SIZE, SIZE), bool)
    far[max(rows.min() - 5, 0) : rows.max() + 6, columns.min() - 5 : columns.max() + 6] = False
    np.testing.assert_array_equal(pasted[far], scene.image[far])
    # The sun is gone: its place has the colour of the sky beside it.
    sky = scene.image[rows.min() : rows.max(), columns.max() + 12 : columns.max() + 24].mean((0, 1))
    sun = scene.image[rows, columns].mean(0)
    place = pasted[rows, columns].mean(0)
    assert np.linalg.norm(place - sky) < 0.3 * np.linalg.norm(sun - sky)

    for wrong, message in (
        ({"edited": folder / "labels/a.png"}, "equals the photograph's at the 128 x 128 pixels"),
        ({"label": ""}, "--label is missing; name the photograph's label map"),
        ({"photograph": ""}, "--photograph is missing; name the photograph to edit"),
        ({"output": tmp_path / "edited.png"}, "edited.png would replace an input"),
        ({"output": tmp_path / "out.jpg"}, "out.jpg must end in .png"),
    ):
        with pytest.raises(UserError, match=message):
            run("edit", **{**given, "output": tmp_path / "out.png", **wrong})
    Image.fromarray(edited[:64]).save(tmp_path / "small.png")
    with pytest.raises(UserError, match=r"has 128x128 pixels .*small.png has 128x64"):
        run("edit", **given | {"edited": tmp_path / "small.png"}, output=tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()


def test_strokes_that_reach_no_place_are_said(run, scenes, tmp_path, capsys):
    """A portrait that is all sky has no place for a dot on a trunk."""
    folder, scene = scenes
    for name, given in (("sky", scene.image), ("map", np.full_like(scene.label, SKY))):
        Image.fromarray(given).save(tmp_path / f"{name}.png")
    layer = np.zeros((SIZE, SIZE, 4), np.uint8)
    row, column = np.argwhere(scene.label == TRUNK)[-1]
    layer[row, column] = 255, 0, 255, 255
    Image.fromarray(layer).save(tmp_path / "strokes.png")
    given = {"portrait": folder / "photographs/a.png", "strokes": tmp_path / "strokes.png"}
    given |= {"portraits": tmp_path / "sky.png", "labels": tmp_path / "map.png"}
    run("makeup", **given, output=tmp_path / "out.png")
    assert np.abs(read(tmp_path / "out.png").astype(int) - scene.image).max() < makeup.NOISE
    assert "note: the strokes cannot be seen in 1 of them (sky.png)" in capsys.readouterr().out


def test_strokes_on_a_folder_of_portraits(run, scenes, tmp_path):
    """On the portrait itself they land where they were, up to the patches of 4 x 4 pixels."""
    folder, scene = scenes
    layer = gallery.strokes(scene)
    Image.fromarray(layer).save(tmp_path / "strokes.png")
    given = {
        "portrait": folder / "photographs/a.png",
        "portraits": folder / "photographs",
        "labels": folder / "labels",
    }
    run("makeup", **given, strokes=tmp_path / "strokes.png", output=tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]

    def changed(name):
        before, after = (
            read(place / name).astype(int) for place in (folder / "photographs", tmp_path / "out")
        )
        return np.abs(after - before).max(-1) > 40

    painted = layer[..., 3] > 100
    found = changed("a.png")
    assert np.sum(found & painted) > 0.6 * np.sum(found | painted)
    assert changed("b.png").any()

    # As a made-up version, the same strokes are found by the difference.
    Image.alpha_composite(
        Image.fromarray(scene.image).convert("RGBA"), Image.fromarray(layer)
    ).convert("RGB").save(tmp_path / "made_up.png")
    by_strokes = read(tmp_path / "out/a.png")
    run("makeup", **given, made_up=tmp_path / "made_up.png", output=tmp_path / "out")
    gap = np.abs(read(tmp_path / "out/a.png").astype(int) - by_strokes)
    assert gap.mean() < 1

    given["output"] = tmp_path / "new"
    for wrong, message in (
        ({}, "name the portrait with its makeup with --made-up, or .* one of the two"),
        ({"strokes": folder / "photographs/b.png"}, "b.png has no transparency"),
        ({"strokes": tmp_path / "none.png"}, "none.png does not exist"),
        ({"made_up": folder / "photographs/a.png"}, "does not differ from the portrait"),
        ({"strokes": tmp_path / "strokes.png", "labels": tmp_path}, "a.png does not exist"),
        (
            {"strokes": tmp_path / "strokes.png", "output": folder / "photographs"},
            "a.png would replace an input",
        ),
    ):
        with pytest.raises(UserError, match=message):
            run("makeup", **given | wrong)
    assert not (tmp_path / "new").exists()


def test_a_scenes_points_are_found_in_its_own_picture(run, scenes, tmp_path):
    folder, scene = scenes
    points = scene.points[~np.isnan(scene.points).any(1)].astype(float)
    given = {"input": folder / "labels/a.png", "exemplar": folder / "photographs/a.png"}
    text = ";".join(f"{x},{y}" for x, y in points)
    run("correspond", **given, points=text, output=tmp_path / "out")
    with (tmp_path / "out/matches.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = np.array([[float(row["match_x"]), float(row["match_y"])] for row in rows])
    assert np.mean(np.hypot(*(found - points).T) < 0.1 * SIZE) > 0.4
    assert all(0 < float(row["confidence"]) <= 1 for row in rows)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    written = {"matches.csv", "matches.png", "warped_exemplar.png", "warped_input.png"}
    assert names == written
    warped = read(tmp_path / "out/warped_exemplar.png").astype(int)
    assert (
        np.abs(warped - scene.image).mean() < 0.5 * np.abs(scene.image - scene.image.mean()).mean()
    )

    # Without points, the warps alone; with heat maps, one per point.
    run("correspond", **given, output=tmp_path / "warps")
    names = {path.name for path in (tmp_path / "warps").iterdir()}
    assert names == {"warped_exemplar.png", "warped_input.png"}
    (tmp_path / "points.csv").write_text("x,y\n3,4\n5,6\n")
    given |= {"points": tmp_path / "points.csv", "on": "exemplar"}
    run("correspond", **given, output=tmp_path / "heat", heat_maps=True)
    names = {path.name for path in (tmp_path / "heat").iterdir()}
    assert names == written | {"heat_1.png", "heat_2.png"}
    for wrong, message in (
        ({"exemplar": ""}, "--exemplar is missing; name the photograph to match it with"),
        ({"heat_maps": True, "points": ""}, "--heat-maps needs --points"),
        ({"points": "128,3"}, "point 1, 128,3, is outside of the exemplar"),
        ({"output": tmp_path / "out/matches.csv"}, "matches.csv must be a folder"),
        ({"pose_size": "big"}, "--pose-size=big must be WIDTHxHEIGHT"),
    ):
        with pytest.raises(UserError, match=message):
            run("correspond", **{**given, "output": tmp_path / "new", **wrong})
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", MODULES)
def test_flags_are_defined_when_the_command_starts(program, command):
    """Importing a command defines none, so that a program can import several of them."""
    done = program.run(f"apps.{command}", "--size=64", "--checkpoint=none")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --")
    assert " is missing; name " in done.stderr
