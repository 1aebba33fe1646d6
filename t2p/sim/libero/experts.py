"""Scripted demonstrations of LIBERO's tasks by one who sees where everything is: picking up and putting down, pulling
drawers open, turning knobs.

A script is a generator of actions: asked for the next one, it looks at the simulation as it is then. All heights,
speeds and distances are chosen here; the original's demonstrations were given by hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import mujoco
import numpy as np

from t2p.geometry.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from t2p.io import UserError
from t2p.sim.libero.bddl import Atom, Problem
from t2p.sim.libero.catalog import CATEGORIES
from t2p.sim.libero.grasps import find_grasp, points_of
from t2p.sim.libero.names import Handles, handles
from t2p.sim.libero.osc import ROTATION, TRANSLATION
from t2p.sim.libero.scene import things

OPEN, HOLD, CLOSE = -1.0, 0.0, 1.0
HALF_STEPS, GRIP_STEPS, RELEASE_STEPS, WAIT = 4, 10, 8, 20  # policy steps: to half open, to close, to open, at the end
SPEED, SLOW = 0.9, 0.35  # of the largest action; against a drawer's resistance
NEAR, NEAR_ANGLE, LEVER = 0.006, 0.05, 0.1  # m, rad: a pose is reached; m that a rad counts for
PATIENCE, STUCK, PROGRESS = 60, 8, 0.001  # policy steps: in all, and those that bring the pose no PROGRESS (m) nearer
ABOVE = 0.07  # m: from so far above things are taken
CARRY, BESIDE = 0.04, 0.12  # m: over all that is so near to the way, things are carried
DROP, HOVER = 0.015, 0.02  # m over what things are put on; of the hand over what they are put in
TRIES = 3
BACK, FRONT = 0.10, 0.02  # m: from so far a handle is taken; so deep is one
PULL, TURN = 0.03, 0.4  # m, rad beyond what is asked for
TILT = np.deg2rad(70)  # of the hand, up from looking down, where it takes a drawer's handle


@dataclass(frozen=True)
class Hand:
    """The gripper in its scene."""

    model: mujoco.MjModel
    data: mujoco.MjData
    handles: Handles

    @property
    def position(self) -> np.ndarray:
        return self.data.site_xpos[self.handles.arm.site].copy()

    @property
    def rotation(self) -> np.ndarray:
        return self.data.site_xmat[self.handles.arm.site].reshape(3, 3).copy()

    def points(self, *names: str) -> np.ndarray:
        """[n, 3] of things."""
        geoms = [self.handles.instances[name].geoms for name in names]
        return points_of(self.model, self.data, np.concatenate([np.zeros(0, int), *geoms]))

    def others(self, thing: str) -> np.ndarray:
        return self.points(*(name for name in self.handles.instances if name != thing))

    def where(self, thing: str) -> np.ndarray:
        return self.data.xpos[self.handles.instances[thing].body].copy()

    def towards(self, position: np.ndarray, rotation: np.ndarray, grip: float, speed: float = SPEED) -> np.ndarray:
        """[7] the action that goes straight to a pose. speed: share of the largest action."""
        turn = matrix_to_axis_angle(rotation @ self.rotation.T)
        parts = (position - self.position) / TRANSLATION, turn / ROTATION
        return np.array([*(x for part in parts for x in part * min(1.0, speed / max(_length(part), 1e-9))), grip])

    def move(
        self, position: np.ndarray, rotation: np.ndarray, grip: float, speed: float = SPEED
    ) -> Iterator[np.ndarray]:
        """Until the pose is reached, or comes no nearer."""
        nearest, since = np.inf, 0
        for _ in range(PATIENCE):
            away, turned = _length(position - self.position), _length(matrix_to_axis_angle(rotation @ self.rotation.T))
            if away < NEAR and turned < NEAR_ANGLE:
                return
            left = away + LEVER * turned
            nearest, since = (left, 0) if left < nearest - PROGRESS else (nearest, since + 1)
            if since > STUCK:
                return
            yield self.towards(position, rotation, grip, speed)

    def rest(self, grip: float, steps: int) -> Iterator[np.ndarray]:
        position, rotation = self.position, self.rotation
        for _ in range(steps):
            yield self.towards(position, rotation, grip)


def demonstration(model: mujoco.MjModel, data: mujoco.MjData, problem: Problem) -> Iterator[np.ndarray]:
    """Actions [7] (`ActionSpec`'s osc_delta, in the world's axes), one for each policy step of the environment whose
    state `data` is, until the goal should be reached. It knows on, in, open of a drawer and turnon; UserError for a
    goal that needs more."""
    for atom in problem.goal:
        if atom[0] not in ("on", "in", "open", "turnon"):
            raise UserError(f"there is no script for the goal ({' '.join(atom)})")
    return _script(Hand(model, data, handles(model, problem)), problem)


def _script(hand: Hand, problem: Problem) -> Iterator[np.ndarray]:
    for atom in problem.goal:
        if atom[0] == "open":
            yield from pull_open(hand, *_part(hand, problem, atom))
        elif atom[0] == "turnon":
            yield from turn(hand, *_part(hand, problem, atom))
        else:
            yield from pick_and_place(hand, problem, atom)
    yield from hand.rest(OPEN, WAIT)


def _part(hand: Hand, problem: Problem, atom: Atom) -> tuple[int, float]:
    """The joint that decides an atom about a region or thing, and the end of the range that makes it true."""
    predicate, name = atom
    instances = hand.handles.instances
    thing = name if name in instances else problem.regions[name].target
    joints = instances[thing].joints
    if name != thing:
        joints = joints[hand.model.jnt_bodyid[joints] == hand.model.site_bodyid[hand.handles.sites[name]]]
    low, high = CATEGORIES[dict(things(problem))[thing]].articulation[predicate]
    return int(joints[0]), high if predicate == "open" else low


def _length(vector: np.ndarray) -> float:
    return float(np.sqrt(vector @ vector))


# Picking up and putting down


def pick_and_place(hand: Hand, problem: Problem, atom: Atom) -> Iterator[np.ndarray]:
    predicate, thing, place = atom
    if predicate == "in" and _holder_joints(hand, problem, place):
        yield from pull_open(hand, *_part(hand, problem, ("open", place)))
    yield from pick(hand, thing)
    if place in hand.handles.instances:
        target, low = np.array([*hand.where(place)[:2], hand.points(place)[:, 2].min()]), -np.inf
    else:
        site = hand.handles.sites[place]
        target, low = hand.data.site_xpos[site].copy(), -np.inf
        if predicate == "in":
            target[2] -= hand.model.site_size[site][2]
            low = hand.points(problem.regions[place].target)[:, 2].max() + HOVER
    yield from carry(hand, thing, target + (0, 0, DROP), low)
    rotation = hand.rotation
    yield from hand.rest(OPEN, RELEASE_STEPS)
    yield from hand.move(hand.position + (0, 0, ABOVE), rotation, OPEN)


def _holder_joints(hand: Hand, problem: Problem, region: str) -> bool:
    joints = hand.handles.instances[problem.regions[region].target].joints
    return bool((hand.model.jnt_bodyid[joints] == hand.model.site_bodyid[hand.handles.sites[region]]).any())


def pick(hand: Hand, thing: str) -> Iterator[np.ndarray]:
    """Up from where it lies; again where it slipped."""
    for _ in range(TRIES):
        height = hand.where(thing)[2]
        yield from _take(hand, thing)
        yield from hand.move(hand.position + (0, 0, ABOVE), hand.rotation, CLOSE)
        if hand.where(thing)[2] > height + ABOVE / 2:
            return


def _take(hand: Hand, thing: str) -> Iterator[np.ndarray]:
    grasp = find_grasp(hand.points(thing), hand.others(thing))
    yield from hand.move(grasp.position + (0, 0, ABOVE), grasp.rotation, OPEN)
    if grasp.half:
        yield from hand.rest(OPEN, RELEASE_STEPS)
        yield from hand.rest(CLOSE, HALF_STEPS)
    yield from hand.move(grasp.position, grasp.rotation, HOLD if grasp.half else OPEN)
    yield from hand.rest(CLOSE, GRIP_STEPS)


def carry(hand: Hand, thing: str, target: np.ndarray, low: float) -> Iterator[np.ndarray]:
    """Over all that is in the way, then down. target: [3], where the thing's bottom goes with the thing's origin over
    it; low: the height that the hand does not go below."""
    rotation, others, bottom = hand.rotation, hand.others(thing), hand.points(thing)[:, 2].min()
    beside = _beside(others, hand.where(thing), target)
    top = np.max(others[beside, 2], initial=max(target[2], low))
    yield from hand.move(hand.position + (0, 0, max(top + CARRY - bottom, CARRY)), rotation, CLOSE)
    for down in (False, True):
        x, y = target[:2] + (hand.position - hand.where(thing))[:2]
        z = hand.position[2]
        if down:
            z = max(z + target[2] - hand.points(thing)[:, 2].min(), low)
        yield from hand.move(np.array([x, y, z]), rotation, CLOSE)


def _beside(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """[n] whether points are near, horizontally, to the way from start to end."""
    way = (end - start)[:2]
    share = np.clip((points[:, :2] - start[:2]) @ way / max(way @ way, 1e-9), 0, 1)
    return np.linalg.norm(points[:, :2] - start[:2] - share[:, None] * way, axis=1) < BESIDE


# Drawers and knobs


def pull_open(hand: Hand, joint: int, end: float) -> Iterator[np.ndarray]:
    """A drawer by its handle, whose bar lies level in front of it, until its joint is PULL beyond `end`."""
    model, data = hand.model, hand.data
    missing = end - data.qpos[model.jnt_qposadr[joint]]
    if missing > 0:
        return
    out = data.xaxis[joint] * np.sign(missing)
    points = _joint_points(hand, joint)
    front = points @ out
    bar = points[front > front.max() - FRONT]
    position = (bar.min(0) + bar.max(0)) / 2
    ahead = np.cos(TILT) * np.array([0.0, 0.0, -1.0]) - np.sin(TILT) * out
    side = np.cross(out, [0.0, 0.0, 1.0])
    rotation = np.stack([np.cross(side, ahead), side, ahead], axis=1)
    if np.trace(rotation @ hand.rotation.T) < np.trace(rotation @ np.diag([-1, -1, 1]) @ hand.rotation.T):
        rotation = rotation @ np.diag([-1, -1, 1])
    yield from hand.move(position - BACK * ahead, rotation, OPEN)
    yield from hand.move(position, rotation, OPEN)
    yield from hand.rest(CLOSE, GRIP_STEPS)
    yield from hand.move(hand.position + (abs(missing) + PULL) * out, rotation, CLOSE, SLOW)
    yield from hand.rest(OPEN, RELEASE_STEPS)
    yield from hand.move(hand.position - BACK * ahead, rotation, OPEN)


def turn(hand: Hand, joint: int, end: float) -> Iterator[np.ndarray]:
    """A knob by what stands up from it, until its joint is TURN beyond `end`."""
    model, data = hand.model, hand.data
    points = _joint_points(hand, joint)
    top = points[points[:, 2] > points[:, 2].max() - 0.03]
    grasp = find_grasp(top, np.zeros((0, 3)))
    yield from hand.move(grasp.position + (0, 0, ABOVE), grasp.rotation, OPEN)
    yield from hand.move(grasp.position, grasp.rotation, OPEN)
    yield from hand.rest(CLOSE, GRIP_STEPS)
    missing = end - data.qpos[model.jnt_qposadr[joint]]
    turned = axis_angle_to_matrix(data.xaxis[joint] * (missing + np.sign(missing) * TURN))
    anchor, start, rotation = data.xanchor[joint].copy(), hand.position, hand.rotation
    yield from hand.move(anchor + turned @ (start - anchor), turned @ rotation, CLOSE)
    yield from hand.rest(OPEN, RELEASE_STEPS)
    yield from hand.move(hand.position + (0, 0, ABOVE), hand.rotation, OPEN)


def _joint_points(hand: Hand, joint: int) -> np.ndarray:
    """[n, 3] of what a joint moves."""
    model = hand.model
    geoms = np.flatnonzero((model.geom_bodyid == model.jnt_bodyid[joint]) & (model.geom_group == 0))
    return points_of(model, hand.data, geoms)
