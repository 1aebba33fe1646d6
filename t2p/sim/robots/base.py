"""What all robots share: links and primitives as plain data, a serial chain built from them, and attaching to a world.

Link frames follow the modified Denavit-Hartenberg convention (Craig): frame i sits on joint i with z along its axis,
and T_(i-1)_i(q) = Rot_x(alpha) Trans_x(a) Rot_z(q) Trans_z(d). Lengths in metres, masses in kg, inertias in kg m^2
about the centre of mass along the link frame's axes, in MuJoCo's order xx, yy, zz, xy, xz, yz.

Arms here carry gravity compensation, as their makers' controllers do, so that position actuators hold still without
sagging; bodies of a robot do not collide with one another (the makers' controllers refuse such motions; nothing
here does), only with everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import cos, sin

import mujoco
import numpy as np

from t2p.io import UserError

Vec3 = tuple[float, float, float]

WHITE = (0.92, 0.92, 0.93, 1.0)
DARK = (0.25, 0.25, 0.27, 1.0)
# Bits of MuJoCo's collision filter: robot geoms meet geoms of the world (1, 1), and never one another.
CONTYPE, CONAFFINITY = 0, 1
TIMESTEP = 0.002


@dataclass(frozen=True)
class Capsule:
    """A capsule from one point to another in its link's frame."""

    start: Vec3
    end: Vec3
    radius: float
    rgba: tuple[float, float, float, float] = WHITE


@dataclass(frozen=True)
class Box:
    """A box of half-sizes `half` at `center`, along its link's axes. pad: a rubber fingertip that grips."""

    center: Vec3
    half: Vec3
    rgba: tuple[float, float, float, float] = WHITE
    pad: bool = False


Shape = Capsule | Box


@dataclass(frozen=True)
class Inertial:
    """Mass, centre of mass and inertia tensor of a link."""

    mass: float
    center: Vec3
    inertia: tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class Joint:
    """A revolute joint with its position servo: torque = clip(kp (ctrl - q) - kv dq/dt, +-force) in N m.

    alpha, a, d: its row of the modified DH table. limits in rad. damping in N m s / rad, friction in N m."""

    alpha: float
    a: float
    d: float
    limits: tuple[float, float]
    kp: float
    kv: float
    force: float
    damping: float
    friction: float


@dataclass(frozen=True)
class Robot:
    """What a task must know of a robot. Names are those inside `build()`; attaching puts a prefix before them.

    home: arm joints (rad) of the rest pose, tool pointing down. gripper_open, gripper_closed: the command of the
    actuator `gripper` at the two ends. tool: site at the tool centre, z out of the hand. flange: site at the flange."""

    name: str
    build: Callable[[], mujoco.MjSpec]
    joints: tuple[str, ...]
    fingers: tuple[str, ...]
    home: tuple[float, ...]
    gripper_open: float
    gripper_closed: float
    gripper: str = "gripper"
    tool: str = "tool"
    flange: str = "flange"

    @property
    def actuators(self) -> tuple[str, ...]:
        """The arm's position actuators are named after their joints."""
        return self.joints


def new_spec(name: str) -> mujoco.MjSpec:
    """An empty spec with the compiler settings that all parts share, so that attaching changes none of them."""
    spec = mujoco.MjSpec()
    spec.modelname = name
    spec.compiler.degree = False
    spec.compiler.autolimits = True
    spec.option.timestep = TIMESTEP
    return spec


def quat_x(angle: float) -> tuple[float, float, float, float]:
    """Quaternion (w, x, y, z) of a rotation about x."""
    return (cos(angle / 2), sin(angle / 2), 0.0, 0.0)


def quat_z(angle: float) -> tuple[float, float, float, float]:
    """Quaternion (w, x, y, z) of a rotation about z."""
    return (cos(angle / 2), 0.0, 0.0, sin(angle / 2))


def add_shapes(body: mujoco.MjsBody, shapes: Sequence[Shape]) -> None:
    """Adds geoms that carry no mass (masses are the makers') and collide with the world only."""
    for shape in shapes:
        if isinstance(shape, Capsule):
            geom = body.add_geom(
                type=mujoco.mjtGeom.mjGEOM_CAPSULE, fromto=[*shape.start, *shape.end], size=[shape.radius, 0, 0]
            )
        else:
            geom = body.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, pos=shape.center, size=shape.half)
            if shape.pad:  # rubber: its own friction decides (priority), and it resists twisting (condim 4)
                geom.priority, geom.condim, geom.friction = 1, 4, [1.2, 0.02, 0.0001]
                geom.solref = [0.006, 1.0]  # a light cube under 30 N trembles and creeps at MuJoCo's 0.02 s
        geom.rgba, geom.mass = shape.rgba, 0.0
        geom.contype, geom.conaffinity = CONTYPE, CONAFFINITY


