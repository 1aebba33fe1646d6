"""Resets: the recorded ones of the original, what the published initial states say, and each oddity with its option."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small_scene
from libero_scenes import task

from t2p.geometry.rotations import quaternion_to_matrix
from t2p.io import UserError
from t2p.sim.libero.assets import Assets, initial_states, load_problem
from t2p.sim.libero.bddl import Problem
from t2p.sim.libero.placement import Placement, find_placement, reset
from t2p.sim.libero.quirks import Quirks
from t2p.sim.libero.scene import build
from t2p.types import InitialState

# Where things start on and in others, two drawers' worth of it open.
NESTED = (
    ("libero_spatial", "pick_up_the_black_bowl_on_the_cookie_box_and_place_it_on_the_plate"),
    ("libero_spatial", "pick_up_the_black_bowl_in_the_top_drawer_of_the_wooden_cabinet_and_place_it_on_the_plate"),
    ("libero_spatial", "pick_up_the_black_bowl_on_the_stove_and_place_it_on_the_plate"),
    ("libero_90", "KITCHEN_SCENE7_open_the_microwave"),
)


def small(start: str = small_scene.START, quirks: Quirks | None = None, **options: float) -> Placement:
    return find_placement(small_scene.model(), small_scene.problem(start), quirks, **options)


def draw(placement: Placement, seed: int, loads: int = 1) -> InitialState:
    return reset(placement, np.random.RandomState(seed), loads)[0]


def position(placement: Placement, state: InitialState, name: str) -> np.ndarray:
    spot = next(spot for spot in placement.spots if spot.name == name)
    return state.qpos[spot.free[:3]] if len(spot.free) else state.body_pos[spot.body]


def quaternion(placement: Placement, state: InitialState, name: str) -> np.ndarray:
    spot = next(spot for spot in placement.spots if spot.name == name)
    return state.qpos[spot.free[3:]] if len(spot.free) else state.body_quat[spot.body]


def test_recorded_resets(assets: Assets, golden: Path) -> None:
    """Successive resets of one environment, each after its own seed."""
    problem = load_problem(assets, *golden.name.split("__"))
    placement = find_placement(build(problem, assets, "physics").compile(), problem)
    recorded = np.load(golden / "reset_samples.npz")
    _, loads = reset(placement, np.random.RandomState(), 0)  # the constructor's
    for i, seed in enumerate(recorded["seed"]):
        state, loads = reset(placement, np.random.RandomState(seed), loads)
        ours = np.concatenate([[state.time], state.qpos, state.qvel])
        np.testing.assert_allclose(ours, recorded["state"][i], rtol=0, atol=1e-9)
        np.testing.assert_allclose(state.body_pos, recorded["body_pos"][i], rtol=0, atol=1e-9)
        np.testing.assert_allclose(state.body_quat, recorded["body_quat"][i], rtol=0, atol=1e-9)


@pytest.mark.parametrize(("suite", "task"), NESTED, ids=lambda name: name[:45])
def test_published_states_lie_where_ours_may(assets: Assets, suite: str, task: str) -> None:
    """The published initial states are resets of the original: heights and rotations are the same numbers, places lie
    in the same ranges, joints of fixtures too."""
    problem = load_problem(assets, suite, task)
    model = build(problem, assets, "physics").compile()
    placement = find_placement(model, problem, arm_noise=0.02)
    published = initial_states(assets, suite, task)[:, 1 : 1 + model.nq]
    random = np.random.RandomState(0)
    ours = np.array([reset(placement, random)[0].qpos for _ in range(100)])
    for spot in placement.spots:
        if len(spot.free):
            np.testing.assert_allclose(published[:, spot.free[2:]], ours[:50, spot.free[2:]], rtol=0, atol=1e-9)
            across = spot.free[:2]
            low, high = ours[:, across].min(0), ours[:, across].max(0)
            slack = 0.15 * (high - low)
            assert (published[:, across] > low - slack).all() and (published[:, across] < high + slack).all()
            assert (published[:, across].min(0) < low + 2 * slack).all()
            assert (published[:, across].max(0) > high - 2 * slack).all()
    for joints, (low, high) in placement.articulations:
        assert (published[:, joints] >= low).all() and (published[:, joints] <= high).all()
    deviation = (published - placement.home.qpos)[:, placement.arm].std()
    assert deviation == pytest.approx((ours - placement.home.qpos)[:, placement.arm].std(), rel=0.15)


def test_a_seed_gives_one_state() -> None:
    placement = small(small_scene.START + "(Open wooden_cabinet_1_top_region)")
    one, two, other = draw(placement, 3), draw(placement, 3), draw(placement, 4)
    for field in ("qpos", "qvel", "body_pos", "body_quat"):
        np.testing.assert_array_equal(getattr(one, field), getattr(two, field))
    assert not np.array_equal(one.qpos, other.qpos)
    assert not one.qvel.any() and one.time == 0


def test_the_random_stream_is_the_legacy_one_or_numpys_present_one(assets: Assets) -> None:
    """Of a task's starts: fixtures and objects lie by either stream, each seed where its stream puts it."""
    drawn = {}
    for stream in ("legacy", "generator"):
        libero = task(assets, protocol="reset", quirks=Quirks(random_stream=stream))
        found = find_placement(libero.build("physics").compile(), libero.problem, libero.quirks)
        one, again, other = (libero.start(found, seed) for seed in (3, 3, 4))
        np.testing.assert_array_equal(one.qpos, again.qpos)
        assert (one.qpos != other.qpos).any() and (one.body_pos != other.body_pos).any()
        drawn[stream] = one
        make = np.random.RandomState if stream == "legacy" else np.random.default_rng
        np.testing.assert_array_equal(reset(found, make(3))[0].qpos, one.qpos)
    assert (drawn["legacy"].qpos != drawn["generator"].qpos).any()
    with pytest.raises(UserError, match="random_stream must be legacy or generator; got 'global'"):
        Quirks(random_stream="global")  # type: ignore[arg-type]


