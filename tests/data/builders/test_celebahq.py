from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cocosnet_jax.data import images, records
from cocosnet_jax.data.builders import celebahq
from cocosnet_jax.data.labels import edges, face_parts
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import DataSettings

SHARED = Path(__file__).parents[3] / ".." / "shared"
ANNOTATIONS = "CelebAMask-HQ-mask-anno"


def settings_for(source, tmp_path, channels, image_size=32, load_size=40):
    return DataSettings(
        source=str(source),
        data_dir=str(tmp_path / "prepared"),
        channels=channels,
        image_size=image_size,
        load_size=load_size,
        exemplar_list="random",
    )


@pytest.fixture
def source(tmp_path):
    """Five drawn faces, the numbers on both sides of a folder's end."""
    root = tmp_path / "faces"
    (root / "CelebA-HQ-img").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in (3, 20, 1999, 2000, 14721):
        photograph = rng.integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(photograph).save(root / "CelebA-HQ-img" / f"{number}.jpg")
        for part, top in (("skin", 4), ("hair", 2), ("eye_g", 12)):
            mask = np.zeros((48, 48), np.uint8)
            mask[top : top + 20, 8:40] = 255
            path = face_parts.part_path(root / ANNOTATIONS, number, part)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).convert("RGB").save(path)
    (root / "val.txt").write_text("20\n1999.jpg")
    return root


