"""What a compiled program says between devices: collective operations, read from XLA's text of it.

Bytes are of arrays as they are, without the padding of their layout. A loop's body counts as often as it runs, where
the text tells how often; the pieces into which a TPU cuts one asynchronous collective count as one.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


@dataclass(frozen=True)
class Collective:
    """All collectives of one kind over the same axes of the mesh in a step. axes: ("data", "fsdp"), or ("?",) where the
    groups are no axes of the mesh; group: devices that take part together; count: how many; bytes: of the whole array
    that they reduce, gather or move (all of a group's parts together for gathers), summed over `count`."""

    kind: str
    axes: tuple[str, ...]
    group: int
    count: int
    bytes: int

    @property
    def sent(self) -> float:
        """Bytes that each device sends, by the ring algorithm."""
        return ring_bytes(self.kind, self.bytes, self.group)


def ring_bytes(kind: str, size: float, group: int) -> float:
    """Bytes that each of a ring of `group` devices sends. size: of the array, whole. All-reduce is a reduce-scatter and
    an all-gather: 2 (n - 1) / n of it; those two and all-to-all (n - 1) / n; a permute sends it once."""
    if kind == "collective-permute":
        return float(size)
    return (2.0 if kind == "all-reduce" else 1.0) * size * (group - 1) / group


def collectives(text: str, mesh: Mapping[str, int]) -> tuple[Collective, ...]:
    """Those of a compiled program, `compiled.as_text()`, the largest senders first. mesh: {axis: size}."""
    found: Counter[tuple[str, tuple[str, ...], int]] = Counter()
    sizes: Counter[tuple[str, tuple[str, ...], int]] = Counter()
    for line, times, scattered in _lines(text):
        kind = "reduce-scatter" if scattered else line["kind"]
        groups = (
            _pairs(line["rest"]) if kind == "collective-permute" else _groups(line["rest"], math.prod(mesh.values()))
        )
        axes, group = _axes(groups, mesh, pairs=kind == "collective-permute")
        if group > 1:
            size = _size(line["type"], line["kind"], bool(line["start"]), group)
            found[kind, axes, group] += times
            sizes[kind, axes, group] += times * size
    all_of_them = [Collective(*key, count, sizes[key]) for key, count in found.items()]
    return tuple(sorted(all_of_them, key=lambda c: -c.sent))


_OPERATION = re.compile(
    rf"^\s+(?:ROOT )?%?[\w.\-]+ = (?P<type>.+?) (?P<kind>{'|'.join(KINDS)})(?P<start>-start)?\((?P<rest>.*)$"
)
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_CALLED = re.compile(r"(?:calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_LOOP = re.compile(r"condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_TRIPS = re.compile(r'"?known_trip_count"?:\{"?n"?:"?(\d+)')
_LIMIT = re.compile(r"= s(?:32|64)\[\]\S* constant\((\d+)\)")
_ARRAY = re.compile(r"\b[a-z]+\d*[a-z0-9]*\[[\d,]*\]")
_PARTS = re.compile(r"([a-z]+)(\d*)[a-z0-9]*\[([\d,]*)\]")


def _lines(text: str) -> Iterator[tuple[re.Match[str], int, bool]]:
    """-> (a collective, how often it runs, whether it is the inside of a reduce-scatter)."""
    bodies, entry = computations(text)
    seen = set()
    for name, times in times_run(bodies, entry).items():
        for text_line in bodies[name]:
            if not (line := _OPERATION.match(text_line)):
                continue
            channel = re.search(r"channel_id=(\d+)", line["rest"])
            if channel and "chain_id=" in line["rest"]:  # one collective in pieces, between which others run
                if channel[1] in seen:
                    continue
                seen.add(channel[1])
                times = 1
            yield line, times, name.startswith("all-reduce-scatter")


def computations(text: str) -> tuple[dict[str, list[str]], str]:
    """-> ({name: its lines}, the name of the one that the program starts with)."""
    found: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            lines = found[head[2]] = []
            entry = head[2] if head[1] else entry
        else:
            lines.append(line)
    return found, entry


def times_run(bodies: Mapping[str, list[str]], entry: str, skip: frozenset[str] = frozenset()) -> Counter[str]:
    """How often each computation runs in one run of the program, those in `skip` left out with all that they call."""
    times: Counter[str] = Counter()

    def visit(name: str, factor: int) -> None:
        times[name] += factor
        for line in bodies[name]:
            if loop := _LOOP.search(line):
                visit(loop[2], factor * _trips(line, bodies[loop[1]]))
            for called in _called(line):
                if called in bodies and called not in skip:
                    visit(called, factor)

    if entry:
        visit(entry, 1)
    return times


def _called(line: str) -> list[str]:
    branches = _BRANCHES.search(line)
    return _CALLED.findall(line) + ([b.strip(" %") for b in branches[1].split(",")] if branches else [])


def _trips(line: str, condition: list[str]) -> int:
    """How often a loop runs: what XLA says, or the constant that its counter is compared with; 1 where neither."""
    if known := _TRIPS.search(line):
        return int(known[1])
    limits = [int(limit[1]) for text in condition if (limit := _LIMIT.search(text))]
    return limits[0] if len(limits) == 1 and any("direction=LT" in text for text in condition) else 1


def _size(type_: str, kind: str, start: bool, group: int) -> int:
    """Bytes of the whole array, from the type of what the operation gives."""
    size = sum(array_bytes(a) for a in _ARRAY.findall(type_) if not re.fullmatch(r"u\d+\[\]", a))  # not the contexts
    if start and kind == "all-gather":  # (what goes in, what comes out)
        return size * group // (group + 1)
    if start and kind == "collective-permute":
        return size // 2
    return size * group if kind == "reduce-scatter" else size


def array_bytes(array: str) -> int:
    """Of "bf16[3,4]" 24: the array as it is, without its layout's padding."""
    letters, bits, shape = _PARTS.match(array).groups()  # type: ignore[union-attr]
    count = math.prod(int(n) for n in shape.split(",") if n)
    return count if letters == "pred" else count * int(bits or 0) // 8  # tokens have no bits


Groups = list[tuple[int, ...]]


def _groups(rest: str, devices: int) -> Groups:
    """Numbers of the devices that take part together, in each of XLA's three ways of writing them."""
    if lists := re.search(r"replica_groups=\{((?:\{[\d,]*\},?)+)\}", rest):
        return [tuple(map(int, g.split(","))) for g in re.findall(r"\{([\d,]+)\}", lists[1])]
    if iota := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest):
        shape, sizes = (tuple(map(int, iota[i].split(","))) for i in (1, 2))
        order = tuple(map(int, iota[3].split(","))) if iota[3] else tuple(range(len(sizes)))
        return _rows(np.arange(math.prod(sizes)).reshape(sizes).transpose(order).reshape(shape[0], -1))
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", rest):
        return _named_groups(named[1], named[2])
    return [tuple(range(devices))]


def _named_groups(mesh: str, axes: str) -> Groups:
    """mesh: "'a'=4,'b'=2"; axes: "'a'", or "'a':(2)2" for the part of that size of an axis behind a part of 2."""
    sizes = [(name, int(size)) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh)]
    shape: list[int] = []
    taken: list[int] = []
    wanted = {name: (part, size) for name, part, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", axes)}
    for name, size in sizes:
        part, width = wanted.get(name, ("", ""))
        cut = [int(part), int(width), size // (int(part) * int(width))] if part else [size]
        if name in wanted:
            taken.append(len(shape) + (1 if part else 0))
        shape += cut
    devices = np.moveaxis(np.arange(math.prod(shape)).reshape(shape), taken, range(-len(taken), 0))
    return _rows(devices.reshape(-1, math.prod(shape[i] for i in taken)))


def _rows(devices: np.ndarray) -> Groups:
    return [tuple(map(int, row)) for row in devices]


def _pairs(rest: str) -> Groups:
    pairs = re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}", rest)
    return [tuple(map(int, p.split(","))) for p in re.findall(r"\{(\d+,\d+)\}", pairs[1])] if pairs else []


def _axes(groups: Groups, mesh: Mapping[str, int], pairs: bool) -> tuple[tuple[str, ...], int]:
    """-> (the axes of the mesh along which the groups lie, how many devices that is)."""
    wide = [name for name, size in mesh.items() if size > 1]
    if pairs:
        places = [np.unravel_index(list(pair), tuple(mesh.values())) for pair in groups]
        axes = tuple(a for a, name in enumerate(mesh) if any(place[a][0] != place[a][-1] for place in places))
        names = tuple(list(mesh)[a] for a in axes)
        return names, math.prod(mesh[name] for name in names)
    wanted = {frozenset(g) for g in groups}
    grid = np.arange(math.prod(mesh.values())).reshape(tuple(mesh.values()))
    for count in range(1, len(wide) + 1):
        for names in itertools.combinations(wide, count):
            size = math.prod(mesh[name] for name in names)
            along = [list(mesh).index(name) for name in names]
            if {frozenset(r) for r in _rows(np.moveaxis(grid, along, range(-count, 0)).reshape(-1, size))} == wanted:
                return names, size
    return ("?",), max(map(len, groups), default=1)
