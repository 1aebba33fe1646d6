"""Drives a task's scripted demonstration with the actions that a policy has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import mujoco
import numpy as np

from t2p.geometry.rotations import matrix_to_6d
from t2p.sim.control import Controller, OscDelta, drive, rotation_vector, tool_pose
from t2p.sim.task import Judge, ScriptedTask, Waypoint, sample
from t2p.sim.world import diverged

# Servoing to a waypoint with relative actions; all chosen here. Each action asks for GAIN of what is missing, at
# most SPEED (m, rad) per action: 0.3 m/s and 1.2 rad/s.
GAIN, SPEED_POSITION, SPEED_ROTATION = 0.5, 0.015, 0.06
NEAR_POSITION, NEAR_ROTATION, NEAR_STEPS = 0.004, np.deg2rad(2.0), 2  # a waypoint is reached: m, rad, actions on end
MOVE_LIMIT, GRIP_STEPS = 80, 10  # actions after which a waypoint is given up; those that the gripper takes


@dataclass
class ScriptedExpert:
    """Gives the next action of the script, in the task's action space but in the world's frame (ActionSpec's numbers
    are in the robot base's), and None once the script is over.

    "setpoint_pose": one action is one waypoint. "osc_delta": actions servo to each waypoint on the measured tool
    pose, then wait while the gripper opens or closes."""

    script: Iterator[Waypoint]
    tool: Controller  # never started: it only says where the tool is and what relative actions are scaled by
    waypoint: Waypoint | None = None
    phase: Literal["move", "grip", "next"] = "next"
    steps: int = 0
    near: int = 0
    closed: bool = False

    def action(self, model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray | None:
        """-> [10] or [7] (see ActionSpec), or None."""
        if not isinstance(self.tool, OscDelta):
            waypoint = next(self.script, None)
            return None if waypoint is None else setpoint_action(waypoint)
        if self.phase == "next" and not self._advance():
            return None
        assert self.waypoint is not None  # set by _advance
        missing = _missing(self.tool, data, self.waypoint)
        self._progress(missing)
        gripper = 1.0 if self.closed else -1.0
        return np.append(_servo(missing, self.tool.scale), gripper)

    def _advance(self) -> bool:
        self.waypoint = next(self.script, None)
        self.phase, self.steps, self.near = "move", 0, 0
        return self.waypoint is not None

    def _progress(self, missing: np.ndarray) -> None:
        """Counts this action, and says what comes after it."""
        assert self.waypoint is not None
        self.steps += 1
        if self.phase == "move":
            there = np.linalg.norm(missing[:3]) < NEAR_POSITION and np.linalg.norm(missing[3:]) < NEAR_ROTATION
            self.near = self.near + 1 if there else 0
            if self.near < NEAR_STEPS and self.steps < MOVE_LIMIT:
                return
            self.phase = "next"
            if self.waypoint.closed != self.closed:
                self.closed, self.phase, self.steps = self.waypoint.closed, "grip", 1
        elif self.steps >= GRIP_STEPS:
            self.phase = "next"


def scripted_expert(task: ScriptedTask, model: mujoco.MjModel, data: mujoco.MjData) -> ScriptedExpert:
    """The expert of an episode that starts at `data`."""
    return ScriptedExpert(task.expert(model, data), task.controller(model, data))


def setpoint_action(waypoint: Waypoint) -> np.ndarray:
    """Waypoint -> [10]: position, 6D rotation (first two columns), gripper (0 open, 1 closed), in the world."""
    return np.concatenate([waypoint.position, matrix_to_6d(waypoint.rotation), [float(waypoint.closed)]])


def _missing(tool: OscDelta, data: mujoco.MjData, waypoint: Waypoint) -> np.ndarray:
    """[6] what the measured tool pose lacks: metres, axis times angle."""
    position, rotation = tool_pose(tool.arm, data)
    return np.concatenate([waypoint.position - position, rotation_vector(waypoint.rotation @ rotation.T)])


def _servo(missing: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """[6] relative action towards what is missing, along a straight line."""
    share = GAIN
    for part, limit in ((missing[:3], SPEED_POSITION), (missing[3:], SPEED_ROTATION)):
        length = float(np.linalg.norm(part))
        share = min(share, limit / length) if length else share
    return np.clip(share * missing / scale, -1, 1)


def advance(
    model: mujoco.MjModel, data: mujoco.MjData, controller: Controller, judge: Judge, action: np.ndarray
) -> None:
    """One policy step of one environment: an action in the world's frame, and physics until it is done."""
    controller.start(model, data, action)
    for _ in drive(controller, model, data):
        judge.substep(model, data)


def run_expert(task: ScriptedTask, model: mujoco.MjModel, data: mujoco.MjData, seed: int) -> bool:
    """Plays the script from the seed's start, within the task's limit. -> whether it succeeded; False too where the
    physics came apart."""
    sample(task, model, data, seed)
    controller, judge, expert = task.controller(model, data), task.judge(model), scripted_expert(task, model, data)
    for _ in range(task.limit):
        action = expert.action(model, data)
        if action is None:
            break
        advance(model, data, controller, judge, action)
        if diverged(data) is not None:
            return False
    return judge.success(model, data)
