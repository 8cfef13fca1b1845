"""The best checkpoint of a run, and the measuring that finds it."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from etils import epath

from cocosnet_jax import best, checkpoint, data, integrity, mesh, settings, validation
from cocosnet_jax.errors import UserError
from cocosnet_jax.metrics import fid, inception, swd, warp_accuracy
from cocosnet_jax.types import Outputs
from tests.data.conftest import CLASSES, draw_label, write_pair
from tests.test_checkpoint import SETTINGS, assert_same, state_of


def at(step):
    """A state of random numbers, at any step."""
    return dataclasses.replace(state_of(0), step=jax.device_put(np.int32(step)))


def keeping(metric):
    train = dataclasses.replace(SETTINGS.train, evaluate_every=1, keep_best=metric)
    return dataclasses.replace(SETTINGS, train=train)


def offered(workdir, numbers, metric="warp_accuracy"):
    """Offers the numbers of steps; returns the best checkpoint's step then, and its number."""
    kept = best.Best(epath.Path(workdir), keeping(metric))
    for step, number in numbers.items():
        if kept.improves({metric: number}):
            kept.save(step, at(step), {metric: number})
    found = kept.step, kept.number
    kept.close()
    return found


def test_the_best_checkpoint_is_one_like_any_other(tmp_path):
    assert offered(tmp_path, {1: 0.25, 2: 0.5, 4: 0.25}) == (2, 0.5)
    assert integrity.steps(epath.Path(tmp_path) / "best") == [2]
    # A run that goes on from an older checkpoint takes steps again.
    assert offered(tmp_path, {1: 0.75}) == (1, 0.75)
    restored = checkpoint.restore_for_inference(tmp_path / "best")
    assert restored.step == 1
    assert_same(restored.state.ema, at(1).ema)


@pytest.fixture
def quick(monkeypatch):
    """No checkpoint is written; only its step is known."""
    there: dict[str, list[int]] = {}

    class Checkpoints:
        def __init__(self, workdir, settings, name, keep_all):
            assert keep_all
            self.steps = there.setdefault(str(workdir / name), [])

        def save(self, step, state, *, force):
            assert force
            if step not in self.steps:
                self.steps.append(step)
                # The previous one is there until this one is.
                assert len(self.steps) <= 2

        def delete(self, step):
            self.steps.remove(step)

        def wait(self):
            pass

        move_damaged_aside = close = wait

    monkeypatch.setattr(best, "Checkpoints", Checkpoints)
    return there


@pytest.mark.usefixtures("quick")
def test_what_is_the_best_is_known_after_a_new_start(tmp_path):
    # What is not finite is never the best.
    assert offered(tmp_path, {1: np.nan, 2: 0.5, 4: 0.25, 6: 0.75, 8: 0.75}) == (6, 0.75)
    assert offered(tmp_path, {10: 0.5}) == (6, 0.75)
    assert offered(tmp_path, {5: 0.875}) == (5, 0.875)
    assert offered(tmp_path, {12: 0.9}) == (12, 0.9)
    assert json.loads((tmp_path / "best.json").read_text())["metric"] == "warp_accuracy"


@pytest.mark.usefixtures("quick")
def test_less_is_better_where_it_is_an_error(tmp_path):
    assert offered(tmp_path / "a", {1: 0.5, 2: 0.25, 3: 0.75}, "cycle_error") == (2, 0.25)
    assert offered(tmp_path / "b", {1: 0.5, 2: 0.25, 3: 0.75}, "kid") == (2, 0.25)


@pytest.mark.usefixtures("quick")
def test_another_metric_starts_anew(tmp_path, capsys):
    offered(tmp_path, {1: 0.5})
    assert offered(tmp_path, {2: 0.1}, "pck@0.1") == (2, 0.1)
    assert "the best checkpoint by warp_accuracy is replaced" in capsys.readouterr().out


