"""Operational-space control of the Panda as robosuite 1.4 does it (OSC_POSE, fixed impedance), for n environments at
once (Khatib 1987; robosuite, controllers/osc.py; LIBERO's settings).

An action [7] in [-1, 1] moves the goal of the grip site by up to 5 cm and 0.5 rad a policy step of 25 physics steps,
about the world's axes; its last number opens (-1) or closes (1) the gripper. All products are matrix by matrix, so that
an environment's numbers do not depend on how many others there are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import mujoco
import numpy as np

from t2p.sim.libero.catalog import ARM_HOME
from t2p.sim.libero.names import Arm

SUBSTEPS = 25  # physics steps of 2 ms in a policy step: 20 Hz
NOMINAL = np.array(ARM_HOME)
TRANSLATION, ROTATION = 0.05, 0.5  # m and rad of an action of 1
STIFFNESS, POSTURE = 150.0, 10.0  # of the grip site and of the joints' pull to the nominal posture
DAMPING, POSTURE_DAMPING = 2 * math.sqrt(STIFFNESS), 2 * math.sqrt(POSTURE)  # critical
GRIP_SPEED = 0.01  # of the fingers' command in [-1, 1], in a physics step
ILL_CONDITIONED = 1e10


@dataclass(frozen=True)
class Kinematics:
    """What the controller sees of n environments. position: [n, 3] and rotation: [n, 3, 3] of the grip site; jacobian:
    [n, 6, 7] linear above angular; inertia: [n, 7, 7]; q, qd: [n, 7] rad, rad/s."""

    position: np.ndarray
    rotation: np.ndarray
    jacobian: np.ndarray
    inertia: np.ndarray
    q: np.ndarray
    qd: np.ndarray

    @staticmethod
    def empty(n: int) -> Kinematics:
        shapes = ((3,), (3, 3), (6, 7), (7, 7), (7,), (7,))
        return Kinematics(*(np.zeros((n, *shape)) for shape in shapes))

    def row(self, at: int) -> tuple[np.ndarray, ...]:
        """The arrays of one environment, in the fields' order."""
        return tuple(array[at] for array in vars(self).values())


class Reader:
    """Copies one environment's kinematics out of an MjData; its views are looked up once."""

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, arm: Arm):
        self.model, self.data, self.site = model, data, arm.site
        self.jacobian = np.zeros((6, model.nv))
        self.linear, self.angular = self.jacobian[:3], self.jacobian[3:]
        self.position, self.rotation = data.site_xpos[arm.site], data.site_xmat[arm.site].reshape(3, 3)
        # The arm's seven joints are the first of the model and a chain: contiguous, each the child of the one before.
        joints = slice(int(arm.dofs[0]), int(arm.dofs[-1]) + 1)
        self.columns = self.jacobian[:, joints]
        self.q = data.qpos[int(arm.qpos[0]) : int(arm.qpos[-1]) + 1]
        self.qd, self.bias = data.qvel[joints], data.qfrc_bias[joints]
        self.inertia, self.block = data.qM, inertia_block(model, arm)

    def read(self, into: tuple[np.ndarray, ...]) -> None:
        """After mj_step1 (or mj_forward)."""
        position, rotation, jacobian, inertia, q, qd = into
        mujoco.mj_jacSite(self.model, self.data, self.linear, self.angular, self.site)
        position[:], rotation[:], jacobian[:], q[:], qd[:] = (
            self.position,
            self.rotation,
            self.columns,
            self.q,
            self.qd,
        )
        np.take(self.inertia, self.block, out=inertia)


def inertia_block(model: mujoco.MjModel, arm: Arm) -> np.ndarray:
    """[7, 7] where in the sparse inertia (MjData.qM) the arm's block stands: a row holds a joint and its ancestors, the
    nearest first."""
    high = np.maximum(np.arange(7)[:, None], np.arange(7))
    low = np.minimum(np.arange(7)[:, None], np.arange(7))
    return model.dof_Madr[arm.dofs][high] + high - low


