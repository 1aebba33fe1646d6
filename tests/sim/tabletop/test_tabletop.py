"""What holds for all tabletop tasks: where episodes start, what the cameras see, what belongs to the scene."""

from __future__ import annotations

import pickle

import mujoco
import numpy as np
import pytest

from t2p.io import UserError
from t2p.sim import experts, registry, world
from t2p.sim.robots.xarm7 import XARM7
from t2p.sim.tabletop.block_stack import BlockStack
from t2p.sim.tabletop.common import ROBOTS, Tabletop, pointing
from t2p.sim.task import sample

NAMES = [name for name in registry.names() if name.startswith("tabletop/")]
# Points that the front camera must see: (body, point in its frame).
SEEN = {
    "tabletop/block_stack": [("green", (0, 0, 0)), ("blue", (0, 0, 0))],
    "tabletop/open_microwave": [
        ("microwave", (-0.14, 0.2, 0.15)),
        ("door", (-0.06, -0.36, 0)),
        ("door", (0, 0, -0.15)),
    ],
    "tabletop/right_glass": [("glass", (0, 0, -0.041)), ("glass", (0, 0, 0.106))],
}


class Stage:
    def __init__(self, name: str, **options: str) -> None:
        self.task = registry.make_task(name, **options)
        assert isinstance(self.task, Tabletop)
        self.model = self.task.build().compile()
        self.data = mujoco.MjData(self.model)


@pytest.fixture(scope="module", params=NAMES)
def stage(request: pytest.FixtureRequest) -> Stage:
    return Stage(request.param)


def test_same_seed_same_start(stage: Stage) -> None:
    """Whatever was placed or played before, and in a model of its own."""
    task, model, data = stage.task, stage.model, stage.data
    first = sample(task, model, data, 3)
    np.testing.assert_array_equal(data.qpos, first.qpos)
    other = sample(task, model, data, 4)
    assert not (np.array_equal(first.qpos, other.qpos) and np.array_equal(first.body_pos, other.body_pos))
    world.settle(model, data, 30)
    fresh = Stage(task.name)
    for again in (sample(task, model, data, 3), sample(fresh.task, fresh.model, fresh.data, 3)):
        for field in ("time", "qpos", "qvel", "body_pos", "body_quat"):
            np.testing.assert_array_equal(getattr(again, field), getattr(first, field))


def test_starts_are_at_rest_with_the_arm_at_home(stage: Stage) -> None:
    task, model, data = stage.task, stage.model, stage.data
    for seed in range(5):
        state = sample(task, model, data, seed)
        assert state.time == 0 and not state.qvel.any()
        arm = task.controller(model, data).arm
        np.testing.assert_allclose(data.qpos[arm.joints], XARM7.home, atol=2e-3)
        before = [data.body(name).xpos.copy() for name in task.kept]
        joints = task.controller(model, data)
        data.ctrl[arm.controls] = next(joints.joints.commands(1))
        assert world.settle(model, data, 300) is None
        for name, position in zip(task.kept, before, strict=True):
            np.testing.assert_allclose(data.body(name).xpos, position, atol=1e-3)


def test_bad_configurations_and_stored_states_are_refused(stage: Stage) -> None:
    task, model, data = stage.task, stage.model, stage.data
    good = task.draw(np.random.default_rng(0))
    for bad in (good[:-1], np.where(np.arange(len(good)) == 1, np.nan, good)):
        with pytest.raises(UserError, match=f"a configuration is {len(good)} finite numbers"):
            task.place(model, data, bad)
    with pytest.raises(UserError, match="no published initial states"):
        task.stored(model, data, 0)


def test_the_front_camera_sees_the_objects_wherever_they_start(stage: Stage) -> None:
    task, model, data = stage.task, stage.model, stage.data
    camera = model.camera(task.views["front"]).id
    half = np.tan(np.deg2rad(model.cam_fovy[camera]) / 2)
    rng = np.random.default_rng(0)
    for _ in range(100):
        mujoco.mj_resetData(model, data)
        task.arrange(model, data, task.draw(rng))
        mujoco.mj_forward(model, data)
        for body, point in SEEN[task.name]:
            where = data.body(body).xpos + data.body(body).xmat.reshape(3, 3) @ point
            x, y, z = data.cam_xmat[camera].reshape(3, 3).T @ (where - data.cam_xpos[camera])
            assert z < 0 and abs(x) < half * -z and abs(y) < half * -z, (body, point)


