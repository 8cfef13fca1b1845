"""Which options of XLA's compiler programs get: CPUs alone, and never against the user's own."""

import types

import jax
import numpy as np
import pytest

from cocosnet_jax import compiler, mesh, partition
from cocosnet_jax.settings import from_mapping


@pytest.fixture
def without_flags(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_experimental_ynn_fusion_type=")


def test_cpus_get_the_options_and_accelerators_none(without_flags):
    assert compiler.options(mesh.make(), compiler.LESS) == {"xla_backend_optimization_level": 1}
    assert compiler.options(mesh.make(), compiler.LEAST) == compiler.LEAST
    accelerator = types.SimpleNamespace(devices=np.array([types.SimpleNamespace(platform="tpu")]))
    assert compiler.options(accelerator, compiler.LEAST) == {}


def test_the_users_flags_stay(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=3 --xla_other=1")
    assert compiler.options(mesh.make(), compiler.LESS) == {}
    assert "xla_backend_optimization_level" not in compiler.options(mesh.make(), compiler.LEAST)


@pytest.mark.parametrize(("filters", "level"), [(compiler.NARROW, 1), (64, None)])
def test_only_steps_of_narrow_networks_are_optimised_less(
    without_flags, monkeypatch, filters, level
):
    monkeypatch.setattr(jax, "jit", lambda step, *, compiler_options, **_: compiler_options)
    data = {"channels": 5, "exemplar_list": "random"}
    settings = from_mapping({"model": {"base_filters": filters}, "data": data})
    options = partition.jitted_step.__wrapped__(settings, mesh.make(), 10)
    assert options.get("xla_backend_optimization_level") == level
    assert options["xla_disable_hlo_passes"] == "cse_barrier_expander"
