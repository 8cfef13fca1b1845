"""A dataset is opened once: records and lists are read when first needed, and not again."""

import collections
import dataclasses
import tempfile

import numpy as np
import pytest

from cocosnet_jax import data
from cocosnet_jax.data import exemplars, pipeline, records


@pytest.fixture
def listed(settings, tmp_path):
    """The settings with one list for training and one for validation."""
    training, validation = tmp_path / "training.txt", tmp_path / "validation.txt"
    training.write_text("".join(f"ADE_train_{i},ADE_train_{(i + 1) % 5}\n" for i in range(4)))
    validation.write_text("".join(f"ADE_val_{i},ADE_train_{i}\n" for i in range(3)))
    return dataclasses.replace(
        settings,
        exemplar_list=str(training),
        validation_exemplar_list=str(validation),
        exemplar_probability=1.0,
    )


def test_records_and_lists_are_read_once(listed, monkeypatch):
    read: collections.Counter[str] = collections.Counter()

    def counted(module, name, argument):
        function = getattr(module, name)

        def call(*arguments, **options):
            read[str(arguments[argument])] += 1
            return function(*arguments, **options)

        monkeypatch.setattr(module, name, call)

    counted(records, "open_split", 1)
    counted(exemplars, "resolve", 0)
    dataset = data.prepare(listed)
    assert len(dataset.notes) == 2
    assert (len(dataset.training), len(dataset.evaluation())) == (4, 3)
    batch = next(pipeline.training_batches(dataset, seed=0, batch_size=2))
    assert batch.self_reference.tolist() == [0, 0]
    [(_, valid, keys)] = pipeline.evaluation_batches(dataset, batch_size=4)
    assert valid.tolist() == [True, True, True, False]
    assert keys[2] == "validation/ADE_val_2.jpg"
    assert read == {
        "train": 1,
        "validation": 1,
        "exemplars": 1,
        listed.exemplar_list: 1,
        listed.validation_exemplar_list: 1,
    }


def test_preparing_leaves_no_temporary_files(settings, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    assert len(data.prepare(settings).training) == 5
    assert list((tmp_path / "temporary").iterdir()) == []


def test_other_settings_of_the_same_records(listed):
    dataset = data.prepare(listed)
    itself = dataset.replace(exemplar_probability=0.0)
    assert itself.folder == dataset.folder
    assert itself.lengths == dataset.lengths == {"train": 5, "validation": 4, "exemplars": 5}
    # Without a list, the image that it leaves out is trained on as well.
    assert (len(dataset.training), len(itself.training)) == (4, 5)
    batch = next(pipeline.training_batches(itself, seed=0, batch_size=5))
    np.testing.assert_array_equal(batch.self_reference, 1)
