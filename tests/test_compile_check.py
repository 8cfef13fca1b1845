import types

import jax
import pytest

from cocosnet_jax import compile_check, partition
from cocosnet_jax.errors import UserError
from cocosnet_jax.settings import Settings
from tests.conftest import PLAIN_LOSS, PLAIN_MODEL

TEXT = """
  %all-reduce.1 = (f32[3,3,64,64]{3,2,1,0:T(8,128)}, f32[64]{0:T(128)}) all-reduce(%a, %b), to
  %all-reduce-start.2 = bf16[8,2]{1,0} all-reduce-start(%c), channel_id=2
  %all-reduce-done.2 = bf16[8,2]{1,0} all-reduce-done(%all-reduce-start.2)
  %gather = pred[16]{0} all-gather(%d), channel_id=3
  %all-gather-start.4 = (f32[4]{0}, f32[32]{0}) all-gather-start(%f), channel_id=4
  %permute = (f32[8]{0}, f32[8]{0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%g)
  ROOT %add = f32[2]{0} add(%all-reduce.1, %e)
"""


def test_collectives_are_counted_in_bytes():
    assert compile_check.collectives(TEXT) == {
        "all-reduce": [(3 * 3 * 64 * 64 + 64) * 4, 32],
        "all-gather": [16, 128],
        "collective-permute": [32],
    }


def report(text, sides):
    plan = types.SimpleNamespace(
        argument_size_in_bytes=2**30,
        output_size_in_bytes=2**30,
        alias_size_in_bytes=2**30,
        temp_size_in_bytes=2**31,
    )
    compiled = types.SimpleNamespace(
        memory_analysis=lambda: plan,
        cost_analysis=lambda: {"flops": 19.7e12, "bytes accessed": 163.8e9},
        as_text=lambda: text,
    )
    return compile_check.report(compiled, 8, 100 * 2**20, sides).splitlines()


@pytest.mark.parametrize(
    ("sides", "ms", "efficiency"),
    # Of 50 MiB, 7/8, 63/64 and 255/256 are sent twice: over two links from the corner of a slice,
    # over four in a whole pod, 50 GB/s each. Memory takes 200 ms, operations 100.
    [
        ((2, 4), 52_428_800 * 2 * 7 / 8 / 100e9 * 1e3, 0.995),
        ((8, 8), 52_428_800 * 2 * 63 / 64 / 100e9 * 1e3, 0.995),
        ((16, 16), 52_428_800 * 2 * 255 / 256 / 200e9 * 1e3, 0.997),
    ],
)
def test_a_slice_is_as_fast_as_the_rates_of_its_chips_allow(sides, ms, efficiency):
    text = "%a = bf16[26214400]{0} all-reduce(%b), replica_groups={}"
    *_, collectives, time = report(text, sides)
    assert collectives == "collectives: 50.0 MiB, 0.50 of the parameters' 100.0 MiB"
    whole = 200 + ms
    assert time == (
        f"predicted step: {whole:.0f} ms (100 for operations, 200 for memory, {ms:.1f} for"
        f" collectives): {8e3 / whole:.1f} images/s per chip, {100 / whole:.2f} of the peak rate,"
        f" efficiency {200 / whole:.3f}"
    )
    assert f"{200 / whole:.3f}" == f"{efficiency}"


def test_other_devices_have_no_prediction():
    assert report("", None)[-1] == "no collectives"


def test_one_chip_has_no_collectives_to_wait_for():
    assert compile_check.predicted(197e12, 0, 0, (1, 1)) == (1, 0, 0)


def test_this_machine(program):
    done = program.run(
        "compile_check",
        "--config=configs/toy.py",
        "--topology=here",
        "--config.vgg.width=2",
        "--config.train.batch_per_device=2",
        # VGG's losses and the correspondence take most of the compiler's time.
        *(f"--config.model.{name}={value}" for name, value in PLAIN_MODEL.items()),
        *(f"--config.loss.{name}={value}" for name, value in PLAIN_LOSS.items()),
        "--config.loss.pseudo_exemplar=0",
    )
    assert done.returncode == 0, done.stderr
    first, *_, memory, step, last = done.stdout.splitlines()
    assert first == "1 x cpu, 2 per chip at 64 x 64, float32"
    # A wide range: temporary memory depends on XLA.
    assert 0.001 < float(memory.removeprefix("memory per chip: ").split()[0]) < 1
    assert "TFLOP" in step
    assert last == "no collectives"


def test_a_step_that_does_not_fit_is_an_error_with_advice(monkeypatch):
    class Refused:
        def lower(self, state, weights, batch):
            assert batch.label.shape == (32, 256, 256, 1)
            return self

        def compile(self):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: used 17G of 16G\nmore")

    monkeypatch.setattr(compile_check, "_SETTINGS", Settings)
    monkeypatch.setattr(compile_check, "_TOPOLOGY", types.SimpleNamespace(value="here"))
    monkeypatch.setattr(partition, "jitted_step", lambda *_: Refused())
    with pytest.raises(UserError, match=r"17G of 16G\): .* a smaller config.train.batch_size"):
        compile_check.main()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "--topology is missing; give a TPU slice, for example --topology=v5e:2x4"),
        (("--topology=v5e:9x9x9",), "cannot compile for --topology=v5e:9x9x9"),
    ],
)
def test_wrong_topology(program, arguments, says):
    done = program.run("compile_check", "--config=configs/toy.py", *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("error:")]) == 1
