"""Right Glass: stand a fallen stemmed glass up again (3PoinTr; numbers are the released code's where it gives them).

The glass is our own: base, stem and bowl, three convex parts; so success rates are not directly comparable.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import mujoco
import numpy as np

from t2p.sim.tabletop.common import Judge, Tabletop, View, pointing
from t2p.sim.task import Waypoint

# The glass's frame: origin in the middle of its stem, HANDLE above the floor when it stands, z along its axis.
HANDLE = 0.041
BASE_RADIUS, BASE_HEIGHT, BASE_MASS = 0.036, 0.008, 0.06
STEM_RADIUS, STEM_TOP, STEM_MASS = 0.012, 0.036, 0.02
STEM_BOTTOM = 0.001 + STEM_RADIUS - HANDLE  # the capsule is round below this; its end stays within the base
BOWL_RADIUS, BOWL_HEIGHT, BOWL_MASS = 0.034, 0.07, 0.05
GLASS = (0.75, 0.85, 0.95, 1.0)
# Sliding, twisting and rolling: a glass that lies does not roll away.
FRICTION = (1.0, 0.005, 0.002)

LOW, HIGH = np.array([0.30, -0.10, -np.pi / 6]), np.array([0.50, 0.10, np.pi / 6])  # x, y, yaw
UPRIGHT = 0.9  # glass axis . world up


@dataclass(frozen=True)
class Way:
    """How an embodiment does it. approach: height above the stem; depth: of the tool's point beyond the stem's axis
    (m), so that the pads' middles meet it; away: where it turns the glass."""

    approach: float = 0.10
    depth: float = 0.014
    away: tuple[float, float, float] = (0.30, 0.0, 0.20)


WAYS = {
    "xarm7": Way(),
    "panda": Way(approach=0.12, depth=0.0, away=(0.35, 0.0, 0.25)),
    "hand": Way(approach=0.14, away=(0.35, 0.0, 0.15)),
}


@dataclass(frozen=True)
class RightGlass(Tabletop):
    """configuration [3]: x, y of the stem's middle, yaw (rad) of the glass, which is rolled by 90 degrees before."""

    name: ClassVar[str] = "tabletop/right_glass"
    instruction: ClassVar[str] = "stand the fallen glass upright"
    front: ClassVar[View] = View((0.888, -0.004, 0.688), (0.026, 1.0, 0.0), (-0.694, 0.018, 0.720))
    objects: ClassVar[tuple[str, ...]] = ("glass",)
    waypoints: ClassVar[int] = 8

    def add_objects(self, spec: mujoco.MjSpec) -> None:
        glass = spec.worldbody.add_body(name="glass", pos=[0.4, 0, HANDLE])
        glass.add_freejoint(name="glass")
        cylinder, capsule = mujoco.mjtGeom.mjGEOM_CYLINDER, mujoco.mjtGeom.mjGEOM_CAPSULE
        for name, kind, radius, low, high, mass in (
            ("base", cylinder, BASE_RADIUS, -HANDLE, BASE_HEIGHT - HANDLE, BASE_MASS),
            ("stem", capsule, STEM_RADIUS, STEM_BOTTOM, STEM_TOP, STEM_MASS),
            ("bowl", cylinder, BOWL_RADIUS, STEM_TOP, STEM_TOP + BOWL_HEIGHT, BOWL_MASS),
        ):
            geom = glass.add_geom(name=name, type=kind, pos=[0, 0, (low + high) / 2])
            geom.size = [radius, (high - low) / 2, 0]
            geom.mass, geom.rgba, geom.condim, geom.friction = mass, GLASS, 6, FRICTION

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        place = rng.uniform(LOW, HIGH)
        place[2] += np.pi * rng.integers(2)
        return place

    def arrange(self, model: mujoco.MjModel, data: mujoco.MjData, configuration: np.ndarray) -> None:
        x, y, yaw = configuration
        c, s = np.cos(yaw / 2), np.sin(yaw / 2)
        data.joint("glass").qpos = [x, y, BASE_RADIUS, *(np.array([c, c, s, s]) * np.sqrt(0.5))]  # Rz(yaw) Rx(90 deg)

    def judge(self, model: mujoco.MjModel) -> Judge:
        return Judge(self.upright)

    def upright(self, model: mujoco.MjModel, data: mujoco.MjData) -> bool:
        """The glass's axis is within 25.8 degrees of the vertical."""
        return bool(data.body("glass").xmat[8] > UPRIGHT)

    def expert(self, model: mujoco.MjModel, data: mujoco.MjData) -> Iterator[Waypoint]:
        way = WAYS[self.embodiment]
        stem, axis = data.body("glass").xpos.copy(), data.body("glass").xmat.reshape(3, 3)[:, 2]
        yaw = float(np.arctan2(axis[1], axis[0]))

        def at(place: np.ndarray, raised: float, closed: bool) -> Waypoint:
            rotation = pointing(yaw, raised)
            return Waypoint(place + way.depth * rotation[:, 2], rotation, closed)

        above = stem + [0, 0, way.approach]
        away = np.array(way.away)
        put = np.array([*way.away[:2], HANDLE])
        quarter = np.pi / 2
        yield at(above, 0.0, False)
        yield at((above + stem) / 2, 0.0, False)
        yield at(stem, 0.0, True)
        yield at(away, 0.0, True)
        yield at(away, quarter / 2, True)
        yield at(away, quarter, True)
        yield at((away + put) / 2, quarter, True)
        yield at(put, quarter, False)
