"""Predicates: the recorded verdicts of the original, its oddities one by one, and goals that make no sense."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
import pytest
import small_scene

from t2p.io import UserError
from t2p.sim.libero.assets import Assets, load_problem
from t2p.sim.libero.contacts import Contacts
from t2p.sim.libero.predicates import Goal, compile_goal
from t2p.sim.libero.quirks import Quirks
from t2p.sim.libero.scene import build

Scene = tuple[mujoco.MjModel, mujoco.MjData]


@pytest.fixture(scope="module")
def scene() -> Scene:
    model = small_scene.model()
    return model, mujoco.MjData(model)


def goal(scene: Scene, *atoms: str, quirks: Quirks | None = None) -> Goal:
    return compile_goal(scene[0], small_scene.problem(), [tuple(atom.split()) for atom in atoms], quirks)


def put(scene: Scene, **poses: tuple[float, ...]) -> None:
    """Puts things somewhere, all else to where the model has it. A pose: position, or position and quaternion; a
    number: a joint's position."""
    model, data = scene
    mujoco.mj_resetData(model, data)
    for name, pose in poses.items():
        start = model.joint(name).qposadr[0]
        data.qpos[start : start + len(pose)] = pose
    mujoco.mj_forward(model, data)


def place_bowl(scene: Scene, *position: float) -> None:
    put(scene, akita_black_bowl_1_joint0=position)


def test_recorded_verdicts(assets: Assets, golden: Path) -> None:
    """All atoms and the goal in every recorded state, deep collisions among them that this MuJoCo makes no contacts
    of; and the success of the recorded episodes, step by step."""
    problem = load_problem(assets, *golden.name.split("__"))
    model = build(problem, assets, "physics").compile()
    data = mujoco.MjData(model)
    atoms = json.loads((golden / "model_summary.json").read_text())["predicate_atoms"]
    everything, success = compile_goal(model, problem, map(tuple, atoms)), compile_goal(model, problem)
    for file in ("predicates", "traj_success"):
        with np.load(golden / f"{file}.npz") as stored:
            recorded = {name: stored[name] for name in stored if "obs" not in name}
        model.body_pos[:], model.body_quat[:] = recorded["body_pos"], recorded["body_quat"]
        single = success if file == "traj_success" else everything
        truth, holds = [], []
        for state in recorded["states"]:
            data.qpos[:], data.qvel[:] = state[1 : 1 + model.nq], state[1 + model.nq :]
            mujoco.mj_forward(model, data)
            truth.append(single.truth(data))
            holds.append(success.holds(data))
        np.testing.assert_array_equal(truth, recorded["truth" if file == "predicates" else "atoms"], file)
        np.testing.assert_array_equal(holds, recorded["goal" if file == "predicates" else "success"], file)


def test_on_a_thing_needs_touch_nearness_and_height(scene: Scene) -> None:
    on = goal(scene, "on akita_black_bowl_1 plate_1")
    on_top = 1 + 0.03 + 0.02  # the plate's middle, half its height and half the bowl's
    for position, expected in (
        ((0.3, 0, on_top - 1e-4), True),
        ((0.3, 0, on_top + 1e-4), False),  # does not touch
        ((0.3 + 0.0299, 0, on_top - 1e-4), True),
        ((0.3 + 0.0301, 0, on_top - 1e-4), False),
        ((0.3 + 0.022, 0.022, on_top - 1e-4), False),  # further than 3 cm along the diagonal
        ((0.3, 0, 1 - 0.049), False),  # hangs below
    ):
        place_bowl(scene, *position)
        assert on.holds(scene[1]) is expected, position
    place_bowl(scene, 0.3, 0, on_top - 0.001)
    assert not goal(scene, "on plate_1 akita_black_bowl_1").holds(scene[1])


def test_what_is_looked_at_does_not_touch(scene: Scene) -> None:
    """The bowl's geom of group 1 is far larger than it."""
    place_bowl(scene, 0.3, 0, 1.1)
    touching = goal(scene, "on akita_black_bowl_1 plate_1").contacts.touching(scene[1])
    assert not touching[:2, :2].any()


def test_boxes_deep_in_each_other_touch(scene: Scene) -> None:
    data = scene[1]
    place_bowl(scene, 0.3, 0, 1.0)  # all of the bowl is inside the plate
    on = goal(scene, "on akita_black_bowl_1 plate_1")
    pair = on.contacts.pair(0, 1)
    assert on.holds(data)
    assert pair.touch(data, np.zeros((6, 6), bool)), "by overlap alone"
    place_bowl(scene, 0.3, 0, 1.2)
    assert not pair.touch(data, np.zeros((6, 6), bool))


