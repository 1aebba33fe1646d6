"""Collecting: the same episodes however they are made, nothing lost when it is cut off, clear errors."""

from __future__ import annotations

import numpy as np
import pytest

from t2p.cli.main import main
from t2p.collect import Collection, collect, spread_configurations
from t2p.data.check import check
from t2p.data.store import Dataset
from t2p.geometry.clouds import furthest_points
from t2p.io import UserError
from t2p.sim.record import ReplaySource, replay
from t2p.sim.registry import make_task
from t2p.tracking.lift import DepthFolder

TASK = "tabletop/block_stack"
SMALL = {"fps": 2.0, "size": (32, 32), "views": ("front",), "points": 64, "renderer": "rays"}


def episodes(directory, split="train"):
    data = Dataset(directory, split)
    return data, [data.read(i) for i in range(len(data))]


def test_episodes_hold_what_the_data_page_says(tmp_path):
    what = Collection(TASK, 2, sets=("grid", "objects", "image"), depth=True, **SMALL)
    collect(what, tmp_path / "d")
    assert not list(check(tmp_path / "d", lambda name: None))
    data, found = episodes(tmp_path / "d")
    episode = found[0]
    assert set(episode.frames) == {"front"} and episode.frames["front"].shape[1:] == (32, 32, 3)
    assert {"actions", "proprio/tool", "proprio/gripper", "proprio/joints", "sim/qpos"} <= set(episode.columns)
    assert set(episode.tracks) == {"exact/grid", "exact/objects", "exact/image"}
    assert episode.tracks["exact/grid"]["front"].space == "camera"
    assert episode.tracks["exact/image"]["front"].points.shape[-1] == 2
    assert episode.task == TASK and episode.language == (make_task(TASK).instruction,)
    assert len(episode.info["waypoint_times"]) == 9 and episode.info["simulator"]["renderer"] == "rays"
    stored = DepthFolder(str(tmp_path / "d/depth")).depth(episode.id, "front", (32, 32))
    drawn = ReplaySource({episode.id: replay(data, 0, "rays")}).depth(episode.id, "front", (32, 32))
    np.testing.assert_allclose(stored, drawn, atol=6e-4)


def test_action_free_episodes_say_nothing_of_actions(tmp_path):
    collect(Collection(TASK, 1, action_free=True, options={"embodiment": "hand"}, **SMALL), tmp_path / "d")
    _, (episode,) = episodes(tmp_path / "d")
    assert set(episode.columns) == {"sim/qpos"} and "exact/objects" in episode.tracks


def test_workers_and_interruptions_change_nothing(tmp_path):
    what = Collection(TASK, 3, seed=4, sets=("objects",), **SMALL)
    collect(what, tmp_path / "one", episodes_per_shard=1)

    def stop(done: int) -> None:
        stop.count += done
        if stop.count == 2:
            raise KeyboardInterrupt

    stop.count = 0
    with pytest.raises(KeyboardInterrupt):
        collect(what, tmp_path / "two", episodes_per_shard=1, progress=stop)
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "two").glob("*train-00000*")}
    collect(what, tmp_path / "two", episodes_per_shard=1, workers=2)
    assert kept and all(p.stat().st_mtime_ns == t for p, t in kept.items())
    for a, b in zip(episodes(tmp_path / "one")[1], episodes(tmp_path / "two")[1], strict=True):
        assert a.id == b.id and a.info == b.info
        np.testing.assert_array_equal(a.columns["sim/qpos"], b.columns["sim/qpos"])
        np.testing.assert_array_equal(a.frames["front"], b.frames["front"])
        one, two = (e.tracks["exact/objects"]["front"] for e in (a, b))
        np.testing.assert_array_equal(one.points, two.points)
        np.testing.assert_array_equal(one.visible, two.visible)


