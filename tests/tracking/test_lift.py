"""Lifting of image tracks, and points on the embodiment."""

import numpy as np
import pytest

from t2p.geometry.cameras import project
from t2p.tracking.base import TrackingError
from t2p.tracking.lift import DepthFolder, MaskFolder, fill_in_time, hide_embodiment, lift
from t2p.types import Camera, TrackSet

SIZE = (40, 60)


def track_set(points, visible, queries, layout="global"):
    points = np.asarray(points, np.float32)
    return TrackSet(layout, points, np.asarray(visible, bool), np.asarray(queries, np.float32), "fake", "1")


def still(xy, length=4):
    """Points that rest, visible throughout."""
    points = np.repeat(np.asarray(xy, np.float32)[None], length, 0)
    queries = np.concatenate([np.zeros((len(xy), 1)), xy], -1)
    return track_set(points, np.ones(points.shape[:2]), queries)


def test_depth_is_read_at_the_pixel_that_holds_the_point():
    depth = np.full((4, *SIZE), 2.0, np.float32)
    depth[:, :, 30:] = 5.0  # an edge, across which nothing is mixed
    lifted = lift(still([[29.9 / 60, 0.5], [30.1 / 60, 0.5]]), depth, "image_depth")
    assert lifted.space == "image_depth" and lifted.points.dtype == np.float32
    np.testing.assert_allclose(lifted.points[0], [[29.9 / 60, 0.5, 2], [30.1 / 60, 0.5, 5]], rtol=1e-6)
    assert lifted.visible.all()


def test_camera_space_inverts_projection_also_for_a_resized_image():
    rng = np.random.default_rng(0)
    points = rng.uniform([-0.3, -0.2, 1.0], [0.3, 0.2, 1.0], (5, 3))  # all at depth 1
    K = np.array([[120.0, 0, 62], [0, 130, 41], [0, 0, 1]])
    camera = Camera(K, np.eye(4), (80, 120))
    pixels, _ = project(points, K)
    lifted = lift(still(pixels / [120, 80]), np.ones((4, *SIZE), np.float32), "camera", camera)
    np.testing.assert_allclose(lifted.points, np.repeat(points[None], 4, 0), atol=1e-5)
    assert lifted.space == "camera"


def test_depth_of_hidden_steps_comes_from_the_points_own_past_and_future():
    depth = np.arange(1.0, 6.0, dtype=np.float32)[:, None, None] * np.ones(SIZE, np.float32)
    depth[3] = 100.0  # an occluder, while the point is hidden
    depth[4, 20:] = np.nan
    tracks = still([[0.5, 0.25], [0.5, 0.75], [1.5, 0.5]], length=5)
    tracks.visible[3] = False
    lifted = lift(tracks, depth, "image_depth")
    np.testing.assert_allclose(lifted.points[:, 0, 2], [1, 2, 3, 4, 5])
    np.testing.assert_allclose(lifted.points[:, 1, 2], [1, 2, 3, 3, 3])
    np.testing.assert_array_equal(lifted.visible.T, [[1, 1, 1, 0, 1], [1, 1, 1, 0, 0], [0] * 5])
    assert (lifted.points[:, 2, 2] == 0).all()  # outside the frame there is no depth


def test_window_sets_use_the_frames_of_their_windows():
    depth = np.arange(1.0, 5.0, dtype=np.float32)[:, None, None] * np.ones(SIZE, np.float32)
    tracks = track_set(np.full((4, 3, 2, 2), 0.5), np.ones((4, 3, 2)), [[0, 0.5, 0.5]] * 2, "window")
    lifted = lift(tracks, depth, "image_depth")
    np.testing.assert_allclose(lifted.points[..., 0, 2], [[1, 2, 3], [2, 3, 4], [3, 4, 4], [4, 4, 4]])
    mask = np.zeros((4, *SIZE), bool)
    mask[2] = True
    hidden = hide_embodiment(tracks, mask)
    np.testing.assert_array_equal(hidden.visible[..., 0], [[1, 1, 0], [1, 0, 1], [0, 0, 0], [1, 1, 1]])


