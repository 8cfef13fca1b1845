"""The commands that documentation shows, and those of the launch files, start as they stand."""

import re
import shlex

import pytest
from absl import flags
from ml_collections import config_flags

from cocosnet_jax import command, mesh, settings
from tests.conftest import ROOT

DOCUMENTS = [
    "README.md",
    *(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("docs/*.md"))),
    *(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("configs/*.py"))),
    "cocosnet_jax/main.py",
]
# Placeholders in the documentation -> values of a user.
PLACES = {"CONFIG.py": "ade20k.py", "=CONFIG ": "=ade20k ", "=N ": "=7 ", " [--mode=evaluate]": ""}


def shown(text):
    """The flags of every whole command that trains."""
    for old, new in PLACES.items():
        text = text.replace(old, new)
    found = re.findall(r"cocosnet_jax\.main ((?:[^\n`]*\\\n)*[^\n`]*)", text)
    return [
        shlex.split(x.replace("\\\n", " ")) for x in found if "..." not in x and "--config" in x
    ]


def launched(text):
    """The run's flags in a launch file's example, which stands in its first comment."""
    text = re.sub(r"^# ?", "", text, flags=re.MULTILINE)
    example = re.search(r"--config=(?:[^\n]*\\\n)*[^\n]*", text)[0]
    return shlex.split(example.replace("\\\n", " "))


def read(arguments):
    """The settings of a command line; every flag must be one of cocosnet_jax.main's."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config",
        lock_config=False,
        accept_new_attributes=True,
        flag_values=values,
        sys_argv=["main", *arguments],
    )
    for name in ("workdir", "mode", "distributed", "init_from", "inception", "lpips"):
        flags.DEFINE_string(name, "", "", flag_values=values)
    given = []
    for argument in arguments:
        if match := re.fullmatch(r"--config=([^:]*)(.*)", argument):
            argument = f"--config={command._config_file(match[1])}{match[2]}"
        given.append(argument)
    values(["main", *given])
    assert values["workdir"].value
    return settings.from_mapping(values["config"].value.to_dict())


EXAMPLES = [
    pytest.param(arguments, id=f"{name}-{number}")
    for name in DOCUMENTS
    for number, arguments in enumerate(shown((ROOT / name).read_text()))
]


def test_the_examples_are_found():
    assert len(EXAMPLES) >= 12
    assert len(shown((ROOT / "README.md").read_text())) == 2


@pytest.mark.parametrize("arguments", EXAMPLES)
@pytest.mark.parametrize("devices", [1, 2, 8])
def test_an_example_starts_on_any_machine(arguments, devices):
    train = read(arguments).on_devices(devices).train
    mesh.check_batch(train.batch_size, devices)
    assert train.batch_per_device == 0


@pytest.mark.parametrize("arguments", EXAMPLES)
@pytest.mark.parametrize("devices", [3, 6])
def test_a_batch_by_device_fits_any_number_of_them(arguments, devices):
    found = read(arguments)
    if each := found.train.batch_per_device:
        assert found.on_devices(devices).train.batch_size == each * devices


@pytest.mark.parametrize(
    ("file", "devices"),
    [
        ("gke.py", [16]),
        ("slurm.py", [16]),
        ("local_multiprocess.sh", [2]),
        # The user chooses the slice.
        ("tpu_vm.py", [4, 8, 16, 32]),
    ],
)
def test_a_launch_files_example_starts_as_it_stands(file, devices):
    text = (ROOT / "launch" / file).read_text()
    if sizes := re.search(r"--topology=(\d+)x(\d+)|--nodes=(\d+) --gpus-per-node=(\d+)", text):
        rows, columns = (int(number) for number in sizes.groups() if number)
        assert devices == [rows * columns]
    found = read(launched(text))
    if found.data.dataset != "toy_scenes":
        assert found.data.source
        assert found.vgg.weights
    for count in devices:
        mesh.check_batch(found.on_devices(count).train.batch_size, count)
