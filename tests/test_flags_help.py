import dataclasses
import re

import pytest

from cocosnet_jax import flags_help
from cocosnet_jax.settings import Settings
from tests.conftest import ROOT

MEASURING = ("inception", "lpips", "lpips-vgg", "format")
# Module -> its own flags, and whether it takes --config.
PROGRAMS = {
    "main": (
        [
            *("workdir", "mode", "distributed", "join_timeout", "init_from", "keypoints"),
            *("checkpoint", "check_for"),
            *MEASURING,
        ],
        True,
    ),
    "evaluate": (
        [
            *("generated", "real", "unpaired", "labels", "exemplars", "exemplar-labels", "list"),
            *(
                "others",
                "vgg",
                "size",
                "output",
                "batch",
                "compare",
                "distributed",
                "join_timeout",
                *MEASURING,
            ),
        ],
        False,
    ),
    "prepare": (["source", "preview"], True),
    "retrieve": (["output", "split", "k", "checkpoint", "batch"], True),
    "convert": (
        [
            *("corr", "generator", "discriminator", "corr-ema", "generator-ema"),
            *("to-torch", "checkpoint", "safetensors", "bfloat16", "output"),
        ],
        True,
    ),
    "compile_check": (["topology"], True),
    "doctor": (["workdir"], True),
    "translate": (
        [
            *("checkpoint", "input", "exemplar", "exemplar-label", "list", "output", "warped"),
            *("size", "original-size", "pose-size", "blend", "format", "confidence"),
            *("batch-size", "bfloat16"),
        ],
        False,
    ),
    "export": (["checkpoint", "output", "size", "onnx"], False),
    "demo": (["checkpoint", "address", "port", "size"], False),
    "apps.edit": (
        ["checkpoint", "photograph", "label", "edited", "output", "size", "paste", "seam"],
        False,
    ),
    "apps.makeup": (
        [
            *("checkpoint", "portrait", "portrait-label", "strokes", "made-up", "portraits"),
            *("labels", "output", "size"),
        ],
        False,
    ),
    "apps.correspond": (
        [
            *("checkpoint", "input", "exemplar", "exemplar-label", "points", "output"),
            *("pose-size", "size", "on", "heat-maps"),
        ],
        False,
    ),
    "apps.gallery": (["folder"], False),
    "apps.demo": (["checkpoint", "folder", "scenes"], False),
    "apps.pck": (
        [
            *("checkpoint", "source", "keypoints", "vgg", "output", "exemplars", "seed"),
            *("averaged", "all", "sides"),
        ],
        False,
    ),
    "apps.train_demo": (["workdir", "seed"], False),
}


@pytest.mark.parametrize("module", PROGRAMS)
def test_help_shows_all_that_a_command_takes_and_no_more(program, module):
    own, configured = PROGRAMS[module]
    done = program.run(module, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    file = ROOT / f"cocosnet_jax/{module.replace('.', '/')}.py"
    first = re.match(r'r?"""(.*)', file.read_text())[1]
    assert done.stdout.startswith(f"{first}\n")
    fields = [
        f"config.{section.name}.{field.name}"
        for section in dataclasses.fields(Settings)
        for field in dataclasses.fields(section.default)
    ]
    shown = re.findall(r"^  --([\w.-]+)", done.stdout, re.MULTILINE)
    assert sorted(shown) == sorted([*own, *(["config", *fields] if configured else [])])


@pytest.mark.parametrize("section", dataclasses.fields(Settings), ids=lambda field: field.name)
def test_what_is_described_is_a_field(section):
    cls = type(section.default)
    described = flags_help.attributes(cls)
    assert described.keys() <= {field.name for field in dataclasses.fields(cls)}
    assert len(described) > 1


def test_fields_that_are_described_together_stand_together():
    text = "\n".join(flags_help._of_section("optimiser", Settings().optimiser))
    assert (
        "  --config.optimiser.beta1=0.0\n  --config.optimiser.beta2=0.9\n      Adam's decay rates."
        in text
    )


def test_long_words_are_folded():
    """Every line fits a terminal, but for the command lines of a docstring."""
    text = "\n".join(flags_help._of_section("model", Settings().model))
    assert max(map(len, text.splitlines())) <= 100
