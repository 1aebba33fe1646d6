"""LIBERO's task files: the part of BDDL (s-expressions, after PDDL) that its 130 tasks are written in.

A file names the objects and fixtures of a scene, the regions in which they start, and the atoms of start and goal.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from t2p.io import UserError

# Predicates and how many arguments each takes (LIBERO, bddl_base_domain: envs/predicates).
PREDICATES = {"on": 2, "in": 2, "open": 1, "close": 1, "turnon": 1, "turnoff": 1, "up": 1}

Atom = tuple[str, ...]
Named = tuple[tuple[str, str], ...]
Rectangle = tuple[float, float, float, float]

_GROUPS = (":domain", ":language", ":regions", ":fixtures", ":objects", ":obj_of_interest", ":init", ":goal")


@dataclass(frozen=True)
class Region:
    """A place on or in a target. name: TARGET_rname; ranges: rectangles (x0, y0, x1, y1) in metres, none where it is a
    site of that name in the target's own model; yaw: (low, high), rad, for fixtures; rgba: of its site."""

    name: str
    target: str
    ranges: tuple[Rectangle, ...] = ()
    yaw: tuple[float, float] = (0.0, 0.0)
    rgba: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 0.0)


@dataclass(frozen=True)
class Problem:
    """A task file. kind: its problem class, such as libero_floor_manipulation; language: its own sentence, lower case;
    regions: by full name; fixtures (arena surface included) and objects: (name, category), categories in order of
    appearance; interest: names; init, goal: atoms (predicate, name, ...), of which a goal needs all."""

    kind: str
    language: str
    regions: Mapping[str, Region]
    fixtures: Named
    objects: Named
    interest: tuple[str, ...]
    init: tuple[Atom, ...]
    goal: tuple[Atom, ...]


@dataclass(frozen=True)
class _Node:
    """A word, or a list of nodes; and the line it begins in."""

    line: int
    value: str | tuple[_Node, ...]

    @property
    def word(self) -> str:
        if isinstance(self.value, str):
            return self.value
        raise _error(self.line, f"a word was expected, not the list {_show(self)}")

    @property
    def items(self) -> tuple[_Node, ...]:
        if isinstance(self.value, tuple):
            return self.value
        raise _error(self.line, f"a list in brackets was expected, not {self.value!r}")

    @property
    def head(self) -> str:
        """The list's first word."""
        if not self.items:
            raise _error(self.line, "an empty list stands where a named one was expected")
        return self.items[0].word


def parse(text: str) -> Problem:
    """The problem that a task file's text describes; a UserError with the line where it cannot be read.

    Source: LIBERO's bddl files and their parser (released code, bddl_utils and bddl_base_domain)."""
    top = _read(text)
    if top.head != "define":
        raise _error(top.line, f"the file must be one (define ...), not ({top.head} ...)")
    groups = _groups(top)
    regions = {r.name: r for r in map(_region, groups[":regions"].items[1:])}
    fixtures, objects = _named(groups[":fixtures"]), _named(groups[":objects"])
    known = dict(fixtures) | dict(objects)
    goal = groups[":goal"].items[1:]
    if len(goal) != 1 or goal[0].head != "and":
        raise _error(groups[":goal"].line, "the goal must be one (And (...) ...)")
    # Some of the files keep regions of things that their scene no longer holds; no atom may use those.
    names = {*known, *(r.name for r in regions.values() if r.target in known)}
    return Problem(
        kind=groups["problem"].items[1].word,
        language=" ".join(node.word for node in groups[":language"].items[1:]),
        regions=regions,
        fixtures=fixtures,
        objects=objects,
        interest=tuple(node.word for node in groups[":obj_of_interest"].items[1:]),
        init=tuple(_atom(node, names) for node in groups[":init"].items[1:]),
        goal=tuple(_atom(node, names) for node in goal[0].items[1:]),
    )


def _error(line: int, what: str) -> UserError:
    return UserError(f"task file, line {line}: {what}")


def _show(node: _Node) -> str:
    inner = node.value if isinstance(node.value, str) else f"({' '.join(map(_show, node.value))})"
    return inner if len(inner) <= 60 else inner[:57] + "..."


def _tokens(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.lower().splitlines(), 1):
        for token in re.findall(r"[()]|[^\s()]+", line.split(";")[0]):
            yield number, token


