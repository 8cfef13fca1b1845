"""PyTorch's files, read and written without it, held against files that PyTorch itself wrote."""

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from cocosnet_jax.errors import UserError
from cocosnet_jax.pretrained import torch_files

FIXTURES = Path(__file__).parents[1] / "fixtures"
W = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
# What tests/fixtures/README.md says was saved.
STATE: dict[str, Any] = {
    "plain": W,
    "transposed": W.transpose(2, 0, 1),
    "window": W[:, 1:, ::2],
    "scalar": np.float32(0.5),
    "half": np.arange(3, dtype=np.float16),
    "brain": np.arange(4).astype(ml_dtypes.bfloat16),
    "count": np.int64(7),
    "parameter": np.array([1.5, -2.0], np.float32),
    "double": np.array([1 / 3]),
    "empty": np.zeros((0, 3), np.float32),
    "flags": np.array([True, False]),
}


def assert_same(got, want):
    assert list(got) == list(want)
    for name, array in want.items():
        array = np.asarray(array)
        assert got[name].dtype == array.dtype, name
        np.testing.assert_array_equal(got[name], array, name)


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_reads_what_pytorch_wrote(kind):
    assert_same(torch_files.read(FIXTURES / f"torch_{kind}.pth"), STATE)


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_wrapped_state_dict_and_module_prefix(kind, caplog):
    got = torch_files.read(FIXTURES / f"torch_wrapped_{kind}.pth")
    want = {
        "0.weight": np.arange(6, dtype=np.float32).reshape(3, 2),
        "0.bias": np.arange(3, dtype=np.float32),
        "1.weight": np.ones(3, np.float32),
        "1.bias": np.zeros(3, np.float32),
        "1.running_mean": np.zeros(3, np.float32),
        "1.running_var": np.ones(3, np.float32),
        "1.num_batches_tracked": np.int64(0),
    }
    assert_same(got, want)
    assert "entry 'state_dict'" in caplog.text


def test_prefix_stays_unless_all_have_it(tmp_path):
    names = ["module.a", "b"]
    torch_files.write(tmp_path / "x.pth", {name: np.zeros(1) for name in names})
    assert list(torch_files.read(tmp_path / "x.pth")) == names


def test_the_home_folder_is_meant_by_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    torch_files.write(tmp_path / "x.pth", {"w": W})
    np.testing.assert_array_equal(torch_files.read("~/x.pth")["w"], W)


def test_round_trip(tmp_path):
    path = tmp_path / "x.pth"
    many = STATE | {f"w{i}": np.full(i, i, np.int32) for i in range(300)}
    torch_files.write(path, many)
    assert_same(torch_files.read(path), many)
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"]


def test_pytorch_reads_what_is_written(tmp_path):
    torch = pytest.importorskip("torch")
    torch_files.write(tmp_path / "x.pth", STATE)
    got = torch.load(tmp_path / "x.pth", weights_only=True)
    assert list(got) == list(STATE)
    for name, array in STATE.items():
        assert got[name].is_contiguous()
        np.testing.assert_array_equal(
            got[name].to(torch.float64).numpy(), np.asarray(array, np.float64), name
        )
    torch.save(got, tmp_path / "y.pth", _use_new_zipfile_serialization=False)
    assert_same(torch_files.read(tmp_path / "y.pth"), STATE)


def test_write_errors(tmp_path):
    with pytest.raises(UserError, match="tensor a is complex128"):
        torch_files.write(tmp_path / "x.pth", {"a": np.zeros(1, complex)})
    with pytest.raises(UserError, match=r"nowhere.*cannot be written"):
        torch_files.write(tmp_path / "nowhere" / "x.pth", {"a": np.zeros(1)})
    assert list(tmp_path.iterdir()) == []


# --- files that are something else ----------------------------------------------------------


def refused(path: Path, reason: str):
    with pytest.raises(UserError) as error:
        torch_files.read(path)
    assert str(path) in str(error.value)
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"\n<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is not a file of torch.save"),
        (b"PK\x03\x04 and no more", "truncated or damaged"),
        (pickle.dumps({"a": 1}, protocol=2), "not from PyTorch"),
    ],
)
def test_other_files(tmp_path, content, reason):
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    refused(path, reason)


def test_missing_file_and_folder(tmp_path):
    refused(tmp_path / "x.pth", "No such file")
    refused(tmp_path, "Is a directory")


def test_whole_network_is_refused_by_the_name_of_its_class():
    refused(FIXTURES / "torch_module.pth", "torch.nn.parallel.data_parallel.DataParallel")


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_truncated_anywhere(tmp_path, kind):
    content = (FIXTURES / f"torch_{kind}.pth").read_bytes()
    path = tmp_path / "x.pth"
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        refused(path, "")


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_damage_is_an_error_or_harmless(tmp_path, kind):
    content = np.frombuffer((FIXTURES / f"torch_{kind}.pth").read_bytes(), np.uint8)
    path = tmp_path / "x.pth"
    rng = np.random.default_rng(0)
    errors = 0
    for _ in range(300):
        damaged = content.copy()
        damaged[rng.integers(0, len(content), 3)] = rng.integers(0, 256, 3)
        path.write_bytes(damaged.tobytes())
        try:
            torch_files.read(path)
        except UserError:
            errors += 1
    assert errors > 100


# --- files that mean harm -------------------------------------------------------------------


