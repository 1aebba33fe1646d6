"""How many bytes a compiled program moves between a device and its memory, read from XLA's text of it.

An operation reads its operands and writes its result, a fusion likewise and nothing between. Arrays that XLA keeps in
on-chip memory (layouts that end in S(1)) cost nothing, of an array that is sliced or updated in place only the slice
counts, and a loop's body counts as often as it runs; XLA's own count ("bytes accessed") takes it once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from t2p.train.hlo import array_bytes, computations, times_run

_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.+?) ([\w\-]+)\(([^)]*)\)")
_CALLS = re.compile(r"calls=%?([\w.\-]+)")
_PLACED = re.compile(r"([a-z]+\d*[a-z0-9]*\[[\d,]*\])(\{[^}]*\})?")
# Names for what is there already, control flow (whose bodies are visited themselves) and what only waits.
_FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "while", "conditional", "call"}
_FREE |= {"after-all", "partition-id", "replica-id", "iota", "opt-barrier"}
_SLICES = ("dynamic-slice", "slice", "gather")


@dataclass(frozen=True)
class Instruction:
    name: str
    kind: str
    bytes: int  # of that part of the result that lies in the device's own memory
    whole: int  # of all of it
    operands: tuple[str, ...]
    calls: str
    number: str  # of a parameter
    root: bool


Program = Mapping[str, Mapping[str, Instruction]]


def memory_traffic(text: str) -> int:
    """Bytes that each device reads and writes in one run of a compiled program, `compiled.as_text()`."""
    lines, entry = computations(text)
    program = {name: _instructions(body) for name, body in lines.items()}
    fused = {i.calls for body in program.values() for i in body.values() if i.kind == "fusion"}
    runs = times_run(lines, entry, skip=frozenset(fused))
    return sum(n * sum(_moved(i, program[name], program) for i in program[name].values()) for name, n in runs.items())


def _instructions(lines: list[str]) -> dict[str, Instruction]:
    found = {}
    for line in lines:
        if m := _INSTRUCTION.match(line):
            calls = _CALLS.search(line)
            operands = tuple(re.findall(r"%([\w.\-]+)", m[5]))
            sizes = [(array_bytes(array), "S(" in layout) for array, layout in _PLACED.findall(m[3])]
            own, whole = sum(size for size, elsewhere in sizes if not elsewhere), sum(size for size, _ in sizes)
            called = calls[1] if calls else ""
            found[m[2]] = Instruction(m[2], m[4], own, whole, operands, called, m[5], bool(m[1]))
    return found


def _moved(i: Instruction, body: Mapping[str, Instruction], program: Program) -> int:
    if i.kind in _FREE or i.kind.endswith("-done"):
        return 0
    if i.kind.endswith("-start"):  # the type holds what goes in and what comes out
        return i.bytes
    if i.kind in _SLICES:
        return 2 * i.bytes
    if i.kind == "dynamic-update-slice":
        return 2 * _size(body, i.operands[1])
    if i.kind == "fusion" and i.calls in program:
        inner = program[i.calls]
        reads = sum(min(_size(body, x), _read(inner, n, program)) for n, x in enumerate(i.operands))
        return reads + min(i.bytes, _written(inner, program))
    return i.bytes + sum(_size(body, x) for x in i.operands)


def _size(body: Mapping[str, Instruction], name: str) -> int:
    return body[name].bytes if name in body else 0


def _read(inner: Mapping[str, Instruction], number: int, program: Program) -> int:
    """Bytes that a fusion reads of its operand: of what it only slices the slices, of what it updates in place none."""
    everything = 2**62
    source = [i for i in inner.values() if i.kind == "parameter" and i.number == str(number)]
    if not source:
        return everything
    total, names = 0, [source[0].name]
    while names:
        name = names.pop()
        for user in (i for i in inner.values() if name in i.operands):
            if user.kind == "bitcast":
                names.append(user.name)
            elif user.kind in _SLICES and user.operands[0] == name:
                total += user.whole
            elif user.kind == "dynamic-update-slice" and user.operands[0] == name:
                continue
            elif user.kind == "fusion" and user.calls in program:
                total += sum(_read(program[user.calls], n, program) for n, x in enumerate(user.operands) if x == name)
            else:
                return everything
    return total


def _written(inner: Mapping[str, Instruction], program: Program) -> int:
    """Bytes that a fusion writes: of a root that updates in place the update alone."""
    root = next((i for i in inner.values() if i.root), None)
    while root is not None and root.kind == "bitcast" and root.operands[0] in inner:
        root = inner[root.operands[0]]
    if root is None or root.kind != "dynamic-update-slice" or root.operands[1] not in inner:
        return 2**62
    return inner[root.operands[1]].whole
