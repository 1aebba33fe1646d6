"""Scripted experts under both controls: what they ask for, and how often they succeed."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import mujoco
import numpy as np
import pytest

from t2p.sim import control, experts, registry
from t2p.sim.tabletop.block_stack import BlockStack
from t2p.sim.tabletop.common import ROBOTS, pointing
from t2p.sim.task import Waypoint, sample

NAMES = registry.suite("tabletop")


def play(name: str, options: dict[str, str], seeds: range) -> list[int]:
    """-> the seeds that failed."""
    task = registry.make_task(name, **options)
    model = task.build().compile()
    data = mujoco.MjData(model)
    return [seed for seed in seeds if not experts.run_expert(task, model, data, seed)]


def play_all(name: str, options: dict[str, str], count: int) -> list[int]:
    """The same over all cores."""
    shares = [(name, options, range(start, min(start + 25, count))) for start in range(0, count, 25)]
    with multiprocessing.get_context("spawn").Pool(min(os.cpu_count() or 1, len(shares))) as pool:
        return sorted(seed for failed in pool.starmap(play, shares) for seed in failed)


@pytest.mark.parametrize(("kind", "count"), [("setpoint_pose", 10), ("osc_delta", 3)])
@pytest.mark.parametrize("name", NAMES)
def test_experts_succeed(name: str, kind: str, count: int) -> None:
    assert play(name, {"control": kind}, range(100, 100 + count)) == []


@pytest.mark.long
@pytest.mark.parametrize("kind", ["setpoint_pose", "osc_delta"])
@pytest.mark.parametrize("name", NAMES)
def test_experts_succeed_on_many_seeds(name: str, kind: str) -> None:
    failed = play_all(name, {"control": kind}, 200)
    print(f"{name} {kind}: {200 - len(failed)} of 200; failed {failed}")
    assert len(failed) <= 10


@pytest.mark.long
@pytest.mark.parametrize("kind", ["setpoint_pose", "osc_delta"])
@pytest.mark.parametrize("embodiment", [name for name in ROBOTS if name != "xarm7"])
@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("tabletop/")])
def test_other_embodiments_succeed_on_many_seeds(name: str, embodiment: str, kind: str) -> None:
    failed = play_all(name, {"embodiment": embodiment, "control": kind}, 50)
    print(f"{name} {embodiment} {kind}: {50 - len(failed)} of 50; failed {failed}")
    assert len(failed) <= 5


@dataclass(frozen=True)
class Script(BlockStack):
    """The cubes' world with a script of its own."""

    targets: tuple[tuple[tuple[float, float, float], bool], ...] = ()

    def expert(self, model: mujoco.MjModel, data: mujoco.MjData) -> Iterator[Waypoint]:
        for position, closed in self.targets:
            yield Waypoint(np.array(position), pointing(0.3, 0.2), closed)


@dataclass(frozen=True)
class Short(BlockStack):
    waypoints: ClassVar[int] = 5


def test_setpoints_are_the_waypoints_in_the_world() -> None:
    task = Script(targets=(((0.4, 0.1, 0.3), True), ((0.3, 0.0, 0.2), False)))
    model = task.build().compile()
    data = mujoco.MjData(model)
    sample(task, model, data, 0)
    expert = experts.scripted_expert(task, model, data)
    for position, closed in task.targets:
        action = expert.action(model, data)
        assert action is not None
        np.testing.assert_array_equal(action[:3], position)
        np.testing.assert_allclose(control.orthonormal(action[3:9]), pointing(0.3, 0.2), atol=1e-12)
        assert action[9] == closed
    assert expert.action(model, data) is None and expert.action(model, data) is None


def test_relative_actions_servo_to_each_waypoint_then_grip() -> None:
    target = (0.42, 0.06, 0.3)
    task = Script("osc_delta", targets=((target, True), ((9.0, 0.0, 0.3), True)))
    model = task.build().compile()
    data = mujoco.MjData(model)
    sample(task, model, data, 0)
    expert, controller, judge = (
        experts.scripted_expert(task, model, data),
        task.controller(model, data),
        task.judge(model),
    )
    actions = []
    while (action := expert.action(model, data)) is not None:
        assert (np.abs(action) <= 1).all()
        closing = action[6] > 0 and not (actions and actions[-1][6] > 0)
        if closing:  # at the first waypoint, within the tolerances
            position, rotation = control.tool_pose(controller.arm, data)
            assert np.linalg.norm(position - target) < experts.NEAR_POSITION
            angle = np.linalg.norm(control.rotation_vector(pointing(0.3, 0.2) @ rotation.T))
            assert angle < experts.NEAR_ROTATION
            closed_at = len(actions)
        actions.append(action)
        experts.advance(model, data, controller, judge, action)
    speeds = np.linalg.norm(np.stack(actions)[:, :3] * controller.scale[:3], axis=1)
    assert 0.9 * experts.SPEED_POSITION < speeds.max() <= experts.SPEED_POSITION + 1e-12
    # Then the gripper's time, then a waypoint out of reach is given up.
    assert len(actions) == closed_at + experts.GRIP_STEPS + experts.MOVE_LIMIT


def test_a_script_cut_short_is_no_success() -> None:
    """The limit counts policy steps: after five of nine waypoints the cube is in the gripper, not on the other."""
    task = Short()
    model = task.build().compile()
    data = mujoco.MjData(model)
    assert not experts.run_expert(task, model, data, 0)
    assert data.body("blue").xpos[2] > 0.2
