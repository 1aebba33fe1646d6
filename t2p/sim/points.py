"""Surface points of a world: clouds from rendered depth, points that ride on bodies, and whether a camera sees them.

A point on a rigid body, once known in the body's frame, is known at all later times without tracking: such tracks are
exact. Camera frames are OpenCV's (x right, y down, z forward), metres. `camera` is what `render.camera_of` returns
without a base, so its pose is in the world frame.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import mujoco
import numpy as np

from t2p.geometry.cameras import invert_transform, project, transform_points, unproject
from t2p.geometry.conventions import from_raster
from t2p.io import UserError
from t2p.sim.render import Frame
from t2p.types import Camera


class SurfacePoints(NamedTuple):
    """points: [M, 3] float32, camera frame; colors: [M, 3] uint8; bodies: [M] int32, MuJoCo's body numbers."""

    points: np.ndarray
    colors: np.ndarray
    bodies: np.ndarray


def body_ids(model: mujoco.MjModel, names: Iterable[str]) -> np.ndarray:
    """Numbers [n] int32, ascending, of the named bodies and of all bodies that hang on them (a door on its cupboard).

    "world" stands for what is fixed to the world itself, such as the floor, and for nothing that hangs on it."""
    named = set()
    for name in names:
        number = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, name)
        if number < 0:
            there = ", ".join(model.body(i).name for i in range(model.nbody))
            raise UserError(f"there is no body {name!r} in this world; there are: {there}")
        named.add(number)
    found = set(named)
    for number in range(1, model.nbody):  # parents come before their children
        parent = int(model.body_parentid[number])
        if parent in found and parent != 0:
            found.add(number)
    return np.array(sorted(found), dtype=np.int32)


def cloud(frame: Frame, K: np.ndarray, kept: np.ndarray) -> SurfacePoints:
    """The points seen at the pixels' centres, row by row, on bodies whose numbers are in `kept` [n]. K: [3, 3] of the
    frame's camera."""
    rows, columns = np.nonzero(np.isfinite(frame.depth) & np.isin(frame.bodies, kept))
    pixels = np.stack([columns + 0.5, rows + 0.5], axis=-1)
    points = unproject(pixels, frame.depth[rows, columns].astype(np.float64), np.asarray(K))
    return SurfacePoints(points.astype(np.float32), frame.rgb[rows, columns], frame.bodies[rows, columns])


@dataclass(frozen=True)
class Attached:
    """Points that move with bodies. bodies: [N] body numbers; local: [N, 3] in the frame of each point's body."""

    bodies: np.ndarray
    local: np.ndarray

    def positions(self, data: mujoco.MjData) -> np.ndarray:
        """Where the points are: [N, 3] float64, world frame. Bodies' poses must be up to date (mj_forward, mj_step).
        Poses of several moments, xpos [..., nbody, 3] and xmat [..., nbody, 9]: [..., N, 3]."""
        rotations = data.xmat.reshape(*data.xpos.shape, 3)[..., self.bodies, :, :]
        return data.xpos[..., self.bodies, :] + (rotations @ self.local[..., None])[..., 0]


def attach(model: mujoco.MjModel, data: mujoco.MjData, points: np.ndarray, bodies: np.ndarray) -> Attached:
    """Fixes points [N, 3] (world frame) to bodies [N] as the bodies now stand."""
    points, bodies = np.asarray(points, dtype=np.float64), np.asarray(bodies)
    if points.shape != (*bodies.shape, 3) or bodies.ndim != 1:
        raise UserError(f"points must be [N, 3] and bodies [N]; got {points.shape} and {bodies.shape}")
    if bodies.size and not (bodies.min() >= 0 and bodies.max() < model.nbody):
        raise UserError(f"body numbers must lie in 0 to {model.nbody - 1}; got {bodies.min()} to {bodies.max()}")
    to_local = np.swapaxes(data.xmat.reshape(-1, 3, 3)[bodies], -1, -2)
    return Attached(bodies, (to_local @ (points - data.xpos[bodies])[..., None])[..., 0])


def from_camera(points: np.ndarray, camera: Camera) -> np.ndarray:
    """Camera frame [..., 3] -> world frame, float64."""
    return transform_points(camera.T_base_cam, np.asarray(points, dtype=np.float64))


def to_camera(points: np.ndarray, camera: Camera) -> np.ndarray:
    """World frame [..., 3] -> camera frame, float64."""
    return transform_points(invert_transform(camera.T_base_cam), np.asarray(points, dtype=np.float64))


def to_image(points: np.ndarray, camera: Camera) -> np.ndarray:
    """Camera frame [..., 3] -> (x, y) [..., 2] in units of image width and height, as tracks have them.

    Not finite for points at depth 0, and meaningless for points behind the camera: `visible` is False for both."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return from_raster(project(np.asarray(points, dtype=np.float64), camera.K)[0], camera.size)


def visible(
    points: np.ndarray,
    own: np.ndarray,
    depth: np.ndarray,
    bodies: np.ndarray,
    camera: Camera,
    tolerance: float = 0.005,
) -> np.ndarray:
    """Which points [..., N, 3] (camera frame) on bodies `own` [N] are seen in a rendered `depth` and `bodies`
    [..., H, W], a picture for each set of points: [..., N].

    Seen is a point in front of the camera, inside the image, and not more than `tolerance` metres behind the surface
    rendered at the pixel that it falls into. On a surface seen at a grazing angle depth changes by more than that
    within a pixel; so, where the pixel shows the point's own body, the farthest depth of that body in the 3 x 3 pixels
    around counts instead. Wrong by at most a pixel, at silhouettes."""
    height, width = camera.size
    pictures = (*points.shape[:-2], height, width)
    if depth.shape != pictures or bodies.shape != pictures:
        raise UserError(
            f"the points and camera are for pictures {pictures}; depth has {depth.shape}, bodies {bodies.shape}"
        )
    place, z = to_image(points, camera), points[..., 2]
    inside = (z > 0) & ((place >= 0) & (place < 1)).all(axis=-1)
    place = np.where(inside[..., None], place, 0) * (width, height)
    column, row = np.minimum(place[..., 0].astype(int), width - 1), np.minimum(place[..., 1].astype(int), height - 1)
    limit = _pixels(depth, row, column).astype(np.float64)
    on_own = _pixels(bodies, row, column) == own
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            near = np.clip(row + down, 0, height - 1), np.clip(column + right, 0, width - 1)
            same = on_own & (_pixels(bodies, *near) == own)
            limit = np.where(same, np.maximum(limit, _pixels(depth, *near)), limit)
    return inside & (z <= limit + tolerance)


def _pixels(pictures: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """[..., N] of pictures [..., H, W] at rows and columns [..., N]."""
    *lead, height, width = pictures.shape
    return np.take_along_axis(pictures.reshape(*lead, height * width), row * width + column, axis=-1)
