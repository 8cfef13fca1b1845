r"""Where the bytes of a training step go, by part of the networks and by cause.

    pip install libtpu==0.0.52
    JAX_OPTIMIZATION_LEVEL=O1 python -m benchmarks.bytes --config=configs/ade20k.py:released \
        --topology=v5e:1x1 --batch=8 [--size=256] [--dtype=bfloat16] [--base-filters=64]
        [--rematerialise=elementwise] [--modulation=plain] [--correlation=auto]
        [--save=step.hlo]
    python -m benchmarks.bytes --hlo=step.hlo [--largest=20]

The first compiles a step for TPUs that need not be there, which takes minutes, and prints the
tables; `--save` keeps the compiled program, and the second makes the tables from it at once. On
more chips, collectives are added, and the optimiser reads the gradients from memory.

The first table says how many GiB per image each part reads and writes, by cause:

- products: what convolutions and matrix products read, and what they write, with all that XLA
  fuses into them;
- elementwise: norms, SPADE's modulation, activations, and all that has no other column;
- padding: reflect padding and its gradient, where it is apart from a convolution;
- sums: statistics of norms, gradients of biases, losses, pooling;
- joins: slices and concatenations alone;
- types: conversions between types alone;
- layouts: copies and transpositions alone;
- kernels: Pallas kernels, whose arguments and results count once;
- collectives: between chips;
- loops: all that loops do, as often as they run.

The second names the largest instructions. The last line compares the sum with XLA's own count,
which takes a loop's body once. Arrays count with the padding of their layout: on TPUs, 3 or 64
channels take as much as 128.
"""

import argparse
import collections
import json
import os
import re
from pathlib import Path
from typing import NamedTuple

from benchmarks import configs, hlo

GIB = 2**30
PRODUCTS_READ, PRODUCTS_WRITTEN = "products read", "written"
CAUSES = (
    *(PRODUCTS_READ, PRODUCTS_WRITTEN, "elementwise", "padding", "sums", "joins", "types"),
    *("layouts", "kernels", "collectives", "loops"),
)
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_PADDING = re.compile(r"reflect_pad|_pad_by_slices|_reflect_pad_backward|_add_edges")
# Operations that move numbers without computing, and those that may come with them.
_NEUTRAL = {"parameter", "tuple", "get-tuple-element", "bitcast", "reshape", "fusion", "constant"}
_LAYOUTS = _NEUTRAL | {"copy", "transpose", "copy-start", "copy-done"}
_TYPES = _LAYOUTS | {"convert", "reduce-precision"}
_JOINS = _TYPES | {
    *("slice", "concatenate", "pad", "maximum", "dynamic-slice", "dynamic-update-slice"),
    *("broadcast", "iota"),
}
# Part of the networks by a module's name in an instruction's path, or by the file that made it.
_MODULES = re.compile(
    r"(?:generator|correspondence)/(?:checkpoint/|rematted_computation/)*"
    r"(\w+_adaptor|features|theta|phi|stem|head|middle_\d|up_\d|attention|to_image)\b"
)
_FILES = (
    ("vgg.py", "VGG"),
    ("discriminator.py", "discriminators"),
    ("losses.py", "losses"),
    ("correspondence.py", "correspondence, rest"),
    ("generator.py", "generator, rest"),
    ("warp.py", "warp"),
    ("model.py", "warp"),
    ("operations.py", "rest"),
    ("state.py", "optimiser"),
)


