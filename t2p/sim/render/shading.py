"""Colours of surface points without a graphics library: matt surfaces, the headlight and the world's lights."""

from __future__ import annotations

import mujoco
import numpy as np

from t2p.sim.render.common import field

_G = mujoco.mjtGeom


def shade(
    model: mujoco.MjModel, data: mujoco.MjData, geoms: np.ndarray, points: np.ndarray, rays: np.ndarray
) -> np.ndarray:
    """Points [M, 3] (world) on `geoms` [M], seen along `rays` [M, 3] (unit, world) -> colours [M, 3] uint8.

    Light sums as in MuJoCo's fixed pipeline: ambient + diffuse * cosine per light, clipped at full brightness."""
    normals = world_normals(model, data, geoms, points)
    facing = -np.einsum("md,md->m", normals, rays)
    normals *= np.sign(facing)[:, None]  # both sides of a surface reflect
    light = np.zeros_like(points)
    if model.vis.headlight.active:
        light += model.vis.headlight.ambient + np.abs(facing)[:, None] * model.vis.headlight.diffuse
    for number in np.flatnonzero(model.light_active).tolist():
        cosine = np.einsum("md,md->m", normals, _towards(model, data, number, points))
        light += model.light_ambient[number] + np.maximum(cosine, 0)[:, None] * model.light_diffuse[number]
    light *= 255 * geom_colors(model)[geoms]
    return np.minimum(light + 0.5, 255).astype(np.uint8)


def _towards(model: mujoco.MjModel, data: mujoco.MjData, number: int, points: np.ndarray) -> np.ndarray:
    """Unit vectors [M, 3] (or [1, 3]) from the points to a light."""
    if field(model, "light_directional", "light_type")[number] == 1:
        return -data.light_xdir[number][None]
    offset = data.light_xpos[number] - points
    return offset / np.linalg.norm(offset, axis=1, keepdims=True)


def geom_colors(model: mujoco.MjModel) -> np.ndarray:
    """[ngeom, 3] in [0, 1]: the material's colour unless the geom has its own, times its texture's mean colour."""
    default = np.array([0.5, 0.5, 0.5, 1.0], dtype=np.float32)
    own = (model.geom_matid < 0) | (model.geom_rgba != default).any(axis=1)
    if not model.nmat:
        return model.geom_rgba[:, :3]
    colors = np.where(own[:, None], model.geom_rgba, model.mat_rgba[model.geom_matid])[:, :3]
    textures = np.where(
        model.geom_matid < 0, -1, model.mat_texid[model.geom_matid, mujoco.mjtTextureRole.mjTEXROLE_RGB]
    )
    for texture in set(textures[textures >= 0].tolist()):
        colors[textures == texture] *= mean_color(model, texture)
    return colors


def mean_color(model: mujoco.MjModel, texture: int) -> np.ndarray:
    """[3] in [0, 1]."""
    start, channels = int(model.tex_adr[texture]), int(model.tex_nchannel[texture])
    size = int(model.tex_height[texture] * model.tex_width[texture]) * channels
    pixels = model.tex_data[start : start + size].reshape(-1, channels)
    return pixels[:, :3].mean(0) / 255


def sky_color(model: mujoco.MjModel) -> np.ndarray:
    """[3] in [0, 1], where nothing is hit: the mean of the sky's texture, black without one."""
    skies = np.flatnonzero(model.tex_type == mujoco.mjtTexture.mjTEXTURE_SKYBOX)
    return mean_color(model, int(skies[0])) if len(skies) else np.zeros(3)


def world_normals(model: mujoco.MjModel, data: mujoco.MjData, geoms: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Unit normals [M, 3] in the world frame of the geoms' surfaces at points on them."""
    normals = np.empty_like(points)
    order = np.argsort(geoms, kind="stable")
    for here in np.split(order, np.flatnonzero(np.diff(geoms[order])) + 1):
        geom = geoms[here[0]]
        rotation = data.geom_xmat[geom].reshape(3, 3)
        local = (points[here] - data.geom_xpos[geom]) @ rotation
        normals[here] = local_normals(model.geom_type[geom], model.geom_size[geom], local) @ rotation.T
    return normals


def local_normals(kind: int, size: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Outward unit normals [M, 3] of a primitive at points [M, 3] of its surface, in its own frame.

    Meshes and height fields are shaded as if they were balls around their frame's origin."""
    if kind == _G.mjGEOM_PLANE:
        return np.broadcast_to([0.0, 0.0, 1.0], points.shape)
    if kind == _G.mjGEOM_BOX:
        scaled = points / size
        largest = np.argmax(np.abs(scaled), axis=1)
        return np.eye(3)[largest] * np.sign(np.take_along_axis(scaled, largest[:, None], axis=1))
    normals = points.copy()
    if kind == _G.mjGEOM_CAPSULE:
        normals[:, 2] -= np.clip(points[:, 2], -size[1], size[1])
    elif kind == _G.mjGEOM_CYLINDER:
        cap = size[1] - np.abs(points[:, 2]) < size[0] - np.hypot(points[:, 0], points[:, 1])
        normals[cap] *= (0, 0, 1)
        normals[~cap] *= (1, 1, 0)
    elif kind == _G.mjGEOM_ELLIPSOID:
        normals /= size**2
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
