from unittest import mock

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from cocosnet_jax import mesh
from cocosnet_jax.errors import UserError
from cocosnet_jax.types import Batch


def test_mesh_is_all_devices_on_one_auto_axis():
    found = mesh.make()
    assert found.axis_names == ("data",)
    assert found.size == jax.device_count()
    assert found.axis_types == (AxisType.Auto,)


def test_the_rows_of_a_process_are_consecutive(monkeypatch):
    """The order of JAX's mesh alternates between the hosts of a TPU slice."""
    near = [mock.Mock(jax.Device, id=i, process_index=p) for i, p in enumerate((0, 1, 0, 1))]
    ring = mock.Mock(devices=np.array(near))
    monkeypatch.setattr(jax, "make_mesh", lambda *_, **__: ring)
    assert [device.id for device in mesh.make(near).devices] == [0, 2, 1, 3]


def test_rows_go_to_the_devices_and_back():
    rows = np.arange(4 * 2 * 2 * 3, dtype=np.uint8).reshape(4, 2, 2, 3)
    batch = Batch(rows, rows + 1, rows[..., :1], rows[..., 1:2], np.arange(4, dtype=np.float32))
    placed = mesh.to_global(mesh.make(), batch)
    assert placed.points is placed.exemplar_points is None
    for ours, theirs in zip(placed[:5], batch[:5], strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(mesh.to_local(ours), theirs)


def test_the_error_for_a_batch_that_does_not_split_names_the_numbers(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    mesh.check_batch(16)
    with pytest.raises(UserError) as error:
        mesh.check_batch(12)
    assert "config.train.batch_size is 12, which does not split evenly over 8 devices" in str(
        error.value
    )
    assert "a multiple of 8, for example 8 or 16, or set config.train.batch_per_device" in str(
        error.value
    )
    with pytest.raises(UserError, match="a multiple of 8, for example 8, or"):
        mesh.check_batch(1)
    # Absent devices have no processes.
    with pytest.raises(UserError, match=r"over 32 devices; set it to a .* 32, .* 32 or 64, or"):
        mesh.check_batch(40, 32)
    # The multiples 6 and 9 do not split into groups of 4.
    with pytest.raises(UserError, match="a multiple of 3, for example 3 or 12, or"):
        mesh.check_batch(8, 3, group_size=4)


@pytest.mark.parametrize(("asked", "taken"), [(1, 8), (8, 8), (9, 16)])
def test_an_evaluation_batch_is_rounded_up(asked, taken, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    assert mesh.round_up(asked) == taken
