"""Rerun files: what is logged, where and when (a stand-in for the package), and that the real one takes it."""

from __future__ import annotations

import io
import sys
from itertools import pairwise
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from t2p.cli.main import main
from t2p.data.store import finish, write_shard
from t2p.eval.rerun_file import write_episodes, write_prediction
from t2p.io import UserError
from t2p.types import Camera, Episode, TrackSet

T, N, H, W = 4, 5, 32, 48


class Recorder:
    """Stands in for rerun.RecordingStream."""

    made: list[Recorder]

    def __init__(self, application: str):
        self.application, self.times, self.logged, self.closed = application, {}, [], False
        Recorder.made.append(self)

    def save(self, path: str) -> None:
        if "no-such-folder" in path:
            raise RuntimeError("no such folder")
        self.path = path

    def set_time(self, timeline: str, *, sequence=None, duration=None) -> None:
        self.times[timeline] = sequence if duration is None else duration

    def reset_time(self) -> None:
        self.times = {}

    def log(self, path: list, entity: tuple, static: bool = False) -> None:
        assert isinstance(path, list) and all(path)  # parts are escaped by Rerun, so that names may hold anything
        self.logged.append(("/".join(map(str, path)), entity, None if static else dict(self.times)))

    def disconnect(self) -> None:
        self.closed = True

    def at(self, path: str) -> list[tuple]:
        return [(entity, times) for where, entity, times in self.logged if where == path]


@pytest.fixture
def standin(monkeypatch) -> type[Recorder]:
    module, Recorder.made = ModuleType("rerun"), []
    module.RecordingStream = Recorder  # type: ignore[attr-defined]
    for name in (
        "EncodedImage",
        "Points2D",
        "Points3D",
        "LineStrips2D",
        "Transform3D",
        "Pinhole",
        "Scalars",
        "TextDocument",
    ):
        setattr(module, name, lambda *args, _kind=name, **named: (_kind, args, named))
    monkeypatch.setitem(sys.modules, "rerun", module)
    return Recorder


def track_set(layout: str, space: str) -> TrackSet:
    rng, dims = np.random.default_rng(0), 2 if space == "image" else 3
    shape = (T, N) if layout == "global" else (T, 3, N)
    visible = rng.random(shape) < 0.6
    points = rng.random((*shape, dims)).astype(np.float32)
    return TrackSet(layout, points, visible, np.zeros((N, 3), np.float32), "dis", "1", space)


def episode() -> Episode:
    frames = np.random.default_rng(1).integers(0, 60, (T, H, W, 3), np.uint8)
    tracks = {
        "dis/atm": {"front": track_set("global", "image")},
        "exact/objects": {"front": track_set("global", "camera")},
        "tapir/amplify": {"front": track_set("window", "image_depth")},
    }
    camera = Camera(np.diag([40.0, 40, 1]), np.eye(4) + np.eye(4, k=3) * 0.5, (H, W))
    columns = {"actions": np.arange(T * 2.0).reshape(T, 2)}
    return Episode("e 0/1", 10.0, {"front": frames}, columns, ("push it",), {"front": camera}, tracks)


def test_episodes_are_logged_frame_by_frame(standin, tmp_path) -> None:
    one = episode()
    write_episodes(tmp_path / "a.rrd", [one, one])
    (made,) = standin.made
    assert made.path == str(tmp_path / "a.rrd") and made.closed
    pictures = made.at("e 0/1/front/picture")[1:]  # behind the pinhole
    assert [times for _, times in pictures[:T]] == [{"frame": t, "seconds": t / 10} for t in range(T)]
    decoded = np.asarray(Image.open(io.BytesIO(pictures[2][0][2]["contents"])))
    assert np.abs(decoded.astype(int) - one.frames["front"][2]).mean() < 12
    (columns, times), *_ = made.at("e 0/1/columns/actions")[1:]
    assert columns[1][0].tolist() == [2.0, 3.0] and times["frame"] == 1
    (kind, _, named), still = made.at("e 0/1/front")[0]
    assert kind == "Transform3D" and still is None and np.allclose(named["translation"], [0.5, 0, 0])
    assert made.at("e 0/1/sentences")[0][0][1] == ("push it",)


