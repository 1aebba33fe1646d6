"""Worlds: cameras, boxes, settling, states, and coming apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
import pytest

from t2p.io import UserError
from t2p.sim import world


@pytest.fixture
def falling() -> tuple[mujoco.MjModel, mujoco.MjData]:
    spec = world.new_world("box")
    world.add_floor(spec)
    world.add_light(spec, (0, 0, 2), (0, 0.3, -2))
    world.add_box(spec, "cube", (0.06, 0.1, 0.04), (0.1, 0.2, 0.15), 0.05, (0, 0, 1, 1))
    model = spec.compile()
    return model, mujoco.MjData(model)


def test_a_box_falls_and_rests(falling: tuple[mujoco.MjModel, mujoco.MjData]) -> None:
    model, data = falling
    assert model.body("cube").mass[0] == pytest.approx(0.05)
    assert world.settle(model, data, 500) is None
    np.testing.assert_allclose(data.body("cube").xpos, (0.1, 0.2, 0.02), atol=5e-4)
    assert np.abs(data.qvel).max() < 1e-3


def test_camera_looks_as_its_axes_say() -> None:
    spec = world.new_world("camera")
    # 3PoinTr's Block Stack camera: the published axes have three digits and are not quite orthogonal.
    position, x, y = (0.760, -0.030, 0.620), (0.038, 0.999, 0), (-0.798, 0.030, 0.602)
    world.add_camera(spec.worldbody, "front", position, x, y)
    model = spec.compile()
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    axes = data.camera("front").xmat.reshape(3, 3)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-9)
    np.testing.assert_allclose(axes[:, 0], x / np.linalg.norm(x), atol=1e-9)
    np.testing.assert_allclose(axes[:, 1], y, atol=2e-3)
    view = -axes[:, 2]  # MuJoCo's cameras look along -z
    assert view[0] < -0.5 and view[2] < -0.5  # back towards the robot, and down
    ground = np.array(position) - view * position[2] / view[2]
    assert 0.2 < ground[0] < 0.5 and abs(ground[1]) < 0.1  # where the cubes are
    assert model.cam_fovy[0] == 45.0


def test_state_round_trip_gives_the_same_episode(falling: tuple[mujoco.MjModel, mujoco.MjData]) -> None:
    model, data = falling
    mujoco.mj_step(model, data, nstep=40)
    start = world.read_state(model, data)
    runs = []
    for _ in range(2):
        world.write_state(model, data, start)
        assert data.time == pytest.approx(0.08)
        np.testing.assert_array_equal(data.qpos, start.qpos)
        mujoco.mj_step(model, data, nstep=100)
        runs.append((data.qpos.copy(), data.qvel.copy()))
        data.xfrc_applied[:], data.qvel[0] = 3.0, 5.0  # what ran before must not matter
        mujoco.mj_step(model, data, nstep=7)
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    np.testing.assert_array_equal(runs[0][1], runs[1][1])


def test_state_holds_the_poses_of_fixtures() -> None:
    spec = world.new_world("fixture")
    shelf = spec.worldbody.add_body(name="shelf", pos=[0, 0, 0.5])
    shelf.add_geom(size=[0.1, 0.1, 0.1], type=mujoco.mjtGeom.mjGEOM_BOX)
    model = spec.compile()
    data = mujoco.MjData(model)
    before = world.read_state(model, data)
    moved = before.body_pos.copy()
    moved[model.body("shelf").id] = (0.3, 0.1, 0.4)
    world.write_state(model, data, replace(before, body_pos=moved))
    np.testing.assert_allclose(data.body("shelf").xpos, (0.3, 0.1, 0.4))
    np.testing.assert_array_equal(world.read_state(model, data).body_pos, moved)
    np.testing.assert_allclose(before.body_pos[model.body("shelf").id], (0, 0, 0.5))  # a copy, not a view
    world.write_state(model, data, before)
    np.testing.assert_allclose(data.body("shelf").xpos, (0, 0, 0.5))


def test_states_of_another_task_are_refused(falling: tuple[mujoco.MjModel, mujoco.MjData]) -> None:
    model, data = falling
    state = world.read_state(model, data)
    with pytest.raises(UserError, match=r"qpos has shape \(9,\), this model needs \(7,\)"):
        world.write_state(model, data, replace(state, qpos=np.zeros(9)))
    with pytest.raises(UserError, match="qvel holds numbers that are not finite"):
        world.write_state(model, data, replace(state, qvel=np.full(6, np.nan)))


def test_divergence_is_noticed_and_cleared(
    falling: tuple[mujoco.MjModel, mujoco.MjData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = falling
    monkeypatch.chdir(tmp_path)
    before = mujoco.get_mju_user_warning()
    world.quiet_warnings()
    try:
        mujoco.mj_forward(model, data)
        start = world.read_state(model, data)
        assert world.diverged(data) is None
        data.qpos[2] = np.inf
        assert world.diverged(data) == "qpos is not finite"
        world.write_state(model, data, start)
        data.qvel[0] = np.nan
        reason = world.settle(model, data, 3)  # MuJoCo resets itself: all numbers are finite again
        assert np.isfinite(data.qpos).all() and np.isfinite(data.qvel).all()
        assert reason is not None and "BADQVEL" in reason
        world.write_state(model, data, start)
        assert world.settle(model, data, 3) is None
    finally:
        mujoco.set_mju_user_warning(before)
    assert not list(tmp_path.iterdir())  # no MUJOCO_LOG.TXT


def test_bad_scenery_is_refused() -> None:
    spec = world.new_world("bad")
    with pytest.raises(UserError, match="edges and mass must be positive"):
        world.add_box(spec, "cube", (0.1, -0.1, 0.1), (0, 0, 0), 0.1, (1, 0, 0, 1))
    with pytest.raises(UserError, match="position must be 3 finite numbers"):
        world.add_box(spec, "cube", (0.1, 0.1, 0.1), (0, 0, np.nan), 0.1, (1, 0, 0, 1))
    with pytest.raises(UserError, match="parallel to its x axis"):
        world.add_camera(spec.worldbody, "c", (0, 0, 1), (1, 0, 0), (-2, 0, 0))
    with pytest.raises(UserError, match="must not be zero"):
        world.add_camera(spec.worldbody, "c", (0, 0, 1), (0, 0, 0), (0, 1, 0))
    with pytest.raises(UserError, match="between 0 and 180"):
        world.add_camera(spec.worldbody, "c", (0, 0, 1), (1, 0, 0), (0, 1, 0), fovy=190)
    with pytest.raises(UserError, match="timestep"):
        world.new_world("slow", timestep=0.1)
