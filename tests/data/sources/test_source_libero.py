"""LIBERO's demonstrations: each row's picture, numbers and state are of the moment that is said."""

from __future__ import annotations

import gzip
import json
import pickle
import sys

import h5py
import numpy as np
import pytest
from demonstrations import MODEL, POSES, TASK, VIEWS, libero_file, pictures, rows_of
from recordings import grays

from t2p.cli.main import main
from t2p.data.importing import import_source
from t2p.data.sources import SourceError, detect, open_source
from t2p.data.sources.libero import fixture_poses
from t2p.data.store import Dataset
from t2p.io import UserError
from t2p.tracking.annotate import Job
from t2p.tracking.batch import annotate


@pytest.fixture
def demos(tmp_path):
    libero_file(tmp_path / f"libero_90/{TASK}_demo.hdf5")
    return tmp_path / "libero_90"


def test_rows_are_taken_as_the_papers_loaders_take_them(demos):
    source = pickle.loads(pickle.dumps(open_source(demos)))
    assert source.keys() == [f"{TASK}_demo/demo_0", f"{TASK}_demo/demo_1"]
    episode = source.read(f"{TASK}_demo/demo_1")
    stored = rows_of(5, 1)
    assert set(episode.columns) == {
        *("actions", "states", "proprio/joint_states", "proprio/gripper_states"),
        *("proprio/ee_pos", "proprio/ee_ori", "proprio/ee_states"),
    }
    for name, column in episode.columns.items():
        wanted = stored[name.replace("proprio", "obs")]
        np.testing.assert_array_equal(column, wanted if name == "states" else wanted.astype(np.float32))
        assert column.dtype == (np.float64 if name == "states" else np.float32)
    for view in VIEWS:
        np.testing.assert_array_equal(episode.frames[view], pictures(5, view))
    assert (episode.id, episode.fps, episode.source) == (f"{TASK}_demo/demo_1", 20, "libero")
    assert episode.language == ("turn on the stove",) and episode.task == f"libero_90/{TASK}"


def test_what_rebuilds_the_scene_is_kept(demos):
    facts = open_source(demos).read(f"{TASK}_demo/demo_0").info["libero"]
    assert facts == {
        "task": f"libero_90/{TASK}",
        "demo": "demo_0",
        "align": "stored",
        "init_state": [i + 0.25 for i in range(12)],
        "fixtures": POSES,
    }
    other = open_source(demos).read(f"{TASK}_demo/demo_1").info["libero"]["fixtures"]
    assert other["flat_stove_1_main"]["pos"][2] == 1.5  # each demonstration's own


def test_causal_rows_are_of_one_moment_and_the_action_follows(demos):
    episode = open_source(demos, align="causal").read(f"{TASK}_demo/demo_0")
    moments = np.arange(1, 6)
    assert grays(episode.frames["agentview"][:, 4:]) == moments.tolist() and episode.length == 5
    for name in ("states", "proprio/joint_states"):
        np.testing.assert_allclose(episode.columns[name][:, 0], moments, atol=1e-6)
    np.testing.assert_allclose(episode.columns["actions"][:, 0], moments / 1000, rtol=1e-6)
    assert episode.info["libero"]["align"] == "causal"


def test_causal_needs_two_rows(tmp_path):
    libero_file(tmp_path / "a_demo.hdf5", (1,))
    assert open_source(tmp_path).read("a_demo/demo_0").length == 1
    with pytest.raises(SourceError, match="it has 1 rows; align='causal' needs 2"):
        open_source(tmp_path, align="causal").read("a_demo/demo_0")


def test_demos_are_listed_in_natural_order(tmp_path):
    libero_file(tmp_path / "a_demo.hdf5", (1,) * 11)
    keys = open_source(tmp_path).keys()
    assert keys == [f"a_demo/demo_{k}" for k in range(11)]


