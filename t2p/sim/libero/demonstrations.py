"""LIBERO's recorded demonstrations shown again: their scene is built anew, and every recorded state is put into it.

What an episode of the `libero` source (t2p.data.sources.libero) must bring: the column "states" and, in its facts, the
task and where the fixtures stood in this demonstration, which no state holds (spec: LIBERO's set_init_state restores
time, positions and velocities alone).
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from t2p.io import UserError
from t2p.sim.libero.assets import Assets, find_assets, load_problem, split_state
from t2p.sim.libero.catalog import CATEGORIES
from t2p.sim.libero.scene import ROBOT, VIEWS, build, things
from t2p.sim.libero.suites import find_task
from t2p.sim.record import Replay
from t2p.sim.render import make_renderer
from t2p.types import InitialState


@dataclass(frozen=True)
class DemonstratedTask:
    """A task whose recordings are drawn (t2p.sim.record.Scene). name: suite/task; kept: all but the robot."""

    name: str
    views: Mapping[str, str]
    kept: tuple[str, ...]


def demonstration(dataset: Any, number: int, renderer: str = "auto", assets: Assets | None = None) -> Replay:
    """The replay of a demonstration: the number-th episode of a t2p.data.store.Dataset. assets: LIBERO's (None: those
    that `find_assets` finds). UserError where the episode lacks what its scene needs, or frames and states are of
    different moments."""
    info, facts = dataset.infos[number], dataset.info(number).get("libero")
    if facts is None or "states" not in info.columns:
        raise UserError(f"episode {info.id!r} is no LIBERO demonstration with states")
    if facts["align"] != "causal":
        raise UserError(
            f"episode {info.id!r} was imported as it is stored: frames show the moment after their states, and the "
            "last one's is not known. Import the demonstrations with --source.align=causal"
        )
    task, model, fixtures = _stage(facts["task"], assets or find_assets())
    model = copy.copy(model)  # its fixtures are moved
    states = dataset.column(number, "states")
    time, qpos, qvel = split_state(states, model.nq, model.nv)
    placed = _placed(model, info.id, fixtures, facts.get("fixtures", {}))
    start = InitialState(float(time[0]), qpos[0], qvel[0], *placed)
    return Replay(task, start, qpos, make_renderer(model, renderer), model)


@functools.lru_cache(maxsize=1)
def _stage(name: str, assets: Assets) -> tuple[DemonstratedTask, mujoco.MjModel, tuple[str, ...]]:
    """The task, its model and its fixtures' bodies, kept from one demonstration to the next of the same task."""
    task = find_task(name)
    problem = load_problem(assets, task.suite, task.name)
    model = build(problem, assets, "faithful").compile()
    robot = f"{ROBOT}base"
    roots = (model.body(b).name for b in range(1, model.nbody) if model.body_parentid[b] == 0)
    fixtures = tuple(f"{name}_main" for name, category in things(problem) if CATEGORIES[category].kind == "fixture")
    return DemonstratedTask(str(task), VIEWS, ("world", *(r for r in roots if r != robot))), model, fixtures


def _placed(
    model: mujoco.MjModel, episode: str, fixtures: tuple[str, ...], poses: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """body_pos [nbody, 3] and body_quat [nbody, 4] with the fixtures where the demonstration had them."""
    if set(poses) != set(fixtures):
        there, wanted = (", ".join(sorted(names)) or "none" for names in (poses, fixtures))
        raise UserError(f"episode {episode!r} has the poses of {there}; its scene has the fixtures {wanted}")
    position, quaternion = model.body_pos.copy(), model.body_quat.copy()
    for name, pose in poses.items():
        body = model.body(name).id
        position[body], quaternion[body] = pose["pos"], pose["quat"]
    return position, quaternion
