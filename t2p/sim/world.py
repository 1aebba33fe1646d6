"""Building a world, settling it, reading and writing its state, and noticing when it has come apart.

Everything in metres, kilograms, seconds, radians; z is up; quaternions (w, x, y, z).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import mujoco
import numpy as np

from t2p.io import UserError
from t2p.sim.robots.base import TIMESTEP, new_spec
from t2p.types import InitialState

Rgba = tuple[float, float, float, float]

# MuJoCo's warnings after which a simulation means nothing; the one left out only says that a picture lacks shapes.
FATAL_WARNINGS = tuple(
    warning for name, warning in mujoco.mjtWarning.__members__.items() if name not in ("mjWARN_VGEOMFULL", "mjNWARNING")
)
_FATAL = np.array([int(warning) for warning in FATAL_WARNINGS])


def new_world(name: str, timestep: float = TIMESTEP) -> mujoco.MjSpec:
    """An empty world whose physics suits grasping: elliptic friction cones, friction stiffer than normal contact."""
    if not 0 < timestep <= 0.02:
        raise UserError(f"the physics timestep must be above 0 and at most 0.02 s; got {timestep}")
    spec = new_spec(name)
    spec.option.timestep = timestep
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.impratio = 10
    _draw_fast(spec)
    return spec


def _draw_fast(spec: mujoco.MjSpec) -> None:
    """Pictures here are small and mostly drawn in software, where MuJoCo's shadow map of 4096 x 4096 is nearly all of
    a picture's cost and its 4 samples per pixel much of the rest. Round shapes are drawn as polyhedra: 36 slices keep
    the depth of a 6 cm round link within 1 mm of the true surface, where 28 do not."""
    quality = spec.visual.quality
    quality.shadowsize, quality.offsamples = 1024, 0
    quality.numslices, quality.numstacks = 36, 20
    # The shadow map then covers the whole drawn floor; beyond its border the floor is speckled with shadows of itself.
    spec.visual.map.shadowclip = 3


def add_floor(spec: mujoco.MjSpec, rgba: Rgba = (0.72, 0.58, 0.42, 1.0), name: str = "floor") -> mujoco.MjsGeom:
    """An endless floor at z = 0 (drawn 4 m by 4 m)."""
    return spec.worldbody.add_geom(name=name, type=mujoco.mjtGeom.mjGEOM_PLANE, size=[2, 2, 0.05], rgba=rgba)


def add_light(spec: mujoco.MjSpec, position: Sequence[float], direction: Sequence[float], shadow: bool = True) -> None:
    """A directional light."""
    light = spec.worldbody.add_light(
        pos=_numbers(position, 3, "a light's position"),
        dir=_direction(direction, "a light's direction"),
        castshadow=shadow,
    )
    if hasattr(light, "directional"):
        light.directional = True
    else:  # newer MuJoCo
        light.type = mujoco.mjtLightType.mjLIGHT_DIRECTIONAL


def add_camera(
    body: mujoco.MjsBody,
    name: str,
    position: Sequence[float],
    x_axis: Sequence[float],
    y_axis: Sequence[float],
    fovy: float = 45.0,
) -> mujoco.MjsCamera:
    """A camera fixed to a body (or `spec.worldbody`). position: metres in the body's frame; x_axis: to the right of its
    picture; y_axis: up in its picture (made orthogonal to x); it looks along -(x cross y). fovy: degrees, vertical."""
    if not 0 < fovy < 180:
        raise UserError(f"camera {name}: the vertical field of view must lie between 0 and 180 degrees; got {fovy}")
    x = _direction(x_axis, f"camera {name}: x axis")
    y = _numbers(y_axis, 3, f"camera {name}: y axis")
    y = y - (y @ x) * x
    if np.linalg.norm(y) < 1e-6 * np.linalg.norm(y_axis) or not np.any(y):
        raise UserError(f"camera {name}: its y axis {list(y_axis)} is parallel to its x axis {list(x_axis)}")
    y /= np.linalg.norm(y)
    quat = np.empty(4)
    mujoco.mju_mat2Quat(quat, np.stack([x, y, np.cross(x, y)], axis=1).ravel())
    return body.add_camera(name=name, pos=_numbers(position, 3, f"camera {name}: position"), quat=quat, fovy=fovy)


def add_box(
    spec: mujoco.MjSpec,
    name: str,
    size: Sequence[float],
    position: Sequence[float],
    mass: float,
    rgba: Rgba,
    friction: float = 1.0,
) -> mujoco.MjsBody:
    """A free box: body `name`, free joint `name`, geom `name`. size: edge lengths (x, y, z); position: its centre."""
    edges = _numbers(size, 3, f"box {name}: size")
    if min(edges) <= 0 or mass <= 0:
        raise UserError(f"box {name}: edges and mass must be positive; got {edges.tolist()} m and {mass} kg")
    body = spec.worldbody.add_body(name=name, pos=_numbers(position, 3, f"box {name}: position"))
    body.add_freejoint(name=name)
    body.add_geom(
        name=name,
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=edges / 2,
        mass=mass,
        rgba=rgba,
        friction=[friction, 0.005, 0.0001],
    )
    return body


def settle(model: mujoco.MjModel, data: mujoco.MjData, steps: int = 200) -> str | None:
    """Steps physics under the commands in data.ctrl. -> None, or what went wrong (see `diverged`)."""
    mujoco.mj_step(model, data, nstep=steps)
    return diverged(data)


def diverged(data: mujoco.MjData) -> str | None:
    """None while the simulation makes sense; else why not: a MuJoCo warning since the last reset, or a number that is
    not finite. MuJoCo resets itself when it warns of bad numbers, so the count of warnings is what is left to see."""
    counts = data.warning.number[_FATAL]
    if counts.any():
        first = int(np.flatnonzero(counts)[0])
        return f"MuJoCo warned {counts[first]} times of {FATAL_WARNINGS[first].name.removeprefix('mjWARN_')}"
    for name in ("qpos", "qvel", "qacc", "ctrl"):
        values = getattr(data, name)
        # The product is finite only where all values are, and takes a fifth of the time.
        if not math.isfinite(values @ values) and not np.isfinite(values).all():
            return f"{name} is not finite"
    return None


def quiet_warnings() -> None:
    """Has MuJoCo count its warnings (`diverged` reads them) without printing them and writing MUJOCO_LOG.TXT into the
    working folder; for the whole process."""
    mujoco.set_mju_user_warning(lambda message: None)


def read_state(model: mujoco.MjModel, data: mujoco.MjData) -> InitialState:
    """A copy of time, positions, velocities and the bodies' frames."""
    return InitialState(
        time=float(data.time),
        qpos=data.qpos.copy(),
        qvel=data.qvel.copy(),
        body_pos=model.body_pos.copy(),
        body_quat=model.body_quat.copy(),
    )