def test_things_lie_in_their_ranges() -> None:
    placement = small()
    states = [draw(placement, seed) for seed in range(60)]
    bowl, plate, cabinet = (
        np.array([position(placement, s, name) for s in states])
        for name in ("akita_black_bowl_1", "plate_1", "wooden_cabinet_1")
    )
    margin = 0.025  # the bowl's radius
    assert (bowl[:, :2] > (-0.2 + margin, -0.1 + margin)).all() and (bowl[:, :2] < (-0.1 - margin, 0.1 - margin)).all()
    np.testing.assert_allclose(bowl[:, 2], 0.9 + 0.01 + 0.06)
    first = (plate[:, 0] > 0.1) & (plate[:, 0] < 0.2)
    assert 10 < first.sum() < 50 and ((plate[~first, 0] > 0.3) & (plate[~first, 0] < 0.4)).all()
    assert (cabinet[:, 0] > -0.02).all() and (cabinet[:, 0] < 0).all()
    assert cabinet[:, 0].min() < -0.018 and cabinet[:, 0].max() > -0.002, "fixtures keep no distance from the border"
    np.testing.assert_allclose(cabinet[:, 2], 0.9 - 0.04 + 0.045)
    angles = [2 * np.arctan2(q[3], q[0]) for q in (quaternion(placement, s, "wooden_cabinet_1") for s in states)]
    assert 1 < min(angles) < 1.1 and 1.9 < max(angles) < 2


def test_objects_keep_apart_but_fixtures_do_not() -> None:
    start = (
        "(On plate_1 main_table_narrow) (On akita_black_bowl_1 main_table_narrow) (On wine_rack_1 main_table_narrow)"
    )
    placement = small(start)
    gaps = []
    for seed in range(40):
        state = draw(placement, seed)
        plate, bowl, rack = (
            position(placement, state, n)[:2] for n in ("plate_1", "akita_black_bowl_1", "wine_rack_1")
        )
        gaps.append((np.linalg.norm(plate - bowl), np.linalg.norm(rack - bowl)))
    assert min(gap for gap, _ in gaps) > 0.05, "the sum of their radii"
    assert min(gap for _, gap in gaps) < 0.05