def test_boxes_overlap_where_their_distance_is_negative() -> None:
    """Against MuJoCo's distance between geoms, for boxes of all shapes and attitudes."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(20):
        a, b = (" ".join(map(str, random.uniform(0.003, 0.08, 3))) for _ in range(2))
        model = mujoco.MjModel.from_xml_string(
            f"<mujoco><worldbody><geom type='box' size='{a}'/><body><freejoint/><geom type='box' size='{b}' mass='1'/>"
            "</body></worldbody></mujoco>"
        )
        data, pair = mujoco.MjData(model), Contacts(model, (np.array([0]), np.array([1]))).pair(0, 1)
        for _ in range(20):
            data.qpos[:] = *random.uniform(-0.1, 0.1, 3), *random.normal(size=4)
            mujoco.mj_forward(model, data)
            distance = mujoco.mj_geomDistance(model, data, 0, 1, 1.0, None)
            if abs(distance) > 1e-5:
                found.append(distance < 0)
                assert pair.touch(data, np.zeros((3, 3), bool)) == found[-1], distance
    assert 50 < sum(found) < 350


def test_on_a_region_of_the_surface_needs_no_touch(scene: Scene) -> None:
    on = goal(scene, "on akita_black_bowl_1 main_table_left")  # 0.10 x 0.20 x 0.014 m round (-0.15, 0, 0.9)
    for position, expected in (
        ((-0.15, 0, 0.95), True),
        ((-0.101, 0.099, 0.95), True),
        ((-0.099, 0, 0.95), False),
        ((-0.15, -0.101, 0.95), False),
        ((-0.15, 0, 0.9 + 0.007 + 0.0999), True),
        ((-0.15, 0, 0.9 + 0.007 + 0.1001), False),
        ((-0.15, 0, 0.9 + 0.007 - 0.0049), True),
        ((-0.15, 0, 0.9 + 0.007 - 0.0051), False),
    ):
        place_bowl(scene, *position)
        assert on.holds(scene[1]) is expected, position


def test_on_a_region_of_a_thing_needs_touch(scene: Scene) -> None:
    on = goal(scene, "on akita_black_bowl_1 flat_stove_1_cook_region")
    place_bowl(scene, 1, 0, 0.0399)
    assert on.holds(scene[1])
    place_bowl(scene, 1, 0, 0.0401)
    assert not on.holds(scene[1])


def test_a_turned_region_is_turned_the_original_s_way(scene: Scene) -> None:
    """On: offsets are turned by the site's rotation, not by its inverse. In: the box reaches as far as one turned
    corner does, which is not how far the turned box reaches."""
    offsets, rotation, size, verdicts = around_a_turned_region(scene, Quirks())
    for offset, found in zip(offsets, verdicts, strict=True):
        turned, reach = rotation @ offset, np.abs(rotation @ size)
        on = -0.005 < turned[2] - size[2] < 0.1 and all(np.abs(turned[:2]) < size[:2])
        inside = all(offset < reach) and all(offset > -reach - [0, 0, 0.01])
        np.testing.assert_array_equal(found, [on, inside], str(offset))
    assert (np.sum(verdicts, axis=0) > 10).all()


def test_a_turned_region_is_judged_in_its_own_frame(scene: Scene) -> None:
    offsets, rotation, size, verdicts = around_a_turned_region(scene, Quirks(turned_regions=False))
    local = offsets @ rotation
    over = local[:, 2] - size[2]
    on = (over > -0.005) & (over < 0.1) & (np.abs(local[:, :2]) < size[:2]).all(1)
    inside = (local < size).all(1) & (local > -size - [0, 0, 0.01]).all(1)
    np.testing.assert_array_equal(verdicts, np.stack([on, inside], axis=1))
    assert (np.sum(verdicts, axis=0) > 10).all()
    assert (verdicts != around_a_turned_region(scene, Quirks())[3]).any(0).all()


def around_a_turned_region(scene: Scene, quirks: Quirks) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """-> where the bowl is put [800, 3] from the region's middle; the region's rotation and half size; what is true of
    the bowl there [800, 2]: on it, in it."""
    model, data = scene
    place = "akita_black_bowl_1 main_table_narrow"
    both, site = goal(scene, f"on {place}", f"in {place}", quirks=quirks), model.site("main_table_narrow")
    mujoco.mj_forward(model, data)
    centre, rotation = data.site_xpos[site.id].copy(), data.site_xmat[site.id].reshape(3, 3).copy()
    offsets, verdicts = np.random.default_rng(0).uniform(-0.13, 0.13, (800, 3)), []
    for offset in offsets:
        place_bowl(scene, *(centre + offset))
        verdicts.append(both.truth(data))
    return offsets, rotation, site.size, np.array(verdicts)


@pytest.mark.parametrize(
    ("joint", "atom", "positions"),
    [
        ("wooden_cabinet_1_top_level", "open wooden_cabinet_1_top_region", {-0.141: True, -0.14: False, 0.0: False}),
        ("wooden_cabinet_1_top_level", "close wooden_cabinet_1_top_region", {0.001: True, 0.0: False, -0.1: False}),
        ("wooden_cabinet_1_top_level", "open wooden_cabinet_1", {-0.15: True, -0.13: False}),  # one drawer suffices
        ("wooden_cabinet_1_top_level", "close wooden_cabinet_1", {0.005: False}),  # the other one is at 0
        ("wooden_cabinet_1_bottom_level", "open wooden_cabinet_1_top_region", {-0.15: False}),
        ("flat_stove_1_button", "turnon flat_stove_1", {0.5: True, 0.499: False}),
        ("flat_stove_1_button", "turnoff flat_stove_1", {-0.001: True, 0.0: False}),
        # Regions and fixtures without joints are closed and turned off, whatever moves elsewhere.
        ("wooden_cabinet_1_top_level", "open wooden_cabinet_1_top_side", {-0.15: False}),
        ("wooden_cabinet_1_top_level", "close wooden_cabinet_1_top_side", {-0.15: True}),
        ("wooden_cabinet_1_top_level", "close wine_rack_1", {0.0: True}),
        ("wooden_cabinet_1_top_level", "turnon wine_rack_1", {0.0: False}),
    ],
)
def test_joints_decide_at_the_ends_of_their_ranges(
    scene: Scene, joint: str, atom: str, positions: dict[float, bool]
) -> None:
    for position, expected in positions.items():
        put(scene, **{joint: (position,)})
        assert goal(scene, atom).holds(scene[1]) is expected, position


def test_closed_needs_all_drawers(scene: Scene) -> None:
    put(scene, wooden_cabinet_1_top_level=(0.004,), wooden_cabinet_1_bottom_level=(0.003,))
    assert goal(scene, "close wooden_cabinet_1").holds(scene[1])


def test_up(scene: Scene) -> None:
    up = goal(scene, "up akita_black_bowl_1")
    for height in (1.0, 0.999):
        place_bowl(scene, 0, 0, height)
        assert up.holds(scene[1]) is (height >= 1)


def test_a_goal_needs_all_its_atoms(scene: Scene) -> None:
    both = goal(scene, "up akita_black_bowl_1", "turnon flat_stove_1")
    put(scene, akita_black_bowl_1_joint0=(0, 0, 2), flat_stove_1_button=(0.4,))
    np.testing.assert_array_equal(both.truth(scene[1]), [True, False])
    assert not both.holds(scene[1])
    put(scene, akita_black_bowl_1_joint0=(0, 0, 2), flat_stove_1_button=(0.6,))
    assert both.holds(scene[1])


def test_success_is_judged_by_the_positions_of_a_step_s_beginning(scene: Scene) -> None:
    """As the original does, which asks right after mj_step: joints are new, positions of bodies are not."""
    model, data = scene
    both = goal(scene, "up akita_black_bowl_1", "turnon flat_stove_1")
    put(scene, akita_black_bowl_1_joint0=(0, 0, 0.9999), flat_stove_1_button=(0.4999,))
    data.joint("akita_black_bowl_1_joint0").qvel[2] = data.joint("flat_stove_1_button").qvel[0] = 1.0
    mujoco.mj_step(model, data)
    np.testing.assert_array_equal(both.truth(data), [False, True])


def test_the_default_atoms_are_the_problem_s(scene: Scene) -> None:
    assert compile_goal(scene[0], small_scene.problem()).atoms == (("on", "akita_black_bowl_1", "plate_1"),)


@pytest.mark.parametrize(
    ("atom", "message"),
    [
        ("under akita_black_bowl_1 plate_1", "unknown predicate.*expected one of on, in"),
        ("on akita_black_bowl_1", "on takes 2 names"),
        ("on akita_black_bowl_2 plate_1", "akita_black_bowl_2 is no object.*it has akita_black_bowl_1, plate_1"),
        ("on akita_black_bowl_1 bowl_drainer_1_inside", "bowl_drainer_1_inside is no object"),
        ("on akita_black_bowl_1 main_table", "main_table is no object"),
        ("on main_table_left plate_1", "on takes a thing, then"),
        ("in akita_black_bowl_1 plate_1", "in takes a thing, then a region"),
        ("up main_table_left", "up takes a thing"),
        ("open plate_1", "open says nothing about plate_1"),
        ("open main_table_left", "open says nothing about main_table_left"),
        ("turnon wooden_cabinet_1", "turnon says nothing about wooden_cabinet_1; it knows open, close"),
    ],
)
def test_goals_that_make_no_sense(scene: Scene, atom: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        goal(scene, atom)


def test_another_task_s_model_is_refused(scene: Scene) -> None:
    other = small_scene.problem()
    with pytest.raises(UserError, match=r"no body 'milk_1_main'.*another task"):
        compile_goal(scene[0], replace(other, objects=(*other.objects, ("milk_1", "milk"))))
