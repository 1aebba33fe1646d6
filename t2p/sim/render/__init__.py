"""Pictures, depth and segmentation of MuJoCo worlds, without a window: by OpenGL or by casting rays.

"egl" draws on a graphics card, or in software with Mesa; "osmesa" in software; "rays" is built in, needs no graphics
library and draws no shadows or textures. Depth and segmentation are the same from all three, away from silhouettes
(OpenGL draws round shapes as polyhedra, whose surface lies a little deeper: see `world.new_world`).
No environment variable decides or is set; MUJOCO_EGL_DEVICE_ID is honoured where several cards are there.
"""

from __future__ import annotations

import functools
import logging

import mujoco

from t2p.io import UserError
from t2p.sim.render.common import Frame, Renderer, Size, Surfaces, camera_of
from t2p.sim.render.contexts import ContextError
from t2p.sim.render.gl import GLRenderer
from t2p.sim.render.rays import RayRenderer

__all__ = ["NAMES", "Frame", "Renderer", "Size", "Surfaces", "camera_of", "choose_renderer", "make_renderer"]

NAMES = ("egl", "osmesa", "rays")  # in the order in which they are tried
_BALL = """<mujoco><worldbody><camera name="eye" pos="0 0 2"/>
<body name="ball"><geom type="sphere" size="0.5"/></body></worldbody></mujoco>"""

log = logging.getLogger(__name__)


@functools.cache
def choose_renderer(wanted: str = "auto") -> str:
    """The renderer to use: `wanted`, or for "auto" the first of egl, osmesa and rays that draws a picture here.

    UserError for an unknown name, or one that was asked for and does not work. Logs the outcome, once."""
    if wanted not in ("auto", *NAMES):
        raise UserError(f"unknown renderer {wanted!r}; there are: auto, {', '.join(NAMES)}")
    if wanted != "auto":
        reason = why_not(wanted)
        if reason:
            raise UserError(f"renderer {wanted!r} does not work here: {reason}; or take 'auto'")
        log.info("renderer: %s (as asked for)", wanted)
        return wanted
    reasons = []
    for name in NAMES:
        reason = why_not(name)
        if reason is None:
            break
        reasons.append(f"; no {name}: {reason}")
    log.info("renderer: %s (chosen%s)", name, "".join(reasons))
    return name


def why_not(name: str) -> str | None:
    """None if a renderer draws a ball where it is, else what is wrong."""
    model = mujoco.MjModel.from_xml_string(_BALL)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    try:
        renderer = _make(model, name)
    except (ContextError, mujoco.FatalError) as error:
        return str(error)
    try:
        seen = renderer.bodies(data, "eye", (8, 8))
    finally:
        renderer.close()
    return None if (seen[4, 4], seen[0, 0]) == (1, -1) else "its pictures are wrong"


def make_renderer(model: mujoco.MjModel, name: str = "auto") -> Renderer:
    """A renderer of one model, for the calling thread; `close` it when done. name: see `choose_renderer`."""
    return _make(model, choose_renderer(name))


def _make(model: mujoco.MjModel, name: str) -> Renderer:
    return RayRenderer(model) if name == "rays" else GLRenderer(model, name)
