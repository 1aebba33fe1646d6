"""Open Microwave: where it stands, its door, and when it is open."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from t2p.sim import world
from t2p.sim.tabletop.common import about_z
from t2p.sim.tabletop.open_microwave import HANDLE, OpenMicrowave
from t2p.sim.task import sample

TASK = OpenMicrowave()


@pytest.fixture(scope="module")
def kitchen() -> tuple[mujoco.MjModel, mujoco.MjData]:
    model = TASK.build().compile()
    return model, mujoco.MjData(model)


def test_placement_ranges() -> None:
    rng = np.random.default_rng(0)
    places = np.stack([TASK.draw(rng) for _ in range(3000)])
    low, high = np.array([0.80, 0.0, np.deg2rad(-20)]), np.array([0.95, 0.15, 0.0])
    assert (places >= low).all() and (places <= high).all()
    np.testing.assert_allclose(places.min(0), low, atol=0.002)
    np.testing.assert_allclose(places.max(0), high, atol=0.002)


def test_it_stands_where_it_was_placed_door_shut(kitchen: tuple[mujoco.MjModel, mujoco.MjData]) -> None:
    model, data = kitchen
    state = TASK.place(model, data, np.array([0.9, 0.1, -0.2]))
    np.testing.assert_allclose(data.body("microwave").xpos, (0.9, 0.1, 0.156))
    np.testing.assert_allclose(data.body("microwave").xmat.reshape(3, 3), about_z(-0.2), atol=1e-12)
    np.testing.assert_allclose(state.body_pos[model.body("microwave").id], (0.9, 0.1, 0.156))
    assert abs(data.joint("door").qpos[0]) < 1e-3
    lowest = min(data.geom_xpos[g][2] - model.geom_rbound[g] for g in _boxes(model))
    assert lowest < 0.0 < data.body("door").xpos[2]  # it reaches the floor
    TASK.place(model, data, np.array([0.8, 0.0, 0.0]))
    np.testing.assert_allclose(data.body("microwave").xpos, (0.8, 0.0, 0.156))


def _boxes(model: mujoco.MjModel) -> list[int]:
    return [g for g in range(model.ngeom) if model.geom_bodyid[g] == model.body("microwave").id]


def test_door_swings_towards_the_robot_up_to_ninety_degrees(kitchen: tuple[mujoco.MjModel, mujoco.MjData]) -> None:
    model, data = kitchen
    TASK.place(model, data, np.array([0.85, 0.05, 0.0]))
    door = data.body("door")
    shut = door.xpos + door.xmat.reshape(3, 3) @ HANDLE
    data.joint("door").qpos = np.pi / 4
    mujoco.mj_forward(model, data)
    assert (door.xpos + door.xmat.reshape(3, 3) @ HANDLE)[0] < shut[0] - 0.2
    data.joint("door").qvel = 20.0
    world.settle(model, data, 100)
    assert np.deg2rad(60) < data.joint("door").qpos[0] < np.deg2rad(95)
    world.settle(model, data, 1000)
    resting = data.joint("door").qpos[0]
    world.settle(model, data, 500)
    assert data.joint("door").qpos[0] == pytest.approx(resting, abs=1e-3)  # friction holds it


def test_success(kitchen: tuple[mujoco.MjModel, mujoco.MjData]) -> None:
    model, data = kitchen
    sample(TASK, model, data, 0)
    judge = TASK.judge(model)
    for angle, expected in ((0.0, False), (33.5, False), (34.0, True), (45.0, True)):
        data.joint("door").qpos = np.deg2rad(angle)
        assert judge.success(model, data) is expected


def test_script_follows_the_door(kitchen: tuple[mujoco.MjModel, mujoco.MjData]) -> None:
    """Approach along the door's normal over 0.20 m; then the tool keeps its pose relative to the door up to 45 deg."""
    model, data = kitchen
    TASK.place(model, data, np.array([0.9, 0.1, -0.2]))
    script = list(TASK.expert(model, data))
    assert [w.closed for w in script] == [False] * 4 + [True] * 5
    steps = np.diff([w.position for w in script[:5]], axis=0)
    np.testing.assert_allclose(steps, np.tile(0.05 * about_z(-0.2)[:, 0], (4, 1)), atol=1e-9)
    poses = []
    for waypoint, angle in zip(script[4:], np.deg2rad([0, 11.25, 22.5, 33.75, 45]), strict=True):
        data.joint("door").qpos = angle
        mujoco.mj_forward(model, data)
        door = data.body("door").xmat.reshape(3, 3)
        poses.append((door.T @ (waypoint.position - data.body("door").xpos), door.T @ waypoint.rotation))
    for position, rotation in poses:
        np.testing.assert_allclose(position, poses[0][0], atol=1e-9)
        np.testing.assert_allclose(rotation, poses[0][1], atol=1e-9)
    assert np.linalg.norm(poses[0][0] - HANDLE) < 0.02
