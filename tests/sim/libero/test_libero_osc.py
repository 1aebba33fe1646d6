"""Operational-space control: the equations as they are written in the sources, and the same bits in any batch."""

from __future__ import annotations

from dataclasses import fields

import mujoco
import numpy as np
import pytest
import small_scene

from t2p.geometry.rotations import axis_angle_to_matrix
from t2p.sim.libero import osc
from t2p.sim.libero.names import handles
from t2p.sim.libero.osc import NOMINAL, Kinematics, Reader, Senses

N = 16


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def rotations(rng: np.random.Generator, count: int) -> np.ndarray:
    return axis_angle_to_matrix(rng.normal(size=(count, 3)))


def kinematics(rng: np.random.Generator, count: int = N) -> Kinematics:
    root = rng.normal(size=(count, 7, 7))
    return Kinematics(
        position=rng.normal(size=(count, 3)),
        rotation=rotations(rng, count),
        jacobian=rng.normal(size=(count, 6, 7)),
        inertia=root @ root.swapaxes(1, 2) + np.eye(7),
        q=rng.normal(size=(count, 7)),
        qd=rng.normal(size=(count, 7)),
    )


def row(see: Kinematics, i: int) -> Kinematics:
    return Kinematics(*(getattr(see, field.name)[i : i + 1] for field in fields(see)))