def test_the_scene_is_the_floor_and_the_objects(stage: Stage) -> None:
    """Every geom is kept, or the embodiment's, or the pedestal's."""
    task, model = stage.task, stage.model
    assert task.kept[0] == "world" and task.views["front"] == next(iter(task.views.values()))
    left = set()
    for geom in range(model.ngeom):
        name = model.body(model.geom_bodyid[geom]).name
        assert name in task.kept or name == "pedestal" or name.startswith("robot/"), name
        left.add(name)
    assert set(task.kept) <= left  # and every kept body has something to see
    assert [model.geom(g).name for g in range(model.ngeom) if model.geom_bodyid[g] == 0] == ["floor"]


def test_base_is_where_the_robot_stands(stage: Stage) -> None:
    mujoco.mj_forward(stage.model, stage.data)
    base = stage.data.body("robot/link_base")
    np.testing.assert_allclose(stage.task.base[:3, 3], base.xpos)
    np.testing.assert_allclose(stage.task.base[:3, :3], base.xmat.reshape(3, 3), atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("embodiment", [name for name in ROBOTS if name != "xarm7"])
def test_other_embodiments_do_the_task_their_own_way(name: str, embodiment: str) -> None:
    stage, xarm = Stage(name, embodiment=embodiment), Stage(name)
    assert experts.run_expert(stage.task, stage.model, stage.data, 1)
    starts = [sample(one.task, one.model, one.data, 1) for one in (stage, xarm)]
    assert [len(start.qpos) for start in starts] == [stage.model.nq, xarm.model.nq]
    for one in stage.task.objects:  # the same scene ...
        np.testing.assert_allclose(stage.data.body(one).xpos, xarm.data.body(one).xpos, atol=1e-4)
    ways = [[w for w in one.task.expert(one.model, one.data)] for one in (stage, xarm)]
    assert len(ways[0]) == len(ways[1]) == stage.task.waypoints == stage.task.limit
    moved = [np.linalg.norm(a.position - b.position) for a, b in zip(*ways, strict=True)]
    assert max(moved) > 0.01  # ... another motion


def test_a_state_written_back_is_the_same_episode(stage: Stage) -> None:
    task, model, data = stage.task, stage.model, stage.data
    state = sample(task, model, data, 2)
    ends = []
    for _ in range(2):
        world.write_state(model, data, state)
        controller, judge = task.controller(model, data), task.judge(model)
        script = experts.scripted_expert(task, model, data)
        for _ in range(2):
            action = script.action(model, data)
            assert action is not None
            experts.advance(model, data, controller, judge, action)
        ends.append(data.qpos.copy())
        sample(task, model, data, 7)
    np.testing.assert_array_equal(ends[0], ends[1])


def test_tasks_can_be_sent_to_workers() -> None:
    for name in NAMES:
        task = registry.make_task(name, control="osc_delta", embodiment="panda")
        assert pickle.loads(pickle.dumps(task)) == task
        with pytest.raises(AttributeError):
            task.control = "setpoint_pose"  # type: ignore[misc]


def test_pointing() -> None:
    np.testing.assert_allclose(pointing(0.0), np.diag([1, -1, -1]), atol=1e-12)
    yaw = 0.4
    level = pointing(yaw, np.pi / 2)
    np.testing.assert_allclose(level[:, 2], (np.cos(yaw), np.sin(yaw), 0), atol=1e-12)  # forward
    np.testing.assert_allclose(level[:, 0], (0, 0, 1), atol=1e-12)  # back up
    for pitch in (0.0, 0.7):
        np.testing.assert_allclose(pointing(yaw, pitch)[:, 1], (np.sin(yaw), -np.cos(yaw), 0), atol=1e-12)


def test_errors_name_the_task() -> None:
    with pytest.raises(UserError, match="tabletop/block_stack: control must be one of"):
        BlockStack(control="joints")  # type: ignore[arg-type]