def test_views_and_size(demos):
    key = f"{TASK}_demo/demo_0"
    episode = open_source(demos, views=["eye_in_hand"], size=(12, 16)).read(key)
    assert {view: video.shape for view, video in episode.frames.items()} == {"eye_in_hand": (6, 12, 16, 3)}
    assert (episode.frames["eye_in_hand"][:, 0, :7] > 200).all()  # the top is still the top
    with pytest.raises(SourceError, match="has no camera 'front'; it has agentview, eye_in_hand"):
        open_source(demos, views=["front"]).read(key)


def test_pictures_that_are_stored_upright_stay(tmp_path):
    libero_file(tmp_path / "a_demo.hdf5", (3,), macros_image_convention="opencv")
    libero_file(tmp_path / "b_demo.hdf5", (3,), macros_image_convention=None)
    libero_file(tmp_path / "c_demo.hdf5", (3,), macros_image_convention="vulkan")
    source = open_source(tmp_path)
    np.testing.assert_array_equal(source.read("a_demo/demo_0").frames["agentview"], pictures(3, "agentview")[:, ::-1])
    np.testing.assert_array_equal(source.read("b_demo/demo_0").frames["agentview"], pictures(3, "agentview"))
    with pytest.raises(SourceError, match="macros_image_convention is 'vulkan'; expected opengl or opencv"):
        source.read("c_demo/demo_0")


def test_the_bddl_sentence(tmp_path):
    text = "(define (problem X)\n(:language Pick the  akita black bowl) )"
    libero_file(tmp_path / "pick_up_the_black_bowl_demo.hdf5", (2,), bddl_file_content=text)
    libero_file(tmp_path / f"{TASK}_demo.hdf5", (2,))
    libero_file(tmp_path / "none_demo.hdf5", (2,), bddl_file_content=None)
    keys = {"pick_up_the_black_bowl_demo/demo_0": "pick up the black bowl", f"{TASK}_demo/demo_0": "turn on the stove"}
    by_name, by_bddl = open_source(tmp_path), open_source(tmp_path, language="bddl")
    assert {key: by_name.read(key).language for key in keys} == {key: (text,) for key, text in keys.items()}
    assert [by_bddl.read(key).language[0] for key in keys] == ["pick the akita black bowl", "turn on the stove"]
    with pytest.raises(SourceError, match=r"bddl_file_content has no \(:language \.\.\.\); use language='file'"):
        open_source(tmp_path, language="bddl").read("none_demo/demo_0")


def test_the_suite_is_that_of_the_bddl_file_or_the_folder(tmp_path):
    for name, bddl in {"libero_goal/a": None, "mine/b": None, "mine/c": r"x\libero_10\c.bddl"}.items():
        libero_file(tmp_path / f"{name}_demo.hdf5", (2,), bddl_file_name=bddl)
    source = open_source(tmp_path)
    tasks = [source.read(f"{name}_demo/demo_0").task for name in ("libero_goal/a", "mine/b", "mine/c")]
    assert tasks == ["libero_goal/a", "b", "libero_10/c"]


def test_files_without_what_only_scenes_need(demos):
    """Regenerated files often keep pictures, actions and proprioception alone; AMPLIFY adds an embedding."""
    with h5py.File(demos / f"{TASK}_demo.hdf5", "a") as f:
        f["text_emb"] = np.arange(4, dtype=np.float32)[None] / 8
        del f["data/demo_0/states"], f["data/demo_0"].attrs["model_file"], f["data/demo_0"].attrs["init_state"]
    episode = open_source(demos).read(f"{TASK}_demo/demo_0")
    assert "states" not in episode.columns and episode.info["text_emb"] == [0, 0.125, 0.25, 0.375]
    assert set(episode.info["libero"]) == {"task", "demo", "align"}


