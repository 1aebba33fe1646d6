"""Rotations in six notations, for NumPy and JAX arrays; the floating type of what is given is kept.

| notation | shape | meaning |
|---|---|---|
| matrix | [..., 3, 3] | R, applied to columns: R @ x |
| quaternion | [..., 4] | (w, x, y, z); q and -q are the same rotation |
| axis-angle | [..., 3] | the axis times the angle in radians |
| Euler XYZ | [..., 3] | angles a, b, c in radians with R = Rx(a) Ry(b) Rz(c): about the moving axes x, y, z |
| 6D, columns | [..., 6] | the first two columns of R, one after the other (Zhou et al. 2019); the default in t2p |
| 6D, rows | [..., 6] | the first two rows of R (PyTorch3D, so Diffusion Policy and its descendants) |

Derivatives are finite everywhere but where two notations have no smooth map between them (an angle of pi).
"""

from __future__ import annotations

from typing import Literal

from t2p.types import Array

SixD = Literal["columns", "rows"]
SMALL = 1e-3  # radians: below it the two terms of a series that are kept are exact to 1e-12


def canonical_quaternion(quaternion: Array) -> Array:
    """The one of q and -q whose w is not negative. [..., 4] -> [..., 4]."""
    _check(quaternion, (4,), "quaternion")
    return quaternion.__array_namespace__().where(quaternion[..., :1] < 0, -quaternion, quaternion)


def quaternion_to_matrix(quaternion: Array) -> Array:
    """[..., 4], of any length but 0, -> [..., 3, 3]."""
    _check(quaternion, (4,), "quaternion")
    xp = quaternion.__array_namespace__()
    q = quaternion / xp.sqrt(xp.sum(xp.square(quaternion), axis=-1, keepdims=True))
    w, x, y, z = (q[..., i] for i in range(4))
    return _matrix(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def matrix_to_quaternion(matrix: Array) -> Array:
    """[..., 3, 3] -> canonical [..., 4]: from the row of 4 q q^T whose diagonal element is largest (at least 1)."""
    _check(matrix, (3, 3), "matrix")
    xp = matrix.__array_namespace__()
    m = [[matrix[..., i, j] for j in range(3)] for i in range(3)]
    wx, wy, wz = m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1]
    xy, xz, yz = m[0][1] + m[1][0], m[0][2] + m[2][0], m[1][2] + m[2][1]
    ww = 1 + m[0][0] + m[1][1] + m[2][2]
    xx, yy, zz = (1 + 2 * m[i][i] - m[0][0] - m[1][1] - m[2][2] for i in range(3))
    outer = _matrix([[ww, wx, wy, wz], [wx, xx, xy, xz], [wy, xy, yy, yz], [wz, xz, yz, zz]])
    largest = xp.argmax(xp.stack([ww, xx, yy, zz], axis=-1), axis=-1)[..., None]
    row = xp.take_along_axis(outer, largest[..., None], axis=-2)[..., 0, :]
    return canonical_quaternion(row / (2 * xp.sqrt(xp.take_along_axis(row, largest, axis=-1))))


def axis_angle_to_quaternion(axis_angle: Array) -> Array:
    """[..., 3] -> [..., 4], (cos(angle / 2), axis sin(angle / 2)): canonical for angles up to pi."""
    _check(axis_angle, (3,), "axis-angle")
    xp = axis_angle.__array_namespace__()
    square = xp.sum(xp.square(axis_angle), axis=-1, keepdims=True)
    small = square < SMALL**2
    angle = _sqrt_unless(small, square)
    scale = xp.where(small, 0.5 - square / 48, xp.sin(angle / 2) / angle)
    w = xp.where(small, 1 - square / 8, xp.cos(angle / 2))
    return xp.concat([w, axis_angle * scale], axis=-1)


def quaternion_to_axis_angle(quaternion: Array) -> Array:
    """Unit [..., 4] -> [..., 3]; the angle is in [0, 2 pi), beyond pi where w is negative."""
    _check(quaternion, (4,), "quaternion")
    xp = quaternion.__array_namespace__()
    w, vector = quaternion[..., :1], quaternion[..., 1:]
    square = xp.sum(xp.square(vector), axis=-1, keepdims=True)
    small = (square < SMALL**2) & (w > 0)
    sine = _sqrt_unless(small | (square == 0), square)  # 0 with w = -1: a full turn about no axis, given as 0
    return vector * xp.where(small, 2 + square / 3, 2 * xp.atan2(sine, w) / sine)


