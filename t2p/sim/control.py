"""Moving a robot: inverse kinematics and the controllers that turn a policy's action into actuator commands.

A controller is a plain dataclass: `start(model, data, action)` takes one action, then `commands(model, data)` gives the
commands of `arm.controls` (arm joints, gripper) before every physics step, until the action is over:

    controller.start(model, data, action)
    for _ in drive(controller, model, data):
        ...  # after every physics step

Between actions a controller's fields are all it remembers, so environments can be advanced in any order, though not
in several threads: an Arm's scratch data is used by all controllers that hold it. Poses are of the tool site in the
world, metres; rotations are matrices whose columns are the tool's axes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

import mujoco
import numpy as np

from t2p.geometry.rotations import matrix_from_6d
from t2p.io import UserError
from t2p.sim.robots.base import Robot

Pose = tuple[np.ndarray, np.ndarray]  # position [3], rotation [3, 3]

# 3PoinTr's values (released code): inverse kinematics, low-pass, when a waypoint counts as reached.
IK_ITERATIONS, IK_DAMPING, IK_STEP = 550, 1e-2, 0.6
IK_POSITION, IK_ROTATION = 1e-4, 1e-3  # m, rad: solved when both errors are below
LOW_PASS = 0.03  # share of the way to its goal that the joint command moves in one physics step
REACHED_JOINTS, REACHED_POSITION, REACHED_ROTATION = 0.035, 0.01, np.deg2rad(3.0)  # rad, m, rad
REACHED_STEPS, TIMEOUT, GRIPPER_STEPS = 6, 2.0, 200  # physics steps, s, physics steps
# An iteration does not ask for more than this at once: the Jacobian holds only nearby.
_IK_FAR = np.array([0.2, 0.2, 0.2, 0.5, 0.5, 0.5])
_IK_DAMPED = IK_DAMPING**2 * np.eye(6)


@dataclass(frozen=True)
class Arm:
    """A robot as it stands in a compiled model.

    With n joints (7; a floating hand has 6, three of them slides, in metres): joints: [n] indices into qpos; dofs: [n]
    into qvel; controls: [n + 1] into ctrl, arm joints and then the gripper; tool: index of the tool site; limits:
    [n, 2] rad. scratch: this arm's own MjData for inverse kinematics."""

    robot: Robot
    joints: np.ndarray
    dofs: np.ndarray
    controls: np.ndarray
    tool: int
    limits: np.ndarray
    scratch: Scratch = field(repr=False, compare=False)


class Scratch:
    """An MjData for inverse kinematics, and views of what it reads there: looking them up again takes as long as
    computing them."""

    def __init__(self, model: mujoco.MjModel, tool: int):
        self.data = mujoco.MjData(model)
        self.qpos, self.position = self.data.qpos, self.data.site_xpos[tool]
        self.rotation = self.data.site_xmat[tool].reshape(3, 3)
        self.jacobian = np.zeros((6, model.nv))
        self.linear, self.angular = self.jacobian[:3], self.jacobian[3:]


def find_arm(model: mujoco.MjModel, robot: Robot, prefix: str = "robot/") -> Arm:
    """Looks a robot up in a compiled model by its names. UserError if it was not attached with this prefix."""

    def index(kind: mujoco.mjtObj, name: str) -> int:
        found = mujoco.mj_name2id(model, kind, prefix + name)
        if found < 0:
            raise UserError(f"the model has no {prefix + name}: was {robot.name} attached with the prefix {prefix!r}?")
        return found

    joints = [index(mujoco.mjtObj.mjOBJ_JOINT, name) for name in robot.joints]
    controls = [index(mujoco.mjtObj.mjOBJ_ACTUATOR, name) for name in (*robot.actuators, robot.gripper)]
    tool = index(mujoco.mjtObj.mjOBJ_SITE, robot.tool)
    return Arm(
        robot=robot,
        joints=model.jnt_qposadr[joints].astype(int),
        dofs=model.jnt_dofadr[joints].astype(int),
        controls=np.array(controls),
        tool=tool,
        limits=model.jnt_range[joints].copy(),
        scratch=Scratch(model, tool),
    )


def tool_pose(arm: Arm, data: mujoco.MjData) -> Pose:
    """The tool's pose as MuJoCo last computed it (after mj_step: that of the step's beginning)."""
    return data.site_xpos[arm.tool].copy(), data.site_xmat[arm.tool].reshape(3, 3).copy()