@pytest.mark.usefixtures("quick")
def test_a_number_whose_checkpoint_was_not_finished_does_not_count(tmp_path):
    offered(tmp_path, {1: 0.5})
    content = json.loads((tmp_path / "best.json").read_text())
    content["numbers"]["3"] = 0.9
    (tmp_path / "best.json").write_text(json.dumps(content))
    assert offered(tmp_path, {4: 0.7}) == (4, 0.7)


def test_killed_before_the_previous_one_was_deleted(quick, tmp_path):
    offered(tmp_path, {1: 0.5, 3: 0.9})
    [there] = quick.values()
    for step in (1, 12):
        there.append(step)
        assert offered(tmp_path, {}) == (3, 0.9)
        assert there == [3]


@pytest.mark.usefixtures("quick")
def test_a_step_that_is_there_already_only_gets_its_number(tmp_path):
    offered(tmp_path, {8: 0.5}, "cycle_error")
    assert offered(tmp_path, {4: 0.25, 8: 0.5}, "pck@0.1") == (8, 0.5)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"metric": "pck@0.1"}', '{"metric": 1, "numbers": 2}']
)
def test_numbers_that_cannot_be_read_are_an_error_that_says_what_to_do(tmp_path, text, capsys):
    offered(tmp_path, {1: 0.5})
    file = tmp_path / "best.json"
    file.write_text(text)
    with pytest.raises(UserError, match=rf"^{file} cannot be read \(.*restore .* or delete it"):
        offered(tmp_path, {2: 0.1})
    file.unlink()
    assert offered(tmp_path, {2: 0.1}) == (2, 0.1)
    assert "of unknown number (best.json is missing) is replaced" in capsys.readouterr().out


def test_a_damaged_best_checkpoint_is_kept_under_another_name(tmp_path, capsys):
    offered(tmp_path, {1: 0.5})
    (tmp_path / "best/1/state/_METADATA").unlink()
    assert offered(tmp_path, {}) == (None, None)
    said = capsys.readouterr().err
    assert said == (
        f"checkpoint 1 (state/_METADATA is missing) in {tmp_path}/best is damaged; it is renamed\n"
    )
    assert offered(tmp_path, {2: 0.25}) == (2, 0.25)
    assert sorted(path.name for path in (tmp_path / "best").iterdir()) == ["1.damaged", "2"]


@pytest.mark.usefixtures("quick")
def test_a_metric_that_is_not_measured_is_said(tmp_path):
    kept = best.Best(epath.Path(tmp_path), keeping("fame"))
    with pytest.raises(UserError, match=r"keep_best is 'fame', which is not .* used_share, x"):
        kept.check({"used_share": 0.5, "x": 1})
    kept.close()
    with pytest.raises(UserError, match=r"set config.train.evaluate_every, for example to 1000"):
        settings.TrainSettings(keep_best="warp_accuracy")


class _Board:
    def __init__(self):
        self.written = {}

    def scalars(self, step, values):
        self.written[step] = values


@pytest.mark.usefixtures("quick")
def test_a_run_is_validated_at_intervals(tmp_path, monkeypatch, capsys):
    numbers = iter([0.125, 0.25, 0.125])
    monkeypatch.setattr(
        best,
        "Validation",
        lambda *_: lambda state: {"pck@0.1": next(numbers), "pck@0.1_by_chance": 0.0625},
    )
    validation = best.PeriodicValidation(keeping("pck@0.1"), None, epath.Path(tmp_path), None)
    board = _Board()
    validation.begin(0, at(0))
    for step in (1, 2):
        validation(step, at(step), board)
    validation.close()

    # A run that was killed before step 3 was measured, or saved as the best, resumes there.
    numbers = iter([0.75])
    validation = best.PeriodicValidation(keeping("pck@0.1"), None, epath.Path(tmp_path), None)
    validation.begin(3, at(3))
    validation.close()
    assert list(json.loads((tmp_path / "best.json").read_text())["numbers"]) == ["1", "3"]
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "step 0, validation: pck@0.1 0.125",
        "step 1, validation: pck@0.1 0.25",
        "step 1 is the best so far: pck@0.1 0.2500",
        "step 2, validation: pck@0.1 0.125",
        "step 3, validation: pck@0.1 0.75",
        "step 3 is the best so far: pck@0.1 0.7500",
    ]
    assert board.written[2] == {
        "validation/pck@0.1": 0.125,
        "validation/pck@0.1_by_chance": 0.0625,
    }


