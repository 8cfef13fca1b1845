"""The bytes that a compiled program moves, counted by hand beside the parser."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import bytes as moved
from benchmarks import hlo

# A convolution, a fusion that reads 2 of 16 rows, a loop of five iterations, a copy, and a kernel
# that is given one array twice.
PROGRAM = """HloModule jit_step, is_scheduled=true

FileNames
1 "/somewhere/cocosnet_jax/nn/conv.py"
2 "/somewhere/cocosnet_jax/vgg.py"

FunctionNames
1 "convolve"
2 "features"

FileLocations
1 {file_name_id=2 function_name_id=2 line=9 end_line=9 column=0 end_column=0}
2 {file_name_id=1 function_name_id=1 line=5 end_line=5 column=0 end_column=0}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}


%fused_slice (param_0: f32[16,128], param_1: f32[2,128]) -> f32[2,128] {
  %param_0 = f32[16,128]{1,0:T(8,128)} parameter(0)
  %param_1 = f32[2,128]{1,0} parameter(1)
  %slice.1 = f32[2,128]{1,0} slice(%param_0), slice={[0:2], [0:128]}
  ROOT %add.1 = f32[2,128]{1,0} add(%slice.1, %param_1)
}

%body (state: (s32[], f32[64])) -> (s32[], f32[64]) {
  %state = (s32[], f32[64]{0}) parameter(0)
  %index = s32[] get-tuple-element(%state), index=0
  %value = f32[64]{0} get-tuple-element(%state), index=1
  %more = f32[64]{0} add(%value, %value), metadata={op_name="jit(step)/generator/attention/add"}
  ROOT %next = (s32[], f32[64]{0}) tuple(%index, %more)
}

%condition (state.1: (s32[], f32[64])) -> pred[] {
  %state.1 = (s32[], f32[64]{0}) parameter(0)
  %index.1 = s32[] get-tuple-element(%state.1), index=0
  %count = s32[] constant(5)
  ROOT %less = pred[] compare(%index.1, %count), direction=LT
}

ENTRY %main (a: bf16[8,4,4,3], b: bf16[3,3,3,128], c: f32[16,128], d: f32[2,128], e: (s32[], f32[64])) -> f32[2,128] {
  %a = bf16[8,4,4,3]{3,0,2,1:T(8,128)(2,1)} parameter(0)
  %b = bf16[3,3,3,128]{3,2,1,0} parameter(1)
  %c = f32[16,128]{1,0:T(8,128)} parameter(2)
  %d = f32[2,128]{1,0} parameter(3)
  %e = (s32[], f32[64]{0}) parameter(4)
  %conv = bf16[8,4,4,128]{3,0,2,1:T(8,128)(2,1)} convolution(%a, %b), window={size=3x3 pad=1_1x1_1}, metadata={op_name="jit(step)/transpose(jvp())/conv_general_dilated" stack_frame_id=2}
  %copied = bf16[8,4,4,128]{3,2,1,0} copy(%conv)
  %loop = (s32[], f32[64]{0}) while(%e), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %kernel = f32[2,128]{1,0} custom-call(%c, %c, %d), custom_call_target="tpu_custom_call", metadata={op_name="jit(step)/generator/up_3/pallas_call"}
  %view = f32[2,128]{1,0} bitcast(%d)
  ROOT %fusion = f32[2,128]{1,0} fusion(%c, /*index=1*/%view), kind=kLoop, calls=%fused_slice, metadata={op_name="jit(step)/generator/checkpoint/up_3.call/up_3/norm_0/add"}
}
"""  # noqa: E501


@pytest.fixture(scope="module")
def program():
    return hlo.Program(PROGRAM)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("f32[]", 4),
        ("pred[7]{0}", 7),
        ("bf16[8,128]{1,0}", 2048),
        ("(s32[2]{0}, f32[3]{0})", 20),
        # Tiles cover batch (8) and channels (3, which become 128).
        ("bf16[8,4,4,3]{3,0,2,1:T(8,128)(2,1)}", 4 * 4 * 8 * 128 * 2),
        # The last dimension in memory is the batch.
        ("f32[8,16,16]{0,2,1:T(8,128)}", 16 * 16 * 128 * 4),
        ("f32[100]{0:T(128)}", 512),
    ],
)
def test_size_of_a_shape(shape, expected):
    assert hlo.size(shape) == expected


def test_bytes_of_each_instruction(program):
    found = {
        each.instruction.name: (each.times, each.read, each.written) for each in program.executed()
    }
    padded, full = 4 * 4 * 8 * 128 * 2, 8 * 4 * 4 * 128 * 2
    assert found == {
        "conv": (1, padded + 3 * 3 * 3 * 128 * 2, full),
        "copied": (1, full, full),
        "more": (5, 2 * 256, 256),
        "less": (5, 8, 1),
        "kernel": (1, 16 * 512 + 1024, 1024),
        "fusion": (1, 1024 + 1024, 1024),
    }


def test_parts_and_causes(program):
    table = moved.tally(program)
    full = 8 * 4 * 4 * 128 * 2
    # The copy, which XLA gave no path, belongs to what it copies.
    assert set(table) == {"VGG", "attention", "rest", "up_3"}
    assert table["VGG"] == {
        "products read": full + 3 * 3 * 3 * 128 * 2,
        "written": full,
        "layouts": 2 * full,
    }
    assert table["attention"] == {"loops": 5 * 768}
    assert table["rest"] == {"loops": 5 * 9}
    assert table["up_3"] == {"elementwise": 3 * 1024, "kernels": 16 * 512 + 2 * 1024}


def test_report_compares_with_xla(tmp_path):
    once = sum(each.read + each.written for each in hlo.Program(PROGRAM).executed())
    path = tmp_path / "step.hlo"
    moved.Compiled(PROGRAM, "a step", 2, once / 0.5, 3 * 2**29).save(path)
    text = moved.report(moved.Compiled.load(path), 3)
    assert "GiB moved per image: a step" in text
    assert text.endswith("0.500 of XLA's own 0.00.\nMemory per chip: 1.50 GiB.")
    assert sum(line.startswith("| 0.0") for line in text.splitlines()) == 3


def test_a_file_of_something_else_is_an_error(tmp_path):
    path = tmp_path / "other.hlo"
    path.write_text("HloModule without our first line")
    with pytest.raises(SystemExit, match=r"other\.hlo .*--hlo takes a file that --save wrote"):
        moved.Compiled.load(path)


def test_count_is_xlas_own():
    def step(x):
        return jax.lax.fori_loop(0, 3, lambda _, y: jnp.sin(y @ y), x)

    compiled = jax.jit(step).lower(np.ones((32, 32), np.float32)).compile()
    executed = list(hlo.Program(compiled.as_text()).executed())
    once = sum(each.read + each.written for each in executed)
    assert once == pytest.approx(compiled.cost_analysis()["bytes accessed"], rel=0.02)
    assert {each.times for each in executed} >= {3}