def forward(arm: Arm, model: mujoco.MjModel, joints: np.ndarray) -> Pose:
    """The tool's pose at arm joints [7] (rad)."""
    scratch = arm.scratch
    scratch.qpos[arm.joints] = joints
    mujoco.mj_kinematics(model, scratch.data)
    return scratch.position.copy(), scratch.rotation.copy()


def rotation_vector(rotation: np.ndarray) -> np.ndarray:
    """Matrix [3, 3] -> axis times angle [3], angle in [0, pi]."""
    quat, vector = np.empty(4), np.empty(3)
    mujoco.mju_mat2Quat(quat, rotation.ravel())
    mujoco.mju_quat2Vel(vector, quat, 1.0)
    return vector


def rotation_matrix(vector: np.ndarray) -> np.ndarray:
    """Axis times angle [3] -> matrix [3, 3]."""
    quat, matrix = np.empty(4), np.empty(9)
    angle = length(vector)
    mujoco.mju_axisAngle2Quat(quat, vector / angle if angle else np.array([1.0, 0.0, 0.0]), angle)
    mujoco.mju_quat2Mat(matrix, quat)
    return matrix.reshape(3, 3)


@dataclass(frozen=True)
class Solution:
    """What inverse kinematics found. joints: [7] rad, always within limits; errors: what is left, m and rad."""

    joints: np.ndarray
    converged: bool
    iterations: int
    position_error: float
    rotation_error: float


def inverse(
    arm: Arm,
    model: mujoco.MjModel,
    pose: Pose,
    start: np.ndarray,
    iterations: int = IK_ITERATIONS,
    step: float = IK_STEP,
) -> Solution:
    """Damped least squares from `start` [7]: dq = step J^T (J J^T + damping^2 I)^-1 error, within the joints' limits.

    Ends as soon as position and rotation are within IK_POSITION and IK_ROTATION, or unconverged after `iterations`;
    there are no restarts, so that the answer is near the start and the same on every run."""
    (position, rotation), (low, high), scratch = pose, arm.limits.T, arm.scratch
    joints, iteration = _within(start, low, high), 0
    towards, error = np.empty(6), np.empty(6)
    while True:
        here, turned = forward(arm, model, joints)
        error[:3], error[3:] = shift, turn = position - here, rotation_vector(rotation @ turned.T)
        far, tilted = length(shift), length(turn)
        solved = far < IK_POSITION and tilted < IK_ROTATION
        if solved or iteration == iterations:
            return Solution(joints, solved, iteration, far, tilted)
        mujoco.mj_comPos(model, scratch.data)
        mujoco.mj_jacSite(model, scratch.data, scratch.linear, scratch.angular, arm.tool)
        j = scratch.jacobian.take(arm.dofs, axis=1)
        factor = j @ j.T + _IK_DAMPED
        mujoco.mju_cholFactor(factor, 0.0)  # np.linalg.solve takes ten times as long
        mujoco.mju_cholSolve(towards, factor, _within(error, -_IK_FAR, _IK_FAR))
        joints, iteration = _within(joints + step * (towards @ j), low, high), iteration + 1


def length(vector: np.ndarray) -> float:
    """Of a vector [n]; np.linalg.norm takes several times as long."""
    return math.sqrt(vector @ vector)


def _within(values: np.ndarray, low: np.ndarray | float, high: np.ndarray | float) -> np.ndarray:
    """Values clipped; np.clip takes several times as long."""
    return np.minimum(np.maximum(values, low), high)


class Controller(Protocol):
    """What every controller offers; see the module's head."""

    @property
    def arm(self) -> Arm: ...

    def start(self, model: mujoco.MjModel, data: mujoco.MjData, action: np.ndarray) -> None: ...

    def commands(self, model: mujoco.MjModel, data: mujoco.MjData) -> Iterator[np.ndarray]:
        """-> [n + 1] commands of arm.controls, one before every physics step until the action is over. Between two of
        them `data` has moved on by a step, so that they may depend on it."""