def test_a_range_that_is_too_narrow_turns_inside_out() -> None:
    start = "(On akita_black_bowl_1 main_table_narrow)"  # 1 cm wide, for a bowl of 5 cm
    faithful, mended = small(start), small(start, Quirks(inverted_ranges=False))
    x = np.array([position(faithful, draw(faithful, seed), "akita_black_bowl_1")[0] for seed in range(60)])
    assert x.min() < -0.01 and x.max() > 0.02 and x.min() > 0.01 - 0.025 and x.max() < 0.025
    for seed in range(3):
        state = draw(mended, seed)
        assert position(mended, state, "akita_black_bowl_1")[0] == pytest.approx(0.005)
        np.testing.assert_array_equal(
            position(mended, state, "akita_black_bowl_1")[1:],
            position(faithful, draw(faithful, seed), "akita_black_bowl_1")[1:],
        )


def test_joints_are_drawn_once_more_at_every_reset() -> None:
    start = small_scene.START + "(Open wooden_cabinet_1_top_region) (Turnon flat_stove_1)"
    model = small_scene.model()
    drawer, knob = (model.joint(n).qposadr[0] for n in ("wooden_cabinet_1_top_level", "flat_stove_1_button"))
    other = model.joint("wooden_cabinet_1_bottom_level").qposadr[0]
    faithful, mended = small(start), small(start, Quirks(repeated_articulation=False))
    for loads in (0, 1, 4):
        random = np.random.RandomState(5)
        random.randn(7)
        for _ in range(loads + 1):
            expected = random.uniform(-0.16, -0.14), random.uniform(0.5, 2.1)
        state = draw(faithful, 5, loads)
        np.testing.assert_array_equal(state.qpos[[drawer, knob]], expected)
        assert state.qpos[other] == 0
        np.testing.assert_array_equal(draw(mended, 5, loads).qpos, draw(faithful, 5, 0).qpos)


def test_resets_count_how_often_the_scene_was_loaded() -> None:
    placement, random = small(), np.random.RandomState(0)
    assert [reset(placement, random, loads)[1] for loads in (0, 1, 7)] == [1, 2, 8]


def test_fixtures_at_the_centre_leave_the_rest_as_it_was() -> None:
    sampled, centred = small(), small(quirks=Quirks(fixture_poses="centre"))
    ours, theirs = draw(centred, 2), draw(sampled, 2)
    np.testing.assert_allclose(position(centred, ours, "wooden_cabinet_1"), (-0.01, 0.35, 0.905))
    np.testing.assert_allclose(quaternion(centred, ours, "wooden_cabinet_1"), (np.cos(0.75), 0, 0, np.sin(0.75)))
    np.testing.assert_array_equal(ours.qpos, theirs.qpos)
    assert not np.allclose(ours.body_pos, theirs.body_pos)


def test_fixtures_at_given_poses_carry_what_starts_on_them() -> None:
    """The bowl lies on a drawer's region, of a cabinet that is turned by 90 degrees and whose drawer is out."""
    start = small_scene.START.replace("main_table_left)", "wooden_cabinet_1_top_region)", 1)
    start += "(Open wooden_cabinet_1_top_region)"
    given = (
        ("wooden_cabinet_1", ((0.5, 0.5, 1.0), (0.5**0.5, 0, 0, 0.5**0.5))),
        ("flat_stove_1", ((1.0, 0, 0.9), (1.0, 0, 0, 0))),
        ("wine_rack_1", ((-1.0, 0, 0.9), (1.0, 0, 0, 0))),
    )
    placement = small(start, Quirks(fixture_poses=given))
    model = placement.model
    drawer = model.joint("wooden_cabinet_1_top_level").qposadr[0]
    for seed in range(20):
        state = draw(placement, seed)
        np.testing.assert_array_equal(position(placement, state, "wooden_cabinet_1"), (0.5, 0.5, 1.0))
        # The model file's cabinet lies turned at 0.1 m; the region is 5 cm over its root, the drawer slides along y.
        w, z = 0.96, 0.28
        file = np.array([[w * w - z * z, -2 * w * z, 0], [2 * w * z, w * w - z * z, 0], [0, 0, 1]])
        site = file @ (0, state.qpos[drawer], 0.05) + (0, 0, 0.1)
        offset = position(placement, state, "akita_black_bowl_1") - (0.5, 0.5, 1.0) - (-site[1], site[0], site[2])
        assert abs(offset[0]) <= 0.08 / 2 - 0.025 and abs(offset[1]) <= 0.06 / 2 - 0.025
        assert offset[2] == pytest.approx(0.045 + 0.06)  # the cabinet's top, the bowl's bottom


