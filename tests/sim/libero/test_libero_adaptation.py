"""Recorded demonstrations for new starts: how they are cut, that segments go where their anchors go."""

from __future__ import annotations

from dataclasses import replace

import mujoco
import numpy as np
import pytest
import small_scene

from t2p.geometry.rotations import axis_angle_to_matrix
from t2p.io import UserError
from t2p.sim.libero.adaptation import PAUSE, Recording, Segment, _motions, adapted, cut, moved, noisy, pose_of, solves
from t2p.sim.libero.assets import Assets
from t2p.sim.libero.environment import LiberoEnvironment
from t2p.sim.libero.experts import Hand, demonstration
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
    assert set(source.start) == {BOWL, PLATE}
    assert (source.segments[0].grips[:TAKEN] == -1).all() and (source.segments[0].grips[TAKEN:] == 1).all()


def test_what_is_pushed_goes_by_its_aim_as_soon_as_it_moves() -> None:
    model, recorded = recording(lift=0.0)
    source = cut(model, small_scene.problem(), recorded)
    assert len(source.segments[0].goals) == pytest.approx(TAKEN, abs=1)


def test_without_an_aim_the_world_is_the_anchor() -> None:
    model, recorded = recording()
    problem = small_scene.problem(goal="(Turnon flat_stove_1)")
    assert [s.anchor for s in cut(model, problem, recorded).segments] == [BOWL, ""]


def test_a_part_has_a_frame_of_its_own_until_it_moves() -> None:
    """Then its fixture's: where a knob ends does not depend on where it started."""
    model, recorded = recording()
    problem = small_scene.problem(goal="(Turnon flat_stove_1)")
    states = recorded.states.copy()
    states[:, 1 : 1 + model.nq] = model.qpos0
    knob = 1 + model.joint("flat_stove_1_button").qposadr[0]
    states[:, knob] = 0.3 + np.clip((np.arange(STEPS) - TAKEN) / (PUT - TAKEN), 0, 1)
    source = cut(model, problem, replace(recorded, states=states))
    assert [s.anchor for s in source.segments] == ["flat_stove_1_button", "flat_stove_1"]
    assert len(source.segments[0].goals) == pytest.approx(TAKEN, abs=1)
    np.testing.assert_allclose(source.segments[0].pose[:3, :3], pose((0, 0, 0), (0, 0, 0.3))[:3, :3], atol=1e-12)
    np.testing.assert_allclose(source.segments[1].pose[:3, :3], np.eye(3), atol=1e-12)


def test_the_nearest_source_by_place_and_angle_is_followed() -> None:
    model, recorded = recording()
    data, problem = mujoco.MjData(model), small_scene.problem()
    mujoco.mj_forward(model, data)
    source = cut(model, problem, recorded)
    here = source.start[BOWL]
    other = replace(source, segments=tuple(replace(s, grips=s.grips * 0 + 0.5) for s in source.segments))
    for away in (pose((0.05, 0, 0)), pose((0, 0, 0), (0, 0, 0.8))):
        far = replace(other, start={**source.start, BOWL: here @ away})
        for sources in ([far, source], [source, far]):
            assert next(adapted(model, data, problem, sources))[6] == -1


def test_a_recording_solves_what_it_reaches() -> None:
    model, recorded = recording()
    begun = replace(recorded, actions=recorded.actions[:TAKEN], states=recorded.states[:TAKEN])
    assert solves(model, small_scene.problem(), recorded) and not solves(model, small_scene.problem(), begun)
    drawer = 1 + model.joint("wooden_cabinet_1_top_level").qposadr[0]
    states = recorded.states.copy()
    states[-1, drawer] = -0.15
    problem = small_scene.problem(goal="(Open wooden_cabinet_1_top_region)")
    assert not solves(model, problem, recorded) and solves(model, problem, replace(recorded, states=states))


def test_noise_is_the_seeds_and_leaves_the_gripper_alone() -> None:
    actions = [np.array([0, 0, 0, 0, 0, 0.99, -1.0])] * 400
    once, again, other = (np.array(list(noisy(actions, 0.05, np.random.default_rng(seed)))) for seed in (1, 1, 2))
    np.testing.assert_array_equal(once, again)
    assert (once != other).any() and (once[:, 6] == -1).all() and np.abs(once).max() <= 1
    assert once[:, :5].std() == pytest.approx(0.05, rel=0.1)


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
    segment = Segment("it", before, pose((0.1, 0.2, 0.4)), goals, np.zeros(2))
    recorded, there = np.stack([segment.hand, *goals]), moved(segment, after)
    np.testing.assert_allclose(np.linalg.inv(after) @ there, np.linalg.inv(before) @ recorded, atol=1e-12)
    np.testing.assert_allclose(moved(segment, before), recorded, atol=1e-12)


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


@pytest.mark.parametrize("task", ["libero_object/0", "libero_spatial/0"])
def test_a_demonstration_solves_its_task_from_another_start(assets: Assets, task: str) -> None:
    environment = LiberoEnvironment(LiberoTask(task, libero_root=str(assets.libero)))
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
    hand = Hand(model, data, environment.scene.handles)
    distance = max(np.linalg.norm((pose_of(hand, s.anchor) - s.pose)[:3, 3]) for s in source.segments)
    assert distance > 0.01
    again, _ = play(adapted(model, data, problem, [source]))
    assert environment.success and (np.abs(again) <= 1).all()
