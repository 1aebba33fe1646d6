"""The episode format: what is written comes back, whole or not at all, locally and remotely."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from episodes import make_episode, track_set

from t2p import __version__
from t2p.data import shards
from t2p.data.store import (
    DamagedRecord,
    Dataset,
    finish,
    read_manifest,
    shard_done,
    write_shard,
    write_track_shard,
)
from t2p.io import UserError


def write(directory, count=6, per_shard=3, codec="png", **options):
    """A dataset of `count` episodes; returns its number of shards."""
    numbers = [range(count)[k : k + per_shard] for k in range(0, count, per_shard)]
    for k, some in enumerate(numbers):
        write_shard(directory, "train", k, map(make_episode, some), codec=codec, **options)
    finish(directory, shards={"train": len(numbers)}, licence="CC0", source="tests")
    return len(numbers)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    directory = tmp_path_factory.mktemp("store")
    write(directory)
    return Dataset(directory, "train")


def assert_same(found, expected):
    assert (found.id, found.fps, found.language, found.task, found.source, found.info) == (
        expected.id,
        expected.fps,
        expected.language,
        expected.task,
        expected.source,
        expected.info,
    )
    assert list(found.frames) == list(expected.frames) and set(found.tracks) == set(expected.tracks)
    pairs = [(found.frames[v], expected.frames[v]) for v in expected.frames]
    pairs += [(found.columns[c], expected.columns[c]) for c in expected.columns]
    for view, camera in expected.cameras.items():
        assert found.cameras[view].size == camera.size
        pairs += [(found.cameras[view].K, camera.K), (found.cameras[view].T_base_cam, camera.T_base_cam)]
    for name, views in expected.tracks.items():
        for view, t in views.items():
            other = found.tracks[name][view]
            assert (other.layout, other.space, other.tracker, other.version) == (t.layout, t.space, t.tracker, "2")
            pairs += [(getattr(other, f), getattr(t, f)) for f in ("points", "visible", "queries")]
    for a, b in pairs:
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_every_field_comes_back_in_order(dataset):
    assert [info.id for info in dataset.infos] == [f"e{i}" for i in range(6)]
    for i in range(6):
        assert_same(dataset.read(i), make_episode(i))


def test_the_index_tells_what_an_episode_is(dataset):
    info = dataset.infos[4]
    assert (info.length, info.fps, info.task, info.split, info.shard) == (11, 12.5, "task0", "train", 1)
    assert info.views == {"front": (12, 18), "wrist": (14, 18)}
    assert info.columns["actions"] == ("<f4", (7,)) and info.columns["reward"] == ("<i8", ())
    assert info.track_sets == {"walk/amplify": {"front": "window"}}
    assert dataset.infos[3].track_sets["walk/grid"] == {"front": "global", "wrist": "global"}
    assert dataset.manifest["licence"] == "CC0" and len(dataset) == 6


def test_parts_of_episodes(dataset):
    whole = make_episode(3)
    times = [7, 0, 7, 10]
    np.testing.assert_array_equal(dataset.frames(3, "wrist", times), whole.frames["wrist"][times])
    np.testing.assert_array_equal(dataset.column(3, "actions", times), whole.columns["actions"][times])
    assert dataset.frames(3, "front", []).shape == (0, 12, 18, 3)
    for start, stop in [(0, 11), (0, 8), (8, 11), (5, 6), (7, 9)]:
        for name, view in [("walk/grid", "wrist"), ("walk/amplify", "front")]:
            got, all_of_it = dataset.tracks(3, name, view, start, stop), whole.tracks[name][view]
            np.testing.assert_array_equal(got.points, all_of_it.points[start:stop])
            np.testing.assert_array_equal(got.visible, all_of_it.visible[start:stop])


def test_columns_can_be_changed_without_changing_what_others_read(dataset):
    dataset.column(0, "actions")[:] = 0
    np.testing.assert_array_equal(dataset.column(0, "actions"), make_episode(0).columns["actions"])


def test_wrong_requests_name_what_there_is(dataset):
    with pytest.raises(KeyError, match=r"no view 'side'; it has \['front', 'wrist'\]"):
        dataset.frames(0, "side", [0])
    with pytest.raises(KeyError, match="no column 'state'"):
        dataset.column(0, "state")
    with pytest.raises(KeyError, match="no tracks 'walk/grid'"):
        dataset.tracks(0, "walk/grid", "front", 0, 1)
    for bad in ([11], [-1]):
        with pytest.raises(IndexError, match="has 11 frames"):
            dataset.frames(0, "front", bad)
    with pytest.raises(IndexError, match="11 frames"):
        dataset.tracks(0, "walk/amplify", "front", 5, 12)
    with pytest.raises(IndexError):
        dataset.read(6)
    with pytest.raises(UserError, match="no split 'test'; it has train"):
        Dataset(dataset.directory, "test")


def test_statistics_are_those_of_the_numeric_columns(dataset):
    rows = np.concatenate([make_episode(i).columns["actions"] for i in range(6)]).astype(float)
    assert set(dataset.statistics) == {"actions", "proprio/joints"}
    s = dataset.statistics["actions"]
    assert s.count == 66
    np.testing.assert_allclose([s.mean, s.std], [rows.mean(0), rows.std(0)], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(s.q99, np.quantile(rows, 0.99, axis=0))


def _read_in_another_process(pickled: bytes) -> np.ndarray:
    return pickle.loads(pickled).frames(2, "front", [4])


def test_threads_pickling_and_spawned_processes(dataset):
    assert len(pickle.dumps(dataset)) < 1000  # the index is read again, not carried
    wrong = []

    def read(seed):
        for i in np.random.default_rng(seed).integers(0, 6, 25):
            if not np.array_equal(dataset.frames(i, "front", [i]), make_episode(i).frames["front"][[i]]):
                wrong.append(i)

    threads = [threading.Thread(target=read, args=(s,)) for s in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(_read_in_another_process, (pickle.dumps(dataset),))
    np.testing.assert_array_equal(found, make_episode(2).frames["front"][[4]])


def test_more_shards_than_files_may_be_open(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_OPEN_FILES", 2)
    write(tmp_path, count=5, per_shard=1)
    data = Dataset(tmp_path, "train")
    for i in [0, 1, 2, 3, 4, 0]:
        np.testing.assert_array_equal(data.frames(i, "front", [1]), make_episode(i).frames["front"][[1]])
    assert len(data._readers._open._values) == 2


def test_an_example_reads_at_most_twice_the_bytes_it_uses(tmp_path, monkeypatch):
    """ATM's and AMPLIFY's example sizes; windows at any start."""
    rng = np.random.default_rng(0)
    frames = {v: np.repeat(rng.integers(0, 256, (1, 32, 32, 3), np.uint8), 40, 0) for v in ("front", "wrist")}
    sets = {
        "a/atm": {"front": track_set(rng, 40, 1098)},
        "a/amplify": {v: track_set(rng, 40, 16, 400) for v in frames},
    }
    write_shard(tmp_path, "train", 0, [replace(make_episode(0), frames=frames, columns={}, cameras={}, tracks=sets)])
    finish(tmp_path, shards={"train": 1})
    data, counted = Dataset(tmp_path, "train"), []
    read = shards.ShardReader.read

    def counting(self, records, fields):
        contents = read(self, records, fields)
        counted.append(sum(map(len, contents)))
        return contents

    monkeypatch.setattr(shards.ShardReader, "read", counting)
    ratios = {}
    for start in range(24):
        for name, steps, views in (("a/atm", 16, ("front",)), ("a/amplify", 1, ("front", "wrist"))):
            counted.clear()
            used = 0
            for view in views:
                data.frames(0, view, [start])
                used += counted[-1]
                got = data.tracks(0, name, view, start, start + steps)
                used += got.points.nbytes + got.visible.size / 8
            ratios.setdefault(name, []).append(sum(counted) / used)
    assert max(ratios["a/atm"]) < 1.65 and np.mean(ratios["a/atm"]) < 1.55
    assert max(ratios["a/amplify"]) < 1.1


def test_a_track_set_is_added_without_touching_frames(tmp_path):
    count = write(tmp_path, count=4, per_shard=2)
    before = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in tmp_path.iterdir() if ".json" not in p.name}
    rng = np.random.default_rng(5)
    added = [{"wrist": track_set(rng, 11, 3)}, {}, {"front": track_set(rng, 11, 3)}, {"wrist": track_set(rng, 11, 3)}]
    write_track_shard(tmp_path, "train", 0, "dis/new", added[:2])
    assert shard_done(tmp_path, "train", 0, "dis/new") and not shard_done(tmp_path, "train", 1, "dis/new")
    assert "dis/new" not in Dataset(tmp_path, "train").infos[0].track_sets  # not before it is finished
    with pytest.raises(UserError, match=r"dis/new of split train lacks the shards \[1\]"):
        finish(tmp_path, shards={"train": count})
    write_track_shard(tmp_path, "train", 1, "dis/new", added[2:])
    finish(tmp_path, shards={"train": count})
    data = Dataset(tmp_path, "train")
    for i, views in enumerate(added):
        assert set(data.infos[i].track_sets.get("dis/new", {})) == set(views)
        for view, t in views.items():
            np.testing.assert_array_equal(data.tracks(i, "dis/new", view, 0, 11).points, t.points)
        assert set(make_episode(i).tracks) <= set(data.infos[i].track_sets)
    after = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in tmp_path.iterdir() if p.name in before}
    assert after == before
    with pytest.raises(UserError, match="already has the track set dis/new"):
        write_track_shard(tmp_path, "train", 0, "dis/new", added[:2])
    with pytest.raises(UserError, match="is finished and shard 0"):
        write_shard(tmp_path, "train", 0, [])


def test_tracks_made_for_other_episodes_do_not_pass(tmp_path):
    write_shard(tmp_path, "train", 0, [make_episode(0)])
    write_track_shard(tmp_path, "train", 0, "dis/new", [{}])
    write_shard(tmp_path, "train", 0, [make_episode(2)])
    with pytest.raises(UserError, match=r"dis\+new belongs to other episodes"):
        finish(tmp_path, shards={"train": 1})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": {}}, "no frames"),
        ({"frames": {"front": np.zeros((2, 4, 4, 3), np.float32)}}, "uint8"),
        ({"columns": {"actions": np.zeros((3, 2))}}, "column 'actions': expected 11 rows"),
        ({"columns": {"actions": np.full((11, 2), np.nan)}}, "NaN"),
        ({"columns": {"proprio/x": np.zeros(11)}}, r"expected \[11, d\]"),
        ({"columns": {"name": np.array(["a"] * 11)}}, "expected numbers"),
        ({"info": {"a": np.zeros(2)}}, "JSON"),
        ({"fps": 0.0}, "fps"),
        ({"tracks": {"a": {"top": track_set(np.random.default_rng(0), 11, 2)}}}, "'top'"),
        ({"tracks": {"a": {"front": track_set(np.random.default_rng(0), 10, 2)}}}, r"expected points \[11, N, 2\]"),
        ({"tracks": {"bad name": {"front": track_set(np.random.default_rng(0), 11, 2)}}}, "track set 'bad name'"),
    ],
)
def test_what_cannot_be_stored_is_refused_and_leaves_nothing(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        write_shard(tmp_path, "train", 0, [make_episode(1), replace(make_episode(0), **change)])
    assert list(tmp_path.iterdir()) == []


def test_finish_names_what_is_missing(tmp_path):
    write_shard(tmp_path, "train", 1, [make_episode(0)])
    with pytest.raises(UserError, match=r"lacks the shards \[0, 2\] of 3"):
        finish(tmp_path, shards={"train": 3})
    write_shard(tmp_path, "train", 0, [make_episode(0)])
    with pytest.raises(UserError, match="two episodes of split train have the id 'e0'"):
        finish(tmp_path, shards={"train": 2})
    with pytest.raises(UserError, match=r"the shards \[1\] are there"):
        finish(tmp_path, shards={"train": 1})
    with pytest.raises(UserError, match=r"2 shards are done and manifest.json is missing"):
        Dataset(tmp_path, "train")
    with pytest.raises(UserError, match="does not exist"):
        Dataset(tmp_path / "nowhere", "train")


WRITER = """
    import sys
    sys.path.insert(0, {root!r})
    from t2p.data.store import finish, shard_done, write_shard
    from episodes import make_episode
    for k in range(4):
        if not shard_done({out!r}, "train", k):
            write_shard({out!r}, "train", k, map(make_episode, range(3 * k, 3 * k + 3)), codec="png")
        print(k, flush=True)
    finish({out!r}, shards={{"train": 4}})