def axis_angle_to_matrix(axis_angle: Array) -> Array:
    """[..., 3] -> [..., 3, 3]."""
    return quaternion_to_matrix(axis_angle_to_quaternion(axis_angle))


def matrix_to_axis_angle(matrix: Array) -> Array:
    """[..., 3, 3] -> [..., 3] with an angle in [0, pi]; at pi either sign of the axis may come out."""
    return quaternion_to_axis_angle(matrix_to_quaternion(matrix))


def euler_xyz_to_matrix(angles: Array) -> Array:
    """[..., 3] -> [..., 3, 3]."""
    _check(angles, (3,), "Euler angles")
    xp = angles.__array_namespace__()
    (ca, cb, cc), (sa, sb, sc) = ([f(angles[..., i]) for i in range(3)] for f in (xp.cos, xp.sin))
    return _matrix(
        [
            [cb * cc, -cb * sc, sb],
            [ca * sc + sa * sb * cc, ca * cc - sa * sb * sc, -sa * cb],
            [sa * sc - ca * sb * cc, sa * cc + ca * sb * sc, ca * cb],
        ]
    )


def matrix_to_euler_xyz(matrix: Array) -> Array:
    """[..., 3, 3] -> [..., 3]: a and c in [-pi, pi], b in [-pi/2, pi/2]; at b = +-pi/2 only their sum or difference
    is determined, and rounding shares it out."""
    _check(matrix, (3, 3), "matrix")
    xp = matrix.__array_namespace__()
    a = xp.atan2(-matrix[..., 1, 2], matrix[..., 2, 2])
    b = xp.asin(xp.clip(matrix[..., 0, 2], -1, 1))
    c = xp.atan2(-matrix[..., 0, 1], matrix[..., 0, 0])
    return xp.stack([a, b, c], axis=-1)


def matrix_to_6d(matrix: Array, convention: SixD = "columns") -> Array:
    """[..., 3, 3] -> [..., 6]."""
    _check(matrix, (3, 3), "matrix")
    rows = matrix if _by_rows(convention) else matrix.__array_namespace__().swapaxes(matrix, -1, -2)
    return rows[..., :2, :].reshape(*matrix.shape[:-2], 6)


def matrix_from_6d(six: Array, convention: SixD = "columns") -> Array:
    """[..., 6] -> [..., 3, 3] by Gram-Schmidt: the first vector's direction is kept, the second one's is made
    perpendicular to it, the third is their cross product. The vectors must not be parallel nor 0."""
    _check(six, (6,), "6D rotation")
    xp = six.__array_namespace__()
    first = _unit(six[..., :3])
    second = six[..., 3:]
    second = _unit(second - xp.sum(first * second, axis=-1, keepdims=True) * first)
    third = xp.linalg.cross(first, second)
    return xp.stack([first, second, third], axis=-2 if _by_rows(convention) else -1)


def _by_rows(convention: str) -> bool:
    if convention not in ("columns", "rows"):
        raise ValueError(f'the convention of a 6D rotation is "columns" or "rows"; got {convention!r}')
    return convention == "rows"


def _matrix(rows: list[list[Array]]) -> Array:
    """Elements [...] by row and column -> [..., rows, columns]."""
    xp = rows[0][0].__array_namespace__()
    return xp.stack([xp.stack(row, axis=-1) for row in rows], axis=-2)


def _unit(vector: Array) -> Array:
    xp = vector.__array_namespace__()
    return vector / xp.sqrt(xp.sum(xp.square(vector), axis=-1, keepdims=True))


def _sqrt_unless(unsafe: Array, square: Array) -> Array:
    """sqrt(square), but 1 where unsafe: quotients and derivatives stay finite in a branch that is not taken."""
    xp = square.__array_namespace__()
    return xp.sqrt(xp.where(unsafe, xp.ones_like(square), square))


def _check(array: Array, shape: tuple[int, ...], what: str) -> None:
    if tuple(array.shape[-len(shape) :]) != shape:
        raise ValueError(f"{what}: expected an array that ends in {list(shape)}; got shape {tuple(array.shape)}")
