"""Scripted demonstrations of LIBERO's tasks by one who sees where everything is: picking up and putting down, pulling
drawers open, turning knobs.

A script is a generator of actions: asked for the next one, it looks at the simulation as it is then. All heights,
speeds and distances are chosen here; the original's demonstrations were given by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import mujoco
import numpy as np

from t2p.geometry.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from t2p.io import UserError
from t2p.sim.libero.bddl import Problem
from t2p.sim.libero.catalog import CATEGORIES
from t2p.sim.libero.grasps import TIPS, YAWS, find_grasp, is_thin, pointing_down, points_of
from t2p.sim.libero.names import Handles, handles, moving_joints
from t2p.sim.libero.osc import ROTATION, TRANSLATION
from t2p.sim.libero.scene import things

OPEN, HOLD, CLOSE = -1.0, 0.0, 1.0
HALF_STEPS, GRIP_STEPS, RELEASE_STEPS, WAIT = 4, 10, 10, 10  # policy steps: to half open, to close, to open, at the end
SPEED, SLOW = 0.9, 0.35  # of the largest action; against a drawer's resistance
NEAR, NEAR_ANGLE, LEVER = 0.006, 0.05, 0.1  # m, rad: a pose is reached; m that a rad counts for
FINE = 0.003  # m: so well the hand is placed where it takes hold, and in the middle of what it lets go of
PATIENCE, STUCK, PROGRESS = 60, 8, 0.001  # policy steps: in all, and those that bring the pose no PROGRESS (m) nearer
ABOVE = 0.07  # m: from so far above things are taken
CARRY, BESIDE = 0.04, 0.12  # m: over all that is so near to the way, things are carried
DROP, SINK = 0.015, 0.01  # m: over what things are put on; down, for what hangs on a finger to stand
HAND_ABOVE, PALM_ABOVE = 0.02, -0.015  # m: of the hand over the rim of what things are put in, fingers out or in
TRIES = 3  # of taking hold of something
FLAT, MIDDLE = 0.03, 0.02  # m: dishes that are lower are dragged, by what is so near to their origin
STRIDE, PRESS, DRAGS = 0.03, 0.012, 150  # m ahead and down that the hand aims in dragging; policy steps
BACK, FRONT = 0.10, 0.02  # m: from so far a handle is taken; so deep is one
PULL, TURN, RIDGE = 0.03, 0.4, 0.03  # m, rad beyond what is asked for; m of a knob that stand up from it
HELD = 10  # policy steps for which the goal holds when a demonstration ends (robosuite, collect_human_demonstrations)
TILT = np.deg2rad(70)  # of the hand, up from looking down, where it takes a drawer's handle
SLIDE = mujoco.mjtJoint.mjJNT_SLIDE


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
        self, position: np.ndarray, rotation: np.ndarray, grip: float, speed: float = SPEED, near: float = NEAR
    ) -> Iterator[np.ndarray]:
        """Until the pose is reached, to `near` (m), or comes no nearer."""
        nearest, since = np.inf, 0
        for _ in range(PATIENCE):
            away, turned = _length(position - self.position), _length(matrix_to_axis_angle(rotation @ self.rotation.T))
            if away < near and turned < NEAR_ANGLE:
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
    """Actions [7] (ActionSpec's osc_delta, along the world's axes), one for each policy step of the environment whose
    state `data` is; over when the goal should be reached. UserError as `check_script`."""
    hand = Hand(model, data, handles(model, problem))
    _check(hand, problem)
    return _script(hand, problem)


def check_script(model: mujoco.MjModel, problem: Problem) -> None:
    """There are scripts for on, in, open (of drawers) and turnon; UserError for a goal that needs another."""
    _check(Hand(model, mujoco.MjData(model), handles(model, problem)), problem)


def _check(hand: Hand, problem: Problem) -> None:
    for predicate, name, *_ in problem.goal:
        if predicate not in ("on", "in", "open", "turnon"):
            raise UserError(f"there is no script for the goal ({predicate} {name})")
        if predicate == "open" and hand.model.jnt_type[_part(hand, problem, predicate, name)[0]] != SLIDE:
            raise UserError(f"there is no script that opens {name}: only drawers are opened")


def until_held(actions: Iterator[np.ndarray], success: Callable[[], bool]) -> Iterator[np.ndarray]:
    """Actions until the goal has held for HELD policy steps, as LIBERO's own recordings end, or there are no more.
    success: whether it holds after the step that was given last."""
    held = 0
    for action in actions:
        yield action
        held = held + 1 if success() else 0
        if held == HELD:
            return


def _script(hand: Hand, problem: Problem) -> Iterator[np.ndarray]:
    for predicate, name, *place in problem.goal:
        if place:
            yield from pick_and_place(hand, problem, predicate, name, place[0])
        else:
            act = pull_open if predicate == "open" else turn
            yield from act(hand, *_part(hand, problem, predicate, name))
    yield from hand.rest(OPEN, WAIT)


def _part(hand: Hand, problem: Problem, predicate: str, name: str) -> tuple[int, float]:
    """The joint that decides an atom about a region or thing, and the position at which it begins to be true."""
    thing, addresses = moving_joints(hand.model, problem, hand.handles, name)
    low, high = CATEGORIES[dict(things(problem))[thing]].articulation[predicate]
    joint = int(np.flatnonzero(hand.model.jnt_qposadr == addresses[0])[0])
    return joint, high if predicate == "open" else low


def _length(vector: np.ndarray) -> float:
    return float(np.sqrt(vector @ vector))


# Picking up and putting down


def pick_and_place(hand: Hand, problem: Problem, predicate: str, thing: str, place: str) -> Iterator[np.ndarray]:
    """On a thing or a region, or into a region, the drawer that holds it opened before."""
    if predicate == "in" and len(moving_joints(hand.model, problem, hand.handles, place)[1]):
        yield from pull_open(hand, *_part(hand, problem, "open", place))
    on_surface = place in problem.regions and problem.regions[place].target not in hand.handles.instances
    if on_surface and _is_dish(hand.points(thing)):
        yield from drag(hand, thing, hand.data.site_xpos[hand.handles.sites[place]].copy())
        return
    yield from pick(hand, thing)
    yield from carry(hand, thing, *_destination(hand, problem, predicate, thing, place))
    yield from let_go(hand, thing)


def _is_dish(points: np.ndarray) -> bool:
    return bool(np.ptp(points[:, 2]) < FLAT) and not is_thin(points)


def let_go(hand: Hand, thing: str) -> Iterator[np.ndarray]:
    """And up. Edges that the fingers have pressed into hang on to them: down first, and to the thing's middle."""
    rotation = hand.rotation
    yield from hand.rest(OPEN, RELEASE_STEPS)
    if is_thin(hand.points(thing)):
        off = (hand.points(thing) - hand.position) @ rotation[:, 0]
        middle = (off.min() + off.max()) / 2
        yield from hand.move(hand.position - (0, 0, SINK), rotation, OPEN, near=FINE)
        yield from hand.move(hand.position + middle * rotation[:, 0], rotation, OPEN, near=FINE)
    yield from hand.move(hand.position + (0, 0, ABOVE), rotation, OPEN)


