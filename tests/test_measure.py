"""Folders of drawn pictures, measured with narrow networks, against the metrics one by one."""

import csv
import dataclasses
import json
from typing import Any

import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image

from cocosnet_jax import features, measure, report, subjects, vgg
from cocosnet_jax.data import picture_sets
from cocosnet_jax.errors import UserError
from cocosnet_jax.metrics import consistency, fid, inception, lpips, swd
from cocosnet_jax.pretrained import vgg as vgg_weights
from cocosnet_jax.pretrained.inception import Inception
from cocosnet_jax.yardsticks import Yardsticks
from tests.parity import rule

COUNT, SIDE = 5, 32
WIDTH = 6  # of what stands for Inception's features


def drawn(name):
    """(COUNT, SIDE, SIDE, 3) uint8."""
    image = rule.smooth(name, COUNT, 3, SIDE).transpose(0, 2, 3, 1)
    return np.round((image + 1) * 127.5).astype(np.uint8)


def maps(name):
    return rule.labels(name, COUNT, (0, 1, 2), SIDE, cells=4)[:, 0].astype(np.uint8)


def narrow_vgg16():
    rng = np.random.default_rng(0)
    tensors: dict[str, np.ndarray] = {}
    previous = 3
    for name in vgg.LAYERS["VGG-16"]:
        out = 2 * (1, 2, 4, 8, 8)[int(name[4]) - 1]
        kernel = rng.normal(size=(out, previous, 3, 3)) * np.sqrt(2 / (9 * previous))
        tensors |= {f"{name}.weight": kernel, f"{name}.bias": np.zeros(out)}
        previous = out
    found = vgg_weights.from_torch(tensors, width=2)
    found = jax.tree.map(lambda array: np.asarray(array, np.float32), found)
    return dataclasses.replace(found, preprocessing="torchvision")


HEADS = {
    layer: np.random.default_rng(1).random(2 * n, np.float32)
    for layer, n in zip(lpips.LAYERS, (1, 2, 4, 8, 8), strict=True)
}


@pytest.fixture(scope="module")
def yardsticks():
    return Yardsticks(
        Inception({"projection": {"kernel": np.eye(3, WIDTH, dtype=np.float32)}}, "0" * 64),
        vgg_weights.load("random", 2),
        "VGG-19 (caffe), untrained",
        (narrow_vgg16(), HEADS),
        "LPIPS of narrow networks",
    )


