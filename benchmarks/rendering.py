"""How many pictures a second each renderer draws, and what MuJoCo's shadow map costs.

    python benchmarks/rendering.py [--size 128] [--seconds 2] [--shadows 0 256 1024 4096]

The world is a floor, two cubes and an xArm 7. Each renderer runs in a process of its own (EGL and OSMesa exclude each
other); one this machine lacks is left out, with the reason. "frame" is colour, depth and bodies together. In brackets:
processor milliseconds, all threads together, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable

import mujoco

from t2p.io import UserError
from t2p.sim import world
from t2p.sim.render import NAMES, make_renderer
from t2p.sim.robots.base import attach
from t2p.sim.robots.xarm7 import XARM7


def table(shadow: int) -> tuple[mujoco.MjModel, mujoco.MjData]:
    """A robot at a table; `shadow`: side of the shadow map in texels, 0: no shadows."""
    spec = world.new_world("table")
    world.add_floor(spec)
    world.add_light(spec, (0, 0, 2), (0.2, 0.3, -2), shadow=shadow > 0)
    spec.visual.quality.shadowsize = shadow
    world.add_box(spec, "green", (0.1, 0.1, 0.1), (0.35, -0.1, 0.05), 0.1, (0, 1, 0, 1))
    world.add_box(spec, "blue", (0.06, 0.06, 0.06), (0.35, 0.1, 0.03), 0.05, (0, 0, 1, 1))
    attach(spec, XARM7, (0, 0, 0.12))
    world.add_camera(spec.worldbody, "front", (1.1, -0.5, 0.8), (0.5, 1, 0), (-0.4, 0.2, 0.9))
    model = spec.compile()
    data = mujoco.MjData(model)
    for joint, angle in zip(XARM7.joints, XARM7.home, strict=True):
        data.joint(f"robot/{joint}").qpos = angle
    mujoco.mj_forward(model, data)
    return model, data


def rate(draw: Callable[[], object], seconds: float) -> str:
    """Calls per second and, in brackets, processor milliseconds per call, all threads together."""
    draw()
    count, began, worked = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - began < seconds:
        draw()
        count += 1
    elapsed, worked = time.perf_counter() - began, time.process_time() - worked
    return f"{count / elapsed:.0f} ({worked / count * 1000:.1f})"


def row(name: str, shadow: int, size: int, seconds: float) -> str:
    """One line of the table, or why there is none."""
    model, data = table(shadow)
    try:
        renderer = make_renderer(model, name)
    except UserError as error:
        return f"({error})"
    calls = [lambda call=call: call(data, "front", (size, size)) for call in (renderer.render, renderer.rgb)]
    calls.append(lambda: renderer.depth(data, "front", (size, size)))
    rates = [rate(call, seconds) for call in calls]
    renderer.close()
    shadows = "-" if name == "rays" else shadow
    return f"| {name} | {shadows} |" + "".join(f" {value} |" for value in rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--shadows", type=int, nargs="+", default=[0, 256, 1024, 4096])
    args = parser.parse_args()
    print(f"{args.size} x {args.size}: pictures/s (processor milliseconds per picture)")
    print("| renderer | shadow map | frame | rgb | depth |\n|---|---|---|---|---|")
    spawn = multiprocessing.get_context("spawn")
    for name in NAMES:
        with spawn.Pool(1) as process:
            for shadow in args.shadows[: 1 if name == "rays" else None]:
                print(process.apply(row, (name, shadow, args.size, args.seconds)), flush=True)


if __name__ == "__main__":
    main()
