import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from cocosnet_jax import compile_cache, kept_step, mesh
from cocosnet_jax.settings import Settings, TrainSettings, VggSettings

SETTINGS = Settings(vgg=VggSettings("random", 2))


def changed(**fields):
    return dataclasses.replace(SETTINGS, train=TrainSettings(**fields))


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Compiles a small step instead of a training step; counts how often."""
    count = []

    def compile_step(settings, devices, steps_per_epoch, arguments):
        count.append(settings)

        def step(state, weights, batch):
            return {"a": state["a"] * weights + batch, "steps": state["steps"] + 1}, batch.sum()

        return jax.jit(step, donate_argnums=0).lower(*arguments).compile()

    monkeypatch.setattr(kept_step, "folder", lambda: epath.Path(tmp_path))
    monkeypatch.setattr(kept_step.partition, "compile_step", compile_step)
    monkeypatch.setattr(kept_step.partition, "products", lambda *_: 123.0)
    monkeypatch.setattr(kept_step.operations, "peak", lambda _: 1e12)
    # What JAX's own cache has is not kept.
    enabled = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    yield count
    jax.config.update("jax_enable_compilation_cache", enabled)


def arguments(size=5):
    rng = np.random.default_rng(0)
    state = {"a": jnp.asarray(rng.normal(size=(size, 3))), "steps": jnp.zeros((), jnp.int32)}
    return state, jnp.asarray(rng.normal(size=3)), jnp.asarray(rng.normal(size=(size, 3)))


def step(settings=SETTINGS, per_epoch=10, size=5):
    made_from = settings, mesh.make(), per_epoch
    return kept_step.step(*made_from, arguments(size), kept_step.read_ahead(*made_from))


def test_a_kept_step_is_the_compiled_one(kept, capfd):
    one, products = step()
    assert products == 123.0
    assert "an earlier start" not in capfd.readouterr().out
    wanted = one(*arguments())
    again, products = step()
    assert len(kept) == 1
    assert products == 123.0
    assert "an earlier start" in capfd.readouterr().out
    given = arguments()
    found = again(*given)
    np.testing.assert_array_equal(found[0]["a"], wanted[0]["a"])
    assert (int(found[0]["steps"]), float(found[1])) == (1, float(wanted[1]))
    # The state is donated, as in a step that is compiled here.
    assert given[0]["a"].is_deleted()
    assert not given[2].is_deleted()
    # Its results are arguments of the next step.
    assert int(again(found[0], *given[1:])[0]["steps"]) == 2


def test_what_jaxs_cache_had_is_not_kept(kept, monkeypatch):
    compile_step = kept_step.partition.compile_step

    def found(*arguments):
        jax.monitoring.record_event("/jax/compilation_cache/cache_hits")
        return compile_step(*arguments)

    monkeypatch.setattr(kept_step.partition, "compile_step", found)
    step()
    step()
    assert len(kept) == 2


def test_what_the_loop_does_is_no_other_step(kept):
    step()
    step(changed(stop_after=3, log_every=7, profile="1:2", evaluate_every=2, keep_best="pck@0.1"))
    assert len(kept) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"settings": changed(seed=1)},
        {"settings": changed(accumulate=2)},
        {"settings": dataclasses.replace(SETTINGS, vgg=VggSettings("random", 3))},
        {"per_epoch": 11},
        {"size": 6},
    ],
)
def test_another_step_is_compiled(kept, other):
    step()
    step(**other)
    assert len(kept) == 2


@pytest.mark.parametrize("what", ["source", "flags", "precision", "cpu", "version"])
def test_a_step_of_another_program_is_compiled(kept, what, monkeypatch):
    step()
    if what == "source":
        monkeypatch.setattr(kept_step, "_source", lambda: "changed")
    elif what == "flags":
        monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    elif what == "cpu":
        monkeypatch.setattr(compile_cache, "cpu", lambda: "another")
    elif what == "version":
        monkeypatch.setattr(kept_step.importlib.metadata, "version", lambda _: "99")
    with jax.default_matmul_precision("highest" if what == "precision" else None):
        step()
    assert len(kept) == 2


def test_the_source_is_that_of_all_files(tmp_path, monkeypatch):
    (tmp_path / "nn").mkdir()
    (tmp_path / "nn/conv.py").write_text("a")
    monkeypatch.setattr(kept_step, "PACKAGE", tmp_path)

    def digest():
        return kept_step._source.__wrapped__()

    digests = [digest()]
    for name, content in (("nn/conv.py", "b"), ("warp.py", ""), ("nn/new.py", "b")):
        (tmp_path / name).write_text(content)
        digests.append(digest())
    (tmp_path / "nn/conv.py").rename(tmp_path / "nn/old.py")
    assert len({*digests, digest()}) == 5


def test_a_damaged_step_is_compiled_again_and_kept(kept, tmp_path):
    step()
    [file] = tmp_path.glob("step-*-cache")
    whole = file.read_bytes()
    for damaged in (whole[:-1], whole[:9] + b"x" + whole[10:], b""):
        file.write_bytes(damaged)
        step()
        assert len(kept) == 2
        step()
        assert len(kept) == 2
        kept.pop()


def test_a_step_that_cannot_be_loaded_is_compiled_again_and_kept(kept, monkeypatch, capfd):
    step()

    def refuse(*_):
        raise RuntimeError("another driver")

    with monkeypatch.context() as refusing:
        refusing.setattr(kept_step.serialize_executable, "deserialize_and_load", refuse)
        found, _ = step()
    assert int(found(*arguments())[0]["steps"]) == 1
    assert "cannot be loaded, and is compiled again (another driver)" in capfd.readouterr().out
    step()
    assert len(kept) == 2


def test_a_folder_that_cannot_be_read_is_as_an_empty_one(kept, tmp_path, monkeypatch):
    step()

    def unavailable(file):
        raise RuntimeError("UNAVAILABLE")  # as TensorFlow's errors of buckets are no OSErrors

    monkeypatch.setattr(type(epath.Path(tmp_path)), "read_bytes", unavailable)
    found, _ = step()
    assert int(found(*arguments())[0]["steps"]) == 1
    assert len(kept) == 2


def test_a_folder_that_cannot_be_written_is_a_note(kept, tmp_path, monkeypatch, capfd):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(kept_step, "folder", lambda: epath.Path(tmp_path / "file"))
    found, _ = step()
    assert int(found(*arguments())[0]["steps"]) == 1
    said = capfd.readouterr().out
    assert "the compiled step is not kept for the next start" in said
    assert str(tmp_path) in said


def test_several_processes_keep_none(monkeypatch, tmp_path):
    monkeypatch.undo()
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    assert kept_step.folder() == epath.Path(tmp_path)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert kept_step.folder() is None