def test_spread_configurations_are_the_furthest_points_of_ten_thousand():
    task = make_task(TASK)
    found = spread_configurations(task, 20)
    rng = np.random.default_rng(12_345)
    candidates = np.stack([task.draw(rng) for _ in range(10_000)])
    np.testing.assert_array_equal(found, candidates[furthest_points(candidates, 20)])
    apart = np.linalg.norm(found[:, None] - found, axis=-1)[np.triu_indices(20, 1)].min()
    random = np.linalg.norm(candidates[:20, None] - candidates[:20], axis=-1)[np.triu_indices(20, 1)].min()
    assert apart > 2 * random


def test_the_first_episodes_start_from_spread_configurations(tmp_path):
    collect(Collection(TASK, 2, spread=1, sets=("objects",), **SMALL), tmp_path / "d")
    _, (first, second) = episodes(tmp_path / "d")
    np.testing.assert_allclose(first.info["configuration"], spread_configurations(make_task(TASK), 1)[0])
    assert second.info["configuration"] != first.info["configuration"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "tabletop/blockstack"}, "did you mean 'tabletop/block_stack'"),
        ({"episodes": 0}, "at least 1"),
        ({"views": ("top",)}, "no view 'top'; expected some of front, wrist"),
        ({"sets": ("all",)}, "no track set 'all'"),
        ({"options": {"embodiment": "octopus"}}, "xarm7"),
        ({"fps": 30.0}, "whole numbers of physics steps"),
        ({"renderer": "crayons"}, "crayons"),
    ],
)
def test_what_cannot_be_collected_is_named(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        collect(Collection(**{"task": TASK, "episodes": 1, **SMALL, **changes}), tmp_path / "d")


def test_other_settings_do_not_go_on_in_the_same_place(tmp_path):
    collect(Collection(TASK, 1, sets=("objects",), **SMALL), tmp_path / "d")
    with pytest.raises(UserError, match="begun as another import"):
        collect(Collection(TASK, 2, sets=("objects",), **SMALL), tmp_path / "d")


def test_the_command_writes_a_dataset_that_becomes_setpoints(tmp_path):
    options = ["--fps", "2", "--size", "32", "32", "--views", "front", "--points", "64", "--renderer", "rays"]
    command = ["collect", TASK, "--out", str(tmp_path / "d"), "--episodes", "1", "--workers", "0", *options]
    assert main(command) == 0
    into = ["--source.steps=9", "--source.times=waypoints", "--out", str(tmp_path / "s")]
    assert main(["data", "import", "--source", "setpoints", "--input", str(tmp_path / "d"), *into]) == 0
    _, (episode,) = episodes(tmp_path / "s")
    assert episode.length == 10 and episode.columns["actions"].shape == (10, 10)
    _, (recorded,) = episodes(tmp_path / "d")
    near = np.abs(np.arange(recorded.length)[:, None] / 2 - episode.info["setpoint_times"]).argmin(0)
    np.testing.assert_array_equal(episode.columns["sim/qpos"], recorded.columns["sim/qpos"][near])
    apart = np.abs(episode.frames["front"].astype(int) - recorded.frames["front"][near])
    assert apart.mean() < 2  # JPEG, twice
    assert main([*command[:2], "--out", str(tmp_path / "e"), "--episodes", "1", "--nonsense", "3"]) == 2


def test_a_full_disk_loses_no_finished_shard(tmp_path, monkeypatch):
    from t2p.data.shards import ShardWriter

    what = Collection(TASK, 2, sets=("objects",), **SMALL)
    real, room = ShardWriter.finish, [2]  # tracks and frames of the first shard

    def finish(self, *args):
        if not room[0]:
            raise OSError(28, "No space left on device")
        room[0] -= 1
        return real(self, *args)

    monkeypatch.setattr(ShardWriter, "finish", finish)
    with pytest.raises(OSError, match="No space left"):
        collect(what, tmp_path / "d", episodes_per_shard=1)
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "d").glob("train-00000*")}
    room[0] = 99
    collect(what, tmp_path / "d", episodes_per_shard=1)
    assert kept and all(p.stat().st_mtime_ns == t for p, t in kept.items())
    assert not list(check(tmp_path / "d", lambda name: None)) and len(episodes(tmp_path / "d")[1]) == 2
