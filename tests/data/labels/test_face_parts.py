from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cocosnet_jax.data import images
from cocosnet_jax.data.labels import face_parts
from cocosnet_jax.errors import UserError

SHARED = Path(__file__).parents[3] / ".." / "shared"
SAMPLES = SHARED / "samples" / "celebahq" / "CelebAMask-HQ-mask-anno"


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def square(top, left):
    mask = np.zeros((16, 16), bool)
    mask[top : top + 6, left : left + 6] = True
    return mask


def test_later_classes_lie_over_earlier_ones_and_glasses_apart(tmp_path):
    parts = {"hair": square(0, 0), "l_brow": square(3, 3), "eye_g": square(2, 2)}
    parts |= {"skin": square(1, 1), "neck_l": square(8, 8)}
    for name, mask in parts.items():  # the dataset's masks are RGB, 0 and 255
        rgb = np.repeat(mask[..., None] * np.uint8(255), 3, axis=-1)
        write(face_parts.part_path(tmp_path, 4321, name), rgb)
    assert (tmp_path / "2" / "04321_skin.png").exists()
    merged, glasses = face_parts.read_face(tmp_path, 4321)
    expected = np.zeros((16, 16), int)
    expected[1:7, 1:7] = 1
    expected[0:6, 0:6] = 2
    expected[3:9, 3:9] = 3
    expected[8:14, 8:14] = 18
    np.testing.assert_array_equal(merged, expected)
    np.testing.assert_array_equal(glasses, parts["eye_g"])


def test_the_merged_map_is_preferred_and_may_lack_glasses(tmp_path):
    merged = np.arange(256, dtype=np.uint8).reshape(16, 16) % 19
    write(face_parts.merged_path(tmp_path, 7), merged)
    read, glasses = face_parts.read_face(tmp_path, 7)
    np.testing.assert_array_equal(read, merged)
    assert glasses.shape == (16, 16)
    assert not glasses.any()


def test_impossible_class_numbers_are_named(tmp_path):
    merged = np.zeros((16, 16), np.uint8)
    merged[0, :3], merged[5] = 19, 200
    write(face_parts.merged_path(tmp_path, 7), merged)
    with pytest.raises(
        UserError, match=r"00007\.png contains the values 19 \(3 .* 200 \(16 pixels"
    ):
        face_parts.read_face(tmp_path, 7)


def test_an_image_without_parts_is_refused(tmp_path):
    write(face_parts.part_path(tmp_path, 7, "hair"), np.zeros((4, 4), np.uint8))
    with pytest.raises(UserError, match=r"image 7 has neither .*00007\.png nor .*00007_skin\.png"):
        face_parts.read_face(tmp_path, 7)


def test_masks_of_different_sizes_are_refused(tmp_path):
    write(face_parts.part_path(tmp_path, 7, "skin"), np.zeros((4, 6), np.uint8))
    write(face_parts.part_path(tmp_path, 7, "nose"), np.zeros((8, 6), np.uint8))
    with pytest.raises(UserError, match=r"00007_nose\.png has 6x8 .* 00007_skin\.png has 6x4"):
        face_parts.read_face(tmp_path, 7)


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared with sample photographs")
def test_sample_photographs_equal_the_release():
    reference = np.load(SHARED / "reference" / "labels_celebahq.npz")
    list_file = (SHARED / "samples" / "celebahq_ref_test.txt").read_text()
    pairs = dict(line.replace(".jpg", "").split(",") for line in list_file.splitlines())
    for position, name in enumerate(reference["names"]):
        stem = Path(str(name)).stem
        for which, picture, number in (("label", "image", stem), ("label_ref", "ref", pairs[stem])):
            merged, glasses = face_parts.read_face(SAMPLES, int(number))
            planes = np.stack([images.resize_label(p, (256, 256)) for p in (merged, glasses)])
            np.testing.assert_array_equal(planes, reference[which][position])
            photograph = images.read_photograph(
                SAMPLES.parent / "CelebA-HQ-img" / f"{int(number)}.jpg"
            )
            resized = images.resize_photograph(photograph, (256, 256)).transpose(2, 0, 1)
            expected = (reference[picture][position].astype(np.float64) + 1) * 127.5
            assert np.abs(resized - expected).max() <= 1


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared with sample photographs")
def test_parts_lie_in_the_merged_sample_maps_under_their_numbers():
    for path in sorted(SAMPLES.glob("*/*_?_eye.png")):
        number, part = int(path.stem[:5]), path.stem[6:]
        merged, _ = face_parts.read_face(SAMPLES, number)
        mask = face_parts.read_parts(SAMPLES, number)[part]
        np.testing.assert_array_equal(merged == face_parts.CLASS_NAMES.index(part), mask)
