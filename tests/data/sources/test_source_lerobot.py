"""LeRobot datasets of both layouts: the right frames, rows and sentences of every episode."""

from __future__ import annotations

import io
import json
import pickle

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from recordings import encode, gray, grays

from t2p.data.sources import SourceError, open_source
from t2p.io import UserError

LENGTHS = (7, 12, 9)
TASKS = ("stack the cups", "open the drawer", "stack the cups")
STARTS = (0, 7, 19)
FPS = 10


def _info(version):
    number = {"dtype": "float32", "shape": [2], "names": None}
    index = {"dtype": "int64", "shape": [1], "names": None}
    features = {
        "action": number,
        "observation.state": {**number, "shape": [3]},
        "observation.images.top": {"dtype": "video", "shape": [48, 64, 3]},
        "observation.images.wrist": {"dtype": "image", "shape": [24, 32, 3]},
        "observation.images.depth": {"dtype": "video", "shape": [48, 64, 1], "info": {"video.is_depth_map": True}},
        "next.reward": {"dtype": "float32", "shape": [1]},
        **dict.fromkeys(("timestamp", "frame_index", "episode_index", "index", "task_index"), index),
    }
    paths = {
        2: (
            "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
            "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        ),
        3: (
            "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
            "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        ),
    }[version]
    return {
        "codebase_version": {2: "v2.1", 3: "v3.0"}[version],
        "fps": FPS,
        "chunks_size": 2 if version == 2 else 1000,
        "total_episodes": 3,
        "features": features,
        "data_path": paths[0],
        "video_path": paths[1],
    }


def _png(value):
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (32, 24), (value,) * 3).save(buffer, "png")
    return buffer.getvalue()


def _rows(episode):
    """The parquet rows of an episode; a row's number in the dataset is the first action and the state."""
    length, start = LENGTHS[episode], STARTS[episode]
    numbers = range(start, start + length)
    return [
        {
            "action": [float(n), -float(n)],
            "observation.state": [float(n)] * 3,
            "observation.images.wrist": {"bytes": _png(gray(n)), "path": None},
            "next.reward": 0.0,
            "timestamp": np.float32(i / FPS),
            "frame_index": i,
            "episode_index": episode,
            "index": n,
            "task_index": 0,
        }
        for i, n in enumerate(numbers)
    ]


def _frames(numbers):
    return [np.full((48, 64, 3), gray(n), np.uint8) for n in numbers]


def _write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(rows), path)


def make_v2(root):
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(_info(2)))
    episodes = [{"episode_index": e, "tasks": [TASKS[e]], "length": LENGTHS[e]} for e in range(3)]
    (root / "meta/episodes.jsonl").write_text("\n".join(json.dumps(row) for row in episodes) + "\n")
    for e in range(3):
        _write(root / f"data/chunk-{e // 2:03d}/episode_{e:06d}.parquet", _rows(e))
        video = root / f"videos/chunk-{e // 2:03d}/observation.images.top/episode_{e:06d}.mp4"
        encode(video, _frames(range(STARTS[e], STARTS[e] + LENGTHS[e])), FPS)
    return root


def make_v3(root):
    """Data of all episodes in one file; videos of episodes 0 and 1 in one file, of episode 2 in the next."""
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(_info(3)))
    top = "videos/observation.images.top"
    begin = (0.0, 0.7, 0.0)
    episodes = [
        {
            "episode_index": e,
            "tasks": [TASKS[e]],
            "length": LENGTHS[e],
            "data/chunk_index": 0,
            "data/file_index": 0,
            "dataset_from_index": STARTS[e],
            "dataset_to_index": STARTS[e] + LENGTHS[e],
            f"{top}/chunk_index": 0,
            f"{top}/file_index": e // 2,
            f"{top}/from_timestamp": begin[e],
            f"{top}/to_timestamp": begin[e] + LENGTHS[e] / FPS,
            "stats/action/mean": [0.0, 0.0],
        }
        for e in range(3)
    ]
    _write(root / "meta/episodes/chunk-000/file-000.parquet", episodes)
    _write(root / "meta/tasks.parquet", [{"task_index": 0, "task": TASKS[0]}, {"task_index": 1, "task": TASKS[1]}])
    _write(root / "data/chunk-000/file-000.parquet", [row for e in (1, 0, 2) for row in reversed(_rows(e))])
    encode(root / f"{top}/chunk-000/file-000.mp4", _frames(range(19)), FPS)
    encode(root / f"{top}/chunk-000/file-001.mp4", _frames(range(19, 28)), FPS)
    return root