def test_points_that_start_on_the_embodiment_stay_hidden_and_others_while_it_covers_them():
    mask = np.zeros((4, *SIZE), bool)
    mask[:2, :, :30] = True
    mask[2, :, 30:] = True
    tracks = still([[0.25, 0.5], [0.75, 0.5]])
    hidden = hide_embodiment(tracks, mask)
    np.testing.assert_array_equal(hidden.visible.T, [[0, 0, 0, 0], [1, 1, 0, 1]])
    np.testing.assert_array_equal(hidden.points, tracks.points)
    later = track_set(tracks.points, tracks.visible, [[3, 0.25, 0.5], [0, 0.75, 0.5]])
    np.testing.assert_array_equal(hide_embodiment(later, mask).visible[:, 0], [0, 0, 1, 1])
    np.testing.assert_array_equal(hide_embodiment(tracks, mask[:1]).visible.T, [[0] * 4, [1] * 4])


def test_fill_in_time():
    values = np.array([[0.0, 9], [2, 9], [0, 9], [6, 9]])
    known = np.array([[0, 0], [1, 0], [0, 0], [1, 0]], bool)
    np.testing.assert_allclose(fill_in_time(values, known), [[2, 0], [2, 0], [4, 0], [6, 0]])


def test_missing_intrinsics_and_wrong_lengths_are_named():
    depth = np.ones((4, *SIZE), np.float32)
    with pytest.raises(TrackingError, match="intrinsics"):
        lift(still([[0.5, 0.5]]), depth, "camera")
    with pytest.raises(TrackingError, match=r"\[3, 40, 60\], expected \[4"):
        lift(still([[0.5, 0.5]]), depth[:3], "image_depth")
    with pytest.raises(TrackingError, match="mask"):
        hide_embodiment(still([[0.5, 0.5]]), np.zeros((2, *SIZE), bool))


def test_folders_of_depth_and_masks(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    millimetres = np.array([[[1000, 0], [2000, 3000]]] * 2, np.uint16)
    np.save(tmp_path / "a/b/front.npy", millimetres)
    np.savez(tmp_path / "a/b/wrist.npz", mask=millimetres > 1500, depth=np.array([[[np.nan, 2.0]]]))
    depth = DepthFolder(str(tmp_path)).depth("a/b", "front", (4, 4))
    np.testing.assert_allclose(depth[1], np.repeat(np.repeat([[1, np.nan], [2, 3]], 2, 0), 2, 1))
    np.testing.assert_allclose(DepthFolder(str(tmp_path)).depth("a/b", "wrist", (1, 2)), [[[np.nan, 2]]])
    assert MaskFolder(str(tmp_path)).mask("a/b", "wrist", (2, 2))[0].tolist() == [[False, False], [True, True]]
    for episode, view, message in (("a/b", "side", "neither"), ("../x", "front", "leave"), ("a/b", "wrist", "mask")):
        source = MaskFolder(str(tmp_path)) if view == "side" else DepthFolder(str(tmp_path / "a"))
        if message == "mask":
            np.save(tmp_path / "a/b/wrist.npy", np.array([object()]), allow_pickle=True)
            source, message = MaskFolder(str(tmp_path)), "does not hold"
        with pytest.raises(TrackingError, match=message):
            (source.mask if isinstance(source, MaskFolder) else source.depth)(episode, view, (2, 2))


def test_points_with_depth_are_masked_by_their_place_and_not_lifted_again():
    lifted = lift(still([[0.25, 0.5], [0.75, 0.5]]), np.full((4, *SIZE), 2.0, np.float32), "image_depth")
    mask = np.zeros((1, *SIZE), bool)
    mask[:, :, 30:] = True
    np.testing.assert_array_equal(hide_embodiment(lifted, mask).visible, [[True, False]] * 4)
    with pytest.raises(TrackingError, match="image_depth"):
        lift(lifted, np.ones((4, *SIZE), np.float32), "camera")
