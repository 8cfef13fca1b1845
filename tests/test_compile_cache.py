"""Where compiled programs are kept; that programs are found again is JAX's part."""

import os
import sys
import warnings

import pytest

from cocosnet_jax import compile_cache

INTEL = "processor\t: 0\nmodel name\t: A\ncpu MHz\t: 2000.1\nflags\t: sse avx2\n"


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """A user without settings of JAX, whose cache folder is `tmp_path`."""
    for name in (compile_cache._FOLDER, compile_cache._SWITCH, compile_cache._MIN_SECONDS):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    # The environment is what a new process reads; JAX here keeps the folder of the test run.
    monkeypatch.delitem(sys.modules, "jax")
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setattr(compile_cache, "_noted", set())
    return tmp_path


def test_programs_are_kept_in_the_users_cache_folder(fresh):
    assert compile_cache.folder() == ""
    compile_cache.enable()
    assert compile_cache.folder().startswith(f"{fresh}/cocosnet_jax/xla/jaxlib-")
    assert os.path.isdir(compile_cache.folder())
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == compile_cache.folder()


def test_jaxs_own_variables_have_the_last_word(fresh, monkeypatch):
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "false")
    compile_cache.enable()
    assert compile_cache.folder() == ""
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "true")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "gs://bucket/programs")
    compile_cache.enable()
    assert compile_cache.folder() == "gs://bucket/programs"
    assert not os.listdir(fresh)


def test_each_kind_of_cpu_has_its_folder(fresh, monkeypatch):
    monkeypatch.setattr(compile_cache, "CPU_INFO", fresh / "cpuinfo")
    folders = []
    for text in (
        INTEL,
        INTEL.replace("2000.1", "3000") + "\nprocessor\t: 1\n",
        INTEL.replace("avx2", "avx2 avx512f"),
        INTEL.replace(": A", ": B"),
        "processor\t: 0\nBogoMIPS\t: 50\nFeatures\t: fp asimd\nCPU part\t: 0xd0c\n",
    ):
        compile_cache.CPU_INFO.write_text(text)
        folders.append(compile_cache.default_folder())
    # The clock's speed and the number of cores make no other kind.
    assert folders[0] == folders[1]
    assert len(set(folders)) == 4


def test_a_folder_that_cannot_be_written_is_one_note(fresh, capsys):
    (fresh / "cocosnet_jax").write_text("a file")
    compile_cache.enable()
    assert compile_cache.folder() == ""
    note = capsys.readouterr().err
    assert note.count("\n") == 1
    assert "compiled programs are not kept" in note
    assert str(fresh) in note


def test_the_least_recently_used_programs_are_removed(tmp_path):
    for index, name in enumerate(["old", "used", "new"]):
        path = tmp_path / f"folder_{index}" / f"{name}-cache{'.partial' * (name == 'old')}"
        path.parent.mkdir()
        path.write_bytes(bytes(1000))
        os.utime(path, (100 + index, 100 + index))
    os.utime(tmp_path / "folder_1/used-cache", (500, 101))
    compile_cache.prune(tmp_path, 3000)
    assert len(list(tmp_path.rglob("*-cache*"))) == 3
    compile_cache.prune(tmp_path, 1999)
    assert [path.name for path in tmp_path.rglob("*-cache*")] == ["used-cache"]


def test_a_damaged_program_is_removed_with_one_note(fresh, capsys):
    compile_cache.enable()
    for name in ("jit_step-12-cache", "jit_step_with_key-34-cache", "jit_other-56-cache"):
        with open(os.path.join(compile_cache.folder(), name), "w") as file:
            file.write("half")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = compile_cache._show_warning
        for _ in range(2):
            warnings.warn(
                "Error reading persistent compilation cache entry for 'jit_step': ValueError: bad",
                stacklevel=1,
            )
        warnings.warn("another", stacklevel=1)
    kept = sorted(os.listdir(compile_cache.folder()))
    assert kept == ["jit_other-56-cache", "jit_step_with_key-34-cache"]
    said = capsys.readouterr().err
    assert said.count("cannot be read, and is compiled again (ValueError: bad)") == 1
    assert "UserWarning: another" in said