def drive(
    controller: Controller, model: mujoco.MjModel, data: mujoco.MjData, clocks: np.ndarray | None = None
) -> Iterator[None]:
    """Physics until the controller is done with its action; gives after every step. clocks: [2 or more], to which the
    seconds in physics (mj_step) and in the controller are added."""
    clock, ctrl, controls = time.perf_counter, data.ctrl, controller.arm.controls
    physics, control, began = 0.0, 0.0, clock()
    for command in controller.commands(model, data):
        ctrl[controls] = command
        ready = clock()
        mujoco.mj_step(model, data)
        stepped = clock()
        physics, control = physics + stepped - ready, control + ready - began
        yield
        began = clock()
    if clocks is not None:
        clocks[:2] += physics, control


@dataclass
class JointControl:
    """Holds or moves the arm's joints: the command nears `goal` [7] by `rate` of what is left in each physics step.

    gripper: the gripper actuator's command, passed on as it is."""

    arm: Arm
    command: np.ndarray
    goal: np.ndarray
    gripper: float
    rate: float = LOW_PASS

    @staticmethod
    def hold(arm: Arm, data: mujoco.MjData, rate: float = LOW_PASS) -> JointControl:
        """Stays where the arm is, gripper open."""
        here = data.qpos[arm.joints].copy()
        return JointControl(arm, here, here.copy(), arm.robot.gripper_open, rate)

    def commands(self, steps: int) -> Iterator[np.ndarray]:
        """-> [8] commands of arm.controls, for so many physics steps."""
        left = (1 - self.rate) ** np.arange(1, steps + 1)
        path = np.empty((steps, len(self.goal) + 1))
        path[:, :-1] = self.goal + left[:, None] * (self.command - self.goal)
        path[:, -1] = self.gripper
        for command in path:
            self.command = command[:-1]
            yield command


@dataclass
class SetpointPose:
    """One action is a whole waypoint: the arm goes to a pose until it has settled there or 2 s are over, then the
    gripper opens or closes and 200 physics steps pass (3PoinTr, released code).

    Action [10]: position (m), 6D rotation (the first two columns of the tool's rotation matrix), gripper (0 open, 1
    closed, parted at 0.5). until: reached when the "joints" are within 0.035 rad of the solution (rollouts), or the
    "tool" within 1 cm and 3 degrees (recording demonstrations), for 6 steps on end. A pose that inverse kinematics
    cannot solve is skipped whole: the arm stays, the gripper keeps its command, `skipped` is True.
    """

    joints: JointControl
    until: Literal["joints", "tool"] = "joints"
    pose: Pose | None = None
    gripper: float = 0.0
    skipped: bool = False
    reached: bool = False

    @staticmethod
    def hold(arm: Arm, data: mujoco.MjData, until: Literal["joints", "tool"] = "joints") -> SetpointPose:
        """Starts from where the arm is, gripper open."""
        if until not in ("joints", "tool"):
            raise UserError(f'until must be "joints" or "tool"; got {until!r}')
        return SetpointPose(JointControl.hold(arm, data), until)

    @property
    def arm(self) -> Arm:
        return self.joints.arm

    def start(self, model: mujoco.MjModel, data: mujoco.MjData, action: np.ndarray) -> None:
        action = _finite(action, 10, "a setpoint (position, 6D rotation, gripper)")
        robot = self.arm.robot
        self.pose = action[:3], orthonormal(action[3:9])
        self.gripper = robot.gripper_closed if action[9] > 0.5 else robot.gripper_open
        solution = inverse(self.arm, model, self.pose, self.joints.goal)
        self.skipped, self.reached = not solution.converged, False
        if solution.converged:
            self.joints.goal = solution.joints

    def commands(self, model: mujoco.MjModel, data: mujoco.MjData) -> Iterator[np.ndarray]:
        if self.skipped:
            return
        way, settled = self.joints.commands(math.ceil(TIMEOUT / model.opt.timestep)), 0
        while True:
            settled = settled + 1 if self._near(data) else 0
            self.reached = settled >= REACHED_STEPS
            command = None if self.reached else next(way, None)
            if command is None:
                break
            yield command
        self.joints.gripper = self.gripper
        yield from self.joints.commands(GRIPPER_STEPS)

    def _near(self, data: mujoco.MjData) -> bool:
        if self.until == "joints":
            left = data.qpos[self.arm.joints] - self.joints.goal
            return max(map(abs, left.tolist())) < REACHED_JOINTS  # every physics step: NumPy takes twice as long
        assert self.pose is not None  # set by start, which alone leads here
        position, rotation = tool_pose(self.arm, data)
        angle = length(rotation_vector(self.pose[1] @ rotation.T))
        return length(self.pose[0] - position) < REACHED_POSITION and angle < REACHED_ROTATION


