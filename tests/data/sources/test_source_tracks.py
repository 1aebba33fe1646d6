"""Tracks made elsewhere: all conventions end at the same points, ATM's and AMPLIFY's files at their network's input."""

from __future__ import annotations

import pickle

import h5py
import numpy as np
import pytest
from recordings import clip, grays, pictures

from t2p.data.importing import import_source
from t2p.data.pipeline import evaluation_batches
from t2p.data.sources import SourceError, open_source
from t2p.data.sources.external import libero_sentence
from t2p.geometry.conventions import to_amplify, to_atm
from t2p.io import UserError
from t2p.train.defaults import source_config
from t2p.types import ANY_VIEW, FieldWindow, WindowSpec

SIZE = (48, 64)
H, W = SIZE


def _truth(length=5, points=6, seed=0):
    """Points in [0, 1], one of them leaving the picture in the last frame, one unknown in frame 1."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(0.1, 0.9, (length, points, 2))
    points[-1, 0] = (1.2, 0.5)
    points[1, 3] = np.nan
    return points


def _in_convention(points, convention):
    return {
        "raster": points * (W, H),
        "pixel_center": points * (W, H) - 0.5,
        "normalized_01": points,
        "normalized_pm1": points * 2 - 1,
    }[convention].astype(np.float32)


def _arrays(made_in="raster", **changes):
    points = _truth()
    arrays = {
        "tracks": _in_convention(points, made_in),
        "visible": np.ones(points.shape[:2], bool),
        "size": np.array(SIZE),
        "convention": made_in,
        "fps": 8.0,
        "video": np.zeros((5, *SIZE, 3), np.uint8),
    } | changes
    return {name: value for name, value in arrays.items() if value is not None}


def _check_points(tracks):
    truth = _truth()
    known = np.isfinite(truth[..., 0])
    assert tracks.points.dtype == np.float32 and np.isfinite(tracks.points).all()
    np.testing.assert_allclose(tracks.points[known], truth[known], atol=1e-6)
    hidden = {(4, 0), (1, 3)}
    assert {tuple(int(i) for i in where) for where in np.argwhere(~tracks.visible)} == hidden


@pytest.mark.parametrize("convention", ["raster", "pixel_center", "normalized_01", "normalized_pm1"])
def test_npz_conventions(tmp_path, convention):
    query = np.concatenate([np.full((6, 1), 2), _in_convention(np.full((6, 2), 0.25), convention)], -1)
    np.savez(tmp_path / "a.npz", **_arrays(convention, query=query, tracker="tapir", tracker_version="1", text="push"))
    source = pickle.loads(pickle.dumps(open_source(tmp_path, "npz", size=(24, 32))))
    episode = source.read("a")
    tracks = episode.tracks["tapir/external"]["front"]
    _check_points(tracks)
    np.testing.assert_allclose(tracks.queries, np.tile([2, 0.25, 0.25], (6, 1)), atol=1e-6)
    assert (tracks.layout, tracks.space, tracks.tracker, tracks.version) == ("global", "image", "tapir", "1")
    assert episode.frames["front"].shape == (5, 24, 32, 3) and episode.fps == 8 and episode.language == ("push",)


def test_npz_with_depth_and_camera(tmp_path):
    flat = _truth()
    deep = np.concatenate([_in_convention(flat, "raster"), np.full((*flat.shape[:2], 1), 1.5)], -1)
    intrinsics = np.array([[80.0, 0, 32], [0, 80, 24], [0, 0, 1]])
    np.savez(tmp_path / "a.npz", **_arrays(tracks=deep, intrinsics=intrinsics))
    episode = open_source(tmp_path, "npz", name="mine/grid").read("a")
    tracks = episode.tracks["mine/grid"]["front"]
    assert tracks.space == "image_depth" and (tracks.points[..., 2] == 1.5).all()
    camera = episode.cameras["front"]
    assert camera.size == SIZE and (intrinsics == camera.K).all() and (camera.T_base_cam == np.eye(4)).all()


def test_queries_not_kept_are_where_a_point_is_first_seen(tmp_path):
    visible = np.ones((5, 6), bool)
    visible[:2, 4] = False
    np.savez(tmp_path / "a.npz", **_arrays(visible=visible))
    queries = open_source(tmp_path, "npz").read("a").tracks["unknown/external"]["front"].queries
    assert queries[:, 0].tolist() == [0, 0, 0, 0, 2, 0]
    np.testing.assert_allclose(queries[4, 1:], _truth()[2, 4], atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"convention": "corners"}, "unknown convention 'corners'; expected one of raster, pixel_center"),
        ({"visible": None}, "lacks visible; it has tracks, size"),
        ({"tracks": np.zeros((5, 6, 4))}, r"expected tracks \[T, N, 2 or 3\] and visibility \[T, N\], got \(5, 6, 4\)"),
        ({"visible": np.ones((5, 7), bool)}, r"got \(5, 6, 2\) and \(5, 7\)"),
        ({"video": np.zeros((4, *SIZE, 3), np.uint8)}, "the tracks cover 5 frames, the video has 4"),
        ({"video": np.zeros((5, *SIZE, 3))}, "video must be uint8"),
        ({"fps": None}, "the frame rate is not in the file: give recorded_fps="),
        ({"video": None}, "no video: expected an array video"),
        ({"query": np.zeros((5, 3))}, r"query must be \[N, 3\]"),
    ],
)
def test_bad_npz(tmp_path, changes, message):
    np.savez(tmp_path / "a.npz", **_arrays(**changes))
    with pytest.raises(SourceError, match=message):
        open_source(tmp_path, "npz").read("a")


def test_files_that_hold_no_plain_arrays(tmp_path):
    with pytest.raises(UserError, match=r"holds no files \.npz; expected one \.npz of tracks per clip"):
        open_source(tmp_path, "npz")
    np.savez(tmp_path / "a.npz", tracks=np.array([{}], dtype=object))  # would have to be unpickled
    (tmp_path / "b.npz").write_bytes(b"no archive")
    for key in ("a", "b"):
        with pytest.raises(SourceError, match=r"not a whole \.npz of plain arrays"):
            open_source(tmp_path, "npz").read(key)
    with pytest.raises(UserError, match=r"name its kind \(npz, cotracker, libero, atm or amplify\)"):
        open_source(tmp_path / "a.npz")


def test_cotracker_arrays(tmp_path):
    """Pixel centres at integers, a batch axis, and the video beside the file; sizes are the tracked video's."""
    pixels = _in_convention(_truth(), "pixel_center")
    clip(tmp_path / "videos/sub/a.mp4", 5, size=SIZE)
    pictures(tmp_path / "videos/b", 5)
    queries = np.array([[1.0, 31.5, 23.5]] * 6)
    (tmp_path / "tracks/sub").mkdir(parents=True)
    seen = np.ones((1, 5, 6), bool)
    np.savez(tmp_path / "tracks/sub/a.npz", pred_tracks=pixels[None], pred_visibility=seen, queries=queries[None])
    np.savez(tmp_path / "tracks/b.npz", tracks=pixels, visibility=np.full((5, 6), 0.95), size=SIZE)
    options = {"videos": tmp_path / "videos", "recorded_fps": 4.0, "size": (24, 32), "tracker": "cotracker3"}
    source = pickle.loads(pickle.dumps(open_source(tmp_path / "tracks", "cotracker", **options)))
    assert source.keys() == ["b", "sub/a"]
    for key in ("b", "sub/a"):
        episode = source.read(key)
        assert grays(episode.frames["front"]) == list(range(5)) and episode.frames["front"].shape[1:] == (24, 32, 3)
        _check_points(episode.tracks["cotracker3/external"]["front"])
    np.testing.assert_allclose(episode.tracks["cotracker3/external"]["front"].queries[0], [1, 0.5, 0.5], atol=1e-6)


