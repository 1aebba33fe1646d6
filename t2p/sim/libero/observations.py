"""What LIBERO shows of an environment, under the original's names (robosuite's observables).

Quaternions are (x, y, z, w) here, as in the original.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import mujoco
import numpy as np

from t2p.geometry.cameras import invert_transform
from t2p.geometry.rotations import matrix_to_quaternion
from t2p.sim.libero import rounding
from t2p.sim.libero.bddl import Problem
from t2p.sim.libero.names import Handles

# In this order in "robot0_proprio-state" [39].
ROBOT = (
    *("robot0_joint_pos", "robot0_joint_pos_cos", "robot0_joint_pos_sin", "robot0_joint_vel"),
    *("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos", "robot0_gripper_qvel"),
)


@dataclass(frozen=True)
class Snapshot:
    """What an observation is made of. qpos, qvel: the sampled state; positions: [nbody, 3], quaternions: [nbody, 4]
    (w, x, y, z), sites: [nsite, 3] and drawn: [nq], the state that those and pictures show."""

    qpos: np.ndarray
    qvel: np.ndarray
    positions: np.ndarray
    quaternions: np.ndarray
    sites: np.ndarray
    drawn: np.ndarray

    @staticmethod
    def of(data: mujoco.MjData, drawn: np.ndarray | None = None) -> Snapshot:
        """data: poses as they stand there, of the state `drawn`, or of the present one."""
        shown = data.qpos if drawn is None else drawn
        parts = (data.qpos, data.qvel, data.xpos, data.xquat, data.site_xpos, shown)
        return Snapshot(*(np.array(part) for part in parts))


def robot_state(snapshot: Snapshot, handles: Handles) -> dict[str, np.ndarray]:
    """ROBOT, float64: joints and fingers in rad and m, the grip site's position, the hand's orientation."""
    arm, qpos = handles.arm, snapshot.qpos
    joints = qpos[arm.qpos]
    return {
        "robot0_joint_pos": joints,
        "robot0_joint_pos_cos": np.cos(joints),
        "robot0_joint_pos_sin": np.sin(joints),
        "robot0_joint_vel": snapshot.qvel[arm.dofs],
        "robot0_eef_pos": snapshot.sites[arm.site],
        "robot0_eef_quat": np.roll(snapshot.quaternions[arm.hand], -1),
        "robot0_gripper_qpos": qpos[arm.fingers],
        "robot0_gripper_qvel": snapshot.qvel[arm.finger_dofs],
    }


def object_state(
    snapshot: Snapshot, handles: Handles, problem: Problem, robot: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Of each object its pose in the world and in the hand's frame. robot: of robot_state."""
    bodies = [handles.instances[name].body for name, _ in problem.objects]
    positions, quaternions = snapshot.positions[bodies], snapshot.quaternions[bodies]
    hand = _pose(robot["robot0_eef_pos"][None], np.roll(robot["robot0_eef_quat"], 1)[None])[0].astype(float)
    seen = invert_transform(hand) @ _pose(positions, quaternions)
    near, turned = seen[:, :3, 3], matrix_to_quaternion(seen[:, :3, :3])
    found = {}
    for i, (name, _) in enumerate(problem.objects):
        found[f"{name}_pos"], found[f"{name}_quat"] = positions[i], np.roll(quaternions[i], -1)
        found[f"{name}_to_robot0_eef_pos"] = near[i]
        found[f"{name}_to_robot0_eef_quat"] = np.roll(turned[i], -1).astype(np.float32)
    return found


def _pose(positions: np.ndarray, quaternions: np.ndarray) -> np.ndarray:
    """[n, 3] and [n, 4] -> [n, 4, 4], in single precision as the original has it."""
    poses = np.tile(np.eye(4, dtype=np.float32), (len(positions), 1, 1))
    poses[:, :3, :3], poses[:, :3, 3] = rounding.quaternion_to_matrix(quaternions), positions
    return poses


def observation(snapshot: Snapshot, handles: Handles, problem: Problem) -> dict[str, np.ndarray]:
    """All of the original's observations but pictures."""
    robot = robot_state(snapshot, handles)
    objects = object_state(snapshot, handles, problem, robot)
    whole = {
        "robot0_proprio-state": np.concatenate([robot[name] for name in ROBOT]),
        "object-state": np.concatenate(list(objects.values())),
    }
    return robot | objects | whole
