import dataclasses
import importlib
import subprocess
import sys

import pytest

from cocosnet_jax import settings
from cocosnet_jax.data.builders import toy_classes
from cocosnet_jax.data.drawn import things
from cocosnet_jax.errors import UserError
from tests.conftest import LIMIT_S, ROOT


def load(name, *variant):
    config = importlib.import_module(f"cocosnet_jax.configs.{name}").get_config(*variant)
    if not config.data.exemplar_list:
        config.data.exemplar_list = "random"
    return settings.from_mapping(config.to_dict())


def test_base_is_the_defaults():
    assert load("base") == settings.Settings()


def test_ade20k_follows_the_paper_unless_told_otherwise():
    paper = load("ade20k")
    assert paper == load("ade20k", "paper")
    # SPEC section 9, with the mask only of ADE20k.
    assert (paper.model.mask_input, paper.model.mask_epochs) == ("adaptor", 80)
    assert not paper.model.mask_at_inference
    assert (paper.optimiser.beta1, paper.optimiser.beta2) == (0.0, 0.999)
    assert paper.epochs == 100
    assert (paper.loss.perceptual_layer, paper.loss.perceptual_norm) == ("relu4_2", "l1")
    assert paper.loss.contextual_relu2_2
    assert paper.loss.discriminator_features == 0
    assert paper.data.distortion == "geometric"
    assert paper.model.spectral_everywhere
    # The masks' loss is the warm-up's alone.
    assert (paper.loss.mask, paper.loss.mask_schedule) == (100.0, "warm_up")
    assert load("ade20k", "released").loss.mask_schedule == "always"


def test_noise_recipe_differs_by_the_noise_only():
    # SPEC section 8: `noise_for_mask`, `mask_epoch` 150 of 200.
    assert settings.differences(load("ade20k", "released"), load("ade20k", "noise")) == {
        "model.mask_epochs": "-1, 150",
        "model.mask_at_inference": "True, False",
    }


def test_drawn_has_the_drawings_channels_and_never_reads_an_exemplars_map():
    labels, edges = load("drawn"), load("drawn", "edges")
    assert labels.data.channels == things.NUM_CLASSES
    assert labels.model.mask_input == edges.model.mask_input == "none"
    assert edges.loss == dataclasses.replace(labels.loss, mask=0.0)


def test_colours_trains_the_small_model_further():
    assert settings.differences(load("drawn"), load("drawn", "colours")) == {
        "data.exemplar_probability": "0.4, 0.0",
        "loss.contextual": "5.0, 2.0",
        "loss.colour": "0.0, 3000.0",
        "loss.class_colour": "0.0, 5000.0",
        "loss.warp_class_colour": "0.0, 2000.0",
        "optimiser.generator_rate": "0.0005, 0.0003",
        "optimiser.discriminator_rate": "0.0005, 0.0003",
        "optimiser.constant_epochs": "20, 6",
        "optimiser.decay_epochs": "13, 4",
    }


def test_small_is_the_recipe_of_drawn_scenes_for_photographs():
    assert settings.differences(load("drawn"), load("small", "128")) == {
        "data.dataset": "'drawn_scenes', 'folder'",
        "data.channels": "14, 0",
        "data.exemplar_probability": "0.4, 0.5",
        "data.distortion": "'crop_flip', 'geometric'",
        "data.self_pair_list": "'names', ''",
        "model.base_filters": "10, 8",
        "model.warp_stride": "4, 2",
        "loss.group_size": "4, 2",
        "loss.pseudo_exemplar": "100.0, 50.0",
        "loss.self_warp": "100.0, 50.0",
        "optimiser.generator_rate": "0.0005, 0.001",
        "optimiser.discriminator_rate": "0.0005, 0.0007",
        "optimiser.constant_epochs": "20, 3",
        "optimiser.decay_epochs": "13, 2",
        "optimiser.ema": "0.999, 0.998",
        "train.batch_per_device": "0, 2",
        "train.evaluation_batch_size": "16, 8",
    }
    assert settings.differences(load("small", "128"), load("small")) == {
        "data.image_size": "128, 64",
        "data.load_size": "144, 72",
    }


def test_toy_has_the_toys_classes():
    assert load("toy").data.channels == toy_classes.NUM_CLASSES
    assert load("toy", "no_mask").model.mask_input == "none"


