"""Recorded demonstrations for new starts: how they are cut, that segments go where their anchors go."""

from __future__ import annotations

from dataclasses import replace

import mujoco
import numpy as np
import pytest
import small_scene

from t2p.geometry.rotations import axis_angle_to_matrix
from t2p.io import UserError
from t2p.sim.libero.adaptation import PAUSE, Recording, Segment, _motions, adapted, cut, moved
from t2p.sim.libero.assets import Assets
from t2p.sim.libero.environment import LiberoEnvironment
from t2p.sim.libero.experts import demonstration
from t2p.sim.libero.names import handles
from t2p.sim.libero.task import LiberoTask

BOWL, PLATE = "akita_black_bowl_1", "plate_1"
STEPS, TAKEN, PUT = 60, 20, 45  # the bowl is lifted from TAKEN on and rests after PUT


def pose(position: tuple[float, ...], turn: tuple[float, ...] = (0.0, 0.0, 0.0)) -> np.ndarray:
    made = np.eye(4)
    made[:3, :3], made[:3, 3] = axis_angle_to_matrix(np.array(turn)), position
    return made


def recording(lift: float = 0.2) -> tuple[mujoco.MjModel, Recording]:
    """The bowl of the small scene goes up, then to the right; the hand stays where it is."""
    model = small_scene.model()
    states = np.zeros((STEPS, 1 + model.nq + model.nv))
    states[:, 1 : 1 + model.nq] = model.qpos0
    place = 1 + handles(model, small_scene.problem()).instances[BOWL].free
    progress = np.clip((np.arange(STEPS) - TAKEN) / (PUT - TAKEN), 0, 1)
    states[:, place[0]] += 0.3 * progress
    states[:, place[2]] += lift * np.sin(np.pi * progress)
    actions = np.zeros((STEPS, 7))
    actions[:, 0], actions[:, 6] = 0.5, np.where((np.arange(STEPS) >= TAKEN) & (np.arange(STEPS) < PUT), 1, -1)
    return model, Recording(actions, states, {})


def test_what_is_taken_comes_first_then_where_it_goes() -> None:
    model, recorded = recording()
    source = cut(model, small_scene.problem(), recorded)
    assert [s.anchor for s in source.segments] == [BOWL, PLATE]
    first, second = (len(s.goals) for s in source.segments)
    assert first + second == STEPS and TAKEN < first < (TAKEN + PUT) / 2
    assert set(source.start) == {BOWL}
    assert (source.segments[0].grips[:TAKEN] == -1).all() and (source.segments[0].grips[TAKEN:] == 1).all()


def test_what_is_pushed_goes_by_its_aim_as_soon_as_it_moves() -> None:
    model, recorded = recording(lift=0.0)
    source = cut(model, small_scene.problem(), recorded)
    assert len(source.segments[0].goals) == pytest.approx(TAKEN, abs=1)


def test_without_an_aim_the_world_is_the_anchor() -> None:
    model, recorded = recording()
    problem = small_scene.problem(goal="(Turnon flat_stove_1)")
    assert [s.anchor for s in cut(model, problem, recorded).segments] == [BOWL, ""]


def test_goals_are_what_actions_ask_for() -> None:
    model, recorded = recording()
    still = replace(recorded, actions=recorded.actions * [0, 0, 0, 0, 0, 0, 1])
    goals, rest = (
        np.concatenate([s.goals for s in cut(model, small_scene.problem(), r).segments]) for r in (recorded, still)
    )
    np.testing.assert_allclose(goals[:, :3, 3] - rest[:, :3, 3], np.tile([0.025, 0, 0], (STEPS, 1)), atol=1e-12)


def test_a_segment_goes_where_its_anchor_goes() -> None:
    """Turned and shifted together, the goals stay where they were as the anchor sees them."""
    goals = np.stack([pose((0.1, 0.2, 0.3), (0, 0.2, 0)), pose((0.0, 0.1, 0.2))])
    before, after = pose((0.5, 0, 0.1), (0, 0, 0.3)), pose((0.4, -0.2, 0.1), (0, 0, 1.2))
    segment = Segment("it", before, goals, np.zeros(2))
    there = moved(segment, after)
    np.testing.assert_allclose(np.linalg.inv(after) @ there, np.linalg.inv(before) @ goals, atol=1e-12)
    np.testing.assert_allclose(moved(segment, before), goals, atol=1e-12)


def test_pauses_do_not_end_a_motion_and_trembling_is_none() -> None:
    steps = np.r_[np.zeros(10), np.full(20, 0.004), np.zeros(PAUSE - 2), np.full(20, 0.004), np.zeros(3 * PAUSE)]
    again = np.r_[steps, np.full(5, 0.001)]  # 5 mm: not enough
    (one,) = _motions("it", np.cumsum(again)[:, None], 0.0005, 0.02)
    assert (one.first, one.last) == (9, 9 + 40 + PAUSE - 2)


def test_what_cannot_be_adapted() -> None:
    model, recorded = recording()
    problem = small_scene.problem()
    with pytest.raises(UserError, match=r"states \[T, "):
        cut(model, problem, replace(recorded, states=recorded.states[:, :-1]))
    with pytest.raises(UserError, match="nothing is moved"):
        cut(model, problem, replace(recorded, states=recorded.states[:1].repeat(STEPS, 0)))
    with pytest.raises(UserError, match="the fixture 'lamp_main', which this scene lacks"):
        cut(model, problem, replace(recorded, fixtures={"lamp_main": {"pos": [0, 0, 0], "quat": [1, 0, 0, 0]}}))
    with pytest.raises(UserError, match="no recordings"):
        adapted(model, mujoco.MjData(model), problem, [])


def test_a_demonstration_solves_its_task_from_another_start(assets: Assets) -> None:
    environment = LiberoEnvironment(LiberoTask("libero_spatial/0", libero_root=str(assets.libero)))
    model, data, problem = environment.model, environment.data, environment.scene.problem

    def play(actions) -> tuple[np.ndarray, np.ndarray]:
        played, states = [], []
        for action in actions:
            states.append(np.concatenate([[data.time], data.qpos, data.qvel]))
            played.append(action)
            environment.step(action)
        return np.array(played), np.array(states)

    environment.reset(7)
    recorded = Recording(*play(demonstration(model, data, problem)), {})
    assert environment.success
    fixed = [i for i in environment.scene.handles.instances.values() if not len(i.free)]
    positions, quaternions = environment.puppet.frames
    there = {model.body(i.body).name: {"pos": positions[i.body], "quat": quaternions[i.body]} for i in fixed}
    source = cut(model, problem, replace(recorded, fixtures=there))
    environment.reset(0)
    distance = np.linalg.norm(
        data.xpos[environment.scene.handles.instances["akita_black_bowl_1"].body] - source.start["akita_black_bowl_1"]
    )
    assert distance > 0.01
    again, _ = play(adapted(model, data, problem, [source]))
    assert environment.success and (np.abs(again) <= 1).all()