def test_bad_cotracker_arrays(tmp_path):
    video = np.zeros((5, *SIZE, 3), np.uint8)
    pixels = _in_convention(_truth(), "pixel_center")
    np.savez(tmp_path / "a.npz", points=pixels, visibility=np.ones((5, 6)), video=video, fps=5)
    with pytest.raises(SourceError, match="lacks tracks or pred_tracks; it has points, visibility"):
        open_source(tmp_path, "cotracker").read("a")
    np.savez(tmp_path / "a.npz", tracks=pixels, visibility=np.ones((6, 5)), video=video, fps=5)
    with pytest.raises(SourceError, match=r"got \(5, 6, 2\) and \(6, 5\)"):
        open_source(tmp_path, "cotracker").read("a")


def test_sentences_of_libero_file_names():
    assert libero_sentence("KITCHEN_SCENE3_turn_on_the_stove_demo") == "turn on the stove"
    assert libero_sentence("LIVING_ROOM_SCENE10_put_it_in") == "put it in"
    assert libero_sentence("pick_up_the_bowl_demo") == "pick up the bowl"


def _atm_file(path, length=6, points=7):
    rng = np.random.default_rng(1)
    with h5py.File(path, "w") as f:
        f["root/actions"] = rng.normal(size=(length, 7))
        f["root/task_emb_bert"] = np.zeros(768, np.float32)
        f["root/extra_states/joint_states"] = rng.normal(size=(length, 7))
        f["root/extra_states/gripper_states"] = rng.normal(size=(length, 2))
        for view in ("agentview", "eye_in_hand"):
            f[f"root/{view}/video"] = rng.integers(0, 255, (1, length, 3, 32, 48), dtype=np.uint8)
            f[f"root/{view}/tracks"] = rng.uniform(-0.1, 1.1, (1, length, points, 2)).astype(np.float32)
            f[f"root/{view}/vis"] = rng.random((1, length, points)) > 0.3


