import dataclasses
import json
import shutil
import types

import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image

from cocosnet_jax import checkpoint, data, evaluation, fit, report, settings, subjects
from cocosnet_jax.data import keypoints, pipeline
from cocosnet_jax.errors import UserError
from cocosnet_jax.yardsticks import Yardsticks
from tests.conftest import CLASSES, STEPS, assert_same_numbers
from tests.metrics.test_warp_accuracy import by_hand


@pytest.fixture(scope="module")
def points(program):
    """Points in the pictures of 64 x 64, which one of the four does not have."""
    path = program.folder / "points.npz"
    xy = np.random.default_rng(0).uniform(0, 64, (3, 5, 2)) - 0.5
    np.savez(path, names=[f"ADE_val_{index}" for index in range(3)], xy=xy, size=[64, 64])
    return path


@pytest.fixture(scope="module")
def evaluated(program, untrained_run, points):
    done = program.run(
        "main", *program.train_arguments(untrained_run), "--mode=evaluate", f"--keypoints={points}"
    )
    assert done.returncode == 0, done.stderr
    folder = untrained_run / "evaluation" / f"step_{STEPS:07d}"
    return folder, json.loads((folder / "metrics.json").read_text()), done.stdout


def batches(untrained_run):
    config = settings.from_json((untrained_run / "settings.json").read_text())
    return list(pipeline.evaluation_batches(data.open(config.data), batch_size=3))


def test_every_image_is_measured_once(evaluated, untrained_run):
    _, metrics, said = evaluated
    expected = positions = 0.0
    for batch, valid, _ in batches(untrained_run):
        mask = np.zeros((3, 16, 16, 6))
        counts = by_hand(mask, batch.label[..., 0], batch.exemplar_label[..., 0], valid)
        expected, positions = expected + counts[1], positions + counts[2]
    assert (metrics["step"], metrics["images"], metrics["positions"]) == (STEPS, 4, positions)
    assert metrics["warp_accuracy_by_chance"] == pytest.approx(expected / positions, rel=1e-5)
    assert 0 <= metrics["warp_accuracy"] <= 1
    assert f"{metrics['warp_accuracy']:.4f}" in said


def test_points_are_looked_up_and_measured(evaluated, untrained_run, points):
    _, metrics, said = evaluated
    dataset = data.open(settings.from_json((untrained_run / "settings.json").read_text()).data)
    pairs = dataset.evaluation("validation")
    known = keypoints.PairPoints(keypoints.Keypoints(points).of, pairs, 64)
    assert f"points of {known.known} of 4 pairs are known: {points}" in said
    own, others = known.of(pairs.images.keys)
    distance = np.linalg.norm(own - others, axis=-1)
    count = np.isfinite(distance).sum()
    assert (metrics["pck_pairs"], metrics["pck_points"]) == (known.known, count)
    for alpha in (0.05, 0.1):
        right = (distance <= alpha * 64).sum()
        assert metrics[f"pck@{alpha}_by_same_position"] == pytest.approx(right / count)
        for name in ("", "_by_softmax", "_by_colour", "_by_chance"):
            assert 0 <= metrics[f"pck@{alpha}{name}"] <= 1
    for name in ("warp_accuracy", "warped_mask_miou", "cycle_error", "used_share"):
        assert metrics[name] >= 0
        for other in ("chance", "colour", "same_position"):
            assert metrics[f"{name}_by_{other}"] >= 0
    uniform = metrics["match_entropy_by_chance"]
    assert uniform == pytest.approx(np.log(16**2), rel=1e-6)
    assert 0 <= metrics["match_entropy"] <= uniform


def test_pictures_and_what_belongs_to_them_are_those_of_the_translation(evaluated, untrained_run):
    folder, metrics, _ = evaluated
    config = settings.from_json((untrained_run / "settings.json").read_text())
    dataset = data.open(config.data)
    subject = subjects.of_run(dataset, epath.Path(folder) / "outputs", "png", True, "")
    assert [path.exists() for path in subject.outputs] == [True] * 4
    assert subject.label is not None
    assert subject.exemplar is not None
    assert subject.exemplar_label is not None
    seen = []
    for batch, valid, keys in batches(untrained_run):
        for row in np.flatnonzero(valid):
            place = list(subject.keys).index(keys[row])
            np.testing.assert_array_equal(subject.real(place), batch.image[row])
            np.testing.assert_array_equal(subject.exemplar(place), batch.exemplar[row])
            np.testing.assert_array_equal(subject.label(place), batch.label[row][..., 0])
            theirs = batch.exemplar_label[row][..., 0]
            np.testing.assert_array_equal(subject.exemplar_label(place), theirs)
            assert subject.generated(place).shape == (64, 64, 3)
            seen.append(keys[row])
    assert sorted(seen) == sorted(subject.keys)
    assert metrics["swd"] == pytest.approx(np.mean([metrics[f"swd_{n}"] for n in (64, 32, 16)]))
    assert "fid, kid" in metrics["left_out"]


