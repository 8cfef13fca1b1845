import dataclasses
import types

import jax
import numpy as np
import pytest
from etils import epath

from cocosnet_jax import checkpoint, fine_tuning, mesh, settings, train, weights_file
from cocosnet_jax.checkpoint import Checkpoints
from cocosnet_jax.errors import UserError
from tests import test_checkpoint
from tests.test_checkpoint import assert_same, cut

# With every network: which of their weights fit is asked here.
SETTINGS = dataclasses.replace(
    test_checkpoint.SETTINGS,
    model=settings.ModelSettings(base_filters=4),
    loss=settings.LossSettings(),
)

OTHER_CLASSES = dataclasses.replace(SETTINGS, data=dataclasses.replace(SETTINGS.data, channels=7))
WITHOUT_AVERAGE = dataclasses.replace(SETTINGS, optimiser=settings.OptimiserSettings(ema=0.0))
# With few arrays, which are read and written one by one: for what is the same for every network.
FEW = test_checkpoint.SETTINGS
FEW_WITHOUT_AVERAGE = dataclasses.replace(FEW, optimiser=settings.OptimiserSettings(ema=0.0))


def state_of(step, config=SETTINGS):
    return test_checkpoint.state_of(step, config)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run of five classes that keeps an average, at step 9."""
    workdir = epath.Path(tmp_path_factory.mktemp("source"))
    checkpoints = Checkpoints(workdir, SETTINGS)
    checkpoints.save(9, state_of(9), force=True)
    checkpoints.close()
    return workdir


@pytest.fixture(scope="module")
def restored(source):
    return read(source)


def read(folder):
    everywhere = mesh.replicated(mesh.make())
    return checkpoint.restore_for_inference(folder, everywhere, all_networks=True)


def leaves(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }


def test_with_the_same_model_all_is_taken_over_but_what_training_keeps(source, restored):
    fresh, old = state_of(0), state_of(9)
    assert fine_tuning.check(fresh, restored).endswith(
        f"from the weights of {source}/checkpoints/9: 100.0% of"
        f" {sum(x.size for x in jax.tree.leaves(fresh.params)):,} parameters are copied"
    )
    new = fine_tuning.take_over(fresh, restored)
    # What translation with the checkpoint draws by: its average.
    assert_same(new.params["generator"], old.ema)
    assert_same(new.params["discriminator"], old.params["discriminator"])
    assert_same(new.variables, old.variables)
    assert_same(new.ema, old.ema)
    assert_same(new.opt_state, fresh.opt_state)
    assert int(new.step) == 0
    # The step takes the state's memory: nothing may be in it twice.
    pointers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves((new.params, new.ema))]
    assert len(set(pointers)) == len(pointers)


def test_without_an_average_the_parameters_are_taken(tmp_path):
    checkpoints = Checkpoints(epath.Path(tmp_path), FEW_WITHOUT_AVERAGE)
    checkpoints.save(9, state_of(9, FEW_WITHOUT_AVERAGE), force=True)
    checkpoints.close()
    new = fine_tuning.take_over(state_of(0, FEW), read(tmp_path))
    assert_same(new.params, state_of(9, FEW_WITHOUT_AVERAGE).params)
    assert_same(new.ema, new.params["generator"])


def test_a_file_of_weights_has_all_but_the_discriminator(tmp_path, capfd):
    file, folder = epath.Path(tmp_path) / "own.safetensors", epath.Path(tmp_path) / "new"
    weights_file.write(file, SETTINGS, state_of(9))
    restored = fine_tuning.origin(SETTINGS, folder, str(file))
    fresh, old = state_of(0), state_of(9)
    new = fine_tuning.take_over(fresh, restored)
    assert_same(new.params["generator"], old.ema)
    assert_same(new.ema, old.ema)
    assert_same(new.variables["generator"], old.variables["generator"])
    assert_same(new.params["discriminator"], fresh.params["discriminator"])
    assert_same(new.variables["discriminator"], fresh.variables["discriminator"])
    line = capfd.readouterr().out
    assert f"starting from the weights of {file}: " in line
    assert "random weights: discriminator/scale_0 (10), discriminator/scale_1 (10)" in line


def test_what_reads_other_classes_begins_anew_with_its_spectral_vectors(restored):
    fresh, old = state_of(0, OTHER_CLASSES), state_of(9)
    new = fine_tuning.take_over(fresh, restored)
    anew, taken = set(), set()
    for ours, theirs, found in (
        (fresh.params["generator"], old.ema, new.params["generator"]),
        (
            fresh.params["discriminator"],
            old.params["discriminator"],
            new.params["discriminator"],
        ),
        *(
            (
                fresh.variables[player]["spectral"],
                old.variables[player]["spectral"],
                new.variables[player]["spectral"],
            )
            for player in ("generator", "discriminator")
        ),
    ):
        ours, theirs, found = leaves(ours), leaves(theirs), leaves(found)
        assert ours.keys() == found.keys()
        for name, value in found.items():
            module = name.rpartition("/")[0]
            if np.array_equal(value, ours[name]):
                anew.add(module)
            else:
                np.testing.assert_array_equal(value, theirs[name])
                taken.add(module)
    # A module is taken over whole, or not at all.
    assert not anew & taken
    assert "correspondence/input_adaptor/conv_1" in anew
    assert "generator/stem" in anew
    assert "scale_0/conv_0" in anew
    assert "correspondence/image_adaptor/conv_1" in taken
    assert "generator/to_image" in taken
    line = fine_tuning.check(fresh, restored)
    assert f"; {len(anew)} modules start from random weights: " in line
    assert "correspondence/input_adaptor (" in line
    assert "discriminator/scale_0 (1), discriminator/scale_1 (1), generator/" in line
    total = sum(x.size for x in jax.tree.leaves(fresh.params))
    size = sum(
        value.size
        for player in ("generator", "discriminator")
        for name, value in leaves(fresh.params[player]).items()
        if name.rpartition("/")[0] in taken
    )
    assert f": {size / total:.1%} of {total:,} parameters are copied" in line
    assert fine_tuning.other_settings(restored, OTHER_CLASSES).endswith("data.channels: 5, 7")
    assert fine_tuning.other_settings(restored, WITHOUT_AVERAGE) == ""


def test_where_nothing_fits_is_an_error(restored):
    wide = dataclasses.replace(SETTINGS, model=dataclasses.replace(SETTINGS.model, base_filters=6))
    shapes = checkpoint.abstract_state(wide, mesh.replicated(mesh.make()))
    with pytest.raises(
        UserError, match=r"no weights of .*/9 match .* config\.model\.base_filters is 4"
    ):
        fine_tuning.check(shapes, restored)


@pytest.fixture
def begun(monkeypatch):
    """States that a run would have begun with, and whether data had been prepared."""
    begun, prepared = [], []

    def prepare_data(data):
        prepared.append(True)
        return types.SimpleNamespace(settings=data, training=range(8))

    monkeypatch.setattr(train, "prepare_data", prepare_data)
    monkeypatch.setattr(train.partition, "initial_state", lambda config, *_: state_of(0, config))

    def loop(run, checkpoints, start, state, weights):
        begun.append((start, state))
        return 0

    monkeypatch.setattr(train, "loop", loop)
    return begun, prepared


def runnable(config):
    return dataclasses.replace(
        config,
        vgg=settings.VggSettings("random", 2),
        train=settings.TrainSettings(batch_size=1),
    )


def test_a_new_run_begins_with_the_weights_and_a_run_of_ones_own_goes_on(begun, tmp_path, capfd):
    states, _ = begun
    checkpoints = Checkpoints(epath.Path(tmp_path) / "old", FEW)
    checkpoints.save(9, state_of(9, FEW), force=True)
    checkpoints.close()
    config = runnable(FEW)
    assert train.train(config, epath.Path(tmp_path), f"{tmp_path}/old") == 0
    start, state = states.pop()
    assert start == 0
    assert_same(state.params["generator"], state_of(9, FEW).ema)
    assert "100.0% of" in capfd.readouterr().out

    checkpoints = Checkpoints(epath.Path(tmp_path), config)
    checkpoints.save(5, state_of(5, FEW), force=True)
    checkpoints.close()
    assert train.train(config, epath.Path(tmp_path), "/nowhere") == 0
    start, state = states.pop()
    assert start == 5
    assert_same(state, state_of(5, FEW))
    assert (
        f"--init_from is ignored: {tmp_path} already has checkpoints, up to step 5"
        in capfd.readouterr().out
    )


def test_a_checkpoint_that_is_not_there_is_said_before_data_are_prepared(begun, tmp_path):
    states, prepared = begun
    with pytest.raises(UserError, match="/nowhere contains no checkpoint; name a run's workdir"):
        train.train(runnable(FEW), epath.Path(tmp_path) / "run", "/nowhere")
    assert (states, prepared) == ([], [])
    assert not (tmp_path / "run").exists()


def test_a_damaged_checkpoint_gives_way_here_as_well(begun, tmp_path, capfd):
    checkpoints = Checkpoints(epath.Path(tmp_path) / "old", FEW)
    for step in (3, 4):
        checkpoints.save(step, state_of(step, FEW), force=True)
    checkpoints.close()
    cut("settings/metadata")(tmp_path / "old/checkpoints/4")
    states, _ = begun
    train.train(runnable(FEW), epath.Path(tmp_path) / "new", str(tmp_path / "old"))
    assert_same(states[0][1].params["generator"], state_of(3, FEW).ema)
    assert "using step 3 instead" in capfd.readouterr().err
    # Another run's folder is left as it is.
    assert (tmp_path / "old/checkpoints/4").is_dir()
