"""Open Microwave: pull its door open by the handle (3PoinTr; numbers are the released code's where it gives them).

The microwave is our own hinged box: success rates are not directly comparable with the paper's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import mujoco
import numpy as np

from t2p.sim.robots.base import set_damping
from t2p.sim.tabletop.common import Judge, Tabletop, View, about_z, pointing
from t2p.sim.task import Waypoint

CENTER = np.array([0.80, 0.0, 0.156])
LOW, HIGH = np.array([0.0, 0.0, -np.pi / 9]), np.array([0.15, 0.15, 0.0])  # x, y from CENTER, yaw
OPENED, SUCCESS = np.pi / 4, 0.75 * np.pi / 4

# The box, all chosen here: x out of its back, y to the left of who stands before it; the door hinges on its left.
DEPTH, WIDTH, HEIGHT, WALL = 0.28, 0.40, 2 * 0.156, 0.012
DOOR_THICKNESS, DOOR_MASS, DOOR_GAP = 0.02, 1.0, 0.006
HINGE = np.array([-(DEPTH + DOOR_THICKNESS) / 2 - 0.001, WIDTH / 2, 0.0])
HANDLE = np.array([-(DOOR_THICKNESS / 2 + 0.05), -(WIDTH - 0.04), 0.0])  # its middle, from the hinge
HANDLE_RADIUS, HANDLE_HALF = 0.012, 0.07
DAMPING, FRICTION, ARMATURE = 0.2, 0.2, 0.01  # N m s / rad, N m, kg m^2
WHITE, GREY, DARK = (0.85, 0.85, 0.86, 1.0), (0.45, 0.45, 0.48, 1.0), (0.12, 0.12, 0.14, 1.0)


@dataclass(frozen=True)
class Way:
    """How an embodiment does it. approach: distance to the handle; depth: of the tool's point beyond the handle's
    axis (m); pitch: of the tool (rad; pi / 2 is level); over: with the hand turned over, its back below."""

    approach: float = 0.20
    depth: float = 0.014
    pitch: float = np.pi / 2
    over: bool = False


# The arms cannot reach all handles level and with the back up, as the floating hand does.
WAYS = {
    "xarm7": Way(pitch=np.deg2rad(40)),
    "panda": Way(approach=0.15, depth=0.0, pitch=np.deg2rad(80), over=True),
    "hand": Way(approach=0.25),
}


@dataclass(frozen=True)
class OpenMicrowave(Tabletop):
    """configuration [3]: x, y of the microwave's centre, its yaw (rad)."""

    name: ClassVar[str] = "tabletop/open_microwave"
    instruction: ClassVar[str] = "open the microwave"
    front: ClassVar[View] = View((-0.174, 0.391, 0.600), (-0.274, -0.962, 0.0), (0.470, -0.134, 0.872))
    objects: ClassVar[tuple[str, ...]] = ("microwave", "door")
    waypoints: ClassVar[int] = 9

    def add_objects(self, spec: mujoco.MjSpec) -> None:
        microwave = spec.worldbody.add_body(name="microwave", pos=CENTER)
        half = np.array([DEPTH, WIDTH, HEIGHT]) / 2
        for axis, side in ((0, 1), (1, -1), (1, 1), (2, -1), (2, 1)):  # all walls but the front
            size, place = half.copy(), np.zeros(3)
            size[axis], place[axis] = WALL / 2, side * (half[axis] - WALL / 2)
            microwave.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, size=size, pos=place, rgba=WHITE)
        door = microwave.add_body(name="door", pos=HINGE)
        hinge = door.add_joint(name="door", type=mujoco.mjtJoint.mjJNT_HINGE, axis=[0, 0, -1], range=[0, np.pi / 2])
        hinge.frictionloss, hinge.armature = FRICTION, ARMATURE
        set_damping(hinge, DAMPING)
        _add_door(door)
        spec.add_exclude(bodyname1="microwave", bodyname2="door")  # the hinge's range keeps it out of the box

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        return np.append(CENTER[:2], 0.0) + rng.uniform(LOW, HIGH)

    def arrange(self, model: mujoco.MjModel, data: mujoco.MjData, configuration: np.ndarray) -> None:
        x, y, yaw = configuration
        microwave = model.body("microwave")
        microwave.pos = [x, y, CENTER[2]]
        microwave.quat = [np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]

    def judge(self, model: mujoco.MjModel) -> Judge:
        return Judge(self.opened)

    def opened(self, model: mujoco.MjModel, data: mujoco.MjData) -> bool:
        """The door is open by more than three quarters of 45 degrees."""
        return bool(data.joint("door").qpos[0] > SUCCESS)

    def expert(self, model: mujoco.MjModel, data: mujoco.MjData) -> Iterator[Waypoint]:
        way = WAYS[self.embodiment]
        rotation = data.body("microwave").xmat.reshape(3, 3)
        yaw = float(np.arctan2(rotation[1, 0], rotation[0, 0]))
        hinge = data.body("door").xpos.copy()

        def at(angle: float, before: float, closed: bool) -> Waypoint:
            """At the handle of a door open by `angle`, or so far before it."""
            turn = yaw - angle
            tool = pointing(turn + np.pi, -way.pitch) if way.over else pointing(turn, way.pitch)
            handle = hinge + about_z(turn) @ HANDLE
            return Waypoint(handle + way.depth * tool[:, 2] - before * about_z(turn)[:, 0], tool, closed)

        for before in np.linspace(way.approach, 0, 5):
            yield at(0.0, before, closed=before == 0)
        for angle in np.linspace(0, OPENED, 5)[1:]:
            yield at(angle, 0.0, closed=True)


def _add_door(door: mujoco.MjsBody) -> None:
    """A panel with a window, and a vertical handle on two posts."""
    box, capsule = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CAPSULE
    half = [DOOR_THICKNESS / 2, WIDTH / 2, HEIGHT / 2 - DOOR_GAP]
    door.add_geom(type=box, size=half, pos=[0, -WIDTH / 2, 0], mass=DOOR_MASS, rgba=GREY)
    window = [DOOR_THICKNESS / 2 + 0.001, WIDTH / 2 - 0.08, HEIGHT / 2 - 0.06]
    decoration = {"mass": 0.0, "contype": 0, "conaffinity": 0}
    door.add_geom(type=box, size=window, pos=[0, -WIDTH / 2 + 0.02, 0], rgba=DARK, **decoration)
    low, high = HANDLE - [0, 0, HANDLE_HALF], HANDLE + [0, 0, HANDLE_HALF]
    door.add_geom(type=capsule, fromto=[*low, *high], size=[HANDLE_RADIUS, 0, 0], mass=0.05, rgba=WHITE)
    for end in (low, high):
        post = [*end, 0, *end[1:]]
        door.add_geom(type=capsule, fromto=post, size=[HANDLE_RADIUS, 0, 0], rgba=WHITE, **decoration)
