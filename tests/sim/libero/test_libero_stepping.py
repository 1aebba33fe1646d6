"""Policy steps: the same bits alone and together, trouble contained, what is observed when, oddities switched off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np
import pytest
import small_scene
from libero_scenes import task

from t2p.sim.libero import osc, stepping
from t2p.sim.libero.assets import Assets
from t2p.sim.libero.environment import LiberoScene
from t2p.sim.libero.names import handles
from t2p.sim.libero.quirks import Quirks
from t2p.sim.libero.stepping import AFTER_RESET, AFTER_SETTING, Puppet, Rig
from t2p.sim.world import diverged, write_state
from t2p.types import InitialState

E = 16
STILL = np.zeros(7)


@pytest.fixture(scope="module")
def scene(assets: Assets) -> LiberoScene:
    return LiberoScene(task(assets))


@pytest.fixture(scope="module")
def starts(scene: LiberoScene) -> list[InitialState]:
    """Each with another published state, and the stove elsewhere."""
    return [scene.task.start(scene.placement, seed) for seed in range(E)]


def puppets(rig: Rig, starts: Sequence[InitialState], sampled: int = AFTER_SETTING) -> list[Puppet]:
    found = [Puppet(rig) for _ in starts]
    for puppet, start in zip(found, starts, strict=True):
        puppet.start(start, sampled)
    return found


def with_quirks(scene: LiberoScene, **quirks: Any) -> Rig:
    return Rig.of(scene.model, scene.rig.arm, Quirks(**quirks))


def state(puppet: Puppet) -> np.ndarray:
    data = puppet.data
    return np.concatenate([[data.time], data.qpos, data.qvel, data.ctrl, data.qacc_warmstart])


def actions(steps: int, seed: int = 0) -> np.ndarray:
    """[steps, E, 7]; some do not turn the hand."""
    drawn = np.random.default_rng(seed).uniform(-1.2, 1.2, (steps, E, 7))
    drawn[::2, ::3, 3:6] = 0
    return drawn


def test_sixteen_together_are_sixteen_alone_bit_for_bit(scene: LiberoScene, starts: list[InitialState]) -> None:
    assert len({start.body_pos.tobytes() for start in starts}) == E
    together, moves = puppets(scene.rig, starts), actions(4)
    for now in moves:
        stepping.step(together, now)
    for i, start in enumerate(starts):
        (alone,) = puppets(scene.rig, [start])
        for now in moves:
            stepping.step([alone], now[i : i + 1])
        np.testing.assert_array_equal(state(alone), state(together[i]))
        np.testing.assert_array_equal(alone.snapshot.sites, together[i].snapshot.sites)
    assert np.ptp([state(puppet) for puppet in together], axis=0).max() > 0.1


def test_an_episode_does_not_depend_on_the_one_before(scene: LiberoScene, starts: list[InitialState]) -> None:
    fresh, used = puppets(scene.rig, starts[:2])
    for now in actions(3):
        stepping.step([used], now[:1])
    fresh.start(starts[2])
    used.start(starts[2])
    for now in actions(2, seed=1):
        stepping.step([fresh], now[:1])
        stepping.step([used], now[:1])
    np.testing.assert_array_equal(state(fresh), state(used))


def spoil(puppet: Puppet, how: str) -> None:
    arm = puppet.rig.arm
    if how == "thrown":  # MuJoCo gives up on it and starts it anew
        puppet.data.qvel[arm.dofs] = 1e9
    elif how == "nan":
        puppet.data.qpos[-1] = np.nan
    else:  # stretched out: the hand cannot move along the arm
        puppet.data.qpos[arm.qpos] = 0


@pytest.mark.parametrize("how", ["thrown", "nan", "stretched"])
def test_trouble_is_contained(scene: LiberoScene, starts: list[InitialState], how: str) -> None:
    mujoco.set_mju_user_warning(lambda message: None)
    together, alone, moves = puppets(scene.rig, starts[:4]), puppets(scene.rig, starts[:4]), actions(3)[:, :4]
    spoil(together[1], how)
    for now in moves:
        stepping.step(together, now)
        for i in (0, 2, 3):
            stepping.step(alone[i : i + 1], now[i : i + 1])
    for i in (0, 2, 3):
        np.testing.assert_array_equal(state(together[i]), state(alone[i]))
    assert (diverged(together[1].data) is None) == (how == "stretched")
    assert np.isfinite(state(together[1])).all()
    together[1].start(starts[1])
    stepping.step(together[1:2], moves[0, 1:2])
    stepping.step(alone[1:2], moves[0, 1:2])
    np.testing.assert_array_equal(state(together[1]), state(alone[1]))


def test_what_moved_the_model_for_one_does_not_move_it_for_others(
    scene: LiberoScene, starts: list[InitialState]
) -> None:
    """Any body's frame may be given, not only fixtures'."""
    lowered = starts[1].body_pos.copy()
    lowered[1:] -= (0, 0, 0.05)
    together = puppets(scene.rig, starts[:3])
    together[1].start(InitialState(0.0, starts[1].qpos, starts[1].qvel, lowered, starts[1].body_quat))
    (alone,) = puppets(scene.rig, starts[2:3])
    stepping.step(together, actions(1)[0, :3])
    stepping.step([alone], actions(1)[0, 2:3])
    np.testing.assert_array_equal(state(together[2]), state(alone))


def test_the_solver_begins_where_the_originals_does() -> None:
    """The original makes two forward passes before each physics step, one before the first; a bowl hits a plate."""
    model = small_scene.model()
    model.opt.cone, model.opt.impratio, model.opt.iterations = mujoco.mjtCone.mjCONE_ELLIPTIC, 20, 1  # so it matters
    arm, home = handles(model, small_scene.problem()).arm, model.qpos0.copy()
    bowl, plate = (model.joint(f"{name}_joint0") for name in ("akita_black_bowl_1", "plate_1"))
    home[bowl.qposadr[0] :][:7] = 0.3, 0.0, 1.055, 1, 0.01, 0.02, 0
    fall = np.zeros(model.nv)
    fall[bowl.dofadr[0] :][:6] = 0.1, 0, -1, 1, 2, 0
    start = InitialState(0.0, home, fall, model.body_pos.copy(), model.body_quat.copy())
    commands, found = 1e-4 * np.random.default_rng(0).normal(size=(8, model.nu)), []
    for quirk in ("always", "never"):
        found.append(driven(Puppet(Rig.of(model, arm, Quirks(repeated_solves=quirk))), start, commands))
    np.testing.assert_array_equal(found[0], forward_passes(model, start, commands))
    moved = found[0][-1, 1 + plate.qposadr[0] :][:3] - home[plate.qposadr[0] :][:3]
    assert np.abs(moved).max() > 1e-6  # it was hit
    assert 1e-12 < np.abs(found[0] - found[1])[:, : 1 + model.nq].max() < 1e-2


def test_the_solver_repeats_itself_where_it_is_needed(assets: Assets, monkeypatch: pytest.MonkeyPatch) -> None:
    """Things settle while the arm moves: states are those of always repeating, at a part of the work."""
    scene = LiberoScene(task(assets, "libero_spatial/9"))  # a bowl on a cabinet
    starts = [scene.task.start(scene.placement, seed) for seed in range(3)]
    solves, solve, found = [0], Puppet._solve, {}
    monkeypatch.setattr(Puppet, "_solve", lambda puppet, times: (solves.append(solves.pop() + 1), solve(puppet, times)))
    for mode in ("always", "needed", "never"):
        together = puppets(with_quirks(scene, repeated_solves=mode), starts)
        for now in actions(8)[:, :3] * 0.3:
            stepping.step(together, now)
        found[mode] = np.array([state(puppet)[: 1 + scene.model.nq] for puppet in together])
        solves.append(0)
    always, needed, never, _ = solves
    assert always == 3 * 8 * stepping.SUBSTEPS and 0 < needed < always / 2 and never == 0
    far = {mode: np.abs(found[mode] - found["always"]).max() for mode in ("needed", "never")}
    assert far["needed"] < 1e-10 < far["never"]


def driven(puppet: Puppet, start: InitialState, commands: np.ndarray) -> np.ndarray:
    """States after physics steps under commands to the motors."""
    states = []
    puppet.start(start)
    for command in commands:
        puppet.begin()
        puppet.finish(command)
        puppet.new = False  # the controller has looked
        states.append(state(puppet))
    return np.array(states)


def forward_passes(model: mujoco.MjModel, start: InitialState, commands: np.ndarray) -> np.ndarray:
    data, states = mujoco.MjData(model), []
    write_state(model, data, start)
    for i, command in enumerate(commands):
        for _ in range(2 if i else 1):
            mujoco.mj_forward(model, data)
            data.qacc_warmstart[:] = data.qacc  # as MuJoCo before 3.3.6 leaves it
        data.ctrl[:] = command
        mujoco.mj_step(model, data)
        states.append(np.concatenate([[data.time], data.qpos, data.qvel, data.ctrl, data.qacc_warmstart]))
    return np.array(states)


# What is observed


def record(puppet: Puppet, action: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """A policy step; qpos and qvel after each of its physics steps."""
    qpos: list[np.ndarray] = []
    qvel: list[np.ndarray] = []

    def told() -> None:
        qpos.append(puppet.data.qpos.copy())
        qvel.append(puppet.data.qvel.copy())

    stepping.step([puppet], [action], told)
    assert len(qpos) == stepping.SUBSTEPS
    return qpos, qvel


def site_at(scene: LiberoScene, puppet: Puppet, qpos: np.ndarray) -> np.ndarray:
    data = mujoco.MjData(scene.model)
    data.qpos[:] = qpos
    puppet.place()
    mujoco.mj_kinematics(scene.model, data)
    return data.site_xpos[scene.rig.arm.site]


@pytest.mark.parametrize(("sampled", "after"), [(AFTER_SETTING, 23), (AFTER_RESET, 24)])
def test_observations_are_stale(scene: LiberoScene, starts: list[InitialState], sampled: int, after: int) -> None:
    (puppet,) = puppets(scene.rig, starts[:1], sampled)
    np.testing.assert_array_equal(puppet.snapshot.qpos, starts[0].qpos)
    for now in actions(2):
        qpos, qvel = record(puppet, now[0])
        np.testing.assert_array_equal(puppet.snapshot.qpos, qpos[after])
        np.testing.assert_array_equal(puppet.snapshot.qvel, qvel[after])
        np.testing.assert_array_equal(puppet.snapshot.drawn, qpos[after - 1])
        expected = site_at(scene, puppet, qpos[after - 1])
        np.testing.assert_array_equal(puppet.snapshot.sites[scene.rig.arm.site], expected)


def test_observations_of_the_end(scene: LiberoScene, starts: list[InitialState]) -> None:
    (puppet,) = puppets(with_quirks(scene, stale_observations=False), starts[:1])
    (usual,) = puppets(scene.rig, starts[:1])
    for now in actions(2):
        qpos, _ = record(puppet, now[0])
        stepping.step([usual], now[:1])
        np.testing.assert_array_equal(puppet.snapshot.qpos, qpos[-1])
        np.testing.assert_array_equal(puppet.snapshot.drawn, qpos[-1])
        np.testing.assert_array_equal(puppet.snapshot.sites[scene.rig.arm.site], site_at(scene, puppet, qpos[-1]))
    np.testing.assert_array_equal(puppet.data.qpos, usual.data.qpos)  # physics does not notice


# The controller's memory


def displaced(start: InitialState, arm: np.ndarray) -> InitialState:
    qpos = start.qpos.copy()
    qpos[arm] = osc.NOMINAL + 0.1 * np.array([1, -1, 1, -1, 1, -1, 1])
    return InitialState(0.0, qpos, 0 * start.qvel, start.body_pos, start.body_quat)


def test_the_first_physics_step_sees_the_nominal_pose(scene: LiberoScene, starts: list[InitialState]) -> None:
    """So without a command the hand goes to where it was when the controller was made, not where the state put it."""
    start, rest = displaced(starts[0], scene.rig.arm.qpos), []
    for quirk in (True, False):
        (puppet,) = puppets(with_quirks(scene, first_substep=quirk), [start])
        here = puppet.snapshot.sites[scene.rig.arm.site]
        stepping.step([puppet], [STILL])
        goal = scene.rig.nominal.position[0] if quirk else here
        rest.append((np.linalg.norm(here - goal), np.linalg.norm(puppet.snapshot.sites[scene.rig.arm.site] - goal)))
    (far, after), (none, moved) = rest
    assert far > 0.05 and after < 0.92 * far
    assert none == 0 and moved < 0.005 < far - after


def test_the_goal_of_orientation_persists(scene: LiberoScene, starts: list[InitialState]) -> None:
    """After one command to turn by 0.5 rad, the hand goes on to turn without commands; or stops where it had come."""
    site, angles = scene.rig.arm.site, []
    for kept in (True, False):
        (puppet,) = puppets(with_quirks(scene, kept_orientation=kept, first_substep=False), starts[:1])
        before = puppet.data.site_xmat[site].reshape(3, 3).copy()
        stepping.step([puppet], [np.array([0, 0, 0, 0, 0, 1.0, 0])])
        for _ in range(12):
            stepping.step([puppet], [STILL])
        turned = puppet.data.site_xmat[site].reshape(3, 3) @ before.T
        angles.append(np.arccos((np.trace(turned) - 1) / 2))
    assert angles[0] > 0.45 and angles[1] < 0.3


def test_the_gripper_closes_opens_and_holds(scene: LiberoScene, starts: list[InitialState]) -> None:
    """From the middle in four steps, from end to end in eight; the first physics step already moves it."""
    (puppet,) = puppets(scene.rig, starts[:1])
    grip = scene.rig.arm.grip

    def command(value: float, steps: int) -> list[float]:
        seen: list[np.ndarray] = []
        for _ in range(steps):
            stepping.step([puppet], [np.append(np.zeros(6), value)], lambda: seen.append(puppet.data.ctrl[grip].copy()))
        return np.array(seen)

    closing = command(0.3, 4)
    np.testing.assert_allclose(closing[0], (0.02 * 0.99, -0.02 * 0.99), atol=1e-12)
    np.testing.assert_allclose(closing[-1], (0, 0), atol=1e-12)
    np.testing.assert_array_equal(command(0.0, 1), np.broadcast_to(closing[-1], (25, 2)))
    opening = command(-1.0, 9)
    np.testing.assert_allclose(opening[8 * 25 - 1 :], np.broadcast_to((0.04, -0.04), (26, 2)), atol=1e-12)
    assert opening[8 * 25 - 2, 0] < 0.04


def test_actions_are_limited(scene: LiberoScene, starts: list[InitialState]) -> None:
    one, other = puppets(scene.rig, [starts[0], starts[0]])
    action = np.array([3.0, -7, 0.5, 2, 0, -1.5, 9])
    stepping.step([one], [action])
    stepping.step([other], [np.clip(action, -1, 1)])
    np.testing.assert_array_equal(state(one), state(other))


def test_torques_stay_within_their_limits(scene: LiberoScene, starts: list[InitialState]) -> None:
    (puppet,) = puppets(scene.rig, starts[:1])
    puppet.data.qvel[scene.rig.arm.dofs] = 20.0
    limits, seen = scene.model.actuator_ctrlrange[scene.rig.arm.torques], []
    stepping.step([puppet], [STILL], lambda: seen.append(puppet.data.ctrl[scene.rig.arm.torques].copy()))
    assert (np.array(seen) >= limits[:, 0]).all() and (np.array(seen) <= limits[:, 1]).all()
    assert np.isin(np.abs(seen), limits[:, 1]).any()
