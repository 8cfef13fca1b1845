import dataclasses
import types

import numpy as np
import pytest
from PIL import Image

from cocosnet_jax import checkpoint, data, features, search, settings, vgg
from cocosnet_jax.data import exemplars
from cocosnet_jax.errors import UserError
from cocosnet_jax.pretrained import vgg as vgg_weights
from tests.conftest import PLAIN_LOSS, PLAIN_MODEL
from tests.test_checkpoint import state_of


def unit(count, width, seed):
    rows = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("blocks", [(2048, 8192), (16, 32), (7, 5)])
def test_the_search_is_exact_whatever_the_blocks(monkeypatch, blocks):
    monkeypatch.setattr(search, "_QUERIES", blocks[0])
    monkeypatch.setattr(search, "_CANDIDATES", blocks[1])
    queries, candidates = unit(50, 24, 0), unit(101, 24, 1)
    candidates[70] = candidates[3]  # equal ones: the first comes first
    queries[4] = candidates[3]
    own = np.arange(50, dtype=np.int32) * 2
    own[10:20] = -1
    found = search.nearest(queries, candidates, 6, own)
    exact = queries.astype(np.float64) @ candidates.astype(np.float64).T
    exact[:, 70] -= 1e-12  # behind its equal
    exact[np.arange(50)[own >= 0], own[own >= 0]] = -np.inf
    expected = np.argsort(-exact, axis=1)[:, :6]
    np.testing.assert_array_equal(found.positions, expected)
    np.testing.assert_allclose(
        found.similarities, np.take_along_axis(exact, expected, 1), atol=1e-6
    )
    assert found.positions[4, :2].tolist() == [3, 70]


def test_as_many_as_there_are(monkeypatch):
    monkeypatch.setattr(search, "_CANDIDATES", 2)
    rows = unit(5, 8, 0)
    found = search.nearest(rows, rows, 4, np.arange(5, dtype=np.int32))
    for index, places in enumerate(found.positions):
        assert sorted(places) == [i for i in range(5) if i != index]


@pytest.fixture
def run(tmp_path):
    """Photographs of a colour each, in a row of hues, so that neighbours are most alike."""
    for split, count in (("training", 8), ("validation", 3)):
        for i in range(count):
            (tmp_path / f"ade/{split}").mkdir(parents=True, exist_ok=True)
            hue = i if split == "training" else 3 * i
            noise = np.random.default_rng(0).integers(0, 40, (32, 32, 3), np.uint8)
            picture = noise + np.array([20 * hue, 180 - 20 * hue, 90], np.uint8)
            Image.fromarray(picture).save(tmp_path / f"ade/{split}/{split}_{i}.jpg", quality=95)
            label = np.full((32, 32), i % 6, np.uint8)
            Image.fromarray(label).save(tmp_path / f"ade/{split}/{split}_{i}.png")
    values = {
        "data": {
            "dataset": "ade20k",
            "source": str(tmp_path / "ade"),
            "data_dir": str(tmp_path / "prepared"),
            "image_size": 64,
            "load_size": 64,
            "channels": 6,
            "exemplar_probability": 0.0,
        },
        "vgg": {"weights": "random", "width": 4},
    }
    return settings.from_mapping(values)


def read(path):
    return {line.key: list(line.references) for line in exemplars.read_list(path)}


def features_of(run, split):
    """Features and keys, one photograph at a time."""
    opened = data.open(run.data).split(split)
    weights = vgg_weights.load("random", run.vgg.width)
    rows = []
    for index in range(len(opened)):
        image = opened[index][0][None].astype(np.float32) / 127.5 - 1
        found = vgg.features(weights, image, ("relu5_2",))["relu5_2"]
        rows.append(np.asarray(found, np.float64).mean((0, 1, 2)))
    array = np.stack(rows)
    return array / np.linalg.norm(array, axis=1, keepdims=True), opened.keys


@pytest.mark.parametrize("split", ["train", "validation"])
def test_lists_name_the_most_alike(run, tmp_path, split):
    output = tmp_path / "list.txt"
    search.write_list(run, output, split=split, k=3, batch_size=5)
    candidates, keys = features_of(run, "exemplars")
    queries, asking = features_of(run, split)
    exact = queries @ candidates.T
    if split == "train":
        np.fill_diagonal(exact, -np.inf)
    listed = read(output)
    assert list(listed) == asking
    for index, key in enumerate(asking):
        assert key not in listed[key]
        values = exact[index, [keys.index(name) for name in listed[key]]]
        np.testing.assert_allclose(values, np.sort(exact[index])[::-1][:3], atol=1e-5)
    # The list is one that training and evaluation read.
    field = "exemplar_list" if split == "train" else "validation_exemplar_list"
    data.prepare(dataclasses.replace(run.data, **{field: str(output)}))