class Compiled(NamedTuple):
    """A compiled training step.

    Attributes:
      text: the program.
      title: what was compiled, in words.
      images: per chip and step.
      accessed: bytes that XLA says one chip accesses per step.
      memory: bytes that one chip needs, as XLA plans it.
    """

    text: str
    title: str
    images: int
    accessed: float
    memory: int

    def save(self, path: Path) -> None:
        """Writes the program, below one line with the rest."""
        header = self._asdict()
        del header["text"]
        path.write_text(f"// {json.dumps(header)}\n{self.text}")

    @classmethod
    def load(cls, path: Path) -> "Compiled":
        """Reads what `save` wrote.

        Raises:
          SystemExit: it wrote no such file.
        """
        try:
            header, _, text = path.read_text().partition("\n")
            return cls(text=text, **json.loads(header.removeprefix("// ")))
        except (OSError, UnicodeDecodeError, ValueError, TypeError) as error:
            raise SystemExit(
                f"error: cannot read {path} ({error}); --hlo takes a file that --save wrote"
            ) from error


def compile_step(arguments: argparse.Namespace) -> Compiled:
    """Compiles a training step for the devices of `--topology`."""
    import jax

    from cocosnet_jax import compile_check, encode, fit, mesh, partition, state
    from cocosnet_jax.pretrained import vgg
    from cocosnet_jax.settings import from_mapping

    config = configs.load(arguments.config)
    config.data.image_size = config.data.load_size = arguments.size
    config.model.dtype = arguments.dtype
    config.model.rematerialise = arguments.rematerialise
    config.model.modulation = arguments.modulation
    config.model.correlation = arguments.correlation
    config.model.base_filters = arguments.base_filters
    here = arguments.topology == "here"
    devices = jax.devices() if here else compile_check.slice_devices(arguments.topology)
    config.train.batch_size = arguments.batch * len(devices)
    settings = from_mapping(config.to_dict())
    shapes = (
        state.state_shapes(settings),
        jax.eval_shape(lambda: vgg.load("random", settings.vgg.width)),
        encode.batch_shapes(settings.data, settings.train.batch_size),
    )
    step = partition.compile_step(settings, mesh.make(devices), 1000, shapes)
    title = (
        f"{arguments.config}, {arguments.size} x {arguments.size}, {arguments.batch} per chip,"
        f" {arguments.dtype}, {arguments.rematerialise}, {arguments.modulation} modulation,"
        f" {arguments.correlation} correlation, {arguments.topology}"
    )
    accessed = step.cost_analysis()["bytes accessed"]
    _, memory = fit.planned(step)
    return Compiled(step.as_text(), title, arguments.batch, accessed, memory)


def part(program: hlo.Program, executed: hlo.Executed) -> str:
    """The part of the networks that an instruction belongs to."""
    one = _named(executed)
    if found := _MODULES.search(one.op_name):
        return found[1]
    places = program.places(one)
    for place in places:
        for file, name in _FILES:
            if place.file.endswith(f"cocosnet_jax/{file}"):
                return name
    if any(place.function.startswith("apply_gradients") for place in places):
        return "optimiser"
    return "rest"


def _named(executed: hlo.Executed) -> hlo.Instruction:
    """The instruction, or if XLA gave it no path, the nearest one before it that has one."""
    instructions = executed.computation.instructions
    seen: set[str] = set()
    waiting = collections.deque([executed.instruction])
    while waiting and len(seen) < 50:
        one = waiting.popleft()
        seen.add(one.name)
        if "/" in one.op_name:
            return one
        before = [instructions[name] for name in one.operands if name in instructions]
        waiting.extend(each for each in before if each.name not in seen)
    return executed.instruction


def cause(program: hlo.Program, one: hlo.Instruction) -> str:
    """Why an instruction moves bytes: one of `CAUSES`, `PRODUCTS_READ` for all products."""
    if one.opcode.startswith(_COLLECTIVES):
        return "collectives"
    if one.is_kernel:
        return "kernels"
    inside = {each.opcode for each in program.inside(one)}
    if inside & {"convolution", "dot"}:
        return PRODUCTS_READ
    if inside <= _LAYOUTS:
        return "layouts"
    if inside <= _TYPES:
        return "types"
    if any(_PADDING.search(place.function) for place in program.places(one)):
        return "padding"
    if inside & {"reduce", "reduce-window", "select-and-scatter"}:
        return "sums"
    return "joins" if inside <= _JOINS else "elementwise"


