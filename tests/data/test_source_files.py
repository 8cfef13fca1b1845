"""The same content is the same data; changed content is noticed."""

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from cocosnet_jax import data
from cocosnet_jax.data import builders, source_files
from cocosnet_jax.errors import UserError
from tests.data.conftest import CLASSES, colours, draw_label


@pytest.fixture(params=["ade20k", "folder"])
def prepared(request, settings, source):
    """Settings of prepared data, and their source folder."""
    if request.param == "folder":
        for i in range(3):
            label = draw_label(i)
            for kind, array in (("images", colours(label)), ("labels", label)):
                (source / kind).mkdir(exist_ok=True)
                Image.fromarray(array).save(source / f"{kind}/{i}.png")
        (source / "val.txt").write_text("1\n")
        settings = dataclasses.replace(settings, dataset="folder", channels=CLASSES)
    data.prepare(settings)
    return settings, source


def copy_anew(source):
    """Every file anew, with another time, as in a copy by another host."""
    shutil.copytree(source, source.with_name("copy"), copy_function=shutil.copyfile)
    shutil.rmtree(source)
    source.with_name("copy").rename(source)
    for path in source.rglob("*"):
        os.utime(path, (1, 1))


def a_map(source):
    return sorted([*source.glob("training/*.png"), *source.glob("labels/*.png")])[0]


def test_a_copy_is_the_same_data(prepared, monkeypatch):
    settings, source = prepared
    copy_anew(source)
    data.prepare(settings)
    # Once the content has been compared, the next start does not read it again.
    monkeypatch.setattr(source_files, "content_digest", None)
    data.prepare(settings)
    for path in source.rglob("*"):
        os.utime(path, (2, 2))
    with pytest.raises(TypeError):
        data.prepare(settings)


def test_a_copy_beside_records_that_cannot_be_written_is_the_same_data(prepared):
    settings, source = prepared
    copy_anew(source)
    folder = Path(builders.open_builder(settings).data_dir)
    (folder / "same_files.json.partial").mkdir()
    data.prepare(settings)
    assert not (folder / "same_files.json").exists()


def test_changed_content_of_the_same_size_and_time_is_noticed(prepared):
    settings, source = prepared
    path, before = a_map(source), a_map(source).stat()
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(bytes(content))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    folder = re.escape(str(builders.open_builder(settings).data_dir))
    with pytest.raises(UserError, match=rf"have changed since they were prepared; delete {folder}"):
        data.prepare(settings)
    content[-20] ^= 1
    path.write_bytes(bytes(content))
    data.prepare(settings)


@pytest.mark.parametrize("change", ["renamed", "removed", "added"])
def test_other_files_are_noticed(prepared, change):
    settings, source = prepared
    path = a_map(source)
    photograph = next(p for p in source.rglob(f"{path.stem}.*") if p != path and p.is_file())
    for old in (path, photograph):
        new = old.with_name("z" + old.name)
        if change == "added":
            shutil.copy2(old, new)
        elif change == "renamed":
            old.rename(new)
        else:
            old.unlink()
    with pytest.raises(UserError, match="have changed since"):
        data.prepare(settings)


# ADE20k's splits are folders, not lists.
@pytest.mark.parametrize("prepared", ["folder"], indirect=True)
def test_a_changed_list_is_noticed(prepared):
    settings, source = prepared
    (source / "val.txt").write_text("2\n")
    with pytest.raises(UserError, match="have changed since"):
        data.prepare(settings)


def test_other_files_do_not_matter(prepared):
    settings, source = prepared
    for folder in {path.parent for path in source.rglob("*.png")}:
        (folder / "Thumbs.db").write_bytes(b"x")
    data.prepare(settings)


def test_records_without_their_source_are_used(prepared):
    settings, source = prepared
    shutil.rmtree(source)
    data.prepare(settings)


def test_records_of_the_first_version_open_while_no_file_is_newer(prepared):
    settings, source = prepared
    path = Path(builders.open_builder(settings).data_dir) / "metadata.json"
    metadata = json.loads(path.read_text())
    del metadata["content"], metadata["files"]
    path.write_text(json.dumps(metadata | {"fingerprint": "of times"}))
    data.prepare(settings)
    assert len(data.open(settings).split("train")) > 0
    later = path.stat().st_mtime + 2
    os.utime(a_map(source), (later, later))
    with pytest.raises(UserError, match="have changed since"):
        data.prepare(settings)