def test_placing_does_not_depend_on_the_model_s_present_poses() -> None:
    start = small_scene.START.replace("main_table_left)", "wooden_cabinet_1_top_region)", 1)
    placement = small(start)
    before = draw(placement, 1)
    placement.model.body_pos[:], placement.model.body_quat[:] = (
        draw(placement, 2).body_pos,
        draw(placement, 2).body_quat,
    )
    np.testing.assert_allclose(draw(placement, 1).qpos, before.qpos, atol=1e-12)


def test_things_on_things_and_in_regions_lie_in_their_middle() -> None:
    placement = small(
        "(On plate_1 main_table_left) (On akita_black_bowl_1 plate_1) (On wooden_cabinet_1 main_table_back)"
    )
    state = draw(placement, 0)
    np.testing.assert_allclose(
        position(placement, state, "akita_black_bowl_1") - position(placement, state, "plate_1"),
        (0, 0, 0.04 + 0.01 + 0.06),
    )
    inside = small("(In akita_black_bowl_1 wooden_cabinet_1_top_region) (On wooden_cabinet_1 main_table_back)")
    state = draw(inside, 0)
    offset = position(inside, state, "akita_black_bowl_1") - position(inside, state, "wooden_cabinet_1")
    np.testing.assert_allclose(offset, (0, 0, 0.15 + 0.06), atol=1e-12)


def test_the_place_on_a_turned_fixture_is_rounded_like_the_original() -> None:
    """The original turns a region's offset by a matrix in single precision."""
    placement = small("(In akita_black_bowl_1 wooden_cabinet_1_top_side) (On wooden_cabinet_1 main_table_back)")
    home, off = placement.model.body("wooden_cabinet_1_main"), []
    for seed in range(5):
        state = draw(placement, seed)
        w, _, _, z = quaternion(placement, state, "wooden_cabinet_1").astype(np.float32)
        scale = np.sqrt(2 / float(np.float32(float(w) ** 2 + float(z) ** 2)))
        w, z = (np.float32(float(part) * scale) for part in (w, z))
        turn = np.array([[1 - float(z * z), -float(w * z), 0], [float(w * z), 1 - float(z * z), 0], [0, 0, 1]])
        local = home.pos + quaternion_to_matrix(home.quat) @ (0.01, 0.02, 0.1) + (0, 0, 0.06)
        offset = position(placement, state, "akita_black_bowl_1") - position(placement, state, "wooden_cabinet_1")
        np.testing.assert_allclose(offset, turn @ local, rtol=0, atol=1e-15)
        off.append(np.abs(offset - quaternion_to_matrix(quaternion(placement, state, "wooden_cabinet_1")) @ local))
    assert 1e-11 < np.max(off) < 1e-7


def test_the_order_of_drawing_is_that_of_the_kinds_of_places() -> None:
    start = (
        "(On akita_black_bowl_1 plate_1) (Open wooden_cabinet_1_top_region) (On flat_stove_1 main_table_left)"
        "(On plate_1 wooden_cabinet_1_top_side) (On wooden_cabinet_1 main_table_back)"
    )
    names = [spot.name for spot in small(start).spots]
    assert names == ["flat_stove_1", "wooden_cabinet_1", "plate_1", "akita_black_bowl_1"]


