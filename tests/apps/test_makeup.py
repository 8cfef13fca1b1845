"""Strokes land where they belong, by correspondences that are known."""

import numpy as np
import pytest
from PIL import Image

from cocosnet_jax.apps import makeup
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import DataSettings
from tests.apps.exact import SIZE, Exact, coded

CELEBA = DataSettings(dataset="celebahq", exemplar_list="random")


@pytest.fixture(scope="module")
def translator():
    return Exact()


def strokes(size: int = SIZE) -> np.ndarray:
    """A layer of soft and of opaque strokes that end within cells."""
    layer = np.zeros((size, size, 4), np.uint8)
    layer[10:23, 5:50] = 250, 20, 90, 128
    layer[30:31, 30:41] = 0, 255, 0, 255
    return layer


def blended(picture: np.ndarray, layer: np.ndarray) -> np.ndarray:
    opacity = layer[..., 3:] / 255
    return np.rint(picture * (1 - opacity) + layer[..., :3] * opacity).astype(np.uint8)


def assert_blended(found, picture, layer):
    # Weights of the softmax are exact to e^-100; products of halves may be rounded the other way.
    assert np.abs(found.astype(int) - blended(picture, layer)).max() <= 1
    untouched = layer[..., 3] == 0
    np.testing.assert_array_equal(found[untouched], picture[untouched])


@pytest.mark.parametrize("times", [1, 3])
def test_strokes_stay_where_they_are_on_the_same_portrait(translator, times):
    """Also those of a portrait that is finer than what the networks see."""
    portrait, layer = coded(times * SIZE), strokes(times * SIZE)
    found = makeup.carry(translator, portrait, None, layer, portrait, coded())
    assert_blended(found, portrait, layer)


def test_strokes_follow_the_matches(translator):
    """The other portrait shows everything three cells farther right."""
    target = coded(right=3)
    found = makeup.carry(translator, coded(), None, strokes(), target, target)
    assert_blended(found, target, np.roll(strokes(), 12, axis=1))


def test_strokes_are_scaled_to_the_other_portraits_size(translator):
    layer = np.zeros((SIZE, SIZE, 4), np.uint8)
    layer[16:32, 16:48] = 255, 255, 255, 255
    target = np.zeros((2 * SIZE, 3 * SIZE, 3), np.uint8)
    found = makeup.carry(translator, coded(), None, layer, target, coded())
    assert found.shape == target.shape
    inside = np.zeros(target.shape[:2], bool)
    inside[34:62, 50:142] = True
    assert found[inside].min() == 255
    inside[30:66, 46:146] = True
    assert found[~inside].max() == 0


def test_a_made_up_version_is_the_portrait_under_a_layer():
    rng = np.random.default_rng(0)
    bare, made_up = rng.integers(0, 256, (2, 40, 30, 3), np.uint8)
    made_up[:10] = bare[:10]
    made_up[0, 0] = bare[0, 0] ^ 3  # less than noise
    layer = makeup.difference(bare, made_up)
    assert not layer[:10].any()
    difference = blended(bare, layer)[10:].astype(int) - made_up[10:]
    large = np.abs(made_up[10:].astype(int) - bare[10:]).max(-1) >= makeup.NOISE
    assert np.abs(difference[large]).max() <= 1


@pytest.mark.parametrize(
    ("bare", "made_up", "layer"),
    [
        # As opaque as blue needs, which loses 180 of 180; then red.
        ((220, 180, 180), (220, 0, 0), (220, 0, 0, 255)),
        # Green falls by a quarter of what it has, red rises by a fifth of what is left.
        ((205, 120, 100), (215, 90, 100), (245, 0, 100, 64)),
        ((0, 0, 0), (51, 0, 0), (255, 0, 0, 51)),
    ],
)
def test_the_colours_of_a_layer_are_as_transparent_as_can_be(bare, made_up, layer):
    found = makeup.difference(*(np.array([[x]], np.uint8) for x in (bare, made_up)))
    np.testing.assert_allclose(found[0, 0], layer, atol=1)


def test_what_cannot_be_a_layer_is_said(translator):
    portrait = coded()
    with pytest.raises(UserError, match="does not differ from the portrait"):
        makeup.difference(portrait, portrait)
    with pytest.raises(UserError, match=r"made-up version has 64x32 pixels.*portrait has 64x64"):
        makeup.difference(portrait, portrait[:32])
    with pytest.raises(UserError, match="layer of strokes has 32x64 pixels"):
        makeup.carry(translator, portrait, None, strokes()[:, :32], portrait, portrait)


def test_portraits_are_found_with_their_label_maps(tmp_path):
    data = DataSettings(exemplar_list="random")
    folder, labels, output = (tmp_path / name for name in ("faces", "labels", "faces/out"))
    for name in ("a.jpg", "a.png", "in/b.jpg", "in/b.png", "out/a.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / name)
    found = makeup.find_targets(data, folder, None, output)
    assert found == [
        (folder / "a.jpg", folder / "a.png", output / "a.png"),
        (folder / "in/b.jpg", folder / "in/b.png", output / "in/b.png"),
    ]
    found = makeup.find_targets(data, folder, labels, output)
    assert [target.label for target in found] == [labels / "a.png", labels / "in/b.png"]
    # As a single map, one of a folder may be of any format without loss.
    (labels / "in").mkdir(parents=True)
    Image.new("L", (8, 8)).save(labels / "in/b.bmp")
    (folder / "a.png").rename(folder / "a.tif")
    found = makeup.find_targets(data, folder, labels, output)
    assert [target.label for target in found] == [labels / "a.png", labels / "in/b.bmp"]
    assert makeup.find_targets(data, folder, None, output)[0].label == folder / "a.tif"
    (folder / "a.tif").rename(folder / "a.png")
    one = makeup.find_targets(data, folder / "a.jpg", None, tmp_path / "one.png")
    assert one == [(folder / "a.jpg", folder / "a.png", tmp_path / "one.png")]
    # CelebA-HQ's layout leads from a photograph to its masks.
    images = tmp_path / "CelebA-HQ-img"
    images.mkdir()
    Image.new("RGB", (8, 8)).save(images / "1.png")
    with pytest.raises(UserError, match=r"1\.png has no label map beside it.*--labels"):
        makeup.find_targets(CELEBA, images, None, output)
    (tmp_path / "CelebAMask-HQ-mask-anno").mkdir()
    found = makeup.find_targets(CELEBA, images, None, output)
    assert found == [(images / "1.png", images / "1.png", output / "1.png")]