@pytest.mark.parametrize(
    "name", ["ade20k", "ade20k_outdoor", "flickr", "celebahq_edge", "celebahq_mask", "deepfashion"]
)
def test_larger_pictures_are_the_same_recipe(name):
    for variant, size in (("512", 512), ("1024", 1024), ("released-512", 512)):
        recipe = variant.split("-")[0] if "-" in variant else "paper"
        load_size = 256 if recipe == "paper" else 286
        wanted = {
            "data.image_size": f"256, {size}",
            "data.load_size": f"{load_size}, {size * load_size // 256}",
            "model.dtype": "'float32', 'bfloat16'",
            "train.batch_size": f"32, {8192 // size}",
        }
        if size == 512:  # at 1024 it is the default, 8
            wanted["train.evaluation_batch_size"] = "8, 16"
        else:
            wanted["model.rematerialise"] = "'elementwise', 'blocks'"
        assert settings.differences(load(name, recipe), load(name, variant)) == wanted


def test_unknown_size_is_named():
    with pytest.raises(UserError, match=r":released-2048 is unknown; sizes are 512 and 1024"):
        load("ade20k", "released-2048")


@pytest.mark.parametrize("name", ["ade20k", "toy"])
def test_unknown_variant_is_named(name):
    with pytest.raises(UserError, match=rf"configs/{name}.py:nonsense is unknown; .* variants"):
        load(name, "nonsense")


# The last column: what the one line must say.
WRONG = [
    ((), "--config is missing"),
    (
        ("--config=configs/none.py",),
        "--config=configs/none.py is not a file; choose one of ablations, ",
    ),
    (("--config=README.md",), "--config=README.md is not a Python file; choose one of ablations, "),
    (
        ("--config=none:released",),
        "--config=none is unknown; choose one of ablations, ade20k, ",
    ),
    (("--config=toy",), "--workdir is missing"),
    (("--config=toy", "--workdir", ""), "--workdir is missing"),
    (
        ("--config=toy", "--workdir=/tmp", "--mode=evaluate", "--init_from=/tmp"),
        "--init_from is for training",
    ),
    (
        ("--config=toy", "--workdir=/tmp", "--checkpoint=/tmp"),
        "--checkpoint is for --mode=evaluate; leave it out",
    ),
    (
        (
            *("--config=toy", "--workdir=/tmp", "--config.train.evaluate_every=9"),
            "--config.train.keep_best=kid",
        ),
        "config.train.keep_best=kid needs --inception",
    ),
    (
        ("--config=toy", "--workdir=/tmp", "--inception=weights.pth"),
        "--inception is for evaluation: set --mode=evaluate, or to measure during training",
    ),
    (
        ("--config=toy", "--config.train.batch_size=2", "--config.train.batch_per_device=1"),
        "--config.train.batch_size and --config.train.batch_per_device are both given",
    ),
    (
        # This config sets batch_per_device, which a batch size that is given replaces.
        ("--config=small", "--config.train.batch_size=6", "--config.train.accumulate=4"),
        "config.train.accumulate is 4, but config.train.batch_size, 6, does not split into so many",
    ),
    (
        ("--config=toy", "--config.train.batch_per_device=-1"),
        "config.train.batch_per_device is -1; it must be 0 or more",
    ),
    (("--config", "configs/none.py"), "--config=configs/none.py is not a file; choose one of"),
    (
        ("--config=configs/toy.py", "--config.data.source.x=3"),
        "config.data.source.x is unknown; write settings as config.SECTION.FIELD",
    ),
    (
        ("--config=configs/toy.py", "--workdir=/tmp", "--distributed=localhost:1234,2,2"),
        "--distributed='localhost:1234,2,2' must be `auto` or HOST:PORT,PROCESSES,INDEX",
    ),
    (
        ("--config=configs/toy.py", "--workdir=/tmp", "--distributed=auto"),
        "--distributed=auto finds no cluster here",
    ),
    (("--config=configs/toy.py:x",), "configs/toy.py:x is unknown; configs/toy.py has the"),
    (
        ("--config=configs/toy.py", "--config.train.bach=3"),
        "config.train.bach is unknown; config.train has accumulate, batch_per_device,",
    ),
    (
        ("--config=configs/toy.py", "--config.trian.seed=3"),
        "config.trian is unknown; config has data, model, loss, optimiser, vgg, train",
    ),
    (
        ("--config=configs/toy.py", "--config.train.batch_size=2.5"),
        "config.train.batch_size is '2.5'; it must be of type int",
    ),
    (
        ("--config=configs/toy.py", "--config.model.non_local=7"),
        "config.model.non_local is '7'; it must be of type bool",
    ),
    (
        ("--config=configs/toy.py", "--config.model.dtype=float16"),
        "config.model.dtype is 'float16'; allowed are 'float32', 'bfloat16'",
    ),
    (
        ("--config=configs/toy.py", "--config.data.image_size=100"),
        "config.data.image_size is 100; it must be a positive multiple of 32, for example 96",
    ),
    (
        ("--config=configs/toy.py", "--config.data.image_size=32"),
        "config.data.image_size is 32; it must be at least 64, the smallest input of the second",
    ),
    (
        ("--config=configs/toy.py", "--config.train.batch_size=6"),
        "config.train.batch_size is 6, which is not a multiple of config.loss.group_size=4;"
        " set the batch size to 4 or 8, or the group size to a divisor of 6",
    ),
    (
        ("--config=toy", "--workdir=/tmp", "--config.train.batch_per_device=6"),
        "config.train.batch_per_device is 6, on 1 device(s): config.train.batch_size is 6, which",
    ),
    (
        ("--config=configs/toy.py:no_mask", "--config.loss.mask_schedule=warm_up"),
        "config.loss.mask_schedule is 'warm_up', but there is no warm-up",
    ),
    (
        ("--config=configs/ade20k.py", "--workdir=/nowhere"),
        "config.data.exemplar_list is empty; set it to a list file",
    ),
    (("--config=configs/toy.py", "--wrokdir=x"), "Unknown command line flag 'wrokdir'"),
    (("--config=configs/toy.py", "extra"), "'extra' is not a flag"),
]


