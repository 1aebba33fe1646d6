"""Closed-loop evaluation: any policy on any simulated task, one jitted decision for all environments per policy step.

Each episode is a line of JSON in a file, written as it ends, so that an evaluation that was cut off goes on. An
episode is a function of (task, seed, checkpoint): which others ran beside it, and on how many workers, does not matter.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t2p import pytrees  # noqa: F401
from t2p.io import PathLike, UserError, read_json, write_json
from t2p.methods.base import Policy, Variables
from t2p.metrics.success import wilson
from t2p.sim.batch import BatchedSim
from t2p.sim.task import Task, task_options
from t2p.types import Observation


@dataclass(frozen=True)
class Record:
    """One episode. success: the judge's word after its last policy step; failed: why the physics came apart, or "";
    steps: policy steps; seconds: of simulated time."""

    seed: int
    success: bool
    failed: str
    steps: int
    seconds: float


@dataclass
class Clock:
    """Wall-clock seconds of the policy (decisions, ready on the host) and of the simulator (all of a step or reset)."""

    policy: float = 0.0
    simulator: float = 0.0

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        setattr(self, name, getattr(self, name) + time.perf_counter() - began)


@dataclass(frozen=True)
class Rollouts:
    """records: in the order of the seeds; ran: how many of them were not read from the file. times: seconds by part
    that all episodes of the file took: policy; simulator, as the caller waited for it; and inside of it, summed over
    workers, physics, control, render, reset."""

    records: tuple[Record, ...]
    times: Mapping[str, float] = field(default_factory=dict)
    ran: int = 0

    @property
    def successes(self) -> np.ndarray:
        """[episodes] bool."""
        return np.array([r.success for r in self.records], bool)

    def summary(self) -> dict[str, Any]:
        """Rate with its 95 % interval (Wilson), counts, time."""
        n, won = len(self.records), int(self.successes.sum())
        low, high = wilson(won, n)
        return {
            "success": won / n,
            "low": low,
            "high": high,
            "episodes": n,
            "failed": sum(bool(r.failed) for r in self.records),
            "times": dict(self.times),
        }


def rollout(
    policy: Policy,
    variables: Variables,
    task: Task,
    seeds: Sequence[int],
    *,
    num_envs: int,
    workers: int = 0,
    renderer: str = "auto",
    file: PathLike | None = None,
    about: Mapping[str, Any] | None = None,
    progress: Callable[[Record], None] = lambda record: None,
    watch: Callable[[BatchedSim], AbstractContextManager[None]] | None = None,
) -> Rollouts:
    """Runs one episode per seed. file: JSON lines to write and, if it is there, to go on with; about: what identifies
    the evaluation beside the task with its options (checkpoint, versions): a file that says otherwise is refused.
    progress: called with each episode that ends. watch: called with the simulator, made with `glimpses`; entered while
    it runs."""
    check_policy(policy, task)
    if len(set(seeds)) != len(seeds) or not len(seeds):
        raise UserError(f"expected different seeds, at least one; got {list(seeds)[:8]}")
    log = _Log(file, {"task": task.name, **task_options(task), "variation": task.variation, **(about or {})})
    known = {seed: record for seed, record in log.read().items() if seed in set(seeds)}
    for record in known.values():
        progress(record)
    left, clock, before = [s for s in seeds if s not in known], Clock(), log.times()
    times = before
    if left:
        num_envs = min(num_envs, len(left))
        workers, glimpses = min(workers, num_envs), watch is not None
        with (
            BatchedSim(task, num_envs, workers, policy.observe, renderer, glimpses=glimpses) as sim,
            watch(sim) if watch else nullcontext(),
        ):
            for record in episodes(policy, variables, sim, left, clock):
                times = add_times([before, {"policy": clock.policy, "simulator": clock.simulator, **sim.times}])
                log.write(record, times)
                known[record.seed] = record
                progress(record)
    return Rollouts(tuple(known[s] for s in seeds), times, len(left))


def add_times(times: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Seconds by part, of all together."""
    return {part: sum(one.get(part, 0.0) for one in times) for part in dict.fromkeys(k for one in times for k in one)}


def check_policy(policy: Policy, task: Task) -> None:
    """UserError where a policy's actions are not what the task takes."""
    if policy.action != task.action.kind:
        raise UserError(
            f"the policy's actions are {policy.action!r}, but {task.name} is controlled by {task.action.kind!r}; "
            f"make the task with control={policy.action!r}"
        )


def policy_steps(policy: Policy, task: Task) -> int:
    """How many policy steps an episode has. Setpoints have no duration of their own, so into how many an episode is
    divided is the policy's; relative actions have, and the task's time holds."""
    if policy.steps is None:
        return task.limit
    return policy.steps if task.action.kind == "setpoint_pose" else min(task.limit, policy.steps)


