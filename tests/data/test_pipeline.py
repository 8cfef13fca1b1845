import dataclasses
import itertools
from pathlib import Path

import jax
import numpy as np
import pytest

from cocosnet_jax import data, encode
from cocosnet_jax.data import builders, pipeline
from cocosnet_jax.data.pair_builder import PairBuilder
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import DataSettings
from tests.data.conftest import CLASSES, colours, write_pair

SHARED = Path(__file__).parents[2] / ".." / "shared"


def batches(settings, count, **options):
    return list(itertools.islice(pipeline.training_batches(data.open(settings), **options), count))


def assert_equal(one, other):
    for name, a, b in zip(one._fields, one, other, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.mark.skipif(not SHARED.exists(), reason="the sample photographs are not here")
@pytest.mark.parametrize(
    ("dataset", "folder", "channels", "condition"),
    [
        ("ade20k", "ade20k", 151, "labels"),
        ("celebahq", "celebahq", 19, "labels_glasses"),
        ("celebahqedge", "celebahqedge", 15, "channels"),
        ("deepfashion", "DeepFashion", 20, "channels"),
    ],
)
def test_validation_tensors_equal_the_release(tmp_path, dataset, folder, channels, condition):
    settings = DataSettings(
        dataset=dataset,
        source=str(SHARED / "samples" / folder),
        data_dir=str(tmp_path),
        channels=channels,
        condition=condition,
        validation_exemplar_list=str(
            SHARED / f"samples/{dataset.removesuffix('edge')}_ref_test.txt"
        ),
        exemplar_probability=0.0,
    )
    data.prepare(settings)
    reference = np.load(SHARED / f"reference/labels_{dataset}.npz")
    place = {str(name).removeprefix(f"{folder}/"): i for i, name in enumerate(reference["names"])}
    # Bytes here; there class numbers, or the maps over 255 as float16.
    scale = 1 if reference["label"].dtype == np.uint8 else 255
    compared = 0
    for batch, _, keys in pipeline.evaluation_batches(data.open(settings), batch_size=4):
        for row, key in enumerate(keys):
            if (i := place.get(key)) is None:
                continue
            for ours, name in [(batch.label, "label"), (batch.exemplar_label, "label_ref")]:
                theirs = np.rint(reference[name][i].transpose(1, 2, 0).astype(np.float64) * scale)
                np.testing.assert_array_equal(ours[row], theirs)
            for ours, name in [(batch.image, "image"), (batch.exemplar, "ref")]:
                theirs = reference[name][i].transpose(1, 2, 0).astype(np.float64)
                # Held as float16: finer than a grey level, so rounding gives it back.
                np.testing.assert_array_equal(ours[row], np.rint((theirs + 1) * 127.5))
            compared += 1
    assert compared == 2


@pytest.fixture
def prepared(settings):
    data.prepare(settings)
    return settings


@pytest.mark.parametrize("distortion", ["crop_flip", "geometric"])
def test_batches_follow_from_seed_and_step(prepared, distortion):
    settings = dataclasses.replace(prepared, distortion=distortion)
    first = batches(settings, 7, seed=3, batch_size=4)
    found, wanted = (
        jax.tree.map(lambda x: (x.shape, x.dtype), batch)
        for batch in (first[0], encode.batch_shapes(settings, 4))
    )
    assert found == wanted
    assert first[0].label.shape == first[0].exemplar_label.shape == (4, 32, 32, 1)
    assert {a.dtype for batch in first for a in batch[:4]} == {np.dtype(np.uint8)}
    assert first[0].self_reference.dtype == np.float32
    for step in (0, 1, 4):  # 4: beyond the first epoch
        resumed = batches(settings, 7 - step, seed=3, batch_size=4, start_step=step)
        for one, other in zip(first[step:], resumed, strict=True):
            assert_equal(one, other)
    other = batches(settings, 1, seed=4, batch_size=4)[0]
    assert (other.image != first[0].image).mean() > 0.3


def test_the_temporary_folder_stays_empty(prepared, tmp_path, monkeypatch):
    opened, temporary = data.open(prepared), tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    next(pipeline.training_batches(opened, seed=0, batch_size=4))
    next(pipeline.evaluation_batches(opened, batch_size=4))
    assert list(temporary.iterdir()) == []


def test_processes_share_the_batch_of_one(prepared):
    whole = batches(prepared, 3, seed=0, batch_size=4)
    parts = [
        batches(prepared, 3, seed=0, batch_size=4, process_index=i, process_count=2)
        for i in range(2)
    ]
    for step, batch in enumerate(whole):
        assert_equal(
            batch, jax.tree.map(lambda *rows: np.concatenate(rows), *(p[step] for p in parts))
        )


def test_small_batches_are_parts_of_the_large_one(prepared):
    """Each of two processes has its rows of the first small batch, then of the second."""
    [whole] = batches(prepared, 1, seed=0, batch_size=8)
    for index, rows in enumerate(([0, 1, 4, 5], [2, 3, 6, 7])):
        [part] = batches(
            prepared, 1, seed=0, batch_size=8, process_index=index, process_count=2, accumulate=2
        )
        assert_equal(part, jax.tree.map(lambda x: x[rows], whole))


def test_more_processes_than_images(prepared):
    """A batch goes through several epochs, and evaluation gives some processes copies only."""
    dataset = data.open(prepared)
    count, processes = len(dataset.training), 8
    assert count < processes
    size = 2 * processes
    parts = [
        batches(prepared, 1, seed=0, batch_size=size, process_index=i, process_count=processes)[0]
        for i in range(processes)
    ]
    [whole] = batches(prepared, 1, seed=0, batch_size=size)
    assert_equal(whole, jax.tree.map(lambda *rows: np.concatenate(rows), *parts))
    own, keys = [], []
    for index in range(processes):
        [(batch, valid, names)] = pipeline.evaluation_batches(
            dataset, batch_size=processes, process_index=index, process_count=processes
        )
        assert batch.image.shape == (1, 32, 32, 3)
        own.append(bool(valid[0]))
        keys += [name for name in names if name]
    images = len(dataset.evaluation())
    assert own == [index < images for index in range(processes)]
    assert len(set(keys)) == len(keys) == images


def test_a_batch_that_processes_cannot_share_is_refused(prepared):
    with pytest.raises(
        UserError,
        match=r"config\.train\.batch_size is 6, .* multiple of the number of processes, 4",
    ):
        pipeline.training_batches(data.open(prepared), seed=0, batch_size=6, process_count=4)
    with pytest.raises(
        UserError, match=r"evaluation_batch_size is 6, .* multiple of the number of processes, 4"
    ):
        next(pipeline.evaluation_batches(data.open(prepared), batch_size=6, process_count=4))


@pytest.fixture
def plain(tmp_path):
    """Ten training images of one class and colour each, so that a pixel tells the image."""
    classes = [f"{i:02d}" for i in range(10)]
    for split in ("training", "validation"):
        for i, name in enumerate(classes):
            label = np.full((8, 8), i, np.uint8)
            write_pair(tmp_path / "plain" / split, f"{split}_{name}", label)
    return DataSettings(
        dataset="ade20k",
        source=str(tmp_path / "plain"),
        data_dir=str(tmp_path / "prepared"),
        image_size=32,
        load_size=32,
        channels=10,
        exemplar_list="random",
        validation_exemplar_list="random",
    )


def test_epochs_and_pairs(plain, tmp_path):
    data.prepare(plain)
    runs = batches(plain, 60, seed=0, batch_size=5)
    images = np.concatenate([batch.label[:, 0, 0, 0] for batch in runs])
    exemplars = np.concatenate([batch.exemplar_label[:, 0, 0, 0] for batch in runs])
    itself = np.concatenate([batch.self_reference for batch in runs])

    # Every epoch takes each image once, in an order of its own.
    epochs = images.reshape(30, 10)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(10), (30, 1)))
    assert len({tuple(epoch) for epoch in epochs}) == 30

    # `random` means any other image: never itself, and self_reference tells.
    np.testing.assert_array_equal(itself == 1, exemplars == images)
    assert abs(itself.mean() - 0.3) < 0.08  # 300 draws: three standard deviations
    assert len(set(zip(images[itself == 0], exemplars[itself == 0], strict=True))) > 70

    # A list gives its last entry with hard_probability, else its first.
    lines = (f"training_{i:02d},{(i + 1) % 10:02d},{(i + 3) % 10:02d},{(i + 5) % 10:02d}\n"
             for i in range(10))  # fmt: skip
    path = tmp_path / "list.txt"
    path.write_text("".join(lines).replace(",", ",training_"))
    listed = dataclasses.replace(plain, exemplar_list=str(path), exemplar_probability=0.9)
    runs = batches(listed, 60, seed=0, batch_size=5)
    images = np.concatenate([batch.label[:, 0, 0, 0] for batch in runs]).astype(int)
    exemplars = np.concatenate([batch.exemplar_label[:, 0, 0, 0] for batch in runs]).astype(int)
    shares = np.bincount((exemplars - images) % 10, minlength=10) / 300
    np.testing.assert_allclose(shares[[0, 1, 5]], [0.1, 0.72, 0.18], atol=0.08)
    assert shares[[0, 1, 5]].sum() == 1

    # Probability 0: always the image itself; no list is needed.
    alone = dataclasses.replace(plain, exemplar_list="", exemplar_probability=0.0)
    batch = batches(alone, 1, seed=0, batch_size=10)[0]
    np.testing.assert_array_equal(batch.self_reference, np.ones(10))
    np.testing.assert_array_equal(batch.label, batch.exemplar_label)


