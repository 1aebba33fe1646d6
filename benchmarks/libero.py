"""LIBERO's environments: what they cost beside bare physics, what pictures and resets cost, and the original beside it.

    python benchmarks/libero.py [--tasks libero_object/0 libero_spatial/0] [--envs 16] [--rounds 20] [--pictures 20]
        [--official PYTHON]

Processor time of one process, for one policy step (25 physics steps) of one environment. Physics: all environments
moved together at random, beside mj_step of the same model from the same states under the last torques, one environment
after the other. Both are measured in turn and the medians are shown, so that what else the machine does falls on both.
Pictures: both cameras at 128 x 128, drawn faithfully and fast, and how far the two are apart in grey levels. Resets: as
`BatchedSim.reset` does them, without and with the protocol's settling steps.

PYTHON: an interpreter of an environment with the original libero and robosuite 1.4, which then steps, draws and resets
the same tasks, one environment in its process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Callable
from functools import partial

import mujoco
import numpy as np

from t2p.sim.environment import Observe
from t2p.sim.libero.environment import LiberoEnvironment
from t2p.sim.libero.quirks import Quirks
from t2p.sim.libero.task import VIEWS, LiberoTask
from t2p.sim.registry import make_task

ORIGINAL = """
import json, sys, time
import numpy as np
from libero.libero import benchmark
from libero.libero.envs import OffScreenRenderEnv
suite, name, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
bench = benchmark.get_benchmark_dict()[suite]()
index = bench.get_task_names().index(name)
found = {}
env = OffScreenRenderEnv(bddl_file_name=bench.get_task_bddl_file_path(index), camera_heights=128, camera_widths=128,
                         use_camera_obs=False)
began = time.process_time()
env.seed(0), env.reset()
found["reset"] = time.process_time() - began


def measure(do):
    times = []
    for _ in range(steps):
        began = time.process_time()
        do()
        times.append(time.process_time() - began)
    return float(np.median(times))


def draw():
    for camera in ("agentview", "robot0_eye_in_hand"):
        env.sim.render(camera_name=camera, width=128, height=128)


rng = np.random.default_rng(0)
found["policy step"] = measure(lambda: env.step(np.append(rng.uniform(-0.3, 0.3, 6), -1)))
draw()
found["pictures"] = measure(draw)
print("RESULT", json.dumps(found))
"""


def seconds(do: Callable[[], object]) -> float:
    began = time.process_time()
    do()
    return time.process_time() - began


def physics(task: LiberoTask, envs: int, rounds: int) -> tuple[float, float]:
    """-> seconds of one environment's policy step: ours, bare."""
    first = LiberoEnvironment(task)
    environments = [first, *(LiberoEnvironment(task, scene=first.scene) for _ in range(envs - 1))]
    for seed, environment in enumerate(environments):
        environment.reset(seed)
    rng, bare = np.random.default_rng(0), [mujoco.MjData(first.model) for _ in environments]

    def ours() -> None:
        for environment in environments:
            environment.begin(np.append(rng.uniform(-0.3, 0.3, 6), -1))
        LiberoEnvironment.advance_all(environments)
        for environment in environments:
            environment.finish()

    def alone() -> None:
        for environment, data in zip(environments, bare, strict=True):
            environment.enter()
            mujoco.mj_step(first.model, data, nstep=25)

    whole = mujoco.mjtState.mjSTATE_INTEGRATION  # torques and warm starts too
    state = np.empty(mujoco.mj_stateSize(first.model, whole))
    ours()
    times = []
    for _ in range(rounds):
        for environment, data in zip(environments, bare, strict=True):
            mujoco.mj_getState(first.model, environment.data, state, whole)
            mujoco.mj_setState(first.model, data, state, whole)
        times.append((seconds(ours), seconds(alone)))
    assert not any(environment.failure for environment in environments)
    one, other = np.median(times, axis=0) / envs
    return float(one), float(other)


def pictures(task: LiberoTask, count: int) -> tuple[dict[str, float], dict[str, float]]:
    """-> seconds for both views by profile; mean absolute difference of the profiles by view, in grey levels."""
    found, times = {}, {}
    for profile in ("faithful", "fast"):
        drawn = LiberoTask(task.name, protocol=task.protocol, profile=profile)
        environment = LiberoEnvironment(drawn, Observe(tuple(VIEWS)))
        environment.reset(0)
        environment.observe()
        times[profile] = float(np.median([seconds(environment.observe) for _ in range(count)]))
        found[profile] = environment.observe()
        environment.close()
    keys = [("images", view) for view in VIEWS]
    far = {key[1]: found["faithful"][key].astype(float) - found["fast"][key] for key in keys}
    return times, {view: float(np.abs(difference).mean()) for view, difference in far.items()}


def resets(task: LiberoTask, settle: bool, count: int) -> float:
    environment = LiberoEnvironment(LiberoTask(task.name, protocol=task.protocol, quirks=Quirks(settle=settle)))
    return float(np.median([seconds(partial(environment.reset, seed)) for seed in range(count)]))


def original(python: str, task: LiberoTask, steps: int) -> dict[str, float]:
    suite, _, name = task.name.partition("/")
    done = subprocess.run([python, "-c", ORIGINAL, suite, name, str(steps)], capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        raise SystemExit(f"{python} does not run the original:\n{done.stderr[-2000:]}")
    return json.loads(lines[-1].removeprefix("RESULT "))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", nargs="+", default=["libero_object/0", "libero_spatial/0"])
    parser.add_argument("--envs", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--pictures", type=int, default=20)
    parser.add_argument("--official", metavar="PYTHON")
    args = parser.parse_args()
    print(f"MuJoCo {mujoco.__version__}, {args.envs} environments; ms of processor time; apart: grey levels")
    print("| task | policy step | bare physics | ratio | pictures: faithful | fast | apart | reset | settled |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in args.tasks:
        task = make_task(name)
        ours, bare = physics(task, args.envs, args.rounds)
        drawn, far = pictures(task, args.pictures)
        apart = ", ".join(f"{view} {value:.2f}" for view, value in far.items())
        numbers = (ours, bare, drawn["faithful"], drawn["fast"], resets(task, False, 5), resets(task, True, 5))
        a, b, c, d, e, f = (f"{1000 * value:.1f}" for value in numbers)
        print(f"| {name} | {a} | {b} | {ours / bare:.2f} | {c} | {d} | {apart} | {e} | {f} |", flush=True)
        if args.official:
            theirs = original(args.official, task, args.rounds)
            shown = ", ".join(f"{part} {1000 * value:.1f}" for part, value in theirs.items())
            print(f"  the original, {name}: {shown}", flush=True)


if __name__ == "__main__":
    main()