"""


def test_killed_at_any_moment_never_whole_and_goes_on_to_the_same(tmp_path):
    """kill -9 at several moments; then a run to the end; checksums of records equal those of an undisturbed run."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    write(whole, count=12, per_shard=3)
    code = textwrap.dedent(WRITER.format(root=str(Path(__file__).parent), out=str(out)))
    for shards_before_the_kill, wait in ((1, 0.0), (2, 0.004), (3, 0.008)):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for line in process.stdout:
            if int(line) == shards_before_the_kill - 1:
                time.sleep(wait)
                process.send_signal(signal.SIGKILL)
                break
        process.stdout.close()
        if process.wait() != -signal.SIGKILL:
            continue  # it was faster
        if not (out / "manifest.json").exists():
            with pytest.raises(UserError, match="was not finished"):
                Dataset(out, "train")
    (out / ".train-00003.episodes.array_record.0123abcd.partial").write_bytes(b"left by a killed writer")
    (out / "train-00003.episodes.json").unlink(missing_ok=True)
    (out / "manifest.json").unlink(missing_ok=True)
    kept = (out / "train-00000.episodes.array_record").stat().st_mtime_ns
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    assert (out / "train-00000.episodes.array_record").stat().st_mtime_ns == kept
    assert read_manifest(out) == {**read_manifest(whole), "licence": "", "source": ""}
    assert not [p for p in out.iterdir() if p.name.endswith(".partial")]


