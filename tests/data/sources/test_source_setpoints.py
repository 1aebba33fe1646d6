"""Episodes brought to setpoints: instants, interpolation, actions, and episodes that cannot be."""

from __future__ import annotations

import numpy as np
import pytest

from t2p.data.importing import import_source
from t2p.data.sources import SourceError, open_source
from t2p.data.store import finish, write_shard
from t2p.io import UserError
from t2p.types import Camera, Episode, TrackSet

FPS = 20.0
FRAMES = 41  # 2 s


def episode(waypoints=(0.5, 1.25, 2.0), length: int = FRAMES) -> Episode:
    """A tool that moves 1 m/s along x and turns 1 rad/s about z; point 0 rests, point 1 moves with the tool."""
    t = np.arange(length) / FPS
    zero = np.zeros_like(t)
    tool = np.stack([t, zero, zero, np.cos(t), np.sin(t), zero, -np.sin(t), np.cos(t), zero], axis=1)
    gripper = (t >= 1.0).astype(np.float32)[:, None]
    moving = np.stack([t, zero, zero + 1], axis=1)
    points = np.stack([np.broadcast_to(moving[:1], moving.shape), moving], axis=1).astype(np.float32)
    visible = np.ones((length, 2), bool)
    visible[10, 1] = False
    queries = np.zeros((2, 3), np.float32)
    frames = np.broadcast_to(np.arange(length, dtype=np.uint8)[:, None, None, None], (length, 8, 8, 3)).copy()
    return Episode(
        id=f"e{length}",
        fps=FPS,
        frames={"front": frames},
        columns={"proprio/tool": tool.astype(np.float32), "proprio/gripper": gripper, "actions": np.ones((length, 7))},
        cameras={"front": Camera(np.eye(3), np.eye(4), (8, 8))},
        tracks={"exact/grid": {"front": TrackSet("global", points, visible, queries, "exact", "1", "camera")}},
        info={"waypoint_times": list(waypoints)},
    )


def read(tmp_path, *episodes, **options) -> list[Episode]:
    write_shard(tmp_path / "in", "train", 0, episodes, codec="png")
    finish(tmp_path / "in", shards={"train": 1})
    source = open_source(tmp_path / "in", "setpoints", **options)
    return [source.read(episode.id) for episode in episodes]


def test_uniform_setpoints_divide_the_time_evenly(tmp_path):
    (found,) = read(tmp_path, episode(), steps=4)
    np.testing.assert_allclose(found.info["setpoint_times"], [0, 0.5, 1, 1.5, 2])
    assert found.fps == 2
    assert found.frames["front"][:, 0, 0, 0].tolist() == [0, 10, 20, 30, 40]
    tracks = found.tracks["exact/grid"]["front"]
    np.testing.assert_allclose(tracks.points[:, 1, 0], [0, 0.5, 1, 1.5, 2], atol=1e-6)
    np.testing.assert_allclose(tracks.points[:, 0], np.broadcast_to([0, 0, 1], (5, 3)), atol=1e-6)
    assert tracks.visible[:, 1].tolist() == [True, False, True, True, True]
    assert found.cameras["front"].size == (8, 8)


def test_actions_are_the_measured_pose_and_the_command_at_the_next_setpoint(tmp_path):
    (found,) = read(tmp_path, episode(), steps=8)
    actions, t = found.columns["actions"], np.minimum(np.arange(1, 10), 8) / 4
    assert actions.shape == (9, 10)
    np.testing.assert_allclose(actions[:, 0], t, atol=1e-6)
    np.testing.assert_allclose(actions[:, 3:5], np.stack([np.cos(t), np.sin(t)], 1), atol=1e-6)
    assert actions[:, 9].tolist() == (t >= 1.0).astype(float).tolist()


def test_rotations_stay_rotations_between_frames(tmp_path):
    (found,) = read(tmp_path, episode(), steps=7)
    a, b = found.columns["proprio/tool"][:, 3:6], found.columns["proprio/tool"][:, 6:]
    np.testing.assert_allclose((a * a).sum(1), 1, atol=1e-6)
    np.testing.assert_allclose((a * b).sum(1), 0, atol=1e-6)


def test_waypoints_are_the_instants_that_were_recorded(tmp_path):
    (found,) = read(tmp_path, episode(), steps=9, times="waypoints")
    np.testing.assert_allclose(found.info["setpoint_times"], [0, 0.5, 1.25, 2])
    np.testing.assert_allclose(found.columns["actions"][:, 0], [0.5, 1.25, 2, 2], atol=1e-6)
    assert found.columns["actions"][:, 9].tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("waypoints", [(), (0.5, 0.5), (1.0, 3.0), tuple(np.linspace(0.1, 2, 10))])
def test_an_episode_without_usable_waypoints_is_left_out_and_named(tmp_path, waypoints):
    write_shard(tmp_path / "in", "train", 0, [episode(), episode(waypoints, length=45)], codec="png")
    finish(tmp_path / "in", shards={"train": 1})
    source = open_source(tmp_path / "in", "setpoints", steps=9, times="waypoints")
    skipped = import_source(source, tmp_path / "out", settings={})
    assert [s.key for s in skipped] == ["e45"]
    with pytest.raises(SourceError, match="e45"):
        source.read("e45")


def test_wrong_options_are_named(tmp_path):
    with pytest.raises(UserError, match="uniform, waypoints"):
        read(tmp_path, episode(), times="often")
    with pytest.raises(UserError, match="steps is 0"):
        open_source(tmp_path / "in", "setpoints", steps=0)
    source = open_source(tmp_path / "in", "setpoints", tracks=("dis/atm",))
    with pytest.raises(SourceError, match="no global track set 'dis/atm'"):
        source.read(source.keys()[0])
