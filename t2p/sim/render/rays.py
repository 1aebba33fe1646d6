"""Drawing by casting one ray through every pixel's centre with MuJoCo's collision code: needs no graphics library.

Every geom has its own colour (or its material's), matt, lit by the headlight and the world's lights; textures and sky
are their mean colours; no shadows, no reflections. Meshes are shaded as if round. Unlike with OpenGL, a surface before
the near clipping plane is seen, and a geom that has a material is invisible if its material is, whatever its own colour
says.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from t2p.geometry.cameras import unproject
from t2p.sim.render.common import (
    NOTHING,
    Frame,
    Size,
    Surfaces,
    camera_number,
    check_size,
    drawn_groups,
    far_plane,
    intrinsics,
)
from t2p.sim.render.shading import shade, sky_color


@dataclass(frozen=True)
class _Hits:
    """Where the rays of a picture end, row by row. geoms: [H W], -1 for nothing; distance: [H W] metres along the ray;
    cosine: [H W], of the angle between ray and optical axis; rays: [H W, 3] unit, world; origin: [3]."""

    geoms: np.ndarray
    distance: np.ndarray
    cosine: np.ndarray
    rays: np.ndarray
    origin: np.ndarray


class RayRenderer:
    name = "rays"

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model = model
        self._directions: dict[tuple[float, Size], np.ndarray] = {}

    def render(self, data: mujoco.MjData, camera: str, size: Size) -> Frame:
        hits = self._cast(data, camera, size)
        return Frame(self._colors(data, hits, size), _depth(hits, size), self._numbers(hits, size))

    def surfaces(self, data: mujoco.MjData, camera: str, size: Size) -> Surfaces:
        hits = self._cast(data, camera, size)
        return Surfaces(_depth(hits, size), self._numbers(hits, size))

    def rgb(self, data: mujoco.MjData, camera: str, size: Size) -> np.ndarray:
        return self._colors(data, self._cast(data, camera, size), size)

    def depth(self, data: mujoco.MjData, camera: str, size: Size) -> np.ndarray:
        return self.surfaces(data, camera, size).depth

    def bodies(self, data: mujoco.MjData, camera: str, size: Size) -> np.ndarray:
        return self.surfaces(data, camera, size).bodies

    def close(self) -> None:
        self._directions.clear()

    def _cast(self, data: mujoco.MjData, camera: str, size: Size) -> _Hits:
        number = camera_number(self._model, camera)
        directions = self._rays_of(float(self._model.cam_fovy[number]), check_size(size))
        T_world_cam = data.cam_xmat[number].reshape(3, 3) * (1, -1, -1)
        rays, origin = directions @ T_world_cam.T, data.cam_xpos[number]
        far = far_plane(self._model)
        geoms, distance = cast(self._model, data, origin, rays, far / directions[:, 2].min())
        geoms[distance * directions[:, 2] > far] = NOTHING
        return _Hits(geoms, distance, directions[:, 2], rays, origin)

    def _rays_of(self, fovy: float, size: Size) -> np.ndarray:
        """[H W, 3] unit directions in the camera frame, kept: they change with the camera's lens and size only."""
        key = (fovy, size)
        if key not in self._directions:
            self._directions[key] = pixel_rays(fovy, size)
        return self._directions[key]

    def _colors(self, data: mujoco.MjData, hits: _Hits, size: Size) -> np.ndarray:
        colors = np.empty((len(hits.geoms), 3), dtype=np.uint8)
        colors[:] = np.round(255 * sky_color(self._model))
        seen = hits.geoms != NOTHING
        points = hits.origin + hits.rays[seen] * hits.distance[seen, None]
        colors[seen] = shade(self._model, data, hits.geoms[seen], points, hits.rays[seen])
        return colors.reshape(*size, 3)

    def _numbers(self, hits: _Hits, size: Size) -> np.ndarray:
        bodies = np.append(self._model.geom_bodyid, NOTHING).astype(np.int32)  # -1 finds the last
        return bodies[hits.geoms].reshape(size)


def pixel_rays(fovy: float, size: Size) -> np.ndarray:
    """Unit vectors [H W, 3] from the camera through the pixels' centres, OpenCV axes."""
    height, width = size
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = unproject(np.stack([x, y], axis=-1).reshape(-1, 2), np.ones(height * width), intrinsics(fovy, size))
    return rays / np.linalg.norm(rays, axis=1, keepdims=True)


def cast(
    model: mujoco.MjModel, data: mujoco.MjData, origin: np.ndarray, rays: np.ndarray, cutoff: float
) -> tuple[np.ndarray, np.ndarray]:
    """Rays [R, 3] (unit) from `origin` [3] -> (geom [R] int32, -1 for nothing; distance [R] in metres, -1 for nothing).

    Only what is drawn is hit. cutoff: metres from which on geoms may be passed over."""
    geoms, distance = np.full(len(rays), NOTHING, dtype=np.int32), np.full(len(rays), -1.0)
    # Releases after 3.3.2 can also return normals, in one more argument before the count; None leaves them out.
    normals = (None,) if "normal" in (mujoco.mj_multiRay.__doc__ or "") else ()
    arguments = (drawn_groups(model)[0], 1, -1, geoms, distance, *normals, len(rays), cutoff)
    mujoco.mj_multiRay(model, data, origin, np.ascontiguousarray(rays).ravel(), *arguments)
    return geoms, distance


def _depth(hits: _Hits, size: Size) -> np.ndarray:
    depth = np.where(hits.geoms == NOTHING, np.inf, hits.distance * hits.cosine)
    return depth.astype(np.float32).reshape(size)
