"""Demonstrations for new starts from recorded ones: what the hand did near a thing it does again where the thing is now
(MimicGen, Mandlekar et al. 2023, section 4).

A recording is cut into segments, each relative to one anchor: what is going to be moved until the hand has lifted it,
then what it is put on or into (the goal says so), else the world. Drawers, knobs and doors have frames of their own,
by which the hand comes to them; while they move, the fixture that they belong to is the anchor, so that they end where
they ended in the recording wherever they start. A segment's goals of the hand, which are those that the recorded
actions gave the controller, go where its anchor has gone; between segments the hand moves in a straight line.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from t2p.geometry.cameras import invert_transform
from t2p.geometry.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from t2p.io import UserError
from t2p.sim.libero.bddl import Problem
from t2p.sim.libero.experts import LEVER, WAIT, Hand, joint_points
from t2p.sim.libero.names import handles
from t2p.sim.libero.osc import ROTATION, TRANSLATION
from t2p.sim.libero.predicates import compile_goal

WORLD = ""  # an anchor that never moves
SPEED, SPIN = 0.0005, 0.001  # m, rad (or m) a policy step from which on a thing moves, or a joint
PAUSE = 10  # policy steps without motion that do not end it
MOVED, TURNED = 0.02, 0.02  # m, rad (or m) in all that count
RISE, LIFTED = 0.03, 0.8  # m from which on a thing was lifted; the share of its height at which it is carried


@dataclass(frozen=True)
class Recording:
    """A demonstration. actions: [T, 7] (LIBERO's); states: [T, 1 + nq + nv], each before its action; fixtures: {body:
    {"pos": [3], "quat": [4]}} where they stood."""

    actions: np.ndarray
    states: np.ndarray
    fixtures: Mapping[str, Any]


@dataclass(frozen=True)
class Segment:
    """anchor: the name of a thing, region or joint (the part that it moves), or WORLD; pose: [4, 4] where it was when
    the segment began, hand: [4, 4] where the hand was; goals: [n, 4, 4] of the hand; all in the world. grips: [n] the
    gripper's commands."""

    anchor: str
    pose: np.ndarray
    hand: np.ndarray
    goals: np.ndarray
    grips: np.ndarray


@dataclass(frozen=True)
class Source:
    """A recording that is cut. start: {anchor: [4, 4]}, where its segments' anchors stood at its beginning."""

    start: Mapping[str, np.ndarray]
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class _Motion:
    """A thing, or the part that a joint moves, moves from one step to another."""

    name: str
    first: int
    last: int


def cut(model: mujoco.MjModel, problem: Problem, recording: Recording) -> Source:
    """Segments of a recording of the problem. model: of its scene, left as it is. UserError where the states are
    another scene's, or nothing is moved in them."""
    replayed, steps = _Replayed(model, problem, recording), len(recording.actions)
    motions = _handled(replayed)
    if not motions:
        raise UserError("nothing is moved in this recording: there is nothing to adapt")
    spans = list(_spans(replayed, motions, problem))
    ends = [start for _, start in spans[1:]] + [steps]
    segments = [
        Segment(
            anchor,
            replayed.pose(anchor, start),
            replayed.hands[start],
            replayed.goals[start:end],
            recording.actions[start:end, 6],
        )
        for (anchor, start), end in zip(spans, ends, strict=True)
        if end > start
    ]
    start = {s.anchor: replayed.pose(s.anchor, 0) for s in segments if s.anchor != WORLD}
    return Source(start, tuple(segments))


def adapted(
    model: mujoco.MjModel, data: mujoco.MjData, problem: Problem, sources: Sequence[Source]
) -> Iterator[np.ndarray]:
    """Actions [7] for the scene as `data` has it, one for each policy step, like experts.demonstration: those of the
    source whose things stood nearest to where they are now."""
    if not sources:
        raise UserError("there are no recordings to adapt")
    hand = Hand(model, data, handles(model, problem))
    return _follow(hand, min(sources, key=lambda source: _distance(hand, source)))