def nominal(model: mujoco.MjModel, arm: Arm) -> Kinematics:
    """[1, ...] the arm in its nominal pose, everything else where the model has it: what the controller of a new
    environment remembers."""
    data = mujoco.MjData(model)
    data.qpos[arm.qpos] = NOMINAL
    mujoco.mj_forward(model, data)
    found = Kinematics.empty(1)
    Reader(model, data, arm).read(found.row(0))
    return found


def turn(vector: np.ndarray) -> np.ndarray:
    """Axis times angle [3] -> matrix [3, 3], through a quaternion in single precision (robosuite, transform_utils:
    quat2mat), whose rounding the recorded states show."""
    angle = math.sqrt(vector @ vector)
    if angle == 0.0:
        return np.eye(3)
    quaternion = np.append(math.cos(angle / 2), vector / angle * math.sin(angle / 2)).astype(np.float32)
    scale = math.sqrt(2.0 / float(np.dot(quaternion, quaternion)))
    quaternion = (quaternion.astype(float) * scale).astype(np.float32)
    p = np.outer(quaternion, quaternion)
    x, y, z = (float(p[i, i]) for i in (1, 2, 3))
    return np.array(
        [
            [1.0 - y - z, p[1, 2] - p[3, 0], p[1, 3] + p[2, 0]],
            [p[1, 2] + p[3, 0], 1.0 - x - z, p[2, 3] - p[1, 0]],
            [p[1, 3] - p[2, 0], p[2, 3] + p[1, 0], 1.0 - x - y],
        ]
    )


def torques(see: Kinematics, position: np.ndarray, rotation: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """[n, 7] before limits. position: [n, 3] and rotation: [n, 3, 3], the goals; bias: [n, 7], Coriolis forces and
    gravity as they are now."""
    jacobian, back = see.jacobian, see.jacobian.swapaxes(1, 2)
    moving = (jacobian @ see.qd[..., None])[..., 0]
    force = STIFFNESS * (position - see.position) - DAMPING * moving[:, :3]
    torque = STIFFNESS * rotation_error(see.rotation, rotation) - DAMPING * moving[:, 3:]
    inverse = np.linalg.inv(see.inertia)
    spread = inverse @ back  # [n, 7, 6]
    mobility = jacobian @ spread
    wrench = np.concatenate(
        [
            invert(mobility[:, :3, :3]) @ force[..., None],
            invert(mobility[:, 3:, 3:]) @ torque[..., None],
        ],
        axis=1,
    )
    # Of the pull to the nominal posture, only what does not move the hand: N^T t, N = 1 - M^-1 J^T L J.
    pull = see.inertia @ (POSTURE * (NOMINAL - see.q) - POSTURE_DAMPING * see.qd)[..., None]
    felt = invert(mobility) @ (spread.swapaxes(1, 2) @ pull)
    return (back @ (wrench - felt) + pull)[..., 0] + bias


def rotation_error(here: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """[n, 3, 3] twice -> [n, 3]: half the sum of the cross products of the columns."""
    a, b = here.swapaxes(1, 2), goal.swapaxes(1, 2)  # rows are columns now
    cross = a[..., (1, 2, 0)] * b[..., (2, 0, 1)] - a[..., (2, 0, 1)] * b[..., (1, 2, 0)]
    return 0.5 * (cross[:, 0] + cross[:, 1] + cross[:, 2])


def invert(matrices: np.ndarray) -> np.ndarray:
    """[n, k, k]: the inverse; the pseudo-inverse (which the original takes everywhere) where that would be no good."""
    try:
        found = np.linalg.inv(matrices)
    except np.linalg.LinAlgError:  # one of them is singular: the others' numbers must not depend on it
        found = np.stack([_inverse(one) for one in matrices])
    size = np.abs(matrices).max((1, 2)) * np.abs(found).max((1, 2))
    for bad in np.flatnonzero(~(size < ILL_CONDITIONED)):
        if np.isfinite(matrices[bad]).all():
            found[bad] = np.linalg.pinv(matrices[bad])
    return found


def _inverse(matrix: np.ndarray) -> np.ndarray:
    try:
        return np.linalg.inv(matrix)
    except np.linalg.LinAlgError:
        return np.full_like(matrix, np.inf)
