"""A floating hand: the xArm gripper on a carriage that slides and turns freely, without an arm.

It stands for whatever is not the robot in action-free videos. Everything about the carriage is chosen here. Its
joints are those of a machine with three slides and three hinges, so inverse kinematics and the controllers of an arm
move it too. The hinges turn about z, x and y in this order: a tool that points anywhere in a vertical plane through
its closing direction's normal stays far from the one singular angle (90 degrees about x).
"""

from __future__ import annotations

from math import pi

import mujoco

from t2p.sim.robots.base import Inertial, Robot, add_servo, new_spec, quat_x, set_inertial
from t2p.sim.robots.xarm7 import XARM7, xarm_gripper

_REACH, _HEIGHT = 1.5, 1.2  # m to each side of the base, above and below it
_CARRIAGE = Inertial(1.0, (0.0, 0.0, 0.0), (0.01, 0.01, 0.01, 0.0, 0.0, 0.0))
_SLIDE, _HINGE = mujoco.mjtJoint.mjJNT_SLIDE, mujoco.mjtJoint.mjJNT_HINGE
# name, type, axis in the world while all angles are 0, range (m or rad), kp, kv, force limit (N or N m).
# The hinges' axes are given in the turned carriage's frame, which starts upside down.
_JOINTS = (
    ("x", _SLIDE, (1, 0, 0), (-_REACH, _REACH), 6000.0, 600.0, 200.0),
    ("y", _SLIDE, (0, -1, 0), (-_REACH, _REACH), 6000.0, 600.0, 200.0),
    ("z", _SLIDE, (0, 0, -1), (-_HEIGHT, _HEIGHT), 6000.0, 600.0, 200.0),
    ("yaw", _HINGE, (0, 0, -1), (-2 * pi, 2 * pi), 400.0, 40.0, 60.0),
    ("roll", _HINGE, (1, 0, 0), (-pi, pi), 400.0, 40.0, 60.0),
    ("pitch", _HINGE, (0, 1, 0), (-pi, pi), 400.0, 40.0, 60.0),
)
_SLIDE_ARMATURE, _HINGE_ARMATURE = 2.0, 0.05


def hand() -> mujoco.MjSpec:
    """Body `carriage` with joints x, y, z (m), yaw, roll, pitch (rad), servos named like them, and the gripper."""
    spec = new_spec("hand")
    carriage = spec.worldbody.add_body(name="carriage", quat=quat_x(pi))
    set_inertial(carriage, _CARRIAGE)
    for name, kind, axis, limits, kp, kv, force in _JOINTS:
        joint = carriage.add_joint(name=name, type=kind, axis=axis, range=limits)
        joint.armature = _SLIDE_ARMATURE if kind == _SLIDE else _HINGE_ARMATURE
        servo = add_servo(spec, name, name, kp, kp, kv, force)
        servo.ctrlrange = limits
    flange = carriage.add_site(name="flange")
    spec.attach(xarm_gripper(), prefix="", site=flange)
    return spec


HAND = Robot(
    name="hand",
    build=hand,
    joints=tuple(joint[0] for joint in _JOINTS),
    fingers=XARM7.fingers,
    home=(0.4, 0.0, 0.4, 0.0, 0.0, 0.0),  # its tool is where the xArm's is at home
    gripper_open=XARM7.gripper_open,
    gripper_closed=XARM7.gripper_closed,
)
