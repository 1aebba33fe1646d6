"""Scripted demonstrations: where things are taken hold of, and that the scripts do their tasks."""

from __future__ import annotations

from dataclasses import replace

import mujoco
import numpy as np
import pytest
import small_scene

from t2p.io import UserError
from t2p.sim.libero import experts
from t2p.sim.libero.assets import Assets
from t2p.sim.libero.environment import LiberoEnvironment
from t2p.sim.libero.experts import CLOSE, GRIP_STEPS, HELD, OPEN, Hand, demonstration, until_held
from t2p.sim.libero.grasps import FULL, HALF, Grasp, clearance, find_grasp, pointing_down, points_of
from t2p.sim.libero.names import handles
from t2p.sim.libero.suites import SUITES
from t2p.sim.libero.task import LiberoTask

NOTHING = np.zeros((0, 3))


def box(size: tuple[float, ...], center: tuple[float, ...] = (0.0, 0.0, 0.0), yaw: float = 0.0) -> np.ndarray:
    """Points on and in a box with these edges."""
    turn = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    grid = np.stack(np.meshgrid(*[np.linspace(-0.5, 0.5, 9)] * 3), axis=-1).reshape(-1, 3)
    return grid * size @ turn.T + center


def bowl(radius: float = 0.053, height: float = 0.05) -> np.ndarray:
    angles, heights = np.linspace(0, 2 * np.pi, 36, endpoint=False), np.linspace(0, height, 5)
    return np.array([(radius * np.cos(a), radius * np.sin(a), z) for a in angles for z in heights])


def test_points_span_the_boxes_of_geoms() -> None:
    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><geom type='box' size='.1 .2 .3' pos='1 2 3' euler='0 0 90'/></worldbody></mujoco>"
    )
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    points = points_of(model, data, np.array([0]))
    np.testing.assert_allclose(points.min(0), (0.8, 1.9, 2.7))
    np.testing.assert_allclose(points.max(0), (1.2, 2.1, 3.3))


@pytest.mark.parametrize("yaw", [0.0, 30.0, -45.0, 90.0])
def test_a_box_is_taken_across_its_thin_side(yaw: float) -> None:
    grasp = find_grasp(box((0.1, 0.04, 0.1), (0.2, 0.1, 0.05), np.deg2rad(yaw)), NOTHING)
    across = np.array([-np.sin(np.deg2rad(yaw)), np.cos(np.deg2rad(yaw)), 0])
    assert abs(grasp.rotation[:, 0] @ across) > 0.99
    np.testing.assert_allclose(grasp.rotation[:, 2], (0, 0, -1))
    np.testing.assert_allclose(grasp.position[:2], (0.2, 0.1), atol=1e-9)
    assert 0.1 - 0.026 < grasp.position[2] < 0.1 - 0.01, "its top is between fingertips and palm"
    assert np.linalg.det(grasp.rotation) == pytest.approx(1) and not grasp.half


def test_fingertips_stay_over_what_a_flat_thing_lies_on() -> None:
    grasp = find_grasp(box((0.04, 0.08, 0.018), (0, 0, 0.009)), NOTHING)
    assert 0.0125 < grasp.position[2] < 0.018


def test_a_bowl_is_taken_by_its_rim() -> None:
    grasp = find_grasp(bowl(), NOTHING)
    radial = grasp.position[:2] / np.linalg.norm(grasp.position[:2])
    assert np.linalg.norm(grasp.position[:2]) == pytest.approx(0.05, abs=1e-3)
    assert abs(radial @ grasp.rotation[:2, 0]) > 0.99, "the fingers close on the wall"


def test_the_gripper_keeps_away_from_others() -> None:
    """A wall on either side of where it would go first: along the box, or the bowl's near rim."""
    thing = box((0.05, 0.05, 0.08), (0, 0, 0.04))
    first = find_grasp(thing, NOTHING)
    walls = np.concatenate([box((0.2, 0.01, 0.15), (0, y, 0.075)) for y in (-0.05, 0.05)])
    assert abs(first.rotation[1, 0]) > 0.99 and clearance(walls, first.position, first.rotation, FULL) == 0
    other = find_grasp(thing, walls)
    assert abs(other.rotation[0, 0]) > 0.99 and other.clear > 0
    wall = box((0.2, 0.01, 0.15), (0, 0.08, 0.075))
    taken = find_grasp(bowl(), wall)
    assert taken.position[1] < 0.02 and taken.clear > 0.005


