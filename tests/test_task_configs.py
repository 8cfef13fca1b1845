import importlib
import json

import pytest

from cocosnet_jax import settings
from cocosnet_jax.errors import UserError
from tests import parity

FILES = {
    "ade20k": "ade20k",
    "celebahq": "celebahq_mask",
    "celebahqedge": "celebahq_edge",
    "deepfashion": "deepfashion",
}


def load(name, *variant):
    config = importlib.import_module(f"cocosnet_jax.configs.{name}").get_config(*variant)
    if not config.data.exemplar_list:
        config.data.exemplar_list = "random"
    return settings.from_mapping(config.to_dict())


@pytest.mark.parametrize("task", FILES)
def test_released_recipes_are_the_releases_options(task):
    meta = json.loads((parity.FOLDER / f"meta_{task}.json").read_text())
    ours, theirs = load(FILES[task], "released"), parity.release_settings(meta)
    assert (ours.model, ours.loss) == (theirs.model, theirs.loss)
    assert (ours.data.condition, ours.data.channels) == (
        theirs.data.condition,
        theirs.data.channels,
    )
    assert ours.data.flip is not meta["options"].get("no_flip", False)
    assert ours.data.exemplar_probability == meta["options"].get("real_reference_probability", 0.7)


def test_planes_of_the_inputs():
    # SPEC section 1.
    found = {task: load(file).data.planes for task, file in FILES.items()}
    assert found == {"ade20k": 1, "celebahq": 2, "celebahqedge": 15, "deepfashion": 20}


# SPEC section 8: constant and decaying epochs of the release.
@pytest.mark.parametrize(
    ("file", "epochs"),
    [
        ("ade20k", (100, 100)),
        ("celebahq_mask", (30, 30)),
        ("celebahq_edge", (30, 30)),
        ("deepfashion", (50, 50)),
    ],
)
def test_lengths_of_the_released_recipes(file, epochs):
    found = load(file, "released").optimiser
    assert (found.constant_epochs, found.decay_epochs) == epochs


@pytest.mark.parametrize("file", FILES.values())
def test_paper_recipes(file):
    paper = load(file)
    # SPEC section 9.
    assert (paper.model.generator_input, paper.model.generator_condition) == ("constant", "warped")
    assert (paper.model.match_kernel, paper.model.adaptor_kernel) == (1, 4)
    assert paper.loss.regularisation > 0
    assert paper.loss.discriminator_features == paper.loss.self_warp == 0
    assert paper.model.projection == "shared"
    assert paper.data.load_size == paper.data.image_size == 256
    # Exemplars of others in training, DeepFashion's too, and distortions of the image itself.
    assert (paper.data.exemplar_probability, paper.data.self_pair_list) == (0.7, "")
    assert (paper.optimiser.beta1, paper.optimiser.beta2) == (0.0, 0.999)
    assert (paper.loss.mask > 0) == (paper.model.mask_input != "none") == (file == "ade20k")


@pytest.mark.parametrize("file", FILES.values())
def test_unknown_variants_are_named(file):
    with pytest.raises(UserError, match=rf"configs/{file}\.py:fast is unknown; .*paper, released"):
        load(file, "fast")


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("name", ["ade20k_outdoor", "flickr"])
def test_recipes_that_are_ade20ks(name, variant):
    ours, theirs = load(name, variant), load("ade20k", variant)
    changed = settings.differences(ours, theirs)
    assert changed == {"data.dataset": f"{name!r}, 'ade20k'"}


def test_plain_has_no_exemplar():
    plain = load("ade20k", "plain")
    assert plain.model.generator_condition == "input"
    assert plain.data.exemplar_probability == 0
    assert plain.loss.group_size == 1
    # SPADE's objective: hinge, feature matching 10, VGG features 10.
    used = {name: value for name, value in vars(plain.loss).items() if value and name != "mask"}
    weights = {name: value for name, value in used.items() if isinstance(value, float)}
    assert weights == {
        "adversarial": 10.0,
        "discriminator_features": 10.0,
        "pseudo_exemplar": 10.0,
    }


@pytest.mark.parametrize(
    ("variant", "dataset", "condition", "channels"),
    [
        ("labels", "folder", "labels", 0),
        ("edges", "folder_edges", "channels", 2),
        ("poses", "folder_poses", "channels", 20),
    ],
)
def test_own_data(variant, dataset, condition, channels):
    found = load("folder", variant).data
    assert (found.dataset, found.condition, found.channels) == (dataset, condition, channels)
    assert found.exemplar_list == found.validation_exemplar_list == "random"
    with pytest.raises(UserError, match=r"folder\.py:masks is unknown; .* labels, edges, poses"):
        load("folder", "masks")
