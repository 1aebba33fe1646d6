"""UFACTORY xArm 7 with the xArm gripper.

Sources, all UFACTORY's: modified DH table and masses from "Kinematic and Dynamic Parameters of UFACTORY xArm Series"
(docs.ufactory.cc; the same numbers are the joint origins of xarm_description in UFACTORY's xarm_ros); inertia tensors,
joint limits, torque limits, damping and friction, the gripper's linkage and the tool centre 0.172 m before the flange
from xarm_description (link_inertial/xarm7_type7_HT_BR2, xarm7.urdf.xacro, xarm_gripper.urdf.xacro). Chosen here: servo
gains (then taken times GAIN), the rotors' inertia, the grasping force, and shapes: capsules and boxes after the links.
"""

from __future__ import annotations

from math import pi

import mujoco

from t2p.sim.robots.base import (
    DARK,
    Box,
    Capsule,
    Inertial,
    Joint,
    Robot,
    add_chain,
    add_servo,
    add_shapes,
    couple,
    new_spec,
    set_damping,
    set_inertial,
)

GAIN = 3.0  # 3PoinTr multiplies the arm's gains and force limits by 3 (released code)
# (kp, kv, force limit, damping, friction) of the large, middle and small actuators; force, damping, friction published.
_LARGE, _MIDDLE, _SMALL = (
    (1500.0, 150.0, 50.0, 10.0, 1.0),
    (1000.0, 100.0, 30.0, 5.0, 1.0),
    (800.0, 80.0, 20.0, 2.0, 1.0),
)
_ARMATURE = 0.1
_TURN = (-2 * pi, 2 * pi)


def _joint(alpha: float, a: float, d: float, limits: tuple[float, float], size: tuple[float, ...]) -> Joint:
    kp, kv, force, damping, friction = size
    return Joint(alpha, a, d, limits, GAIN * kp, GAIN * kv, GAIN * force, damping, friction)


JOINTS = (
    _joint(0.0, 0.0, 0.267, _TURN, _LARGE),
    _joint(-pi / 2, 0.0, 0.0, (-2.059, 2.0944), _LARGE),
    _joint(pi / 2, 0.0, 0.293, _TURN, _MIDDLE),
    _joint(pi / 2, 0.0525, 0.0, (-0.19198, 3.927), _MIDDLE),
    _joint(pi / 2, 0.0775, 0.3425, _TURN, _MIDDLE),
    _joint(pi / 2, 0.0, 0.0, (-1.69297, pi), _SMALL),
    _joint(-pi / 2, 0.076, 0.097, _TURN, _SMALL),
)
_BASE = Inertial(
    0.88556,
    (-0.021131, -0.0016302, 0.056488),
    (0.0030595, 0.0037783, 0.0020125, 0.00012259, -0.00062705, 0.00027023),
)
_INERTIALS = (
    Inertial(
        2.382, (-0.0002, 0.02905, -0.01233), (0.0056905, 0.0049566, 0.003316654, -1.579e-05, 5.125e-06, -0.000873378)
    ),
    Inertial(
        1.869, (0.00022, -0.12856, 0.01735), (0.0095989, 0.00382472, 0.007565669, 1.541e-06, 5.56e-06, -0.00317156)
    ),
    Inertial(
        1.6383, (0.0466, -0.02463, -0.00768), (0.00310955, 0.00264483, 0.0026624, 0.00030837, -0.00058453, 0.000338893)
    ),
    Inertial(
        1.7269, (0.07047, -0.11575, 0.012), (0.005889, 0.00359703, 0.00543244, 0.00137112, 0.00088143, -0.001762155)
    ),
    Inertial(
        1.3203, (-0.00032, 0.01604, -0.026), (0.00534665, 0.0049779, 0.0013624, 1.5117e-05, -3.69e-07, -0.00022132)
    ),
    Inertial(1.325, (0.06469, 0.03278, 0.02141), (0.0014745, 0.0019037, 0.0023652, -0.000488, 0.0002953, 0.00014749)),
    Inertial(0.17, (0.0, -0.00677, -0.01098), (9.3e-05, 5.87e-05, 0.000132, 0.0, 0.0, -3.6e-06)),
)
_SHAPES = (
    (Capsule((0, 0, -0.06), (0, 0, 0.0), 0.06),),
    (Capsule((0, 0, -0.02), (0, 0, 0.05), 0.055), Capsule((0, -0.06, 0.05), (0, -0.23, 0.03), 0.045)),
    (Capsule((0, 0, -0.04), (0.0525, 0, 0), 0.05),),
    (
        Capsule((0, 0, -0.02), (0, 0, 0.05), 0.05),
        Capsule((0.01, -0.02, 0.04), (0.0775, -0.12, 0.03), 0.04),
        Capsule((0.0775, -0.12, 0.02), (0.0775, -0.22, 0.0), 0.042),
    ),
    (Capsule((0, 0, -0.09), (0, 0.01, 0.0), 0.045),),
    (Capsule((0, 0, 0), (0.076, 0, 0.0), 0.04), Capsule((0.076, 0, 0), (0.076, 0.04, 0), 0.036)),
    (Capsule((0, 0, -0.02), (0, 0, -0.015), 0.035, DARK),),
)