def damaged(directory: Path, name: str, change) -> Path:
    path = directory / name
    path.write_bytes(change(path.read_bytes()))
    return path


def test_damage_is_told_by_shard_record_and_field(dataset, tmp_path):
    shutil.copytree(dataset.directory, tmp_path / "d")
    name = "train-00001.tracks.walk+grid.array_record"
    points = make_episode(3).tracks["walk/grid"]["front"].queries.tobytes()
    content = (tmp_path / "d" / name).read_bytes()
    middle = len(content) // 2 if points not in content else content.index(points) + 5
    damaged(tmp_path / "d", name, lambda b: b[:100] + bytes(x ^ 255 for x in b[100:middle]) + b[middle:])
    data = Dataset(tmp_path / "d", "train")
    with pytest.raises(
        DamagedRecord, match=r"train-00001\.tracks\.walk\+grid, record 0, .*queries.*t2p data check"
    ) as e:
        data.tracks(3, "walk/grid", "front", 0, 3)
    assert (e.value.shard, e.value.record) == ("train-00001.tracks.walk+grid", 0)
    again = pickle.loads(pickle.dumps(e.value))  # as when it comes from a loader's process
    assert (again.record, again.field, str(again)) == (e.value.record, e.value.field, str(e.value))
    assert_same(data.read(0), make_episode(0))  # the rest can be read


