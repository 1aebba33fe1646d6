"""Pinhole cameras and rigid transforms, for NumPy and JAX arrays.

K: [..., 3, 3] in pixels of an image whose first pixel has its centre at (0.5, 0.5) (raster convention). Camera
frame: OpenCV, x right, y down, z forward, metres; depth is z. T_a_b: [..., 4, 4] takes points in b to points in a.
"""

from __future__ import annotations

from t2p.geometry.conventions import Size
from t2p.types import Array


def project(points: Array, K: Array) -> tuple[Array, Array]:
    """Points in the camera frame [..., 3] -> (raster pixels [..., 2] (x, y), depth [...]).

    K broadcasts against the leading axes of `points` ([3, 3], or [..., 3, 3]). A point at depth 0 has no image:
    its pixels are not finite; one behind the camera has negative depth."""
    homogeneous = (K @ points[..., None])[..., 0]
    return homogeneous[..., :2] / homogeneous[..., 2:], points[..., 2]


def unproject(pixels: Array, depth: Array, K: Array) -> Array:
    """(raster pixels [..., 2] (x, y), depth [...] metres) -> points in the camera frame [..., 3]."""
    xp = pixels.__array_namespace__()
    rays = xp.linalg.inv(K) @ xp.concat([pixels, xp.ones_like(pixels[..., :1])], axis=-1)[..., None]
    return rays[..., 0] * depth[..., None]


def resize_intrinsics(K: Array, size: Size, new_size: Size) -> Array:
    """K of the same camera when its image of `size` (H, W) is resized to `new_size`: pure scaling, no half pixel."""
    xp = K.__array_namespace__()
    scale = [[new_size[1] / size[1]], [new_size[0] / size[0]], [1.0]]
    return K * xp.asarray(scale, dtype=K.dtype)


def transform_points(T: Array, points: Array) -> Array:
    """T_a_b [..., 4, 4] applied to points in b [..., 3] -> points in a; leading axes broadcast."""
    return (T[..., :3, :3] @ points[..., None])[..., 0] + T[..., :3, 3]


def invert_transform(T: Array) -> Array:
    """T_a_b -> T_b_a for rigid transforms [..., 4, 4]: the rotation's transpose, no general inverse."""
    xp = T.__array_namespace__()
    rotation = xp.swapaxes(T[..., :3, :3], -1, -2)
    translation = -(rotation @ T[..., :3, 3:])
    return xp.concat([xp.concat([rotation, translation], axis=-1), T[..., 3:, :]], axis=-2)