def test_fixtures_are_those_of_the_original(shared):
    """LIBERO's own compiled models: the bodies and poses that its environments had."""
    found = 0
    for folder in sorted((shared / "golden/libero").iterdir()):
        summary, samples = json.loads((folder / "model_summary.json").read_text()), np.load(folder / "traj_smooth.npz")
        poses = fixture_poses("demo", gzip.decompress((folder / "model_compiled.xml.gz").read_bytes()).decode())
        assert list(poses) == [f"{name}_main" for name in summary["fixtures"]]
        for body, pose in poses.items():
            number = summary["body_names"].index(body)
            np.testing.assert_allclose(pose["pos"], samples["body_pos"][number], atol=1e-6)
            np.testing.assert_allclose(pose["quat"], samples["body_quat"][number], atol=1e-6)
            found += 1
    assert found >= 7


def test_detection(demos, tmp_path):
    assert detect(demos) == detect(demos.parent) == detect(demos / f"{TASK}_demo.hdf5") == "libero"
    (tmp_path / f"tracks/{TASK}_demo").mkdir(parents=True)
    (tmp_path / f"tracks/{TASK}_demo/demo_0.hdf5").write_bytes(b"")  # tracks of AMPLIFY or ATM
    assert detect(tmp_path / "tracks") == "video"
    assert open_source(demos / f"{TASK}_demo.hdf5").keys()[0] == f"{TASK}_demo/demo_0"


def _without_rows(f):
    for name in ("actions", "states", "obs/joint_states"):
        del f[f"data/demo_0/{name}"]
        f[f"data/demo_0/{name}"] = np.zeros((0, 7))


def _replaced(name, array):
    def change(f):
        del f[name]
        f[name] = array

    return change


def _enormous(f):
    del f["data/demo_0/states"]
    f["data/demo_0"].create_dataset("states", (6, 1 << 30), np.float64, chunks=(1, 1 << 20))


def _no_cameras(f):
    for view in VIEWS:
        del f[f"data/demo_0/obs/{view}_rgb"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.__delitem__("data/demo_0/obs"), r"not as expected .*obs.*; the layout is data/demo_k/\{actions"),
        (_replaced("data/demo_0", np.zeros(3)), "not as expected"),
        (_replaced("data/demo_0/actions", np.float64(1)), "not as expected"),
        (
            _replaced("data/demo_0/obs/ee_pos", np.zeros((4, 3))),
            r"obs/ee_pos is \[4, 3\]; expected 2 axes, the first",
        ),
        (_replaced("data/demo_0/states", np.zeros(6)), r"states is \[6\]; expected 2 axes"),
        (_replaced("data/demo_0/obs/agentview_rgb", np.zeros((6, 8, 8, 3))), r"must be uint8 \[T, H, W, 3\]"),
        (_replaced("data/demo_0/obs/agentview_rgb", np.zeros((6, 8, 8, 1), np.uint8)), r"must be uint8 \[T, H, W, 3\]"),
        (_no_cameras, "it has no cameras; the layout is"),
        (_enormous, r"states is \[6, 1073741824\]: 48 GiB, at most 4 are read"),
        (_without_rows, "it has 0 rows; align='stored' needs 1"),
        (lambda f: f["data/demo_0"].attrs.__setitem__("model_file", "<mujoco"), "model_file is no XML"),
    ],
)
def test_a_broken_demonstration_is_named_and_the_others_can_be_read(demos, change, message):
    with h5py.File(demos / f"{TASK}_demo.hdf5", "a") as f:
        change(f)
    source = open_source(demos)
    with pytest.raises(SourceError, match=message) as raised:
        source.read(f"{TASK}_demo/demo_0")
    assert raised.value.key == f"{TASK}_demo/demo_0"
    assert source.read(f"{TASK}_demo/demo_1").length == 5


