import numpy as np
import pytest
from etils import epath
from PIL import Image

from cocosnet_jax import pictures
from cocosnet_jax.errors import StorageError, UserError
from cocosnet_jax.types import Batch, Outputs


def test_bytes_are_rounded_and_clipped():
    image = np.array([-1.5, -1, -0.5, 0, 1 / 127.5, 1, 2], np.float32)[:, None].repeat(3, 1)
    np.testing.assert_array_equal(pictures.to_bytes(image)[:, 0], [0, 0, 64, 128, 128, 255, 255])


def test_palette_gives_every_class_of_a_dataset_its_colour():
    colours = pictures.palette(151)
    assert colours[0].tolist() == [0, 0, 0]
    assert len({tuple(colour) for colour in colours.tolist()}) == 151


def test_grid_shows_the_columns_in_order():
    def plain(value):
        return np.full((2, 4, 4, 3), value, np.uint8)

    label = np.full((2, 4, 4, 1), 3, np.uint8)
    batch = Batch(plain(40), plain(20), label, label, np.zeros(2, np.float32))
    warped = np.full((2, 4, 4, 3), -1.0, np.float32)
    grid = pictures.grid(batch, Outputs(-warped, warped, None), "labels")
    assert grid.shape == (2 * 6 + 2, 5 * 6 + 2, 3)
    row = [grid[4, 4 + 6 * column].tolist() for column in range(5)]
    assert row == [pictures.palette(256)[3].tolist(), [20] * 3, [0] * 3, [255] * 3, [40] * 3]
    assert grid[0, 0].tolist() == [255] * 3


def test_a_picture_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    path = epath.Path(tmp_path) / "new/picture.png"
    pictures.write_png(path, image)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), image)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(path), "replace", full)
    with pytest.raises(StorageError, match=r"cannot be written \(.*No space"):
        pictures.write_png(path, image + 1)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), image)
    assert [file.name for file in path.parent.iterdir()] == ["picture.png"]


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.JPEG"])
def test_a_result_states_its_origin(tmp_path, name):
    x = np.linspace(0, 255, 64).astype(np.uint8)
    image = np.stack(np.broadcast_arrays(x[:, None], x[None], 255 - x[:, None]), -1)
    path = epath.Path(tmp_path) / name
    assert pictures.origin_of(path) == ""
    pictures.write_result(path, image, "0123abc")
    assert pictures.origin_of(path) == "0123abc"
    with Image.open(path) as file:
        assert file.format == ("PNG" if name == "a.png" else "JPEG")
        if file.format == "JPEG":
            assert [layer[1:3] for layer in file.layer] == [(1, 1)] * 3  # 4:4:4
        found = np.asarray(file).astype(int)
    assert np.abs(found - image).max() <= (0 if name == "a.png" else 3)
    pictures.write_result(path, image[..., 0], "grey")
    assert Image.open(path).mode == "L"
    path.write_bytes(path.read_bytes()[:20])
    assert pictures.origin_of(path) == ""


def test_a_picture_too_long_for_jpeg_is_said(tmp_path):
    image = np.zeros((1, 65501, 3), np.uint8)
    with pytest.raises(UserError, match=r"has 65501x1 pixels .* at most 65500 along a side"):
        pictures.write_result(epath.Path(tmp_path) / "a.jpg", image, "")


def test_fit_keeps_proportions():
    image = np.full((10, 40, 3), 7, np.uint8)
    found = pictures.fit(image, 20)
    assert (found[:7] == 255).all()
    assert (found[8:12] == 7).all()
    assert (found[13:] == 255).all()
