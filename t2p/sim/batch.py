"""Many environments of one task at once: `BatchedSim`.

    with BatchedSim(make_task("block_stack"), num_envs=16, workers=4, observe=Observe(images=("front",))) as sim:
        obs = sim.reset(seeds=range(16))
        while running:
            result = sim.step(policy(obs))

Episodes are the same, bit for bit, in any batch and on any number of worker processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from t2p.io import UserError
from t2p.sim.environment import CLOCKS, PLAIN, Key, Observe, Onlooker, Shape, Start, check_actions, check_observe
from t2p.sim.glimpse import Glimpse, look
from t2p.sim.share import Engine, Failures, Local
from t2p.sim.task import Task
from t2p.sim.workers import Pool
from t2p.types import Cloud, InitialState, Observation, StepResult


class BatchedSim:
    """E environments of a task. To be closed: use `with`.

    Arrays that are returned are the caller's own. A mask, bool [E], says which environments a call is for; the others
    stay as they are. An environment whose physics came apart, or over which worker processes died, is failed: it rests
    (its last observation stays) until it is reset, and `failures` says why."""

    def __init__(
        self,
        task: Task,
        num_envs: int,
        workers: int = 0,
        observe: Observe = PLAIN,
        renderer: str = "auto",
        onlooker: Onlooker | None = None,
        glimpses: bool = False,
    ) -> None:
        """workers: processes that share the environments out; 0: all in this process. renderer: as `make_renderer`.
        onlooker: watches all environments, which must be in this process. glimpses: keep the environments' last states
        for `glimpse`."""
        if num_envs < 1 or workers < 0:
            raise UserError(f"expected environments from 1 and workers from 0 on; got {num_envs} and {workers}")
        if onlooker is not None and workers:
            raise UserError(f"an onlooker watches environments of this process only: workers must be 0, not {workers}")
        if onlooker is not None and glimpses:
            raise UserError("an onlooker sees the environments itself; glimpses are for watching without one")
        check_observe(task, observe)
        self.task, self.num_envs, self.observe = task, num_envs, observe
        self.failures: Failures = {}
        self._ready = np.zeros(num_envs, bool)  # reset, and nothing was raised since
        self._engine: Engine = (
            Pool(task, observe, renderer, glimpses, num_envs, workers)
            if workers
            else Local(task, observe, renderer, glimpses, num_envs, onlooker)
        )

    def __enter__(self) -> BatchedSim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def reset(self, seeds: Sequence[int] | np.ndarray, mask: np.ndarray | None = None) -> Observation:
        """Starts episodes from seeds [E] (integers from 0 on; one seed, one episode)."""
        values = np.asarray(seeds)
        if values.shape != (self.num_envs,) or values.dtype.kind not in "iu" or values.min() < 0:
            raise UserError(f"expected {self.num_envs} seeds, integers from 0 on; got {seeds!r}")
        return self._reset(values.tolist(), mask)

    def reset_to(self, states: Sequence[InitialState | None], mask: np.ndarray | None = None) -> Observation:
        """Starts episodes from states [E] (None where the mask is False)."""
        return self._reset(self._states(states, mask), mask)

    def step(self, actions: np.ndarray, active: np.ndarray | None = None) -> StepResult:
        """One policy step. actions: [E, A] in the robot's base frame; rows of environments that rest (failed, or not
        `active`, bool [E]) are not looked at."""
        values, expected = np.asarray(actions, float), (self.num_envs, self.task.action.dim)
        if values.shape != expected:
            raise UserError(f"actions for {self.task.name} must be an array of shape {expected}; got {values.shape}")
        rows = [row for row in self._rows(active) if row not in self.failures]
        self._check_ready(rows)
        check_actions(self.task, values[rows])
        self._run("step", {row: values[row] for row in rows})
        failed = np.isin(np.arange(self.num_envs), list(self.failures))
        arrays = self._engine.arrays
        return StepResult(self._observation(), arrays[("success",)] & ~failed, failed, arrays[("time",)].copy())

    def goal_observation(self, states: Sequence[InitialState | None], mask: np.ndarray | None = None) -> Observation:
        """The latest observation, whose goals are now the pictures of states [E], as all observations until the next
        reset (before it: black). The episodes do not notice. Needs Observe.goal."""
        if not self.observe.goal:
            raise UserError("this simulator takes no pictures of goals; make it with Observe(goal=True, images=...)")
        goals = self._states(states, mask)
        rows = self._rows(mask)
        self._check_ready(rows)
        self._run("goal", {row: goals[row] for row in rows})
        return self._observation()

    @property
    def cameras(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """{view: (K [E, 3, 3], T_base_cam [E, 4, 4])} of the latest pictures; the views that are rendered."""
        frames = self._group("T_base_cam")
        return {view: (K, frames[view]) for view, K in self._group("K").items()}

    @property
    def shapes(self) -> dict[Key, Shape]:
        """Of what one environment shows: {("images", view): ((H, W, 3), "u1"), ("proprio", name): ((d,), "f4") ...}."""
        return {key: (array.shape[1:], array.dtype.str[1:]) for key, array in self._arrays().items()}

    @property
    def times(self) -> dict[str, float]:
        """Seconds that all environments together have spent in physics (mj_step), control (controllers, inverse
        kinematics), render, and reset."""
        return dict(zip(CLOCKS, self._arrays()[("clocks",)].sum(axis=0).tolist()))

    def glimpse(self, environment: int, after: int, nq: int) -> Glimpse | None:
        """How an environment stands, or lately stood, for whoever watches it; see `t2p.sim.glimpse.look`. May be called
        by another thread at any time, while `step` runs too. None from a simulator without `glimpses`."""
        return look(self._engine.arrays, environment, after, nq)

    def close(self) -> None:
        """Ends the workers and frees what they hold; may be called again."""
        self._engine.close()

    def _reset(self, starts: Sequence[Start | None], mask: np.ndarray | None) -> Observation:
        rows = self._rows(mask)
        for row in rows:
            self.failures.pop(row, None)
        for key, array in self._arrays().items():
            if key[0] == "goal":
                array[rows] = 0
        self._ready[rows] = True
        self._run("reset", {row: starts[row] for row in rows})
        return self._observation()

    def _run(self, command: Any, work: Mapping[int, Any]) -> None:
        if not work:
            return
        try:
            self.failures |= self._engine.run(command, work)
        except BaseException:
            self._ready[list(work)] = False
            raise

    def _states(self, states: Sequence[InitialState | None], mask: np.ndarray | None) -> Sequence[InitialState | None]:
        if len(states) != self.num_envs:
            raise UserError(f"expected {self.num_envs} states, one for each environment; got {len(states)}")
        wrong = [row for row in self._rows(mask) if not isinstance(states[row], InitialState)]
        if wrong:
            raise UserError(f"environments {wrong} need an InitialState; got {type(states[wrong[0]]).__name__}")
        return states

    def _rows(self, mask: np.ndarray | None) -> list[int]:
        """The environments that a mask names."""
        chosen = np.ones(self.num_envs, bool) if mask is None else np.asarray(mask)
        if chosen.shape != (self.num_envs,) or chosen.dtype != bool:
            raise UserError(f"a mask must be {self.num_envs} of True or False; got {mask!r}")
        return np.flatnonzero(chosen).tolist()

    def _check_ready(self, rows: Sequence[int]) -> None:
        wrong = [row for row in rows if not self._ready[row]]
        if wrong:
            raise UserError(f"environments {wrong} have to be reset first: they are new, or an error ended them")

    def _arrays(self) -> dict[tuple[str, ...], np.ndarray]:
        if not self._engine.arrays:
            raise UserError("this simulator is closed")
        return self._engine.arrays

    def _group(self, kind: str) -> dict[str, np.ndarray]:
        """Copies of the arrays of one kind, by name."""
        return {key[1]: array.copy() for key, array in self._arrays().items() if key[0] == kind}

    def _observation(self) -> Observation:
        points = self._group("cloud")
        return Observation(
            images={view: array[:, None] for view, array in self._group("images").items()},
            depth={view: array[:, None] for view, array in self._group("depth").items()},
            cloud=Cloud(**points) if points else None,
            goal=self._group("goal"),
            proprio={name: array[:, None] for name, array in self._group("proprio").items()},
            cameras=self.cameras,
        )
