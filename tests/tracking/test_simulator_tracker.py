"""The simulator as a tracker: points stay on their bodies, in every view."""

from __future__ import annotations

import numpy as np
import pytest

from t2p.cli.main import main
from t2p.collect import Collection, collect
from t2p.data.store import Dataset
from t2p.sim.points import body_ids
from t2p.sim.record import replay
from t2p.tracking.base import TrackingError, make_tracker

TASK, SIZE = "tabletop/block_stack", (64, 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    out = tmp_path_factory.mktemp("collected") / "d"
    collect(Collection(TASK, 1, seed=5, fps=4, size=SIZE, sets=(), renderer="rays", action_free=True), out)
    return str(out)


@pytest.fixture(scope="module")
def tracker(folder):
    return make_tracker("simulator", folder=folder, renderer="rays")


def clip_of(tracker, data, view):
    info = data.infos[0]
    clip = tracker.clip(info.id, view)
    return clip, clip.prepare(data.frames(0, view, range(info.length)))


def test_points_of_the_table_stand_still_and_those_of_the_cube_go_with_it(folder, tracker) -> None:
    data = Dataset(folder, "train")
    clip, looks = clip_of(tracker, data, "front")
    centres = np.argwhere(np.ones(SIZE))[::7, ::-1] + 0.5
    queries = np.concatenate([np.zeros((len(centres), 1)), centres / SIZE[0]], axis=1)
    tracks = clip.track(looks, queries)
    own = looks.frames.bodies[0][centres[:, 1].astype(int), centres[:, 0].astype(int)]
    (world,) = body_ids(looks.model, ["world"])[:1]
    assert np.abs(tracks.points[:, own == world] - tracks.points[:1, own == world]).max() < 1e-6
    recording = replay(data, 0, "rays")
    cube = np.isin(own, body_ids(looks.model, [recording.task.objects[1]]))
    assert cube.any() and np.abs(tracks.points[-1, cube] - tracks.points[0, cube]).max() > 0.05
    assert tracks.visible[0].all()
    recording.renderer.close()


@pytest.mark.parametrize("view", ["front", "wrist"])
def test_forward_and_back_again(folder, tracker, view: str) -> None:
    """Where a point is seen later, a query there leads back to where it came from."""
    data = Dataset(folder, "train")
    clip, looks = clip_of(tracker, data, view)
    places = np.stack(np.meshgrid(np.linspace(0.1, 0.9, 9), np.linspace(0.1, 0.9, 9)), -1).reshape(-1, 2)
    there = clip.track(looks, np.insert(places, 0, 0, axis=1))
    later = 12
    seen = there.visible[later]
    assert seen.sum() > 10 and np.abs(there.points[later] - there.points[0])[seen].max() > 0.02
    back = clip.track(looks, np.insert(there.points[later, seen], 0, later, axis=1))
    error = np.linalg.norm(back.points[0] - places[seen], axis=-1) * SIZE[0]
    assert np.median(error) < 0.05 and (error < 1).mean() > 0.9  # silhouettes: the pixel's centre may be another body's


def test_windows_in_place_repeat_the_last_frame(folder) -> None:
    command = ["annotate", "--input", folder, "--out", folder, "--tracker", "simulator", "--layout", "amplify"]
    assert main([*command, "--side", "4", "--horizon", "5", "--renderer", "rays", "--workers", "1"]) == 0
    data = Dataset(folder, "train")
    last = data.infos[0].length - 1
    for view in ("front", "wrist"):
        points = data.tracks(0, "simulator/amplify", view, last, last + 1).points[0]
        assert points.shape == (5, 16, 2)
        np.testing.assert_allclose(points, points[:1].repeat(5, 0), atol=1e-6)


def test_other_episodes_views_and_videos_are_refused(folder, tracker) -> None:
    data = Dataset(folder, "train")
    with pytest.raises(TrackingError, match="no episode 'other'"):
        tracker.clip("other", "front")
    with pytest.raises(TrackingError, match="views front, wrist"):
        tracker.clip(data.infos[0].id, "side")
    clip, _ = clip_of(tracker, data, "front")
    with pytest.raises(TrackingError, match="the video 2"):
        clip.prepare(np.zeros((2, 64, 64, 3), np.uint8))
