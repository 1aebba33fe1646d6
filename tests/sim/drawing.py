"""A table scene with a robot; run as a script, it is drawn by one renderer in a process of its own.

python drawing.py RENDERER OUT.npz: exit code 3 and a reason on stderr where the machine lacks the renderer.
"""

from __future__ import annotations

import os
import sys

import mujoco
import numpy as np

from t2p.io import UserError
from t2p.sim import world
from t2p.sim.render import make_renderer
from t2p.sim.robots.base import attach
from t2p.sim.robots.xarm7 import XARM7

# camera -> (H, W); one is no square, and larger than MuJoCo's offscreen buffer (480 x 640) in one side
PICTURES = {"front": (128, 128), "side": (200, 700)}
LACKING = 3


def scene(edge: float = 0.1) -> tuple[mujoco.MjModel, mujoco.MjData]:
    """A floor, two cubes, a tilted ball-ended post, things not to be drawn, and an xArm 7 at its home posture."""
    spec = world.new_world("table")
    world.add_floor(spec)
    world.add_light(spec, (0, 0, 2), (0.2, 0.3, -2))
    world.add_box(spec, "green", (edge, edge, edge), (0.35, -0.1, edge / 2), 0.1, (0, 1, 0, 1))
    world.add_box(spec, "blue", (0.06, 0.06, 0.06), (0.35, 0.1, 0.03), 0.05, (0, 0, 1, 1))
    post = spec.worldbody.add_body(name="post", pos=[0.45, 0.0, 0.05], quat=[0.9, 0.3, 0.1, 0.2])
    post.add_geom(type=mujoco.mjtGeom.mjGEOM_CYLINDER, size=[0.02, 0.05, 0], rgba=[1, 0, 0, 1])
    top = post.add_body(name="top", pos=[0, 0, 0.05])
    top.add_geom(type=mujoco.mjtGeom.mjGEOM_ELLIPSOID, size=[0.03, 0.02, 0.04], rgba=[1, 1, 0, 1])
    hidden = spec.worldbody.add_body(name="hidden", pos=[0.4, 0, 0.2])
    hidden.add_geom(name="clear", size=[0.05, 0, 0], rgba=[1, 1, 1, 0])
    hidden.add_geom(name="collision", size=[0.05, 0, 0], group=3)
    hidden.add_site(name="mark", size=[0.05, 0, 0])
    attach(spec, XARM7, (0, 0, 0.12))
    world.add_camera(spec.worldbody, "front", (0.760, -0.030, 0.620), (0.038, 0.999, 0), (-0.798, 0.030, 0.602))
    world.add_camera(spec.worldbody, "side", (1.8, -0.8, 1.2), (0.5, 1, 0), (-0.4, 0.2, 0.9), fovy=35)
    model = spec.compile()
    data = mujoco.MjData(model)
    for joint, angle in zip(XARM7.joints, XARM7.home, strict=True):
        data.joint(f"robot/{joint}").qpos = angle
    mujoco.mj_forward(model, data)
    return model, data


def around(picture: np.ndarray) -> np.ndarray:
    """[H, W, 9]: the 3 x 3 neighbourhoods of a picture's pixels."""
    padded = np.pad(picture, 1, mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).reshape(*picture.shape, 9)


def away_from_silhouettes(bodies: np.ndarray) -> np.ndarray:
    """[H, W] bool: pixels whose 3 x 3 neighbourhood shows one body."""
    return (around(bodies) == bodies[..., None]).all(axis=-1)


def main() -> None:
    name, out = sys.argv[1:]
    environment = dict(os.environ)
    model, data = scene()
    try:
        renderer = make_renderer(model, name)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(LACKING)
    pictures = {}
    for camera, size in PICTURES.items():
        frame = renderer.render(data, camera, size)
        pictures |= {f"{camera}/{part}": getattr(frame, part) for part in ("rgb", "depth", "bodies")}
    # A renderer of another world alongside, closed twice, must not disturb the first.
    other_model, other_data = scene(edge=0.05)
    other = make_renderer(other_model, name)
    pictures["other/bodies"] = other.bodies(other_data, "front", PICTURES["front"])
    for part in ("rgb", "depth", "bodies"):
        pictures[f"again/{part}"] = getattr(renderer, part)(data, "front", PICTURES["front"])
    other.close()
    other.close()
    pictures["last/rgb"] = renderer.rgb(data, "front", PICTURES["front"])
    renderer.close()
    assert dict(os.environ) == environment
    np.savez(out, name=renderer.name, **pictures)


if __name__ == "__main__":
    main()
