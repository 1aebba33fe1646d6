"""Robots against their makers' published kinematics, and their grippers."""

from __future__ import annotations

from math import cos, pi, sin

import mujoco
import numpy as np
import pytest

from t2p.io import UserError
from t2p.sim import control, world
from t2p.sim.robots.base import Robot, attach, physical
from t2p.sim.robots.panda import PANDA, panda_hand
from t2p.sim.robots.xarm7 import XARM7, xarm_gripper

# Modified DH tables as published, (theta offset 0): a (m), alpha (rad), d (m); last the fixed step to the flange.
# UFACTORY, "Kinematic and Dynamic Parameters of UFACTORY xArm Series", xArm 7.
XARM_DH = [
    (0, 0, 0.267),
    (0, -pi / 2, 0),
    (0, pi / 2, 0.293),
    (0.0525, pi / 2, 0),
    (0.0775, pi / 2, 0.3425),
    (0, pi / 2, 0),
    (0.076, -pi / 2, 0.097),
    (0, 0, 0),
]
# Franka, FCI documentation, "Denavit-Hartenberg parameters" (Craig's convention).
PANDA_DH = [
    (0, 0, 0.333),
    (0, -pi / 2, 0),
    (0, pi / 2, 0.316),
    (0.0825, pi / 2, 0),
    (-0.0825, -pi / 2, 0.384),
    (0, pi / 2, 0),
    (0.088, pi / 2, 0),
    (0, 0, 0.107),
]
TABLES = {"xarm7": XARM_DH, "panda": PANDA_DH}
ROBOTS = [pytest.param(r, id=r.name) for r in (XARM7, PANDA)]


def dh_flange(table: list, joints: np.ndarray) -> np.ndarray:
    """T_base_flange [4, 4] by Craig's formula, written out from the table alone."""
    pose = np.eye(4)
    for (a, alpha, d), q in zip(table, [*joints, 0.0], strict=True):
        pose = pose @ np.array(
            [
                [cos(q), -sin(q), 0, a],
                [sin(q) * cos(alpha), cos(q) * cos(alpha), -sin(alpha), -d * sin(alpha)],
                [sin(q) * sin(alpha), cos(q) * sin(alpha), cos(alpha), d * cos(alpha)],
                [0, 0, 0, 1],
            ]
        )
    return pose


