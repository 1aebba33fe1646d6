"""Trackers of others behind the protocol: CoTracker (a stand-in), tracks from files, TAPIR (random weights)."""

import builtins

import jax
import numpy as np
import pytest

from t2p.io import UserError
from t2p.models import tapir
from t2p.tracking.base import TrackingError, make_tracker
from t2p.tracking.cotracker import CoTracker
from t2p.tracking.layouts import Clip, Grid, Stored, clip_rng
from t2p.tracking.tapir import TapirTracker
from tests.tracking.moving import texture

SIZE = (24, 40)
VIDEO = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, *SIZE, 3), np.uint8)


def fake_predictor(video, queries):
    """CoTracker's conventions: a point moves right by the brightness of each frame less that of its own frame."""
    assert video.dtype == np.float32 and video.shape[0] == 1 and video.shape[2:] == (3, *SIZE)
    assert queries.dtype == np.float32 and queries.shape[0] == 1
    brightness = video[0, :, 0, 0, 0]
    times = queries[0, :, 0].astype(int)
    x = queries[0, :, 1] + brightness[:, None] - brightness[times]
    points = np.stack([x, np.broadcast_to(queries[0, :, 2], x.shape)], -1)
    return points[None], np.ones((1, *x.shape), bool)


def test_cotracker_conventions():
    tracker = CoTracker(fake_predictor, "fake")
    centre_of_pixel = (np.array([10, 7]) + 0.5) / [40, 24]
    queries = np.array([[0, *centre_of_pixel], [3, *centre_of_pixel], [0, 39.5 / 40, 0.5]], np.float32)
    tracks = tracker.track(tracker.prepare(VIDEO), queries)
    assert tracks.points.shape == (6, 3, 2) and tracks.visible.shape == (6, 3)
    np.testing.assert_allclose(tracks.points[:, 0] * [40, 24], [[10.5 + t, 7.5] for t in range(6)], rtol=1e-5)
    np.testing.assert_allclose(tracks.points[:, 1, 0] * 40, 10.5 + np.arange(-3, 3), rtol=1e-5)
    assert tracks.visible[:, :2].all() and tracks.visible[:, 2].tolist() == [True] + [False] * 5


def test_cotracker_sees_a_span_alone():
    tracker = CoTracker(fake_predictor, "fake")
    tracks = tracker.track(tracker.prepare(VIDEO), np.array([[4, 0.25, 0.5]]), (4, 8))
    np.testing.assert_allclose(tracks.points[:, 0, 0] * 40, [10, 11, 11, 11], rtol=1e-5)
    assert tracks.queries[0, 0] == 4


def test_cotracker_names_what_is_missing(monkeypatch):
    with pytest.raises(UserError, match="cotracker2, cotracker3_offline"):
        make_tracker("cotracker", model="cotracker9")
    real = builtins.__import__

    def without_torch(name, *args):
        if name == "torch":
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    with pytest.raises(UserError, match=r"t2p\[cotracker\]"):
        make_tracker("cotracker")


def write_tracks(path, **changes):
    tracks = np.random.default_rng(0).uniform(2, 20, (6, 5, 2))
    arrays = {
        "tracks": tracks,
        "visible": np.arange(30).reshape(6, 5) % 7 > 0,
        "query": np.concatenate([np.zeros((5, 1)), tracks[0]], -1),
        "size": np.array(SIZE),
        "convention": "raster",
        "tracker": "other",
        "tracker_version": "9",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **(arrays | changes))
    return tracks / [40, 24]


def test_external_tracks_are_taken_as_stored(tmp_path):
    truth = write_tracks(tmp_path / "clips/one/front.npz")
    tracker = make_tracker("external", folder=str(tmp_path)).clip("clips/one", "front")
    found = Stored().annotate(Clip(tracker, tracker.prepare(VIDEO), 6, SIZE), clip_rng("a", "b", 0))
    np.testing.assert_allclose(found.points, truth, rtol=1e-6)
    assert (found.tracker, found.version) == ("external", "other 9")
    np.testing.assert_array_equal(found.visible, np.arange(30).reshape(6, 5) % 7 > 0)


