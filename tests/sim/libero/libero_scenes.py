"""Scenes for tests: fixtures at the centres of their ranges, models to share."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from math import cos, sin
from typing import Any

import mujoco
import numpy as np

from t2p.parity.libero import RESTING, at_rest
from t2p.sim.libero.assets import Assets, load_problem
from t2p.sim.libero.bddl import Problem
from t2p.sim.libero.catalog import ARENAS, CATEGORIES
from t2p.sim.libero.scene import Profile, build
from t2p.sim.libero.task import SAME_PHYSICS, LiberoTask


@functools.lru_cache(maxsize=4)
def model(assets: Assets, suite: str, task: str, profile: Profile = "physics") -> mujoco.MjModel:
    """A task's model with its fixtures in place."""
    problem = load_problem(assets, suite, task)
    compiled = build(problem, assets, profile).compile()
    place_fixtures(compiled, problem)
    return compiled


def place_fixtures(compiled: mujoco.MjModel, problem: Problem) -> None:
    arena, fixtures = ARENAS[problem.kind], dict(problem.fixtures)
    for predicate, name, *place in problem.init:
        if predicate != "on" or name not in fixtures:
            continue
        region = problem.regions[place[0]]
        x0, y0, x1, y1 = region.ranges[0]
        height = arena.offset[2] + arena.fixture_z - CATEGORIES[fixtures[name]].bottom
        angle = sum(region.yaw) / 2
        body = compiled.body(f"{name}_main").id
        compiled.body_pos[body] = np.array([(x0 + x1) / 2, (y0 + y1) / 2, 0]) + (*arena.offset[:2], height)
        compiled.body_quat[body] = cos(angle / 2), 0, 0, sin(angle / 2)


def compared(recorded: np.ndarray, watched: Sequence[np.ndarray], columns: Sequence[np.ndarray]) -> np.ndarray:
    """[T, n] bool: which numbers of a recording [T, n] are compared: under releases of MuJoCo that move things as the
    original's does, all; under others not the columns of those things that the watched ones tell to be moving."""
    chosen = np.ones(recorded.shape, bool)
    if mujoco.__version__ not in SAME_PHYSICS:
        things = np.concatenate(columns)
        chosen[:, things] = at_rest(recorded, len(recorded), watched, columns, RESTING)[:, things]
    return chosen


STOVE = "libero_10/2"  # the fewest contacts; a stove that stands elsewhere in each episode


def task(assets: Assets, name: str = STOVE, **options: Any) -> LiberoTask:
    return LiberoTask(name, libero_root=str(assets.libero), **options)