@pytest.mark.parametrize("distortion", ["crop_flip", "geometric"])
def test_image_and_label_stay_aligned(prepared, distortion):
    settings = dataclasses.replace(prepared, distortion=distortion, exemplar_probability=0.0)
    moved = 0
    for batch in batches(settings, 10, seed=1, batch_size=4):
        for image, label in [
            (batch.image, batch.label[..., 0]),
            (batch.exemplar, batch.exemplar_label[..., 0]),
        ]:
            # The picture's red tells the class; interpolation blurs the borders between blobs.
            seen = np.rint(image[..., 0] / 40).astype(int)
            assert (seen == label).mean() > 0.85
            assert label.max() < CLASSES
        moved += (batch.label != batch.exemplar_label).any((1, 2, 3)).sum()
    assert moved > 30  # image and exemplar are cut separately


def test_crops_and_flips_are_those_of_the_prepared_image(prepared):
    split = data.open(prepared).split("train")
    places = set()
    for batch in batches(dataclasses.replace(prepared, flip=True), 10, seed=0, batch_size=4):
        for row in range(4):
            found = [
                (index, top, left, flip)
                for index in range(len(split))
                for image, label in [split[index]]
                for flip in (1, -1)
                for top in range(17)
                for left in range(17)
                if (image[top : top + 32, left : left + 32][:, ::flip] == batch.image[row]).all()
                and (label[top : top + 32, left : left + 32][:, ::flip] == batch.label[row]).all()
            ]
            assert len(found) == 1
            places.add(found[0])
    tops, lefts, flips = (list(column) for column in list(zip(*places, strict=True))[1:])
    assert len(set(tops)) > 10
    assert len(set(lefts)) > 10
    assert {min(tops), min(lefts)} <= {0, 1, 2}
    assert {max(tops), max(lefts)} <= {14, 15, 16}
    assert 0.2 < np.mean(np.array(flips) == -1) < 0.8
    for batch in batches(dataclasses.replace(prepared, flip=False), 3, seed=0, batch_size=4):
        windows = [
            np.lib.stride_tricks.sliding_window_view(split[i][0], (32, 32), (0, 1))
            for i in range(len(split))
        ]
        for image in np.moveaxis(batch.image, -1, 1):
            assert any((window == image).all((-1, -2, -3)).any() for window in windows)


