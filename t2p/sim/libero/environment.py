"""LIBERO's environments for BatchedSim: those of one process take their policy steps together (see stepping.py), on a
model without anything that is only looked at; pictures are drawn of another."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, cast

import mujoco
import numpy as np

from t2p.geometry.rotations import quaternion_to_axis_angle
from t2p.io import UserError
from t2p.sim.environment import Environment, Key, Scene, Shape, Start, refresh
from t2p.sim.libero import stepping
from t2p.sim.libero.names import handles
from t2p.sim.libero.observations import observation, robot_state
from t2p.sim.libero.placement import find_placement
from t2p.sim.libero.predicates import compile_goal
from t2p.sim.libero.stepping import AFTER_RESET, AFTER_SETTING, Puppet, Rig
from t2p.sim.world import check_state, diverged
from t2p.types import InitialState

if TYPE_CHECKING:
    from t2p.sim.libero.task import LiberoTask


class LiberoScene(Scene):
    """What the environments of one process share. rig: for stepping; goal: the task's; placement: how starts are drawn;
    canvas: the state that is drawn."""

    task: LiberoTask

    def compile(self) -> mujoco.MjModel:
        model = self.task.physics()
        self.problem = self.task.problem
        self.handles = handles(model, self.problem)
        self.rig = Rig.of(model, self.handles.arm, self.task.quirks)
        self.goal = compile_goal(model, self.problem, quirks=self.task.quirks)
        self.placement = find_placement(model, self.problem, self.task.quirks)
        return model

    @cached_property
    def drawn(self) -> mujoco.MjModel:
        return self.task.build(self.task.profile).compile()

    @cached_property
    def canvas(self) -> mujoco.MjData:
        return mujoco.MjData(self.drawn)

    @cached_property
    def burners(self) -> tuple[tuple[int, int], ...]:
        """As Handles.burners, of the drawn model."""
        return handles(self.drawn, self.problem).burners

    def paint(self, qpos: np.ndarray, frames: tuple[np.ndarray, np.ndarray]) -> mujoco.MjData:
        """The drawn model as it looks in a state. frames: as Puppet has them. A stove that is turned on glows."""
        model = self.drawn
        model.body_pos[:], model.body_quat[:] = frames
        for site, knob in self.burners:
            shown = abs(model.site_rgba[site, 3])
            model.site_rgba[site, 3] = shown if qpos[knob] >= self.task.glows_from else -shown
        self.canvas.qpos[:] = qpos
        refresh(model, self.canvas)
        return self.canvas


class LiberoEnvironment(Environment):
    """An environment of a LiberoTask. puppet: its physics under control."""

    scene_class = LiberoScene
    scene: LiberoScene
    task: LiberoTask

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.puppet = Puppet(self.scene.rig)
        self.data, self.begun = self.puppet.data, False

    def reset(self, start: Start) -> None:
        """Starts an episode from a seed (its protocol's initial state, fixtures where a reset with the seed put them)
        or from a state, and lets the protocol's settling steps pass."""
        began = time.perf_counter()
        if isinstance(start, InitialState):
            self.seed = 0
            self.puppet.start(start)
        else:
            self.seed = int(start)
            sampled = AFTER_SETTING if self.task.rules.states else AFTER_RESET
            self.puppet.start(self.task.start(self.scene.placement, self.seed), sampled)
        self.begun, self.steps, self.success, self.time = True, 0, False, 0.0
        for _ in range(self.task.settle):
            stepping.step([self.puppet], [self.task.idle])
        self.failure = diverged(self.data)
        self.clocks[3] += time.perf_counter() - began
        if self.onlooker is not None:
            self.onlooker.begin(self)

    def begin(self, action: np.ndarray) -> None:
        if not self.begun:
            raise UserError("the environment has to be reset before its first step")
        if self.failure is None:
            self.action = np.asarray(action, float)
            self.steps += 1

    @staticmethod
    def advance_all(environments: Sequence[Environment]) -> None:
        acting = [cast(LiberoEnvironment, e) for e in environments if e.failure is None]
        if not acting:
            return

        def told() -> None:
            for environment in acting:
                if environment.onlooker is not None:
                    environment.onlooker.substep(environment)

        spent = stepping.step([e.puppet for e in acting], [e.action for e in acting], told)
        for environment in acting:
            environment.clocks[:2] += np.array(spent) / len(acting)

    def advance(self) -> None:
        self.advance_all([self])

    def finish(self) -> None:
        if self.failure is not None:
            return
        self.failure = diverged(self.data)
        self.success = self.failure is None and self.scene.goal.holds(self.data)
        if self.failure is None:
            self.time += stepping.SUBSTEPS * self.model.opt.timestep
        if self.onlooker is not None:
            self.onlooker.end(self)

    def enter(self) -> None:
        self.puppet.place()

    def shown(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        return self.scene.drawn, self.scene.paint(self.data.qpos, self.puppet.frames)

    def original(self) -> dict[str, np.ndarray]:
        """The original's observations but pictures."""
        return observation(self.puppet.snapshot, self.scene.handles, self.scene.problem)

    def shapes(self) -> dict[Key, Shape]:
        return self._picture_shapes() | {
            key: (value.shape, value.dtype.str[1:]) for key, value in self._proprio().items()
        }

    def goal_observation(self, state: InitialState) -> dict[Key, np.ndarray]:
        check_state(self.model, state)
        return self._goal_pictures(self.scene.paint(state.qpos, (state.body_pos, state.body_quat)))

    def _proprio(self) -> dict[Key, np.ndarray]:
        """As LIBERO's demonstrations have it: joints, fingers, and the hand's pose as position and axis-angle; or all
        of the original's observations."""
        if self.task.proprio == "observables":
            return {("proprio", name): value for name, value in self.original().items()}
        robot = robot_state(self.puppet.snapshot, self.scene.handles)
        turned = quaternion_to_axis_angle(np.roll(robot["robot0_eef_quat"], 1))
        values = {
            "joint_states": robot["robot0_joint_pos"],
            "gripper_states": robot["robot0_gripper_qpos"],
            "ee_states": np.concatenate([robot["robot0_eef_pos"], turned]),
        }
        return {("proprio", name): value.astype(np.float32) for name, value in values.items()}

    def _seen(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        return self.scene.drawn, self.scene.paint(self.puppet.snapshot.drawn, self.puppet.frames)
