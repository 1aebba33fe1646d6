"""Policy steps of several LIBERO environments together: 25 times kinematics of each, control of all, dynamics of each.

Each physics step is one forward pass (mj_step1, mj_step2), where the original has three; of the other two only that is
done which leaves a trace, the constraint solver.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mujoco
import numpy as np

from t2p.sim.environment import refresh
from t2p.sim.libero import osc
from t2p.sim.libero.names import Arm
from t2p.sim.libero.observations import Snapshot
from t2p.sim.libero.osc import SUBSTEPS, Kinematics, Reader, Senses
from t2p.sim.libero.quirks import Quirks
from t2p.sim.world import write_state
from t2p.types import InitialState

# After which of a policy step's physics steps (0 to 24) the original samples its observations: the last, or the one
# before where the state was set by hand, which updates them once more (robosuite, observables: their clock drifts).
# Poses and pictures are by the kinematics of that step, which are of the state before it.
AFTER_RESET, AFTER_SETTING = 24, 23
# Iterations of a solver that begins at the solution; physics steps after others in which it may still be elsewhere.
CONVERGED, UNSETTLED = 2, 5


@dataclass(frozen=True)
class Rig:
    """What all environments of a task share: the compiled model, of which each environment has its own bodies' frames;
    where the arm is in it; the arm's nominal kinematics."""

    model: mujoco.MjModel
    arm: Arm
    nominal: Kinematics
    quirks: Quirks

    @staticmethod
    def of(model: mujoco.MjModel, arm: Arm, quirks: Quirks) -> Rig:
        return Rig(model, arm, osc.nominal(model, arm), quirks)


class Puppet:
    """One environment's physics under control. data: its state; frames: the bodies' (positions [nbody, 3], quaternions
    [nbody, 4]); snapshot: what is observed of it; between steps the rest is the controller's memory."""

    def __init__(self, rig: Rig):
        self.rig, self.data = rig, mujoco.MjData(rig.model)
        mujoco.mj_forward(rig.model, self.data)
        self.reader = Reader(rig.model, self.data, rig.arm)
        islands = None if hasattr(mujoco.mjtDisableBit, "mjDSBL_ISLAND") else 1  # newer MuJoCo solves for each apart
        self._repeats, self._iterations = rig.quirks.repeated_solves, self.data.solver_niter[:islands]
        self._found, self._first = self.data.qacc, self.data.qacc_warmstart
        self._ctrl, self._places = self.data.ctrl, (rig.model.body_pos, rig.model.body_quat)
        self.frames = rig.model.body_pos.copy(), rig.model.body_quat.copy()
        self.renew(AFTER_RESET)

    def start(self, state: InitialState, sampled: int = AFTER_SETTING) -> None:
        """A new episode from a state: nothing of the one before is left. The controller's goal is the nominal pose, the
        fingers' command is in the middle."""
        model = self.rig.model
        write_state(model, self.data, state)
        self.frames = model.body_pos.copy(), model.body_quat.copy()
        self.renew(sampled)

    def renew(self, sampled: int) -> None:
        """What the controller and the observations remember when an episode starts."""
        nominal = self.rig.nominal
        self.goal = nominal.rotation[0].copy()
        self.grip, self.new = np.zeros(2), self.rig.quirks.first_substep
        self.sampled, self.drawn = sampled, self.data.qpos.copy()
        self.snapshot = Snapshot.of(self.data)
        self._rows, self._unsettled = -1, 0

    def place(self) -> None:
        """Puts its bodies' frames into the shared model."""
        for into, frames in zip(self._places, self.frames, strict=True):
            into[...] = frames

    def begin(self) -> None:
        """The first half of a physics step."""
        self.place()
        iterations = max(self._iterations.tolist())
        mujoco.mj_step1(self.rig.model, self.data)
        rows, before = self.data.nefc, self._rows
        self._rows = rows
        self._unsettled = UNSETTLED if rows != before or iterations > CONVERGED else self._unsettled - 1
        if self._repeats == "always" or (self._repeats == "needed" and self._unsettled >= 0):
            self._solve(1 if self.new else 2)  # a new controller does not look

    def _solve(self, times: int) -> None:
        """Contacts' forces under the present command: what the next solver begins with."""
        model, data = self.rig.model, self.data
        mujoco.mj_fwdActuation(model, data), mujoco.mj_fwdAcceleration(model, data)
        for _ in range(times):
            mujoco.mj_fwdConstraint(model, data)
            self._first[...] = self._found  # from MuJoCo 3.3.6 on only a whole step does so itself

    def finish(self, ctrl: np.ndarray) -> None:
        """The second half of a physics step."""
        self._ctrl[...] = ctrl
        mujoco.mj_step2(self.rig.model, self.data)

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


