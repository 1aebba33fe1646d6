"""What holds for all sources: the table, detection, options, no JAX; and a dataset read back."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
from recordings import clip

from t2p.data import store
from t2p.data.sources import KINDS, SourceError, detect, open_source
from t2p.io import UserError
from t2p.types import Camera, Episode, TrackSet


def test_every_kind_has_its_class():
    for module, name in KINDS.values():
        cls = getattr(importlib.import_module(module), name)
        assert callable(cls.keys) and callable(cls.read)


def test_no_source_imports_jax_or_tensorflow():
    modules = sorted({module for module, _ in KINDS.values()})
    code = f"import sys, importlib; [importlib.import_module(m) for m in {modules}]; print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for name in ("jax", "tensorflow", "av", "h5py", "pyarrow", "tensorflow_datasets"):
        assert f"'{name}'" not in loaded, f"{name} is imported before it is needed"


def test_detection(tmp_path):
    for name in ("rlds/1.0.0/features.json", "lerobot/meta/info.json", "dataset/manifest.json"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("{}")
    clip(tmp_path / "videos/a.mp4", 2)
    (tmp_path / "table.jsonl").write_text("")
    expected = {"rlds": "rlds", "rlds/1.0.0": "rlds", "lerobot": "lerobot", "dataset": "dataset", "videos": "video"}
    expected |= {"videos/a.mp4": "video", "table.jsonl": "clips"}
    assert {name: detect(tmp_path / name) for name in expected} == expected
    assert open_source(tmp_path / "videos/a.mp4").keys() == ["a.mp4"]
    with pytest.raises(UserError, match="only t2p datasets are read from remote directories"):
        open_source("gs://bucket/videos", "video")


def test_kinds_and_options_are_checked(tmp_path):
    clip(tmp_path / "a.mp4", 2)
    with pytest.raises(UserError, match="unknown kind of source 'mp4'; expected auto, video, clips, rlds"):
        open_source(tmp_path, "mp4")
    with pytest.raises(UserError, match="kind 'video' has no option 'rate'; it takes size, fps, recorded_fps, view"):
        open_source(tmp_path, rate=3)
    with pytest.raises(UserError, match="kind 'synthetic' needs the option count"):
        open_source("", "synthetic")


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("video", {"fps": -5}, "fps is -5; expected frames per second"),
        ("video", {"fps": "abc"}, "fps is 'abc'"),
        ("video", {"recorded_fps": 0}, "recorded_fps is 0"),
        ("video", {"size": (0, 32)}, r"size is \(0, 32\); expected \(height, width\)"),
        ("synthetic", {"count": "abc"}, "count is 'abc'; expected a whole number from 1 on"),
        ("synthetic", {"count": 1, "num_frames": -4}, "num_frames is -4"),
        ("synthetic", {"count": 1, "size": (8, 64)}, "at least 16 pixels"),
    ],
)
def test_values_are_checked_before_anything_is_read(tmp_path, kind, options, message):
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(UserError, match=message):
        open_source(tmp_path, kind, **options)


def test_synthetic_clips_need_no_path():
    source = pickle.loads(pickle.dumps(open_source("", "synthetic", count=2, size=(32, 48), num_frames=4)))
    assert source.read(source.keys()[1]).frames["front"].shape == (4, 32, 48, 3)


@pytest.fixture
def dataset(tmp_path):
    """Two episodes in the split val."""
    rng = np.random.default_rng(0)

    def episode(name):
        tracks = TrackSet(
            "global", rng.random((5, 3, 2), np.float32), np.ones((5, 3), bool), np.zeros((3, 3), np.float32), "dis", "1"
        )
        return Episode(
            id=name,
            fps=5.0,
            frames={"front": rng.integers(0, 255, (5, 16, 24, 3), dtype=np.uint8)},
            columns={"actions": rng.random((5, 7), np.float32)},
            language=("push",),
            cameras={"front": Camera(np.eye(3), np.eye(4), (16, 24))},
            tracks={"dis/grid": {"front": tracks}},
            source="video",
            task="pushing",
            info={"noun": "pot"},
        )

    episodes = [episode("a/0"), episode("a/1")]
    store.write_shard(tmp_path, "val", 0, episodes, codec="png")
    store.finish(tmp_path, shards={"val": 1})
    return tmp_path, episodes


def test_dataset_is_read_back(dataset):
    directory, episodes = dataset
    source = pickle.loads(pickle.dumps(open_source(directory, split="val")))
    assert source.keys() == ["a/0", "a/1"]
    for wanted in episodes:
        got = source.read(wanted.id)
        np.testing.assert_array_equal(got.frames["front"], wanted.frames["front"])
        np.testing.assert_array_equal(got.columns["actions"], wanted.columns["actions"])
        np.testing.assert_array_equal(got.tracks["dis/grid"]["front"].points, wanted.tracks["dis/grid"]["front"].points)
        assert (got.language, got.task, got.info, got.source) == (("push",), "pushing", {"noun": "pot"}, "video")
    assert open_source(directory, split="val", size=(8, 12)).read("a/0").frames["front"].shape == (5, 8, 12, 3)
    with pytest.raises(UserError, match="has no split 'train'; it has val"):
        open_source(directory)


def test_damaged_dataset_is_reported(dataset):
    directory, _ = dataset
    file = next(directory.glob("*.episodes.array_record"))
    data = bytearray(file.read_bytes())
    data[1000:3000] = bytes(2000)
    file.write_bytes(data)
    source = open_source(directory, split="val")
    with pytest.raises(SourceError, match="t2p data check"):
        for key in ("a/0", "a/1"):
            source.read(key)
