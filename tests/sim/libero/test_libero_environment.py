"""LIBERO's tasks in BatchedSim: the same episodes on any number of workers, in any batch and with pictures or without;
failures; what is observed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
from libero_scenes import task

from t2p.geometry.rotations import axis_angle_to_matrix, quaternion_to_matrix
from t2p.io import UserError
from t2p.sim.batch import BatchedSim
from t2p.sim.environment import Observe
from t2p.sim.libero import osc, stepping
from t2p.sim.libero import task as task_module
from t2p.sim.libero.assets import Assets, split_state
from t2p.sim.libero.environment import LiberoEnvironment
from t2p.sim.libero.protocols import PROTOCOLS, STILL, Protocol
from t2p.sim.libero.quirks import Quirks
from t2p.types import InitialState, Observation, StepResult

E = 5
TWO = Protocol(2, (3, 4), 20, 1, STILL, "a test")  # two policy steps, one settling step, two initial states


@pytest.fixture(autouse=True)
def protocols(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROTOCOLS, "two", TWO)


@pytest.fixture(scope="module")
def environment(assets: Assets) -> Iterator[LiberoEnvironment]:
    found = LiberoEnvironment(
        task(assets, quirks=Quirks(settle=False)), Observe(("agentview", "eye_in_hand"), size=(12, 16)), "rays"
    )
    yield found
    found.close()


def moves(step: int, count: int = E) -> np.ndarray:
    return np.random.default_rng(step).uniform(-1, 1, (E, 7))[:count]


def arrays(what: Observation | StepResult) -> dict[str, np.ndarray]:
    if isinstance(what, StepResult):
        found = arrays(what.obs)
        return found | {"success": what.success, "failed": what.failed, "time": what.sim_time}
    return {f"{kind}/{name}": a for kind in ("images", "proprio") for name, a in getattr(what, kind).items()}


def assert_equal(one: Any, other: Any, rows: Any = slice(None)) -> None:
    first, second = arrays(one), arrays(other)
    assert first.keys() == second.keys() and first
    for name, array in first.items():
        np.testing.assert_array_equal(array[rows], second[name][rows], err_msg=name)


def play(sim: BatchedSim) -> list[Observation | StepResult]:
    """Two overlapping rounds of episodes, with a masked reset and a masked step between them."""
    seen: list[Observation | StepResult] = [sim.reset(range(E))]
    seen += [sim.step(moves(step)) for step in range(2)]
    seen.append(sim.reset(np.arange(E) + 10, mask=np.arange(E) % 2 == 0))
    seen.append(sim.step(moves(7), active=np.arange(E) != 3))
    return seen


def test_any_number_of_workers_gives_the_same_episodes(assets: Assets) -> None:
    libero = task(assets)
    with BatchedSim(libero, E) as sim:
        here = play(sim)
        times = sim.times
    assert min(times["physics"], times["control"], times["reset"]) > 0
    with BatchedSim(libero, E, 2) as sim:
        for one, other in zip(play(sim), here, strict=True):
            assert_equal(one, other)


def test_any_batch_gives_the_same_episodes(assets: Assets) -> None:
    libero = task(assets)
    with BatchedSim(libero, E) as sim:
        sim.reset(range(E))
        whole = [sim.step(moves(step)) for step in range(3)]
    with BatchedSim(libero, 1) as sim:
        for row in (0, 3):
            sim.reset([row])
            for step, expected in enumerate(whole):
                found = arrays(sim.step(moves(step)[row : row + 1]))
                for name, array in arrays(expected).items():
                    np.testing.assert_array_equal(found[name][0], array[row], err_msg=name)


def test_what_is_observed_does_not_matter_to_physics(assets: Assets, environment: LiberoEnvironment) -> None:
    blind = LiberoEnvironment(task(assets, quirks=Quirks(settle=False)))
    for one in (environment, blind):
        one.reset(4)
        for step in range(2):
            one.step(moves(step)[0])
            one.observe()
    np.testing.assert_array_equal(environment.data.qpos, blind.data.qpos)


def test_a_diverging_environment_is_failed_and_the_others_go_on(assets: Assets) -> None:
    libero = task(assets)
    with BatchedSim(libero, E) as calm, BatchedSim(libero, E) as sim:
        for one in (calm, sim):
            one.reset(range(E))
            expected = one.step(moves(0))
        environments = sim._engine._share.environments  # type: ignore[attr-defined]
        environments[2].data.qvel[:7] = 1e9
        expected, found = calm.step(moves(1)), sim.step(moves(1))
        others = [0, 1, 3, 4]
        assert found.failed.tolist() == [False, False, True, False, False] and "BADQ" in sim.failures[2]
        assert not found.success[2] and found.sim_time[2] == pytest.approx(0.05)
        assert_equal(found.obs, expected.obs, others)
        assert_equal(sim.step(moves(2)), calm.step(moves(2)), others)
        mask = np.arange(E) == 2
        assert_equal(sim.reset(range(E), mask), calm.reset(range(E), mask))
        assert_equal(sim.step(moves(3)), calm.step(moves(3)))
        assert not sim.failures


def test_the_protocol_says_where_and_how_an_episode_starts(assets: Assets, environment: LiberoEnvironment) -> None:
    libero, model = task(assets, protocol="two"), environment.model
    settled = LiberoEnvironment(libero, scene=environment.scene)
    settled.reset(1)
    time, qpos, qvel = split_state(libero.published(4), model.nq, model.nv)
    start = InitialState(float(time), qpos, qvel, *settled.puppet.frames)
    environment.reset(start)
    np.testing.assert_array_equal(environment.data.qpos, qpos)
    assert settled.time == 0
    assert (settled.data.qpos != qpos).any()
    environment.step(np.array(STILL))
    np.testing.assert_array_equal(settled.data.qpos, environment.data.qpos)
    assert libero.limit == 2 and libero.settle == 1
    unsettled = LiberoEnvironment(replace(libero, quirks=Quirks(settle=False)), scene=environment.scene)
    unsettled.reset(1)
    np.testing.assert_array_equal(unsettled.data.qpos, qpos)


def test_a_reset_without_published_states_draws_the_whole_start(assets: Assets) -> None:
    environment = LiberoEnvironment(task(assets, protocol="reset", quirks=Quirks(settle=False)))
    environment.reset(3)
    one = environment.data.qpos.copy()
    environment.reset(4)
    assert np.abs(environment.data.qpos - one)[9:11].max() > 1e-4  # an object lies elsewhere
    np.testing.assert_array_equal(environment.data.qpos[:9], one[:9])
    environment.reset(3)
    np.testing.assert_array_equal(environment.data.qpos, one)
    assert environment.puppet.sampled == stepping.AFTER_RESET


def test_proprioception_is_what_demonstrations_hold(environment: LiberoEnvironment) -> None:
    environment.reset(0)
    environment.step(moves(0)[0])
    seen = {name: value for (kind, name), value in environment.observe().items() if kind == "proprio"}
    original = environment.original()
    assert {name: (value.shape, value.dtype) for name, value in seen.items()} == {
        name: ((dim,), np.float32) for name, dim in (("joint_states", 7), ("gripper_states", 2), ("ee_states", 6))
    }
    np.testing.assert_allclose(seen["joint_states"], original["robot0_joint_pos"], rtol=1e-6)
    np.testing.assert_allclose(seen["gripper_states"], original["robot0_gripper_qpos"], rtol=1e-6)
    np.testing.assert_allclose(seen["ee_states"][:3], original["robot0_eef_pos"], rtol=1e-6)
    x, y, z, w = original["robot0_eef_quat"]
    expected = quaternion_to_matrix(np.array([w, x, y, z]))
    np.testing.assert_allclose(axis_angle_to_matrix(seen["ee_states"][3:].astype(float)), expected, atol=1e-6)


def test_pictures_and_cameras_show_the_stale_state(assets: Assets, environment: LiberoEnvironment) -> None:
    """Of the hand's camera at least, whose place is the arm's."""
    environment.reset(0)
    for _ in range(3):
        environment.step(np.array([1.0, 0, 0, 0, 0, 1, 0]))
    stale = environment.observe()
    environment.puppet.snapshot = replace(environment.puppet.snapshot, drawn=environment.data.qpos.copy())
    now = environment.observe()
    moved = [np.abs(stale["T_base_cam", view] - now["T_base_cam", view]).max() for view in environment.task.views]
    assert moved[0] == 0 and moved[1] > 1e-4
    assert stale["images", "agentview"].shape == (12, 16, 3)


def test_pictures_show_each_environments_own_fixtures(environment: LiberoEnvironment) -> None:
    environment.reset(0)
    other = LiberoEnvironment(environment.task, environment.watch, scene=environment.scene)
    before = environment.observe()
    other.reset(1)
    seen = other.observe()
    assert (seen["images", "agentview"] != before["images", "agentview"]).any()
    np.testing.assert_array_equal(environment.observe()["images", "agentview"], before["images", "agentview"])


def test_a_goals_picture_is_of_its_state_and_disturbs_nothing(environment: LiberoEnvironment) -> None:
    environment.reset(0)
    start = environment.observe()
    environment.step(moves(0)[0])
    state = environment.task.start(environment.scene.placement, 0)
    seen, qpos = environment.observe(), environment.data.qpos.copy()
    for view in environment.task.views:
        goal = environment.goal_observation(state)
        np.testing.assert_array_equal(goal["goal", view], start["images", view])
    np.testing.assert_array_equal(environment.observe()["images", "agentview"], seen["images", "agentview"])
    np.testing.assert_array_equal(environment.data.qpos, qpos)
    with pytest.raises(UserError, match="another task's state"):
        environment.goal_observation(replace(state, qpos=state.qpos[:-1]))


def test_success_is_told_when_the_goal_holds(assets: Assets, golden_object: Path) -> None:
    """From a recorded start shortly before it."""
    recorded = np.load(golden_object / "traj_success.npz")
    environment = LiberoEnvironment(task(assets, golden_object.name.replace("__", "/"), quirks=Quirks(settle=False)))
    time, qpos, qvel = split_state(recorded["start_state"], environment.model.nq, environment.model.nv)
    with BatchedSim(environment.task, 2) as sim:
        still = environment.task.start(environment.scene.placement, 0)
        fixed = replace(still, body_pos=recorded["body_pos"], body_quat=recorded["body_quat"])
        sim.reset_to([replace(fixed, qpos=qpos, qvel=qvel, time=float(time)), still])
        opening = np.tile([0.0] * 6 + [-1.0], (2, 1))
        told = np.array([sim.step(opening).success for _ in range(25)])
    np.testing.assert_array_equal(told[:, 0], recorded["done"])
    assert told[:, 0].any() and not told[:, 1].any()


@pytest.fixture
def golden_object(shared: Path) -> Path:
    found = sorted((shared / "golden" / "libero").glob("libero_object__*"))
    if not found:
        pytest.skip("the reference folder has no recorded scene of libero_object")
    return found[0]


def test_bad_input_is_refused(assets: Assets, environment: LiberoEnvironment) -> None:
    libero = task(assets)
    with pytest.raises(UserError, match="has to be reset before"):
        LiberoEnvironment(libero, scene=environment.scene).step(np.zeros(7))
    state = libero.start(environment.scene.placement, 0)
    with pytest.raises(UserError, match=r"qvel has shape .* this model needs"):
        environment.reset(replace(state, qvel=state.qvel[:-2]))
    with pytest.raises(UserError, match="from 0 to 4294967295, got 4294967296"):
        environment.reset(2**32)
    with BatchedSim(libero, 2) as sim:
        with pytest.raises(UserError, match="have to be reset first"):
            sim.step(np.zeros((2, 7)))
        sim.reset([0, 1])
        for wrong in (np.zeros((2, 6)), np.zeros(7), np.zeros((3, 7))):
            with pytest.raises(UserError, match=r"must be an array of shape \(2, 7\)"):
                sim.step(wrong)
        with pytest.raises(UserError, match="not finite"):
            sim.step(np.full((2, 7), np.nan))


def test_an_onlooker_sees_every_physics_step(assets: Assets) -> None:
    seen: list[float] = []

    class Watch:
        def begin(self, environment: Any) -> None:
            seen.append(0)

        def substep(self, environment: Any) -> None:
            seen.append(environment.data.time)

        def end(self, environment: Any) -> None:
            assert environment.success is False

    environment = LiberoEnvironment(task(assets, quirks=Quirks(settle=False)), onlooker=Watch())
    environment.reset(0)
    environment.step(np.zeros(7))
    np.testing.assert_allclose(np.diff(seen), 0.002)
    assert len(seen) == 1 + stepping.SUBSTEPS


def test_time_in_the_controller_and_in_physics_is_told_apart(
    environment: LiberoEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a slower controller, a slower engine and a slow onlooker add."""

    def slow(module: Any, name: str) -> None:
        quick = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args: [quick(*args), time.sleep(0.004)][0])

    def seconds() -> np.ndarray:
        environment.clocks[:] = 0
        environment.step(moves(0)[0])
        return environment.clocks[:2].copy()

    class Slow:
        def substep(self, environment: Any) -> None:
            time.sleep(0.004)

        def end(self, environment: Any) -> None: ...

    environment.reset(0)
    monkeypatch.setattr(environment, "onlooker", Slow())
    added = stepping.SUBSTEPS * 0.004
    assert (seconds() > 0).all() and seconds().sum() < added
    slow(osc, "torques")
    physics, control = seconds()
    assert physics < added <= control
    slow(mujoco, "mj_step2")
    assert (seconds() >= added).all()


