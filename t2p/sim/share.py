"""The environments of one process, and where their results lie.

An engine (`Local` here, `workers.Pool`) holds `arrays`, one per part of an observation with the environment axis first,
and `run(command, work)`, which does one command on the environments that `work` names and returns those that failed
with the reasons:

| command | work: {environment: ...} | written to `arrays` |
|---|---|---|
| "reset" | a seed or an InitialState | the observation, success, time |
| "step" | an action [A] | the observation, success, time; nothing of environments that failed |
| "goal" | an InitialState | the goal's pictures |
| "replay" | an Episode | nothing |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.shared_memory import SharedMemory
from typing import Any, Literal, Protocol

import numpy as np

from t2p.sim import glimpse
from t2p.sim.environment import CLOCKS, Environment, Key, Observe, Onlooker, Scene, Shape, Start
from t2p.sim.task import Task
from t2p.types import InitialState

Command = Literal["reset", "step", "goal", "replay"]
Work = Mapping[int, Any]
Failures = dict[int, str]

# What is known of each environment beside its observation; busy: it is being worked on.
STATUS: dict[Key, Shape] = {
    ("success",): ((), "?"),
    ("time",): ((), "f8"),
    ("clocks",): ((len(CLOCKS),), "f8"),
    ("busy",): ((), "?"),
}


class Engine(Protocol):
    """What BatchedSim needs of `Local` and `Pool`."""

    arrays: dict[Key, np.ndarray]

    def run(self, command: Command, work: Work) -> Failures: ...

    def close(self) -> None: ...


class Share:
    """The environments of one process: one scene, and a Local's or a worker's part of the arrays."""

    def __init__(
        self,
        task: Task,
        observe: Observe,
        renderer: str,
        glimpses: bool,
        rows: Sequence[int],
        onlooker: Onlooker | None = None,
    ):
        """glimpses: leave states in the arrays for whoever watches; else an onlooker may watch."""
        self.scene = Scene(task, observe, renderer)
        onlookers = {row: glimpse.Reporter(partial(self._keep, row)) if glimpses else onlooker for row in rows}
        self.environments = {row: Environment(task, observe, scene=self.scene, onlooker=onlookers[row]) for row in rows}
        self.observe, self.glimpses = observe, glimpses
        self.arrays: dict[Key, np.ndarray] = {}

    def shapes(self) -> dict[Key, Shape]:
        found = next(iter(self.environments.values())).shapes() | STATUS
        return found | (glimpse.shapes(self.scene.model) if self.glimpses else {})

    def run(self, command: Command, work: Work) -> Failures:
        todo = getattr(self, f"_{command}")
        under_way = {row: todo(row, self.environments[row], what) for row, what in work.items()}
        while under_way:
            under_way = {row: parts for row, parts in under_way.items() if self._part(row, parts)}
        failures = {}
        for row in work:
            environment = self.environments[row]
            self.arrays[("clocks",)][row] += environment.clocks
            environment.clocks[:] = 0
            if environment.failure is not None:
                failures[row] = environment.failure
        return failures

    def _part(self, row: int, parts: Iterator[None]) -> bool:
        """The next part of a command on one environment. -> whether there was one."""
        busy = self.arrays[("busy",)]
        busy[row] = True
        try:
            for _ in parts:
                return True
            return False
        finally:
            busy[row] = False

    def close(self) -> None:
        self.arrays.clear()
        self.scene.close()

    # The commands give between their parts: every environment has done one part before the next begins.

    def _reset(self, row: int, environment: Environment, start: Start) -> Iterator[None]:
        environment.reset(start)
        self._write(row, environment, environment.observe())
        yield

    def _step(self, row: int, environment: Environment, action: np.ndarray) -> Iterator[None]:
        yield from environment.stepping(action)
        if environment.failure is None:
            self._write(row, environment, environment.observe(self.observe.every_step))

    def _goal(self, row: int, environment: Environment, state: InitialState) -> Iterator[None]:
        for key, picture in environment.goal_observation(state).items():
            self.arrays[key][row] = picture
        yield

    def _replay(self, row: int, environment: Environment, episode: Episode) -> Iterator[None]:
        environment.reset(episode.start)
        for action in episode.actions:
            environment.step(action)
        yield

    def _keep(self, row: int, state: np.ndarray) -> None:
        glimpse.keep(self.arrays, row, state)

    def _write(self, row: int, environment: Environment, seen: Mapping[Key, np.ndarray]) -> None:
        for key, value in seen.items():
            self.arrays[key][row] = value
        self.arrays[("success",)][row], self.arrays[("time",)][row] = environment.success, environment.time


@dataclass
class Episode:
    """All that determines an episode so far."""

    start: Start
    actions: list[np.ndarray] = field(default_factory=list)


class Local:
    """All environments in this process."""

    def __init__(
        self,
        task: Task,
        observe: Observe,
        renderer: str,
        glimpses: bool,
        num_envs: int,
        onlooker: Onlooker | None = None,
    ):
        self._share = Share(task, observe, renderer, glimpses, range(num_envs), onlooker)
        shapes = self._share.shapes()
        self.arrays = {key: np.zeros((num_envs, *shape), kind) for key, (shape, kind) in shapes.items()}
        self._share.arrays = dict(self.arrays)

    def run(self, command: Command, work: Work) -> Failures:
        return self._share.run(command, work)

    def close(self) -> None:
        self._share.close()


@dataclass(frozen=True)
class Layout:
    """Where arrays lie in shared memory: {key: (first byte, shape with the environment axis, type)}."""

    name: str
    places: Mapping[Key, tuple[int, tuple[int, ...], str]]

    @staticmethod
    def create(shapes: Mapping[Key, Shape], num_envs: int) -> tuple[Layout, SharedMemory]:
        """New shared memory, all zeros."""
        places, end = {}, 0
        for key, (shape, kind) in shapes.items():
            places[key] = (end, (num_envs, *shape), kind)
            size = num_envs * int(np.prod(shape)) * np.dtype(kind).itemsize
            end += -(-size // 64) * 64
        memory = SharedMemory(create=True, size=end)
        return Layout(memory.name, places), memory

    def arrays(self, memory: SharedMemory) -> dict[Key, np.ndarray]:
        """Views into the memory; they must be gone before it can be closed."""
        return {
            key: np.ndarray(shape, kind, buffer=memory.buf, offset=place)
            for key, (place, shape, kind) in self.places.items()
        }
