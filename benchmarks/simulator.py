"""How many policy steps a second the batched simulator takes, and where the time goes.

    python benchmarks/simulator.py [--task tabletop/block_stack] [--envs 16] [--steps 40] [--size 128] [--workers 0 1 2]
        [--control osc_delta | setpoint_pose]

The task's relative control (20 Hz: 25 physics steps per policy step) or its setpoints (some 400) move every arm at
random. First proprioception alone, then one view's pictures by each renderer that works here. Shares are of the
processes' time: control is the controllers with their inverse kinematics, the rest is everything that is neither
physics (mj_step), control nor rendering: observations, judges, copying, messages, and waiting for other processes.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from t2p.sim.batch import BatchedSim
from t2p.sim.environment import Observe
from t2p.sim.registry import make_task
from t2p.sim.render import NAMES, why_not
from t2p.sim.task import Task
from t2p.types import Observation


def actions(task: Task, rng: np.random.Generator, obs: Observation) -> np.ndarray:
    """Small moves about the start, none of them out of reach for long; or setpoints about where the tools are."""
    tool = obs.proprio["tool"][:, -1]
    envs = len(tool)
    if task.action.kind == "setpoint_pose":
        pose = tool + np.pad(rng.uniform(-0.02, 0.02, (envs, 3)), ((0, 0), (0, 6)))
        return np.concatenate([pose, rng.integers(0, 2, (envs, 1))], 1)
    return np.concatenate([rng.uniform(-0.4, 0.4, (envs, 3)), rng.uniform(-0.1, 0.1, (envs, 3)), np.ones((envs, 1))], 1)


def measure(task: Task, envs: int, workers: int, observe: Observe, renderer: str, steps: int) -> dict[str, float]:
    """-> policy and physics steps per second, and shares of time."""
    rng = np.random.default_rng(0)
    with BatchedSim(task, envs, workers, observe, renderer) as sim:
        result = sim.step(actions(task, rng, sim.reset(range(envs))))
        before, began = sim.times, time.perf_counter()
        for _ in range(steps):
            result = sim.step(actions(task, rng, result.obs))
        seconds = time.perf_counter() - began
        spent = {name: value - before[name] for name, value in sim.times.items()}
    shares = {name: spent[name] / (seconds * max(1, workers)) for name in ("physics", "control", "render")}
    physics_steps = round(result.sim_time.sum() / task.build().option.timestep) * steps / (steps + 1)
    rates = {"policy": envs * steps / seconds, "physics_rate": physics_steps / seconds}
    return rates | shares | {"rest": 1 - sum(shares.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--task", default="tabletop/block_stack")
    parser.add_argument("--control", default="osc_delta", choices=("osc_delta", "setpoint_pose"))
    parser.add_argument("--envs", type=int, default=16)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    task = make_task(args.task, control=args.control)
    view = next(iter(task.views))
    seen = [("state", Observe(), "auto", args.steps)]
    for name in [name for name in NAMES if why_not(name) is None]:
        picture = Observe(images=(view,), size=(args.size, args.size))
        seen.append((f"picture, {name}", picture, name, max(1, args.steps // 8)))
    print(f"{args.task}, {args.control}, {args.envs} environments, pictures {args.size} x {args.size}")
    print("| observed | workers | policy steps/s | physics steps/s | physics | control | render | rest |")
    print("|---|---|---|---|---|---|---|---|")
    for label, observe, renderer, steps in seen:
        for workers in args.workers:
            m = measure(task, args.envs, workers, observe, renderer, steps)
            shares = " | ".join(f"{m[name]:.0%}" for name in ("physics", "control", "render", "rest"))
            print(f"| {label} | {workers} | {m['policy']:.0f} | {m['physics_rate']:.0f} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