def tally(program: hlo.Program) -> dict[str, collections.Counter[str]]:
    """Bytes of a step, by part and cause; what loops do counts as often as they run."""
    table: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for each in program.executed():
        row = table[part(program, each)]
        why = cause(program, each.instruction)
        if each.computation.name != program.entry:
            row["loops"] += each.moved
        elif why == PRODUCTS_READ:
            row[PRODUCTS_READ] += each.read
            row[PRODUCTS_WRITTEN] += each.written
        else:
            row[why] += each.moved
    return table


def report(compiled: Compiled, largest: int) -> str:
    """Both tables, and the comparison with XLA's count, as Markdown."""
    program = hlo.Program(compiled.text)
    unit = GIB * compiled.images
    table = tally(program)
    used = [name for name in CAUSES if any(row[name] for row in table.values())]
    lines = [
        f"GiB moved per image: {compiled.title}",
        "",
        f"| part | all | {' | '.join(used)} |",
        "|---" * (len(used) + 2) + "|",
    ]
    rows = sorted(table.items(), key=lambda item: -item[1].total())
    whole: collections.Counter[str] = collections.Counter()
    for _, row in rows:
        whole.update(row)
    for name, row in [*rows, ("**all**", whole)]:
        cells = [row.total(), *(row[column] for column in used)]
        lines.append(f"| {name} | {' | '.join(f'{cell / unit:.2f}' for cell in cells)} |")
    executed = sorted(program.executed(), key=lambda each: -each.moved)
    lines += ["", "| GiB | times | part | cause | result | made by |", "|---" * 6 + "|"]
    for each in executed[:largest]:
        why = cause(program, each.instruction).removesuffix(" read")
        places = program.places(each.instruction)
        by = next((p.function for p in places if "cocosnet_jax" in p.file), "XLA")
        shape = re.sub(r"\{[^}]*\}", "", each.instruction.shape)
        backward = "backward" if "transpose(" in _named(each).op_name else "forward"
        lines.append(
            f"| {each.moved / unit:.3f} | {each.times} | {part(program, each)}, {backward} | {why}"
            f" | {shape[:60]} | {by} |"
        )
    once = sum(each.read + each.written for each in executed)
    lines += [
        "",
        f"With the body of each loop once: {once / unit:.2f} GiB per image,"
        f" {once / compiled.accessed:.3f} of XLA's own {compiled.accessed / unit:.2f}.",
        f"Memory per chip: {compiled.memory / 2**30:.2f} GiB.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Compiles or reads, and prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/ade20k.py:released")
    parser.add_argument("--topology", default="v5e:1x1", help="a TPU slice, or `here`")
    parser.add_argument("--batch", type=int, default=8, help="images per chip")
    parser.add_argument("--size", type=int, default=256, help="side of the pictures")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    kinds = ("nothing", "elementwise", "blocks")
    parser.add_argument("--rematerialise", choices=kinds, default="elementwise")
    parser.add_argument("--modulation", choices=("plain", "pallas"), default="plain")
    parser.add_argument("--correlation", choices=("auto", "pallas"), default="auto")
    parser.add_argument("--base-filters", type=int, default=64)
    parser.add_argument("--save", type=Path, help="file for the compiled program")
    parser.add_argument("--hlo", type=Path, help="a file that --save wrote, instead of compiling")
    parser.add_argument("--largest", type=int, default=12, help="how many instructions to name")
    arguments = parser.parse_args()
    if arguments.hlo:
        compiled = Compiled.load(arguments.hlo)
    else:
        # The program's text must name the functions that made it: a kept program does not.
        os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
        compiled = compile_step(arguments)
        if arguments.save:
            compiled.save(arguments.save)
    print(report(compiled, arguments.largest))


if __name__ == "__main__":
    main()
