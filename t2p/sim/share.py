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
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.shared_memory import SharedMemory
from typing import Any, Literal, Protocol

import numpy as np

from t2p.sim import glimpse
from t2p.sim.environment import CLOCKS, Environment, Key, Observe, Onlooker, Shape, Start, environment_class
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
        kind = environment_class(task)
        self.scene = kind.scene_class(task, observe, renderer)
        onlookers = {row: glimpse.Reporter(partial(self._keep, row)) if glimpses else onlooker for row in rows}
        self.environments = {row: kind(task, observe, scene=self.scene, onlooker=onlookers[row]) for row in rows}
        self.observe, self.glimpses = observe, glimpses
        self.arrays: dict[Key, np.ndarray] = {}

    def shapes(self) -> dict[Key, Shape]:
        found = next(iter(self.environments.values())).shapes() | STATUS
        return found | (glimpse.shapes(self.scene.model) if self.glimpses else {})

    def run(self, command: Command, work: Work) -> Failures:
        if command == "step":
            self._step(work)
        else:
            todo = getattr(self, f"_{command}")
            for row, what in work.items():
                with self._busy([row]):
                    todo(row, self.environments[row], what)
        failures = {}
        for row in work:
            environment = self.environments[row]
            self.arrays[("clocks",)][row] += environment.clocks
            environment.clocks[:] = 0
            if environment.failure is not None:
                failures[row] = environment.failure
        return failures

    @contextmanager
    def _busy(self, rows: Sequence[int]) -> Iterator[None]:
        """Inside, these environments are being worked on: should the process die, over them."""
        busy = self.arrays[("busy",)]
        busy[rows] = True
        try:
            yield
        finally:
            busy[rows] = False

    def close(self) -> None:
        self.arrays.clear()
        self.scene.close()

    def _step(self, work: Work) -> None:
        """Each part of a policy step is done for all environments before the next: its code then stays in the
        processor's caches, which is half of what it costs."""
        for row, action in work.items():
            with self._busy([row]):
                self.environments[row].begin(action)
        self._advance(list(work))
        for row in work:
            with self._busy([row]):
                environment = self.environments[row]
                environment.finish()
                if environment.failure is None:
                    self._write(row, environment, environment.observe(self.observe.every_step))

    def _advance(self, rows: Sequence[int]) -> None:
        together = type(self.environments[rows[0]]).advance_all
        for group in [rows] if together is not Environment.advance_all else [[row] for row in rows]:
            with self._busy(group):
                together([self.environments[row] for row in group])

    def _reset(self, row: int, environment: Environment, start: Start) -> None:
        environment.reset(start)
        self._write(row, environment, environment.observe())

    def _goal(self, row: int, environment: Environment, state: InitialState) -> None:
        for key, picture in environment.goal_observation(state).items():
            self.arrays[key][row] = picture

    def _replay(self, row: int, environment: Environment, episode: Episode) -> None:
        environment.reset(episode.start)
        for action in episode.actions:
            environment.step(action)

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
