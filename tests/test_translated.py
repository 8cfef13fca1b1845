"""What is kept of an evaluation of ten pictures."""

import numpy as np
import pytest
from etils import epath

from cocosnet_jax.translated import Translated, to_rows


@pytest.fixture
def outputs(tmp_path):
    paths = [epath.Path(tmp_path) / f"outputs/{index}.png" for index in range(10)]
    paths[0].parent.mkdir()
    for path in paths:
        path.write_bytes(b"")
    return paths


def opened(tmp_path, outputs, identity="a"):
    return Translated(epath.Path(tmp_path), ["of", identity], outputs)


def counts(first, last):
    places = np.arange(first, last, dtype=np.float32)
    return {"one": places, "two": [np.stack([places, 0.1 * places], 1).reshape(-1, 1, 2)]}


def add(kept, first, last):
    kept.add(first, to_rows(counts(first, last), last - first))


def test_what_is_done_is_found_whatever_the_batches_are(tmp_path, outputs):
    kept = opened(tmp_path, outputs)
    assert kept.done == 0
    assert kept.remaining(4) == [0, 1, 2]
    for first in (0, 4):
        add(kept, first, first + 4)
    kept = opened(tmp_path, outputs)
    assert kept.done == 8
    assert kept.remaining(4) == [2]
    assert kept.remaining(3) == [2, 3]
    outputs[1].unlink()
    kept = opened(tmp_path, outputs)
    assert kept.remaining(4) == [0, 2]
    assert kept.remaining(1) == [1, 8, 9]


def test_each_picture_counts_once(tmp_path, outputs):
    kept = opened(tmp_path, outputs)
    add(kept, 0, 4)
    add(kept, 4, 8)
    kept = opened(tmp_path, outputs)
    for first, last in ((6, 9), (9, 10)):
        add(kept, first, last)
    for some in (kept, opened(tmp_path, outputs)):
        total = some.total(counts(0, 3))
        assert total["one"] == 45
        assert total["two"][0].shape == (1, 2)
        wanted = [45, (np.float32(0.1) * np.arange(10, dtype=np.float32)).sum(dtype=np.float64)]
        assert total["two"][0][0].tolist() == pytest.approx(wanted, rel=1e-15)


def test_counts_of_something_else_are_deleted(tmp_path, outputs):
    add(opened(tmp_path, outputs), 0, 4)
    assert opened(tmp_path, outputs, "b").done == 0
    # Their pictures were replaced meanwhile.
    assert opened(tmp_path, outputs, "a").done == 0


def test_a_plain_network_has_no_counts(tmp_path, outputs):
    kept = opened(tmp_path, outputs)
    kept.add(0, to_rows([], 10))
    kept = opened(tmp_path, outputs)
    assert kept.remaining(4) == []
    assert kept.total([]) == []
