"""A small task for tests: three slides push a box along a wall whose place differs from episode to episode."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import mujoco
import numpy as np

from t2p.io import UserError
from t2p.sim import world
from t2p.sim.control import Arm, find_arm
from t2p.sim.environment import Environment
from t2p.sim.robots.base import Robot, add_servo, attach, new_spec
from t2p.sim.task import Waypoint
from t2p.types import ActionSpec, InitialState

SUBSTEPS = 10
# What a gripper command beyond 1 does, for tests of failures.
BREAK, DIE, DIE_ONCE, RAISE, JAX = 2.0, 3.0, 4.0, 5.0, 6.0


def build_robot() -> mujoco.MjSpec:
    spec = new_spec("pusher")
    body = spec.worldbody.add_body(name="body", gravcomp=1.0)
    body.add_geom(type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[0.03, 0, 0], mass=0.5, rgba=[0.9, 0.2, 0.2, 1])
    for name, axis in (("x", (1, 0, 0)), ("y", (0, 1, 0)), ("z", (0, 0, 1))):
        body.add_joint(name=name, type=mujoco.mjtJoint.mjJNT_SLIDE, axis=axis, range=[-1, 1])
    finger = body.add_body(name="finger", pos=[0, 0, 0.05], gravcomp=1.0)
    finger.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.01, 0.01, 0.02], mass=0.05, rgba=[0.2, 0.2, 0.2, 1])
    finger.add_joint(name="grip", type=mujoco.mjtJoint.mjJNT_SLIDE, axis=[0, 0, 1], range=[0, 0.05])
    for name in ("x", "y", "z", "grip"):
        add_servo(spec, "gripper" if name == "grip" else name, name, 300.0, 300.0, 30.0, 50.0)
    body.add_site(name="tool", pos=[0, 0, -0.03])
    return spec


PUSHER = Robot("pusher", build_robot, ("x", "y", "z"), ("finger",), (0.0, 0.0, 0.0), 0.0, 0.05)


@dataclass
class Slide:
    """Moves the command by 2 cm times the action's first three numbers."""

    arm: Arm
    marker: str
    goal: np.ndarray = field(default_factory=lambda: np.zeros(3))
    gripper: float = 0.0

    def start(self, model: mujoco.MjModel, data: mujoco.MjData, action: np.ndarray) -> None:
        self.goal, self.gripper = self.goal + 0.02 * action[:3], action[6]

    def commands(self, model: mujoco.MjModel, data: mujoco.MjData) -> Iterator[np.ndarray]:
        for left in range(SUBSTEPS, 0, -1):
            if self.gripper > 1 and left == SUBSTEPS // 2:
                self._misbehave()
            yield np.append(self.goal, np.nan if self.gripper == BREAK else 0.05 * (self.gripper > 0))

    def _misbehave(self) -> None:
        worker = multiprocessing.parent_process() is not None
        if worker and self.gripper in (DIE, DIE_ONCE):
            there = Path(self.marker).exists()
            Path(self.marker).touch()
            if self.gripper == DIE or not there:
                os.kill(os.getpid(), signal.SIGKILL)
        if self.gripper == RAISE:
            raise RuntimeError("the pusher is out of order")
        if self.gripper == JAX:
            raise UserError(f"JAX is loaded: {'jax' in sys.modules}; in a worker: {worker}")


@dataclass
class Reached:
    """Success: the box was pushed 5 cm along x at some physics step."""

    far: float = 0.0
    substeps: int = 0

    def substep(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        self.substeps += 1
        self.far = max(self.far, data.body("box").xpos[0])

    def success(self, model: mujoco.MjModel, data: mujoco.MjData) -> bool:
        assert self.substeps % SUBSTEPS == 0
        return self.far > 0.15


class Together(Environment):
    """Advances all environments of a process as one."""

    @staticmethod
    def advance_all(environments: Sequence[Environment]) -> None:
        for environment in environments:
            environment.advance()


@dataclass(frozen=True)
class Push:
    """Its base stands apart from the world's origin, turned by a quarter about z. marker: a file for DIE_ONCE."""

    marker: str = ""
    name: str = "push"
    variation: int = 0
    instruction: str = "push the box"
    limit: int = 20
    stop_at_success: bool = False
    kept: tuple[str, ...] = ("world", "box")

    @property
    def action(self) -> ActionSpec:
        return ActionSpec("osc_delta", 7)

    @property
    def base(self) -> np.ndarray:
        return np.array([[0, -1, 0, 0.1], [1, 0, 0, 0.2], [0, 0, 1, 0.0], [0, 0, 0, 1.0]])

    @property
    def views(self) -> Mapping[str, str]:
        return {"top": "above", "side": "beside"}

    def build(self) -> mujoco.MjSpec:
        spec = world.new_world("push")
        world.add_floor(spec)
        world.add_light(spec, (0, 0, 2), (0, 0.3, -1))
        wall = spec.worldbody.add_body(name="wall", pos=[0.1, 0.1, 0.05])
        wall.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.2, 0.01, 0.05], rgba=[0.4, 0.4, 0.8, 1])
        world.add_box(spec, "box", (0.06, 0.06, 0.06), (0.1, 0, 0.03), 0.2, (0, 0.8, 0, 1))
        world.add_camera(spec.worldbody, "above", (0.1, 0, 0.8), (1, 0, 0), (0, 1, 0))
        world.add_camera(spec.worldbody, "beside", (0.1, -0.8, 0.3), (1, 0, 0), (0, 0.35, 0.9))
        attach(spec, PUSHER, (0, 0, 0.035))
        return spec

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform((0.08, -0.02, 0.04), (0.12, 0.02, 0.08))

    def place(self, model: mujoco.MjModel, data: mujoco.MjData, configuration: np.ndarray) -> InitialState:
        model.body("wall").pos[1] = configuration[2]
        data.joint("box").qpos[:2] = configuration[:2]
        mujoco.mj_forward(model, data)
        world.settle(model, data, 20)
        return world.read_state(model, data)

    def stored(self, model: mujoco.MjModel, data: mujoco.MjData, index: int) -> InitialState:
        raise UserError("there are none")

    def controller(self, model: mujoco.MjModel, data: mujoco.MjData) -> Slide:
        return Slide(find_arm(model, PUSHER), self.marker)

    def judge(self, model: mujoco.MjModel) -> Reached:
        return Reached()

    def expert(self, model: mujoco.MjModel, data: mujoco.MjData) -> Iterator[Waypoint]:
        return iter(())


@dataclass(frozen=True)
class PushTogether(Push):
    environment: ClassVar[type[Environment]] = Together
