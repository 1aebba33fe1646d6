"""Many environments: the same episodes on any number of workers, masks, failures, dead workers, nothing left behind.

Starting a worker costs about a second, so tests share simulators."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from pusher import BREAK, DIE, DIE_ONCE, JAX, RAISE, Push, PushTogether

from t2p.geometry.cameras import invert_transform
from t2p.io import UserError
from t2p.sim import share, workers
from t2p.sim.batch import BatchedSim
from t2p.sim.environment import Environment, Observe, to_world
from t2p.sim.experts import scripted_expert
from t2p.sim.registry import make_task
from t2p.sim.world import read_state
from t2p.types import InitialState, Observation, StepResult

OBSERVE = Observe(images=("top", "side"), depth=("side",), size=(24, 32), cloud=150, goal=True)
E = 5


def push(gripper: dict[int, float] | None = None, count: int = E) -> np.ndarray:
    """Actions [count, 7] that push the box, each environment in a direction of its own."""
    actions = np.zeros((count, 7))
    actions[:, 1], actions[:, 0] = -1, np.linspace(-0.2, 0.2, count)
    for row, value in (gripper or {}).items():
        actions[row, 6] = value
    return actions


def arrays(what: Any) -> dict[str, np.ndarray]:
    """All arrays of an observation or a result, by a path of names."""
    if isinstance(what, np.ndarray):
        return {"": what}
    parts = dict(enumerate(what)) if isinstance(what, tuple) else what if isinstance(what, dict) else vars(what)
    found = {}
    for name, part in parts.items():
        if part is not None:
            found |= {f"/{name}{rest}": array for rest, array in arrays(part).items()}
    return found


def assert_equal(first: Any, second: Any, rows: Any = slice(None)) -> None:
    one, other = arrays(first), arrays(second)
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array[rows], other[name][rows], err_msg=name)


def play(sim: BatchedSim, steps: int = 12) -> list[Observation | StepResult]:
    """Two overlapping rounds of episodes, with a masked reset and a masked step between them."""
    seen: list[Observation | StepResult] = [sim.reset(range(E))]
    for _ in range(steps):
        seen.append(sim.step(push()))
    seen.append(sim.reset(np.arange(E) + 10, mask=np.arange(E) % 2 == 0))
    seen.append(sim.step(push(), active=np.arange(E) != 3))
    return seen


@pytest.fixture(scope="module")
def undisturbed() -> list[Observation | StepResult]:
    with BatchedSim(Push(), E, 0, OBSERVE, "rays") as sim:
        return play(sim)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BatchedSim]:
    """Two workers that share five environments out."""
    with BatchedSim(Push(str(tmp_path_factory.mktemp("push") / "marker")), E, 2, OBSERVE, "rays") as sim:
        yield sim


def test_four_workers_give_what_one_process_gives(undisturbed: list[Observation | StepResult]) -> None:
    with BatchedSim(Push(), E, 4, OBSERVE, "rays") as sim:
        children, names = sim._engine.processes, [block.name for block in sim._engine._memory]  # type: ignore[attr-defined]
        seen = play(sim)
        assert len(children) == 4 and names and set(sim.times) == {"physics", "control", "render", "reset"}
        assert min(sim.times.values()) > 0
    for first, second in zip(seen, undisturbed, strict=True):
        assert_equal(first, second)
    assert not any(psutil.pid_exists(child) for child in children)
    for name in names:  # given back
        with pytest.raises(FileNotFoundError):
            SharedMemory(name)
    sim.close()
    for use in (lambda: sim.reset(range(E)), lambda: sim.step(push()), lambda: sim.cameras):
        with pytest.raises(UserError, match="closed"):
            use()


def test_one_worker_gives_what_one_process_gives(undisturbed: list[Observation | StepResult]) -> None:
    with BatchedSim(Push(), E, 1, OBSERVE, "rays") as sim:
        for first, second in zip(play(sim), undisturbed, strict=True):
            assert_equal(first, second)


def test_two_workers_give_what_one_process_gives(pair: BatchedSim, undisturbed: list[Observation | StepResult]) -> None:
    for first, second in zip(play(pair), undisturbed, strict=True):
        assert_equal(first, second)


def test_episodes_do_not_depend_on_the_batch(undisturbed: list[Observation | StepResult]) -> None:
    with BatchedSim(Push(), 1, 0, OBSERVE, "rays") as sim:
        sim.reset([3])
        for _ in range(12):
            result = sim.step(push()[3:4])
    alone, among = arrays(result), arrays(undisturbed[12])
    for name, array in alone.items():
        np.testing.assert_array_equal(array[0], among[name][3], err_msg=name)
    assert result.success[0] and result.sim_time[0] == pytest.approx(12 * 0.02)


def test_observations_have_the_shapes_of_the_contract(undisturbed: list[Observation | StepResult]) -> None:
    obs = undisturbed[0]
    assert isinstance(obs, Observation) and obs.cloud is not None
    assert list(obs.images) == ["top", "side"] and obs.images["top"].shape == (E, 1, 24, 32, 3)
    assert obs.depth["side"].shape == (E, 1, 24, 32) and obs.depth["side"].dtype == np.float32
    assert obs.cloud.points.shape == (E, 150, 3) and obs.cloud.valid.shape == (E, 150)
    assert {name: value.shape for name, value in obs.proprio.items()} == {
        "tool": (E, 1, 9),
        "gripper": (E, 1, 1),
        "joints": (E, 1, 3),
    }
    assert obs.cameras["side"][0].shape == (E, 3, 3) and obs.cameras["side"][1].shape == (E, 4, 4)
    assert (obs.goal["top"] == 0).all()


def test_a_masked_reset_changes_only_its_rows(undisturbed: list[Observation | StepResult]) -> None:
    before, after, stepped = undisturbed[12], undisturbed[13], undisturbed[14]
    assert isinstance(before, StepResult) and isinstance(after, Observation) and isinstance(stepped, StepResult)
    odd = [1, 3]
    assert_equal(before.obs, after, odd)  # pictures that were returned do not change later either
    for row in (0, 2, 4):
        assert not np.array_equal(before.obs.images["top"][row], after.images["top"][row])
    assert_equal(after, stepped.obs, [3])  # not active
    np.testing.assert_allclose(stepped.sim_time, [0.02, 0.26, 0.02, 0.24, 0.02], atol=1e-12)
    assert stepped.success.tolist() == [False, True, False, True, False]


def test_states_goals_and_pictures_at_resets_only() -> None:
    observe = replace(OBSERVE, every_step=False)
    environment = Environment(Push(), observe, "rays")
    states: list[InitialState | None] = []
    for seed in range(2):
        environment.reset(seed)
        states.append(read_state(environment.model, environment.data))
    with BatchedSim(Push(), 2, 0, observe, "rays") as sim:
        first = sim.reset(range(2)).images
        obs = sim.reset_to(states)
        assert_equal(obs.images, first)
        stepped = sim.step(push(count=2)).obs
        assert_equal(stepped.images, first)
        assert_equal(stepped.cloud, obs.cloud)
        assert not np.array_equal(stepped.proprio["tool"], obs.proprio["tool"])
        goal = sim.goal_observation([None, states[0]], mask=np.array([False, True]))
        assert (goal.goal["top"][0] == 0).all()
        np.testing.assert_array_equal(goal.goal["top"][1], first["top"][0, 0])
        assert_equal(sim.step(push(count=2)).obs.goal, goal.goal)
        assert (sim.reset(range(2)).goal["top"] == 0).all()
        with pytest.raises(UserError, match=r"environments \[0\] need an InitialState; got NoneType"):
            sim.reset_to([None, states[1]])


def test_a_broken_environment_rests_and_the_others_go_on(
    pair: BatchedSim, undisturbed: list[Observation | StepResult]
) -> None:
    pair.reset(range(E))
    pair.step(push())
    before = pair.step(push())
    after = pair.step(push({1: BREAK}))
    others = [0, 2, 3, 4]
    assert after.failed.tolist() == [False, True, False, False, False]
    assert list(pair.failures) == [1] and "BADCTRL" in pair.failures[1]
    assert_equal(after, undisturbed[3], others)
    assert_equal(after.obs, before.obs, [1])
    nothing = np.where(np.arange(E)[:, None] == 1, np.nan, push())  # its actions are not looked at
    assert_equal(pair.step(nothing), undisturbed[4], others)
    pair.reset(np.arange(E), mask=np.arange(E) == 1)
    assert not pair.failures
    assert_equal(pair.step(push()), undisturbed[1], [1])


def test_a_killed_worker_is_replaced_without_a_trace(pair: BatchedSim) -> None:
    """Once between two steps, from outside; once in the middle of a step, from inside."""
    engine: Any = pair._engine
    children = engine.processes
    with BatchedSim(pair.task, E, 0, OBSERVE, "rays") as local:  # where nothing dies
        assert_equal(pair.reset(range(E)), local.reset(range(E)))
        for step in range(8):
            if step == 3:
                os.kill(children[1], signal.SIGKILL)
            actions = push({1: DIE_ONCE} if step == 5 else {})
            assert_equal(pair.step(actions), local.step(actions))
            assert (engine.processes[1] == children[1]) == (step < 3)
            assert (engine.processes[0] == children[0]) == (step < 5)
    assert not pair.failures


def test_an_episode_that_kills_its_workers_is_failed(
    pair: BatchedSim, undisturbed: list[Observation | StepResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "DEATHS", 2)
    pair.reset(range(E))
    pair.step(push())
    result = pair.step(push({3: DIE}))
    assert result.failed.tolist() == [False, False, False, True, False]
    assert pair.failures == {3: "its worker process died 2 times at work on it (exit code -9)"}
    assert_equal(result, undisturbed[2], [0, 1, 2, 4])
    pair.reset(range(E), mask=np.arange(E) == 3)
    assert_equal(pair.step(push()), undisturbed[3], [0, 1, 2, 4])
    assert not pair.failures


def test_a_death_is_blamed_on_the_environment_it_came_over(
    undisturbed: list[Observation | StepResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though all environments of the worker were advanced together when it died."""
    monkeypatch.setattr(workers, "DEATHS", 2)
    with BatchedSim(PushTogether(), E, 1, OBSERVE, "rays") as sim:
        sim.reset(range(E))
        sim.step(push())
        result = sim.step(push({3: DIE}))
        assert sim.failures == {3: "its worker process died 2 times at work on it (exit code -9)"}
        assert_equal(result, undisturbed[2], [0, 1, 2, 4])
        assert_equal(sim.step(push()), undisturbed[3], [0, 1, 2, 4])


