"""LIBERO's environments for BatchedSim: those of one process take their policy steps together (see stepping.py), on a
model without anything that is only looked at; pictures are drawn of another."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import mujoco
import numpy as np

from t2p.geometry.rotations import quaternion_to_axis_angle
from t2p.sim.environment import Environment, Key, Scene, Shape, Start, refresh
from t2p.sim.libero import stepping
from t2p.sim.libero.names import handles
from t2p.sim.libero.observations import observation, robot_state
from t2p.sim.libero.placement import find_placement
from t2p.sim.libero.predicates import compile_goal
from t2p.sim.libero.stepping import Puppet, Rig
from t2p.sim.world import diverged
from t2p.types import InitialState

if TYPE_CHECKING:
    from t2p.sim.libero.task import LiberoTask

PROPRIO = {"joint_states": 7, "gripper_states": 2, "ee_states": 6}


class LiberoScene(Scene):
    """What the environments of one process share. rig: for stepping; goal: the task's; placement: how starts are drawn;
    canvas: the state that is drawn, None where nothing is."""

    task: LiberoTask

    def compile(self) -> mujoco.MjModel:
        model = self.task.build("physics").compile()
        self.problem = self.task.problem
        self.handles = handles(model, self.problem)
        self.rig = Rig.of(model, self.handles.arm, self.task.quirks)
        self.goal = compile_goal(model, self.problem)
        self.placement = find_placement(model, self.problem, self.task.quirks)
        return model

    def compile_drawn(self) -> mujoco.MjModel:
        drawn = self.task.build(self.task.profile).compile()
        self.canvas = mujoco.MjData(drawn)
        self.drawn_handles = handles(drawn, self.problem)
        return drawn

    def paint(self, qpos: np.ndarray, frames: tuple[np.ndarray, np.ndarray]) -> mujoco.MjData:
        """The drawn model as it looks in a state. frames: as Puppet has them. A stove that is turned on glows."""
        model = self.drawn
        model.body_pos[:], model.body_quat[:] = frames
        for site, knob in self.drawn_handles.burners:
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
        self.data = self.puppet.data

    def reset(self, start: Start) -> None:
        """Starts an episode from a seed (its protocol's initial state, fixtures where a reset with the seed put them)
        or from a state, and lets the protocol's settling steps pass."""
        began = time.perf_counter()
        state = start if isinstance(start, InitialState) else self.task.start(self.scene, int(start))
        self.seed = 0 if isinstance(start, InitialState) else int(start)
        self.puppet.start(state)
        self.steps, self.success, self.time, self.failure = 0, False, 0.0, diverged(self.data)
        for _ in range(self.task.settle):
            stepping.step([self.puppet], [self.task.idle])
        self.failure = diverged(self.data)
        self.clocks[3] += time.perf_counter() - began
        if self.onlooker is not None:
            self.onlooker.begin(self)

    def begin(self, action: np.ndarray) -> None:
        if self.failure is None:
            self.action = np.asarray(action, float)
            self.steps += 1

    @staticmethod
    def advance_all(environments: Sequence[Environment]) -> None:
        acting = [cast(LiberoEnvironment, e) for e in environments if e.failure is None]
        if not acting:
            return
        began = time.perf_counter()

        def told() -> None:
            for environment in acting:
                if environment.onlooker is not None:
                    environment.onlooker.substep(environment)

        stepping.step([e.puppet for e in acting], [e.action for e in acting], told)
        for environment in acting:
            environment.clocks[0] += (time.perf_counter() - began) / len(acting)

    def advance(self) -> None:
        self.advance_all([self])

    def finish(self) -> None:
        if self.failure is not None:
            return
        self.failure = diverged(self.data)
        self.time += stepping.SUBSTEPS * self.model.opt.timestep
        self.puppet.place()
        self.success = self.failure is None and self.scene.goal.holds(self.data)
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
        return self._picture_shapes() | {("proprio", name): ((dim,), "f4") for name, dim in PROPRIO.items()}

    def goal_observation(self, state: InitialState) -> dict[Key, np.ndarray]:
        return self._goal_pictures(self.scene.paint(state.qpos, (state.body_pos, state.body_quat)))

    def _proprio(self) -> dict[Key, np.ndarray]:
        """As LIBERO's demonstrations have it: joints, fingers, and the hand's pose as position and axis-angle."""
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
