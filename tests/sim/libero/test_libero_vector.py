"""The original's interface: names, shapes and pictures as recorded, Gymnasium's signatures, clear errors."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import mujoco
import numpy as np
import pytest
from libero_scenes import STOVE, compared, task

from t2p.io import UserError
from t2p.sim.batch import BatchedSim
from t2p.sim.environment import Observe
from t2p.sim.libero.assets import Assets, initial_states
from t2p.sim.libero.protocols import PROTOCOLS, STILL, Protocol
from t2p.sim.libero.quirks import Quirks
from t2p.sim.libero.task import SAME_PHYSICS
from t2p.sim.libero.vector import LiberoVector, Space
from t2p.sim.render import why_not

E = 3


@pytest.fixture(scope="module")
def blind(assets: Assets) -> Iterator[LiberoVector]:
    with LiberoVector(task(assets, quirks=Quirks(settle=False)), E, cameras=()) as env:
        yield env


def moves(step: int) -> np.ndarray:
    return np.random.default_rng(step).uniform(-1, 1, (E, 7))


@pytest.fixture(scope="module")
def recorded(shared: Path) -> tuple[str, dict[str, np.ndarray]]:
    """A task without fixtures, whose poses would have to be given, and its recorded episode."""
    folder = next((shared / "golden" / "libero").glob("libero_object__*"), None)
    if folder is None:
        pytest.skip("the reference folder has no recorded scene of libero_object")
    return folder.name.replace("__", "/"), dict(np.load(folder / "traj_iid.npz"))


def test_a_recorded_episode_is_repeated(assets: Assets, recorded: tuple[str, dict[str, np.ndarray]]) -> None:
    """Beside another one. Under releases of MuJoCo that drift objects are compared at rest, with their tolerance."""
    name, arrays = recorded
    things = np.arange(arrays["obs/object-state"].shape[1]).reshape(-1, 14)  # each one's pose, also as the hand sees it
    rest = compared(arrays["obs/object-state"], list(things[:, :7]), list(things))
    near = 1e-6 if mujoco.__version__ in SAME_PHYSICS else 5e-5
    wanted = {name.removeprefix("obs/") for name in arrays if name.startswith("obs/")}
    with LiberoVector(task(assets, name, quirks=Quirks(settle=False)), 2, cameras=()) as env:
        obs, _ = env.reset(seed=0, options={"states": np.tile(arrays["init_state"], (2, 1))})
        assert wanted <= obs.keys()
        for step in range(11):
            if step:
                action = arrays["actions"][step - 1]
                obs, reward, terminated, truncated, info = env.step(np.stack([action, -action]))
                assert reward.dtype == float and not reward.any() and not terminated.any() and not truncated.any()
            for key in wanted:
                which, atol = (rest[step], near) if key == "object-state" else (slice(None), 1e-8)
                got, want = obs[key][0][which], arrays[f"obs/{key}"][step][which]
                np.testing.assert_allclose(got, want, rtol=0, atol=atol, err_msg=key)
    assert rest[5:11].mean() > 0.5
    assert info["steps"].tolist() == [10, 10] and info["failures"] == {}


@pytest.mark.skipif(why_not("egl") is not None, reason="recorded pictures can only be compared with EGL's")
def test_recorded_pictures(assets: Assets, recorded: tuple[str, dict[str, np.ndarray]]) -> None:
    name, arrays = recorded
    with LiberoVector(task(assets, name, quirks=Quirks(settle=False)), 1, renderer="egl") as env:
        obs, _ = env.reset(options={"states": arrays["init_state"][None]})
    for key, camera in (("agentview", "agentview"), ("eye_in_hand", "robot0_eye_in_hand")):
        picture = obs[f"{camera}_image"][0].astype(float)
        assert np.abs(picture - arrays[f"obs_image/{key}/0000"]).mean() <= 0.3


def test_pictures_stand_on_their_heads_or_upright(assets: Assets) -> None:
    observe = Observe(("agentview",), size=(6, 8))
    with BatchedSim(task(assets, quirks=Quirks(settle=False)), 1, 0, observe, "rays") as sim:
        upright = sim.reset([2]).images["agentview"][:, -1]
    for flipped in (True, False):
        libero = task(assets, quirks=Quirks(settle=False, flipped_images=flipped))
        with LiberoVector(libero, 1, cameras=("agentview",), size=(6, 8), renderer="rays") as env:
            picture = env.reset(seed=2)[0]["agentview_image"]
        np.testing.assert_array_equal(picture, upright[:, ::-1] if flipped else upright)
        assert picture.shape == (1, 6, 8, 3) and picture.dtype == np.uint8 and picture.flags.c_contiguous


def test_observations_have_the_originals_shapes(blind: LiberoVector) -> None:
    obs, info = blind.reset(seed=4)
    objects = [name for name, _ in blind.task.problem.objects]
    robot = {"joint_pos": 7, "joint_pos_cos": 7, "joint_pos_sin": 7, "joint_vel": 7, "eef_pos": 3, "eef_quat": 4}
    expected = {f"robot0_{name}": dim for name, dim in (robot | {"gripper_qpos": 2, "gripper_qvel": 2}).items()}
    expected |= {"robot0_proprio-state": 39, "object-state": 14 * len(objects)}
    for name in objects:
        expected |= {f"{name}_pos": 3, f"{name}_quat": 4}
        expected |= {f"{name}_to_robot0_eef_pos": 3, f"{name}_to_robot0_eef_quat": 4}
    assert {name: value.shape for name, value in obs.items()} == {name: (E, dim) for name, dim in expected.items()}
    single = {name for name, value in obs.items() if value.dtype == np.float32}
    assert single == {f"{name}_to_robot0_eef_quat" for name in objects}
    assert info["seed"].tolist() == [4, 5, 6]
    joined = np.concatenate([obs[f"robot0_{name}"] for name in (*robot, "gripper_qpos", "gripper_qvel")], axis=1)
    np.testing.assert_array_equal(obs["robot0_proprio-state"], joined)
    np.testing.assert_allclose(np.linalg.norm(obs["robot0_eef_quat"], axis=1), 1)


def test_workers_change_nothing(assets: Assets, blind: LiberoVector) -> None:
    with LiberoVector(task(assets, quirks=Quirks(settle=False)), E, 2, cameras=()) as env:
        for one, other in (
            (env.reset(seed=[5, 1, 9]), blind.reset(seed=[5, 1, 9])),
            (env.step(moves(0)), blind.step(moves(0))),
        ):
            for name, value in other[0].items():
                np.testing.assert_array_equal(one[0][name], value)


def test_only_masked_environments_start_anew(blind: LiberoVector) -> None:
    blind.reset(seed=0)
    before = blind.step(moves(0))[0]
    obs, info = blind.reset(seed=30, options={"reset_mask": np.array([False, True, False])})
    assert info["seed"].tolist() == [0, 31, 2]
    for row in (0, 2):
        np.testing.assert_array_equal(obs["robot0_joint_pos"][row], before["robot0_joint_pos"][row])
    _, _, _, _, after = blind.step(moves(1))
    assert after["steps"].tolist() == [2, 1, 2]


def test_without_a_seed_episodes_go_on_where_they_were(assets: Assets) -> None:
    with LiberoVector(task(assets, quirks=Quirks(settle=False)), E, cameras=()) as env:
        seeds = [env.reset()[1]["seed"].tolist(), env.reset()[1]["seed"].tolist()]
        env.reset(seed=10)
        seeds.append(env.reset()[1]["seed"].tolist())
    assert seeds == [[0, 1, 2], [3, 4, 5], [13, 14, 15]]


def test_states_by_number_or_by_value(assets: Assets, blind: LiberoVector) -> None:
    states = initial_states(assets, *blind.task.name.split("/"))
    joints = states[[7, 3, 7], 1:8]
    for given in ([7, 3, 7], states[[7, 3, 7]]):
        obs, _ = blind.reset(seed=0, options={"states": given})
        np.testing.assert_array_equal(obs["robot0_joint_pos"], joints)


def test_success_and_the_end(assets: Assets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROTOCOLS, "three", Protocol(3, (0,), 20, 5, STILL, "a test"))
    with LiberoVector(task(assets, protocol="three"), 2, cameras=()) as env:
        env.reset(seed=0)
        environments = env._sim._engine._share.environments  # type: ignore[attr-defined]
        monkeypatch.setattr(
            environments[1].scene.goal.__class__, "holds", lambda goal, data: data is environments[1].data
        )
        told = [env.step(np.zeros((2, 7))) for _ in range(3)]
        environments[0].data.qvel[:7] = 1e9
        told.append(env.step(np.zeros((2, 7))))
    for _, reward, terminated, _, info in told:
        assert reward.tolist() == [0.0, 1.0] and terminated.tolist() == [False, True] == info["success"].tolist()
    assert [truncated.tolist() for _, _, _, truncated, _ in told] == [[False] * 2, [False] * 2, [True] * 2, [True] * 2]
    assert list(told[-1][4]["failures"]) == [0] and told[-1][4]["steps"].tolist() == [3, 4]


def test_it_says_what_the_task_is(blind: LiberoVector) -> None:
    assert blind.language == "turn on the stove and put the moka pot on it"
    assert blind.num_envs == E


@pytest.mark.parametrize("workers", (0, 1))
def test_spaces_are_of_what_is_given_and_taken(assets: Assets, workers: int) -> None:
    with LiberoVector(
        task(assets, quirks=Quirks(settle=False)), 2, workers, cameras=("agentview",), size=(6, 8), renderer="rays"
    ) as env:
        obs, _ = env.reset(seed=0)
        one, all_of = env.single_observation_space, env.observation_space
        assert obs.keys() == one.keys() == all_of.keys()
        for name, value in obs.items():
            assert all_of[name].shape == value.shape == (2, *one[name].shape) and one[name].dtype == value.dtype
            assert all_of[name].low <= value.min() and value.max() <= all_of[name].high
        assert one["agentview_image"] == Space((6, 8, 3), np.dtype(np.uint8), 0, 255)
        actions = np.full(env.action_space.shape, env.action_space.high, env.action_space.dtype)
        assert env.single_action_space == Space((7,), np.dtype(float), -1, 1)
        env.step(actions)


def test_another_mujoco_is_told(assets: Assets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mujoco, "__version__", "3.3.2")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LiberoVector(task(assets), 1, cameras=()).close()
    monkeypatch.setattr(mujoco, "__version__", "3.9.0")
    with pytest.warns(UserWarning, match=r"MuJoCo 3\.9\.0 drifts from LIBERO's published physics") as told:
        LiberoVector(task(assets), 1, cameras=()).close()
    assert [one.filename for one in told] == [__file__]


def test_bad_input_is_refused(assets: Assets, blind: LiberoVector) -> None:
    blind.reset(seed=0)
    for actions in (np.zeros((E, 6)), np.zeros((E + 1, 7)), np.zeros(7)):
        with pytest.raises(UserError, match=r"must be an array of shape \(3, 7\)"):
            blind.step(actions)
    with pytest.raises(UserError, match="not finite"):
        blind.step(np.full((E, 7), np.inf))
    for seed in ([1, 2], [[1, 2, 3]], 0.5, [0.5, 1, 2]):
        with pytest.raises(UserError, match="one seed or 3, whole numbers"):
            blind.reset(seed=seed)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="integers from 0 on"):
        blind.reset(seed=-1)
    with pytest.raises(UserError, match="no option state; its options are reset_mask, states"):
        blind.reset(options={"state": 0})
    for states in ([0, 1], 0.5, [0.5, 1, 2], np.zeros((E, 2, 2)), "all"):
        with pytest.raises(UserError, match="states must be 3 numbers"):
            blind.reset(options={"states": states})
    with pytest.raises(UserError, match=r"numbers each, this model needs \d+"):
        blind.reset(options={"states": np.zeros((E, 9))})
    with pytest.raises(UserError, match="has the initial states 0 to 49; got 99"):
        blind.reset(options={"states": [0, 1, 99]})
    with pytest.raises(UserError, match="a mask must be 3"):
        blind.reset(options={"reset_mask": [True]})
    with pytest.raises(UserError, match="no camera side; its cameras are agentview, robot0_eye_in_hand"):
        LiberoVector(task(assets, STOVE), 1, cameras=("side",))
    with pytest.raises(UserError, match="expected environments from 1"):
        LiberoVector(task(assets, STOVE), 0, cameras=())