def test_what_a_worker_raises_is_told(pair: BatchedSim, undisturbed: list[Observation | StepResult]) -> None:
    pair.reset(range(E))
    with pytest.raises(RuntimeError, match=r"environments 3 to 4 raised:(.|\n)*_misbehave(.|\n)*out of order"):
        pair.step(push({3: RAISE}))
    with pytest.raises(UserError, match=r"environments \[0, 1, 2, 3, 4\] have to be reset first"):
        pair.step(push())
    pair.reset(range(E))
    with pytest.raises(UserError, match="JAX is loaded: False; in a worker: True"):
        pair.step(push({0: JAX}))
    pair.reset(range(E))
    assert_equal(pair.step(push()), undisturbed[1])


def test_bad_input_is_refused_at_the_door() -> None:
    with BatchedSim(Push(), 2) as sim:
        with pytest.raises(UserError, match=r"environments \[0, 1\] have to be reset first"):
            sim.step(np.zeros((2, 7)))
        for seeds in ([1], [0.5, 1.0], [-1, 2], [[0, 1]]):
            with pytest.raises(UserError, match="expected 2 seeds, integers from 0 on"):
                sim.reset(seeds)  # type: ignore[arg-type]
        sim.reset([0, 1])
        with pytest.raises(UserError, match=r"must be an array of shape \(2, 7\); got \(2, 10\)"):
            sim.step(np.zeros((2, 10)))
        with pytest.raises(UserError, match="numbers that are not finite"):
            sim.step(np.array([[0.0] * 7, [np.nan] * 7]))
        with pytest.raises(UserError, match="a mask must be 2 of True or False"):
            sim.reset([0, 1], mask=np.array([0, 1]))
        with pytest.raises(UserError, match=r"Observe\(goal=True"):
            sim.goal_observation([None, None])
        sim.step(np.zeros((2, 7)))  # and goes on
    with pytest.raises(UserError, match="expected environments from 1"):
        BatchedSim(Push(), 0)
    with pytest.raises(UserError, match="no view wrist"):
        BatchedSim(Push(), 1, 2, Observe(images=("wrist",)))  # before any worker is started