@pytest.fixture
def drawn(tmp_path):
    """Four validation pairs."""
    for split, count in (("training", 2), ("validation", 4)):
        for index in range(count):
            write_pair(tmp_path / "ade" / split, f"ADE_{split}_{index}", draw_label(index))
    return settings.DataSettings(
        dataset="ade20k",
        source=str(tmp_path / "ade"),
        data_dir=str(tmp_path / "prepared"),
        image_size=64,
        load_size=64,
        channels=CLASSES,
        exemplar_list="random",
        validation_exemplar_list="random",
    )


def test_devices_measure_pictures_of_their_own(monkeypatch):
    """Each device runs the kernels of `pallas` on its own pictures: XLA cannot split them."""
    used = []
    monkeypatch.setattr(validation, "predict_step", lambda *_, samples, **__: used.append(samples))
    monkeypatch.setattr(jax, "jit", lambda step, **_: step)
    some = jax.sharding.Mesh(np.array(jax.devices()[:1] * 2), ("data",))
    validation.predict_and_count(settings.Settings(), some, [])
    assert used == [some]


def test_the_first_pairs_are_measured(drawn, monkeypatch):
    """Three of four validation pairs, in batches of two; the translation is the input's own map."""

    def predict_step(config, **_):
        def step(state, batch):
            mask = jax.nn.one_hot(batch.label[:, ::4, ::4, 0], config.data.channels)
            return Outputs(batch.exemplar / 127.5 - 1, batch.exemplar, mask)

        return step

    monkeypatch.setattr(validation, "predict_step", predict_step)
    monkeypatch.setattr(validation, "metrics_of", lambda *_: [warp_accuracy.WarpAccuracy()])

    def pool3(params, image):
        return (
            image.reshape(len(image), 4, -1, 3).mean(2).reshape(len(image), 12)
            * params["a"]["kernel"]
        )

    monkeypatch.setattr(inception, "pool3", pool3)
    monkeypatch.setattr(inception, "WIDTH", 12)
    train = settings.TrainSettings(evaluation_batch_size=2, evaluate_images=3)
    config = settings.Settings(data=drawn, train=train)
    dataset = data.prepare(drawn)
    network = {"a": {"kernel": np.full(12, 255, np.float32)}}
    measure = validation.Validation(config, dataset, mesh.make(), network)
    found = measure(None)
    assert found == measure(None)
    pairs, positions = dataset.evaluation("validation"), 0
    for index in range(3):
        there = pairs.images[pairs.references[index]][1][::4, ::4, 0]
        label = pairs.images[index][1][::4, ::4, 0]
        positions += (np.isin(label, there) & (label > 0)).sum()
    assert found["positions"] == positions
    assert found["warp_accuracy"] == found["warped_mask_miou"] == 1
    real = np.stack([pairs.images[index][0] for index in range(3)])
    ours = np.stack([pairs.images[pairs.references[index]][0] for index in range(3)])
    features = [np.asarray(pool3(network, x / np.float32(127.5) - 1)) for x in (ours, real)]
    wanted = fid.frechet_distance(*map(fid.Moments.of, features))
    assert found["fid"] == pytest.approx(wanted, rel=1e-4)
    assert found["kid"] == pytest.approx(fid.kid(*features), rel=1e-4)
    patches = [
        np.asarray(swd.descriptors(x, swd.positions(64, range(3), 0, of)))
        for x, of in ((ours, "generated"), (real, "real"))
    ]
    levels = [swd.distance(patches[0][:, k], patches[1][:, k]) for k in range(3)]
    assert found["swd"] == pytest.approx(np.mean(levels), rel=1e-4)
