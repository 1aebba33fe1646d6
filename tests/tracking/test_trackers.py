"""The trackers without weights: known motion, both directions in time, spans, visibility, reproducibility."""

import cv2
import numpy as np
import pytest

from t2p.io import UserError
from t2p.tracking import dis as dis_module
from t2p.tracking.base import TrackingError, make_tracker
from t2p.tracking.dis import Dis, bilinear, motion_boundary
from t2p.tracking.lk import LucasKanade
from tests.tracking.moving import pixel_errors, shifted, texture, true_points

SIZE = (96, 128)
OFFSETS = [(2.5 * t, 0.3 * t * t) for t in range(6)]
QUERIES = np.array([[0, 0.3, 0.3], [3, 0.5, 0.4], [5, 0.6, 0.6], [2, 0.42, 0.71]], np.float32)


@pytest.fixture(scope="module")
def video():
    return shifted(OFFSETS, SIZE)


@pytest.mark.parametrize("tracker", [Dis(), Dis((1, 4)), LucasKanade()], ids=["dis", "dis gaps", "lk"])
def test_follows_a_known_motion_forward_and_backward(video, tracker):
    tracks = tracker.track(tracker.prepare(video), QUERIES)
    assert tracks.points.shape == (6, 4, 2) and tracks.points.dtype == np.float32 and tracks.space == "image"
    assert tracks.visible.all()
    assert pixel_errors(tracks, true_points(QUERIES, OFFSETS, SIZE), SIZE).max() < 0.5
    np.testing.assert_array_equal(tracks.points[QUERIES[:, 0].astype(int), range(4)], QUERIES[:, 1:])


@pytest.mark.parametrize("tracker", [Dis(), LucasKanade()], ids=["dis", "lk"])
def test_a_span_is_the_clip_cut_out_with_its_last_frame_repeated(video, tracker):
    queries = np.array([[2, 0.3, 0.3], [4, 0.5, 0.5]], np.float32)
    within = tracker.track(tracker.prepare(video), queries, (2, 9))
    cut = tracker.track(tracker.prepare(video[2:]), queries - np.array([2, 0, 0], np.float32))
    assert within.points.shape == (7, 2, 2)
    np.testing.assert_array_equal(within.points[:4], cut.points)
    np.testing.assert_array_equal(within.points[4:], np.repeat(cut.points[-1:], 3, 0))
    np.testing.assert_array_equal(within.visible[4:], np.repeat(cut.visible[-1:], 3, 0))


def test_a_point_that_leaves_the_frame_is_invisible_and_stays_finite():
    offsets = [(6.0 * t, 0.0) for t in range(6)]
    dis = Dis()
    tracks = dis.track(dis.prepare(shifted(offsets, SIZE)), np.array([[0, 0.9, 0.5], [0, 0.3, 0.5]], np.float32))
    assert tracks.visible[:3, 0].all() and not tracks.visible[3:, 0].any()
    assert tracks.visible[:, 1].all() and np.isfinite(tracks.points).all()


def behind_a_bar(frames_hidden: int) -> tuple[np.ndarray, np.ndarray]:
    """A texture drifting slowly; a bar covers one column of it for some frames. -> (video, query on the column)."""
    offsets = [(1.0 * t, 0.0) for t in range(8)]
    video = shifted(offsets, SIZE)
    video[3 : 3 + frames_hidden, :, 40:80] = texture(5, 96, 40, 8)
    return video, np.array([[0, 60 / 128, 0.5]], np.float32)


def test_a_covered_point_is_invisible_and_only_longer_gaps_find_it_again():
    video, query = behind_a_bar(2)
    chained, bridged = (d.track(d.prepare(video), query) for d in (Dis(), Dis((1, 4))))
    for tracks in (chained, bridged):
        assert tracks.visible[:3, 0].all() and not tracks.visible[3:5, 0].any()
    assert not chained.visible[5:, 0].any()
    np.testing.assert_array_equal(chained.points[3:, 0], np.repeat(chained.points[2:3, 0], 5, 0))  # waits there
    assert bridged.visible[6:, 0].all()
    np.testing.assert_allclose(bridged.points[7, 0] * [128, 96], [67, 48], atol=0.7)


def test_motion_boundaries_are_where_a_flow_jumps_and_not_where_it_turns():
    y, x = np.mgrid[0:40, 0:60] + 0.5
    turning = 0.03 * np.stack([20 - y, x - 30], -1)
    assert not motion_boundary(turning).any()
    jumping = np.where((x < 25)[..., None], 2.0, 0.0) * np.ones(2)
    assert np.flatnonzero(motion_boundary(jumping).all(0)).tolist() == [24, 25]
    assert not motion_boundary(jumping)[:, [*range(24), *range(26, 60)]].any()