def written_out(see: Kinematics, position: np.ndarray, rotation: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """[7] torques of a single arm, equation by equation."""
    J, M = see.jacobian[0], see.inertia[0]
    v, inverse = J @ see.qd[0], np.linalg.inv(M)
    e = 0.5 * sum(np.cross(see.rotation[0, :, i], rotation[0, :, i]) for i in range(3))
    F = 150 * (position[0] - see.position[0]) - 2 * np.sqrt(150) * v[:3]
    T = 150 * e - 2 * np.sqrt(150) * v[3:]
    Lp, Lr = (np.linalg.pinv(half @ inverse @ half.T) for half in (J[:3], J[3:]))
    N = np.eye(7) - inverse @ J.T @ np.linalg.pinv(J @ inverse @ J.T) @ J
    pull = M @ (10 * (NOMINAL - see.q[0]) - 2 * np.sqrt(10) * see.qd[0])
    return J.T @ np.concatenate([Lp @ F, Lr @ T]) + bias[0] + N.T @ pull


def test_torques_are_as_the_equations_say(rng: np.random.Generator) -> None:
    see, position, rotation, bias = kinematics(rng), rng.normal(size=(N, 3)), rotations(rng, N), rng.normal(size=(N, 7))
    found = osc.torques(see, position, rotation, bias)
    for i in range(N):
        one = slice(i, i + 1)
        expected = written_out(row(see, i), position[one], rotation[one], bias[one])
        np.testing.assert_allclose(found[i], expected, rtol=1e-9, atol=1e-9)


def test_the_posture_moves_nothing_of_the_hand(rng: np.random.Generator) -> None:
    """With hand and goal in one place and at rest, the pull to the nominal posture accelerates joints, but no hand."""
    see = kinematics(rng)
    see.qd[:] = 0
    torque = osc.torques(see, see.position, see.rotation, np.zeros((N, 7)))
    acceleration = np.linalg.solve(see.inertia, torque[..., None])
    assert np.abs(acceleration).max() > 1
    np.testing.assert_allclose(see.jacobian @ acceleration, 0, atol=1e-9)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_torques_are_the_same_bits_in_any_batch(rng: np.random.Generator, count: int) -> None:
    see, position, rotation, bias = kinematics(rng), rng.normal(size=(N, 3)), rotations(rng, N), rng.normal(size=(N, 7))
    found = osc.torques(see, position, rotation, bias)
    for start in range(0, N, count):
        part = slice(start, start + count)
        some = Kinematics(*(getattr(see, field.name)[part] for field in fields(see)))
        np.testing.assert_array_equal(osc.torques(some, position[part], rotation[part], bias[part]), found[part])


@pytest.mark.parametrize("bad", ["singular", "ill-conditioned", "nan", "infinite"])
def test_a_matrix_that_has_no_inverse_leaves_the_others_alone(rng: np.random.Generator, bad: str) -> None:
    root = rng.normal(size=(N, 6, 6))
    matrices = root @ root.swapaxes(1, 2)
    good = osc.invert(matrices)
    u = np.linalg.qr(root[3])[0]
    values = {"singular": [3.0, 2, 1, 1, 1, 0], "ill-conditioned": [3, 2, 1, 1, 1, 1e-14]}.get(bad, [1.0] * 6)
    matrices[3] = u @ np.diag(values) @ u.T
    if bad == "singular":
        matrices[3] = np.diag(values)
    elif bad in ("nan", "infinite"):
        matrices[3, 2, 2] = np.nan if bad == "nan" else np.inf
    with np.errstate(invalid="ignore"):
        found = osc.invert(matrices)
    np.testing.assert_array_equal(np.delete(found, 3, 0), np.delete(good, 3, 0))
    if bad in ("singular", "ill-conditioned"):
        np.testing.assert_array_equal(found[3], np.linalg.pinv(matrices[3]))


def test_an_arm_stretched_out_is_controlled_beside_others(rng: np.random.Generator) -> None:
    """Its hand cannot move along the arm: a Jacobian without full rank."""
    see, position, rotation, bias = kinematics(rng), rng.normal(size=(N, 3)), rotations(rng, N), rng.normal(size=(N, 7))
    alone = osc.torques(see, position, rotation, bias)
    see.jacobian[5, 2] = 0
    found = osc.torques(see, position, rotation, bias)
    np.testing.assert_array_equal(np.delete(found, 5, 0), np.delete(alone, 5, 0))
    one = slice(5, 6)
    expected = written_out(row(see, 5), position[one], rotation[one], bias[one])
    np.testing.assert_allclose(found[5], expected, rtol=1e-9, atol=1e-9)


def test_rotation_error_points_from_here_to_the_goal(rng: np.random.Generator) -> None:
    here, vector = rotations(rng, N), 1e-3 * rng.normal(size=(N, 3))
    np.testing.assert_allclose(osc.rotation_error(here, axis_angle_to_matrix(vector) @ here), vector, atol=1e-8)


def test_turns_are_rounded_like_the_original(rng: np.random.Generator) -> None:
    vectors = 0.5 * rng.uniform(-1, 1, (200, 3))
    vectors[7] = 0
    found = osc.turn(vectors)
    for i, vector in enumerate(vectors):
        np.testing.assert_array_equal(found[i], quat2mat(vector))
    off = np.abs(found - axis_angle_to_matrix(vectors)).max()
    assert 1e-9 < off < 1e-6  # single precision shows
    for count in (1, 3):
        np.testing.assert_array_equal(
            np.concatenate([osc.turn(v) for v in np.split(vectors[:9], 9 // count)]), found[:9]
        )


def quat2mat(vector: np.ndarray) -> np.ndarray:
    """Of a single rotation vector, in single precision where the original is."""
    angle = np.sqrt(vector @ vector)
    axis = vector / angle if angle else vector
    q = np.array([np.cos(angle / 2), *(axis * np.sin(angle / 2))], np.float32)
    q = (q * np.sqrt(2.0 / float(np.dot(q, q)))).astype(np.float32)
    p = np.outer(q, q)
    (wx, wy, wz), (xx, xy, xz), (yy, yz), zz = p[0, 1:], p[1, 1:], p[2, 2:], p[3, 3]
    xx, yy, zz = float(xx), float(yy), float(zz)
    return np.array(
        [[1 - yy - zz, xy - wz, xz + wy], [xy + wz, 1 - xx - zz, yz - wx], [xz - wy, yz + wx, 1 - xx - yy]], float
    )


def test_what_is_read_is_what_mujoco_says(rng: np.random.Generator) -> None:
    model = small_scene.model()
    arm = handles(model, small_scene.problem()).arm
    datas = [mujoco.MjData(model) for _ in range(3)]
    for data in datas:
        data.qpos[arm.qpos], data.qvel[arm.dofs] = rng.normal(size=7), rng.normal(size=7)
        mujoco.mj_forward(model, data)
    senses = Senses([Reader(model, data, arm) for data in datas])
    for i in (2, 0, 1):
        senses.look(i)
    see = senses.kinematics()
    for i, data in enumerate(datas):
        dense, jacobian = np.zeros((model.nv, model.nv)), np.zeros((6, model.nv))
        for row, unit in zip(dense, np.eye(model.nv), strict=True):
            mujoco.mj_mulM(model, data, row, unit)
        mujoco.mj_jacSite(model, data, jacobian[:3], jacobian[3:], arm.site)
        np.testing.assert_array_equal(see.inertia[i], dense[np.ix_(arm.dofs, arm.dofs)])
        np.testing.assert_array_equal(see.jacobian[i], jacobian[:, arm.dofs])
        np.testing.assert_array_equal(see.position[i], data.site_xpos[arm.site])
        np.testing.assert_array_equal(see.rotation[i].ravel(), data.site_xmat[arm.site])
        np.testing.assert_array_equal(see.q[i], data.qpos[arm.qpos])
        np.testing.assert_array_equal(see.qd[i], data.qvel[arm.dofs])
        np.testing.assert_array_equal(senses.bias[i], data.qfrc_bias[arm.dofs])


def test_the_nominal_pose_is_remembered_whatever_the_state() -> None:
    model = small_scene.model()
    arm = handles(model, small_scene.problem()).arm
    found = osc.nominal(model, arm)
    np.testing.assert_array_equal(found.q, [NOMINAL])
    np.testing.assert_array_equal(found.qd, np.zeros((1, 7)))