def test_external_tracks_answer_queries_that_lie_on_them(tmp_path):
    truth = write_tracks(tmp_path / "one.npz")
    tracker = make_tracker("external", folder=str(tmp_path)).clip("one", "front")
    features = tracker.prepare(VIDEO)
    queries = np.array([[2, *truth[2, 3]], [4, *(truth[4, 1] + [0.3 / 40, 0])]], np.float32)
    np.testing.assert_allclose(
        tracker.track(features, queries, (2, 8)).points[[0, 5]], truth[[2, 5]][:, [3, 1]], rtol=1e-6
    )
    with pytest.raises(TrackingError, match="half a pixel of 9 of 9 queries"):
        Grid(side=3).annotate(Clip(tracker, features, 6, SIZE), clip_rng("a", "b", 0))


def test_external_faults_are_named(tmp_path):
    write_tracks(tmp_path / "one.npz", size=np.array(SIZE))
    external = make_tracker("external", folder=str(tmp_path))
    with pytest.raises(TrackingError, match="6 frames, the video 3"):
        external.clip("one", "front").prepare(VIDEO[:3])
    with pytest.raises(TrackingError, match="exists"):
        external.clip("two", "front")
    np.savez(tmp_path / "bad.npz", tracks=np.zeros((2, 3, 2)))
    with pytest.raises(TrackingError, match="lacks visible, size, convention"):
        external.clip("bad", "front")
    with pytest.raises(UserError, match="no folder"):
        make_tracker("external", folder=str(tmp_path / "none"))


@pytest.fixture(scope="module")
def small_tapir():
    """A causal TAPIR of a few channels with random weights."""
    model = tapir.Tapir(causal=True, width=16, mixer_blocks=1, blocks=(1, 1, 1, 1), train_size=(32, 32), iterations=1)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda shape: (rng.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[:-1])))).astype(np.float32),
        tapir.parameter_shapes(model),
        is_leaf=lambda x: isinstance(x, tuple),
    )
    return TapirTracker(model, params, "tapir", "test")


def test_tapir_behind_the_protocol(small_tapir):
    frames = np.stack([np.roll(texture(0, 32, 32), 2 * t, 1) for t in range(5)])
    queries = np.array([[0, 0.3, 0.4], [2, 0.6, 0.5], [1, 0.2, 0.8]], np.float32)
    features = small_tapir.prepare(frames)
    whole = small_tapir.track(features, queries)
    assert whole.points.shape == (5, 3, 2) and whole.visible.shape == (5, 3) and whole.points.dtype == np.float32
    expected = tapir.track(small_tapir.model, small_tapir.params, features, queries)
    np.testing.assert_array_equal(whole.points, np.asarray(expected.points).swapaxes(0, 1))
    outside = ((whole.points < 0) | (whole.points > 1)).any(-1)
    np.testing.assert_array_equal(whole.visible, np.asarray(tapir.visible(expected)).T & ~outside)


def test_tapir_span_is_the_clip_cut_out_and_an_online_model_sees_no_future(small_tapir):
    frames = np.stack([np.roll(texture(0, 32, 32), 2 * t, 1) for t in range(5)])
    queries = np.array([[1, 0.3, 0.4], [2, 0.6, 0.5]], np.float32)
    shift = np.array([1, 0, 0], np.float32)
    span = small_tapir.track(small_tapir.prepare(frames), queries, (1, 6))
    padded = small_tapir.prepare(np.concatenate([frames[1:], frames[-1:]]))
    np.testing.assert_allclose(span.points, small_tapir.track(padded, queries - shift).points, atol=1e-5)
    changed = np.concatenate([frames[:3], 255 - frames[3:]])
    a, b = (small_tapir.track(small_tapir.prepare(v), queries).points for v in (frames, changed))
    np.testing.assert_allclose(a[:3], b[:3], atol=1e-6)
    assert np.abs(a[3:] - b[3:]).max() > 1e-4


def test_tapir_weights_of_the_other_model_are_refused(shared):
    file = str(shared / "golden/tapir/bootstapir_small/checkpoint.npy")
    with pytest.raises(UserError, match="--tracker bootstapir"):
        make_tracker("tapir", weights=file)
    tracker = make_tracker("bootstapir", weights=file, online=True)
    assert tracker.model.causal and "online" in tracker.version
