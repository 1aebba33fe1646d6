"""Operational-space control of the Panda as robosuite 1.4 does it (OSC_POSE, fixed impedance), for n environments at
once (Khatib 1987; robosuite, controllers/osc.py; LIBERO's settings).

An action [7] in [-1, 1] moves the goal of the grip site by up to 5 cm and 0.5 rad a policy step of 25 physics steps,
about the world's axes; its last number opens (-1) or closes (1) the gripper. All products are matrix by matrix, so that
an environment's numbers do not depend on how many others there are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import mujoco
import numpy as np

from t2p.sim.libero import rounding
from t2p.sim.libero.catalog import ARM_HOME
from t2p.sim.libero.names import Arm

SUBSTEPS = 25  # physics steps of 2 ms in a policy step: 20 Hz
NOMINAL = np.array(ARM_HOME)
TRANSLATION, ROTATION = 0.05, 0.5  # m and rad of an action of 1
STIFFNESS, POSTURE = 150.0, 10.0  # of the grip site and of the joints' pull to the nominal posture
DAMPING, POSTURE_DAMPING = 2 * math.sqrt(STIFFNESS), 2 * math.sqrt(POSTURE)  # critical
GRIP_SPEED = 0.01  # of the fingers' command in [-1, 1], in a physics step
ILL_CONDITIONED = 1e10

_HALVES = np.arange(2)
# Of a product of two rotations, as [9]: what its skew part is made of.
_ABOVE, _BELOW = np.array([5, 6, 1]), np.array([7, 2, 3])


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

    def put(self, row: int, other: Kinematics) -> None:
        """Makes one environment's the same as that of the single one in `other`."""
        for name, array in vars(self).items():
            array[row] = getattr(other, name)[0]


class Reader:
    """Where the controller's quantities are in one environment's MjData: views, looked up once."""

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, arm: Arm):
        # The arm's seven joints are a chain of hinges: contiguous, each the child of the one before.
        first, place = int(arm.dofs[0]), int(arm.qpos[0])
        self.arm, self.nv, joints = arm, model.nv, slice(first, first + 7)
        self.joints, block = joints, inertia_block(model, arm)
        inertia, row, end = data.qM if hasattr(data, "qM") else data.M, int(block.min()), int(block.max()) + 1
        self.block = block - row
        self.differentiate = partial(mujoco.mj_jacSite, model, data)
        self.views = (
            data.site_xpos[arm.site],
            data.site_xmat[arm.site].reshape(3, 3),
            inertia[row:end],
            data.qpos[place : place + 7],
            data.qvel[joints],
            data.qfrc_bias[joints],
        )


class Senses:
    """Reads the kinematics of n environments. `look(i)` copies those of one, after mj_step1 (or mj_forward); bias:
    [n, 7], Coriolis forces and gravity, likewise."""

    def __init__(self, readers: Sequence[Reader]):
        n, one = len(readers), readers[0]
        self._site, self._differentiate = one.arm.site, [reader.differentiate for reader in readers]
        self._stacks = [np.zeros((n, *view.shape)) for view in one.views]
        self._jacobian, self.bias = np.zeros((n, 6, one.nv)), self._stacks[-1]
        self._halves = [(jacobian[:3], jacobian[3:]) for jacobian in self._jacobian]
        self._copies = [
            [(stack[i], view) for stack, view in zip(self._stacks, reader.views, strict=True)]
            for i, reader in enumerate(readers)
        ]
        self._columns = self._jacobian[:, :, one.joints]
        self._entries = self._stacks[2].shape[1] * np.arange(n)[:, None, None] + one.block

    def look(self, i: int) -> None:
        self._differentiate[i](*self._halves[i], self._site)
        for into, view in self._copies[i]:
            into[...] = view

    def kinematics(self) -> Kinematics:
        """Of all, as they were looked at last; valid until the next look."""
        position, rotation, inertia, q, qd, _ = self._stacks
        return Kinematics(position, rotation, self._columns, inertia.take(self._entries), q, qd)


