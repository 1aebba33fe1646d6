"""One environment: frames of actions and observations, equal episodes, failures, goals, clouds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import mujoco
import numpy as np
import pytest
from pusher import BREAK, SUBSTEPS, Push

from t2p.geometry.cameras import invert_transform, transform_points
from t2p.geometry.rotations import axis_angle_to_matrix, matrix_to_6d
from t2p.io import UserError
from t2p.sim.batch import BatchedSim
from t2p.sim.environment import Environment, Observe, Scene, to_world
from t2p.sim.world import read_state
from t2p.types import ActionSpec

ALL = Observe(images=("top", "side"), depth=("side",), size=(24, 32), cloud=150, goal=True)


@pytest.fixture
def environment() -> Iterator[Environment]:
    made = Environment(Push(), ALL, "rays")
    yield made
    made.close()


def action(x: float = 0.0, y: float = 0.0, z: float = 0.0, gripper: float = 0.0) -> np.ndarray:
    return np.array([x, y, z, 0, 0, 0, gripper])


def test_actions_go_from_the_base_to_the_world() -> None:
    base = Push().base
    relative = to_world(ActionSpec("osc_delta", 7), base, np.array([0.5, 0, 0.2, 0, 3.0, 0, -1]))
    np.testing.assert_allclose(relative, [0, 0.5, 0.2, -1, 0, 0, -1], atol=1e-12)  # turned by a quarter, and clipped
    rotation = axis_angle_to_matrix(np.array([0.3, -0.5, 0.9]))
    setpoint = np.concatenate([[0.4, 0.1, 0.2], matrix_to_6d(rotation), [1.0]])
    world = to_world(ActionSpec("setpoint_pose", 10), base, setpoint)
    np.testing.assert_allclose(world[:3], [0.0, 0.6, 0.2], atol=1e-12)
    np.testing.assert_allclose(world[3:9], matrix_to_6d(base[:3, :3] @ rotation), atol=1e-12)
    back = to_world(ActionSpec("setpoint_pose", 10), invert_transform(base), world)
    np.testing.assert_allclose(back, setpoint, atol=1e-12)


def test_steps_move_the_tool_as_asked(environment: Environment) -> None:
    environment.reset(0)
    start = environment.observe()
    assert start[("proprio", "gripper")] == 0
    for _ in range(4):
        environment.step(action(z=0.5, y=1, gripper=1))
    for _ in range(20):
        environment.step(action())
    end = environment.observe()
    moved = end[("proprio", "tool")] - start[("proprio", "tool")]
    np.testing.assert_allclose(moved, [0, 0.08, 0.04] + [0] * 6, atol=3e-3)  # along the base's axes
    np.testing.assert_allclose(end[("proprio", "joints")], [-0.08, 0, 0.04], atol=3e-3)  # along the world's
    environment.step(action(gripper=1))
    assert environment.observe()[("proprio", "gripper")] == pytest.approx(1)
    assert environment.time == pytest.approx(25 * SUBSTEPS * 0.002)


def test_the_judge_sees_every_physics_step(environment: Environment) -> None:
    environment.reset(1)
    for _ in range(12):
        environment.step(action(y=-1))
    assert environment.success and environment.judge.substeps == 12 * SUBSTEPS  # type: ignore[union-attr]
    environment.reset(1)
    assert not environment.success and environment.judge.substeps == 0  # type: ignore[union-attr]


def test_physics_does_not_depend_on_the_past_nor_on_who_looks() -> None:
    """Two environments on one scene take turns, one of them watched closely; a third is alone and unseen."""
    scene = Scene(Push(), ALL, "rays")
    first, second = (Environment(Push(), ALL, scene=scene) for _ in range(2))
    alone = Environment(Push())
    second.reset(7)
    second.step(action(y=-1, x=0.3))
    for environment in (first, second, alone):
        environment.reset(3 if environment is not first else 4)
    for _ in range(8):
        for environment in (first, second, alone):
            environment.step(action(y=-1))
        second.observe()
        second.goal_observation(start_of(5))
    np.testing.assert_array_equal(second.data.qpos, alone.data.qpos)
    np.testing.assert_array_equal(second.data.qvel, alone.data.qvel)
    assert not np.array_equal(first.data.qpos, second.data.qpos)
    for environment in (second, alone):
        environment.enter()
    np.testing.assert_array_equal(second.model.body_pos, alone.model.body_pos)
    scene.close()


def start_of(seed: int) -> object:
    environment = Environment(Push())
    environment.reset(seed)
    return read_state(environment.model, environment.data)


def test_a_state_starts_the_same_episode_as_its_seed(environment: Environment) -> None:
    ends = []
    for start in (6, start_of(6)):
        environment.reset(start)  # type: ignore[arg-type]
        for _ in range(5):
            environment.step(action(y=-1))
        ends.append((environment.data.qpos.copy(), environment.observe()[("images", "top")]))
    np.testing.assert_array_equal(ends[0][0], ends[1][0])
    np.testing.assert_array_equal(ends[0][1], ends[1][1])
    with pytest.raises(UserError, match="another task's state"):
        environment.reset(replace(start_of(6), qpos=np.zeros(3)))  # type: ignore[type-var]
    with pytest.raises(UserError, match="has to be reset"):
        environment.step(action())


def test_observations_are_as_announced(environment: Environment) -> None:
    environment.reset(0)
    seen = environment.observe() | environment.goal_observation(start_of(1))  # type: ignore[arg-type]
    assert {key: (value.shape, value.dtype) for key, value in seen.items()} == {
        key: (shape, np.dtype(kind)) for key, (shape, kind) in environment.shapes().items()
    }
    assert set(environment.observe(pictures=False)) == {("proprio", n) for n in ("tool", "gripper", "joints")}


def test_pictures_are_of_the_present(environment: Environment) -> None:
    """After a step MuJoCo's poses are those of the step's beginning; what is observed is up to date."""
    environment.reset(0)
    environment.step(action(y=-1))
    seen, again = environment.observe(), mujoco.MjData(environment.model)
    again.qpos[:] = environment.data.qpos
    mujoco.mj_forward(environment.model, again)
    arm = environment.controller.arm  # type: ignore[union-attr]
    tool = transform_points(invert_transform(Push().base), again.site_xpos[arm.tool])
    np.testing.assert_allclose(seen[("proprio", "tool")][:3], tool, atol=1e-6)
    np.testing.assert_array_equal(
        seen[("images", "side")],
        environment.scene.renderer.rgb(again, "beside", (24, 32)),  # type: ignore[union-attr]
    )


def test_goals_show_another_state_and_disturb_nothing(environment: Environment) -> None:
    environment.reset(2)
    environment.step(action(y=-1))
    before, qpos = environment.observe(), environment.data.qpos.copy()
    goal = environment.goal_observation(start_of(9))  # type: ignore[arg-type]
    assert not np.array_equal(goal[("goal", "top")], before[("images", "top")])
    np.testing.assert_array_equal(environment.data.qpos, qpos)
    np.testing.assert_array_equal(environment.observe()[("images", "top")], before[("images", "top")])
    environment.reset(9)
    np.testing.assert_array_equal(goal[("goal", "top")], environment.observe()[("images", "top")])


def test_clouds_hold_what_the_task_keeps() -> None:
    boxes = {}
    for floor in (True, False):
        environment = Environment(Push(), replace(ALL, floor=floor, images=(), depth=(), goal=False), "rays")
        environment.reset(0)
        seen = environment.observe()
        points, valid = seen[("cloud", "points")], seen[("cloud", "valid")]
        K_free = transform_points(Push().base @ seen[("T_base_cam", "top")], points[valid].astype(float))
        boxes[floor] = K_free
        assert (seen[("cloud", "colors")][~valid] == 0).all() and (points[~valid] == 0).all()
        environment.close()
    assert len(boxes[True]) == 150 and (boxes[True][:, 2] < 0.01).any()
    assert 0 < len(boxes[False]) < 150
    np.testing.assert_allclose(boxes[False][:, 2].max(), 0.06, atol=2e-3)  # the box's top; no pusher, no wall
    assert (np.abs(boxes[False][:, 0] - 0.1) < 0.08).all() and boxes[False][:, 2].max() < 0.07
    assert len(np.unique(boxes[True], axis=0)) == 150  # without replacement


def test_clouds_are_drawn_anew_at_each_step_and_alike_in_each_run(environment: Environment) -> None:
    runs = []
    for _ in range(2):
        environment.reset(0)
        seen = [environment.observe()[("cloud", "points")]]
        for _ in range(2):
            environment.step(action())
            seen.append(environment.observe()[("cloud", "points")])
        runs.append(seen)
    for first, second in zip(*runs):
        np.testing.assert_array_equal(first, second)
    assert not np.array_equal(runs[0][0], runs[0][1]) and not np.array_equal(runs[0][1], runs[0][2])


def test_what_comes_apart_rests_until_it_is_reset(environment: Environment) -> None:
    environment.reset(0)
    environment.step(action(y=-1))
    time = environment.time
    environment.step(action(gripper=BREAK))
    assert environment.failure is not None and "BADCTRL" in environment.failure
    assert environment.time == time and not environment.success
    qpos = environment.data.qpos.copy()
    environment.step(action(y=-1))
    np.testing.assert_array_equal(environment.data.qpos, qpos)
    environment.reset(0)
    assert environment.failure is None and environment.time == 0
    environment.step(action(y=-1))
    assert environment.failure is None and environment.time > 0


def test_what_cannot_be_observed_is_refused() -> None:
    for observe, message in (
        (Observe(images=("front",)), "push has no view front; its views are top, side"),
        (Observe(images=("top",), size=(0, 4)), "must be .height, width."),
        (Observe(cloud=-1), "a number of points from 0"),
        (Observe(depth=("top",), goal=True), "goal pictures are taken from the views in `images`"),
    ):
        with pytest.raises(UserError, match=message):
            Environment(Push(), observe, "rays")
    unseen = Environment(Push())
    unseen.reset(0)
    with pytest.raises(UserError, match=r"name them in Observe\.images"):
        unseen.goal_observation(start_of(0))  # type: ignore[arg-type]


class Counting:
    """An onlooker that writes down when it is called."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def begin(self, environment: Environment) -> None:
        self.calls.append("begin")

    def substep(self, environment: Environment) -> None:
        self.calls.append("substep")

    def end(self, environment: Environment) -> None:
        self.calls.append("failed" if environment.failure else "end")


def test_an_onlooker_sees_every_step_and_changes_nothing(environment: Environment) -> None:
    onlooker = Counting()
    watched = Environment(Push(), renderer="rays", onlooker=onlooker)
    for one in (environment, watched):
        one.reset(3)
        one.step(action(y=-1.0))
        one.step(action(y=-1.0))
    assert onlooker.calls == ["begin", *["substep"] * SUBSTEPS, "end", *["substep"] * SUBSTEPS, "end"]
    np.testing.assert_array_equal(watched.data.qpos, environment.data.qpos)
    watched.step(action(gripper=BREAK))
    assert onlooker.calls[-1] == "failed"


def test_an_onlooker_cannot_watch_workers() -> None:
    with pytest.raises(UserError, match="workers must be 0, not 2"):
        BatchedSim(Push(), 2, 2, onlooker=Counting())
