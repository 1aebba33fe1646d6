"""What all renderers share: the pictures, the cameras, and what is drawn.

Drawn are geoms of groups 0 to 2 whose colour is not wholly transparent; groups from 3 on are for collision only, by
MuJoCo's convention. Sites, cameras, frames, tendons, contacts and other decorations are not drawn. A model may say
otherwise, by a custom numeric "drawn_groups" [6] of 0 and 1: then these groups of geoms are drawn, and, by OpenGL alone
and in colour alone, sites of groups 0 to 2. A plane ends at its half-sizes (0: endless), although physics goes on.
Nothing is seen beyond the far clipping plane.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import mujoco
import numpy as np

from t2p.geometry.cameras import invert_transform
from t2p.io import UserError
from t2p.types import Camera

Size = tuple[int, int]  # (height, width) in pixels

GROUPS = np.array([1, 1, 1, 0, 0, 0], dtype=np.uint8)  # which groups are drawn
DRAWN = "drawn_groups"  # a model's numeric of this name says it otherwise
NOTHING = -1


@dataclass(frozen=True)
class Frame:
    """What one camera sees, row 0 on top. rgb: uint8 [H, W, 3]; depth: float32 [H, W], metres along the optical axis,
    +inf where nothing is hit; bodies: int32 [H, W], MuJoCo's number of the body seen, -1 for nothing (0: the world,
    so the floor)."""

    rgb: np.ndarray
    depth: np.ndarray
    bodies: np.ndarray


class Surfaces(NamedTuple):
    """A Frame without colours, which cost most of it. depth: [..., H, W]; bodies: [..., H, W]."""

    depth: np.ndarray
    bodies: np.ndarray


def drawn_groups(model: mujoco.MjModel) -> tuple[np.ndarray, np.ndarray]:
    """[6] uint8 twice: the groups of geoms and of sites that are drawn."""
    number = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_NUMERIC, DRAWN)
    if number < 0:
        return GROUPS, np.zeros_like(GROUPS)
    first = model.numeric_adr[number]
    return model.numeric_data[first : first + len(GROUPS)].astype(np.uint8), GROUPS


class Renderer(Protocol):
    """Draws one model as it stands in `data` (after mj_forward or a step). Must be used by the thread that made it.

    `render` costs less than its three parts, `surfaces` less than its two. size: (H, W), any, and free to change from
    call to call."""

    name: str  # "egl", "osmesa" or "rays"

    def render(self, data: mujoco.MjData, camera: str, size: Size) -> Frame: ...

    def surfaces(self, data: mujoco.MjData, camera: str, size: Size) -> Surfaces: ...

    def rgb(self, data: mujoco.MjData, camera: str, size: Size) -> np.ndarray: ...

    def depth(self, data: mujoco.MjData, camera: str, size: Size) -> np.ndarray: ...

    def bodies(self, data: mujoco.MjData, camera: str, size: Size) -> np.ndarray: ...

    def close(self) -> None:
        """Gives back what the renderer holds; may be called again."""
        ...


def camera_number(model: mujoco.MjModel, camera: str) -> int:
    """A camera's number in the model; UserError where there is none of that name, or it is no plain pinhole."""
    number = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, camera)
    if number < 0:
        names = ", ".join(model.camera(i).name for i in range(model.ncam)) or "none"
        raise UserError(f"there is no camera {camera!r} in this world; there are: {names}")
    orthographic = field(model, "cam_orthographic", "cam_projection")  # 0 is perspective under both names
    if orthographic[number] or model.cam_sensorsize[number].any():
        raise UserError(f"camera {camera!r} must be described by its vertical field of view (fovy) alone")
    return number


def field(model: mujoco.MjModel, name: str, later_name: str) -> np.ndarray:
    """A model's field that was renamed after MuJoCo 3.3.2."""
    return np.asarray(getattr(model, name if hasattr(model, name) else later_name))


def intrinsics(fovy: float, size: Size) -> np.ndarray:
    """K [3, 3] in raster pixels from the vertical field of view in degrees: square pixels, centred."""
    height, width = check_size(size)
    focal = height / 2 / np.tan(np.radians(fovy) / 2)
    return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])


def check_size(size: Size) -> Size:
    """(H, W) as plain numbers; UserError unless both are positive."""
    height, width = (int(side) for side in size)
    if height < 1 or width < 1:
        raise UserError(f"a picture's size is (height, width) in pixels, both positive; got {tuple(size)}")
    return height, width


def far_plane(model: mujoco.MjModel) -> float:
    """The depth in metres beyond which nothing is drawn."""
    return float(model.vis.map.zfar * model.stat.extent)


def camera_of(
    model: mujoco.MjModel, data: mujoco.MjData, camera: str, size: Size, base: np.ndarray | None = None
) -> Camera:
    """The pinhole camera as it stands in `data`, for pictures of `size`. base: T_world_base [4, 4], or None: the base
    is the world's origin, and T_base_cam is T_world_cam."""
    number = camera_number(model, camera)
    T_world_cam = np.eye(4)
    # MuJoCo's cameras have y up and look along -z.
    T_world_cam[:3, :3] = data.cam_xmat[number].reshape(3, 3) * (1, -1, -1)
    T_world_cam[:3, 3] = data.cam_xpos[number]
    T_base_cam = T_world_cam if base is None else invert_transform(np.asarray(base, dtype=float)) @ T_world_cam
    return Camera(K=intrinsics(model.cam_fovy[number], size), T_base_cam=T_base_cam, size=check_size(size))
