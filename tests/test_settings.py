import copy
import dataclasses
import hashlib
import json
from typing import Any

import pytest

from cocosnet_jax import settings
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import Settings

FREE_ON_RESUME = {
    "data.source",
    "data.data_dir",
    "data.classes",
    "data.palette",
    "data.validation_exemplar_list",
    "model.correlation",
    "model.modulation",
    "model.rematerialise",
    "train.accumulate",
    "train.stop_after",
    "train.log_every",
    "train.images_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.evaluation_batch_size",
    "train.evaluate_every",
    "train.evaluate_images",
    "train.keep_best",
    "train.profile",
    "train.hang_minutes",
}
FREE_FOR_WEIGHTS = {
    "model.correlation",
    "model.dtype",
    "model.mask_at_inference",
    "model.mask_epochs",
    "model.modulation",
    "model.rematerialise",
    "model.warped_mask",
}


def fields():
    for section in dataclasses.fields(Settings):
        for field in dataclasses.fields(getattr(Settings(), section.name)):
            yield section.name, field.name


def changed(section, field):
    """Settings in which one field has another value, which need not be a valid one."""
    result, part = copy.copy(Settings()), copy.copy(getattr(Settings(), section))
    before = getattr(part, field)
    other = {"float": 0.125, "str": "elsewhere/other.txt"}.get(type(before).__name__, not before)
    # Frozen, and checked when they are made.
    object.__setattr__(part, field, other)
    object.__setattr__(result, section, part)
    return result


def test_what_may_change_when_a_run_resumes():
    free = {
        f"{section}.{field}"
        for section, field in fields()
        if not settings.differences(Settings(), changed(section, field), "on_resume")
    }
    assert free == FREE_ON_RESUME


def test_what_weights_are_learned_for():
    matters = {
        f"{section}.{field}"
        for section, field in fields()
        if settings.differences(Settings(), changed(section, field), "for_weights")
    }
    of_model = {f"{section}.{field}" for section, field in fields() if section == "model"}
    expected = of_model - FREE_FOR_WEIGHTS | {"data.channels", "data.condition", "optimiser.ema"}
    assert matters == expected


def with_ema(ema):
    return Settings(optimiser=settings.OptimiserSettings(ema=ema))


def test_another_decay_of_an_average_is_no_other_model():
    assert not settings.differences(with_ema(0.9), with_ema(0.99), "for_weights")
    assert settings.differences(with_ema(0.9), with_ema(0.0), "for_weights") == {
        "optimiser.ema": "0.9, 0.0"
    }
    assert settings.differences(with_ema(0.9), with_ema(0.99), "on_resume")


def test_a_file_may_move():
    def listed(path):
        return Settings(data=settings.DataSettings(exemplar_list=path))

    there, moved, other = map(listed, ("a/list.txt", "b/list.txt", "a/other.txt"))
    assert not settings.differences(there, moved, "on_resume")
    assert settings.differences(there, other, "on_resume") == {
        "data.exemplar_list": "'a/list.txt', 'a/other.txt'"
    }
    assert settings.differences(there, moved) == {
        "data.exemplar_list": "'a/list.txt', 'b/list.txt'"
    }


def test_files_say_their_version_and_are_read_with_and_without_it():
    written = json.loads(settings.to_json(with_ema(0.5)))
    assert written.pop("version") == settings.VERSION
    assert settings.from_file(written) == with_ema(0.5)
    assert settings.from_json(settings.to_json(with_ema(0.5))) == with_ema(0.5)


def test_a_field_that_was_renamed_is_read_under_its_new_name(monkeypatch):
    monkeypatch.setattr(settings, "VERSION", 3)
    monkeypatch.setattr(
        settings,
        "RENAMED",
        {2: {"optimiser.decay": "optimiser.average"}, 3: {"optimiser.average": "optimiser.ema"}},
    )
    for version, name in ((1, "decay"), (2, "average"), (3, "ema")):
        values = {"version": version, "optimiser": {name: 0.5}, "train": {"seed": 7}}
        read = settings.from_file(values)
        assert (read.optimiser.ema, read.train.seed) == (0.5, 7)
        # What was handed in stays as it was.
        assert values["optimiser"] == {name: 0.5}
    with pytest.raises(UserError, match=r"config\.optimiser\.decay is unknown"):
        settings.from_file({"version": 3, "optimiser": {"decay": 0.5}})


def test_a_later_version_is_refused():
    later = settings.VERSION + 1
    with pytest.raises(UserError, match=rf"version {later}; this program reads up to {later - 1}"):
        settings.from_file({"version": later})
    with pytest.raises(UserError, match="content is not settings"):
        settings.from_file([])


def test_a_change_of_fields_raises_the_version():
    """Where this fails: raise `settings.VERSION`, map what was renamed, and say both here."""
    names = ",".join(f"{section}.{field}" for section, field in sorted(fields()))
    digest = hashlib.sha256(names.encode()).hexdigest()[:16]
    assert (settings.VERSION, digest) == (7, "42ce2915cde556ec")


@pytest.mark.parametrize("field", ["class_colour", "warp_class_colour"])
def test_colours_of_classes_need_classes(field):
    edges = {
        "data": {"condition": "channels", "channels": 2, "exemplar_list": "random"},
        "loss": {field: 5.0},
    }
    with pytest.raises(UserError, match=rf"loss\.{field} is 5\.0, but .* has no classes"):
        settings.from_mapping(edges)


def test_groups_are_those_of_the_batch_that_devices_make():
    given: dict[str, dict[str, Any]] = {"loss": {"group_size": 3}}
    given |= {"train": {"batch_per_device": 3}, "data": {"exemplar_list": "random", "channels": 5}}
    assert settings.from_mapping(given).on_devices(2).train.batch_size == 6


def test_a_correspondence_that_is_not_there_cannot_be_kept():
    plain = {
        "model": {"generator_condition": "input", "mask_input": "none"},
        "loss": {"alignment": 0.0, "contextual": 0.0},
        "optimiser": {"correspondence": False},
    }
    with pytest.raises(UserError, match=r"optimiser\.correspondence is False, but there is no"):
        settings.from_mapping(plain)
