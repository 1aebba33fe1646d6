"""Block Stack: put the small blue cube on the large green one (3PoinTr; all numbers are the released code's)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import mujoco
import numpy as np

from t2p.sim import world
from t2p.sim.tabletop.common import Judge, Tabletop, View, gripper_opened, pointing
from t2p.sim.task import Waypoint

GREEN, BLUE = 0.10, 0.06  # edges
GREEN_MASS, BLUE_MASS = 0.1, 0.05
LOW, HIGH = np.array([0.30, -0.20, 0.30, 0.00]), np.array([0.40, 0.00, 0.40, 0.20])  # green x, y, blue x, y
APART = 0.15  # least distance of the cubes' centres
HEIGHT_TOLERANCE = 0.02


@dataclass(frozen=True)
class Way:
    """How an embodiment does it: heights of the tool above the top of a cube, and the tool's yaw (rad)."""

    approach: float = 0.15
    grasp: float = -0.05
    lift: float = 0.20
    place: float = 0.02
    yaw: float = 0.0


# The xArm's are 3PoinTr's. The Panda's palm would meet the cube that deep, and it closes its fingers along x.
WAYS = {
    "xarm7": Way(),
    "panda": Way(approach=0.12, grasp=-0.035, lift=0.16, place=0.035, yaw=np.pi / 2),
    "hand": Way(approach=0.18, grasp=-0.045, lift=0.24, place=0.025, yaw=-np.pi / 2),
}


@dataclass(frozen=True)
class BlockStack(Tabletop):
    """configuration [4]: x, y of the green cube, x, y of the blue one."""

    name: ClassVar[str] = "tabletop/block_stack"
    instruction: ClassVar[str] = "stack the blue block on the green block"
    front: ClassVar[View] = View((0.760, -0.030, 0.620), (0.038, 0.999, 0.0), (-0.798, 0.030, 0.602))
    objects: ClassVar[tuple[str, ...]] = ("green", "blue")
    waypoints: ClassVar[int] = 9

    def add_objects(self, spec: mujoco.MjSpec) -> None:
        world.add_box(spec, "green", (GREEN,) * 3, (0.35, -0.1, GREEN / 2), GREEN_MASS, (0.15, 0.6, 0.2, 1))
        world.add_box(spec, "blue", (BLUE,) * 3, (0.35, 0.1, BLUE / 2), BLUE_MASS, (0.1, 0.25, 0.8, 1))

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        while True:
            places = rng.uniform(LOW, HIGH)
            if np.linalg.norm(places[:2] - places[2:]) > APART:
                return places

    def arrange(self, model: mujoco.MjModel, data: mujoco.MjData, configuration: np.ndarray) -> None:
        for name, edge, place in (("green", GREEN, configuration[:2]), ("blue", BLUE, configuration[2:])):
            data.joint(name).qpos = [*place, edge / 2, 1, 0, 0, 0]

    def judge(self, model: mujoco.MjModel) -> Judge:
        return Judge(self.stacked)

    def stacked(self, model: mujoco.MjModel, data: mujoco.MjData) -> bool:
        """Gripper commanded open, centres at most green's edge apart, blue within 2 cm of resting on green."""
        offset = data.body("blue").xpos - data.body("green").xpos
        near = math.hypot(*offset[:2]) <= GREEN
        resting = abs(offset[2] - (GREEN + BLUE) / 2) <= HEIGHT_TOLERANCE
        return bool(near and resting and gripper_opened(data, self.robot))

    def expert(self, model: mujoco.MjModel, data: mujoco.MjData) -> Iterator[Waypoint]:
        way = WAYS[self.embodiment]
        rotation = pointing(way.yaw)

        def at(top: np.ndarray, height: float) -> np.ndarray:
            return top + [0, 0, height]

        blue, green = data.body("blue").xpos + [0, 0, BLUE / 2], data.body("green").xpos + [0, 0, GREEN / 2]
        above, grasp, lifted = at(blue, way.approach), at(blue, way.grasp), at(blue, way.lift)
        over = at(green, way.approach)
        script = (
            (above, False),
            ((above + grasp) / 2, False),
            (grasp, True),
            ((grasp + lifted) / 2, True),
            (lifted, True),
            ((lifted + over) / 2, True),
            (over, True),
            (at(green, way.place), False),
            (at(green, way.lift), False),
        )
        for position, closed in script:
            yield Waypoint(position, rotation, closed)
