"""LIBERO's recorded scenes against t2p, and what of a recording is compared."""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np
import pytest

from t2p.io import read_json
from t2p.parity import harness, libero
from t2p.sim.render import why_not
from t2p.types import InitialState

ARCHIVE = "libero_assets.tar.xz"
SCENES = {
    "stove": "libero_10__KITCHEN_SCENE3_turn_on_the_stove_and_put_the_moka_pot_on_it",
    "microwave": "libero_10__KITCHEN_SCENE6_put_the_yellow_and_white_mug_in_the_microwave_and_close_it",
    "living_room": "libero_90__LIVING_ROOM_SCENE6_put_the_chocolate_pudding_to_the_left_of_the_plate",
    "goal": "libero_goal__open_the_middle_drawer_of_the_cabinet",
    "object": "libero_object__pick_up_the_alphabet_soup_and_place_it_in_the_basket",
    "spatial": ("libero_spatial__pick_up_the_black_bowl_between_the_plate_and_the_ramekin_and_place_it_on_the_plate"),
}


@pytest.fixture
def golden(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("T2P_LIBERO_ROOT", str(shared / ARCHIVE))
    return shared / "golden/libero"


@pytest.mark.skipif(why_not("egl") is not None, reason="pictures need EGL")
@pytest.mark.parametrize("scene", SCENES)
def test_golden(golden: Path, scene: str) -> None:
    report = harness.check(golden / SCENES[scene])
    assert report.status == "ok", [line for line in report.lines if not line.ok]
    categories = {line.name.split("/")[0] for line in report.lines}
    assert categories == {
        *("arm_qpos_free_motion", "resting_objects", "ctrl_first_10_env_steps", "proprio_free_motion"),
        *("predicates", "success", "image", "reset_samples", "model"),
    }


def test_without_assets_it_cannot_run(shared: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("T2P_LIBERO_ROOT", str(tmp_path))
    report = harness.check(shared / "golden/libero" / SCENES["goal"])
    assert report.status == "could not run" and "T2P_LIBERO_ROOT" in report.reason
    assert harness.exit_code([report]) == 3


def test_a_wrong_trajectory_is_noticed(golden: Path) -> None:
    """The comparison alone: what was recorded passes, a joint that is 1e-6 off does not."""
    directory = golden / SCENES["object"]
    fixture = libero.read(directory, read_json(directory / "meta.json"))
    recorded = {
        f"{file}/{name}": array
        for file in ("traj_iid", "traj_smooth")
        for name, array in np.load(directory / f"{file}.npz").items()
    }

    def failing(outputs: dict[str, np.ndarray]) -> set[str]:
        lines = harness.lines(fixture, outputs)
        return {line.name for line in lines if "/traj_iid/" in line.name and not line.ok}

    assert failing(recorded) == set()
    states = recorded["traj_iid/states"].copy()
    states[60, 3] += 1e-6
    assert failing(recorded | {"traj_iid/states": states}) == {"arm_qpos_free_motion/traj_iid/states"}
    states = recorded["traj_iid/states"].copy()
    states[100, -60] += 1e-5  # a coordinate of an object that lies still
    assert failing(recorded | {"traj_iid/states": states}) == {"resting_objects/traj_iid/states"}
    assert failing(recorded | {"traj_iid/states": states[:5]}) == {
        *("arm_qpos_free_motion/traj_iid/states", "resting_objects/traj_iid/states")
    }


def test_what_moves_is_not_compared_as_resting() -> None:
    values = np.zeros((6, 4))
    values[3:, 1] = 0.5  # the first thing jumps once
    still = libero.at_rest(values, 5, [np.array([0, 1]), np.array([3])], [np.array([0, 1]), np.array([2, 3])], 1e-6)
    expected = np.array([[0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0]], bool)
    np.testing.assert_array_equal(still, expected)


def test_states_before_a_touch() -> None:
    model = mujoco.MjModel.from_xml_string(
        """<mujoco><worldbody>
        <body name="robot0_hand"><joint type="slide" axis="1 0 0"/><geom size="0.1"/></body>
        <body name="cup_1_main" pos="1 0 0"><geom size="0.1"/></body></worldbody></mujoco>"""
    )
    states = np.array([[0, x, 0] for x in (0.0, 0.5, 0.79, 0.81, 0.9)])
    frames = model.body_pos.copy(), model.body_quat.copy()
    assert libero.before_touch(model, ("cup_1",), states, *frames) == 3
    model.geom_margin[:] = 0
    passing = np.array([[0, x, 0] for x in (0.0, 0.5, 1.5)])  # through it between two states
    assert libero.before_touch(model, ("cup_1",), passing, *frames) == 2


def test_a_step_taken_back() -> None:
    model = mujoco.MjModel.from_xml_string(
        """<mujoco><worldbody><body><freejoint/><geom size="0.1"/>
        <body pos="1 0 0"><joint damping="0.1"/><geom size="0.1"/></body></body></worldbody></mujoco>"""
    )
    data = mujoco.MjData(model)
    data.qvel[:] = range(1, 8)
    for _ in range(5):
        before = data.qpos.copy()
        mujoco.mj_step(model, data)
    state = InitialState(data.time, data.qpos, data.qvel, model.body_pos, model.body_quat)
    found = libero.step_before(model, state)
    np.testing.assert_allclose(found.qpos, before, rtol=0, atol=1e-15)
    assert np.abs(state.qpos - before).max() > 1e-3