def site(model: mujoco.MjModel, data: mujoco.MjData, joints: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    data.qpos[: len(joints)] = joints
    mujoco.mj_kinematics(model, data)
    return data.site(name).xpos, data.site(name).xmat.reshape(3, 3)


@pytest.mark.parametrize("robot", ROBOTS)
def test_flange_follows_the_published_dh_table(robot: Robot) -> None:
    model = robot.build().compile()
    data = mujoco.MjData(model)
    low, high = model.jnt_range[:7].T
    for joints in np.random.default_rng(0).uniform(low, high, (50, 7)):
        expected = dh_flange(TABLES[robot.name], joints)
        position, rotation = site(model, data, joints, "flange")
        np.testing.assert_allclose(position, expected[:3, 3], atol=1e-6)
        np.testing.assert_allclose(rotation, expected[:3, :3], atol=1e-6)


READY = (0, -pi / 4, 0, -3 * pi / 4, 0, pi / 2, pi / 4)


@pytest.mark.parametrize(
    ("robot", "joints", "name", "position"),
    [
        (XARM7, (0,) * 7, "flange", (0.206, 0, 0.1205)),  # the manual's zero position: x 206, z 120.5 mm
        (PANDA, (0,) * 7, "flange", (0.088, 0, 0.926)),
        (PANDA, READY, "flange", (0.306891, 0, 0.590282)),
        (PANDA, READY, "tool", (0.306891, 0, 0.486882)),  # O_T_EE that libfranka reports at the ready pose
    ],
)
def test_published_poses(robot: Robot, joints: tuple, name: str, position: tuple) -> None:
    model = robot.build().compile()
    found, rotation = site(model, mujoco.MjData(model), np.array(joints, float), name)
    np.testing.assert_allclose(found, position, atol=1e-6)
    np.testing.assert_allclose(rotation[:, 2], (0, 0, -1), atol=1e-6)


def test_hands_are_mounted_as_published() -> None:
    model = XARM7.build().compile()
    data = mujoco.MjData(model)
    flange, rotation = (x.copy() for x in site(model, data, np.array(XARM7.home), "flange"))
    tool, turned = site(model, data, np.array(XARM7.home), "tool")
    np.testing.assert_allclose(tool, flange + 0.172 * rotation[:, 2], atol=1e-9)
    np.testing.assert_allclose(turned, rotation, atol=1e-9)
    model = PANDA.build().compile()
    data = mujoco.MjData(model)
    _, rotation = (x.copy() for x in site(model, data, np.array(READY), "flange"))
    _, turned = site(model, data, np.array(READY), "tool")
    half = np.sqrt(0.5)
    np.testing.assert_allclose(rotation.T @ turned, [[half, half, 0], [-half, half, 0], [0, 0, 1]], atol=1e-9)


@pytest.mark.parametrize(
    ("robot", "low", "high", "force", "mass"),
    [
        (
            XARM7,
            (-2 * pi, -2.059, -2 * pi, -0.19198, -2 * pi, -1.69297, -2 * pi),
            (2 * pi, 2.0944, 2 * pi, 3.927, 2 * pi, pi, 2 * pi),
            (150, 150, 90, 90, 90, 60, 60),  # three times the published 50, 30, 20
            10.4315,  # links 1 to 7
        ),
        (
            PANDA,
            (-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973),
            (2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973),
            (87, 87, 87, 87, 12, 12, 12),
            13.78593,
        ),
    ],
    ids=["xarm7", "panda"],
)
def test_limits_forces_and_masses(robot: Robot, low: tuple, high: tuple, force: tuple, mass: float) -> None:
    model = robot.build().compile()
    np.testing.assert_allclose(model.jnt_range[:7], np.stack([low, high], 1), atol=1e-9)
    np.testing.assert_allclose(model.actuator_ctrlrange[:7], model.jnt_range[:7])
    np.testing.assert_allclose(model.actuator_forcerange[:7, 1], force)
    assert sum(model.body(f"link{i}").mass[0] for i in range(1, 8)) == pytest.approx(mass, abs=1e-9)


def test_inertia_that_no_body_can_have_is_made_possible() -> None:
    good = (0.3, 0.4, 0.5, 0.01, -0.02, 0.03)
    assert physical(good) == list(good)
    xx, yy, zz, xy, xz, yz = physical((1.0, 1.0, 3.0, 0.1, 0.0, 0.0))
    values = np.linalg.eigvalsh([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    assert 0 < values[0] + values[1] - values[2] < 0.02
    np.testing.assert_allclose((xx, yy, xy), (xx, xx, xy))  # the symmetry of the given one is kept
    assert abs(zz - 3.0) < 1.1


def drive(model: mujoco.MjModel, data: mujoco.MjData, command: float, seconds: float) -> None:
    data.actuator("gripper").ctrl = command
    mujoco.mj_step(model, data, nstep=round(seconds / model.opt.timestep))


def pads(model: mujoco.MjModel, data: mujoco.MjData) -> tuple[float, np.ndarray, np.ndarray]:
    """Gap between the pads (m), and the two fingers' z axes."""
    mujoco.mj_kinematics(model, data)
    faces = []
    for name in ("left_finger", "right_finger"):
        body = model.body(name).id
        pad = next(g for g in range(model.ngeom) if model.geom_bodyid[g] == body and model.geom_priority[g] == 1)
        towards = np.sign(data.geom_xpos[pad][1]) or 1.0
        faces.append(data.geom_xpos[pad][1] - towards * model.geom_size[pad][1])
    axes = [data.body(name).xmat.reshape(3, 3)[:, 2] for name in ("left_finger", "right_finger")]
    return faces[0] - faces[1], *axes


@pytest.mark.parametrize(
    ("build", "opened", "closed", "stroke"),
    [(xarm_gripper, 0.0, 255.0, 0.085), (panda_hand, 0.08, 0.0, 0.08)],
    ids=["xarm", "panda"],
)
def test_gripper_has_the_published_stroke_and_parallel_fingers(build, opened, closed, stroke) -> None:
    model = build().compile()
    model.opt.gravity[:] = 0
    data = mujoco.MjData(model)
    assert model.nu == 1
    for command, gap in ((opened, stroke), (closed, 0.0), (opened, stroke)):
        drive(model, data, command, 2.0)
        width, left, right = pads(model, data)
        assert width == pytest.approx(gap, abs=0.003)
        np.testing.assert_allclose([left, right], [[0, 0, 1]] * 2, atol=0.002)


@pytest.mark.parametrize("robot", ROBOTS)
def test_two_robots_in_one_world(robot: Robot) -> None:
    spec = world.new_world("two")
    attach(spec, robot, (0, 0, 0.12), prefix="a/")
    attach(spec, robot, (0, 1, 0), (0, 0, 0, 1), prefix="b/")
    model = spec.compile()
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    assert model.nu == 16
    offset = data.site("a/flange").xpos - [0, 0, 0.12]
    np.testing.assert_allclose(data.site("b/flange").xpos, [-offset[0], 1 - offset[1], offset[2]], atol=1e-9)
    assert control.find_arm(model, robot, "b/").controls.tolist() == list(range(8, 16))


def test_bad_placements_are_refused() -> None:
    spec = world.new_world("bad")
    with pytest.raises(UserError, match="position of 3 numbers and a quaternion of 4"):
        attach(spec, XARM7, (0, 0))
    with pytest.raises(UserError, match="not zero"):
        attach(spec, XARM7, (0, 0, 0), (0, 0, 0, 0))
    attach(spec, XARM7)
    with pytest.raises(UserError, match="another prefix"):
        attach(spec, PANDA)
    with pytest.raises(UserError, match="has no arm/joint1: was xarm7 attached"):
        control.find_arm(spec.compile(), XARM7, "arm/")


@pytest.mark.parametrize("robot", ROBOTS)
def test_nothing_of_the_robot_touches_robot_or_floor_at_home(robot: Robot) -> None:
    spec = world.new_world("home")
    world.add_floor(spec)
    attach(spec, robot)
    model = spec.compile()
    data = mujoco.MjData(model)
    data.qpos[control.find_arm(model, robot).joints] = robot.home
    mujoco.mj_forward(model, data)
    assert data.ncon == 0
