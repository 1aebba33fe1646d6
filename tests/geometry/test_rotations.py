"""Rotations: known ones, every way around and back, the places where formulas break, NumPy against JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from t2p.geometry import rotations as r

ANGLES = [0.0, 1e-9, 1e-5, 9.9e-4, 1.1e-3, 0.5, 2.0, 3.0, np.pi - 1e-6]


def axis_angles(seed=0, count=200):
    """Random axes with the angles of the list and random ones: [count, 3] float64."""
    rng = np.random.default_rng(seed)
    axes = rng.normal(size=(count, 3))
    angles = np.concatenate([ANGLES, rng.uniform(0, np.pi, count - len(ANGLES))])
    return axes / np.linalg.norm(axes, axis=1, keepdims=True) * angles[:, None]


def test_a_quarter_turn_about_z_in_every_notation():
    matrix = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    half = np.sqrt(0.5)
    np.testing.assert_allclose(r.matrix_to_quaternion(matrix), [half, 0, 0, half])
    np.testing.assert_allclose(r.matrix_to_axis_angle(matrix), [0, 0, np.pi / 2])
    np.testing.assert_allclose(r.matrix_to_euler_xyz(matrix), [0, 0, np.pi / 2])
    np.testing.assert_array_equal(r.matrix_to_6d(matrix), [0, 1, 0, -1, 0, 0])
    np.testing.assert_array_equal(r.matrix_to_6d(matrix, "rows"), [0, -1, 0, 1, 0, 0])


def test_scipy_agrees():
    vectors = axis_angles()
    reference = Rotation.from_rotvec(vectors)
    matrix = r.axis_angle_to_matrix(vectors)
    np.testing.assert_allclose(matrix, reference.as_matrix(), atol=1e-12)
    np.testing.assert_allclose(r.matrix_to_quaternion(matrix), reference.as_quat(True, scalar_first=True), atol=1e-9)
    np.testing.assert_allclose(r.matrix_to_euler_xyz(matrix), reference.as_euler("XYZ"), atol=1e-7)
    angles = np.random.default_rng(1).uniform(-4, 4, (50, 3))
    np.testing.assert_allclose(
        r.euler_xyz_to_matrix(angles), Rotation.from_euler("XYZ", angles).as_matrix(), atol=1e-12
    )


def test_there_and_back():
    vectors = axis_angles()
    matrix = r.axis_angle_to_matrix(vectors)
    np.testing.assert_allclose(r.matrix_to_axis_angle(matrix)[:-1], vectors[:-1], atol=1e-9)
    np.testing.assert_allclose(r.quaternion_to_axis_angle(r.axis_angle_to_quaternion(vectors)), vectors, atol=1e-12)
    np.testing.assert_allclose(r.quaternion_to_matrix(r.matrix_to_quaternion(matrix)), matrix, atol=1e-12)
    np.testing.assert_allclose(r.euler_xyz_to_matrix(r.matrix_to_euler_xyz(matrix)), matrix, atol=1e-12)
    for convention in ("columns", "rows"):
        back = r.matrix_from_6d(r.matrix_to_6d(matrix, convention), convention)
        np.testing.assert_allclose(back, matrix, atol=1e-12)


def test_a_half_turn_about_any_axis():
    """Where w is 0 and either sign of the axis is right."""
    for axis in np.concatenate([np.eye(3), [[0.6, 0.8, 0], [0.6, 0, -0.8], [2 / 3, 1 / 3, 2 / 3]]]):
        matrix = 2 * np.outer(axis, axis) - np.eye(3)
        again = r.axis_angle_to_matrix(r.matrix_to_axis_angle(matrix))
        np.testing.assert_allclose(again, matrix, atol=1e-12)


def test_quaternions_of_either_sign_and_any_length():
    q = np.random.default_rng(0).normal(size=(20, 4))
    np.testing.assert_allclose(r.quaternion_to_matrix(-3 * q), r.quaternion_to_matrix(q), atol=1e-12)
    canonical = r.canonical_quaternion(q)
    assert (canonical[:, 0] >= 0).all() and (q[:, 0] < 0).any()
    np.testing.assert_array_equal(np.abs(canonical), np.abs(q))
    unit = q / np.linalg.norm(q, axis=1, keepdims=True)
    angle = np.linalg.norm(r.quaternion_to_axis_angle(unit), axis=1)
    assert ((angle > np.pi) == (q[:, 0] < 0)).all() and (angle < 2 * np.pi).all()


def test_a_full_turn_is_no_turn():
    nearly = np.array([-np.cos(5e-4), np.sin(5e-4), 0, 0])
    np.testing.assert_allclose(r.quaternion_to_axis_angle(nearly), [2 * np.pi - 1e-3, 0, 0], atol=1e-9)
    np.testing.assert_array_equal(r.quaternion_to_axis_angle(np.array([-1.0, 0, 0, 0])), np.zeros(3))


def test_gimbal_lock_keeps_the_rotation():
    for b in (np.pi / 2, -np.pi / 2):
        matrix = r.euler_xyz_to_matrix(np.array([0.3, b, -0.7]))
        again = r.euler_xyz_to_matrix(r.matrix_to_euler_xyz(matrix))
        np.testing.assert_allclose(again, matrix, atol=1e-7)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-2, 2), min_size=6, max_size=6), st.floats(0.1, 10))
def test_gram_schmidt_keeps_the_first_direction_and_the_plane(numbers, scale):
    six = np.array(numbers)
    if np.linalg.norm(np.cross(six[:3], six[3:])) < 1e-2:
        return
    matrix = r.matrix_from_6d(six)
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(3), atol=1e-9)
    assert np.linalg.det(matrix) == pytest.approx(1)
    np.testing.assert_allclose(matrix[:, 0] * np.linalg.norm(six[:3]), six[:3], atol=1e-9)
    assert matrix[:, 2] @ six[3:] == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(r.matrix_from_6d(scale * six), matrix, atol=1e-9)
    np.testing.assert_array_equal(r.matrix_from_6d(six, "rows"), matrix.T)


def test_jax_agrees_and_types_are_kept():
    vectors = axis_angles().reshape(20, 10, 3)
    matrix = r.axis_angle_to_matrix(vectors)
    assert matrix.dtype == np.float64 and r.axis_angle_to_matrix(vectors.astype(np.float32)).dtype == np.float32
    ours = jax.jit(r.axis_angle_to_matrix)(jnp.asarray(vectors))
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, matrix, atol=1e-6)
    for f in (r.matrix_to_quaternion, r.matrix_to_euler_xyz, r.matrix_to_6d):
        np.testing.assert_allclose(jax.jit(f)(jnp.asarray(matrix)), f(matrix), atol=2e-3)
    np.testing.assert_allclose(jax.jit(r.matrix_from_6d)(r.matrix_to_6d(jnp.asarray(matrix))), matrix, atol=1e-6)


def test_derivatives_are_finite_at_the_identity():
    def there_and_back(vector):
        return r.matrix_to_axis_angle(r.axis_angle_to_matrix(vector))

    np.testing.assert_allclose(jax.jacobian(there_and_back)(jnp.zeros(3)), np.eye(3), atol=1e-6)


def test_bad_input():
    with pytest.raises(ValueError, match="quaternion: expected an array that ends in"):
        r.quaternion_to_matrix(np.zeros((4, 3)))
    with pytest.raises(ValueError, match="matrix: expected"):
        r.matrix_to_6d(np.zeros(9))
    with pytest.raises(ValueError, match="cols"):
        r.matrix_from_6d(np.ones(6), "cols")