def test_fingers_come_half_open_where_there_is_no_more_room() -> None:
    """A bowl in a box that leaves 3 cm round it, less than an open finger needs."""
    walls = np.concatenate(
        [box((0.2, 0.01, 0.06), (0, y, 0.03)) for y in (-0.09, 0.09)]
        + [box((0.01, 0.2, 0.06), (x, 0, 0.03)) for x in (-0.09, 0.09)]
    )
    grasp = find_grasp(bowl(), walls)
    assert grasp.half and grasp.clear > 0
    assert clearance(walls, grasp.position, grasp.rotation, FULL) < clearance(
        walls, grasp.position, grasp.rotation, HALF
    )


def test_half_open_fingers_stay_so_on_their_way_down(monkeypatch: pytest.MonkeyPatch) -> None:
    grasp = Grasp(np.array([0.5, 0, 0.5]), pointing_down(0.0), half=True, clear=1.0)
    monkeypatch.setattr(experts, "find_grasp", lambda points, obstacles: grasp)
    model = small_scene.model()
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    hand = Hand(model, data, handles(model, small_scene.problem()))
    grips = [float(action[6]) for action in experts._take(hand, "akita_black_bowl_1")]
    changes = [grip for grip, before in zip(grips, [None, *grips], strict=False) if grip != before]
    assert changes == [OPEN, CLOSE, 0.0, CLOSE] and grips[-GRIP_STEPS:] == [CLOSE] * GRIP_STEPS


def test_what_lies_lower_than_the_fingertips_is_in_nobody_s_way() -> None:
    pose = np.array([0, 0, 0.1]), pointing_down(np.pi / 2)
    under, beside = box((0.3, 0.3, 0.05), (0, 0, 0.025)), box((0.3, 0.3, 0.05), (0, 0, 0.065))
    assert clearance(under, *pose, FULL) == np.inf and clearance(beside, *pose, FULL) == 0


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        ("(Close wooden_cabinet_1_top_region)", r"no script for the goal \(close wooden_cabinet_1_top_region\)"),
        ("(Turnoff flat_stove_1)", r"no script for the goal \(turnoff flat_stove_1\)"),
    ],
)
def test_goals_without_a_script(goal: str, message: str) -> None:
    model = small_scene.model()
    with pytest.raises(UserError, match=message):
        demonstration(model, mujoco.MjData(model), small_scene.problem(goal=goal))


def test_a_door_is_no_drawer() -> None:
    problem = small_scene.problem(goal="(Open microwave_1)".replace("microwave_1", "flat_stove_1"))
    fixtures = tuple((name, "microwave" if name == "flat_stove_1" else kind) for name, kind in problem.fixtures)
    model = small_scene.model()
    with pytest.raises(UserError, match="only drawers are opened"):
        demonstration(model, mujoco.MjData(model), replace(problem, fixtures=fixtures))


def play(assets: Assets, task: str, seeds: int) -> np.ndarray:
    """[seeds] whether the goal held at the end."""
    environment = LiberoEnvironment(LiberoTask(task, libero_root=str(assets.libero)))
    found = []
    for seed in range(seeds):
        environment.reset(seed)
        script = demonstration(environment.model, environment.data, environment.scene.problem)
        for action in until_held(script, lambda: environment.success):
            assert action.shape == (7,) and (np.abs(action) <= 1).all() and environment.steps < environment.task.limit
            environment.step(action)
        found.append(environment.success)
    return np.array(found)


def test_a_demonstration_ends_when_its_goal_has_held_for_half_a_second() -> None:
    told = iter([False, *[True] * (HELD - 1), False, *[True] * 20])
    assert len(list(until_held(iter([np.zeros(7)] * 40), lambda: next(told)))) == 1 + HELD + HELD
    assert len(list(until_held(iter([np.zeros(7)] * 5), lambda: False))) == 5


@pytest.mark.parametrize("task", ["libero_object/1", "libero_goal/0"])
def test_scripts_do_their_tasks(assets: Assets, task: str) -> None:
    """A box between others, a drawer."""
    assert play(assets, task, 1).all()


@pytest.mark.long
@pytest.mark.parametrize("suite", ["libero_object", "libero_spatial", "libero_goal"])
@pytest.mark.parametrize("index", range(10))
def test_four_of_five_seeds_are_solved(assets: Assets, suite: str, index: int) -> None:
    assert play(assets, f"{suite}/{index}", 5).mean() >= 0.8, SUITES[suite][index]