@pytest.fixture
def atm(tmp_path):
    """ATM's output with its split folders of links: demos 0 and 1 train, 2 val."""
    task = tmp_path / "libero_goal/open_the_drawer_demo"
    for split, demos in {"train": (0, 1), "val": (2,), "bc_train_2": (0, 1)}.items():
        (task / split).mkdir(parents=True)
        for k in demos:
            if not (task / f"demo_{k}.hdf5").exists():
                _atm_file(task / f"demo_{k}.hdf5")
            (task / split / f"demo_{k}.hdf5").symlink_to(f"../demo_{k}.hdf5")
    return tmp_path


def test_atm(atm):
    source = pickle.loads(pickle.dumps(open_source(atm, "atm")))
    key = "libero_goal/open_the_drawer_demo/demo_1"
    assert source.keys() == [key.replace("_1", f"_{k}") for k in range(3)]
    episode = source.read(key)
    assert episode.language == ("open the drawer",) and episode.fps == 20 and episode.task == "open_the_drawer_demo"
    with h5py.File(atm / f"{key}.hdf5") as f:
        for view in ("agentview", "eye_in_hand"):
            stored, seen = f[f"root/{view}/tracks"][0], f[f"root/{view}/vis"][0]
            tracks = episode.tracks["cotracker2/atm"][view]
            np.testing.assert_allclose(to_atm(tracks.points, (32, 48)), stored, atol=1e-6)
            np.testing.assert_allclose(
                tracks.points - stored, np.broadcast_to([0.5 / 48, 0.5 / 32], stored.shape), atol=1e-6
            )
            inside = ((tracks.points >= 0) & (tracks.points <= 1)).all(-1)
            np.testing.assert_array_equal(tracks.visible, seen & inside)
            np.testing.assert_array_equal(episode.frames[view], f[f"root/{view}/video"][0].transpose(0, 2, 3, 1))
        np.testing.assert_allclose(episode.columns["actions"], f["root/actions"][()], rtol=1e-6)
        assert set(episode.columns) == {"actions", "proprio/joint_states", "proprio/gripper_states"}


