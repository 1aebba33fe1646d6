"""How long the devices wait for the host between steps, and what several steps per dispatch save.

    python benchmarks/dispatch.py [--config configs/atm/track_transformer.py:debug] [--steps 64] [--dispatch 1 8]
        [--config.key=value ...]

Trains on the same random batch, already on the devices, with 1 and with more steps per dispatch, in turns. Steps that
follow one another within a dispatch wait for nothing, so the difference is the gap: the share of a step that a dispatch
of its own costs. Over a tenth, `config.dispatch` is worth raising.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import jax
import numpy as np

from t2p.cli.config import load_config
from t2p.cli.inspect import _without_data
from t2p.train.feed import group_of, to_device
from t2p.train.plan import Plan, make_plan


def runner(plan: Plan, steps: int) -> Callable[[], float]:
    """-> a function that trains `steps` steps and returns seconds a step."""
    group = group_of(plan.config.dispatch)
    rng = np.random.default_rng(0)

    def draw(x: Any) -> np.ndarray:
        shape = (*group, *x.shape)
        return rng.random(shape).astype(x.dtype) if x.dtype == np.float32 else np.ones(shape, x.dtype)

    batch = to_device(jax.tree.map(draw, plan.example), plan.mesh, plan.config.batch_size, len(group))
    compiled, state = plan.compile(), plan.init()

    def run() -> float:
        nonlocal state
        begin = time.perf_counter()
        for _ in range(steps // plan.config.dispatch):
            state, metrics = compiled(state, batch)
        jax.block_until_ready((state, metrics))
        return (time.perf_counter() - begin) / steps

    run()
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/atm/track_transformer.py:debug")
    parser.add_argument("--steps", type=int, default=64, help="of a turn (default: 64)")
    parser.add_argument("--dispatch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=7)
    args, rest = parser.parse_known_args()
    runs = {}
    for count in args.dispatch:
        every = [f"--config.{name}={args.steps}" for name in ("steps", "eval.every", "checkpoint.every", "log.every")]
        config = load_config(args.config, [*rest, f"--config.dispatch={count}", *every])
        plan = make_plan(config, _without_data(config))
        with jax.set_mesh(plan.mesh):
            runs[count] = runner(plan, args.steps)
    print(plan.first_line())
    with jax.set_mesh(plan.mesh):
        times = {count: [] for count in runs}
        for _ in range(args.rounds):
            for count, run in runs.items():
                times[count].append(run())
    best = min(median(t) for t in times.values())
    for count, taken in times.items():
        seconds = median(taken)
        print(f"{count} step(s) a dispatch: {1e3 * seconds:.2f} ms a step, gap {1 - best / seconds:.1%}")


if __name__ == "__main__":
    main()
