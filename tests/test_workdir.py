import dataclasses
import os

import pytest
from etils import epath

from cocosnet_jax import settings, workdir
from cocosnet_jax.errors import UserError

SETTINGS = settings.Settings(data=settings.DataSettings(exemplar_list="list.txt"))


def changed(section, **fields):
    part = dataclasses.replace(getattr(SETTINGS, section), **fields)
    return dataclasses.replace(SETTINGS, **{section: part})


def test_check_writes_nothing_and_claim_the_settings(tmp_path):
    folder = workdir.check(str(tmp_path / "a/b"), SETTINGS)
    assert list(tmp_path.iterdir()) == []
    workdir.claim(folder, SETTINGS)
    assert settings.from_json((tmp_path / "a/b/settings.json").read_text()) == SETTINGS
    assert workdir.check(str(tmp_path / "a/b"), SETTINGS) == folder


def test_another_runs_folder_is_refused_with_the_differences(tmp_path):
    workdir.claim(epath.Path(tmp_path), SETTINGS)
    before = (tmp_path / "settings.json").read_bytes()
    with pytest.raises(UserError) as error:
        workdir.check(str(tmp_path), changed("optimiser", beta2=0.5, ema=0.99))
    assert "optimiser.beta2: 0.9, 0.5" in str(error.value)
    assert f"--init_from={tmp_path} can start from this run's weights" in str(error.value)
    assert "optimiser.ema: 0.0, 0.99" in str(error.value)
    assert (tmp_path / "settings.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]


@pytest.mark.parametrize(
    "settings_now",
    [
        changed("train", stop_after=5, log_every=1, images_every=2, checkpoint_every=3),
        changed("data", source="/elsewhere", data_dir="/elsewhere"),
        changed("data", exemplar_list="/elsewhere/list.txt"),
    ],
)
def test_what_is_not_learned_may_change(tmp_path, settings_now):
    workdir.claim(epath.Path(tmp_path), SETTINGS)
    workdir.check(str(tmp_path), settings_now)


def test_evaluation_may_take_place_on_other_devices(tmp_path):
    workdir.claim(epath.Path(tmp_path), SETTINGS)
    elsewhere = changed("train", batch_per_device=4).on_devices(1)
    workdir.check(str(tmp_path), elsewhere, evaluates=True)
    with pytest.raises(UserError, match=r"train\.batch_size: 32, 4"):
        workdir.check(str(tmp_path), elsewhere)


def test_colours_of_classes_may_not_change(tmp_path):
    folder = epath.Path(tmp_path)
    before = changed("data", classes="sky #0000FF\nsea #00FF00")
    workdir.check_colours(folder, before)
    workdir.claim(folder, before)
    # What a config says before the dataset is read.
    workdir.check(str(tmp_path), SETTINGS)
    workdir.check_colours(folder, before)
    with pytest.raises(UserError, match="class 0 is #00FF00 in the label maps, but was #0000FF"):
        workdir.check_colours(folder, changed("data", classes="sea #00FF00\nsky #0000FF"))


def test_a_batch_by_device_is_the_batch_that_it_makes(tmp_path):
    per_device = changed("train", batch_per_device=2)
    workdir.claim(epath.Path(tmp_path), per_device.on_devices(8))
    workdir.check(str(tmp_path), changed("train", batch_size=16).on_devices(1))
    workdir.check(str(tmp_path), changed("train", batch_per_device=4).on_devices(4))
    with pytest.raises(UserError, match=r"train\.batch_size: 16, 4$"):
        workdir.check(str(tmp_path), per_device.on_devices(2))


def test_another_list_is_another_run(tmp_path):
    workdir.claim(epath.Path(tmp_path), SETTINGS)
    with pytest.raises(
        UserError, match=r"data\.exemplar_list: 'list\.txt', '/elsewhere/other\.txt'"
    ):
        workdir.check(str(tmp_path), changed("data", exemplar_list="/elsewhere/other.txt"))


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file is a file; choose another --workdir"):
        workdir.check(str(tmp_path / "file/run"), SETTINGS)


def test_a_folder_that_cannot_be_written_to_is_named():
    # /proc refuses even root.
    assert os.path.isdir("/proc/1")
    with pytest.raises(UserError, match="--workdir=/proc/1/run cannot be written to"):
        workdir.check("/proc/1/run", SETTINGS)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", r"settings\.json is damaged: it is not JSON"),
        ('{"train": {"speed": 1}}', r"is from another version .*config\.train\.speed is unknown"),
        ('{"version": 99}', r"is from another version .*of version 99; this program reads up to"),
    ],
)
def test_settings_that_cannot_be_read_are_not_taken_for_none(tmp_path, text, says):
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(UserError, match=says):
        workdir.check(str(tmp_path), SETTINGS)