def step(
    puppets: Sequence[Puppet], actions: Sequence[np.ndarray], told: Callable[[], None] = lambda: None
) -> tuple[float, float]:
    """One policy step of all. actions: [7] each, in [-1, 1] (clipped); told: called after each physics step of all.
    -> seconds in physics and in the controller, of all together."""
    clock = time.perf_counter
    physics, control, began = 0.0, 0.0, clock()
    rig = puppets[0].rig
    senses = Senses([puppet.reader for puppet in puppets])
    ctrl, grips = np.zeros((len(puppets), rig.model.nu)), np.stack([puppet.grip for puppet in puppets])
    limits, fingers = (rig.model.actuator_ctrlrange[which] for which in (rig.arm.torques, rig.arm.grip))
    middle, half = fingers.mean(1), (fingers[:, 1] - fingers[:, 0]) / 2
    closing = osc.GRIP_SPEED * np.sign(np.stack(actions)[:, 6:]) * (-1.0, 1.0)
    for substep in range(SUBSTEPS):
        ready = clock()
        for puppet in puppets:
            puppet.begin()
        stood = clock()
        for i in range(len(puppets)):
            senses.look(i)
        see = senses.kinematics()
        if substep == 0:
            goals = _aim(puppets, actions, see)
        wanted = osc.torques(see, *goals, senses.bias)
        ctrl[:, rig.arm.torques] = np.minimum(np.maximum(wanted, limits[:, 0]), limits[:, 1])
        grips = np.minimum(np.maximum(grips + closing, -1), 1)
        ctrl[:, rig.arm.grip] = middle + half * grips
        sent = clock()
        for puppet, command in zip(puppets, ctrl, strict=True):
            puppet.finish(command)
            puppet.note(substep)
        moved = clock()
        physics, control = physics + stood - ready + moved - sent, control + ready - began + sent - stood
        told()
        began = clock()
    for puppet, grip in zip(puppets, grips, strict=True):
        puppet.grip = grip
        puppet.end()
    return physics, control


def _aim(puppets: Sequence[Puppet], actions: Sequence[np.ndarray], see: Kinematics) -> tuple[np.ndarray, np.ndarray]:
    """-> (positions [n, 3], rotations [n, 3, 3]) to reach in this policy step. Puts into `see` what new controllers
    remember."""
    for i, puppet in enumerate(puppets):
        if puppet.new:
            see.put(i, puppet.rig.nominal)
            puppet.new = False
    moves = np.minimum(np.maximum(np.stack(actions)[:, :6], -1), 1)
    positions = see.position + osc.TRANSLATION * moves[:, :3]
    kept = puppets[0].rig.quirks.kept_orientation
    rotations = np.stack([puppet.goal for puppet in puppets]) if kept else see.rotation.copy()
    turned = moves[:, 3:].any(1)
    rotations[turned] = (osc.turn(osc.ROTATION * moves[:, 3:]) @ see.rotation)[turned]
    for puppet, rotation in zip(puppets, rotations, strict=True):
        puppet.goal = rotation
    return positions, rotations
