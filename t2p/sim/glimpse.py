"""The last states of running environments, for whoever watches them from outside while they run.

An environment leaves its state in an array now and then, which costs next to nothing. A watcher (a thread of the parent
process, even where the environment is a worker's) reads the array at its own pace and draws what it wants to see.
Nobody waits for anybody: a watcher that is too slow misses states.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import mujoco
import numpy as np

from t2p.sim.environment import Environment, Key, Shape
from t2p.sim.world import diverged

PER_SECOND = 20.0  # states kept of a simulated second
KEPT = 64  # states kept of an environment; newer ones take the places of the oldest
SAFE = 8  # of the oldest are not read: one might be overwritten meanwhile
LAG = 20  # about so many pictures after it was kept, a state is shown
STATES, COUNT = ("glimpse", "states"), ("glimpse", "count")
_FACTS = 4  # seed, policy steps, seconds, success


@dataclass(frozen=True)
class Glimpse:
    """An environment at one moment. number: from 1 on, of the states that it left; steps: policy steps that began;
    seconds: of simulated time since the reset; success: the judge's word after the last whole step; frames: the bodies'
    frames in the model, positions [nbody, 3] and quaternions [nbody, 4]."""

    number: int
    seed: int
    steps: int
    seconds: float
    success: bool
    qpos: np.ndarray
    frames: tuple[np.ndarray, np.ndarray]


def shapes(model: mujoco.MjModel) -> dict[Key, Shape]:
    """The arrays of one environment."""
    return {STATES: ((KEPT, _FACTS + model.nq + 7 * model.nbody), "f8"), COUNT: ((), "i8")}


class Reporter:
    """An onlooker (t2p.sim.environment) that hands the states of one environment to `keep` [width] float64."""

    def __init__(self, keep: Callable[[np.ndarray], None]):
        self._keep = keep

    def begin(self, environment: Environment) -> None:
        self._every = max(1, round(1 / (PER_SECOND * environment.model.opt.timestep)))
        self._start, self._substeps = environment.data.time, 0
        self._note(environment)

    def substep(self, environment: Environment) -> None:
        self._substeps += 1
        if self._substeps % self._every == 0:
            self._note(environment)

    def end(self, environment: Environment) -> None:
        if environment.success or self._substeps % self._every:  # else it is there already, but for the judge's word
            self._note(environment)

    def _note(self, environment: Environment) -> None:
        model, data = environment.model, environment.data
        if diverged(data) is not None:
            return
        facts = (environment.seed, environment.steps, data.time - self._start, environment.success)
        self._keep(np.concatenate([facts, data.qpos, model.body_pos.ravel(), model.body_quat.ravel()]))


def keep(arrays: Mapping[Key, np.ndarray], row: int, state: np.ndarray) -> None:
    """Puts a state into the environment's arrays. It counts only once it is whole."""
    count = arrays[COUNT]
    arrays[STATES][row, count[row] % KEPT] = state
    count[row] += 1


def look(arrays: Mapping[Key, np.ndarray], row: int, after: int, nq: int) -> Glimpse | None:
    """The state to show next where that of the number `after` was shown last (0: none); None where there is no newer
    one. nq: of the model."""
    states, count = arrays.get(STATES), arrays.get(COUNT)
    number = 0 if states is None or count is None else following(int(count[row]), after)
    if states is None or not number:
        return None
    state = states[row, (number - 1) % KEPT].copy()
    facts, qpos, rest = np.split(state, [_FACTS, _FACTS + nq])
    seed, steps, seconds, success = facts.tolist()
    bodies = len(rest) // 7
    frames = rest[: 3 * bodies].reshape(-1, 3), rest[3 * bodies :].reshape(-1, 4)
    return Glimpse(number, int(seed), int(steps), seconds, bool(success), qpos, frames)


def following(count: int, after: int) -> int:
    """The number of the state to show next when `count` were kept, 0 where none is newer than `after`. One by one while
    the watcher keeps up, in longer strides the more there are to catch up with, never one that is about to go."""
    backlog = count - after
    if backlog <= 0:
        return 0
    return max(after + math.ceil(backlog / LAG), count - KEPT + SAFE, 1)