def test_scripted_setpoints_stack_the_blocks() -> None:
    task = make_task("tabletop/block_stack")
    guide = Environment(task)
    guide.reset(0)
    expert, to_base = scripted_expert(task, guide.model, guide.data), invert_transform(task.base)
    script = []
    while (action := expert.action(guide.model, guide.data)) is not None:
        script.append(to_world(task.action, to_base, action))
        guide.step(script[-1])
    assert guide.success and len(script) == task.limit
    with BatchedSim(task, 2, 0, Observe(images=("front",), size=(32, 32), every_step=False)) as sim:
        sim.reset([0, 1])
        for action in script:
            result = sim.step(np.stack([action, action]))
        assert result.success.tolist() == [True, False]  # the other episode's blocks stand elsewhere
        assert not result.failed.any()
        with pytest.raises(UserError, match="parallel or zero columns"):
            sim.step(np.zeros((2, 10)))


def test_a_task_that_cannot_be_built_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []

    def take(shapes: Any, num_envs: int) -> Any:
        layout, memory = create(shapes, num_envs)
        taken.append(layout.name)
        return layout, memory

    create = share.Layout.create
    monkeypatch.setattr(share.Layout, "create", staticmethod(take))
    with BatchedSim(Push(), 1, 1):
        assert len(taken) == 1 and Path("/dev/shm", taken[0]).exists()
    before = set(psutil.Process().children())  # the tracker of shared memory stays
    with pytest.raises(UserError, match="unknown renderer 'crayon'"):
        BatchedSim(Push(), 1, 1, Observe(images=("top",)), "crayon")
    assert not any(Path("/dev/shm", name).exists() for name in taken)
    assert set(psutil.Process().children()) <= before