@pytest.mark.parametrize(("arguments", "line"), WRONG, ids=[line[:40] for _, line in WRONG])
def test_a_wrong_command_line_is_one_line(program, arguments, line):
    done = program.run("main", *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert line in done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def get_config(:", "SyntaxError: invalid syntax (mine.py, line 1); correct the file"),
        (
            "import no_such_module",
            "ModuleNotFoundError in line 1: No module named 'no_such_module'",
        ),
        (
            "def get_config():\n    return {}['model']",
            "KeyError in line 2: 'model'; correct the file",
        ),
        ("open('no such file')", "No such file or directory: 'no such file'; correct the file"),
        ("", "AttributeError: module 'config_config' has no attribute 'get_config'"),
    ],
)
def test_a_config_that_cannot_be_loaded_is_one_line(program, tmp_path, text, said):
    (tmp_path / "mine.py").write_text(text)
    done = program.run("main", f"--config={tmp_path}/mine.py", "--config.train.batch_size=8")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: --config={tmp_path}/mine.py cannot be loaded: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


def of_program(text):
    return subprocess.run(
        [sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S
    )


INTERRUPTED = """
import signal
from cocosnet_jax import command
command.run(lambda: signal.default_int_handler(signal.SIGINT, None), "")
"""


def test_ctrl_c_is_one_line():
    done = of_program(INTERRUPTED)
    assert done.returncode == 130
    assert done.stderr == "interrupted: run the same command again\n"


FORBIDDEN = """
import errno
from cocosnet_jax import command
def main():
    raise PermissionError(errno.EACCES, "Permission denied", "locked/map.png")
command.run(main, "")
"""


def test_a_file_that_may_not_be_read_is_one_line():
    done = of_program(FORBIDDEN)
    assert done.returncode == 2
    assert done.stderr == (
        "error: locked/map.png may not be read or written (Permission denied); change its"
        " permissions, or those of the folders that it is in\n"
    )


@pytest.mark.parametrize(
    ("module", "arguments", "line"),
    [
        ("compile_check", (), "--topology is missing"),
        ("prepare", ("--preview=x.jpg",), "--preview=x.jpg must be a .png file"),
        ("retrieve", (), "--output= must be a file"),
        ("convert", ("--corr=x", "--generator=x", f"--output={ROOT}"), "already exists"),
    ],
)
def test_what_does_not_train_needs_no_exemplar_list(program, module, arguments, line):
    # What is wrong with the other flags is said once the settings are read.
    done = program.run(module, "--config=configs/ade20k.py:released", *arguments)
    assert done.returncode == 2
    assert line in done.stderr
