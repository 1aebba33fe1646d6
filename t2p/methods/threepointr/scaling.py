"""3PoinTr's coordinates: each sample's points about their centre, in units of their radius; NumPy and JAX alike.

The released code takes both from the first frame's points as they are fed to the network (drawn anew at each
access), and uses them for tracks and end-effector positions alike. Rotations stay as they are. The image
coordinates of the paper's 2D ablation are here too.
"""

from __future__ import annotations

from t2p.geometry.cameras import project
from t2p.geometry.conventions import Size, from_normalized_pm1, from_raster, to_normalized_pm1, to_raster
from t2p.io import UserError
from t2p.types import Array

RADIUS_MARGIN = 1e-6  # metres, added to the radius: a cloud of one point has one too


def centre_and_radius(cloud: Array, radius_quantile: float = 0.9) -> tuple[Array, Array]:
    """cloud [..., N, 3] metres -> (centre [..., 3], radius [...]): the mean, and the k-th smallest distance to it.

    k = round(radius_quantile * N): with 0.9 (released code) about a tenth of the points lie outside radius 1; 1.0
    is the paper's unit sphere, read literally."""
    if not 0 < radius_quantile <= 1:
        raise UserError(f"radius_quantile is {radius_quantile}; expected a share of the points, above 0 and up to 1")
    xp = cloud.__array_namespace__()
    centre = xp.mean(cloud, axis=-2)
    distance = xp.sqrt(xp.sum(xp.square(cloud - centre[..., None, :]), axis=-1))
    k = max(1, round(radius_quantile * cloud.shape[-2]))
    return centre, xp.sort(distance, axis=-1)[..., k - 1] + RADIUS_MARGIN


def to_threepointr(points: Array, centre: Array, radius: Array) -> Array:
    """Metres -> 3PoinTr's coordinates. points: [*batch, ..., 3]; centre: [*batch, 3]; radius: [*batch]."""
    return (points - _along(centre, points)) / _along(radius[..., None], points)


def from_threepointr(points: Array, centre: Array, radius: Array) -> Array:
    """3PoinTr's coordinates -> metres; the inverse of `to_threepointr`."""
    return points * _along(radius[..., None], points) + _along(centre, points)


def to_threepointr_displacement(displacement: Array, radius: Array) -> Array:
    """Differences of points in metres -> 3PoinTr's units. displacement: [*batch, ..., 3]; radius: [*batch]."""
    return displacement / _along(radius[..., None], displacement)


def from_threepointr_displacement(displacement: Array, radius: Array) -> Array:
    """The inverse of `to_threepointr_displacement`."""
    return displacement * _along(radius[..., None], displacement)


def _along(x: Array, points: Array) -> Array:
    """x [*batch, k] -> [*batch, 1 ..., k], to broadcast against points [*batch, ..., 3]."""
    if x.shape[:-1] != points.shape[: x.ndim - 1] or x.ndim > points.ndim:
        raise ValueError(
            f"centre and radius of samples {tuple(x.shape[:-1])} do not fit points of shape {tuple(points.shape)}"
        )
    return x.reshape(*x.shape[:-1], *(1,) * (points.ndim - x.ndim), x.shape[-1])


def to_threepointr_image(points: Array, K: Array, size: Size) -> Array:
    """Points in the camera frame [*batch, ..., 3], metres -> what the policy of the 2D ablation sees [*batch, ..., 2].

    Pixels of an image of `size` (H, W), its edges at -1 and 1. K: [*batch, 3, 3]."""
    pixels, _ = project(points, K.reshape(*K.shape[:-2], *(1,) * (points.ndim - K.ndim + 1), 3, 3))
    return to_normalized_pm1(from_raster(pixels, size))


def from_threepointr_image(points: Array, size: Size) -> Array:
    """[..., 2] of the 2D ablation -> raster pixels (the depth is lost)."""
    return to_raster(from_normalized_pm1(points), size)