def write_state(model: mujoco.MjModel, data: mujoco.MjData, state: InitialState) -> None:
    """Makes `state` the present: nothing of what ran before is left (commands, warm starts and warnings are cleared),
    so that equal states and commands give equal episodes. Changes the bodies' frames in `model`."""
    check_state(model, state)
    mujoco.mj_resetData(model, data)
    model.body_pos[:], model.body_quat[:] = state.body_pos, state.body_quat
    data.time, data.qpos[:], data.qvel[:] = state.time, state.qpos, state.qvel
    mujoco.mj_forward(model, data)


def check_state(model: mujoco.MjModel, state: InitialState) -> None:
    """UserError where a state is none of this model's."""
    expected = {"qpos": (model.nq,), "qvel": (model.nv,), "body_pos": (model.nbody, 3), "body_quat": (model.nbody, 4)}
    for name, shape in expected.items():
        value = np.asarray(getattr(state, name))
        if value.shape != shape:
            raise UserError(
                f"the state's {name} has shape {value.shape}, this model needs {shape}: another task's state?"
            )
        if not np.isfinite(value).all():
            raise UserError(f"the state's {name} holds numbers that are not finite")


def _numbers(values: Sequence[float], count: int, what: str) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if array.shape != (count,) or not np.isfinite(array).all():
        raise UserError(f"{what} must be {count} finite numbers; got {values!r}")
    return array


def _direction(values: Sequence[float], what: str) -> np.ndarray:
    array = _numbers(values, 3, what)
    length = np.linalg.norm(array)
    if length < 1e-9:
        raise UserError(f"{what} must not be zero")
    return array / length
