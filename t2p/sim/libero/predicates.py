"""What is true in a LIBERO scene: the predicates that its tasks' goals are made of.

A thing is where its body `{name}_main` is, a region is a box site, and two things touch where any contact joins a geom
of group 0 of one with one of the other. Source: LIBERO 8f1084e (envs/predicates, envs/object_states, envs/objects;
released code), whose verdicts are reproduced, oddities included (Quirks.turned_regions).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import mujoco
import numpy as np

from t2p.io import UserError
from t2p.sim.libero.bddl import PREDICATES, Atom, Problem
from t2p.sim.libero.catalog import CATEGORIES, Category
from t2p.sim.libero.contacts import Contacts, Pair
from t2p.sim.libero.names import Handles, handles, moving_joints
from t2p.sim.libero.quirks import Quirks
from t2p.sim.libero.scene import things

NEAR = 0.03  # m, horizontally: so close to the middle of a thing lies what is on it
ON_BELOW, ON_ABOVE = 0.005, 0.10  # m: how far under and over the top of a region lies what is on it
IN_BELOW = 0.01  # m: how far under a region what is in it may be
UP = 1.0  # m

# Which of the joints decide, and on which side of which end of the range that tasks draw their starts from.
_JOINT_RULES: Mapping[str, tuple[Callable, Callable, Callable]] = {
    "open": (np.any, operator.lt, max),
    "close": (np.all, operator.gt, min),
    "turnon": (np.any, operator.ge, min),
    "turnoff": (np.all, operator.lt, max),
}


class Test(Protocol):
    """An atom, looked up in a model."""

    def holds(self, data: mujoco.MjData, touching: np.ndarray) -> bool:
        """touching: see Contacts."""
        ...


@dataclass(frozen=True)
class Goal:
    """Atoms to be judged in one compiled model."""

    atoms: tuple[Atom, ...]
    tests: tuple[Test, ...]
    contacts: Contacts

    def truth(self, data: mujoco.MjData) -> np.ndarray:
        """[atoms] bool, by what `data` holds: after mj_step, joints as the step left them, positions and contacts as it
        found them, which is what the original judges by."""
        touching = self.contacts.touching(data)
        return np.array([test.holds(data, touching) for test in self.tests], bool)

    def holds(self, data: mujoco.MjData) -> bool:
        """Whether all atoms hold: a task's success. `data` as for `truth`."""
        touching = self.contacts.touching(data)
        return all(test.holds(data, touching) for test in self.tests)


def compile_goal(
    model: mujoco.MjModel, problem: Problem, atoms: Iterable[Atom] | None = None, quirks: Quirks | None = None
) -> Goal:
    """A problem's goal, or other atoms about its scene, to be judged in a compiled model of the scene. quirks: None:
    all of the original's.

    UserError for an unknown predicate, for a name that is no thing or region of the scene, and for an atom that makes
    no sense, such as an open plate."""
    found = handles(model, problem)
    contacts = Contacts(model, tuple(instance.geoms for instance in found.instances.values()))
    scene = _Scene(model, problem, found, contacts, (quirks or Quirks()).turned_regions)
    chosen = tuple(problem.goal if atoms is None else atoms)
    return Goal(chosen, tuple(_test(scene, atom) for atom in chosen), contacts)


@dataclass(frozen=True)
class _Scene:
    model: mujoco.MjModel
    problem: Problem
    handles: Handles
    contacts: Contacts
    turned: bool

    def category(self, thing: str) -> Category:
        return CATEGORIES[dict(things(self.problem))[thing]]


# From atoms to tests


def _test(scene: _Scene, atom: Atom) -> Test:
    _check(scene, atom)
    predicate, *names = atom
    if predicate in _JOINT_RULES:
        return _joint_test(scene, predicate, *names)
    instances, sites = scene.handles.instances, scene.handles.sites
    body = instances[names[0]].body
    if predicate == "up":
        return _Up(body)
    if predicate == "in":
        return _In(body, *_box(scene, names[1]), scene.turned)
    if names[1] in sites:
        target = scene.problem.regions[names[1]].target
        touch = scene.contacts.pair(*_numbers(scene, names[0], target)) if target in instances else None
        return _OnRegion(body, *_box(scene, names[1]), scene.turned, touch)
    return _OnThing(body, instances[names[1]].body, scene.contacts.pair(*_numbers(scene, *names)))