@pytest.mark.parametrize("make", [make_v2, make_v3])
def test_episodes_have_their_own_frames_and_rows(tmp_path, make):
    source = pickle.loads(pickle.dumps(open_source(make(tmp_path / "set"))))
    assert source.keys() == ["episode_000000", "episode_000001", "episode_000002"]
    for e, key in enumerate(source.keys()):
        episode = source.read(key)
        numbers = list(range(STARTS[e], STARTS[e] + LENGTHS[e]))
        assert set(episode.frames) == {"top", "wrist"} and episode.fps == FPS
        assert grays(episode.frames["top"]) == numbers
        assert grays(episode.frames["wrist"]) == numbers
        assert set(episode.columns) == {"actions", "proprio/state"}
        np.testing.assert_array_equal(episode.columns["actions"], [[n, -n] for n in numbers])
        np.testing.assert_array_equal(episode.columns["proprio/state"], np.repeat(numbers, 3).reshape(-1, 3))
        assert episode.language == (TASKS[e],) and episode.task == TASKS[e]


def test_views_and_size(tmp_path):
    root = make_v3(tmp_path / "set")
    episode = open_source(root, views=["top"], size=(12, 16)).read("episode_000001")
    assert {view: frames.shape for view, frames in episode.frames.items()} == {"top": (12, 12, 16, 3)}
    with pytest.raises(UserError, match="has no camera 'side'; it has top, wrist"):
        open_source(root, views=["side"])


def test_broken_episodes_are_reported(tmp_path):
    root = make_v2(tmp_path / "v2")
    (root / "videos/chunk-000/observation.images.top/episode_000000.mp4").unlink()
    _write(root / "data/chunk-000/episode_000001.parquet", _rows(1)[:4])
    (root / "data/chunk-001/episode_000002.parquet").write_bytes(b"no parquet")
    source = open_source(root)
    for key, reason in zip(source.keys(), ("there is no file .*episode_000000.mp4", "holds 4 of the episode's 12", "")):
        with pytest.raises(SourceError, match=f"{key}: .*{reason}"):
            source.read(key)
    root = make_v3(tmp_path / "v3")
    encode(root / "videos/observation.images.top/chunk-000/file-000.mp4", _frames(range(15)), FPS)
    source = open_source(root)
    assert len(source.read("episode_000000").frames["top"]) == 7
    with pytest.raises(SourceError, match=r"the video ends early: 12 frames wanted up to 1\.80 s, 8 found"):
        source.read("episode_000001")


def test_directories_that_are_no_readable_dataset(tmp_path):
    with pytest.raises(UserError, match=r"no LeRobot dataset: expected meta/info\.json"):
        open_source(tmp_path, "lerobot")
    root = make_v2(tmp_path / "v2")
    (root / "meta/episodes.jsonl").write_text('{"episode_index": 0,')
    with pytest.raises(UserError, match="no readable list of episodes"):
        open_source(root)
    info = _info(2)
    (root / "meta/info.json").write_text(json.dumps({**info, "codebase_version": "v1.6"}))
    with pytest.raises(UserError, match=r"version v1\.6; v2\.x and v3\.x are read"):
        open_source(root)
    del info["fps"]
    (root / "meta/info.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match="lacks fps"):
        open_source(root)
    (root / "meta/info.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        open_source(root)