def _destination(hand: Hand, problem: Problem, predicate: str, thing: str, place: str) -> tuple[np.ndarray, float]:
    """[3] where a thing's bottom goes, its origin over it, and the height that the hand stays above."""
    if place in hand.handles.instances:
        return np.array([*hand.where(place)[:2], hand.points(place)[:, 2].min() + DROP]), -np.inf
    site = hand.handles.sites[place]
    target = hand.data.site_xpos[site] + (0, 0, DROP)
    if predicate == "on":
        return target, -np.inf
    rim = hand.points(problem.regions[place].target)[:, 2].max()
    above = PALM_ABOVE if is_thin(hand.points(thing)) else HAND_ABOVE  # what is thin goes in with the fingers
    return target - (0, 0, hand.model.site_size[site][2]), rim + above


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
    yield from hand.move(grasp.position, grasp.rotation, HOLD if grasp.half else OPEN, near=FINE)
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


def drag(hand: Hand, thing: str, target: np.ndarray) -> Iterator[np.ndarray]:
    """A dish along what it lies on until its origin is over or under target [3]; again where the fingers slip off."""
    rotation = pointing_down(YAWS[0])
    for _ in range(TRIES):
        points, middle = hand.points(thing), hand.where(thing)
        if _length((target - middle)[:2]) < NEAR:
            return
        floor = points[np.linalg.norm((points - middle)[:, :2], axis=1) < MIDDLE, 2].max()
        for above in (ABOVE, 0.0):
            yield from hand.move(np.array([*middle[:2], floor + TIPS + above]), rotation, CLOSE)
        yield from _drag_on(hand, thing, target, floor + TIPS - PRESS, 0.4 * np.ptp(points[:, 0]))
        yield from hand.move(hand.position + (0, 0, ABOVE), rotation, CLOSE)