def _check(scene: _Scene, atom: Atom) -> None:
    if not atom or atom[0] not in PREDICATES:
        raise UserError(f"unknown predicate in {_show(atom)}; expected one of {', '.join(PREDICATES)}")
    predicate, *names = atom
    if len(names) != PREDICATES[predicate]:
        raise UserError(f"{_show(atom)}: {predicate} takes {PREDICATES[predicate]} names")
    instances, sites = scene.handles.instances, scene.handles.sites
    for name in names:
        if name not in instances and name not in sites:
            known = ", ".join((*instances, *sites))
            raise UserError(f"{_show(atom)}: {name} is no object, fixture or region of this scene; it has {known}")
    if predicate in _JOINT_RULES:
        return
    if names[0] in sites or (predicate == "in" and names[1] in instances):
        expected = {"up": "a thing", "on": "a thing, then a thing or region", "in": "a thing, then a region"}[predicate]
        raise UserError(f"{_show(atom)}: {predicate} takes {expected}")


def _show(atom: Atom) -> str:
    return f"({' '.join(atom)})"


def _box(scene: _Scene, region: str) -> tuple[int, np.ndarray]:
    site = scene.handles.sites[region]
    return site, scene.model.site_size[site].copy()


def _numbers(scene: _Scene, *names: str) -> list[int]:
    order = list(scene.handles.instances)
    return [order.index(name) for name in names]


def _joint_test(scene: _Scene, predicate: str, name: str) -> Test:
    """A thing is judged by all its joints, a region by those of the body that holds it. Of no joints, `any` is false
    and `all` is true: the original's rack is closed and turned off."""
    thing, joints = moving_joints(scene.model, scene.problem, scene.handles, name)
    if thing not in scene.handles.instances or (name == thing and scene.category(thing).kind == "object"):
        raise UserError(f"({predicate} {name}): {predicate} says nothing about {name}")
    ranges = scene.category(thing).articulation
    if len(joints) and predicate not in ranges:
        raise UserError(f"({predicate} {name}): {predicate} says nothing about {name}; it knows {', '.join(ranges)}")
    combine, compare, end = _JOINT_RULES[predicate]
    return _Joints(joints, combine, compare, end(ranges.get(predicate, (0.0, 0.0))))


# The tests


@dataclass(frozen=True)
class _OnThing:
    """thing, target: bodies."""

    thing: int
    target: int
    touch: Pair

    def holds(self, data: mujoco.MjData, touching: np.ndarray) -> bool:
        x, y, z = data.xpos[self.thing] - data.xpos[self.target]
        return bool(z >= 0 and np.hypot(x, y) < NEAR) and self.touch.touch(data, touching)


@dataclass(frozen=True)
class _OnRegion:
    """thing: body; size: [3], half the box's; turned: Quirks.turned_regions; touch: none needed where the region is one
    of the arena's surface."""

    thing: int
    site: int
    size: np.ndarray
    turned: bool
    touch: Pair | None

    def holds(self, data: mujoco.MjData, touching: np.ndarray) -> bool:
        # The original turns the offset by the site's rotation, where its inverse would bring it into the site's frame.
        frame = data.site_xmat[self.site].reshape(3, 3)
        offset = (frame if self.turned else frame.T) @ (data.xpos[self.thing] - data.site_xpos[self.site])
        over = offset[2] - self.size[2]
        if not -ON_BELOW < over < ON_ABOVE or (np.abs(offset[:2]) >= self.size[:2]).any():
            return False
        return self.touch is None or self.touch.touch(data, touching)


@dataclass(frozen=True)
class _In:
    """thing: body; size: [3], half the box's; turned: Quirks.turned_regions."""

    thing: int
    site: int
    size: np.ndarray
    turned: bool

    def holds(self, data: mujoco.MjData, touching: np.ndarray) -> bool:
        # The original turns one corner, so that a turned region does not reach as far as its corners do.
        frame = data.site_xmat[self.site].reshape(3, 3)
        offset = data.xpos[self.thing] - data.site_xpos[self.site]
        reach, offset = (np.abs(frame @ self.size), offset) if self.turned else (self.size, frame.T @ offset)
        return bool((offset < reach).all() and (offset > -reach - (0.0, 0.0, IN_BELOW)).all())


@dataclass(frozen=True)
class _Joints:
    """joints: addresses in qpos."""

    joints: np.ndarray
    combine: Callable
    compare: Callable
    limit: float

    def holds(self, data: mujoco.MjData, touching: np.ndarray) -> bool:
        return bool(self.combine(self.compare(data.qpos[self.joints], self.limit)))


@dataclass(frozen=True)
class _Up:
    """thing: body."""

    thing: int

    def holds(self, data: mujoco.MjData, touching: np.ndarray) -> bool:
        return bool(data.xpos[self.thing, 2] >= UP)