def test_truncated_missing_and_exchanged_files(dataset, tmp_path):
    shutil.copytree(dataset.directory, tmp_path / "d")
    frames = "train-00000.episodes.array_record"
    damaged(tmp_path / "d", frames, lambda b: b[:-1000])
    with pytest.raises(DamagedRecord, match=r"the file, field file: has .* bytes, .* were written"):
        Dataset(tmp_path / "d", "train").frames(0, "front", [0])
    (tmp_path / "d" / frames).unlink()
    with pytest.raises(DamagedRecord, match="is missing"):
        Dataset(tmp_path / "d", "train").frames(0, "front", [0])
    size = (Path(dataset.directory) / frames).stat().st_size
    (tmp_path / "d" / frames).write_bytes(bytes(size))
    with pytest.raises(DamagedRecord, match="0 records can be read"):
        Dataset(tmp_path / "d", "train").frames(0, "front", [0])
    damaged(tmp_path / "d", "train-00001.episodes.json", lambda b: b.replace(b"e4", b"e9"))
    with pytest.raises(DamagedRecord, match=r"not the one that manifest.json vouches for"):
        Dataset(tmp_path / "d", "train")
    (tmp_path / "d" / "train-00001.episodes.json").unlink()
    with pytest.raises(DamagedRecord, match=r"train-00001.episodes.json is missing"):
        Dataset(tmp_path / "d", "train")