ENDLESS = """
import sys
import numpy as np
from pusher import Push
from t2p.sim.batch import BatchedSim

if __name__ == "__main__":
    sim = BatchedSim(Push(), 2, 1)
    sim.reset([0, 1])
    print(sim._engine.processes[0], sim._engine._memory[0].name, flush=True)
    while True:
        sim.step(np.zeros((2, 7)))
"""


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL], ids=lambda end: end.name)
def test_nothing_outlives_the_parent(end: signal.Signals, tmp_path: Path) -> None:
    """Ctrl-C, which reaches all processes of a terminal; and a parent that is killed."""
    (tmp_path / "endless.py").write_text(ENDLESS)
    here = Path(__file__).parent
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "endless.py")],
        env={**os.environ, "PYTHONPATH": f"{here}:{here.parents[1]}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # ignored where the tests run in the background
    )
    assert parent.stdout is not None
    child, memory = parent.stdout.readline().split()
    if end == signal.SIGINT:
        os.killpg(parent.pid, end)
    else:
        os.kill(parent.pid, end)
    _, errors = parent.communicate(timeout=20)  # the pipes close when the worker has ended too
    assert parent.returncode == -end
    assert end == signal.SIGKILL or ("KeyboardInterrupt" in errors and "resource_tracker" not in errors)
    deadline = time.monotonic() + 10
    while (alive(int(child)) or Path("/dev/shm", memory).exists()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(int(child)) and not Path("/dev/shm", memory).exists()


def alive(pid: int) -> bool:
    """A process whose parent is gone may stay in the table as a zombie."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
