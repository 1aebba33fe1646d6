"""`check` names shard, record and field of each fault, and finds nothing wrong with what is whole."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from episodes import make_episode

from t2p.data import records, shards
from t2p.data.check import check
from t2p.data.codec import encode_image, pack, pack_array, unpack
from t2p.data.store import DamagedRecord, finish, write_shard
from t2p.io import UserError

FRAMES, GRID = "train-00000.episodes", "train-00000.tracks.walk+grid"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("check")
    write_shard(directory, "train", 0, [make_episode(0), make_episode(1)])
    write_shard(directory, "val", 0, [make_episode(2)])
    finish(directory, shards={"train": 1, "val": 1})
    return directory


@pytest.fixture
def dataset(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "d")
    return tmp_path / "d"


def found(directory):
    return [(f.shard, f.record, f.field) for f in check(directory)]


def rewrite(directory, name, changes):
    """Writes a shard again with some contents changed, as a faulty writer would have: checksums fit the contents."""
    sidecar = shards.read_sidecar(directory, name)
    contents = shards.ShardReader(directory, name, sidecar).read(range(sidecar["records"]), [""] * sidecar["records"])
    with shards.ShardWriter(directory, name) as writer:
        for number, content in enumerate(contents):
            writer.add(changes.get(number, lambda c: c)(content))
        index = {k: v for k, v in sidecar.items() if k not in ("schema", "records", "bytes", "sha256")}
        new = writer.finish(index)
    if "track_set" not in index:
        for other in directory.glob("train-00000.tracks.*.json"):
            other.write_text(other.read_text().replace(sidecar["sha256"], new["sha256"]))
    finish(directory, shards={"train": 1, "val": 1})


def test_a_whole_dataset_has_no_faults(dataset):
    seen = []
    assert list(check(dataset, seen.append)) == []
    amplify = [f"{split}-00000.tracks.walk+amplify" for split in ("train", "val")]
    assert sorted(seen) == sorted([FRAMES, GRID, "val-00000.episodes", *amplify])


def test_missing_files(dataset):
    (dataset / f"{GRID}.array_record").unlink()
    (dataset / f"{FRAMES}.json").unlink()
    (dataset / "val-00000.episodes.array_record").write_bytes(b"")
    assert found(dataset) == [
        (FRAMES, None, "sidecar"),
        (GRID, None, "file"),
        ("val-00000.episodes", None, "file"),
    ]


def test_truncated_file(dataset):
    path = dataset / f"{FRAMES}.array_record"
    path.write_bytes(path.read_bytes()[:-7])
    (fault,) = check(dataset)
    assert "bytes, " in fault.problem and (fault.shard, fault.field) == (FRAMES, "file")


def test_bit_rot_is_one_fault_in_one_record(tmp_path):
    write_shard(tmp_path, "train", 0, [make_episode(0), make_episode(1)], codec="png")
    finish(tmp_path, shards={"train": 1})
    path = tmp_path / f"{FRAMES}.array_record"
    data = bytearray(path.read_bytes())
    place = data.find(encode_image(make_episode(1).frames["front"][4], "png")[100:140])  # noise is stored as it is
    assert place > 0
    data[place] ^= 1
    path.write_bytes(bytes(data))
    episode = 1 + 11 + 11  # facts, frames of two views
    assert found(tmp_path) == [(FRAMES, episode + 1 + 4, "frames/front/4")]


def test_undecodable_and_odd_frames(dataset):
    other = encode_image(np.zeros((4, 4, 3), np.uint8), "png")
    rewrite(dataset, FRAMES, {3: lambda c: c[:50], 14: lambda c: other})
    faults = list(check(dataset))
    assert [(f.record, f.field) for f in faults] == [(3, "frames/front/2"), (14, "frames/wrist/2")]
    assert "decode" in faults[0].problem and "4 x 4 pixels, expected 14 x 18" in faults[1].problem


def test_columns_that_the_index_does_not_describe(dataset):
    def shorter(content):
        record = unpack(content)
        record["columns"]["reward"] = pack_array(np.zeros(3))
        record["id"] = "other"
        return pack(record)

    rewrite(dataset, FRAMES, {0: shorter})
    assert found(dataset) == [(FRAMES, 0, "id"), (FRAMES, 0, "columns/reward")]
    with pytest.raises(DamagedRecord, match="record 0, field columns: column 'actions' is not in"):  # by statistics
        rewrite(dataset, FRAMES, {0: lambda c: pack({**unpack(c), "columns": {}})})


def test_tracks_of_wrong_shape(dataset):
    t = make_episode(1).tracks["walk/grid"]["front"]
    header, first, _ = records.track_records(replace(t, points=t.points[:, :3], visible=t.visible[:, :3]))
    rewrite(dataset, GRID, {0: lambda c: header, 4: lambda c: first})
    assert found(dataset) == [(GRID, 4, "tracks/walk/grid/wrist/0")]  # queries alone were not changed
    rewrite(dataset, GRID, {3: lambda c: pack({"queries": pack_array(np.zeros((2, 3), np.float32))})})
    assert (GRID, 3, "tracks/walk/grid/wrist/queries") in found(dataset)


def test_an_exchanged_shard_is_noticed_by_its_digest(dataset, tmp_path):
    """Another good shard of equal length and layout, with a sidecar made to fit the manifest."""
    write_shard(tmp_path, "train", 0, [replace(make_episode(i), language=("x", "y")) for i in (0, 1)])
    size = (dataset / f"{FRAMES}.array_record").stat().st_size
    if (tmp_path / f"{FRAMES}.array_record").stat().st_size != size:
        pytest.skip("the other shard has another length")
    shutil.copy(tmp_path / f"{FRAMES}.array_record", dataset / f"{FRAMES}.array_record")
    assert found(dataset) == [(FRAMES, None, "file")]


def test_unfinished_datasets_and_other_folders(dataset, tmp_path):
    (dataset / "manifest.json").unlink()
    (dataset / f"{GRID}.array_record").write_bytes(b"x")
    assert found(dataset) == [("manifest.json", None, "manifest"), (GRID, None, "file")]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no t2p dataset"):
        list(check(tmp_path / "empty"))
    (dataset / f"{GRID}.json").write_text('{"schema": "t2p-episodes-v1", "track_set": "a"}')
    assert (GRID, None, "sidecar") in found(dataset)