def test_a_record_in_the_wrong_place_is_noticed(tmp_path):
    """Two good records exchanged: ArrayRecord's own checksums hold, ours do not."""
    shard = shards.ShardWriter(tmp_path, "a")
    with shard:
        shard.add(b"first")
        shard.add(b"second")
        sidecar = shard.finish({})
    contents = shards.ArrayRecordReader(str(tmp_path / "a.array_record"), shards._READ).read_all()
    writer = shards.ArrayRecordWriter(str(tmp_path / "a.array_record"), shards._WRITE)
    for content in reversed(contents):
        writer.write(content)
    writer.close()
    sidecar["bytes"] = os.path.getsize(tmp_path / "a.array_record")
    with pytest.raises(DamagedRecord, match="record 0, field x: checksum"):
        shards.ShardReader(tmp_path, "a", sidecar).read([0], ["x"])


@pytest.mark.parametrize(
    ("schema", "advice"),
    [("t2p-episodes-v9", "use a newer t2p"), ("other", "`t2p data import` writes one"), (None, "`t2p data import`")],
)
def test_other_schemas_are_refused_by_name(schema, advice, tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"schema": schema}))
    with pytest.raises(UserError) as e:
        Dataset(tmp_path, "train")
    assert f"has schema {schema!r}; this is t2p {__version__}, which reads 't2p-episodes-v1': {advice}" in str(e.value)


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    """gs:// served from memory; downloads are cached in a fresh folder."""
    import fsspec
    from etils.epath import backend, gpath
    from fsspec.implementations.memory import MemoryFileSystem

    class Bucket(MemoryFileSystem):
        protocol = ("gs", "gcs")
        store: ClassVar[dict] = {}
        pseudo_dirs: ClassVar[list] = [""]

        @classmethod
        def _strip_protocol(cls, path):
            return super()._strip_protocol("memory://" + path.removeprefix("gs://").lstrip("/"))

    memory = Bucket(finalize_on_close=True)
    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
    monkeypatch.setattr(backend._FileSystemSpecBackend, "fs", lambda self, path: self_or_local(memory, path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def self_or_local(remote, path):
        return remote if os.fspath(path).startswith("gs://") else fsspec.filesystem("file")

    return "gs://bucket/data"


def test_remote_directories(bucket, tmp_path, dataset):
    write(bucket)
    assert_same(Dataset(bucket, "train").read(3), make_episode(3))
    local, remote = read_manifest(dataset.directory), read_manifest(bucket)
    assert remote == local
    rng = np.random.default_rng(0)
    write_track_shard(bucket, "train", 0, "dis/new", [{"front": track_set(rng, 11, 2)}] * 3)
    write_track_shard(bucket, "train", 1, "dis/new", [{}] * 3)
    finish(bucket, shards={"train": 2})
    assert Dataset(bucket, "train").tracks(1, "dis/new", "front", 2, 5).points.shape == (3, 2, 2)
    assert not [p for p in tmp_path.iterdir() if p.name.endswith(".partial")]


def test_opening_does_not_read_records_and_the_index_is_small(tmp_path):
    """Index rows of clips that share their layout stay under a hundred bytes."""
    episodes = [replace(make_episode(0, length=1, views=("a",)), id=f"clip-{i:06d}", tracks={}) for i in range(200)]
    write_shard(tmp_path, "train", 0, episodes)
    finish(tmp_path, shards={"train": 1})
    assert (tmp_path / "train-00000.episodes.json").stat().st_size < 200 * 130
    (tmp_path / "train-00000.episodes.array_record").unlink()
    assert len(Dataset(tmp_path, "train").infos) == 200
