"""The floating hand: moved like an arm, without one."""

from __future__ import annotations

import mujoco
import numpy as np

from t2p.sim import control, world
from t2p.sim.robots.base import attach
from t2p.sim.robots.hand import HAND
from t2p.sim.robots.xarm7 import XARM7


def test_it_floats_where_the_xarm_hand_is_at_home() -> None:
    tools = []
    for robot in (HAND, XARM7):
        model = robot.build().compile()
        data = mujoco.MjData(model)
        data.qpos[: len(robot.home)] = robot.home
        mujoco.mj_forward(model, data)
        tools.append((data.site("tool").xpos, data.site("tool").xmat.reshape(3, 3)))
    np.testing.assert_allclose(tools[0][0], tools[1][0], atol=1e-3)
    np.testing.assert_allclose(tools[0][1], tools[1][1], atol=1e-3)


def test_it_goes_to_any_pose_it_needs_and_stays() -> None:
    spec = world.new_world("hand")
    world.add_floor(spec)
    attach(spec, HAND, (0, 0, 0.12))
    model = spec.compile()
    data = mujoco.MjData(model)
    arm = control.find_arm(model, HAND)
    data.qpos[arm.joints] = HAND.home
    mujoco.mj_forward(model, data)
    controller = control.SetpointPose.hold(arm, data, until="tool")
    rng = np.random.default_rng(0)
    for _ in range(8):
        position = rng.uniform((0.2, -0.3, 0.3), (0.8, 0.3, 0.6))
        turn = control.rotation_matrix(np.array([0, 0, rng.uniform(-2, 2)]))
        rotation = turn @ control.rotation_matrix(np.array([0, -rng.uniform(-1.5, 1.5), 0])) @ np.diag([1, -1, -1])
        controller.start(model, data, np.concatenate([position, rotation[:, 0], rotation[:, 1], [0]]))
        for _ in control.drive(controller, model, data):
            pass
        assert controller.reached and not controller.skipped
        here, turned = control.tool_pose(arm, data)
        np.testing.assert_allclose(here, position, atol=2e-3)
        np.testing.assert_allclose(turned, rotation, atol=5e-3)
    assert world.diverged(data) is None
