import types

import jax
import numpy as np
import pytest

from cocosnet_jax import pictures, train
from cocosnet_jax.apps import train_demo
from cocosnet_jax.apps.train_demo import Scenes
from cocosnet_jax.configs import toy
from cocosnet_jax.data.builders import toy_scenes


def flat_scenes(colours):
    """Scenes of two classes, left and right half, each in one colour."""
    labels = np.ones((len(colours), 4, 4), np.uint8)
    labels[:, :, 2:] = 2
    images = np.zeros((len(colours), 4, 4, 3), np.uint8)
    for i, (left, right) in enumerate(colours):
        images[i, :, :2], images[i, :, 2:] = left, right
    return Scenes(images, labels)


def test_colour_distances_by_hand():
    scenes = flat_scenes([(0, 0), (10, 20), (40, 20), (100, 200)])
    chosen = np.array([[1, 2, 3]])
    # Results: the first as its exemplar, the second like the first, the third as its exemplar.
    images = scenes.images[[1, 1, 3]][None]
    found = train_demo.colour_distances(scenes, chosen, images)
    grey = np.sqrt(3)
    own = [0, 0, 15 * grey, 15 * grey, 0, 0]
    other = [15 * grey, 135 * grey, 0, 135 * grey, 135 * grey, 120 * grey]
    assert found["colour_distance_to_own_exemplar"] == pytest.approx(np.mean(own))
    assert found["colour_distance_to_another"] == pytest.approx(np.mean(other))
    assert found["nearer_to_own"] == pytest.approx(np.mean(np.array(own) < np.array(other)))


def test_exemplars_have_the_scenes_classes_and_differ():
    scenes = flat_scenes([(0, 0), (10, 10), (12, 12), (250, 250), (120, 120)])
    scenes.labels[4] = 3  # without the classes of the others
    chosen = train_demo.choose_exemplars(scenes)
    assert chosen.shape == (5, 3)
    assert sorted(chosen[0]) == [1, 2, 3]
    assert list(chosen[0][:2]) == [1, 3]  # the farthest comes second
    assert all(i not in row for i, row in enumerate(chosen))


def test_sheet_shows_input_and_three_pairs():
    scenes = flat_scenes([(0, 0), (10, 20), (40, 20), (100, 200)])
    chosen = np.array([[1, 2, 3]] * 4)
    images = np.repeat(scenes.images[:, None], 3, 1)
    picture = train_demo.sheet(scenes, chosen, images)
    side = 4 * 2 + 4
    assert picture.shape == (pictures.HEADER + 4 * side + 4, 7 * side + 4, 3)


def test_the_warm_up_ends_with_a_checkpoint_that_is_kept():
    config = toy.get_config()
    steps_per_epoch = toy_scenes.TRAIN_SCENES // config.train.batch_size
    warmed_up = config.model.mask_epochs * steps_per_epoch
    last = (config.optimiser.constant_epochs + config.optimiser.decay_epochs) * steps_per_epoch
    assert warmed_up % config.train.checkpoint_every == 0
    # However often the run is interrupted, and saved.
    assert last <= config.train.keep_checkpoints


@pytest.mark.parametrize(
    ("devices", "batch", "every"), [(1, 4, 80), (2, 4, 80), (3, 12, 26), (8, 8, 40)]
)
def test_the_demo_runs_on_any_number_of_devices(devices, batch, every, monkeypatch, tmp_path):
    taken = []

    def run(settings, folder):
        taken.append(settings.train)
        return 7

    monkeypatch.setattr(train, "train", run)
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    monkeypatch.setenv("XLA_FLAGS", "")
    for flag, value in (("_WORKDIR", str(tmp_path)), ("_SEED", 3)):
        monkeypatch.setattr(train_demo, flag, types.SimpleNamespace(value=value))
    assert train_demo.main() == 7
    assert (taken[0].batch_size, taken[0].checkpoint_every, taken[0].seed) == (batch, every, 3)
    # The end of the warm-up is a checkpoint.
    steps_per_epoch = toy_scenes.TRAIN_SCENES // batch
    assert toy.MASK_EPOCHS * steps_per_epoch % every == 0