def test_atm_files_reach_the_network_as_the_original_reads_them(atm, tmp_path):
    source = open_source(atm, "atm")
    import_source(source, tmp_path / "data", settings={}, codec="png")
    window = WindowSpec(
        views=("agentview", "eye_in_hand"),
        one_view=True,
        images=FieldWindow((0,), pad="zero"),
        track_set="cotracker2/atm",
        tracks=FieldWindow(tuple(range(4)), pad="repeat"),
        num_points=5,
    )
    sources = {"a": source_config(str(tmp_path / "data"))}
    (batch,) = evaluation_batches(sources, window, batch_size=36)  # 3 demos x 2 views x 6 starts
    found = to_atm(batch.tracks["cotracker2/atm"][ANY_VIEW].points, (32, 48))
    rows = [(k, view, t) for k in range(3) for t in range(6) for view in ("agentview", "eye_in_hand")]
    for row, (k, view, t) in enumerate(rows):
        with h5py.File(atm / f"libero_goal/open_the_drawer_demo/demo_{k}.hdf5") as f:
            stored, seen = f[f"root/{view}/tracks"][0], f[f"root/{view}/vis"][0]
            picture = f[f"root/{view}/video"][0][t].transpose(1, 2, 0)
        steps = np.minimum(np.arange(t, t + 4), 5)  # the original repeats the last frame
        inside = (np.abs(stored[t] + [0.5 / 48, 0.5 / 32] - 0.5) <= 0.5).all(-1)
        allowed = stored[steps][:, seen[t] & inside]
        error = np.abs(found[row][:, :, None] - allowed[:, None]).max((0, 3))
        assert (error.min(1) < 1e-5).all(), (row, k, view, t)
        np.testing.assert_array_equal(batch.images[ANY_VIEW][row, 0], picture)


def test_atm_splits(atm):
    task = "libero_goal/open_the_drawer_demo"
    assert open_source(atm, "atm", split="val").keys() == [f"{task}/val/demo_2"]
    source = open_source(atm / task / "train", "atm")
    assert source.keys() == ["demo_0", "demo_1"] and source.read("demo_0").language == ("open the drawer",)
    with pytest.raises(UserError, match="has no demos in folders called 'test'"):
        open_source(atm, "atm", split="test")


def test_bad_atm(atm):
    task = atm / "libero_goal/open_the_drawer_demo"
    with h5py.File(task / "demo_0.hdf5", "a") as f:
        del f["root/agentview/vis"]
    with h5py.File(task / "demo_1.hdf5", "a") as f:
        del f["root/agentview/tracks"]
        f["root/agentview/tracks"] = np.zeros((1, 4, 7, 2))
    (task / "demo_2.hdf5").write_bytes(b"no HDF5")
    source = open_source(task, "atm")
    for key, message in (
        ("demo_0", "not as expected .*vis.*; the layout is root/{actions"),
        ("demo_1", r"tracks \(4, 7, 2\), vis \(6, 7\) and 6 frames do not fit together"),
        ("demo_2", "not as expected .*file signature not found"),
    ):
        with pytest.raises(SourceError, match=message):
            source.read(key)
    with pytest.raises(UserError, match=r"holds no files \.hdf5; expected ATM's"):
        open_source(_empty(task), "atm")


def _empty(folder):
    (folder / "empty").mkdir()
    return folder / "empty"


TASK = "KITCHEN_SCENE3_turn_on_the_stove_demo"


def _amplify_files(root, frames, tracks, columns, visible=None):
    """frames, tracks: {view: array}; frames as LIBERO stores them, upside down."""
    (root / f"tracks/{TASK}").mkdir(parents=True)
    (root / "demos").mkdir()
    with h5py.File(root / f"demos/{TASK}.hdf5", "w") as f:
        f["data/demo_0/actions"] = columns["actions"]
        for name in ("joint_states", "gripper_states"):
            f[f"data/demo_0/obs/{name}"] = columns[name]
        for view, video in frames.items():
            f[f"data/demo_0/obs/{view}_rgb"] = video
    with h5py.File(root / f"tracks/{TASK}/demo_0.hdf5", "w") as f:
        for view, points in tracks.items():
            f[f"root/{view}/tracks"] = points
            f[f"root/{view}/vis"] = np.ones(points.shape[:-1], np.float32) if visible is None else visible
    return open_source(root / "tracks", "amplify", demos=root / "demos")