@pytest.mark.parametrize(("batch_size", "processes"), [(1, 1), (3, 1), (4, 2), (6, 3)])
def test_evaluation_covers_every_image_exactly_once(plain, batch_size, processes):
    data.prepare(plain)
    seen, counts = {}, set()
    for index in range(processes):
        run = list(
            pipeline.evaluation_batches(
                data.open(plain),
                batch_size=batch_size,
                process_index=index,
                process_count=processes,
            )
        )
        counts.add(len(run))
        for batch, valid, keys in run:
            assert batch.image.shape == (batch_size // processes, 32, 32, 3)
            assert valid.dtype == bool
            assert [bool(key) for key in keys] == valid.tolist()
            for row, key in enumerate(keys):
                if key:
                    assert key not in seen
                    assert key == f"validation/validation_{batch.label[row, 0, 0, 0]:02d}.jpg"
                    seen[key] = int(batch.exemplar_label[row, 0, 0, 0])
    assert len(seen) == len(data.open(plain).evaluation()) == 10
    assert counts == {-(-10 // batch_size)}
    # Whatever the batches, an image keeps its random exemplar, another image.
    assert all(int(key[-6:-4]) != exemplar for key, exemplar in seen.items())
    again = {
        key: int(exemplar[0, 0, 0])
        for batch, _, keys in pipeline.evaluation_batches(data.open(plain), batch_size=10)
        for key, exemplar in zip(keys, batch.exemplar_label, strict=True)
    }
    assert seen == again


def test_validation_lists_reach_training_images(plain, tmp_path):
    path = tmp_path / "list.txt"
    rows = [f"validation_{i:02d}.jpg,training_{(i + 4) % 10:02d}.jpg,x" for i in range(9)]
    path.write_text("\n".join([*rows, "validation_09,validation_02"]).replace(",x", ""))
    settings = dataclasses.replace(plain, load_size=48, validation_exemplar_list=str(path))
    data.prepare(settings)
    [(batch, valid, _)] = pipeline.evaluation_batches(data.open(settings), batch_size=10)
    assert valid.all()
    np.testing.assert_array_equal(batch.self_reference, np.zeros(10))
    expected = [*((np.arange(9) + 4) % 10), 2]
    np.testing.assert_array_equal(batch.exemplar_label[:, 0, 0, 0], expected)
    np.testing.assert_allclose(batch.exemplar[:, 16, 16], colours(np.array(expected)), atol=2)
    # Without a list an image is its own exemplar.
    alone = dataclasses.replace(settings, validation_exemplar_list="")
    [(batch, _, _)] = pipeline.evaluation_batches(data.open(alone), batch_size=10)
    np.testing.assert_array_equal(batch.image, batch.exemplar)
    np.testing.assert_array_equal(batch.self_reference, np.ones(10))


def test_unprepared_data_are_named(settings):
    with pytest.raises(UserError, match=r"no prepared data in .*cocosnet_jax\.prepare"):
        pipeline.training_batches(data.open(settings), seed=0, batch_size=1)


def test_unknown_dataset_is_named(settings):
    with pytest.raises(UserError, match=r"config\.data\.dataset is 'cats'; .* ade20k"):
        data.prepare(dataclasses.replace(settings, dataset="cats"))


@pytest.mark.parametrize(
    ("name", "condition"),
    [
        ("ade20k", "labels"),
        ("celebahq", "labels_glasses"),
        ("celebahqedge", "channels"),
        ("deepfashion", "channels"),
        ("drawn_edges", "channels"),
        ("drawn_scenes", "labels"),
        ("toy_scenes", "labels"),
    ],
)
def test_every_dataset_has_a_builder_of_its_name(settings, name, condition):
    builder = builders.open_builder(
        dataclasses.replace(settings, dataset=name, condition=condition)
    )
    other = "channels" if condition == "labels" else "labels"
    with pytest.raises(UserError, match=rf"condition is '{other}', but {name} needs '{condition}'"):
        builders.open_builder(dataclasses.replace(settings, dataset=name, condition=other))
    assert builder.name == name
    assert f"/{name}/48_32_6_ade_" in str(builder.data_dir)


def test_many_planes_travel_through_records(tmp_path):
    from cocosnet_jax.data import records

    planes = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 15), np.uint8)

    class ManyPlanes(PairBuilder):
        """Fifteen planes, as edge maps have."""

        def split_keys(self):
            return {"train": ["0", "1"], "validation": ["2"]}

        def make_pair(self, split, key):
            return planes[int(key), ..., :3], planes[int(key)]

    settings = DataSettings(
        image_size=32, load_size=32, data_dir=str(tmp_path), exemplar_list="random"
    )
    builder = records.open_builder(ManyPlanes, settings)
    records.prepare(builder)
    split = records.open_split(builder, "train")
    assert split.keys == ["0", "1"]
    for index in range(2):
        image, label = split[index]
        np.testing.assert_array_equal(image, planes[index, ..., :3])
        np.testing.assert_array_equal(label, planes[index])
        decoded = records.decode(split.features, split.record(index))
        np.testing.assert_array_equal(decoded[0], image)
        np.testing.assert_array_equal(decoded[1], label)


def test_large_splits_keep_their_order_in_little_memory(tmp_path, monkeypatch):
    from tensorflow_datasets.core import shuffle

    from cocosnet_jax.data import records

    class Numbered(PairBuilder):
        """Images whose colour is their position."""

        def split_keys(self):
            return {"train": [str(i) for i in range(200)], "validation": ["0"]}

        def make_pair(self, split, key):
            image = np.full((32, 32, 3), int(key), np.uint8)
            return image, image[..., :1]

    sizes = []
    read = shuffle._Bucket.read_values

    def watched(bucket):
        values = list(read(bucket))
        sizes.append(len(values))
        return values

    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 2000)
    monkeypatch.setattr(shuffle._Bucket, "read_values", watched)
    settings = DataSettings(
        image_size=32, load_size=32, data_dir=str(tmp_path), exemplar_list="random"
    )
    builder = records.open_builder(Numbered, settings)
    records.prepare(builder)
    assert (sum(sizes), max(sizes)) == (200, 1)
    split = records.open_split(builder, "train")
    assert [int(split[i][0][0, 0, 0]) for i in range(200)] == list(range(200))