def archive(path: Path | io.BytesIO, data: bytes, entries=(), method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("archive/data.pkl", data)
        for name, content in entries:
            file.writestr(name, content)


def legacy(path: Path, data: bytes, tail: bytes = b""):
    head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    path.write_bytes(b"".join(pickle.dumps(x, protocol=2) for x in head) + data + tail)


def state_pickle(size="K\x02", stride="K\x01", offset="K\x00", key="0", numel="K\x02"):
    """A state dict {'a': tensor}, with any numbers in it; the arguments are pickle text."""
    text = (
        "\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage"
        f"ctorch\nFloatStorage\nX{chr(len(key))}\x00\x00\x00{key}X\x03\x00\x00\x00cpu{numel}tQ"
        f"{offset}({size}t({stride}t\x89ccollections\nOrderedDict\n)RtRs."
    )
    return text.encode("latin-1")


def test_state_pickle_itself_is_read(tmp_path):
    path = tmp_path / "x.pth"
    numbers = np.array([3, 4], np.float32)
    archive(path, state_pickle(), [("archive/data/0", numbers.tobytes())])
    assert_same(torch_files.read(path), {"a": numbers})
    keys = pickle.dumps(["0"], protocol=2)
    legacy(path, state_pickle(), keys + (2).to_bytes(8, "little") + numbers.tobytes())
    assert_same(torch_files.read(path), {"a": numbers})


@pytest.mark.parametrize("write", [archive, legacy])
@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (b"cos\nsystem\n(X\x08\x00\x00\x00touch %stR.", "os.system"),
        (b"cposix\nsystem\n(X\x08\x00\x00\x00touch %stR.", "posix.system"),
        (b"cbuiltins\neval\n(X\x03\x00\x00\x001+1tR.", "builtins.eval"),
        (b"X\x08\x00\x00\x00builtinsX\x04\x00\x00\x00exec\x93.", "builtins.exec"),
        (b"ccollections\nOrderedDict.fromkeys\n.", "OrderedDict.fromkeys"),
        (b"ctorch._utils\n__builtins__\n.", "torch._utils.__builtins__"),
        (b"(S'x'\nios\nsystem\n.", "the instruction STRING"),
        (b"(X\x01\x00\x00\x00xios\nsystem\n.", "the instruction INST"),
        (b"\x82\x01.", "the instruction EXT1"),
        (b"ccollections\nOrderedDict\n)\x81.", "the instruction NEWOBJ"),
        # Altering the reader's own functions for the next file.
        (b"ccollections\nOrderedDict\n}X\x04\x00\x00\x00callNsb.", "modifies an object"),
        (b"ccollections\nOrderedDict\nN}X\x04\x00\x00\x00callNs\x86b.", "modifies an object"),
        (b"ctorch\nFloatStorage\n)R.", "calls a storage class"),
        (b"X\x01\x00\x00\x00xQ.", "not a storage"),
        (b"}r\xff\xff\xff\x7f.", "larger memo index than objects"),
        (b"X\xff\xff\xff\xffabc.", "truncated or damaged"),
        (b"}.", "contains nothing"),
        (b"K\x07.", "contains one int"),
    ],
)
def test_hostile_pickles(tmp_path, monkeypatch, write, code, reason):
    monkeypatch.setattr(os, "system", lambda *_: pytest.fail("executed"))
    path = tmp_path / "x.pth"
    write(path, b"\x80\x02" + code)
    refused(path, reason)
    assert_same(torch_files.read(FIXTURES / "torch_zip.pth"), STATE)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"offset": "K\x01"}, "exceeds its storage"),
        ({"stride": "K\x02"}, "exceeds its storage"),
        ({"size": "K\x03"}, "exceeds its storage"),
        ({"size": "K\x03", "stride": "K\x00"}, "exceeds its storage"),
        ({"size": "J\xff\xff\xff\x7fJ\xff\xff\xff\x7f", "stride": "K\x00K\x00"}, "exceeds its"),
        ({"stride": "J\xff\xff\xff\xff"}, "offset, size or stride"),
        ({"offset": "J\xff\xff\xff\xff"}, "offset, size or stride"),
        ({"stride": "K\x01K\x01"}, "offset, size or stride"),
        ({"numel": "J\xff\xff\xff\x7f"}, "truncated or damaged"),
        ({"numel": "\x8a\x08" + "\xff" * 7 + "\x7f"}, "number of elements"),
        ({"key": "../../etc/x"}, "invalid class, key"),
        ({"key": "1"}, ""),
    ],
)
def test_hostile_numbers(tmp_path, change, reason):
    path = tmp_path / "x.pth"
    data = state_pickle(**change)
    archive(path, data, [("archive/data/0", bytes(8)), ("archive/data/../../etc/x", bytes(8))])
    refused(path, reason)
    legacy(path, data, pickle.dumps(["0"], protocol=2) + (2).to_bytes(8, "little") + bytes(8))
    refused(path, reason)


def test_hostile_archives(tmp_path):
    path = tmp_path / "x.pth"
    archive(path, state_pickle(), [("archive/data/0", bytes(8))], zipfile.ZIP_DEFLATED)
    refused(path, "compressed")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("word/document.xml", "<x/>")
    refused(path, "no data.pkl")
    with pytest.warns(UserWarning, match="Duplicate"):
        archive(path, state_pickle(), [("archive/data/0", bytes(8))] * 2)
    refused(path, "have the same name")
    archive(path, state_pickle(), [("archive/data/0", bytes(7))])
    refused(path, "should have 8 bytes, but only 7 are left")
    archive(path, state_pickle(), [("archive/byteorder", b"big"), ("archive/data/0", bytes(8))])
    refused(path, "big-endian")
    # An entry that says it is longer than the whole file.
    buffer = io.BytesIO()
    archive(buffer, state_pickle(), [("archive/data/0", bytes(8))])
    content = bytearray(buffer.getvalue())
    at = content.rindex(b"PK\x01\x02")
    content[at + 20 : at + 28] = (2**31).to_bytes(4, "little") * 2
    path.write_bytes(content)
    refused(path, "overlaps another")
