"""Pinhole cameras and rigid transforms."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from t2p.geometry import cameras
from t2p.geometry.conventions import from_raster, to_raster

SIZE = (120, 160)
K = np.array([[100.0, 0, 80], [0, 110, 60], [0, 0, 1]])


def rigid(rng: np.random.Generator) -> np.ndarray:
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = rotation * np.linalg.det(rotation), rng.normal(size=3)
    return T


def test_the_optical_axis_meets_the_principal_point():
    pixels, depth = cameras.project(np.array([[0, 0, 2.0], [0.5, 0, 2.0]]), K)
    np.testing.assert_allclose(pixels, [[80, 60], [105, 60]])
    np.testing.assert_allclose(depth, [2, 2])


@settings(deadline=None, max_examples=30)
@given(pixels=arrays(np.float64, (5, 2), elements=st.floats(-50, 300)), depth=st.floats(0.1, 20))
def test_unproject_undoes_project(pixels, depth):
    points = cameras.unproject(pixels, np.full(5, depth), K)
    back, z = cameras.project(points, K)
    np.testing.assert_allclose(back, pixels, atol=1e-9)
    np.testing.assert_allclose(z, depth)


def test_a_resized_picture_shows_the_same_ray():
    point = np.array([[0.3, -0.2, 1.5]])
    new_size = (48, 400)
    before, _ = cameras.project(point, K)
    after, _ = cameras.project(point, cameras.resize_intrinsics(K, SIZE, new_size))
    np.testing.assert_allclose(to_raster(from_raster(before, SIZE), new_size), after)


def test_transforms_compose_and_invert():
    rng = np.random.default_rng(0)
    T_a_b, T_b_c, points = rigid(rng), rigid(rng), rng.normal(size=(4, 7, 3))
    chained = cameras.transform_points(T_a_b, cameras.transform_points(T_b_c, points))
    np.testing.assert_allclose(cameras.transform_points(T_a_b @ T_b_c, points), chained)
    np.testing.assert_allclose(cameras.invert_transform(T_a_b) @ T_a_b, np.eye(4), atol=1e-12)


def test_one_camera_per_frame_broadcasts_and_jax_agrees():
    rng = np.random.default_rng(1)
    points = rng.normal(size=(3, 5, 3)) + [0, 0, 4]
    K_t = np.stack([K, K * [[2.0], [2], [1]], K])[:, None]
    pixels, _ = cameras.project(points, K_t)
    for t in range(3):
        np.testing.assert_allclose(pixels[t], cameras.project(points[t], K_t[t, 0])[0])
    ours, _ = cameras.project(jnp.asarray(points), jnp.asarray(K_t))
    np.testing.assert_allclose(ours, pixels, rtol=1e-5)
    assert cameras.unproject(pixels, points[..., 2], K_t).dtype == np.float64