def test_images_without_a_line_are_left_out(plain, tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("".join(f"training_{i:02d},training_00,training_09\n" for i in (7, 2, 4, 1)))
    settings = dataclasses.replace(plain, exemplar_list=str(path))
    [note] = data.prepare(settings).notes
    assert note == (
        f"note: exemplar list {path} has lines for 4 of the 10 training images; the other 6 are"
        " left out (training/training_00.jpg, training/training_03.jpg, training/training_05.jpg,"
        " ...)"
    )
    assert len(data.open(settings).training) == 4
    # Every epoch takes each listed image once, whatever its exemplar.
    runs = batches(settings, 30, seed=0, batch_size=2)
    seen = np.concatenate([batch.label[:, 0, 0, 0] for batch in runs])
    np.testing.assert_array_equal(np.sort(seen.reshape(15, 4), 1), np.tile([1, 2, 4, 7], (15, 1)))
    exemplar = np.concatenate([batch.exemplar_label[:, 0, 0, 0] for batch in runs])
    assert set(exemplar[exemplar != seen]) == {0, 9}
    for step in (1, 5):
        resumed = batches(settings, 3, seed=0, batch_size=2, start_step=step)
        for one, other in zip(runs[step:], resumed, strict=False):
            assert_equal(one, other)


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_evaluation_leaves_out_images_without_a_line(plain, tmp_path, batch_size):
    path = tmp_path / "list.txt"
    path.write_text(
        "validation_07,training_01,gone\nvalidation_02,validation_03\nx,y\nvalidation_05,training_00\n"
    )
    settings = dataclasses.replace(plain, load_size=48, validation_exemplar_list=str(path))
    [note] = data.prepare(settings).notes
    assert "has lines for 3 of the 10 validation images; the other 7 are left out (" in note
    assert note.endswith("; lines for absent images: 1")
    assert len(data.open(settings).evaluation()) == 3
    found = {}
    for batch, valid, keys in pipeline.evaluation_batches(
        data.open(settings), batch_size=batch_size
    ):
        for row in np.flatnonzero(valid):
            assert keys[row] == f"validation/validation_{batch.label[row, 0, 0, 0]:02d}.jpg"
            found[int(batch.label[row, 0, 0, 0])] = int(batch.exemplar_label[row, 0, 0, 0])
    assert found == {2: 3, 5: 0, 7: 1}


def test_lists_are_checked_before_training(plain, tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("validation_00,training_00\n")
    with pytest.raises(UserError, match=r"names none of the 10 training images .*line 1 is for"):
        data.prepare(dataclasses.replace(plain, exemplar_list=str(path)))
    path.write_text("validation_00,gone.jpg\n")
    with pytest.raises(UserError, match=r"list\.txt: line 1: exemplar 'gone\.jpg' is not in"):
        data.prepare(dataclasses.replace(plain, validation_exemplar_list=str(path)))


def test_all_lists_are_read_before_anything_is_prepared(plain, tmp_path):
    path = tmp_path / "list.txt"
    path.touch()
    lists = {
        "exemplar_list": "/nope.txt",
        "validation_exemplar_list": str(path),
        "self_pair_list": "names.txt",
    }
    with pytest.raises(UserError) as error:
        data.prepare(dataclasses.replace(plain, **lists))
    assert str(error.value).splitlines() == [
        "config.data has 3 problems:",
        "  exemplar_list: exemplar list /nope.txt does not exist; check the name",
        f"  validation_exemplar_list: exemplar list {path}: the file is empty; write one line"
        " 'key,ref1,ref2,...' per image",
        "  self_pair_list: exemplar list names.txt does not exist; check the name",
    ]
    assert not (tmp_path / "prepared").exists()
    # Nothing reads this one.
    unread = dataclasses.replace(plain, exemplar_list="/nope.txt", exemplar_probability=0.0)
    data.prepare(unread)