# How far the commanded pose may run ahead of the tool: against an obstacle the arm pushes, but no harder with time.
OSC_LEAD_POSITION, OSC_LEAD_ROTATION = 0.1, 0.6  # m, rad
OSC_RATE = 0.1  # the joint command covers 93 % of its way within one action of 25 steps
OSC_PERIOD = 0.05  # s per action: 20 Hz
OSC_ITERATIONS, OSC_STEP = 20, 1.0  # inverse kinematics starts next to its goal: full steps, some four of them


@dataclass
class OscDelta:
    """One action moves the commanded tool pose a little, 20 times a second.

    Action [7] in [-1, 1] (clipped): translation along the world's axes times `scale`[:3] metres, rotation about the
    world's axes times `scale`[3:] radians, gripper (above 0 closes, below 0 opens, 0 keeps it). Moves add to the pose
    commanded so far, not to the measured one, so that they sum up exactly; where the arm cannot follow (out of reach,
    or blocked by more than 10 cm or 0.6 rad) the commanded pose is what it can reach.
    """

    joints: JointControl
    scale: np.ndarray
    pose: Pose

    @staticmethod
    def hold(
        arm: Arm, model: mujoco.MjModel, data: mujoco.MjData, scale: tuple[float, ...] = (0.05,) * 3 + (0.5,) * 3
    ) -> OscDelta:
        """Starts from where the arm is, gripper open. scale: [6] metres and radians per action at 1 (LIBERO's)."""
        values = _finite(np.asarray(scale), 6, "scale (3 in metres, 3 in radians)")
        if (values <= 0).any():
            raise UserError(f"scale must be positive; got {values.tolist()}")
        joints = JointControl.hold(arm, data, OSC_RATE)
        return OscDelta(joints, values, forward(arm, model, joints.goal))

    @property
    def arm(self) -> Arm:
        return self.joints.arm

    def start(self, model: mujoco.MjModel, data: mujoco.MjData, action: np.ndarray) -> None:
        action = _finite(action, 7, "a relative action (translation, rotation, gripper)")
        move = self.scale * _within(action[:6], -1.0, 1.0)
        pose = self.pose[0] + move[:3], rotation_matrix(move[3:]) @ self.pose[1]
        wanted = _lead(pose, forward(self.arm, model, data.qpos[self.arm.joints]))
        solution = inverse(self.arm, model, wanted, self.joints.goal, OSC_ITERATIONS, OSC_STEP)
        self.joints.goal = solution.joints
        self.pose = wanted if solution.converged else forward(self.arm, model, solution.joints)
        if action[6]:
            robot = self.arm.robot
            self.joints.gripper = robot.gripper_closed if action[6] > 0 else robot.gripper_open

    def commands(self, model: mujoco.MjModel, data: mujoco.MjData) -> Iterator[np.ndarray]:
        return self.joints.commands(round(OSC_PERIOD / model.opt.timestep))


def orthonormal(columns: np.ndarray) -> np.ndarray:
    """6D rotation [6] (first two columns, one after the other) -> matrix [3, 3]; UserError where it is none."""
    a, b = columns[:3], columns[3:]
    if np.linalg.norm(np.cross(a, b)) <= 1e-6 * max(np.linalg.norm(a), np.linalg.norm(b)) ** 2:
        raise UserError(f"the 6D rotation {columns.tolist()} has parallel or zero columns: it is no rotation")
    return matrix_from_6d(np.asarray(columns, float))


def _lead(pose: Pose, here: Pose) -> Pose:
    """`pose`, or the nearest to it that is not too far ahead of `here`."""
    position, rotation = pose
    ahead, turn = position - here[0], rotation_vector(rotation @ here[1].T)
    if (far := length(ahead)) > OSC_LEAD_POSITION:
        position = here[0] + ahead * (OSC_LEAD_POSITION / far)
    if (angle := length(turn)) > OSC_LEAD_ROTATION:
        rotation = rotation_matrix(turn * (OSC_LEAD_ROTATION / angle)) @ here[1]
    return position, rotation


def _finite(values: np.ndarray, count: int, what: str) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if array.shape != (count,) or not np.isfinite(array).all():
        raise UserError(f"{what} must be {count} finite numbers; got {array.tolist()}")
    return array