def test_files_that_are_cut_off_or_of_another_kind(demos):
    whole = (demos / f"{TASK}_demo.hdf5").read_bytes()
    (demos / "cut_demo.hdf5").write_bytes(whole[: len(whole) // 2])
    (demos / "text_demo.hdf5").write_text("a web page about a download that failed")
    for name, content in {"tracks_demo": "root/agentview/tracks", "flat_demo": "data", "bare_demo": ""}.items():
        with h5py.File(demos / f"{name}.hdf5", "w") as f:
            if content:
                f[content] = np.zeros(3)
            else:
                f.create_group("data")
    source = open_source(demos)
    assert len(source.keys()) == 7
    for key, message in (
        ("cut_demo", r"cut_demo\.hdf5 is cut off .*; copy or download it again"),
        ("text_demo", r"text_demo\.hdf5 is not as expected .*file signature not found.*; the layout is data/demo_k"),
        ("tracks_demo", r"not as expected .*'data' doesn't exist.*; the layout is data/demo_k"),
        ("flat_demo", r"flat_demo\.hdf5 holds no demonstrations; the layout is data/demo_k"),
        ("bare_demo", r"bare_demo\.hdf5 holds no demonstrations"),
    ):
        with pytest.raises(SourceError, match=message):
            source.read(key)
    (demos / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no files \.hdf5; expected LIBERO's <task>_demo\.hdf5"):
        open_source(demos / "empty", "libero")


def test_cut_anywhere_a_file_is_told_and_never_half_read(tmp_path):
    """A download that lacks its end is common; HDF5 knows how long a file should be."""
    data = libero_file(tmp_path / "whole.hdf5", (3,)).read_bytes()
    for part in np.linspace(0.01, 0.999, 23):
        (tmp_path / "a_demo.hdf5").write_bytes(data[: int(part * len(data))])
        source = open_source(tmp_path / "a_demo.hdf5")
        with pytest.raises(SourceError, match=r"cut off|not as expected"):
            source.read(source.keys()[0])


def test_options_and_a_missing_library_are_told(demos, monkeypatch):
    with pytest.raises(UserError, match="align is 'late'; expected stored or causal"):
        open_source(demos, align="late")
    with pytest.raises(UserError, match="language is 'German'; expected file or bddl"):
        open_source(demos, language="German")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match="HDF5 files need h5py: pip install h5py"):
        open_source(demos)


def test_import_with_processes_goes_on_where_it_stopped(demos, tmp_path):
    libero_file(demos / "open_the_drawer_demo.hdf5", (3, 4, 2))
    (demos / "cut_demo.hdf5").write_bytes(b"no HDF5")
    arguments = ["data", "import", "--input", str(demos), "--codec", "png", "--episodes_per_shard", "2"]
    assert main([*arguments, "--out", str(tmp_path / "one")]) == 0
    assert main([*arguments, "--out", str(tmp_path / "two"), "--workers", "2"]) == 0
    one, two = (Dataset(tmp_path / name, "train") for name in ("one", "two"))
    assert one.manifest["splits"] == two.manifest["splits"] and len(one) == 5
    np.testing.assert_array_equal(one.column(1, "states"), rows_of(5, 1)["states"])
    assert one.info(0)["libero"]["fixtures"] == POSES
    for name in ("manifest.json", "train-00001.episodes.json"):
        (tmp_path / "two" / name).unlink()
    kept = (tmp_path / "two/train-00000.episodes.array_record").stat().st_mtime_ns
    source = open_source(demos)
    settings = json.loads((tmp_path / "two/import-train.json").read_text())["settings"]
    skipped = import_source(source, tmp_path / "two", settings=settings, codec="png", episodes_per_shard=2)
    assert [(s.key, "not as expected" in s.reason) for s in skipped] == [("cut_demo", True)]
    assert (tmp_path / "two/train-00000.episodes.array_record").stat().st_mtime_ns == kept
    assert Dataset(tmp_path / "two", "train").manifest["splits"] == one.manifest["splits"]


def _atm_tracks(folder, rows):
    """What ATM's script writes for demo_0: pictures upright, channels first, and points in units of (W, H)."""
    folder.mkdir(parents=True)
    with h5py.File(folder / "demo_0.hdf5", "w") as f:
        f["root/actions"] = rows_of(rows)["actions"]
        f["root/extra_states/joint_states"] = rows_of(rows)["obs/joint_states"]
        for view in VIEWS:
            f[f"root/{view}/video"] = np.moveaxis(pictures(rows, view), -1, 1)[None]
            f[f"root/{view}/tracks"] = np.full((1, rows, 7, 2), 0.5, np.float32)
            f[f"root/{view}/vis"] = np.ones((1, rows, 7), bool)


def _amplify_tracks(folder, rows):
    folder.mkdir(parents=True)
    with h5py.File(folder / "demo_0.hdf5", "w") as f:
        for view in VIEWS:
            f[f"root/{view}/tracks"] = np.full((rows, 4, 9, 2), 11.5, np.float32)
            f[f"root/{view}/vis"] = np.ones((rows, 4, 9), np.float32)


@pytest.mark.parametrize("kind", ["atm", "amplify"])
def test_demonstrations_with_the_papers_tracks(demos, tmp_path, kind):
    """The commands of docs/data.md: the demonstrations' pictures, states and scene with the tracks beside them."""
    write, below = {"atm": (_atm_tracks, "libero_90"), "amplify": (_amplify_tracks, "")}[kind]
    write(tmp_path / "tracks" / below / f"{TASK}_demo", 6)
    arguments = ["--source", kind, "--input", str(tmp_path / "tracks"), "--codec", "png", "--out", str(tmp_path / "d")]
    assert main(["data", "import", *arguments, f"--source.demos={demos}"]) == 0
    data, plain = Dataset(tmp_path / "d", "train"), open_source(demos).read(f"{TASK}_demo/demo_0")
    found = data.read(0)
    for view in VIEWS:
        np.testing.assert_array_equal(found.frames[view], plain.frames[view])
        tracks = found.tracks[f"cotracker2/{kind}"][view]
        centre = [0.5 + 0.5 / 32, 0.5 + 0.5 / 24] if kind == "atm" else [12 / 32, 12 / 24]
        np.testing.assert_allclose(tracks.points, np.broadcast_to(centre, tracks.points.shape), atol=1e-6)
    for name, column in plain.columns.items():
        np.testing.assert_array_equal(found.columns[name], column)
    assert found.info == plain.info and found.language == plain.language and found.source == kind


def test_tracks_of_another_demonstration_do_not_fit(demos, tmp_path):
    _atm_tracks(tmp_path / f"tracks/{TASK}_demo", 4)
    with pytest.raises(SourceError, match=r"tracks \(4, 7, 2\), vis \(4, 7\) and 6 frames do not fit together"):
        open_source(tmp_path / "tracks", "atm", demos=demos.parent / "libero_90").read(f"{TASK}_demo/demo_0")
    with pytest.raises(UserError, match=r"demos is .*; expected the folder with LIBERO's <task>_demo"):
        open_source(tmp_path / "tracks", "atm", demos=tmp_path / "nowhere")
    (tmp_path / "none").mkdir()
    with pytest.raises(SourceError, match=f"{TASK}_demo.hdf5 is not as expected"):
        open_source(tmp_path / "tracks", "atm", demos=tmp_path / "none").read(f"{TASK}_demo/demo_0")


def test_annotate_takes_demonstrations_as_they_are(demos, tmp_path):
    job = Job(str(demos), str(tmp_path / "d"), "lk", "grid", split="train", layout_options={"side": 2})
    annotate(job, workers=1, quiet=True, say=lambda text: None)
    data = Dataset(tmp_path / "d", "train")
    assert len(data) == 2 and data.tracks(0, "lk/grid", "agentview", 0, 6).points.shape == (6, 4, 2)
    np.testing.assert_array_equal(data.column(0, "states"), rows_of(6)["states"])


def test_a_model_without_fixtures_has_none():
    assert fixture_poses("demo", "<mujoco><worldbody/></mujoco>") == fixture_poses("demo", "<mujoco/>") == {}
    assert list(fixture_poses("demo", MODEL.format(x=0))) == list(POSES)
