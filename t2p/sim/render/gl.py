"""Drawing with MuJoCo's OpenGL renderer, on a graphics card or in software (EGL), or in software alone (OSMesa)."""

from __future__ import annotations

import weakref

import mujoco
import numpy as np

from t2p.sim.render.common import (
    NOTHING,
    Frame,
    Size,
    Surfaces,
    camera_number,
    check_size,
    drawn_groups,
    far_plane,
)
from t2p.sim.render.contexts import Context, make_context

_DRAWN = mujoco.mjtCatBit.mjCAT_STATIC | mujoco.mjtCatBit.mjCAT_DYNAMIC
_IDS = (mujoco.mjtRndFlag.mjRND_SEGMENT, mujoco.mjtRndFlag.mjRND_IDCOLOR)


class GLRenderer:
    """name: "egl" or "osmesa". ContextError where no context of that kind can be made."""

    def __init__(self, model: mujoco.MjModel, name: str) -> None:
        self.name = name
        self._model = model
        context = make_context(name)
        context.make_current()
        try:
            drawing = _make_drawing(model)
        except BaseException:
            context.free()
            raise
        self._context, self._drawing = context, drawing
        self._scene = mujoco.MjvScene(model, maxgeom=max(1000, 2 * model.ngeom))
        self._options, self._solid = _options(model, sites=True), _options(model, sites=False)
        self._release = weakref.finalize(self, _free, context, drawing)

    def render(self, data: mujoco.MjData, camera: str, size: Size) -> Frame:
        return Frame(self.rgb(data, camera, size), *self.surfaces(data, camera, size))

    def surfaces(self, data: mujoco.MjData, camera: str, size: Size) -> Surfaces:
        return self._draw_ids(self._look(data, camera, size, self._solid))

    def rgb(self, data: mujoco.MjData, camera: str, size: Size) -> np.ndarray:
        return self._draw_colors(self._look(data, camera, size, self._options))

    def depth(self, data: mujoco.MjData, camera: str, size: Size) -> np.ndarray:
        return self.surfaces(data, camera, size).depth

    def bodies(self, data: mujoco.MjData, camera: str, size: Size) -> np.ndarray:
        return self.surfaces(data, camera, size).bodies

    def close(self) -> None:
        self._release()

    def _look(self, data: mujoco.MjData, camera: str, size: Size, options: mujoco.MjvOption) -> Size:
        """Makes ready to draw what the camera sees."""
        if not self._release.alive:
            raise ValueError("this renderer is closed")
        height, width = check_size(size)
        view = mujoco.MjvCamera()
        view.type, view.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, camera_number(self._model, camera)
        mujoco.mjv_updateScene(self._model, data, options, None, view, _DRAWN, self._scene)
        self._context.make_current()
        drawing = self._drawing
        if width > drawing.offWidth or height > drawing.offHeight:
            mujoco.mjr_resizeOffscreen(max(width, drawing.offWidth), max(height, drawing.offHeight), drawing)
        return height, width

    def _draw(self, size: Size, pixels: np.ndarray, depth: np.ndarray | None) -> None:
        rectangle = mujoco.MjrRect(0, 0, size[1], size[0])
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._drawing)
        mujoco.mjr_render(rectangle, self._scene, self._drawing)
        mujoco.mjr_readPixels(pixels, depth, rectangle, self._drawing)

    def _draw_colors(self, size: Size) -> np.ndarray:
        pixels = np.empty((*size, 3), dtype=np.uint8)
        self._draw(size, pixels, None)
        return np.ascontiguousarray(pixels[::-1])  # OpenGL's row 0 is at the bottom

    def _draw_ids(self, size: Size) -> Surfaces:
        """One drawing without light or shadow in which every geom's colour is its number."""
        pixels, buffer = np.empty((*size, 3), dtype=np.uint8), np.empty(size, dtype=np.float32)
        for flag in _IDS:
            self._scene.flags[flag] = 1
        self._draw(size, pixels, buffer)
        for flag in _IDS:
            self._scene.flags[flag] = 0
        numbers = pixels[::-1].astype(np.int32) @ np.array([1, 1 << 8, 1 << 16], dtype=np.int32)
        bodies = self._bodies_of_numbers()[numbers]
        depth = _metric(self._model, buffer[::-1])
        return Surfaces(np.where(bodies == NOTHING, np.float32(np.inf), depth), bodies)

    def _bodies_of_numbers(self) -> np.ndarray:
        """Number in the picture (0: background) -> body."""
        table = np.full(self._scene.ngeom + 1, NOTHING, dtype=np.int32)
        for geom in self._scene.geoms[: self._scene.ngeom]:
            if geom.objtype == mujoco.mjtObj.mjOBJ_GEOM and geom.segid >= 0:
                table[geom.segid + 1] = self._model.geom_bodyid[geom.objid]
        return table


def _make_drawing(model: mujoco.MjModel) -> mujoco.MjrContext:
    drawing = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
    drawing.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR  # keeps the precision of the reversed depth buffer
    return drawing


def _free(context: Context, drawing: mujoco.MjrContext) -> None:
    context.make_current()
    drawing.free()
    context.free()


def _options(model: mujoco.MjModel, sites: bool) -> mujoco.MjvOption:
    """sites: drawn too, where the model has it so. Not where surfaces are drawn: those that are hidden by their colour
    would cover what is there."""
    options = mujoco.MjvOption()
    options.geomgroup[:], shown = drawn_groups(model)
    options.sitegroup[:] = shown if sites else 0
    for groups in ("jointgroup", "tendongroup", "actuatorgroup", "flexgroup", "skingroup"):
        getattr(options, groups)[:] = 0
    options.flags[:] = 0
    for flag in (mujoco.mjtVisFlag.mjVIS_TEXTURE, mujoco.mjtVisFlag.mjVIS_STATIC):
        options.flags[flag] = 1
    return options


def _metric(model: mujoco.MjModel, buffer: np.ndarray) -> np.ndarray:
    """MuJoCo's depth buffer (1 at the near plane, 0 at the far one) -> metres, float32 [H, W]."""
    near, far = model.vis.map.znear * model.stat.extent, far_plane(model)
    return (near * far / (near + buffer.astype(np.float64) * (far - near))).astype(np.float32)
