"""The batch job: what it writes, resumption after -9, array jobs, broken videos, refusals."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cv2
import numpy as np
import psutil
import pytest

from t2p.cli import annotate as cli
from t2p.cli.main import main
from t2p.data.store import Dataset, read_manifest
from t2p.io import UserError
from t2p.tracking import engines
from t2p.tracking.annotate import Job, plan
from t2p.tracking.batch import annotate
from t2p.tracking.dis import Dis
from t2p.tracking.layouts import Clip, Grid, clip_rng
from t2p.tracking.ledger import Ledger
from tests.tracking.moving import shifted

FRAMES = 6


def write_frames(folder, seed):
    """A folder of pictures: a texture that drifts by `seed` pixels a frame."""
    folder.mkdir(parents=True)
    for t, frame in enumerate(shifted([(0.4 * seed * t, 0.5 * t) for t in range(FRAMES)], (48, 64), seed)):
        cv2.imwrite(str(folder / f"{t:03d}.png"), frame[..., ::-1])


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    for i in range(5):
        write_frames(root / f"clip{i}", i)
    return root


def job(clips, out, **changes):
    options = {"source_options": {"recorded_fps": 10.0}, "split": "train", "episodes_per_shard": 2, "codec": "png"}
    return Job(**({"input": str(clips), "out": str(out), "tracker": "lk", "layout": "grid", **options} | changes))


def run(job, **options):
    return annotate(job, **({"workers": 1, "quiet": True, "say": lambda line: None} | options))


def checksums(directory):
    """Digest of the records of every shard and track set."""
    manifest = read_manifest(directory)
    found = {}
    for split, entry in manifest["splits"].items():
        for name, shards in {"": entry["shards"], **entry["track_sets"]}.items():
            found |= {(split, name, k): shard and shard["sha256"] for k, shard in enumerate(shards)}
    return found


def test_videos_become_episodes_with_tracks(clips, tmp_path):
    summary = run(job(clips, tmp_path / "out", tracker="dis", layout_options={"side": 4}))
    assert (summary.written, summary.shards, summary.waiting_for) == (3, 3, [])
    data = Dataset(tmp_path / "out", "train")
    assert [info.id for info in data.infos] == [f"clip{i}" for i in range(5)]
    frames = data.frames(3, "front", range(FRAMES))
    np.testing.assert_array_equal(frames[0], shifted([(0, 0)], (48, 64), 3)[0])
    stored = data.tracks(3, "dis/grid", "front", 0, FRAMES)
    dis = Dis()
    expected = Grid(side=4).annotate(Clip(dis, dis.prepare(frames), FRAMES, (48, 64)), clip_rng("clip3", "front", 0))
    np.testing.assert_array_equal(stored.points, expected.points)
    assert stored.points.shape == (FRAMES, 16, 2) and stored.tracker == "dis" and stored.version == dis.version
    report = json.loads((tmp_path / "out/annotation/train.dis+grid/report.json").read_text())
    assert (report["episodes"], report["frames"], report["skipped"]) == (5, 30, [])


def start_command(clips, out, *more):
    arguments = ["annotate", "--input", str(clips), "--out", str(out), "--layout", "atm", "--episodes_per_shard", "1"]
    command = [sys.executable, "-m", "t2p.cli.main", *arguments, "--source.recorded_fps=10", *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def test_killed_at_any_moment_and_started_again(clips, tmp_path):
    process = start_command(clips, tmp_path / "killed", "--workers", "2")
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "killed").glob("*.episodes.json"))) < 2:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive  # nobody goes on writing
    done = {p: p.stat().st_mtime_ns for p in (tmp_path / "killed").glob("*.json")}
    assert 2 <= sum("episodes" in p.name for p in done) < 5
    with pytest.raises(UserError, match="not finished"):
        Dataset(tmp_path / "killed", "train")

    finished = {k for k in range(5) if (tmp_path / f"killed/train-{k:05d}.episodes.json").exists()}
    again = start_command(clips, tmp_path / "killed", "--workers", "1")
    output, _ = again.communicate(timeout=120)
    assert again.returncode == 0 and f"{len(finished)} shards done already" in output
    for path, written in done.items():
        if int(path.name[6:11]) in finished:
            assert path.stat().st_mtime_ns == written
    assert not list((tmp_path / "killed").glob(".*"))  # no leftovers

    settings = {"tracker": "dis", "layout": "atm", "episodes_per_shard": 1, "codec": "jpeg"}
    run(job(clips, tmp_path / "undisturbed", source_options={"recorded_fps": 10}, **settings))
    assert checksums(tmp_path / "killed") == checksums(tmp_path / "undisturbed")


def test_a_track_set_is_added_in_place_and_to_a_copy(clips, tmp_path):
    run(job(clips, tmp_path / "a"))
    frames = {p.name: p.read_bytes() for p in (tmp_path / "a").glob("*.episodes.*")}
    options = {"layout": "amplify", "layout_options": {"side": 3, "horizon": 4}, "adds": True, "split": ""}
    for out in ("a", "b"):
        assert run(job(tmp_path / "a", tmp_path / out, source_options={}, **options)).waiting_for == []
        assert {p.name: p.read_bytes() for p in (tmp_path / out).glob("*.episodes.*")} == frames
        data = Dataset(tmp_path / out, "train")
        assert data.infos[4].track_sets == {"lk/grid": {"front": "global"}, "lk/amplify": {"front": "window"}}
        assert data.tracks(4, "lk/amplify", "front", 0, FRAMES).points.shape == (FRAMES, 4, 9, 2)
    assert checksums(tmp_path / "a") == checksums(tmp_path / "b")


def test_parts_of_an_array_job_may_run_at_once(clips, tmp_path):
    run(job(clips, tmp_path / "whole"))
    with ThreadPoolExecutor(2) as pool:
        parts = list(pool.map(lambda i: run(job(clips, tmp_path / "parts"), part=(i, 2)), range(2)))
    assert [p.written for p in parts] == [2, 1] and [] in [p.waiting_for for p in parts]
    assert checksums(tmp_path / "parts") == checksums(tmp_path / "whole")
    again = run(job(clips, tmp_path / "parts"), part=(1, 2))
    assert (again.written, again.waiting_for) == (0, [])


def test_the_dataset_is_finished_when_all_its_jobs_are(clips, tmp_path):
    assert run(job(clips, tmp_path / "out"), part=(0, 2)).waiting_for == ["train.lk+grid"]
    assert run(job(clips, tmp_path / "out", split="val")).waiting_for == ["train.lk+grid"]
    assert run(job(clips, tmp_path / "out"), part=(1, 2)).waiting_for == []
    assert {s: e["episodes"] for s, e in read_manifest(tmp_path / "out")["splits"].items()} == {"train": 5, "val": 5}


def test_broken_videos_are_skipped_and_reported(clips, tmp_path, capsys):
    root = tmp_path / "in"
    root.mkdir()
    (root / "a.mp4").write_text("no video")
    (root / "b.mp4").write_bytes(b"")
    write_frames(root / "c", 1)
    arguments = [
        "annotate",
        "--input",
        str(root),
        "--out",
        str(tmp_path / "out"),
        "--tracker",
        "lk",
        "--layout",
        "grid",
    ]
    options = ["--source.recorded_fps=5", "--workers", "1", "--episodes_per_shard", "2"]  # the first shard is empty
    assert main([*arguments, *options]) == 0
    assert "skipped a.mp4" in capsys.readouterr().out
    data = Dataset(tmp_path / "out", "train")
    assert [info.id for info in data.infos] == ["c"] and data.infos[0].fps == 5
    report = json.loads((tmp_path / "out/annotation/train.lk+grid/report.json").read_text())
    assert [s["episode"] for s in report["skipped"]] == ["a.mp4", "b.mp4"] and all(
        s["reason"] for s in report["skipped"]
    )
    os.rename(root / "c", tmp_path / "c")
    assert main([*arguments[:3], *options[1:], "--out", str(tmp_path / "none")]) == 1
    assert "no video could be annotated" in capsys.readouterr().out


def test_depth_masks_and_stored_tracks(clips, tmp_path):
    for i in range(4):
        (tmp_path / f"depth/clip{i}").mkdir(parents=True)
        (tmp_path / f"masks/clip{i}").mkdir(parents=True)
        np.save(tmp_path / f"depth/clip{i}/front.npy", np.full((FRAMES, 24, 32), 1.5, np.float32))
        mask = np.zeros((1, 24, 32), bool)
        mask[:, :12] = True
        np.save(tmp_path / f"masks/clip{i}/front.npy", mask)
    places = {"depth": str(tmp_path / "depth"), "masks": str(tmp_path / "masks"), "space": "image_depth"}
    summary = run(job(clips, tmp_path / "out", layout_options={"side": 2}, **places))
    assert [s["episode"] for s in summary.report["skipped"]] == ["clip4"]  # it has no depth
    tracks = Dataset(tmp_path / "out", "train").tracks(0, "lk/grid-image_depth", "front", 0, 1)
    np.testing.assert_allclose(tracks.points[0, :, 2], 1.5)
    assert tracks.visible.tolist() == [[False, False, True, True]] and tracks.space == "image_depth"


def test_refusals(clips, tmp_path):
    run(job(clips, tmp_path / "out"))
    added = job(tmp_path / "out", tmp_path / "out", source_options={}, adds=True, split="")
    other = tmp_path / "other"
    write_frames(other / "x", 1)
    run(job(other, tmp_path / "second"))
    elsewhere = {"folder": str(tmp_path / "out"), "libero_root": str(tmp_path / "nope")}
    for bad, message in (
        (job(clips, tmp_path / "out", seed=1), "seed: 0, now 1"),
        (job(other, tmp_path / "out"), "other episodes than before"),
        (job(clips, tmp_path / "out", layout="amplify"), "already holds episodes of split 'train'"),
        (added, "already has a track set lk/grid"),
        (replace(added, out=str(tmp_path / "second"), name="x"), "choose another --out"),
        (replace(added, split="test"), "no split 'test'"),
        (job(clips, tmp_path / "new", space="camera"), "needs depth"),
        (job(clips, tmp_path / "new", layout="stored"), "external"),
        (job(clips, tmp_path / "new", tracker_options={"gaps": [1]}), "takes no options"),
        (job(clips, tmp_path / "new", space="camera", depth=str(tmp_path / "nope")), "--depth .*nope is not a folder"),
        (job(clips, tmp_path / "new", masks=str(tmp_path / "nope")), "--masks .*nope is not a folder"),
        (job(clips, tmp_path / "new", tracker="simulator", tracker_options=elsewhere), "nope does not exist. .*LIBERO"),
        (job(clips, tmp_path / "new", size=(-4, 32)), "--size -4 32"),
        (job(clips, tmp_path / "new", name="a b/../c"), "track set 'a b/../c'"),
        (job(clips, tmp_path / "new", tracker="dis", tracker_options={"threshold": -1.0}), "above 0"),
        (job(clips, tmp_path / "new", tracker="dis", tracker_options={"short_side": -1}), "above 0"),
    ):
        with pytest.raises(UserError, match=message):
            run(bad)
    with pytest.raises(UserError, match="--workers -1"):
        run(job(clips, tmp_path / "new"), workers=-1)
    assert not list((tmp_path / "new").rglob("job.json"))


def test_a_job_that_cannot_begin_leaves_nothing_that_others_wait_for(clips, tmp_path, capsys):
    out = tmp_path / "out"
    run(job(clips, out, tracker="dis"))
    (tmp_path / "weights.npy").write_bytes(b"no weights")
    added = ["annotate", "--input", str(out), "--out", str(out)]
    wrong = ["--tracker", "tapir", "--weights", str(tmp_path / "weights.npy"), "--layout", "grid"]
    assert main([*added, *wrong]) == 2
    assert main([*added, "--tracker", "lk", "--layout", "grid"]) == 0
    assert "is complete, track set lk/grid" in capsys.readouterr().out
    assert set(read_manifest(out)["splits"]["train"]["track_sets"]) == {"dis/grid", "lk/grid"}


def test_a_record_binds_only_once_a_shard_is_done(clips, tmp_path):
    killed = job(clips, tmp_path / "out", seed=1)
    Ledger(killed, plan(killed))  # and then -9
    run(replace(killed, seed=2))
    with pytest.raises(UserError, match="seed: 2, now 1"):
        run(killed)


def test_a_job_without_any_track_is_tried_again(clips, tmp_path):
    (tmp_path / "depth").mkdir()
    lifted = {"space": "image_depth", "depth": str(tmp_path / "depth"), "layout_options": {"side": 2}}
    run(job(clips, tmp_path / "out"))
    for work in (
        job(clips, tmp_path / "new", **lifted),
        job(tmp_path / "out", tmp_path / "out", source_options={}, adds=True, split="", **lifted),
    ):
        assert run(work).all_failed
    for i in range(5):
        (tmp_path / f"depth/clip{i}").mkdir()
        np.save(tmp_path / f"depth/clip{i}/front.npy", np.full((FRAMES, 24, 32), 1.5, np.float32))
    for work in (
        job(clips, tmp_path / "new", **lifted),
        job(tmp_path / "out", tmp_path / "out", source_options={}, adds=True, split="", **lifted),
    ):
        summary = run(work)
        assert (summary.written, summary.report["episodes"], summary.waiting_for) == (3, 5, [])
        assert "lk/grid-image_depth" in read_manifest(work.out)["splits"]["train"]["track_sets"]


def _die(*_):
    os._exit(9)


def test_a_worker_that_dies_is_named(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "_start", _die)
    with pytest.raises(UserError, match="worker process died"):
        run(job(clips, tmp_path / "out"), workers=2)


def test_options_of_a_reader_are_refused_for_a_dataset(clips, tmp_path, capsys):
    run(job(clips, tmp_path / "out"))
    arguments = ["annotate", "--input", str(tmp_path / "out"), "--out", str(tmp_path / "out"), "--tracker", "lk"]
    assert main([*arguments, "--source.fps=5"]) == 2
    assert "read without --source options" in capsys.readouterr().err


def test_arguments():
    assert cli.source_options(["--source.fps=5", "--source.videos=a/b"]) == {"fps": 5, "videos": "a/b"}
    with pytest.raises(UserError, match="--trakcer"):
        cli.source_options(["--trakcer=dis"])
    assert cli.parse_part("2/8") == (2, 8)
    for text in ("8/8", "1", "a/b", "-1/2"):
        with pytest.raises(UserError, match="I/N"):
            cli.parse_part(text)


def test_workers_of_flow_trackers_import_no_jax():
    code = "import sys, t2p.tracking.engines, t2p.tracking.dis, t2p.tracking.lk; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.long
def test_ray_writes_the_same(clips, tmp_path):
    ray = pytest.importorskip("ray")
    run(job(clips, tmp_path / "local"))
    try:
        run(job(clips, tmp_path / "ray"), engine="ray")
    finally:
        ray.shutdown()
    assert checksums(tmp_path / "ray") == checksums(tmp_path / "local")


def test_ray_is_named_when_missing(clips, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"t2p\[ray\]"):
        run(job(clips, tmp_path / "out"), engine="ray")


def test_another_split_is_imported_beside_an_annotated_one(tmp_path):
    synthetic = ["--source.count=2", "--source.num_frames=4", "--source.grid=3", "--source.num_points=4"]
    out = str(tmp_path / "out")
    assert main(["annotate", "--source", "synthetic", "--out", out, "--tracker", "lk", *synthetic]) == 0
    held_out = ["--split", "val", "--source.split=val"]
    assert main(["data", "import", "--source", "synthetic", "--out", out, *held_out, *synthetic]) == 0
    assert len(Dataset(out, "train").infos) == len(Dataset(out, "val").infos) == 2