def test_tracks_are_in_pixels_on_the_picture_or_in_metres_beside_it(standin, tmp_path) -> None:
    one = episode()
    write_episodes(tmp_path / "a.rrd", [one])
    (made,) = standin.made
    flat, space = one.tracks["dis/atm"]["front"], one.tracks["exact/objects"]["front"]
    on, beside = made.at("e 0/1/front/picture/dis/atm"), made.at("e 0/1/front/exact/objects")
    for t in range(T):
        (kind, (places,), named), _ = on[t]
        assert kind == "Points2D"
        np.testing.assert_allclose(places, flat.points[t, flat.visible[t]] * [W, H], rtol=1e-6)
        assert len(named["colors"]) == flat.visible[t].sum()
        (kind, (places,), _), _ = beside[t]
        assert kind == "Points3D"
        np.testing.assert_array_equal(places, space.points[t, space.visible[t]])
    colors = [dict(zip(np.flatnonzero(flat.visible[t]), map(tuple, on[t][0][2]["colors"]))) for t in range(T)]
    for before, after in pairwise(colors):
        assert all(before[n] == after[n] for n in before.keys() & after.keys())  # a point keeps its colour


def test_windows_show_where_points_go_while_they_are_seen(standin, tmp_path) -> None:
    one = episode()
    write_episodes(tmp_path / "a.rrd", [one])
    window = one.tracks["tapir/amplify"]["front"]
    for t, ((_, (ways,), _), _) in enumerate(standin.made[0].at("e 0/1/front/picture/tapir/amplify/ways")):
        whole = [n for n in range(N) if window.visible[t, :2, n].all()]
        assert len(ways) == len(whole)
        for way, n in zip(ways, whole):
            steps = 3 if window.visible[t, 2, n] else 2
            np.testing.assert_allclose(way, window.points[t, :steps, n, :2] * [W, H], rtol=1e-6)


def test_predictions_have_their_picture_and_their_steps(standin, tmp_path) -> None:
    tracks = np.random.default_rng(0).random((6, 3, 2))
    write_prediction(tmp_path / "p.rrd", np.zeros((H, W, 3), np.uint8), tracks, "push it")
    (made,) = standin.made
    points = made.at("picture/points")
    assert [times["step"] for _, times in points] == list(range(6))
    np.testing.assert_allclose(points[4][0][1][0], tracks[4] * [W, H])
    ways = made.at("picture/ways")[0][0][1][0]
    np.testing.assert_allclose(ways[2], tracks[:, 2] * [W, H])


def test_without_the_package_the_install_command_is_named(monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(UserError, match=r"needs Rerun: pip install 't2p\[rerun\]'"):
        write_episodes(tmp_path / "a.rrd", [episode()])
    picture = tmp_path / "p.png"
    Image.new("RGB", (9, 9)).save(picture)
    command = ["predict", str(picture), "push it", "--checkpoint", "unused", "--out", str(tmp_path / "p.rrd")]
    assert main(command) == 2
    assert "t2p[rerun]" in capsys.readouterr().err


def test_what_cannot_be_written_is_refused(standin) -> None:
    with pytest.raises(UserError, match="local files only"):
        write_episodes("gs://bucket/a.rrd", [])
    with pytest.raises(UserError, match="folder that you may write to"):
        write_episodes("no-such-folder/a.rrd", [])


def test_data_show_writes_episodes_with_the_set_that_is_asked_for(standin, tmp_path, capsys) -> None:
    write_shard(tmp_path / "d", "train", 0, [episode()], codec="png")
    finish(tmp_path / "d", shards={"train": 1})
    assert main(["data", "show", str(tmp_path / "d"), "--out", str(tmp_path / "a.rrd"), "--tracks", "dis/atm"]) == 0
    assert "rerun" in capsys.readouterr().out
    paths = {where for where, _, _ in standin.made[0].logged}
    assert "e 0/1/front/picture/dis/atm" in paths and not any("exact" in path for path in paths)


def test_the_real_package_takes_it(tmp_path) -> None:
    rerun = pytest.importorskip("rerun", reason="rerun-sdk is not installed (an extra: t2p[rerun])")
    rerun.set_strict_mode(True)  # else it warns of wrong arguments and goes on
    try:
        write_episodes(tmp_path / "a.rrd", [episode()])
        ways = np.random.default_rng(0).random((6, 3, 2))
        write_prediction(tmp_path / "p.rrd", np.zeros((H, W, 3), np.uint8), ways, "go")
    finally:
        rerun.set_strict_mode(False)
    for name in ("a.rrd", "p.rrd"):
        data = (tmp_path / name).read_bytes()
        assert data.startswith(b"RRF") and len(data) > 2000
