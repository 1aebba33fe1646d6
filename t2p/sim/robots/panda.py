"""Franka Emika Panda with the Franka Hand.

Sources, all Franka's: modified DH table, joint and torque limits from the FCI documentation ("Robot and interface
specifications", limits for Panda); masses and inertias of the links from franka_description (robots/fer/inertials),
of hand and fingers from its end_effectors/franka_hand; capsules after its self-collision geometry; fingers, their
travel and the tool centre 0.1034 m before the hand's base from franka_hand.xacro. Servo gains, damping, the rotors'
inertia and the grasping force (70 N at each pad) are chosen here.
"""

from __future__ import annotations

from math import pi

import mujoco

from t2p.sim.robots.base import (
    DARK,
    WHITE,
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
    quat_z,
    set_damping,
    set_inertial,
)

FLANGE = 0.107  # m from the last joint's frame to the flange
HAND_ANGLE = -pi / 4  # the hand is mounted so about the flange's z
TOOL = 0.1034
WIDTH = 0.08  # m between the fingers when open

_ARMATURE, _DAMPING = 0.1, 1.0


def _joint(alpha: float, a: float, d: float, limits: tuple[float, float], kp: float, force: float) -> Joint:
    return Joint(alpha, a, d, limits, kp, kp / 10, force, _DAMPING, 0.0)


JOINTS = (
    _joint(0.0, 0.0, 0.333, (-2.8973, 2.8973), 4500.0, 87.0),
    _joint(-pi / 2, 0.0, 0.0, (-1.7628, 1.7628), 4500.0, 87.0),
    _joint(pi / 2, 0.0, 0.316, (-2.8973, 2.8973), 3500.0, 87.0),
    _joint(pi / 2, 0.0825, 0.0, (-3.0718, -0.0698), 3500.0, 87.0),
    _joint(-pi / 2, -0.0825, 0.384, (-2.8973, 2.8973), 2000.0, 12.0),
    _joint(pi / 2, 0.0, 0.0, (-0.0175, 3.7525), 2000.0, 12.0),
    _joint(pi / 2, 0.088, 0.0, (-2.8973, 2.8973), 2000.0, 12.0),
)
_BASE = Inertial(2.3966, (-0.0172, 0.0004, 0.0745), (0.0090, 0.0115, 0.0085, 0.0, 0.0020, 0.0))
_INERTIALS = (
    Inertial(
        2.7907,
        (0.00033, -0.02204, -0.04762),
        (0.01564782655, 0.01439883526, 0.00500443991, 0.00000531236, -0.00003676721, -0.00248480843),
    ),
    Inertial(
        2.5420,
        (0.00038, -0.09211, 0.01908),
        (0.01662427728, 0.00462501261, 0.01545124526, 0.00003086077, 0.00000835940, 0.00355899830),
    ),
    Inertial(
        2.2513,
        (0.05152, 0.01696, -0.02971),
        (0.00631741992, 0.00866285493, 0.00657804051, 0.00097309955, 0.00292525834, 0.00093469224),
    ),
    Inertial(
        2.2037,
        (-0.05113, 0.05825, 0.01698),
        (0.00784585566, 0.00649543136, 0.01003079917, -0.00339591957, 0.00158704074, -0.00181477884),
    ),
    Inertial(
        2.2855,
        (-0.00005, 0.03730, -0.09280),
        (0.02297014781, 0.02095060919, 0.00430606551, -0.00000949345, -0.00002063156, 0.00382345782),
    ),
    Inertial(
        1.353,
        (0.06572, -0.00371, 0.00153),
        (0.00087964522, 0.00277796968, 0.00286701969, -0.00021487814, -0.00011911662, 0.00001274322),
    ),
    Inertial(
        0.35973,
        (0.00089, -0.00044, 0.05491),
        (0.00019541063, 0.00019210361, 0.00017936256, 0.00000165231, 0.00000148826, -0.00000131132),
    ),
)
_SHAPES = (
    (Capsule((0, 0, -0.25), (0, 0, -0.05), 0.06),),
    (Capsule((0, 0, -0.06), (0, 0, 0.06), 0.06),),
    (Capsule((0, 0, -0.22), (0, 0, -0.07), 0.06),),
    (Capsule((0, 0, -0.06), (0, 0, 0.06), 0.06),),
    (Capsule((0, 0, -0.31), (0, 0, -0.21), 0.06), Capsule((0, 0.08, -0.2), (0, 0.08, -0.06), 0.025)),
    (Capsule((0, 0, -0.07), (0, 0, 0.01), 0.05),),
    (Capsule((0, 0, -0.06), (0, 0, 0.06), 0.04), Capsule((0.04, 0.04, 0.082), (0.047, 0.047, 0.082), 0.03)),
)
_HAND = Inertial(0.6544, (-0.0000376, 0.0119128, 0.0207260), (0.00186, 0.00030, 0.00174, 0.0, 0.0, -0.00002))
# Fingers slide by width / 2 each; one force of 140 N on the first, shared with the second: 70 N at each pad.
_GRIP_KP, _GRIP_KV, _GRIP_FORCE, _GRIP_ARMATURE = 8000.0, 2000.0, 140.0, 0.2


