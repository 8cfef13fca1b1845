import numpy as np
import pytest
from PIL import Image

from cocosnet_jax import data
from cocosnet_jax.data import keypoints
from cocosnet_jax.data.builders.drawn_scenes import DrawnScenes, key_of
from cocosnet_jax.data.drawn import scene
from cocosnet_jax.errors import UserError


def write(path, **arrays):
    np.savez(path, **arrays)
    return keypoints.Keypoints(path)


def test_points_follow_the_picture_to_its_new_size(tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (40, 20)).save(tmp_path / "images/a.png")
    # The centres of the first and the last pixel, the middle of the picture, and an absent point.
    xy = np.array([[[0, 0], [39, 19], [19.5, 9.5], [np.nan, np.nan]]])
    by_photograph = write(tmp_path / "keypoints.npz", names=["a"], xy=xy)
    by_size = write(tmp_path / "keypoints_b.npz", names=["images/gone.png"], xy=xy, size=[40, 20])
    each = write(tmp_path / "keypoints_c.npz", names=["gone.png"], xy=xy, size=[[40, 20]])
    want = [[-0.4, -0.3], [7.4, 7.3], [3.5, 3.5], [np.nan, np.nan]]
    for points, key in ((by_photograph, "a.png"), (by_size, "gone.png"), (each, "gone.png")):
        np.testing.assert_allclose(points.of(f"images/{key}", 8), want, atol=1e-6)
        assert points.of("images/other.png", 8) is None
    with pytest.raises(UserError, match=r"size of images/b.png is not known, since .*add `size`"):
        write(tmp_path / "keypoints.npz", names=["images/b"], xy=xy).of("images/b.png", 8)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"xy": np.zeros((1, 2, 2))}, "it has xy, and needs names and xy"),
        ({"names": [1], "xy": np.zeros((1, 2, 2))}, r"names is int64 \(1,\), not a list of texts"),
        ({"names": ["a"], "xy": np.zeros((2, 2, 2))}, r"xy is float64 \(2, 2, 2\), not numbers"),
        ({"names": ["a"], "xy": np.zeros((1, 2, 3))}, r"xy is float64 \(1, 2, 3\), not numbers"),
        ({"names": ["a"], "xy": np.zeros((1, 2))}, r"xy is float64 \(1, 2\), not numbers"),
        ({"names": ["a"] * 2, "xy": np.zeros((2, 2, 2))}, "two of its names are the same"),
        ({"names": ["a"], "xy": np.zeros((1, 2, 2)), "points": ["l"]}, r"points is \(1,\)"),
        ({"names": ["a"], "xy": np.zeros((1, 2, 2)), "size": [1]}, r"size is \(1,\), not \(2,\)"),
    ],
)
def test_files_of_another_kind_say_what_is_wrong(tmp_path, arrays, said):
    with pytest.raises(UserError, match=rf"{tmp_path}/x.npz: not a file of points: {said}"):
        write(tmp_path / "x.npz", **arrays)


def test_damaged_files(tmp_path):
    path = tmp_path / "x.npz"
    with pytest.raises(UserError, match=r"cannot be read as an .npz file of points"):
        keypoints.Keypoints(path)
    np.savez(path, names=["a"], xy=np.zeros((1, 2, 2)))
    whole = path.read_bytes()
    for damaged in (b"", b"text", whole[:100], whole[:-30]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"cannot be read as an .npz file of points"):
            keypoints.Keypoints(path)


def test_the_file_beside_the_data_is_found(tmp_path):
    assert keypoints.find("") is None
    assert keypoints.find(str(tmp_path)) is None
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces/keypoints68.npz").touch()
    assert keypoints.find(str(tmp_path)) == tmp_path / "faces/keypoints68.npz"
    (tmp_path / "faces/keypoints9.npz").touch()
    with pytest.raises(UserError, match=r"several .* keypoints68.npz and keypoints9.npz: name one"):
        keypoints.find(str(tmp_path))


def test_the_points_of_pairs(settings, tmp_path):
    dataset = data.prepare(settings)
    names = [f"ADE_val_{index}" for index in range(3)]
    xy = np.arange(12.0).reshape(3, 2, 2)
    points = write(tmp_path / "k.npz", names=names, xy=xy, size=[32, 32])
    pairs = dataset.evaluation("validation")
    found = keypoints.PairPoints(points.of, pairs, 32)
    keys, known = [f"validation/{name}.jpg" for name in names], 0
    own, others = found.of([*keys, "validation/ADE_val_3.jpg", ""])
    assert np.isnan(own[3:]).all()
    for index, key in enumerate(keys):
        at = pairs.images.keys.index(key)
        exemplar = pairs.pool.keys[pairs.references[at]]
        if "ADE_val_3" in exemplar:
            assert np.isnan(own[index]).all()
            continue
        known += 1
        np.testing.assert_array_equal(own[index], xy[index])
        np.testing.assert_array_equal(others[index], xy[keys.index(exemplar)])
    assert found.known == known > 0

    alone = dataset.replace(validation_exemplar_list="").evaluation("validation")
    own, others = keypoints.PairPoints(points.of, alone, 32).of(keys)
    np.testing.assert_array_equal(own, others)
    other = write(tmp_path / "o.npz", names=["x"], xy=xy[:1], size=[32, 32])
    assert keypoints.PairPoints(other.of, pairs, 32).known == 0
    assert keypoints.PairPoints(dataset.points_of, pairs, 32).known == 0


def test_drawn_scenes_know_their_points():
    drawn = scene.draw_scene(3, 7, 64)
    assert np.isfinite(drawn.points).any()
    for style in (7, 8):
        found = DrawnScenes.points_of(None, key_of(3, style), 64)
        np.testing.assert_array_equal(found, drawn.points)