def test_environments_of_one_process_are_as_alone(assets: Assets) -> None:
    """Two of one task with other protocols, fixtures and quirks, made one after the other and stepped in turns, beside
    each of them alone on a model that was compiled for it."""
    options: list[dict[str, Any]] = [
        {"protocol": "openpi", "quirks": Quirks(settle=False)},
        {"protocol": "reset", "quirks": Quirks(settle=False, fixture_poses="centre", first_substep=False)},
    ]
    alone = []
    for some in options:
        task_module._physics.cache_clear()
        alone.append(states([LiberoEnvironment(task(assets, **some))])[0])
    together = [LiberoEnvironment(task(assets, **options[0]))]
    together[0].reset(7)  # its fixtures are in the model that it uses
    together.append(LiberoEnvironment(task(assets, **options[1])))
    assert task_module._physics.cache_info().misses == 1, "one was compiled for both"
    np.testing.assert_array_equal(states(together), alone)
    assert (alone[0] != alone[1]).any()
    anew = task(assets).build("physics").compile()
    np.testing.assert_array_equal(task(assets).physics().body_pos, anew.body_pos)
    assert all((one.model.body_pos != anew.body_pos).any() for one in together)


def states(environments: list[LiberoEnvironment]) -> np.ndarray:
    """[environments, steps, ...]: where things and fixtures are after a reset and after each of three steps."""
    seen: list[list[np.ndarray]] = [[] for _ in environments]
    for step in range(4):
        for one, rows in zip(environments, seen, strict=True):
            one.reset(3) if step == 0 else one.step(moves(step)[0])
            rows.append(np.concatenate([one.data.qpos, one.data.qvel, one.data.xpos.ravel(), one.data.xquat.ravel()]))
    return np.array(seen)


def test_a_lit_stove_glows(environment: LiberoEnvironment) -> None:
    """Its burner is the only site that is seen, and only while the knob is turned on."""
    environment.reset(0)
    state = environment.task.start(environment.scene.placement, 0)
    ((site, knob),) = environment.scene.burners
    shown = []
    for turned in (0.0, 0.5, 1.0, 0.49):
        qpos = state.qpos.copy()
        qpos[knob] = turned
        environment.scene.paint(qpos, (state.body_pos, state.body_quat))
        alpha = environment.scene.drawn.site_rgba[:, 3]
        shown.append(np.flatnonzero(alpha > 0).tolist())
    assert shown == [[], [site], [site], []]


def test_quirks_reach_the_physics(assets: Assets) -> None:
    usual, unusual = (
        LiberoEnvironment(task(assets, quirks=quirks))
        for quirks in (Quirks(settle=False), Quirks(settle=False, first_substep=False))
    )
    for one in (usual, unusual):
        one.reset(0)
        one.step(np.zeros(7))
    assert np.abs(usual.data.qpos[:7] - unusual.data.qpos[:7]).max() > 1e-4
