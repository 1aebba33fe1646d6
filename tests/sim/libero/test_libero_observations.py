"""Objects' poses in the hand's frame: rounded as the original rounds them."""

from __future__ import annotations

import mujoco
import numpy as np
import small_scene

from t2p.geometry.rotations import quaternion_to_matrix
from t2p.sim.libero.names import handles
from t2p.sim.libero.observations import Snapshot, object_state
from t2p.sim.libero.rounding import quaternion_to_matrix as rounded


def test_poses_in_the_hands_frame_are_in_single_precision() -> None:
    rng = np.random.default_rng(0)
    model, problem = small_scene.model(), small_scene.problem()
    found, data = handles(model, problem), mujoco.MjData(model)
    data.qpos[:] = rng.normal(size=model.nq)
    mujoco.mj_forward(model, data)
    hand, place = rng.normal(size=4), rng.normal(size=3)
    hand /= np.linalg.norm(hand)
    robot = {"robot0_eef_pos": place, "robot0_eef_quat": np.roll(hand, -1)}
    seen = object_state(Snapshot.of(data), found, problem, robot)
    bowl = data.xpos[found.instances["akita_black_bowl_1"].body]
    turn = rounded(hand[None])[0].astype(np.float32).astype(float)
    expected = turn.T @ bowl.astype(np.float32) - turn.T @ place.astype(np.float32)
    near = seen["akita_black_bowl_1_to_robot0_eef_pos"]
    np.testing.assert_allclose(near, expected, rtol=0, atol=1e-14)
    assert 1e-10 < np.abs(near - quaternion_to_matrix(hand).T @ (bowl - place)).max() < 1e-6
    assert seen["akita_black_bowl_1_to_robot0_eef_quat"].dtype == np.float32