def test_mask_records(source, tmp_path):
    settings = settings_for(source, tmp_path, 19)
    builder = records.open_builder(celebahq.Celebahq, settings)
    records.prepare(builder)
    assert builder.name == "celebahq"
    train = records.open_split(builder, "train")
    assert train.keys == [f"CelebA-HQ-img/{number}.jpg" for number in (3, 2000, 14721)]
    assert records.open_split(builder, "exemplars").keys == train.keys
    validation = records.open_split(builder, "validation")
    assert validation.keys == ["CelebA-HQ-img/20.jpg", "CelebA-HQ-img/1999.jpg"]
    for split, side in ((train, 40), (validation, 32)):
        image, label = split[1]
        photograph = images.read_photograph(source / split.keys[1])
        np.testing.assert_array_equal(image, images.resize_photograph(photograph, (side, side)))
        rows = ((np.arange(side) * 2 + 1) * 48) // (2 * side)  # nearest, centres
        expected = np.where((rows >= 4) & (rows < 24), 1, 0)
        expected[(rows >= 2) & (rows < 22)] = 2
        np.testing.assert_array_equal(label[:, side // 2, 0], expected)
        np.testing.assert_array_equal(label[:, side // 2, 1], (rows >= 12) & (rows < 32))


def test_edge_records_are_made_at_their_size(source, tmp_path):
    settings = settings_for(source, tmp_path, 15)
    builder = records.open_builder(celebahq.Celebahqedge, settings)
    records.prepare(builder)
    image, label = records.open_split(builder, "train")[2]
    assert image.shape == (40, 40, 3)
    photograph = images.read_photograph(source / "CelebA-HQ-img" / "14721.jpg")
    parts = face_parts.read_parts(source / ANNOTATIONS, 14721, edges.EDGE_PARTS)
    assert list(parts) == ["skin", "eye_g", "hair"]
    np.testing.assert_array_equal(label, edges.face_edges(photograph, parts, (40, 40)))


def test_everything_wrong_is_reported_at_once(source, tmp_path):
    face_parts.part_path(source / ANNOTATIONS, 3, "skin").unlink()
    (source / "CelebA-HQ-img" / "2000.jpg").write_bytes(b"\xff\xd8\xff")
    Image.new("RGB", (8, 8)).save(source / "CelebA-HQ-img" / "anna.jpg")
    (source / "val.txt").write_text("20\n77\n")
    builder = records.open_builder(celebahq.Celebahq, settings_for(source, tmp_path, 19))
    with pytest.raises(UserError) as caught:
        records.prepare(builder)
    message = str(caught.value)
    assert "has 4 problems" in message
    assert "image 3 has neither the merged map" in message
    assert "2000.jpg cannot be read as an image" in message
    assert "anna.jpg is not a number" in message
    assert "val.txt, line 2: '77' matches no photograph" in message
    assert not records.is_prepared(builder)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda root: (root / "val.txt").unlink(), r"has no val\.txt; list .*/3\.jpg"),
        (lambda root: (root / "val.txt").write_text(""), r"val\.txt is empty"),
        (lambda root: (root / "train.txt").write_text("20"), r"20\.jpg is in both train\.txt and"),
        (lambda root: (root / ANNOTATIONS).rename(root / "x"), r"does not contain the folders"),
    ],
)
def test_wrong_folders(source, tmp_path, break_it, message):
    break_it(source)
    builder = records.open_builder(celebahq.Celebahq, settings_for(source, tmp_path, 19))
    with pytest.raises(UserError, match=message):
        records.prepare(builder)


def test_wrong_channels(source, tmp_path):
    builder = records.open_builder(celebahq.Celebahqedge, settings_for(source, tmp_path, 19))
    with pytest.raises(UserError, match=r"channels is 19, .* set config\.data\.channels=15"):
        records.prepare(builder)


def test_missing_source(tmp_path):
    settings = settings_for(tmp_path / "nowhere", tmp_path, 19)
    builder = records.open_builder(celebahq.Celebahq, settings)
    with pytest.raises(UserError, match=r"nowhere', which is not a folder"):
        records.prepare(builder)


def test_a_train_list_alone_leaves_the_others_to_validation(source, tmp_path):
    (source / "val.txt").unlink()
    (source / "train.txt").write_text("14721\n3\n")
    builder = records.open_builder(celebahq.Celebahq, settings_for(source, tmp_path, 19))
    keys = builder.split_keys()
    every = {path.stem for path in (source / "CelebA-HQ-img").iterdir()}
    assert {Path(key).stem for key in keys["train"]} == {"14721", "3"}
    assert {Path(key).stem for key in keys["validation"]} == every - {"14721", "3"}


def test_train_list_and_changed_files(source, tmp_path):
    (source / "train.txt").write_text("14721\n3\n")
    settings = settings_for(source.parent, tmp_path, 19)  # the folder above will do as well
    builder = records.open_builder(celebahq.Celebahq, settings)
    records.prepare(builder)
    numbers = [Path(key).stem for key in records.open_split(builder, "train").keys]
    assert numbers == ["14721", "3"]
    records.prepare(records.open_builder(celebahq.Celebahq, settings))  # nothing has changed
    Image.new("L", (48, 48)).save(face_parts.part_path(source / ANNOTATIONS, 3, "nose"))
    with pytest.raises(UserError, match="have changed since"):
        records.prepare(records.open_builder(celebahq.Celebahq, settings))


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared with sample photographs")
@pytest.mark.parametrize("task", ["celebahq", "celebahqedge"])
def test_sample_records_equal_the_release(task, tmp_path):
    builder_class = celebahq.Celebahq if task == "celebahq" else celebahq.Celebahqedge
    settings = settings_for(
        SHARED / "samples" / task,
        tmp_path,
        builder_class.channels,
        image_size=256,
        load_size=256,
    )
    builder = records.open_builder(builder_class, settings)
    records.prepare(builder)
    split = records.open_split(builder, "validation")
    reference = np.load(SHARED / "reference" / f"labels_{task}.npz")
    factor = 1 if task == "celebahq" else 255
    for name, label, image in zip(
        reference["names"], reference["label"], reference["image"], strict=True
    ):
        found_image, found = split[split.keys.index(str(name).removeprefix(f"{task}/"))]
        expected = np.rint(label.astype(np.float64) * factor).transpose(1, 2, 0)
        np.testing.assert_array_equal(found, expected)
        expected = (image.astype(np.float64).transpose(1, 2, 0) + 1) * 127.5
        assert np.abs(found_image - expected).max() <= 1
