import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cocosnet_jax import data
from cocosnet_jax.data import exemplars, pipeline, records
from cocosnet_jax.data.builders import deepfashion
from cocosnet_jax.data.labels import pose_drawing
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import DataSettings

SHARED = Path(__file__).parents[3] / ".." / "shared"


def settings_for(source, tmp_path, size=32):
    return DataSettings(
        dataset="deepfashion",
        source=str(source),
        data_dir=str(tmp_path / "prepared"),
        image_size=size,
        load_size=size,
        channels=20,
        condition="channels",
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
    np.testing.assert_array_equal(label, pose_drawing.draw_pose(joints, (64, 48), (32, 32)))


def test_the_test_list_validates_where_there_is_no_val(source, tmp_path):
    (source / "val.txt").rename(source / "test.txt")
    (source / "train.txt").write_text("WOMEN\\Dresses\\id_1\\01_1_front.jpg\n")
    keys = records.open_builder(
        deepfashion.Deepfashion, settings_for(source, tmp_path)
    ).split_keys()
    assert keys["train"] == ["img/WOMEN/Dresses/id_1/01_1_front.jpg"]
    assert keys["validation"] == ["img/MEN/id_2/a.jpg"]


def test_wrong_poses_are_reported_together(source, tmp_path):
    (source / "pose/MEN/id_2/a_subset.txt").write_text("")
    (source / "pose/WOMEN/Dresses/id_1/01_2_side_candidate.txt").unlink()
    builder = records.open_builder(deepfashion.Deepfashion, settings_for(source, tmp_path))
    with pytest.raises(UserError) as caught:
        records.prepare(builder)
    message = str(caught.value)
    assert "has 2 problems" in message
    assert "a_candidate.txt contains no person" in message
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


@pytest.mark.parametrize("listed", [False, True])
def test_another_view_of_the_same_clothes_is_the_own_exemplar(source, tmp_path, listed):
    rng = np.random.default_rng(1)
    for name in ("01_7_additional", "02_1_front"):
        joints = rng.uniform(0, (48, 64), (18, 2))
        write_view(source, f"WOMEN/Dresses/id_1/{name}", joints)
    path = "names"
    if listed:
        path = str(tmp_path / "pairs.txt")
        rows = [
            "img\\WOMEN\\Dresses\\id_1\\01_1_front.jpg,WOMEN\\Dresses\\id_1\\01_2_side.jpg,"
            "WOMEN\\Dresses\\id_1\\01_7_additional.jpg,img\\gone\\id_9\\01_1_front.jpg",
            "gone.jpg,img\\WOMEN\\Dresses\\id_1\\01_2_side.jpg",
        ]
        Path(path).write_text("\r\n".join(rows))
    settings = dataclasses.replace(
        settings_for(source, tmp_path),
        exemplar_probability=0.0,
        exemplar_list="",
        self_pair_list=path,
        distortion="geometric",
        flip=False,
    )
    data.prepare(settings)
    split = data.open(settings).split("train")
    poses_of = {key.split("/")[-1][:4]: split[i][1] for i, key in enumerate(split.keys)}
    seen = set()
    for batch in itertools.islice(
        pipeline.training_batches(data.open(settings), seed=0, batch_size=4), 10
    ):
        np.testing.assert_array_equal(batch.self_reference, np.ones(4))
        for row in range(4):
            names = [
                [n for n, pose in poses_of.items() if (pose == found[row]).all()]
                for found in (batch.label, batch.exemplar_label)
            ]
            # Load size is image size: only the image itself is changed, by its distortion.
            seen.add((names[0][0], names[1][0] if names[1] else "distorted"))
    alone = {("02_1", "distorted")}
    front = {("01_1", "01_2"), ("01_1", "01_7")}
    if listed:
        assert seen == front | alone | {("01_2", "distorted"), ("01_7", "distorted")}
    else:
        outfit = ("01_1", "01_2", "01_7")
        assert seen == alone | {(a, b) for a in outfit for b in outfit if a != b}


def test_a_self_pair_list_of_other_images_is_refused(source, tmp_path):
    (tmp_path / "pairs.txt").write_text("img\\x\\id_9\\01_1_front.jpg,img\\x\\id_9\\01_2_side.jpg")
    settings = dataclasses.replace(
        settings_for(source, tmp_path), self_pair_list=str(tmp_path / "pairs.txt")
    )
    with pytest.raises(
        UserError, match=r"self_pair_list is .*pairs\.txt', which matches none of the"
    ):
        data.prepare(settings)


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared with sample photographs")
def test_the_releases_self_pair_list_is_read():
    keys = [f"img/MEN/Denim/id_00000265/01_{view}.jpg" for view in ("1_front", "2_side")]
    found = exemplars.resolve(
        SHARED / "samples/deepfashion_self_pair.txt", keys, keys, pass_missing=True
    )
    assert found.references == {0: (1,)}
