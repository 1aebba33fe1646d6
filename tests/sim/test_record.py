"""Recordings: the rate, what they hold, exact tracks, and the simulator as a source of depth and masks."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from t2p.geometry.cameras import project
from t2p.io import UserError
from t2p.sim.points import body_ids
from t2p.sim.record import Replay, ReplaySource, exact_tracks, record
from t2p.sim.registry import make_task
from t2p.sim.render import make_renderer

SIZE = (48, 64)


@pytest.fixture(scope="module", params=["setpoint_pose", "osc_delta"])
def recorded(request):
    task = make_task("tabletop/block_stack", control=request.param)
    model = task.build().compile()
    found = record(task, model, mujoco.MjData(model), task.draw(np.random.default_rng(5)), fps=10.0)
    renderer = make_renderer(model, "rays")
    yield task, model, found, Replay(task, found.start, found.qpos, renderer, model)
    renderer.close()


def test_a_demonstration_is_recorded_whole(recorded):
    task, model, found, _ = recorded
    assert found.success and not found.failure
    assert len(found.waypoint_times) == task.waypoints and (np.diff(found.waypoint_times) > 0).all()
    last = (len(found.qpos) - 1) / found.fps
    assert last - 1 / found.fps < found.waypoint_times[-1] <= last + 1e-9
    assert found.qpos.shape[1] == model.nq
    np.testing.assert_array_equal(found.qpos[0], found.start.qpos)
    assert found.columns["actions"].shape == (len(found.qpos), task.action.dim)
    assert set(np.unique(found.columns["proprio/gripper"])) == {0.0, 1.0}


def test_the_tool_was_where_the_waypoints_are(recorded):
    """In the base frame, whose origin is 0.12 m above the floor; at the grasp the tool is in the blue cube."""
    _task, _model, found, replay = recorded
    grasp = found.columns["proprio/tool"][round(found.waypoint_times[2] * found.fps)]
    blue = replay.show(0).body("blue").xpos
    np.testing.assert_allclose(grasp[:3] + [0, 0, 0.12], blue + [0, 0, 0.03 - 0.05], atol=0.02)
    np.testing.assert_allclose(grasp[3:], [1, 0, 0, 0, -1, 0], atol=0.06)


def test_exact_tracks_follow_their_bodies_and_are_seen_on_them(recorded):
    task, model, _found, replay = recorded
    frames = [replay.frame(t, "front", SIZE) for t in range(len(replay))]
    sets = exact_tracks(replay, "front", SIZE, frames, task.kept, count=400, seed=0)
    tracks, flat = sets["camera"], sets["image"]
    assert tracks.points.shape == (len(replay), 400, 3) and tracks.visible[0].all()
    pixels, _depth = project(tracks.points.astype(float), np.asarray(replay.camera("front", SIZE).K))
    np.testing.assert_allclose(flat.points * [SIZE[1], SIZE[0]], pixels, atol=1e-3)
    own = frames[0].bodies[tuple((flat.points[0] * [SIZE[1], SIZE[0]]).astype(int).T[::-1])]
    for t in (len(frames) // 2, len(frames) - 1):
        seen = tracks.visible[t]
        column, row = (flat.points[t][seen] * [SIZE[1], SIZE[0]]).astype(int).T
        assert (frames[t].bodies[row, column] == own[seen]).mean() > 0.95  # a pixel at a silhouette may differ
    still = own == 0
    np.testing.assert_allclose(tracks.points[-1][still], tracks.points[0][still], atol=1e-6)
    blue = own == body_ids(model, ["blue"])[0]
    moved = tracks.points[-1][blue] - tracks.points[0][blue]
    assert np.linalg.norm(moved, axis=-1).min() > 0.1


def test_the_simulator_gives_depth_and_masks_of_an_episode(recorded):
    task, model, _found, replay = recorded
    source = ReplaySource({"one": replay})
    depth, mask = source.depth("one", "front", SIZE), source.mask("one", "front", SIZE)
    assert depth.shape == mask.shape == (len(replay), *SIZE) and depth.dtype == np.float32
    assert 0.2 < np.nanmin(depth) < np.nanmax(depth) < 3
    assert mask.any(axis=(1, 2)).all() and mask.mean() < 0.4
    robot = replay.frame(len(replay) // 2, "front", SIZE).bodies
    scene = body_ids(model, task.kept)
    assert not mask[len(replay) // 2][np.isin(robot, scene)].any()
    with pytest.raises(UserError, match="no recorded states of episode 'two'"):
        source.depth("two", "front", SIZE)


def test_a_rate_between_physics_steps_is_refused():
    task = make_task("tabletop/block_stack")
    model = task.build().compile()
    with pytest.raises(UserError, match="whole numbers of physics steps"):
        record(task, model, mujoco.MjData(model), task.draw(np.random.default_rng(0)), fps=30.0)
