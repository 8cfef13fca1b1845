"""The table of PCK of a folder whose pictures are one picture, moved."""

import json
import types
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from PIL import Image

from cocosnet_jax import settings
from cocosnet_jax.apps import pck
from cocosnet_jax.errors import UserError
from cocosnet_jax.pretrained import vgg as vgg_files

SIZE, STRIDE = 64, 2
CONFIG = {
    "data": {"dataset": "folder", "channels": 5, "image_size": SIZE, "exemplar_list": "random"},
    "model": {"warp_stride": STRIDE, "mask_input": "none"},
}


class SamePlace:
    """Networks that match every cell with the same one."""

    size = SIZE
    settings = settings.from_mapping(CONFIG)
    reading_kernel = 9

    def match(self, label, exemplar, exemplar_label, match_kernel=0):
        assert match_kernel in (3, 5, 9)
        assert label.shape == exemplar_label.shape == (*exemplar.shape[:3], 1)
        side = SIZE // STRIDE
        place = np.moveaxis(np.indices((side, side)), 0, -1)[None].repeat(len(label), 0)
        return types.SimpleNamespace(place=place, confidence=np.full((1, side, side), 0.25))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Noise that is moved to the right by 0, 8, 16 and 24 pixels, and 68 points of it."""
    folder = tmp_path_factory.mktemp("faces")
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    squares = np.random.default_rng(1).integers(0, 5, (8, 8), np.uint8)
    classes = squares.repeat(8, 0).repeat(8, 1)
    (folder / "images/more").mkdir(parents=True)
    (folder / "labels/more").mkdir(parents=True)
    names = ["a", "b", "c", "more/d"]
    for number, name in enumerate(names):
        for kind, picture in (("images", noise), ("labels", classes)):
            moved = np.roll(picture, 8 * number, 1)
            Image.fromarray(moved).save(folder / kind / f"{name}.png")
    points = rng.uniform([0, 0], [SIZE - 26, SIZE - 1], (68, 2))
    xy = [points + np.array([8 * number, 0]) for number in range(len(names))]
    np.savez(folder / "keypoints68.npz", names=[*names, "gone"], xy=[*xy, points])
    return folder


@pytest.fixture
def told(monkeypatch):
    """Flags as a command line would set them, and networks that need no checkpoint."""

    def tell(source, output, **changed):
        given = {
            **{"checkpoint": ["runs/faces"], "source": str(source), "keypoints": ""},
            **{"vgg": "", "output": str(output), "exemplars": 5, "seed": 0, "sides": None},
            **{"averaged": True, "all": False, **changed},
        }
        values = {name: types.SimpleNamespace(value=value) for name, value in given.items()}
        monkeypatch.setattr(flags, "FLAGS", values)
        monkeypatch.setattr(pck, "_open", lambda names, averaged: {names[0]: SamePlace()})

    return tell


def test_known_matches_are_found(folder, tmp_path, told, monkeypatch):
    monkeypatch.setattr(pck.vgg_files, "load", lambda name, flag: vgg_files._random(4))
    weights = tmp_path / "vgg.pth"
    weights.write_bytes(b"")
    told(folder, tmp_path / "out", vgg=str(weights))
    pck.main()
    found = json.loads((tmp_path / "out/pck.json").read_text())
    assert (found["photographs"], found["pairs"], found["exemplars"]) == (4, 12, 3)
    assert (found["points"], found["grid"]) == (12 * 68, 32)
    assert found["confidence"] == {f"runs/faces, {k} x {k}": 0.25 for k in (3, 9)}
    table = found["pck"]
    # The pictures are 8, 16 or 24 pixels apart, and a tenth is 6.4.
    for side in (3, 9):
        assert {share for share, _ in table[f"runs/faces, {side} x {side}"].values()} == {0}
        assert table["same_position"] == table[f"runs/faces, {side} x {side}"]
    # VGG pads with zeros, so features at borders differ from those of the same pixels elsewhere.
    # Wide neighbourhoods also reach beyond the picture, where there is nothing to compare.
    for matcher, least in (
        ("colour", 0.99),
        (f"VGG-19 relu1_2 at {SIZE}", 0.95),
        (f"VGG-19 relu3_2 at {pck._VGG_SIZE}, 9 x 9", 0.7),
    ):
        assert table[matcher]["parts@0.05"][0] > least, matcher
        assert table[matcher]["jaw@0.05"][0] > least, matcher
    # Cells of 2 x 2 pixels within a square of 8 x 8 differ in where its borders are.
    assert table["both_label_maps, 9 x 9"]["parts@0.05"][0] > 0.98
    assert 0 < table["chance"]["parts@0.05"][0] < 0.01
    assert len([name for name in table if name.startswith("VGG-19 relu")]) == 14
    text = (tmp_path / "out/pck.md").read_text()
    assert "816 points in 12 pairs of 4 photographs" in text
    assert "did not read" in text
    assert "| runs/faces, 9 x 9 | 0.000 +- 0.000 |" in text


def test_sides_are_those_that_are_asked_for(folder, tmp_path, told):
    told(folder, tmp_path / "out", sides=["5", "9"], exemplars=1)
    pck.main()
    table = json.loads((tmp_path / "out/pck.json").read_text())["pck"]
    found = [name for name in table if name.startswith("runs/faces")]
    assert found == ["runs/faces, 5 x 5", "runs/faces, 9 x 9"]


def test_a_list_chooses_photographs_and_all_takes_all(folder, tmp_path):
    here = tmp_path / "faces"
    here.mkdir()
    for name in ("images", "labels", "keypoints68.npz"):
        (here / name).symlink_to(folder / name)
    everything = ["images/a.png", "images/b.png", "images/c.png", "images/more/d.png"]
    assert pck.Faces(here).keys == everything
    (here / "val.txt").write_text("d.png\nb\n")
    assert pck.Faces(here).keys == ["images/more/d.png", "images/b.png"]
    assert pck.Faces(here, everything=True).keys == everything
    (here / "val.txt").write_text("z\n")
    with pytest.raises(UserError, match=r"val.txt, line 1: 'z' matches no photograph.*--all"):
        pck.Faces(here)


def test_what_is_missing_is_said(folder, tmp_path, told):
    told(folder, "")
    with pytest.raises(UserError, match="--output is missing"):
        pck.main()
    told(folder, tmp_path / "out", vgg="no.pth")
    with pytest.raises(UserError, match=r"^--vgg is 'no\.pth', which is no file: set --vgg=keras"):
        pck.main()
    with pytest.raises(UserError, match="does not have the folders images and labels"):
        pck.Faces(tmp_path)
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    (tmp_path / "images/a.png").write_bytes((folder / "images/a.png").read_bytes())
    np.savez(tmp_path / "landmarks.npz", names=["a"], xy=np.zeros((1, 68, 2)))
    with pytest.raises(UserError, match=r"no file keypoints\*.npz.*\(is it landmarks.npz\?\)"):
        pck.Faces(tmp_path)
    points = Path(tmp_path / "landmarks.npz")
    with pytest.raises(UserError, match=r"points of 1 of the 1 photographs .* pairs need two"):
        pck.Faces(tmp_path, points)
    (tmp_path / "images/b.png").write_bytes((folder / "images/b.png").read_bytes())
    np.savez(points, names=["a", "b"], xy=np.zeros((2, 68, 2)))
    faces = pck.Faces(tmp_path, points)
    with pytest.raises(UserError, match=r"images/a.png has no label map .*labels/a.png; add it"):
        faces.read("images/a.png", SamePlace(), None)