def _drag_on(hand: Hand, thing: str, target: np.ndarray, height: float, radius: float) -> Iterator[np.ndarray]:
    """With closed fingers, while they are within the dish's radius."""
    rotation = hand.rotation
    for _ in range(DRAGS):
        missing = (target - hand.where(thing))[:2]
        if _length(missing) < NEAR or _length((hand.position - hand.where(thing))[:2]) > radius:
            return
        missing *= min(1.0, STRIDE / _length(missing))
        yield hand.towards(np.array([*(hand.position[:2] + missing), height]), rotation, CLOSE)


def _beside(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """[n] whether points are near, horizontally, to the way from start to end."""
    way = (end - start)[:2]
    share = np.clip((points[:, :2] - start[:2]) @ way / max(way @ way, 1e-9), 0, 1)
    return np.linalg.norm(points[:, :2] - start[:2] - share[:, None] * way, axis=1) < BESIDE


# Drawers and knobs


def pull_open(hand: Hand, joint: int, end: float) -> Iterator[np.ndarray]:
    """A drawer by its handle, until its joint is PULL beyond `end`; nothing where it is there already."""
    missing = end - hand.data.qpos[hand.model.jnt_qposadr[joint]]
    if missing > 0:
        return
    out = hand.data.xaxis[joint] * np.sign(missing)
    position, rotation = _handle(hand, joint, out)
    back = -BACK * rotation[:, 2]
    yield from hand.move(position + back, rotation, OPEN)
    yield from hand.move(position, rotation, OPEN)
    yield from hand.rest(CLOSE, GRIP_STEPS)
    yield from hand.move(hand.position + (abs(missing) + PULL) * out, rotation, CLOSE, SLOW)
    yield from hand.rest(OPEN, RELEASE_STEPS)
    yield from hand.move(hand.position + back, rotation, OPEN)


def _handle(hand: Hand, joint: int, out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position [3] and rotation [3, 3] of the hand at a drawer's handle: a level bar, foremost in the direction `out`,
    which the fingers take from over and under it."""
    points = joint_points(hand, joint)
    front = points @ out
    bar = points[front > front.max() - FRONT]
    ahead = np.cos(TILT) * np.array([0.0, 0.0, -1.0]) - np.sin(TILT) * out
    side = np.cross(out, [0.0, 0.0, 1.0])
    rotation = np.stack([np.cross(side, ahead), side, ahead], axis=1)
    if np.sum(rotation[:, :2] * hand.rotation[:, :2]) < 0:  # the hand is nearer to the same grip from its other side
        rotation = rotation @ np.diag([-1, -1, 1])
    return (bar.min(0) + bar.max(0)) / 2, rotation


def turn(hand: Hand, joint: int, end: float) -> Iterator[np.ndarray]:
    """A knob by what stands up from it, until its joint is TURN beyond `end`."""
    model, data = hand.model, hand.data
    points = joint_points(hand, joint)
    top = points[points[:, 2] > points[:, 2].max() - RIDGE]
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


def joint_points(hand: Hand, joint: int) -> np.ndarray:
    """[n, 3] of what a joint moves."""
    model = hand.model
    geoms = np.flatnonzero((model.geom_bodyid == model.jnt_bodyid[joint]) & (model.geom_group == 0))
    return points_of(model, hand.data, geoms)