@pytest.fixture
def elsewhere(program, untrained_run, points, tmp_path):
    """Arguments for a copy of the checkpoints."""
    shutil.copytree(untrained_run / "checkpoints", tmp_path / "checkpoints")
    return [*program.train_arguments(tmp_path), "--mode=evaluate", f"--keypoints={points}"]


def assert_same_measures(folder, evaluated):
    """Metrics and pictures of an evaluation are those of one process on one device."""
    known, metrics, _ = evaluated
    assert_same_numbers(json.loads((folder / "metrics.json").read_text()), metrics)
    pictures = sorted((known / "outputs").rglob("*.png"))
    assert len(pictures) == 4
    for path in pictures:
        one, two = (
            np.asarray(Image.open(x), int) for x in (path, folder / path.relative_to(known))
        )
        assert np.abs(one - two).max() <= 1


# `make test` measures by two processes, and trains on two.
@pytest.mark.parity
def test_two_devices_share_batches_of_three(program, evaluated, elsewhere, tmp_path):
    """The batch is rounded up to four. The checkpoint is the best one."""
    (tmp_path / "checkpoints").rename(tmp_path / "best")
    done = program.run("main", *elsewhere, f"--checkpoint={tmp_path}/best", devices=2)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "evaluation" / evaluated[0].name
    name = f"best/{STEPS}"
    assert f"evaluating checkpoint {name} (step {STEPS})" in done.stdout
    assert f"Checkpoint {name}" in (folder / "metrics.md").read_text()
    evaluated[1]["checkpoint"], own = name, evaluated[1]["checkpoint"]
    assert own == f"checkpoints/{STEPS}"
    assert_same_measures(folder, evaluated)
    evaluated[1]["checkpoint"] = own
    assert Image.open(folder / "grid.png").size == (5 * 66 + 2, 4 * 66 + 2)


def test_two_processes_go_on_where_one_was_interrupted(program, evaluated, elsewhere, tmp_path):
    """After the first of two batches, of three pictures; now batches have two."""
    known, metrics, _ = evaluated
    folder = tmp_path / "evaluation" / known.name
    shutil.copytree(known, folder)
    (folder / "counts/0000003-0000003.npy").unlink()
    (folder / "metrics.json").unlink()
    pictures = sorted((folder / "outputs").rglob("*.png"))
    # As a cut power supply may leave it: counted, and not written.
    pictures[2].unlink()
    before = [path.stat().st_mtime_ns for path in pictures[:2]]
    first, second = program.start_two(*elsewhere, "--config.train.evaluation_batch_size=2")
    done, other = first.wait(), second.wait()
    assert (done.returncode, other.returncode) == (0, 0), done.stderr + other.stderr
    assert "2 of 4 pictures are translated already" in done.stdout
    assert before == [path.stat().st_mtime_ns for path in pictures[:2]]
    assert metrics["positions"] > 0
    assert_same_measures(folder, evaluated)


def test_a_batch_that_is_too_large_is_one_error(untrained_run, tmp_path, monkeypatch):
    run = settings.from_json((untrained_run / "settings.json").read_text())
    # Not the translation, which takes long to compile.
    step = jax.jit(lambda state, weights, batch, valid: batch.image.sum())
    monkeypatch.setattr(evaluation.validation, "predict_and_count", lambda *_: step)
    monkeypatch.setattr(fit, "capacity", lambda _: 1)
    with pytest.raises(UserError) as error:
        evaluation.evaluate(run, epath.Path(tmp_path), Yardsticks(), checkpoint_path=untrained_run)
    assert "images of 64 x 64 need" in str(error.value)
    assert "config.train.evaluation_batch_size is 3; set a smaller one" in str(error.value)


def test_the_command_says_how_the_networks_are_computed(untrained_run, tmp_path, monkeypatch):
    run = settings.from_json((untrained_run / "settings.json").read_text())
    other = dataclasses.replace(run.model, correlation="streaming", rematerialise="blocks")
    given = []

    def stop(found, *_):
        given.append(found.model)
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation.validation, "predict_and_count", stop)
    with pytest.raises(KeyboardInterrupt):
        evaluation.evaluate(
            dataclasses.replace(run, model=other),
            epath.Path(tmp_path),
            Yardsticks(),
            checkpoint_path=untrained_run,
        )
    assert given == [other]
    assert run.model != other