def physical(inertia: Sequence[float]) -> list[float]:
    """The nearest inertia that a body can have: second moments of mass below zero become (nearly) zero.

    inertia: xx, yy, zz, xy, xz, yz. The published tensor of Panda's link 4 breaks the triangle inequality by 9 %."""
    xx, yy, zz, xy, xz, yz = inertia
    tensor = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    values, axes = np.linalg.eigh(np.trace(tensor) / 2 * np.eye(3) - tensor)
    if values.min() > 0:
        return list(inertia)
    moments = axes @ np.diag(np.maximum(values, 1e-3 * values.max())) @ axes.T
    t = np.trace(moments) * np.eye(3) - moments
    return [t[0, 0], t[1, 1], t[2, 2], t[0, 1], t[0, 2], t[1, 2]]


def set_inertial(body: mujoco.MjsBody, inertial: Inertial) -> None:
    """Gives a body its published inertia, and compensates its weight."""
    body.explicitinertial = True
    body.mass = inertial.mass
    body.ipos = inertial.center
    body.fullinertia = physical(inertial.inertia)
    body.gravcomp = 1.0


def set_damping(joint: mujoco.MjsJoint, damping: float) -> None:
    """Viscous damping, N m s / rad or N s / m. Newer MuJoCo takes the coefficients of a polynomial in the speed."""
    joint.damping = damping if np.ndim(joint.damping) == 0 else np.array([damping, 0.0, 0.0])


def add_servo(
    spec: mujoco.MjSpec, name: str, joint: str, gain: float, kp: float, kv: float, force: float
) -> mujoco.MjsActuator:
    """Actuator of force clip(gain ctrl - kp q - kv dq/dt, +-force) on a joint; its ctrlrange is the caller's to set."""
    actuator = spec.add_actuator(name=name, target=joint, trntype=mujoco.mjtTrn.mjTRN_JOINT)
    actuator.gaintype = mujoco.mjtGain.mjGAIN_FIXED
    actuator.biastype = mujoco.mjtBias.mjBIAS_AFFINE
    actuator.gainprm[0] = gain
    actuator.biasprm[1], actuator.biasprm[2] = -kp, -kv
    actuator.forcerange = [-force, force]
    return actuator


def couple(spec: mujoco.MjSpec, follower: str, leader: str, joint_ratio: float = 1.0) -> None:
    """Keeps the follower's joint at joint_ratio times the leader's, stiffly (an equality constraint)."""
    equality = spec.add_equality(type=mujoco.mjtEq.mjEQ_JOINT, name1=follower, name2=leader)
    equality.data[:5] = [0.0, joint_ratio, 0.0, 0.0, 0.0]
    equality.solref = [0.004, 1.0]
    equality.solimp = [0.99, 0.999, 0.001, 0.5, 2.0]


def add_chain(
    spec: mujoco.MjSpec,
    base: mujoco.MjsBody,
    joints: Sequence[Joint],
    inertials: Sequence[Inertial],
    shapes: Sequence[Sequence[Shape]],
    armature: float,
) -> mujoco.MjsBody:
    """Hangs link1 .. linkn with joints joint1 .. jointn and their servos on `base`. -> the last link.

    armature: inertia of the rotors behind the gears, kg m^2, the same at all joints."""
    body = base
    for i, (joint, inertial, geoms) in enumerate(zip(joints, inertials, shapes, strict=True), start=1):
        position = (joint.a, -joint.d * sin(joint.alpha), joint.d * cos(joint.alpha))
        body = body.add_body(name=f"link{i}", pos=position, quat=quat_x(joint.alpha))
        set_inertial(body, inertial)
        add_shapes(body, geoms)
        hinge = body.add_joint(name=f"joint{i}", type=mujoco.mjtJoint.mjJNT_HINGE, axis=[0, 0, 1])
        hinge.range = joint.limits
        hinge.frictionloss, hinge.armature = joint.friction, armature
        set_damping(hinge, joint.damping)
        servo = add_servo(spec, f"joint{i}", f"joint{i}", joint.kp, joint.kp, joint.kv, joint.force)
        servo.ctrlrange = joint.limits
    return body


def attach(
    world: mujoco.MjSpec,
    robot: Robot,
    position: Sequence[float] = (0.0, 0.0, 0.0),
    quaternion: Sequence[float] = (1.0, 0.0, 0.0, 0.0),
    prefix: str = "robot/",
) -> None:
    """Puts a robot's base into a world at a position (m) and quaternion (w, x, y, z); its names get the prefix."""
    place, turn = np.asarray(position, float), np.asarray(quaternion, float)
    if place.shape != (3,) or turn.shape != (4,) or not np.isfinite(place).all() or not np.linalg.norm(turn) > 0:
        raise UserError(
            f"the base of {robot.name} needs a position of 3 numbers and a quaternion of 4 that is not zero; "
            f"got {place.tolist()} and {turn.tolist()}"
        )
    if any(body.name.startswith(prefix) for body in world.bodies):
        raise UserError(f"the world already has bodies named {prefix}...; give this {robot.name} another prefix")
    frame = world.worldbody.add_frame(pos=place, quat=turn)
    world.attach(robot.build(), prefix=prefix, frame=frame)
