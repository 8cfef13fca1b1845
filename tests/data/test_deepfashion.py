from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cocosnet_jax.data import deepfashion, poses, records
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import DataSettings

SHARED = Path(__file__).parents[2] / ".." / "shared"


def settings_for(source, tmp_path, size=32):
    return DataSettings(
        dataset="deepfashion",
        source=str(source),
        data_dir=str(tmp_path / "prepared"),
        image_size=size,
        load_size=size,
        channels=20,
        exemplar_list="random",
    )


def write_view(root, name, joints):
    image, pose = root / "img" / f"{name}.jpg", root / "pose" / f"{name}_candidate.txt"
    for path in (image, pose):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (48, 64), (90, 10, 200)).save(image)
    rows = np.column_stack([joints, np.ones(18), np.arange(18)])
    np.savetxt(pose, rows)
    np.savetxt(root / "pose" / f"{name}_subset.txt", [[*range(18), 20.0, 18]])


@pytest.fixture
def source(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("WOMEN/Dresses/id_1/01_1_front", "WOMEN/Dresses/id_1/01_2_side", "MEN/id_2/a"):
        write_view(tmp_path / "fashion", name, rng.uniform(0, (48, 64), (18, 2)))
    (tmp_path / "fashion" / "val.txt").write_text("img\\MEN\\id_2\\a.jpg\r\n")
    return tmp_path / "fashion"


def test_records(source, tmp_path):
    builder = records.open_builder(deepfashion.Deepfashion, settings_for(source, tmp_path))
    records.prepare(builder)
    train = records.open_split(builder, "train")
    assert train.keys == [
        "img/WOMEN/Dresses/id_1/01_1_front.jpg",
        "img/WOMEN/Dresses/id_1/01_2_side.jpg",
    ]
    assert records.open_split(builder, "validation").keys == ["img/MEN/id_2/a.jpg"]
    image, label = train[1]
    assert np.abs(image.astype(int) - (90, 10, 200)).max() <= 4
    joints = np.loadtxt(source / "pose/WOMEN/Dresses/id_1/01_2_side_candidate.txt")[:, :2]
    np.testing.assert_array_equal(label, poses.draw_pose(joints, (64, 48), (32, 32)))


def test_wrong_poses_are_reported_together(source, tmp_path):
    (source / "pose/MEN/id_2/a_subset.txt").write_text("")
    (source / "pose/WOMEN/Dresses/id_1/01_2_side_candidate.txt").unlink()
    builder = records.open_builder(deepfashion.Deepfashion, settings_for(source, tmp_path))
    with pytest.raises(UserError) as caught:
        records.prepare(builder)
    message = str(caught.value)
    assert "has 2 problems" in message
    assert "a_candidate.txt holds no person" in message
    assert "01_2_side_candidate.txt does not exist" in message


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared with sample photographs")
def test_sample_records_equal_the_release(tmp_path):
    settings = settings_for(SHARED / "samples" / "DeepFashion", tmp_path, 256)
    builder = records.open_builder(deepfashion.Deepfashion, settings)
    records.prepare(builder)
    split = records.open_split(builder, "validation")
    reference = np.load(SHARED / "reference" / "labels_deepfashion.npz")
    for name, label in zip(reference["names"], reference["label"], strict=True):
        _, found = split[split.keys.index(str(name).removeprefix("DeepFashion/"))]
        expected = np.rint(label.astype(np.float64) * 255).transpose(1, 2, 0)
        np.testing.assert_array_equal(found, expected)