def inertia_block(model: mujoco.MjModel, arm: Arm) -> np.ndarray:
    """[7, 7] where in the sparse inertia the arm's block stands: a row holds a joint and its ancestors, the nearest
    first (MjData.qM), or the farthest first (MjData.M of newer MuJoCo)."""
    high = np.maximum(np.arange(7)[:, None], np.arange(7))
    low = np.minimum(np.arange(7)[:, None], np.arange(7))
    if hasattr(mujoco.MjData, "qM"):
        return model.dof_Madr[arm.dofs][high] + high - low
    return model.M_rowadr[arm.dofs][high] + low


def nominal(model: mujoco.MjModel, arm: Arm) -> Kinematics:
    """[1, ...] the arm in its nominal pose, everything else where the model has it: what the controller of a new
    environment remembers."""
    data = mujoco.MjData(model)
    data.qpos[arm.qpos] = NOMINAL
    mujoco.mj_forward(model, data)
    senses = Senses([Reader(model, data, arm)])
    senses.look(0)
    return senses.kinematics()


def turn(vectors: np.ndarray) -> np.ndarray:
    """Axes times angles [n, 3] -> matrices [n, 3, 3], through quaternions in single precision."""
    angles = np.sqrt((vectors**2).sum(1, keepdims=True))
    axes = vectors / np.where(angles, angles, 1.0)
    cos, sin = (np.array([f(angle / 2) for angle in angles.ravel()]) for f in (math.cos, math.sin))
    return rounding.quaternion_to_matrix(np.concatenate([cos[:, None], axes * sin[:, None]], axis=1))


def torques(see: Kinematics, position: np.ndarray, rotation: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """[n, 7] before limits. position: [n, 3] and rotation: [n, 3, 3], the goals; bias: [n, 7], Coriolis forces and
    gravity as they are now."""
    jacobian, back = see.jacobian, see.jacobian.swapaxes(1, 2)
    error = np.concatenate([position - see.position, rotation_error(see.rotation, rotation)], axis=1)
    wanted = STIFFNESS * error - DAMPING * (jacobian @ see.qd[..., None])[..., 0]
    spread = np.linalg.solve(see.inertia, back)  # [n, 7, 6]
    mobility = jacobian @ spread
    # Linear and angular motion are treated as if neither moved the other.
    halves = mobility.reshape(-1, 2, 3, 2, 3)[:, _HALVES, :, _HALVES]  # [2, n, 3, 3]
    wrench = invert(halves) @ wanted.reshape(-1, 2, 3, 1).swapaxes(0, 1)
    # Of the pull to the nominal posture, only what does not move the hand: N^T t, N = 1 - M^-1 J^T L J.
    pull = see.inertia @ (POSTURE * (NOMINAL - see.q) - POSTURE_DAMPING * see.qd)[..., None]
    felt = invert(mobility) @ (spread.swapaxes(1, 2) @ pull)
    return (back @ (wrench.swapaxes(0, 1).reshape(-1, 6, 1) - felt) + pull)[..., 0] + bias


def rotation_error(here: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """[n, 3, 3] twice -> [n, 3]: half the sum of the cross products of the columns."""
    product = (here @ goal.swapaxes(1, 2)).reshape(-1, 9)
    return 0.5 * (product.take(_ABOVE, axis=1) - product.take(_BELOW, axis=1))


def invert(matrices: np.ndarray) -> np.ndarray:
    """[..., k, k]: the inverse; the pseudo-inverse (which the original takes everywhere) where that is no good."""
    try:
        found = np.linalg.inv(matrices)
    except np.linalg.LinAlgError:  # one of them is singular: the others' numbers must not depend on it
        found = np.full_like(matrices, np.inf)
        for at in np.ndindex(matrices.shape[:-2]):
            with suppress(np.linalg.LinAlgError):
                found[at] = np.linalg.inv(matrices[at])
    if not np.abs(matrices).max() * np.abs(found).max() < ILL_CONDITIONED:
        size = np.abs(matrices).max((-2, -1)) * np.abs(found).max((-2, -1))
        for at in map(tuple, np.argwhere(~(size < ILL_CONDITIONED))):
            if np.isfinite(matrices[at]).all():
                found[at] = np.linalg.pinv(matrices[at])
    return found
