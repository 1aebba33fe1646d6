"""Policy steps of several LIBERO environments together: 25 times kinematics of each, control of all, dynamics of each.

Each physics step is one forward pass (mj_step1, mj_step2), where the original has three.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mujoco
import numpy as np

from t2p.sim.environment import refresh
from t2p.sim.libero import osc
from t2p.sim.libero.names import Arm
from t2p.sim.libero.observations import Snapshot
from t2p.sim.libero.osc import SUBSTEPS, Kinematics, Reader
from t2p.sim.libero.quirks import Quirks
from t2p.sim.world import write_state
from t2p.types import InitialState

# After which of a policy step's physics steps (0 to 24) the original samples its observations: the last, or the one
# before where the state was set by hand, which updates them once more (robosuite, observables: their clock drifts).
# Poses and pictures are by the kinematics of that step, which are of the state before it.
AFTER_RESET, AFTER_SETTING = 24, 23


@dataclass(frozen=True)
class Rig:
    """What all environments of a task share: the compiled model, where the arm is in it, the arm's nominal kinematics,
    and the bodies whose frames differ between episodes, [f]."""

    model: mujoco.MjModel
    arm: Arm
    nominal: Kinematics
    fixtures: np.ndarray
    quirks: Quirks

    @staticmethod
    def of(model: mujoco.MjModel, arm: Arm, fixtures: Sequence[int], quirks: Quirks) -> Rig:
        return Rig(model, arm, osc.nominal(model, arm), np.array(fixtures, int), quirks)


class Puppet:
    """One environment's physics under control. data: its state; frames: the fixtures' (positions [f, 3], quaternions
    [f, 4]); snapshot: what is observed of it; between steps the rest is the controller's memory."""

    def __init__(self, rig: Rig):
        self.rig, self.data = rig, mujoco.MjData(rig.model)
        self.reader = Reader(rig.model, self.data, rig.arm)
        self.frames = rig.model.body_pos[rig.fixtures].copy(), rig.model.body_quat[rig.fixtures].copy()
        self.renew(AFTER_RESET)

    def start(self, state: InitialState, sampled: int = AFTER_SETTING) -> None:
        """A new episode from a state: nothing of the one before is left. The controller's goal is the nominal pose, the
        fingers' command is in the middle."""
        model = self.rig.model
        write_state(model, self.data, state)
        self.frames = model.body_pos[self.rig.fixtures].copy(), model.body_quat[self.rig.fixtures].copy()
        self.renew(sampled)

    def renew(self, sampled: int) -> None:
        """What the controller and the observations remember when an episode starts."""
        nominal = self.rig.nominal
        self.goal = nominal.position[0].copy(), nominal.rotation[0].copy()
        self.grip, self.new = np.zeros(2), self.rig.quirks.first_substep
        self.sampled, self.drawn = sampled, self.data.qpos.copy()
        self.snapshot = Snapshot.of(self.data)

    def place(self) -> None:
        """Puts its fixtures into the shared model."""
        if len(self.rig.fixtures):
            self.rig.model.body_pos[self.rig.fixtures], self.rig.model.body_quat[self.rig.fixtures] = self.frames

    def aim(self, action: np.ndarray, see: tuple[np.ndarray, ...]) -> None:
        """Sets the goals for a policy step. see: Kinematics.row."""
        move = np.minimum(np.maximum(action[:6], -1), 1)
        position, rotation = see[:2]
        turned = self.goal[1] if self.rig.quirks.kept_orientation else rotation.copy()
        if move[3:].any():
            turned = osc.turn(osc.ROTATION * move[3:]) @ rotation
        self.goal = position + osc.TRANSLATION * move[:3], turned
        self.closing = np.sign(action[6]) * np.array([-1.0, 1.0])

    def squeeze(self) -> np.ndarray:
        """[2] the fingers' command in [-1, 1] in the next physics step."""
        self.grip = np.minimum(np.maximum(self.grip + osc.GRIP_SPEED * self.closing, -1), 1)
        return self.grip

    def note(self, substep: int) -> None:
        """After a physics step: keeps what will be observed."""
        if not self.rig.quirks.stale_observations:
            return
        if substep == self.sampled - 1:
            self.drawn = self.data.qpos.copy()
        elif substep == self.sampled:
            self.snapshot = Snapshot.of(self.data, self.drawn)

    def end(self) -> None:
        """After a policy step."""
        if not self.rig.quirks.stale_observations:
            refresh(self.rig.model, self.data)
            self.snapshot = Snapshot.of(self.data)


def step(puppets: Sequence[Puppet], actions: Sequence[np.ndarray], told: Callable[[], None] = lambda: None) -> None:
    """One policy step of all. actions: [7] each, in [-1, 1] (clipped); told: called after each physics step of all."""
    rig = puppets[0].rig
    model, arm = rig.model, rig.arm
    see, bias = Kinematics.empty(len(puppets)), np.zeros((len(puppets), 7))
    rows = [see.row(i) for i in range(len(puppets))]
    limits = model.actuator_ctrlrange[arm.torques].T.copy()
    middle, half = _fingers(model.actuator_ctrlrange[arm.grip])
    remembered = rig.nominal.row(0)
    ctrl = np.zeros((len(puppets), model.nu))
    order = np.concatenate([arm.torques, arm.grip])
    for substep in range(SUBSTEPS):
        for puppet, row, forces in zip(puppets, rows, bias, strict=True):
            puppet.place()
            mujoco.mj_step1(model, puppet.data)
            puppet.reader.read(row)
            forces[:] = puppet.reader.bias
        if substep == 0:
            for puppet, row, action in zip(puppets, rows, actions, strict=True):
                if puppet.new:
                    for into, value in zip(row, remembered, strict=True):
                        into[:] = value
                    puppet.new = False
                puppet.aim(action, row)
            positions = np.stack([puppet.goal[0] for puppet in puppets])
            rotations = np.stack([puppet.goal[1] for puppet in puppets])
        wanted = osc.torques(see, positions, rotations, bias)
        ctrl[:, order[:7]] = np.minimum(np.maximum(wanted, limits[0]), limits[1])
        ctrl[:, order[7:]] = middle + half * np.stack([puppet.squeeze() for puppet in puppets])
        for puppet, command in zip(puppets, ctrl, strict=True):
            puppet.data.ctrl[:] = command
            mujoco.mj_step2(model, puppet.data)
            puppet.note(substep)
        told()
    for puppet in puppets:
        puppet.end()


def _fingers(ranges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Middle and half width of [2, 2] ranges."""
    return ranges.mean(1), (ranges[:, 1] - ranges[:, 0]) / 2