def test_results_of_another_runs_checkpoint_are_named_after_it(
    untrained_run, tmp_path, monkeypatch, capsys
):
    """They neither replace nor become the run's own, even at the same step."""
    run = settings.from_json((untrained_run / "settings.json").read_text())

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation.validation, "predict_and_count", stop)

    def begun(workdir, checkpoint_path):
        with pytest.raises(KeyboardInterrupt):
            evaluation.evaluate(
                run, epath.Path(workdir), Yardsticks(), checkpoint_path=checkpoint_path
            )
        return [path.parents[1] for path in sorted(workdir.glob("evaluation/*/counts/*.txt"))]

    own, other = (untrained_run.parent / name for name in ("own", "other"))
    for folder, name in ((own, "checkpoints"), (other, "best")):
        shutil.copytree(untrained_run / "checkpoints", folder / name)
    results = own / "evaluation"
    assert begun(own, own / "checkpoints") == [results / f"step_{STEPS:07d}"]
    assert "results go to" not in capsys.readouterr().out
    named = results / f"other_best_{STEPS}"
    assert begun(own, other / "best") == [named, results / f"step_{STEPS:07d}"]
    assert f"not this workdir's own, so its results go to {named}\n" in capsys.readouterr().out
    assert report.find(epath.Path(own)) is None
    (named / report.JSON).write_text("{}")
    assert report.find(epath.Path(own)) is None
    # Far from the workdir, the whole path is the name.
    [found] = begun(tmp_path / "runs/far", other / "best")
    assert found.name == f"{other}/best/{STEPS}".strip("/").replace("/", "_")


def test_a_checkpoint_of_another_model_is_not_measured(untrained_run):
    """Converted weights have no settings.json, which would have been compared."""
    run = settings.from_json((untrained_run / "settings.json").read_text())
    other = dataclasses.replace(run, data=dataclasses.replace(run.data, channels=151))
    with pytest.raises(
        UserError, match=rf"belongs to another model(.|\n)*data.channels: {CLASSES}, 151"
    ):
        evaluation.evaluate(other, epath.Path(untrained_run), Yardsticks())


def test_other_colours_of_classes_are_not_measured(tmp_path, monkeypatch):
    def of(classes):
        return settings.Settings(
            settings.DataSettings(exemplar_list="random", channels=2, classes=classes)
        )

    folder = epath.Path(tmp_path)
    restored = checkpoint.Restored(of("sky #0000FF\nsea #00FF00"), None, 1, folder)
    now = of("sea #00FF00\nsky #0000FF")
    monkeypatch.setattr(checkpoint, "restore_for_inference", lambda *_: restored)
    prepared = types.SimpleNamespace(settings=now.data)
    monkeypatch.setattr(evaluation, "prepare_data", lambda _: prepared)
    with pytest.raises(UserError, match="class 0 is #00FF00 in the label maps, but was #0000FF"):
        evaluation.evaluate(now, folder, Yardsticks())


def test_every_translation_is_a_picture(evaluated):
    folder, _, _ = evaluated
    found = sorted((folder / "outputs").rglob("*.png"))
    assert [path.name for path in found] == [f"ADE_val_{index}.png" for index in range(4)]
    assert {Image.open(path).size for path in found} == {(64, 64)}
    assert Image.open(folder / "grid.png").size == (5 * 66 + 2, 3 * 66 + 2)


def test_translation_of_the_same_pair_is_the_same_picture(
    program, evaluated, untrained_run, tmp_path
):
    """One pair alone, from files, without the padding and the company of an evaluation batch."""
    batch, _, keys = batches(untrained_run)[0]
    Image.fromarray(batch.label[1, ..., 0]).save(tmp_path / "label.png")
    Image.fromarray(batch.exemplar[1]).save(tmp_path / "exemplar.png")
    Image.fromarray(batch.exemplar_label[1, ..., 0]).save(tmp_path / "exemplar_label.png")
    done = program.run(
        "translate",
        f"--checkpoint={untrained_run}",
        f"--input={tmp_path}/label.png",
        f"--exemplar={tmp_path}/exemplar.png",
        f"--exemplar-label={tmp_path}/exemplar_label.png",
        f"--output={tmp_path}/output.png",
        "--warped",
    )
    assert done.returncode == 0, done.stderr
    ours = np.asarray(Image.open(tmp_path / "output.png"), int)
    theirs = Image.open(evaluated[0] / "outputs" / keys[1].replace(".jpg", ".png"))
    assert np.abs(ours - np.asarray(theirs, int)).max() <= 1
    # The warp carries the exemplar's colours: averages of its pixels, never beyond them.
    warped = np.asarray(Image.open(tmp_path / "output_warped.png"), int)
    assert warped.min() >= int(batch.exemplar[1].min()) - 1
    assert warped.max() <= int(batch.exemplar[1].max()) + 1
