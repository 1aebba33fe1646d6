"""Block Stack: where the cubes start, and when it is done."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from t2p.sim.tabletop.block_stack import BlockStack
from t2p.sim.tabletop.common import ROBOTS
from t2p.sim.task import sample


def test_placement_ranges_and_rejection() -> None:
    rng = np.random.default_rng(0)
    places = np.stack([BlockStack().draw(rng) for _ in range(3000)])
    low, high = np.array([0.30, -0.20, 0.30, 0.00]), np.array([0.40, 0.00, 0.40, 0.20])
    assert (places >= low).all() and (places <= high).all()
    np.testing.assert_allclose(places.min(0), low, atol=0.002)
    np.testing.assert_allclose(places.max(0), high, atol=0.002)
    apart = np.linalg.norm(places[:, :2] - places[:, 2:], axis=1)
    assert 0.15 < apart.min() < 0.152  # rejected at 0.15, and only there


def test_cubes_lie_where_they_were_placed() -> None:
    task = BlockStack()
    model = task.build().compile()
    data = mujoco.MjData(model)
    assert model.body("green").mass[0] == pytest.approx(0.1) and model.body("blue").mass[0] == pytest.approx(0.05)
    configuration = np.array([0.31, -0.18, 0.39, 0.15])
    task.place(model, data, configuration)
    np.testing.assert_allclose(data.body("green").xpos, (0.31, -0.18, 0.05), atol=5e-4)
    np.testing.assert_allclose(data.body("blue").xpos, (0.39, 0.15, 0.03), atol=5e-4)


@pytest.mark.parametrize("embodiment", list(ROBOTS))
def test_success(embodiment: str) -> None:
    task = BlockStack(embodiment=embodiment)  # type: ignore[arg-type]
    robot = task.robot
    model = task.build().compile()
    data = mujoco.MjData(model)
    sample(task, model, data, 0)
    judge = task.judge(model)

    def done(offset: tuple[float, float, float], command: float) -> bool:
        data.joint("blue").qpos[:3] = data.joint("green").qpos[:3] + offset
        data.actuator("robot/gripper").ctrl = command
        mujoco.mj_forward(model, data)
        return judge.success(model, data)

    assert done((0, 0, 0.08), robot.gripper_open)
    assert done((0.07, -0.07, 0.08), robot.gripper_open)  # 99 mm
    assert not done((0.072, -0.072, 0.08), robot.gripper_open)  # 102 mm
    assert done((0, 0, 0.099), robot.gripper_open) and done((0, 0, 0.061), robot.gripper_open)
    assert not done((0, 0, 0.101), robot.gripper_open) and not done((0, 0, 0.059), robot.gripper_open)
    assert not done((0, 0, 0.08), robot.gripper_closed)


def test_script_has_the_published_heights() -> None:
    """xArm: 0.15 above the top of the cube, 0.05 below it, up to 0.20; 0.15 and 0.02 above the green one, then 0.20."""
    task = BlockStack()
    model = task.build().compile()
    data = mujoco.MjData(model)
    task.place(model, data, np.array([0.35, -0.1, 0.34, 0.12]))
    script = list(task.expert(model, data))
    heights = [w.position[2] for w in script]
    np.testing.assert_allclose(heights, [0.21, 0.11, 0.01, 0.135, 0.26, 0.255, 0.25, 0.12, 0.30], atol=1e-3)
    assert [w.closed for w in script] == [False, False, True, True, True, True, True, False, False]
    np.testing.assert_allclose(script[5].position[:2], (0.345, 0.01), atol=1e-3)
    for waypoint in script:
        np.testing.assert_allclose(waypoint.rotation, np.diag([1, -1, -1]), atol=1e-12)