def dragged(tracker: Dis) -> tuple[float, int]:
    """A square passes over a still texture: (share of seen background points that move, how many are seen)."""
    video = np.repeat(texture(1, 96, 128, 8)[None], 8, 0)
    for t in range(8):
        video[t, 30:60, 20 + 4 * t : 50 + 4 * t] = texture(2, 30, 30, 5)
    x, y = np.meshgrid(np.arange(56, 120, 4), np.arange(20, 70, 4))
    queries = np.stack([np.zeros(x.size), x.ravel() / 128, y.ravel() / 96], -1).astype(np.float32)
    tracks = tracker.track(tracker.prepare(video), queries)
    moved = np.linalg.norm((tracks.points - tracks.points[0]) * [128, 96], axis=-1) > 2
    return (moved & tracks.visible).sum() / tracks.visible.sum(), int(tracks.visible.sum())


def test_points_lost_at_motion_boundaries_are_not_dragged_along():
    (loose, many), (strict, fewer) = dragged(Dis()), dragged(Dis(motion_boundaries=True))
    assert strict < 0.3 * loose
    assert many > fewer > 0.6 * many


@pytest.mark.parametrize("tracker", [Dis(), LucasKanade()], ids=["dis", "lk"])
def test_tracks_do_not_depend_on_threads(video, tracker):
    found = []
    before = cv2.getNumThreads()
    for threads in (1, 2, 5):
        cv2.setNumThreads(threads)
        found.append(tracker.track(tracker.prepare(video[:4]), QUERIES[[0, 1, 3]]))
    cv2.setNumThreads(before)
    for other in found[1:]:
        np.testing.assert_array_equal(found[0].points, other.points)
        np.testing.assert_array_equal(found[0].visible, other.visible)


def test_small_videos_are_enlarged(video):
    assert Dis().prepare(video[:2]).size == (256, 341)
    assert LucasKanade().prepare(np.zeros((1, 300, 400, 3), np.uint8)).size == (300, 400)


def test_bilinear_is_exact_on_a_plane_and_repeats_edges():
    y, x = np.mgrid[0:5, 0:7] + 0.5
    plane = np.stack([2 * x + y, x - y], -1)
    points = np.array([[1.2, 3.3], [6.5, 4.5], [-3.0, 2.0], [9.0, 2.0]])
    inside = np.clip(points, 0.5, [6.5, 4.5])
    np.testing.assert_allclose(
        bilinear(plane, points), np.stack([2 * inside[:, 0] + inside[:, 1], inside[:, 0] - inside[:, 1]], -1)
    )


def test_one_frame_and_no_queries():
    dis = Dis()
    features = dis.prepare(np.zeros((1, 32, 32, 3), np.uint8))
    assert dis.track(features, QUERIES[:1]).visible.tolist() == [[True]]
    assert dis.track(features, np.zeros((0, 3))).points.shape == (1, 0, 2)


@pytest.mark.parametrize(
    ("queries", "span"),
    [([[6, 0.5, 0.5]], None), ([[0.5, 0.5, 0.5]], None), ([[0, np.nan, 0.5]], None), ([[1, 0.5, 0.5]], (2, 4))],
)
def test_bad_queries_are_refused(video, queries, span):
    lk = LucasKanade()
    with pytest.raises(ValueError, match="quer"):
        lk.track(lk.prepare(video), np.array(queries), span)


def test_bad_videos_are_refused(monkeypatch):
    with pytest.raises(TrackingError, match="uint8"):
        Dis().prepare(np.zeros((2, 32, 32, 3), np.float32))
    with pytest.raises(TrackingError, match="16 x 16"):
        Dis().prepare(np.zeros((2, 8, 32, 3), np.uint8))
    monkeypatch.setattr(dis_module, "MAX_FLOW_BYTES", 1000)
    with pytest.raises(TrackingError, match=r"GiB.*--size"):
        Dis().prepare(np.zeros((2, 32, 32, 3), np.uint8))


def test_names_and_options_are_checked(tmp_path):
    assert make_tracker("dis", gaps=[4, 1]).gaps == (1, 4)
    with pytest.raises(UserError, match="expected one of dis, lk, tapir"):
        make_tracker("sift")
    with pytest.raises(UserError, match="takes gaps, short_side, threshold, motion_boundaries; not weights"):
        make_tracker("dis", weights="x")
    with pytest.raises(UserError, match="needs weights"):
        make_tracker("tapir")
    with pytest.raises(UserError, match="does not exist"):
        make_tracker("tapir", weights=str(tmp_path / "none.npy"))
    with pytest.raises(UserError, match="include 1"):
        make_tracker("dis", gaps=[2])