def episodes(
    policy: Policy,
    variables: Variables,
    sim: BatchedSim,
    seeds: Sequence[int],
    clock: Clock,
    told: Callable[[Observation, Mapping[str, Any]], None] = lambda obs, aux: None,
) -> Iterator[Record]:
    """Keeps all environments busy until every seed is done; an environment that ends takes the next seed. told: called
    with what every decision saw and the policy's aux, before the simulator takes the step."""
    reset, act = jax.jit(policy.reset), jax.jit(policy.act)
    limit = policy_steps(policy, sim.task)
    waiting, running = list(seeds), np.full(sim.num_envs, -1)  # the seed in each environment, -1: it rests
    steps, state, obs = np.zeros(sim.num_envs, int), None, Observation()
    while waiting or (running >= 0).any():
        starting = np.zeros(sim.num_envs, bool)
        for env in np.flatnonzero(running < 0)[: len(waiting)]:
            running[env], starting[env], steps[env] = waiting.pop(0), True, 0
        if starting.any():
            with clock.measure("simulator"):
                obs = sim.reset(np.maximum(running, 0), starting)
            with clock.measure("policy"):
                fresh = jax.block_until_ready(reset(variables, _for_device(obs), _keys(running, 0)))
                state = fresh if state is None else _select(starting, fresh, state)
        with clock.measure("policy"):
            actions, state, aux = act(variables, state, _for_device(obs), _keys(running, steps + 1))
            actions = np.asarray(actions)
        told(obs, aux)
        active = (running >= 0) & ~np.isin(np.arange(sim.num_envs), list(sim.failures))
        with clock.measure("simulator"):
            result = sim.step(actions, active)
        obs, steps = result.obs, steps + active
        for env in np.flatnonzero(running >= 0):
            failure = sim.failures.get(int(env), "")
            if failure or steps[env] >= limit or (sim.task.stop_at_success and result.success[env]):
                success = bool(result.success[env]) and not failure
                yield Record(int(running[env]), success, failure, int(steps[env]), float(result.sim_time[env]))
                running[env] = -1


def _keys(seeds: np.ndarray, steps: np.ndarray | int) -> jax.Array:
    """[E] keys: of an episode's seed and policy step alone."""
    one = lambda seed, step: jax.random.fold_in(jax.random.fold_in(jax.random.key(0), seed), step)  # noqa: E731
    return jax.vmap(one)(jnp.asarray(np.maximum(seeds, 0)), jnp.broadcast_to(jnp.asarray(steps), seeds.shape))


def _for_device(obs: Observation) -> Observation:
    """Cameras come in float64 from the simulator; models compute in float32."""
    return jax.tree.map(lambda x: np.asarray(x, np.float32) if x.dtype == np.float64 else x, obs)


def _select(mask: np.ndarray, new: Any, old: Any) -> Any:
    """new where the mask [E] is True; every leaf has the environment axis first."""
    pick = lambda a, b: jnp.where(jnp.asarray(mask).reshape(-1, *(1,) * (a.ndim - 1)), a, b)  # noqa: E731
    return jax.tree.map(pick, new, old)


class _Log:
    """The file of an evaluation: a first line that says what it is of, then one line an episode; beside it what they
    took."""

    def __init__(self, file: PathLike | None, about: Mapping[str, Any]):
        self.path = None if file is None else Path(file)
        self.about = json.loads(json.dumps(dict(about)))

    def read(self) -> dict[int, Record]:
        """The episodes that are there; a line that was cut off is dropped. UserError for another evaluation's file."""
        if self.path is None or not self.path.exists():
            return {}
        lines = self.path.read_text().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        if not whole:
            self.path.unlink()
            return {}
        before = json.loads(whole[0])
        if before != self.about:
            differing = sorted(k for k in {*before, *self.about} if before.get(k) != self.about.get(k))
            raise UserError(
                f"{self.path} holds another evaluation ({', '.join(differing)} differ); give another --out or remove it"
            )
        if len(whole) < len(lines):
            self.path.write_text("".join(whole))
        return {r.seed: r for r in (Record(**json.loads(line)) for line in whole[1:])}

    def times(self) -> dict[str, float]:
        """Seconds by part that the episodes that are there took."""
        there = self.path is not None and self.path.exists() and self._beside.exists()
        return read_json(self._beside) if there else {}

    @property
    def _beside(self) -> Path:
        assert self.path is not None
        return self.path.with_suffix(".times.json")

    def write(self, record: Record, times: Mapping[str, float]) -> None:
        """times: of all episodes with this one."""
        if self.path is None:
            return
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(self.about) + "\n")
        with open(self.path, "a") as f:
            f.write(json.dumps(asdict(record)) + "\n")
        write_json(self._beside, times)