@pytest.fixture(autouse=True)
def _cheap_inception(monkeypatch):
    """Means of a picture's halves: Inception takes seconds to compile, and has its own test."""

    def pool3(params, image):
        half = SIDE // 2
        means = [image[:, :half].mean((1, 2)), image[:, half:].mean((1, 2))]
        return jax.numpy.concatenate(means, 1)

    monkeypatch.setattr(inception, "pool3", pool3)
    monkeypatch.setattr(inception, "WIDTH", WIDTH)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Results in two folders, photographs, labels, exemplars and theirs, as PNG."""
    folder = tmp_path_factory.mktemp("pictures")
    for name in ("results", "photographs", "exemplars", "more", "labels", "exemplar_labels"):
        (folder / name / "some").mkdir(parents=True)
        array = maps(name) if "labels" in name else drawn(name)
        for index in range(COUNT):
            Image.fromarray(array[index]).save(folder / name / f"some/picture_{index}.png")
    return folder


def sets_of(folder, **given):
    given = {
        "labels": folder / "labels",
        "exemplar_folder": folder / "exemplars",
        "exemplar_labels": folder / "exemplar_labels",
        "others": [folder / "more"],
    } | given
    sets = picture_sets.find(folder / "results", folder / "photographs", **given)
    return picture_sets.check(sets, 0, "png")


@pytest.fixture(scope="module")
def measured(folder, yardsticks, tmp_path_factory):
    subject = subjects.of_folders(sets_of(folder), "")
    with pytest.MonkeyPatch.context() as patch:
        _cheap_inception.__wrapped__(patch)
        # Batches of 2, so that the last one has to be filled up.
        found = measure.measure(subject, yardsticks, tmp_path_factory.mktemp("rows"), 2)
    return found, subject


def test_numbers_are_those_of_the_metrics(measured, yardsticks):
    found, _ = measured
    ours, real, exemplar, more = (
        drawn(name) / np.float32(127.5) - 1
        for name in ("results", "photographs", "exemplars", "more")
    )
    halves = [inception.pool3(None, jax.numpy.asarray(x)) for x in (ours, real)]
    wanted: dict[str, Any] = {
        "fid": fid.frechet_distance(*map(fid.Moments.of, map(np.asarray, halves))),
        "kid": fid.kid(*map(np.asarray, halves)),
    }
    label, other = maps("labels").astype(int), maps("exemplar_labels").astype(int)

    @jax.jit
    def features_of(weights, image):
        return consistency.features(weights, image, consistency.STYLE_LAYERS)

    def of(image):
        return features_of(yardsticks.vgg, image)

    consistent = consistency.semantic_consistency(of(ours), of(real), label)
    wanted["semantic_consistency"] = np.mean([np.mean(x) for x in consistent.values()])
    relevance = jax.jit(consistency.style_relevance)(of(ours), of(exemplar), label, other)
    wanted["style_relevance_colour"] = np.mean(relevance.by_layer["relu1_2"])
    wanted["style_relevance_relu5_2"] = np.mean(relevance.by_layer["relu5_2"])
    wanted["style_relevance_pairs_without_common_class"] = COUNT - int(relevance.common.sum())
    network, heads = yardsticks.lpips
    units = [jax.jit(lpips.features)(network, image) for image in (ours, real, more)]
    wanted["lpips"] = np.mean(lpips.distance(heads, units[0], units[1]))
    wanted["lpips_diversity"] = np.mean(lpips.distance(heads, units[0], units[2]))
    patches = [
        np.asarray(swd.descriptors(drawn(name), swd.positions(SIDE, range(COUNT), 0, of)))
        for name, of in (("results", "generated"), ("photographs", "real"))
    ]
    for level, side in enumerate((32, 16)):
        wanted[f"swd_{side}"] = swd.distance(patches[0][:, level], patches[1][:, level])
    wanted["swd"] = (wanted["swd_32"] + wanted["swd_16"]) / 2
    wanted = {name: pytest.approx(float(value), rel=1e-4) for name, value in wanted.items()}
    assert {name: found.numbers[name] for name in wanted} == wanted
    assert not found.left_out
    assert found.scores["lpips"].mean() == wanted["lpips"]


def test_each_number_says_how_it_was_made(measured):
    protocols = measured[0].protocols
    assert "0" * 64 in protocols["fid"]
    assert "WARNING: FID of 5 pictures" in protocols["fid"]
    assert "VGG-19 (caffe)" in protocols["semantic_consistency"]
    for how in protocols.values():
        assert "pictures: 5; size: 32x32; format: PNG as found" in how


def test_what_is_missing_is_left_out_and_said(folder, tmp_path):
    sets = sets_of(
        folder, labels=None, exemplar_folder=None, exemplar_labels=None, others=[], paired=False
    )
    found = measure.measure(subjects.of_folders(sets, ""), Yardsticks(), tmp_path, 8)
    assert found.numbers.keys() == {"swd_32", "swd_16", "swd"}
    assert "--inception=pt_inception-2015-12-05-6726825d.pth" in found.left_out["fid, kid"]
    assert "--labels" in found.left_out["semantic_consistency"]
    assert "--lpips" in found.left_out["lpips"]


def test_exemplars_of_other_classes_say_nothing_of_style(folder, yardsticks, tmp_path):
    for index in range(COUNT):
        other = Image.fromarray(np.full((SIDE, SIDE), 9, np.uint8))
        (tmp_path / "nines/some").mkdir(parents=True, exist_ok=True)
        other.save(tmp_path / f"nines/some/picture_{index}.png")
    sets = sets_of(folder, exemplar_labels=tmp_path / "nines")
    found = measure.measure(subjects.of_folders(sets, ""), yardsticks, tmp_path / "rows", 8)
    assert not [name for name in found.numbers if name.startswith("style_relevance")]
    assert "class above 0 in common" in found.left_out["style_relevance"]


def test_the_same_folders_in_other_roles_are_measured_again(folder, tmp_path):
    """A user who has mixed up two folders corrects the command, and keeps --output."""

    def found(generated, real, rows):
        sets = picture_sets.find(folder / generated, folder / real)
        subject = subjects.of_folders(picture_sets.check(sets, 0, "png"), "")
        return measure.measure(subject, Yardsticks(), tmp_path / rows, 8).numbers["swd"]

    wrong = found("photographs", "results", "same")
    right = found("results", "photographs", "fresh")
    assert found("results", "photographs", "same") == right
    assert abs(right / wrong - 1) > 1e-4  # The patches are drawn anew.
    swapped = {"labels": "exemplar_labels", "exemplar_labels": "labels"}
    other = sets_of(folder, **{name: folder / value for name, value in swapped.items()})
    identities = [subjects.of_folders(sets, "").identity for sets in (sets_of(folder), other)]
    assert identities[0] != identities[1]


def test_an_interrupted_measuring_goes_on(folder, tmp_path, monkeypatch):
    subject = subjects.of_folders(sets_of(folder, others=[]), "")
    appended = []
    append = features.Rows.append

    def stop(rows, some):
        append(rows, some)
        appended.append(rows._path.name.split("-")[0])
        if len(appended) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(features.Rows, "append", stop)
    with pytest.raises(KeyboardInterrupt):
        measure.measure(subject, Yardsticks(), tmp_path, 2)
    found = measure.measure(subject, Yardsticks(), tmp_path, 2)
    assert appended == ["real"] * 3 + ["generated"] * 3
    again = measure.measure(subject, Yardsticks(), tmp_path, 2)
    assert again.numbers == found.numbers
    assert len(appended) == 6


def test_another_number_of_processes_goes_on(folder, tmp_path, monkeypatch):
    """The second of two processes has made the rows of photographs 2 and 3, of 5."""
    subject = subjects.of_folders(sets_of(folder, others=[]), "")
    wanted = measure.measure(subject, Yardsticks(), tmp_path / "a", 2).numbers
    append = features.Rows.append

    def stop(rows, some):
        append(rows, some)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(features.Rows, "append", stop)
        patch.setattr(jax, "process_count", lambda: 2)
        patch.setattr(jax, "process_index", lambda: 1)
        with pytest.raises(KeyboardInterrupt):
            measure.measure(subject, Yardsticks(), tmp_path / "b", 2)
    batches, made = features._batches, []

    def count(pictures, start, stop, size):
        made.append((start, stop))
        return batches(pictures, start, stop, size)

    monkeypatch.setattr(features, "_batches", count)
    assert measure.measure(subject, Yardsticks(), tmp_path / "b", 2).numbers == wanted
    assert made == [(0, 2), (4, 5), (0, 5)]


def test_the_report(measured, tmp_path):
    found, subject = measured
    content = report.write(epath.Path(tmp_path / "a"), found, subject, {"step": 7})
    assert json.loads((tmp_path / "a/metrics.json").read_text()) == content
    assert content["step"] == 7
    text = (tmp_path / "a/metrics.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| FID |"))
    assert (
        row
        == f"| FID | lower | {found.numbers['fid']:.2f} | 26.40 | 42.40 | 14.30 | 21.80 | 14.40 |"
    )
    with (tmp_path / "a/scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["picture"] for row in rows] == [f"some/picture_{i}" for i in range(COUNT)]
    assert float(rows[3]["lpips"]) == pytest.approx(found.scores["lpips"][3], rel=1e-4)
    # Label, exemplar, picture, truth; a row for each picture.
    size = Image.open(tmp_path / "a/best_and_worst.png").size
    assert size == (4 * (SIDE + 2) + 2, COUNT * (SIDE + 2) + 2)
    best = report.order(found)
    assert (np.diff(found.scores["lpips"][best]) >= 0).all()
    # Without scores, those of another evaluation do not stay.
    report.write(epath.Path(tmp_path / "a"), dataclasses.replace(found, scores={}), subject, {})
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"metrics.json", "metrics.md"}


def test_evaluations_are_compared_and_other_protocols_named(measured, tmp_path):
    found, subject = measured
    report.write(epath.Path(tmp_path / "a"), found, subject, {})
    other = dataclasses.replace(found, protocols=found.protocols | {"fid": "JPEG"})
    step = {"checkpoint": "checkpoints/7", "step": 7}
    report.write(epath.Path(tmp_path / "run/evaluation/step_0000007"), other, subject, step)
    paths = {name: report.find(epath.Path(tmp_path / name)) for name in ("a", "run")}
    text = report.compare(paths)
    assert "| | better | a | run | ADE20k (published)" in text
    assert "FID was measured in different ways" in text
    assert "- run: JPEG" in text
    assert "SWD was measured in different ways" not in text
    assert "- run: checkpoints/7, step 7" in text
    assert report.find(epath.Path(tmp_path)) is None
    (tmp_path / "a/metrics.json").write_text("[]")
    with pytest.raises(UserError, match=r"a/metrics\.json cannot be read.*evaluate again"):
        report.compare(paths)
