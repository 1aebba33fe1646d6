"""Videos and folders of frames: cut, sampled and resized while decoding; broken ones reported one by one."""

from __future__ import annotations

import pickle
import struct
import tracemalloc

import numpy as np
import pytest
from PIL import Image
from recordings import clip, encode, gray, grays, pictures

from t2p.data.sources import SourceError, decode, open_source
from t2p.io import UserError


@pytest.mark.parametrize(("suffix", "codec", "fps"), [("mp4", "libx264", 10), ("webm", "libvpx-vp9", 12)])
def test_video_is_read_cut_and_sampled(tmp_path, suffix, codec, fps):
    file = clip(tmp_path / f"a.{suffix}", 36, fps=fps, codec=codec)
    whole, rate = decode.read_video(file)
    assert rate == fps
    assert grays(whole) == list(range(36))
    part, _ = decode.read_video(file, start=15 / fps, stop=22 / fps)
    assert grays(part) == list(range(15, 22))
    sampled, rate = decode.read_video(file, start=12 / fps, stop=24 / fps, fps=fps / 3)
    assert (grays(sampled), rate) == ([12, 15, 18, 21], fps / 3)
    assert grays(decode.read_video(file, fps=fps / 4)[0]) == list(range(0, 36, 4))
    assert grays(decode.read_video_at(file, [3.2 / fps, 3.6 / fps, 30 / fps])) == [3, 4, 30]


def test_higher_rate_repeats_frames(tmp_path):
    frames, rate = decode.read_video(clip(tmp_path / "a.mp4", 4), fps=20)
    assert (grays(frames)[::2], rate) == ([0, 1, 2, 3], 20)


def test_resizing_keeps_the_edges_in_place(tmp_path):
    """The two halves of a picture stay halves, in videos as in pictures, so that tracks in [0, 1] do not change."""
    half = np.zeros((64, 96, 3), np.uint8)
    half[:, 48:] = 240
    file = encode(tmp_path / "a.mp4", [half] * 3)
    for frames in (decode.read_video(file, size=(32, 24))[0], decode.resize(half[None], (32, 24))):
        row = frames[0, 16, :, 0].astype(float)
        assert row[:11].max() < 12 and row[13:].min() > 228
        np.testing.assert_allclose(row.mean(), 120, atol=4)


def test_long_video_is_not_held_at_full_size(tmp_path):
    file = clip(tmp_path / "a.mp4", 60, size=(480, 640))
    tracemalloc.start()
    frames, _ = decode.read_video(file, size=(48, 64))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert frames.shape == (60, 48, 64, 3)
    assert peak < 8 * frames.nbytes < 60 * 480 * 640 * 3 / 8


def test_a_recording_too_large_to_hold_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "MAX_BYTES", 10 * 48 * 64 * 3)
    file = clip(tmp_path / "a.mp4", 30)
    with pytest.raises(decode.DecodeError, match=r"about 31 frames of 48x64 .*give a smaller size= .*clip table"):
        decode.read_video(file)
    assert len(decode.read_video(file, stop=0.8)[0]) == 8


def test_phone_video_is_turned_upright(tmp_path):
    """A recording marked "turn by 90 degrees clockwise" (matrix 0 1 -1 0 in its track header), as phones write it."""
    frame = np.zeros((32, 64, 3), np.uint8)
    frame[:, :16] = 250  # the left edge as stored is the top edge when turned clockwise
    file = encode(tmp_path / "a.mp4", [frame] * 2)
    matrix = lambda a, b, c, d: struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)  # noqa: E731
    data = file.read_bytes()
    header = data.index(b"tkhd")
    turned = data[header:].replace(matrix(1 << 16, 0, 0, 1 << 16), matrix(0, 1 << 16, -(1 << 16), 0), 1)
    file.write_bytes(data[:header] + turned)
    upright, _ = decode.read_video(file, size=(64, 32))
    assert upright.shape == (2, 64, 32, 3)
    assert upright[0, :12].min() > 230 and upright[0, 20:].max() < 20


def test_broken_videos_are_reported_and_the_rest_goes_on(tmp_path):
    whole = clip(tmp_path / "b/whole.mp4", 8).read_bytes()
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("this is no video")
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    webm = clip(tmp_path / "cut.webm", 40, codec="libvpx-vp9").read_bytes()
    (tmp_path / "cut.webm").write_bytes(webm[: int(len(webm) * 0.6)])
    source = open_source(tmp_path)
    assert source.keys() == ["b/whole.mp4", "cut.mp4", "cut.webm", "empty.mp4", "text.mp4"]
    reasons = {}
    for key in list(source.keys()):
        try:
            assert grays(source.read(key).frames["front"]) == list(range(8))
        except SourceError as e:
            reasons[e.key] = e.reason
    assert set(reasons) == {"cut.mp4", "cut.webm", "empty.mp4", "text.mp4"}
    assert all(reasons[key].startswith("not a readable video") for key in ("cut.mp4", "empty.mp4", "text.mp4"))
    assert "of 4.0 s: the file is cut off" in reasons["cut.webm"]
    error = pickle.loads(pickle.dumps(SourceError("a.mp4", "why")))
    assert (str(error), error.key) == ("a.mp4: why", "a.mp4")


def test_sound_without_pictures_is_reported(tmp_path):
    import av

    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(SourceError, match="no video stream"):
        open_source(tmp_path).read("sound.mp4")


def test_folders_of_frames(tmp_path):
    pictures(tmp_path / "kitchen/take1", 12)
    clip(tmp_path / "b.mp4", 3)
    (tmp_path / ".hidden").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "thumbnail.png")  # beside a video: not a recording of its own
    source = pickle.loads(pickle.dumps(open_source(tmp_path, recorded_fps=6, fps=2, size=(24, 32), view="top")))
    assert source.keys() == ["b.mp4", "kitchen/take1"]
    episode = source.read("kitchen/take1")
    assert episode.id == "kitchen/take1" and episode.fps == 2
    assert episode.frames["top"].shape == (4, 24, 32, 3)
    assert grays(episode.frames["top"]) == [0, 3, 6, 9]
    assert grays(open_source(tmp_path / "kitchen", recorded_fps=6).read("take1").frames["front"]) == list(range(12))


def test_bad_folders(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        open_source(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"holds no recordings; expected videos \(\.mp4"):
        open_source(tmp_path)
    folder = pictures(tmp_path / "a", 3)
    with pytest.raises(UserError, match="a is a folder of frames, which has no frame rate: give recorded_fps="):
        open_source(tmp_path)
    Image.new("RGB", (10, 10)).save(folder / "7.png")
    with pytest.raises(SourceError, match=r"size changes from \(48, 64\) to \(10, 10\); give size="):
        open_source(tmp_path, recorded_fps=5).read("a")
    (folder / "7.png").write_bytes(b"no picture")
    with pytest.raises(SourceError, match="not a readable picture"):
        open_source(tmp_path, recorded_fps=5).read("a")


def test_real_videos(shared):
    source = open_source(shared / "realdata/cotracker_videos", size=(64, 64), fps=10)
    shapes = {key: source.read(key).frames["front"].shape[0] for key in ("apple.mp4", "bear.mp4", "cat.mp4")}
    assert shapes == {"apple.mp4": 50, "bear.mp4": 28, "cat.mp4": 44}
    frames = open_source(shared / "realdata/avdc_thor", recorded_fps=5)
    assert frames.read(frames.keys()[0]).frames["front"].shape == (23, 64, 64, 3)


def test_gray_is_invertible():
    assert grays(np.stack([np.full((2, 2), gray(i)) for i in range(40)])) == list(range(40))