def solves(model: mujoco.MjModel, problem: Problem, recording: Recording) -> bool:
    """Whether the goal holds in any state of a recording (the last is the one before the last action). UserError as
    for `cut`."""
    replayed, goal = _Replayed(model, problem, recording), compile_goal(model, problem)
    for step in reversed(range(len(recording.states))):
        replayed.show(step)
        mujoco.mj_collision(replayed.hand.model, replayed.hand.data)
        if goal.holds(replayed.hand.data):
            return True
    return False


def _distance(hand: Hand, source: Source) -> float:
    """m in all between the anchors and where they stood in a recording; a rad counts for LEVER."""
    pairs = [(pose_of(hand, name), there) for name, there in source.start.items()]
    shifts = (np.linalg.norm(here[:3, 3] - there[:3, 3]) for here, there in pairs)
    turns = (np.linalg.norm(matrix_to_axis_angle(here[:3, :3] @ there[:3, :3].T)) for here, there in pairs)
    return float(sum(shifts) + LEVER * sum(turns))


def noisy(actions: Iterable[np.ndarray], scale: float, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Actions with Gaussian noise of this standard deviation on the hand's motion, not on the gripper's command
    (MimicGen, 0.05 in its experiments); within [-1, 1]."""
    for action in actions:
        noise = np.append(rng.normal(0.0, scale, 6), 0.0)
        yield np.clip(action + noise, -1, 1)


def _follow(hand: Hand, source: Source) -> Iterator[np.ndarray]:
    grip = float(source.segments[0].grips[0])
    for segment in source.segments:
        begin, *goals = moved(segment, pose_of(hand, segment.anchor))
        yield from hand.move(begin[:3, 3], begin[:3, :3], grip)
        for goal, command in zip(goals, segment.grips, strict=True):
            grip = float(command)
            action = hand.towards(goal[:3, 3], goal[:3, :3], grip, speed=np.inf)
            yield np.clip(action, -1, 1)
    yield from hand.rest(grip, WAIT)


def moved(segment: Segment, pose: np.ndarray) -> np.ndarray:
    """[1 + n, 4, 4] where the hand begins, and the segment's goals, where its anchor has the pose [4, 4]."""
    return pose @ invert_transform(segment.pose) @ np.concatenate([segment.hand[None], segment.goals])


def pose_of(hand: Hand, anchor: str) -> np.ndarray:
    """[4, 4] of a thing, a region, the part that a joint moves, or the world."""
    data, found = hand.data, hand.handles
    if anchor == WORLD:
        return np.eye(4)
    if anchor in found.sites:
        site = found.sites[anchor]
        return _transform(data.site_xpos[site], data.site_xmat[site])
    thing = found.instances.get(anchor)
    body = thing.body if thing else int(hand.model.joint(anchor).bodyid[0])
    return _transform(data.xpos[body], data.xmat[body])


def _transform(position: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = np.reshape(rotation, (3, 3)), position
    return pose


class _Replayed:
    """What there was in each step of a recording. poses: {thing, region or joint: [T, 4, 4]}; joints: {joint: (its
    number, the fixture that it is a part of)}; free: the things without a fixed place; hands, goals: [T, 4, 4]."""

    def __init__(self, model: mujoco.MjModel, problem: Problem, recording: Recording):
        steps, width = len(recording.actions), 1 + model.nq + model.nv
        if recording.states.shape != (steps, width) or recording.actions.shape != (steps, 7) or not steps:
            raise UserError(
                f"a recording of {problem.kind} has actions [T, 7] and states [T, {width}]; got "
                f"{list(recording.actions.shape)} and {list(recording.states.shape)}"
            )
        model = copy.copy(model)  # its fixtures are moved
        bodies = {model.body(number).name for number in range(model.nbody)}
        if unknown := sorted(set(recording.fixtures) - bodies):
            raise UserError(f"the recording has the fixture {unknown[0]!r}, which this scene lacks: another task's?")
        for name, pose in recording.fixtures.items():
            body = model.body(name)
            body.pos, body.quat = pose["pos"], pose["quat"]
        self.qpos = recording.states[:, 1 : 1 + model.nq]
        self.hand = Hand(model, mujoco.MjData(model), handles(model, problem))
        things = self.hand.handles.instances
        self.joints = {model.joint(j).name: (int(j), name) for name, one in things.items() for j in one.joints}
        self.free = [name for name, one in things.items() if len(one.free)]
        anchors = [*things, *self.hand.handles.sites, *self.joints]
        poses, hands, goals = [], [], []
        for step, action in enumerate(recording.actions):
            self.show(step)
            poses.append([pose_of(self.hand, anchor) for anchor in anchors])
            hands.append(_transform(self.hand.position, self.hand.rotation))
            goals.append(_goal(self.hand, action))
        self.poses = dict(zip(anchors, np.swapaxes(poses, 0, 1), strict=True))
        self.hands, self.goals = np.array(hands), np.array(goals)

    def show(self, step: int) -> None:
        """Brings the hand's data to a step."""
        self.hand.data.qpos[:] = self.qpos[step]
        mujoco.mj_kinematics(self.hand.model, self.hand.data)

    def pose(self, anchor: str, step: int) -> np.ndarray:
        return np.eye(4) if anchor == WORLD else self.poses[anchor][step]

    def values(self, joint: str) -> np.ndarray:
        """[T, 1] its positions."""
        return self.qpos[:, self.hand.model.jnt_qposadr[[self.joints[joint][0]]]]

    def reach(self, name: str, step: int) -> float:
        """m from the grip to a thing, or to what a joint moves."""
        self.show(step)
        part = self.joints.get(name)
        points = joint_points(self.hand, part[0]) if part else self.hand.points(name)
        return float(np.linalg.norm(points - self.hand.position, axis=1).min(initial=np.inf))


def _goal(hand: Hand, action: np.ndarray) -> np.ndarray:
    """[4, 4] where an action sends the hand."""
    delta = np.clip(action[:6], -1, 1)
    turn = axis_angle_to_matrix(delta[3:] * ROTATION)
    return _transform(hand.position + delta[:3] * TRANSLATION, turn @ hand.rotation)


def _handled(replayed: _Replayed) -> list[_Motion]:
    """What is moved, in the order of time. Of things that move together it is the one nearest to the hand half-way."""
    tracks = {name: (replayed.poses[name][:, :3, 3], SPEED, MOVED) for name in replayed.free}
    tracks |= {joint: (replayed.values(joint), SPIN, TURNED) for joint in replayed.joints}
    found = [m for name, track in tracks.items() for m in _motions(name, *track)]
    kept: list[_Motion] = []
    for one in sorted(found, key=lambda m: replayed.reach(m.name, (m.first + m.last) // 2)):
        if all(one.last <= other.first or other.last <= one.first for other in kept):
            kept.append(one)
    return sorted(kept, key=lambda m: m.first)


def _motions(name: str, values: np.ndarray, slow: float, enough: float) -> Iterator[_Motion]:
    """Where values [T, d] change by more than `slow` a step, pauses included, if they change by `enough` in all."""
    moving = np.flatnonzero(np.linalg.norm(np.diff(values, axis=0), axis=1) > slow)
    for run in np.split(moving, np.flatnonzero(np.diff(moving) > PAUSE) + 1):
        if len(run) and np.linalg.norm(values[run[0] : run[-1] + 2] - values[run[0]], axis=1).max() > enough:
            yield _Motion(name, int(run[0]), int(run[-1]) + 1)


def _spans(replayed: _Replayed, motions: Sequence[_Motion], problem: Problem) -> Iterator[tuple[str, int]]:
    """(anchor, the step from which on it is the anchor)."""
    places = {thing: place[0] for _, thing, *place in problem.goal if place}
    start = 0
    for motion in motions:
        yield motion.name, start
        if motion.name in replayed.joints:
            yield replayed.joints[motion.name][1], max(motion.first, start)
        else:
            place = places.get(motion.name, WORLD)
            known = place if place in replayed.poses else WORLD
            yield known, max(_carried(replayed.poses[motion.name][:, 2, 3], motion), start)
        start = motion.last


def _carried(heights: np.ndarray, motion: _Motion) -> int:
    """The step from which on a thing is carried: it has LIFTED of its height, or it is pushed and begins to move."""
    above = heights[motion.first : motion.last + 1] - heights[motion.first]
    if above.max() < RISE:
        return motion.first
    return motion.first + int(np.argmax(above >= LIFTED * above.max()))
