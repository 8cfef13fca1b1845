from unittest import mock

import jax
import jax.numpy as jnp
import pytest

from cocosnet_jax import fit, mesh
from cocosnet_jax.errors import UserError


def squares(x):
    # The temporary has the square of the size of x.
    return jnp.sum(jnp.sort(jnp.outer(x.ravel(), x.ravel()), 0)[0])


def test_a_program_that_fits_is_compiled():
    x = jnp.arange(16.0).reshape(4, 4)
    compiled = fit.compile_to_fit(jax.jit(jnp.sum), (x,), mesh.make(), 4, "")
    assert float(compiled(x)) == 120


def test_the_error_suggests_a_size_that_fits(monkeypatch):
    x = jnp.ones((128, 128))
    held, peak = fit.planned(jax.jit(squares).lower(x).compile())
    assert held == 128 * 128 * 4 + 4
    # With half of the temporary memory: 128 / sqrt(2), rounded down to a multiple of 32.
    monkeypatch.setattr(fit, "capacity", lambda _: (held + peak) // 2)
    with pytest.raises(UserError) as error:
        fit.compile_to_fit(jax.jit(squares), (x,), mesh.make(), 128, "set --size to {size}")
    assert "images of 128 x 128 need 1.0 GiB, but one cpu has 0.5 GiB" in str(error.value)
    assert "set --size to about 64" in str(error.value)


def test_the_compilers_refusal_becomes_a_user_error():
    class Refused:
        def lower(self, *_):
            return self

        def compile(self):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: used 17G of 16G\nmore")

    with pytest.raises(UserError, match=r"used 17G of 16G\): set --size to below 512"):
        fit.compile_to_fit(Refused(), (), mesh.make(), 512, "set --size to {size}")


def test_the_capacity_of_an_absent_device_is_unknown():
    absent = mock.Mock(jax.Device, platform="tpu")
    absent.memory_stats.side_effect = jax.errors.JaxRuntimeError(
        "INVALID_ARGUMENT: only for addressable devices"
    )
    assert fit.capacity(absent) == 0


def test_capacity_of_this_machine_respects_its_container(monkeypatch, tmp_path):
    device = jax.devices("cpu")[0]
    monkeypatch.setattr(fit, "CONTAINER_LIMIT", tmp_path / "memory.max")
    (tmp_path / "memory.max").write_text("1073741824\n")
    assert fit.capacity(device) == fit.GIB
    (tmp_path / "memory.max").write_text("max\n")
    with open("/proc/meminfo") as file:
        kib = int(file.readline().split()[1])
    assert fit.capacity(device) == kib * 1024
