"""RLDS in TFRecord and ArrayRecord files, without TensorFlow; checksums."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import sys

import numpy as np
import pytest

from t2p.data.sources import SourceError, open_source, tfrecord
from t2p.io import UserError

LENGTHS = (3, 4, 2, 5, 3)  # of the train episodes; one more, of 2 steps, in val


def _features():
    from tensorflow_datasets import features as f

    picture = f.Image(shape=(8, 12, 3))
    observation = {
        "wrist": picture,
        "base": f.FeaturesDict({"rgb": picture, "absent": picture}),
        "state": f.Tensor(shape=(3,), dtype=np.float32),
        "gripper": f.Scalar(dtype=np.float64),
        "natural_language_embedding": f.Tensor(shape=(4,), dtype=np.float32),
        "natural_language_instruction": f.Text(),
    }
    step = {
        "observation": f.FeaturesDict(observation),
        "action": f.FeaturesDict({"move": f.Tensor(shape=(2,), dtype=np.float32), "stop": f.Scalar(dtype=np.bool_)}),
        "reward": f.Scalar(dtype=np.float32),
    }
    return f.FeaturesDict({"steps": f.Dataset(step), "episode_metadata": f.FeaturesDict({"file_path": f.Text()})})


def _png(value):
    from PIL import Image

    buffer = io.BytesIO()
    image = Image.new("RGB", (12, 8), (value,) * 3)
    if value:
        image.putpixel((0, 0), (255, 0, 0))
    image.save(buffer, "png")
    return io.BytesIO(buffer.getvalue())


def _example(features, number, length):
    steps = [
        {
            "observation": {
                "wrist": _png(10 * number + t + 1),
                "base": {"rgb": _png(100 + t), "absent": _png(0)},
                "state": np.full(3, number, np.float32),
                "gripper": t / 8,
                "natural_language_embedding": np.zeros(4, np.float32),
                "natural_language_instruction": "" if t == 0 else f"do {number}",
            },
            "action": {"move": np.array([t, -t], np.float32), "stop": t == length - 1},
            "reward": 0.0,
        }
        for t in range(length)
    ]
    example = {"steps": steps, "episode_metadata": {"file_path": f"take{number}"}}
    return features.serialize_example(features.encode_example(example))


def _framed(record):
    size = struct.pack("<Q", len(record))
    checks = [struct.pack("<I", tfrecord.masked_crc32c(part)) for part in (size, record)]
    return size + checks[0] + record + checks[1]


def _write_shard(path, records):
    if "tfrecord" in path.name:
        path.write_bytes(b"".join(_framed(record) for record in records))
        return
    from array_record.python import array_record_module

    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def make_dataset(root, file_format, name="toy"):
    """train: 3 + 2 episodes in two shards; val: one."""
    folder = root / name / "1.0.0"
    folder.mkdir(parents=True)
    features = _features()
    features.save_config(folder)
    records = [_example(features, i, n) for i, n in enumerate(LENGTHS)]
    shards = {"train": [records[:3], records[3:]], "val": [[_example(features, 9, 2)]]}
    for split, parts in shards.items():
        for k, part in enumerate(parts):
            _write_shard(folder / f"{name}-{split}.{file_format}-{k:05d}-of-{len(parts):05d}", part)
    splits = [
        {
            "name": split,
            "numBytes": "1",
            "shardLengths": [str(len(part)) for part in parts],
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        }
        for split, parts in shards.items()
    ]
    info = {"name": name, "version": "1.0.0", "fileFormat": file_format, "splits": splits}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_episodes(tmp_path, file_format):
    folder = make_dataset(tmp_path, file_format)
    source = pickle.loads(pickle.dumps(open_source(folder.parent, recorded_fps=4)))
    keys = source.keys()
    assert keys == [f"train/{i:06d}" for i in range(5)] + ["val/000000"]
    for number, length, key in zip((0, 1, 2, 3, 4, 9), (*LENGTHS, 2), keys):
        episode = source.read(key)
        assert (episode.id, episode.fps, episode.source) == (key, 4, "rlds:toy")
        assert {view: video.shape for view, video in episode.frames.items()} == dict.fromkeys(
            ("wrist", "base/rgb"), (length, 8, 12, 3)
        )
        assert episode.frames["wrist"][:, 4, 4, 0].tolist() == [10 * number + t + 1 for t in range(length)]
        assert set(episode.columns) == {"action/move", "action/stop", "proprio/state", "proprio/gripper"}
        np.testing.assert_array_equal(episode.columns["proprio/state"], np.full((length, 3), number))
        np.testing.assert_array_equal(episode.columns["action/stop"][:, 0], np.arange(length) == length - 1)
        assert episode.language == (episode.task,) == (f"do {number}",)
        assert episode.info == {"file_path": f"take{number}"}
    assert "tensorflow" not in sys.modules


def test_options(tmp_path):
    folder = make_dataset(tmp_path, "tfrecord")
    source = open_source(folder, split="val", views=["wrist"], size=(4, 6), recorded_fps=4)
    assert source.keys() == ["val/000000"]
    assert {view: video.shape for view, video in source.read("val/000000").frames.items()} == {"wrist": (2, 4, 6, 3)}
    with pytest.raises(UserError, match="does not store the rate of 'toy': give recorded_fps="):
        open_source(folder)
    with pytest.raises(UserError, match="has no split 'test'; it has train, val"):
        open_source(folder, split="test", recorded_fps=4)
    with pytest.raises(SourceError, match=r"no camera has pictures; .*asked for side"):
        open_source(folder, views=["side"], recorded_fps=4).read("val/000000")


def test_damaged_shards_are_reported(tmp_path):
    folder = make_dataset(tmp_path, "tfrecord")
    file = folder / "toy-train.tfrecord-00000-of-00002"
    data = bytearray(file.read_bytes())
    data[-20] ^= 1  # in the last record
    file.write_bytes(data)
    source = open_source(folder, recorded_fps=4)
    assert source.read("train/000000").length == 3
    with pytest.raises(SourceError, match=r"train/000002: .*tfrecord-00000-of-00002 is damaged: .*its checksum"):
        source.read("train/000002")
    assert source.read("train/000003").length == 5
    file.write_bytes(data[:-30])
    with pytest.raises(SourceError, match="is cut off: record 2 needs 30 more bytes"):
        open_source(folder, recorded_fps=4).read("train/000000")
    file.write_bytes(data[: 16 + struct.unpack("<Q", data[:8])[0]])
    with pytest.raises(SourceError, match=r"holds 1 records, dataset_info\.json says 3"):
        open_source(folder, recorded_fps=4).read("train/000000")
    file.write_bytes(os.urandom(200))
    with pytest.raises(SourceError, match="damaged or no TFRecord file: no record header at byte 0"):
        open_source(folder, recorded_fps=4).read("train/000000")
    _write_shard(file, [b"\xff" * 40] * 3)
    with pytest.raises(SourceError, match="the record cannot be read"):
        open_source(folder, recorded_fps=4).read("train/000001")


def test_directories_that_are_no_rlds(tmp_path):
    from tensorflow_datasets import features as f

    with pytest.raises(UserError, match=r"no TFDS directory: expected features\.json"):
        open_source(tmp_path, "rlds")
    folder = make_dataset(tmp_path, "tfrecord")
    f.FeaturesDict({"image": f.Image(shape=(8, 8, 3))}).save_config(folder)
    with pytest.raises(UserError, match=r"no RLDS dataset: it has no feature steps, but \['image'\]"):
        open_source(folder, recorded_fps=4)
    (folder / "dataset_info.json").write_text("{")
    with pytest.raises(UserError, match="no TFDS directory that tensorflow-datasets can read"):
        open_source(folder, recorded_fps=4)


def test_crc32c():
    assert tfrecord.crc32c(b"123456789") == 0xE3069283  # the check value of the CRC catalogue
    assert tfrecord.crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4
    assert tfrecord.crc32c(bytes(range(32))) == 0x46DD794E
    data = np.random.default_rng(0).bytes(70001)
    for length in (255, 256, 257, 1023, 4096, 70001):
        register = 0xFFFFFFFF
        for byte in data[:length]:
            register ^= byte
            for _ in range(8):
                register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
        assert tfrecord.crc32c(data[:length]) == register ^ 0xFFFFFFFF, length


def test_real_dataset(shared):
    source = open_source(shared / "realdata/octo_bridge_debug/bridge_dataset")
    keys = source.keys()
    assert (len(keys), keys[0], keys[-1]) == (50, "train/000000", "val/000024")
    for key in keys[::7]:
        episode = source.read(key)
        assert {view: video.shape for view, video in episode.frames.items()} == dict.fromkeys(
            ("image_0", "image_1", "image_2"), (10, 64, 64, 3)
        )  # image_3 is blank
        assert {name: column.shape for name, column in episode.columns.items()} == dict.fromkeys(
            ("actions", "proprio/state"), (10, 7)
        )
        assert episode.fps == 5 and len(episode.language) == 1 and episode.language[0]
