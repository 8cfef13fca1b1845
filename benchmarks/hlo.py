"""Reads the text of a compiled program (HLO): its instructions, and the bytes that each moves.

The count follows XLA's own (`cost_analysis()["bytes accessed"]`): an instruction reads its
operands and writes its result once each. A fusion is one instruction: what happens inside it moves
nothing, and of an operand that is only sliced inside it reads the slices. XLA counts a loop's body
once; here it counts as often as it runs, where the program says so.
"""

import math
import re
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

_WIDTHS = {"pred": 8, "token": 0, "opaque": 0}
_ARRAY = re.compile(r"([a-z]+\d*\w*)\[([\d,]*)\](?:\{([\d,]*)(?::T\(([\d,]+)\))?)?")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = ")
_OPCODE = re.compile(r" ([a-z][\w\-]*)\(")
_TABLES = ("FileNames", "FunctionNames", "FileLocations", "StackFrames")
# These name, alias or group arrays, and move no bytes.
_FREE = frozenset(
    (
        *("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all"),
        *("partition-id", "replica-id", "opt-barrier", "add-dependency"),
    )
)
_SLICES = frozenset(("slice", "dynamic-slice", "gather"))


def size(shape: str) -> int:
    """Bytes of a shape such as `bf16[8,128]{1,0:T(8,128)}`, or of all arrays of a tuple.

    A layout with tiles, as those of TPUs, pads the array to whole tiles.
    """
    total = 0
    for kind, sides, order, tile in _ARRAY.findall(shape):
        bits = _WIDTHS.get(kind)
        if bits is None:
            found = re.match(r"[a-z]+(\d+)", kind)
            bits = int(found[1]) if found else 8
        lengths = [int(side) for side in sides.split(",") if side]
        if tile:
            # The tile covers the dimensions that change fastest, which `order` names first.
            lengths = [lengths[int(i)] for i in order.split(",") if i][::-1]
            tiles = [int(side) for side in tile.split(",")]
            lengths = [1] * (len(tiles) - len(lengths)) + lengths
            for i, side in enumerate(tiles, len(lengths) - len(tiles)):
                lengths[i] = -(-lengths[i] // side) * side
        total += math.prod(lengths) * bits // 8
    return total


class Instruction(NamedTuple):
    """One instruction.

    Attributes:
      name, shape, opcode: as in the text; the shape with its layout.
      operands: names of the instructions that it reads.
      rest: the text behind the operands: attributes, metadata.
      root: whether its computation returns it.
    """

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    rest: str
    root: bool

    def called(self, attribute: str) -> str:
        """Name of the computation that this attribute names, or an empty string."""
        found = re.search(rf"[ ,]{attribute}=%?([\w.\-]+)", self.rest)
        return found[1] if found else ""

    @property
    def is_kernel(self) -> bool:
        """Whether it is a Pallas kernel for TPUs."""
        return 'custom_call_target="tpu_custom_call"' in self.rest

    @property
    def op_name(self) -> str:
        """The path of modules and transformations that JAX gave to it."""
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return found[1] if found else ""


class Place(NamedTuple):
    """A Python function, by the path of its file and its qualified name."""

    file: str
    function: str


class Computation(NamedTuple):
    """A list of instructions: the entry, the body of a loop, or what a fusion fuses."""

    name: str
    instructions: dict[str, Instruction]

    @property
    def root(self) -> Instruction:
        return next(one for one in self.instructions.values() if one.root)


class Executed(NamedTuple):
    """An instruction that the program executes.

    Attributes:
      instruction: of the entry, or of a loop's body or a branch.
      computation: that it belongs to.
      times: how often it is executed.
      read, written: bytes per execution.
    """

    instruction: Instruction
    computation: Computation
    times: int
    read: int
    written: int

    @property
    def moved(self) -> int:
        """Bytes of all executions."""
        return self.times * (self.read + self.written)


class Program:
    """A compiled program."""

    def __init__(self, text: str) -> None:
        self.computations: dict[str, Computation] = {}
        self._tables: dict[str, dict[int, str]] = {name: {} for name in _TABLES}
        self.entry = ""
        current, table = None, None
        for line in text.splitlines():
            if line in _TABLES:
                table = self._tables[line]
            elif table is not None and (row := re.match(r"(\d+) (.*)", line)):
                table[int(row[1])] = row[2]
            elif begins := _COMPUTATION.match(line):
                current, table = Computation(begins[2], {}), None
                self.computations[current.name] = current
                if begins[1]:
                    self.entry = current.name
            elif current is not None and (found := _parse(line)):
                current.instructions[found.name] = found
        if not self.entry:
            raise ValueError("the text has no ENTRY computation")

    def executed(self) -> Iterator[Executed]:
        """Yields the instructions that are executed, those of loops and branches included."""
        yield from self._executed(self.computations[self.entry], 1)

    def _executed(self, computation: Computation, times: int) -> Iterator[Executed]:
        for one in computation.instructions.values():
            if one.opcode == "while":
                body, condition = one.called("body"), one.called("condition")
                trips = times * self._trips(one)
                yield from self._executed(self.computations[body], trips)
                yield from self._executed(self.computations[condition], trips)
            elif one.opcode == "call":
                yield from self._executed(self.computations[one.called("to_apply")], times)
            elif one.opcode == "conditional":
                # Which branch is taken is not known: the one that moves the most counts.
                names = re.findall(r"%([\w.\-]+)", re.sub(r".*branch_computations={", "", one.rest))
                if branches := [n for n in names if n in self.computations]:
                    each = [list(self._executed(self.computations[n], times)) for n in branches]
                    yield from max(each, key=lambda found: sum(e.moved for e in found))
            elif one.opcode not in _FREE:
                yield Executed(one, computation, times, *self._bytes(one, computation))

    def _trips(self, loop: Instruction) -> int:
        """Iterations of a loop, 1 if the text does not tell."""
        if known := re.search(r'known_trip_count":\{"n":"(\d+)"', loop.rest):
            return int(known[1])
        condition = self.computations[loop.called("condition")]
        constants = [
            int(found[1])
            for one in condition.instructions.values()
            if (found := re.match(r"constant\((\d+)\)", f"{one.opcode}({one.rest}"))
        ]
        return constants[0] if len(constants) == 1 else 1

    def _bytes(self, one: Instruction, computation: Computation) -> tuple[int, int]:
        """Bytes that an instruction reads and writes."""
        # A kernel that is given one array twice reads other parts of it.
        operands = dict.fromkeys(one.operands) if one.is_kernel else one.operands
        shapes = [
            computation.instructions[name].shape
            for name in operands
            if name in computation.instructions
        ]
        written = size(one.shape)
        if one.opcode in _SLICES:
            return written, written
        if one.opcode == "dynamic-update-slice":
            return size(shapes[1]), size(shapes[1])
        if one.opcode.endswith(("-done", "-update")):
            return 0, 0
        if one.opcode.endswith("-start"):
            # The result holds the operands, too.
            read = sum(map(size, shapes))
            return read, max(written - read, 0) if one.opcode != "all-reduce-start" else written
        if one.opcode != "fusion":
            return sum(map(size, shapes)), written
        fused = self.computations[one.called("calls")]
        parameters = {
            int(re.match(r"(\d+)", each.rest)[1]): each.name  # type: ignore[index]
            for each in fused.instructions.values()
            if each.opcode == "parameter"
        }
        read = sum(
            self._used(fused, parameters[index], size(shape)) for index, shape in enumerate(shapes)
        )
        return read, written - self._kept(fused, fused.root)

    def _used(self, fused: Computation, name: str, whole: int) -> int:
        """Bytes that are read of a fusion's parameter of `whole` bytes."""
        total = 0
        for user in fused.instructions.values():
            if name not in user.operands:
                continue
            if user.opcode in _SLICES and user.operands[0] == name:
                total += size(user.shape)
            elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
                continue  # Written in place.
            elif user.opcode == "bitcast" and not user.root:
                total += self._used(fused, user.name, whole)
            elif user.opcode == "fusion":
                inner = self.computations[user.called("calls")]
                for index, operand in enumerate(user.operands):
                    if operand == name:
                        parameter = next(
                            each.name
                            for each in inner.instructions.values()
                            if each.opcode == "parameter" and each.rest.startswith(f"{index})")
                        )
                        total += self._used(inner, parameter, whole)
            else:
                return whole
        return min(total, whole)

    def _kept(self, fused: Computation, root: Instruction) -> int:
        """Bytes of a fusion's result that it leaves as they were: all but the slices it updates."""
        if root.opcode == "tuple":
            return sum(self._kept(fused, fused.instructions[name]) for name in root.operands)
        if root.opcode == "bitcast":
            return self._kept(fused, fused.instructions[root.operands[0]])
        if root.opcode != "dynamic-update-slice":
            return 0
        return size(root.shape) - size(fused.instructions[root.operands[1]].shape)

    def inside(self, one: Instruction) -> Iterator[Instruction]:
        """Yields an instruction and, for a fusion, the instructions that it fuses."""
        yield one
        if one.opcode == "fusion":
            for each in self.computations[one.called("calls")].instructions.values():
                yield from self.inside(each)

    @cached_property
    def _frames(self) -> dict[int, tuple[Place, int]]:
        """Stack frame -> where in Python it is, and the frame that called it."""
        files, functions = (
            {number: text.strip('"') for number, text in self._tables[name].items()}
            for name in ("FileNames", "FunctionNames")
        )
        places = {number: _numbers(text) for number, text in self._tables["FileLocations"].items()}
        frames = {}
        for number, text in self._tables["StackFrames"].items():
            frame = _numbers(text)
            place = places[frame["file_location_id"]]
            where = Place(files[place["file_name_id"]], functions[place["function_name_id"]])
            # This field is the caller's number plus 1, and 1 if there is no caller.
            frames[number] = where, frame.get("parent_frame_id", 1) - 1
        return frames

    def places(self, one: Instruction) -> list[Place]:
        """The Python functions that made an instruction, the innermost first."""
        found = re.search(r"stack_frame_id=(\d+)", one.rest)
        frame = int(found[1]) if found else 0
        places: list[Place] = []
        while frame in self._frames:
            place, frame = self._frames[frame]
            places.append(place)
        return places


def _numbers(text: str) -> dict[str, int]:
    return {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", text)}


def _parse(line: str) -> Instruction | None:
    """Parses one instruction; None for other lines."""
    found = _INSTRUCTION.match(line)
    if not found:
        return None
    text = line[found.end() - 1 :]
    opcode = _OPCODE.search(text)
    if not opcode:
        return None
    depth, end = 1, opcode.end()
    while depth and end < len(text):
        depth += {"(": 1, ")": -1}.get(text[end], 0)
        end += 1
    inner = text[opcode.end() : end - 1]
    operands = tuple(re.findall(r"%([\w.\-]+)", inner))
    rest = inner + text[end - 1 :] if opcode[1] in ("parameter", "constant") else text[end:]
    return Instruction(
        found[2], text[1 : opcode.start()], opcode[1], operands, rest, bool(found[1])
    )