def test_what_is_there_is_not_computed_again(run, tmp_path, monkeypatch):
    output = tmp_path / "list.txt"
    embedding = features.vgg_embedding
    seen: list[int] = []

    def counted(weights, stop_at=None):
        embed = embedding(weights)

        def call(image, label):
            if len(seen) == stop_at:
                raise KeyboardInterrupt
            seen.append(len(image))
            return embed(image, label)

        return call

    monkeypatch.setattr(features, "vgg_embedding", lambda weights: counted(weights, 2))
    with pytest.raises(KeyboardInterrupt):
        search.write_list(run, output, split="train", k=2, batch_size=2)
    assert not output.exists()
    monkeypatch.setattr(features, "vgg_embedding", counted)
    search.write_list(run, output, split="train", k=2, batch_size=2)
    assert seen == [2, 2, 2, 2]
    two = read(output)
    search.write_list(run, output, split="train", k=100, batch_size=2)
    assert seen == [2, 2, 2, 2]
    assert {key: names[:2] for key, names in read(output).items()} == two
    assert {len(names) for names in read(output).values()} == {7}
    # Other weights are other features.
    other = dataclasses.replace(run, vgg=dataclasses.replace(run.vgg, width=2))
    search.write_list(other, output, split="train", k=2, batch_size=8)
    assert seen == [2, 2, 2, 2, 8]


def save_run(run, folder):
    checkpoints = checkpoint.Checkpoints(folder, run)
    checkpoints.save(1, state_of(1, run), force=True)
    checkpoints.close()


def plain_of(run):
    return dataclasses.replace(
        run,
        model=dataclasses.replace(run.model, **PLAIN_MODEL),
        loss=dataclasses.replace(run.loss, **PLAIN_LOSS),
    )


def test_the_output_of_a_plain_network_asks(run, tmp_path):
    plain = plain_of(run)
    save_run(plain, tmp_path / "plain")
    output = tmp_path / "list.txt"
    search.write_list(
        plain,
        output,
        split="validation",
        k=3,
        checkpoint_path=str(tmp_path / "plain"),
        batch_size=2,
    )
    listed = read(output)
    assert list(listed) == [f"validation/validation_{i}.jpg" for i in range(3)]
    assert all(len(set(names)) == 3 for names in listed.values())
    asked = [path for path in (tmp_path / "list.txt.features").glob("validation-*.npy")]
    assert len(asked) == 1
    # An untrained network's outputs are not the photographs.
    photographs, _ = features_of(run, "validation")
    assert np.abs(np.load(asked[0]) - photographs).max() > 0.05

    larger = dataclasses.replace(plain, data=dataclasses.replace(plain.data, channels=7))
    with pytest.raises(UserError, match=r"config\.data\.channels=6, but this config has 7"):
        search.write_list(
            larger, output, split="validation", k=3, checkpoint_path=str(tmp_path / "plain")
        )


def test_what_is_wrong_is_said_before_vgg_is_fetched(run, tmp_path, monkeypatch):
    monkeypatch.setattr(search.vgg_weights, "load", lambda *_: pytest.fail("VGG is read"))

    def write(of, **given):
        search.write_list(of, tmp_path / "l.txt", split="validation", k=3, **given)

    elsewhere = dataclasses.replace(run.data, source="/nowhere")
    with pytest.raises(UserError, match=r"config\.data\.source is '/nowhere', which is not a"):
        write(dataclasses.replace(run, data=elsewhere))
    with pytest.raises(UserError, match="/nowhere contains no checkpoint"):
        write(run, checkpoint_path="/nowhere")


def test_a_network_of_other_colours_cannot_ask(run, tmp_path, monkeypatch):
    plain = plain_of(run)

    def of(classes):
        return dataclasses.replace(plain.data, classes=classes)

    trained = dataclasses.replace(plain, data=of("sky #0000FF\nsea #00FF00"))
    restored = checkpoint.Restored(trained, None, 1, tmp_path)
    monkeypatch.setattr(checkpoint, "restore_for_inference", lambda path: restored)
    prepared = types.SimpleNamespace(settings=of("sea #00FF00\nsky #0000FF"))
    monkeypatch.setattr(data, "prepare", lambda _: prepared)
    with pytest.raises(UserError, match="class 0 is #00FF00 in the label maps, but was #0000FF"):
        search.write_list(plain, tmp_path / "l.txt", split="validation", k=3, checkpoint_path="run")


def test_a_network_that_needs_an_exemplar_cannot_ask(run, tmp_path, monkeypatch):
    restored = checkpoint.Restored(run, None, 1, tmp_path)
    monkeypatch.setattr(checkpoint, "restore_for_inference", lambda path: restored)
    with pytest.raises(UserError, match="needs exemplars; name a run of a plain"):
        search.write_list(run, tmp_path / "l.txt", split="validation", k=3, checkpoint_path="run")
