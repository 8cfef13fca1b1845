"""What an installation brings, as far as that shows without installing."""

import importlib
import os
import subprocess
import sys
import tomllib

import pytest

import cocosnet_jax
from cocosnet_jax import command
from tests.conftest import LIMIT_S, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGE = ROOT / "cocosnet_jax"


def test_every_program_is_a_command_named_after_its_module():
    programs = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in PACKAGE.rglob("*.py")
        if '\nif __name__ == "__main__":' in path.read_text()
    }
    commands = {
        f"cocosnet-{module.rsplit('.', 1)[-1].replace('_', '-')}": f"{module}:run"
        for module in sorted(programs, key=lambda module: -module.count("."))
    }
    # Two modules are named demo: the page, and the program behind `make demo`.
    commands["cocosnet-apps-demo"] = "cocosnet_jax.apps.demo:run"
    assert len(commands) == len(programs) == 17
    assert PROJECT["project"]["scripts"] == commands
    for target in commands.values():
        module, function = target.split(":")
        assert (
            f"\ndef {function}() -> None:" in (ROOT / f"{module.replace('.', '/')}.py").read_text()
        )


@pytest.mark.parametrize(("status", "wanted"), [(0, 0), (1, 2), (130, 0)])
def test_ctrl_c_of_the_page_is_no_error_of_make(tmp_path, status, wanted):
    python = tmp_path / "bin/python"
    python.parent.mkdir()
    python.write_text(f"#!/bin/sh\nexit {status}\n")
    python.chmod(0o755)
    (tmp_path / ".page").touch()  # The environment is complete.
    made = ["make", "page", f"VENV={tmp_path}"]
    done = subprocess.run(made, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == wanted
    assert ("Error" in done.stderr) is bool(wanted)


def test_the_package_has_the_configs():
    from setuptools import find_namespace_packages, find_packages

    include = PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    found = set(find_packages(str(ROOT), include=include))
    # Every folder with modules, and nothing beside the package.
    assert "cocosnet_jax.configs" in found
    assert found == set(find_namespace_packages(str(ROOT), include=include))
    assert {name.split(".")[0] for name in found} == {"cocosnet_jax"}
    assert (PACKAGE / "configs").resolve() == ROOT / "configs"
    assert os.readlink(PACKAGE / "configs") == "../configs"


def test_the_package_has_the_shipped_model():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["cocosnet_jax.pretrained"]
    assert [path.name for x in patterns for path in (PACKAGE / "pretrained").glob(x)] == [
        "drawn.safetensors"
    ]


def test_the_package_has_the_painter():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["cocosnet_jax.page"]
    found = {path.name for x in patterns for path in (PACKAGE / "page").glob(x)}
    assert found == {"page.css", "painter.css", "painter.html", "painter.js"}


def test_the_page_is_pinned_within_its_range():
    pinned = (ROOT / "requirements-page.txt").read_text()
    low = PROJECT["project"]["optional-dependencies"]["page"][0].split(",")[0].split(">=")[1]
    assert f"\ngradio=={low}." in pinned


def test_what_is_imported_is_required():
    pinned = (ROOT / "requirements.txt").read_text().split("# Needed by those.")[0]
    direct = {line.split("==")[0] for line in pinned.splitlines() if "==" in line}
    required = {line.split(">=")[0].split("[")[0] for line in PROJECT["project"]["dependencies"]}
    assert required == direct


def in_folder(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "cocosnet_jax.compile_check", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )


@pytest.mark.parametrize("given", ["ade20k:released", "configs/ade20k.py:released"])
def test_configs_are_found_from_anywhere(tmp_path, given):
    # A folder of this name that the user has is not looked into.
    (tmp_path / "configs").mkdir()
    for name in ("__init__", "base"):
        (tmp_path / f"configs/{name}.py").write_text("raise RuntimeError('not this one')")
    done = in_folder(tmp_path, f"--config={given}")
    assert done.stderr.startswith("error: --topology is missing")


def test_a_file_of_ones_own_goes_before_a_path_of_ours(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/toy.py").write_text("raise RuntimeError('my own')")
    done = in_folder(tmp_path, "--config=configs/toy.py")
    assert "--config=configs/toy.py cannot be loaded: RuntimeError in line 1: my own" in done.stderr
    done = in_folder(tmp_path, "--config=toy")
    assert done.stderr.startswith("error: --topology is missing")


def test_known_configs_are_the_tasks():
    assert command.known_configs() == [
        "ablations",
        "ade20k",
        "ade20k_outdoor",
        "celebahq_edge",
        "celebahq_mask",
        "deepfashion",
        "drawn",
        "flickr",
        "folder",
        "small",
        "toy",
    ]
    for name in command.known_configs():
        assert hasattr(importlib.import_module(f"cocosnet_jax.configs.{name}"), "get_config")


@pytest.mark.parametrize(
    ("version", "flags"),
    [
        ("0.9.2", False),
        ("0.10.0", True),
        ("0.12.0.1", True),
        ("0.13.0.dev20270101", False),
        ("1.0", False),
        ("unknown", False),
        (None, False),
    ],
)
def test_xla_flags_are_set_for_the_versions_that_were_tried(monkeypatch, version, flags):
    """XLA ends the program over a flag that it does not know."""

    def found(name):
        assert name == "jaxlib"
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", found)
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=here")
    importlib.reload(cocosnet_jax)
    expected = "--xla_dump_to=here"
    if flags:
        expected += " --xla_cpu_experimental_ynn_fusion_type="
        expected += " --xla_disable_hlo_passes=space-to-batch-converter"
    assert os.environ["XLA_FLAGS"] == expected


def test_the_pinned_versions_are_among_those_that_were_tried():
    low, high = cocosnet_jax._TRIED
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if line.startswith("jaxlib=="):
            version = tuple(int(part) for part in line.split("==")[1].split(".")[:2])
            assert low <= version < high