# Gripper: each finger hangs on a parallelogram (outer and inner knuckle, equal angles), so it stays upright while its
# pivot moves on an arc. The inner knuckle is not a body of its own: its mass is the outer one's.
STROKE_ANGLE = 0.85  # rad of the driving joint from open to closed, published
_GRIPPER_BASE = Inertial(
    0.54156,
    (-0.00065489, -0.0018497, 0.048028),
    (0.00047106, 0.00033072, 0.00025642, 3.9292e-07, 2.6537e-06, -1.0975e-05),
)
_KNUCKLE_MASSES = (0.033618, 0.023013)
# 3 N m at the driving joint of both fingers, whose lever arms are about 0.05 m each, press each pad with about 30 N.
# All of it is there from 0.15 rad before the command on; kv holds the fingers to about 2 rad/s, the published limit.
_GRIP_KP, _GRIP_KV, _GRIP_TORQUE, _GRIP_DAMPING = 20.0, 5.0, 3.0, 0.1
_GRIP_ARMATURE = 0.005


def _knuckle(side: float) -> Inertial:
    scale = sum(_KNUCKLE_MASSES) / _KNUCKLE_MASSES[0]
    tensor = (1.9111e-05, 6.6256e-06, 1.3185e-05, 0.0, 0.0, -7.3008e-06 * side)
    values = [scale * value for value in tensor]
    return Inertial(
        sum(_KNUCKLE_MASSES),
        (0.0, 0.021559 * side, 0.015181),
        (values[0], values[1], values[2], values[3], values[4], values[5]),
    )


def _finger(side: float) -> Inertial:
    tensor = (1.7493e-05, 1.7225e-05, 5.1466e-06, 0.0, 0.0, 4.6433e-06 * side)
    return Inertial(0.048304, (0.0, -0.016413 * side, 0.029258), tensor)


def _add_finger(base: mujoco.MjsBody, name: str, side: float) -> None:
    """side: +1 left (+y), -1 right. The pads meet at 0.85 rad and are 85 mm apart at 0."""
    knuckle = base.add_body(name=f"{name}_knuckle", pos=[0, 0.035 * side, 0.059098])
    set_inertial(knuckle, _knuckle(side))
    add_shapes(knuckle, [Capsule((0, 0, 0), (0, 0.035465 * side, 0.042039), 0.008, DARK)])
    finger = knuckle.add_body(name=f"{name}_finger", pos=[0, 0.035465 * side, 0.042039])
    set_inertial(finger, _finger(side))
    stem = Capsule((0, -0.003 * side, 0.002), (0, -0.02 * side, 0.028), 0.007, DARK)
    pad = Box((0, -0.023 * side, 0.0425), (0.011, 0.005, 0.016), DARK, pad=True)
    add_shapes(finger, [stem, pad])
    for body, axis in ((knuckle, side), (finger, -side)):
        joint = body.add_joint(name=body.name, type=mujoco.mjtJoint.mjJNT_HINGE, axis=[axis, 0, 0])
        joint.range, joint.armature = [0, STROKE_ANGLE], _GRIP_ARMATURE
        set_damping(joint, _GRIP_DAMPING)


def xarm_gripper() -> mujoco.MjSpec:
    """The gripper alone: body `hand` at the flange, z out of it; actuator `gripper`, 0 open .. 255 closed; site `tool`.

    One torque of at most 3 N m drives both fingers (30 N at each pad)."""
    spec = new_spec("xarm_gripper")
    hand = spec.worldbody.add_body(name="hand")
    set_inertial(hand, _GRIPPER_BASE)
    add_shapes(hand, [Capsule((0, 0, 0.03), (0, 0, 0.045), 0.035), Box((0, 0, 0.07), (0.018, 0.05, 0.018))])
    _add_finger(hand, "left", 1.0)
    _add_finger(hand, "right", -1.0)
    for follower in ("right_knuckle", "left_finger", "right_finger"):
        couple(spec, follower, "left_knuckle")
    gain = _GRIP_KP * STROKE_ANGLE / XARM7.gripper_closed
    servo = add_servo(spec, "gripper", "left_knuckle", gain, _GRIP_KP, _GRIP_KV, _GRIP_TORQUE)
    servo.ctrlrange = [0, 255]
    hand.add_site(name="tool", pos=[0, 0, 0.172])
    return spec


def xarm7() -> mujoco.MjSpec:
    """The arm with its gripper on it: body `link_base` at the origin, arm actuators joint1 .. joint7 (rad)."""
    spec = new_spec("xarm7")
    base = spec.worldbody.add_body(name="link_base")
    set_inertial(base, _BASE)
    add_shapes(base, [Capsule((0, 0, 0.06), (0, 0, 0.15), 0.06)])
    last = add_chain(spec, base, JOINTS, _INERTIALS, _SHAPES, _ARMATURE)
    flange = last.add_site(name="flange")
    spec.attach(xarm_gripper(), prefix="", site=flange)
    return spec


XARM7 = Robot(
    name="xarm7",
    build=xarm7,
    joints=tuple(f"joint{i}" for i in range(1, 8)),
    fingers=("left_finger", "right_finger"),
    home=(0.0, -0.247, 0.0, 0.909, 0.0, 1.15644, 0.0),  # 3PoinTr's
    gripper_open=0.0,
    gripper_closed=255.0,
)
