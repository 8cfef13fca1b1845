"""Prepared data in a bucket, which here is a folder behind epath's gs://."""

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from array_record.python import array_record_data_source
from etils.epath import backend, gpath

from cocosnet_jax import data, files
from cocosnet_jax.data import exemplars, pipeline
from cocosnet_jax.errors import UserError
from cocosnet_jax.pretrained import vgg as vgg_weights

BUCKET = "gs://bucket"


class Bucket(type(backend.os_backend)):  # type: ignore[misc]
    """epath's calls on `gs://bucket/...`, as calls on a folder; other paths are their own."""

    def __init__(self, folder: Path):
        for name in ("open", "exists", "isdir", "listdir", "glob", "makedirs", "mkdir", "remove",
                     "replace", "rename", "stat", "walk", "copy", "rmtree"):  # fmt: skip
            setattr(self, name, self._on_folder(getattr(super(), name), folder))

    @staticmethod
    def _on_folder(call, folder):
        def here(path):
            path = os.fspath(path) if hasattr(path, "__fspath__") else path
            inside = isinstance(path, str) and path.startswith(BUCKET)
            return f"{folder}{path.removeprefix(BUCKET)}" if inside else path

        def on_folder(*args, **options):
            first, *others = map(here, args)
            if others and others[0] == "wb":
                # Buckets have no folders, which would have to exist.
                Path(first).parent.mkdir(parents=True, exist_ok=True)
            return call(first, *others, **options)

        return on_folder


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """The folder that is the bucket."""
    folder = tmp_path / "the bucket"
    folder.mkdir()
    monkeypatch.setattr(backend, "tf_backend", Bucket(folder))
    monkeypatch.setattr(gpath, "_is_zonal_gcs_bucket", lambda name: False)
    # The library that reads records knows gs:// itself.
    create = array_record_data_source._create_reader
    monkeypatch.setattr(
        array_record_data_source,
        "_create_reader",
        lambda name, options: create(str(name).replace(BUCKET, str(folder)), options),
    )
    return folder


def test_records_that_were_copied_to_a_bucket_are_found_and_read(settings, bucket, source):
    there = dataclasses.replace(settings, data_dir=f"{BUCKET}/prepared")
    with pytest.raises(UserError) as error:
        data.prepare(there)
    assert str(error.value).startswith(f"there is no prepared data in {BUCKET}/prepared/ade20k/48")
    assert f"cp -r FOLDER/ade20k {BUCKET}/prepared/" in str(error.value)
    assert list(bucket.iterdir()) == []
    data.prepare(settings)
    shutil.copytree(settings.data_dir, bucket / "prepared")
    data.prepare(there)
    own, copied = (data.open(s).split("train") for s in (settings, there))
    for index in range(5):
        np.testing.assert_array_equal(own[index][0], copied[index][0])
    batch, again = (next(pipeline.training_batches(data.open(s), seed=0, batch_size=2)) for s in
                    (settings, there))  # fmt: skip
    np.testing.assert_array_equal(batch.image, again.image)
    # The dataset's own files were copied as well: that they are the same is kept in the bucket.
    for path in source.rglob("*"):
        os.utime(path, (1, 1))
    data.prepare(there)
    assert list(bucket.rglob("same_files.json"))
    for path in bucket.rglob("*train.array_record*"):
        path.unlink()
    with pytest.raises(UserError, match=rf"the records in {BUCKET}/.* cannot be read \(.*No such"):
        data.open(there).split("train")


def test_lists_in_a_bucket(bucket):
    exemplars.write_list(f"{BUCKET}/lists/l.txt", {"a": ["b"]})
    assert (bucket / "lists/l.txt").read_text() == "a,b\n"
    assert [line.key for line in exemplars.read_list(f"{BUCKET}/lists/l.txt")] == ["a"]


def test_what_is_read_on_this_machine_only_says_so(settings):
    for name, call in {
        "config.data.source": lambda url: data.prepare(dataclasses.replace(settings, source=url)),
        "config.vgg.weights": lambda url: vgg_weights.load(url, 64),
    }.items():
        with pytest.raises(UserError, match=rf"^{name}=gs://b/x is in a bucket, .*copy it"):
            call("gs://b/x")
    with pytest.raises(UserError, match="--input=gs://b/x is in a bucket"):
        files.local("gs://b/x", "--input")
    assert files.local("~/x", "--input") == Path.home() / "x"