@pytest.mark.parametrize(
    ("category", "expected"),
    [
        ("plate", (0.5**0.5, 0, 0, 0.5**0.5)),
        ("porcelain_mug", (-(0.5**0.5), 0, 0, 0.5**0.5)),
        ("alphabet_soup", (0, 0, 0.5**0.5, 0.5**0.5)),
        ("milk", (0.5, 0.5, 0.5, 0.5)),
        ("butter", (0, 0, 0, 1)),
    ],
)
def test_rotations_are_stored_with_their_parts_moved_along(category: str, expected: tuple[float, ...]) -> None:
    """As (x, y, z, w) where (w, x, y, z) is meant: things stand upright because of it."""
    problem = small_scene.problem("(On plate_1 main_table_left)")
    problem = replace(problem, objects=(("akita_black_bowl_1", "akita_black_bowl"), ("plate_1", category)))
    placement = find_placement(small_scene.model(), problem)
    np.testing.assert_allclose(quaternion(placement, draw(placement, 0), "plate_1"), expected, atol=1e-12)


def test_arm_noise_is_drawn_even_where_it_is_not_used() -> None:
    still, noisy = small(), small(arm_noise=0.02)
    a, b = draw(still, 1), draw(noisy, 1)
    np.testing.assert_allclose((b.qpos - a.qpos)[still.arm], 0.02 * np.random.RandomState(1).randn(7))
    np.testing.assert_array_equal(np.delete(a.qpos, still.arm), np.delete(b.qpos, still.arm))
    np.testing.assert_allclose(a.qpos[still.arm], [0, -0.161037389, 0, -2.44459747, 0, 2.2267522, np.pi / 4])


def crowded() -> Problem:
    """Two things on a spot that has room for one: nowhere on it are they far enough apart."""
    problem = small_scene.problem()
    regions = dict(problem.regions)
    regions["main_table_left"] = replace(regions["main_table_left"], ranges=((0, 0, 0.06, 0.06),))
    atoms = tuple(("on", name, "main_table_left") for name in ("akita_black_bowl_1", "plate_1"))
    return replace(problem, regions=regions, init=atoms)


def test_a_start_without_room_ends_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t2p.sim.libero.placement.ATTEMPTS", 20)
    placement = find_placement(small_scene.model(), crowded())
    with pytest.raises(UserError, match="no free place is found for plate_1"):
        draw(placement, 0)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("(On akita_black_bowl_1 plate_1)", r"\(on akita_black_bowl_1 plate_1\).*plate_1 has no place itself"),
        ("(On plate_1 main_table_left) (On plate_1 main_table_right)", "plate_1 is placed twice"),
        ("(On main_table_left plate_1)", "main_table_left is no thing"),
        ("(On flat_stove_1 wooden_cabinet_1_top_side)", "a fixture can only start on the arena's surface"),
        ("(In plate_1 main_table_left)", "main_table_left is no range of the arena's surface for something to be on"),
        ("(Open plate_1)", "nothing of plate_1 starts open"),
        ("(Open wine_rack_1)", "nothing of wine_rack_1 starts open"),
        ("(Up plate_1)", "nothing of plate_1 starts up"),
        ("(Turnon wooden_cabinet_1)", "nothing of wooden_cabinet_1 starts turnon"),
    ],
)
def test_starts_that_make_no_sense(start: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        small(start)


def test_given_poses_must_be_all_and_proper() -> None:
    pose = ((0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0))
    with pytest.raises(UserError, match="needs those of wooden_cabinet_1, flat_stove_1, wine_rack_1"):
        small(quirks=Quirks(fixture_poses=(("flat_stove_1", pose),)))
    with pytest.raises(UserError, match="sampled, centre or poses; got 'middle'"):
        Quirks(fixture_poses="middle")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="pose of flat_stove_1"):
        Quirks(fixture_poses=(("flat_stove_1", ((0.0, 0.0, 0.0), (1.0, 1.0, 0.0, 0.0))),))
