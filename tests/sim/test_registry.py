"""Every tabletop task, created, placed, stepped and played; names and options of all tasks."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from t2p.io import UserError
from t2p.sim import experts, registry, world
from t2p.sim.tabletop.common import CONTROLS
from t2p.sim.task import sample


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("name", registry.suite("tabletop"))
def test_every_task_starts_steps_and_can_be_done(name: str, control: str) -> None:
    task = registry.make_task(name, control=control)
    assert task.name == name and task.instruction and task.action.kind == control
    model = task.build().compile()
    data = mujoco.MjData(model)
    state = sample(task, model, data, 0)
    for array in (state.qpos, state.qvel, state.body_pos, state.body_quat):
        assert np.isfinite(array).all()
    assert state.time == 0 and not task.judge(model).success(model, data)  # nothing is done yet
    for camera in task.views.values():
        assert model.camera(camera).id >= 0
    for body in task.kept:
        assert model.body(body).id >= 0
    assert world.settle(model, data, 50) is None
    controller = task.controller(model, data)
    with pytest.raises(UserError, match="finite numbers"):
        controller.start(model, data, np.full(task.action.dim, np.nan))
    assert experts.run_expert(task, model, data, 0)


def test_unknown_names_and_options_are_refused() -> None:
    with pytest.raises(UserError, match="did you mean 'tabletop/block_stack'"):
        registry.make_task("tabletop/block_stak")
    with pytest.raises(UserError, match="has no option colour; its options are control, embodiment"):
        registry.make_task("tabletop/block_stack", colour="red")
    with pytest.raises(UserError, match="embodiment must be one of 'xarm7', 'panda', 'hand'; got 'ur5'"):
        registry.make_task("tabletop/block_stack", embodiment="ur5")
    with pytest.raises(UserError, match="control must be one of 'setpoint_pose', 'osc_delta'; got 'joints'"):
        registry.make_task("tabletop/block_stack", control="joints")


def test_tasks_without_a_script_of_waypoints_are_told() -> None:
    name = registry.suite("libero_object")[0]
    with pytest.raises(UserError, match=rf"{name} has no script of waypoints; tasks that have one are tabletop/block"):
        registry.make_scripted_task(name)
    with pytest.raises(UserError, match="did you mean 'tabletop/block_stack'"):
        registry.make_scripted_task("tabletop/blok_stack")
