import os

import numpy as np
import pytest

from cocosnet_jax import features
from cocosnet_jax.errors import UserError


def unit(count, width, seed):
    rows = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_rows_are_found_again(tmp_path):
    values = unit(10, 6, 0)
    rows = features.Rows(tmp_path / "folder/a", 10)
    rows.append(values[:4])
    rows.append(values[4:7])
    # A write that was cut off leaves rows that do not count.
    with (tmp_path / "folder/a.npy").open("ab") as file:
        file.write(b"cut off")
    again = features.Rows(tmp_path / "folder/a", 10)
    assert again.done == 7
    again.append(values[7:])
    np.testing.assert_array_equal(again.array(), values)
    assert isinstance(again.array(), np.memmap)
    (tmp_path / "folder/a.done").write_text("many")
    with pytest.raises(UserError, match=r"folder cannot be used .*; delete it"):
        features.Rows(tmp_path / "folder/a", 10)


@pytest.mark.parametrize("left", [0, 50, 128 + 3 * 24, 128 + 10 * 24 - 1])
def test_rows_that_were_lost_are_not_done(tmp_path, left):
    values = unit(10, 6, 0)
    features.Rows(tmp_path / "a", 10).append(values)
    assert (tmp_path / "a.npy").stat().st_size == 128 + 10 * 24
    os.truncate(tmp_path / "a.npy", left)
    again = features.Rows(tmp_path / "a", 10)
    assert again.done == 0
    again.append(values)
    np.testing.assert_array_equal(again.array(), values)


def test_an_interrupted_computation_goes_on_where_it_stopped(tmp_path):
    pictures = [(np.full((2, 2, 3), i, np.uint8), np.zeros((2, 2, 1), np.uint8)) for i in range(10)]
    asked: list[int] = []

    def embed(image, label):
        if len(asked) == 8:
            raise KeyboardInterrupt
        asked.extend(image[:, 0, 0, 0].tolist())
        return image[:, 0, 0, :2].astype(np.float32)

    with pytest.raises(KeyboardInterrupt):
        features.compute(tmp_path / "a", pictures, embed, 4, "numbers")
    asked.append(-1)
    rows = features.compute(tmp_path / "a", pictures, embed, 4, "numbers")
    assert asked == [*range(8), -1, 8, 9, 9, 9]
    np.testing.assert_array_equal(rows, np.arange(10)[:, None].repeat(2, 1))


@pytest.mark.parametrize(("start", "stop"), [(0, 3), (2, 5), (6, 10), (9, 10)])
def test_rows_of_other_files_are_copied(tmp_path, start, stop):
    pictures = [(np.full((2, 2, 3), i, np.uint8),) for i in range(10)]
    asked: list[int] = []

    def embed(image):
        asked.extend(image[:, 0, 0, 0].tolist())
        return image[:, 0, 0, :2].astype(np.float32)

    there = np.arange(start, stop, dtype=np.float32)[:, None].repeat(2, 1)
    rows = features.compute(tmp_path / "a", pictures, embed, 4, "numbers", [(start, there)])
    assert sorted(set(asked)) == [i for i in range(10) if not start <= i < stop]
    np.testing.assert_array_equal(rows, np.arange(10)[:, None].repeat(2, 1))