def _read(text: str) -> _Node:
    """The file's single top-level list."""
    open_lists: list[tuple[int, list[_Node]]] = []
    done: _Node | None = None
    for line, token in _tokens(text):
        if done is not None:
            raise _error(line, f"{token!r} follows after the end of (define ...)")
        if token == "(":
            open_lists.append((line, []))
            continue
        if not open_lists:
            raise _error(line, f"{token!r} stands outside of (define ...)")
        if token != ")":
            open_lists[-1][1].append(_Node(line, token))
            continue
        start, items = open_lists.pop()
        node = _Node(start, tuple(items))
        if open_lists:
            open_lists[-1][1].append(node)
        else:
            done = node
    if open_lists:
        raise _error(open_lists[-1][0], "the list that begins here is never closed; was the file cut off?")
    if done is None:
        raise UserError("the task file is empty; expected (define (problem ...) ...)")
    return done


def _groups(top: _Node) -> dict[str, _Node]:
    found: dict[str, _Node] = {}
    for node in top.items[1:]:
        name = node.head
        if name != "problem" and name not in _GROUPS:
            raise _error(node.line, f"unknown group {name}; expected problem, {', '.join(_GROUPS)}")
        if name in found:
            raise _error(node.line, f"{name} appears twice")
        found[name] = node
    missing = [name for name in ("problem", *_GROUPS) if name not in found and name != ":domain"]
    if missing:
        raise _error(top.line, f"the task file has no {', '.join(missing)}")
    if len(found["problem"].items) != 2:
        raise _error(found["problem"].line, "(problem NAME) must have one name")
    return found


def _named(group: _Node) -> Named:
    """`n1 n2 - category ...` as pairs, a category's names together where it first appears."""
    by_category: dict[str, list[str]] = {}
    waiting: list[str] = []
    items = iter(group.items[1:])
    for node in items:
        if node.word != "-":
            waiting.append(node.word)
            continue
        category = next(items, None)
        if category is None or not waiting:
            raise _error(node.line, f"{group.head}: '-' must stand between names and their category")
        by_category.setdefault(category.word, []).extend(waiting)
        waiting = []
    if waiting:
        raise _error(group.items[-1].line, f"{group.head}: {', '.join(waiting)} has no category (NAME - CATEGORY)")
    pairs = tuple((name, category) for category, names in by_category.items() for name in names)
    if len(dict(pairs)) < len(pairs):
        raise _error(group.line, f"{group.head} gives a name twice")
    return pairs


def _region(node: _Node) -> Region:
    name, fields = node.head, {field.head: field for field in node.items[1:]}
    unknown = fields.keys() - {":target", ":ranges", ":yaw_rotation", ":rgba"}
    if ":target" not in fields or unknown:
        problem = f"unknown field {', '.join(sorted(unknown))}" if unknown else "no :target"
        raise _error(node.line, f"region {name} has {problem}; expected :target, :ranges, :yaw_rotation, :rgba")
    target = _values(fields[":target"], 1)[0].word
    extra: dict = {}
    if ":ranges" in fields:
        extra["ranges"] = tuple(_numbers(r, 4) for r in _values(fields[":ranges"], 1)[0].items)
    if ":yaw_rotation" in fields:
        extra["yaw"] = _numbers(_values(_values(fields[":yaw_rotation"], 1)[0], 1, start=0)[0], 2)
    if ":rgba" in fields:
        extra["rgba"] = _numbers(_values(fields[":rgba"], 1)[0], 4)
    return Region(f"{target}_{name}", target, **extra)


def _values(node: _Node, count: int, start: int = 1) -> tuple[_Node, ...]:
    values = node.items[start:]
    if len(values) != count:
        raise _error(node.line, f"{_show(node)} has {len(values)} values, expected {count}")
    return values


def _numbers(node: _Node, count: int) -> tuple:
    try:
        return tuple(float(value.word) for value in _values(node, count, start=0))
    except ValueError as e:
        if isinstance(e, UserError):
            raise
        raise _error(node.line, f"{_show(node)} must be {count} numbers") from e


def _atom(node: _Node, names: set[str]) -> Atom:
    atom = tuple(item.word for item in node.items)
    if node.head not in PREDICATES:
        raise _error(node.line, f"unknown predicate {atom[0]!r}; expected one of {', '.join(PREDICATES)}")
    if len(atom) != 1 + PREDICATES[atom[0]]:
        raise _error(node.line, f"{atom[0]} takes {PREDICATES[atom[0]]} names; got {_show(node)}")
    for name in atom[1:]:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise _error(node.line, f"{_show(node)}: {name} is no object, fixture or region{hint}")
    return atom
