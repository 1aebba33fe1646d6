"""Right Glass: where the glass lies, that it lies and stands still, and when it is upright."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from t2p.sim import world
from t2p.sim.tabletop.common import about_z, take_home
from t2p.sim.tabletop.right_glass import HANDLE, RightGlass
from t2p.sim.task import sample

TASK = RightGlass()


@pytest.fixture(scope="module")
def glass() -> tuple[mujoco.MjModel, mujoco.MjData]:
    model = TASK.build().compile()
    return model, mujoco.MjData(model)


def test_placement_ranges() -> None:
    rng = np.random.default_rng(0)
    places = np.stack([TASK.draw(rng) for _ in range(3000)])
    assert (places[:, :2] >= (0.30, -0.10)).all() and (places[:, :2] <= (0.50, 0.10)).all()
    flipped = places[:, 2] > np.pi / 2
    assert 0.45 < flipped.mean() < 0.55
    yaw = np.degrees(places[:, 2] - np.pi * flipped)
    assert -30 <= yaw.min() < -29.5 and 29.5 < yaw.max() <= 30


@pytest.mark.parametrize("yaw", [-0.5, 0.3, np.pi + 0.3])
def test_it_lies_as_placed_and_does_not_roll(glass: tuple[mujoco.MjModel, mujoco.MjData], yaw: float) -> None:
    model, data = glass
    TASK.place(model, data, np.array([0.4, 0.05, yaw]))
    body = data.body("glass")
    np.testing.assert_allclose(body.xpos[:2], (0.4, 0.05), atol=0.002)
    np.testing.assert_allclose(body.xmat.reshape(3, 3)[:, 2], about_z(yaw) @ [0, -1, 0], atol=0.03)  # rolled about x
    before = body.xpos.copy()
    world.settle(model, data, 1000)
    np.testing.assert_allclose(data.body("glass").xpos, before, atol=1e-3)


def test_success_and_standing(glass: tuple[mujoco.MjModel, mujoco.MjData]) -> None:
    model, data = glass
    sample(TASK, model, data, 0)
    judge = TASK.judge(model)

    def done(tilt: float) -> bool:
        angle = np.deg2rad(tilt) / 2
        data.joint("glass").qpos = [0.45, 0, HANDLE, np.cos(angle), 0, np.sin(angle), 0]
        mujoco.mj_forward(model, data)
        return judge.success(model, data)

    assert done(25) and done(-25) and not done(27) and not done(-27)  # 0.9 is 25.8 degrees
    assert not done(90) and not done(180)
    assert done(8)
    take_home(model, data, TASK.robot)  # the arm out of the way
    assert world.settle(model, data, 1000) is None
    assert data.body("glass").xmat[8] > 0.999  # it rights itself from 8 degrees, and stands


def test_script_turns_the_glass_upright(glass: tuple[mujoco.MjModel, mujoco.MjData]) -> None:
    model, data = glass
    for yaw in (0.4, np.pi - 0.4):
        TASK.place(model, data, np.array([0.4, 0.0, yaw]))
        axis = data.body("glass").xmat.reshape(3, 3)[:, 2].copy()
        script = list(TASK.expert(model, data))
        turn = script[-1].rotation @ script[2].rotation.T  # what happens to the glass after it was grasped
        np.testing.assert_allclose(turn @ axis, (0, 0, 1), atol=0.03)
        half = script[4].rotation @ script[2].rotation.T @ axis
        assert half[2] == pytest.approx(np.sqrt(0.5), abs=0.03)
        assert [w.closed for w in script] == [False, False, True, True, True, True, True, False]
        assert script[-1].position[2] == pytest.approx(0.041)