def test_amplify_reaches_the_official_loaders_output(tmp_path, shared):
    """HDF5 -> episode -> network input equals what AMPLIFY's LiberoDataset returned, broken points included."""
    folder = shared / "golden/amplify/libero_dataset"
    given, wanted = np.load(folder / "inputs.npz"), np.load(folder / "outputs.npz")
    views = ("agentview", "eye_in_hand")
    frames = {view: given[f"{view}_rgb"] for view in views}
    tracks = {view: given[f"tracks_{view}"] for view in views}
    source = pickle.loads(pickle.dumps(_amplify_files(tmp_path, frames, tracks, given)))
    episode = source.read(f"{TASK}/demo_0")
    assert episode.language == ("turn on the stove",)
    starts = [int(start) for start in given["starts"]]
    for v, view in enumerate(views):
        stored = episode.tracks["cotracker2/amplify"][view]
        broken = ~np.isfinite(tracks[view]).all(-1)
        assert stored.layout == "window" and broken.any() and not stored.visible[broken].any()
        network = to_amplify(stored.points[starts], (32, 32))
        np.testing.assert_allclose(network, wanted["traj"][:, v], atol=1e-6)
        np.testing.assert_array_equal(network[wanted["traj"][:, v] == -1], -1)
        np.testing.assert_allclose(episode.frames[view][starts] / 255, wanted["images"][:, v], atol=1e-6)
    states = np.concatenate([episode.columns["proprio/joint_states"], episode.columns["proprio/gripper_states"]], -1)
    np.testing.assert_allclose(states[starts], wanted["proprioception"], atol=1e-6)
    np.testing.assert_allclose(episode.columns["actions"][:16], wanted["actions"][starts.index(0)], atol=1e-6)


def _columns(length):
    return {name: np.zeros((length, d)) for name, d in (("actions", 7), ("joint_states", 7), ("gripper_states", 2))}


def test_amplify_without_new_grids(tmp_path):
    """The script's other mode: one grid followed through the whole video, [1, T, N, 2]."""
    points = np.random.default_rng(0).uniform(2, 20, (1, 6, 9, 2)).astype(np.float32)
    frames = {"agentview": np.arange(6 * 24 * 32 * 3, dtype=np.uint8).reshape(6, 24, 32, 3)}
    source = _amplify_files(tmp_path, frames, {"agentview": points}, _columns(6))
    episode = source.read(source.keys()[0])
    tracks = episode.tracks["cotracker3/amplify"]["agentview"]
    assert tracks.layout == "global" and tracks.visible.all()
    np.testing.assert_allclose(tracks.points * (32, 24), points[0] + 0.5, atol=1e-5)
    np.testing.assert_array_equal(episode.frames["agentview"], frames["agentview"][:, ::-1])


def test_bad_amplify(tmp_path):
    points = np.zeros((4, 16, 9, 2), np.float32)
    source = _amplify_files(
        tmp_path, {"agentview": np.zeros((6, 24, 32, 3), np.uint8)}, {"agentview": points}, _columns(6)
    )
    key = f"{TASK}/demo_0"
    with pytest.raises(SourceError, match=r"tracks \(4, 16, 9, 2\), vis \(4, 16, 9\) and 6 frames do not fit"):
        source.read(key)
    with h5py.File(tmp_path / f"demos/{TASK}.hdf5", "a") as f:
        f.move("data/demo_0", "data/demo_1")
    with pytest.raises(SourceError, match=r"demo_0.*the layout is data/demo_k/\{actions"):
        source.read(key)
    with pytest.raises(UserError, match="AMPLIFY's files hold tracks alone: give demos="):
        open_source(tmp_path / "tracks", "amplify")