def _add_finger(hand: mujoco.MjsBody, name: str, side: float) -> None:
    """side: +1 left (+y), -1 right, whose frame is turned about z, so that both slide along their own +y."""
    finger = hand.add_body(name=name, pos=[0, 0, 0.0584], quat=quat_z(0.0 if side > 0 else pi))
    tensor = (0.00000849, 0.00000853, 0.00000177, 0.0, 0.0, -0.00000106)
    set_inertial(finger, Inertial(0.0291, (0, 0.0152850, 0.0219675), tensor))
    tip = Box((0, 0.00758, 0.04525), (0.00875, 0.0076, 0.00925), DARK, pad=True)
    add_shapes(finger, [tip, Box((0, 0.0155, 0.019), (0.010, 0.0075, 0.017), WHITE)])
    slide = finger.add_joint(name=name, type=mujoco.mjtJoint.mjJNT_SLIDE, axis=[0, 1, 0])
    slide.range, slide.armature = [0, WIDTH / 2], _GRIP_ARMATURE
    set_damping(slide, 0.3)


def panda_hand() -> mujoco.MjSpec:
    """The hand alone: body `hand`, z out of it, fingers along y; actuator `gripper`, the width in m; site `tool`."""
    spec = new_spec("panda_hand")
    hand = spec.worldbody.add_body(name="hand")
    set_inertial(hand, _HAND)
    add_shapes(hand, [Box((0, 0, 0.035), (0.03, 0.1, 0.031))])
    _add_finger(hand, "left_finger", 1.0)
    _add_finger(hand, "right_finger", -1.0)
    couple(spec, "right_finger", "left_finger")
    servo = add_servo(spec, "gripper", "left_finger", _GRIP_KP / 2, _GRIP_KP, _GRIP_KV, _GRIP_FORCE)
    servo.ctrlrange = [0, WIDTH]
    hand.add_site(name="tool", pos=[0, 0, TOOL])
    return spec


def panda() -> mujoco.MjSpec:
    """The arm with its hand on it: body `link0` at the origin, arm actuators joint1 .. joint7 (rad)."""
    spec = new_spec("panda")
    base = spec.worldbody.add_body(name="link0")
    set_inertial(base, _BASE)
    add_shapes(base, [Capsule((-0.09, 0, 0.06), (-0.06, 0, 0.06), 0.06)])
    last = add_chain(spec, base, JOINTS, _INERTIALS, _SHAPES, _ARMATURE)
    last.add_site(name="flange", pos=[0, 0, FLANGE])
    spec.attach(panda_hand(), prefix="", frame=last.add_frame(pos=[0, 0, FLANGE], quat=quat_z(HAND_ANGLE)))
    return spec


PANDA = Robot(
    name="panda",
    build=panda,
    joints=tuple(f"joint{i}" for i in range(1, 8)),
    fingers=("left_finger", "right_finger"),
    home=(0.0, -pi / 4, 0.0, -3 * pi / 4, 0.0, pi / 2, pi / 4),  # libfranka's ready pose
    gripper_open=WIDTH,
    gripper_closed=0.0,
)
