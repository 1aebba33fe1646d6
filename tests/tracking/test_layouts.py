"""Where the papers' queries lie, checked with trackers whose answers are known."""

import numpy as np
import pytest

from t2p.geometry.conventions import to_amplify, to_atm, to_cotracker_queries
from t2p.io import UserError
from t2p.tracking.base import Tracker, check_queries, frame_indices
from t2p.tracking.layouts import Amplify, Atm, Clip, Grid, clip_rng, make_layout, position_variance
from t2p.types import Tracks

SIZE = (96, 128)


class Fake(Tracker):
    """Moves a point by `speed(x)` of the image's width per frame from its query; remembers what it was asked."""

    name, version = "fake", "7"

    def __init__(self, speed=lambda x: 0 * x):
        self.speed, self.asked = speed, []

    def prepare(self, video):
        return video

    def track(self, features, queries, span=None):
        queries, span = check_queries(queries, len(features), span)
        self.asked.append((queries, span))
        frames = frame_indices(len(features), span)[:, None]
        x = queries[:, 1] + self.speed(queries[:, 1]) * (frames - queries[:, 0])
        points = np.stack([x, np.broadcast_to(queries[:, 2], x.shape)], -1).astype(np.float32)
        return Tracks(points=points, visible=np.ones(x.shape, bool), queries=queries)


def clip(tracker, length=10):
    return Clip(tracker, np.zeros((length, *SIZE, 3), np.uint8), length, SIZE)


def test_grid_lies_on_the_first_frame_at_cell_centres_row_by_row():
    tracks = Grid(side=4).annotate(clip(Fake()), clip_rng("a", "front", 0))
    assert tracks.layout == "global" and tracks.points.shape == (10, 16, 2) and tracks.tracker == "fake"
    np.testing.assert_allclose(
        tracks.queries[:5], [[0, x, 0.125] for x in (0.125, 0.375, 0.625, 0.875)] + [[0, 0.125, 0.375]]
    )


def test_amplify_restarts_its_grid_in_every_frame():
    fake = Fake(lambda x: 0.01 + 0 * x)
    tracks = Amplify(side=20, horizon=6).annotate(clip(fake, 8), clip_rng("a", "front", 0))
    assert tracks.layout == "window" and tracks.points.shape == (8, 6, 400, 2) and tracks.visible.shape == (8, 6, 400)
    assert [span for _, span in fake.asked] == [(t, t + 6) for t in range(8)]
    assert (tracks.queries[:, 0] == 0).all()
    np.testing.assert_allclose(tracks.points[:, 0], np.broadcast_to(tracks.queries[:, 1:], (8, 400, 2)), atol=1e-6)
    np.testing.assert_allclose(tracks.points[6, 1:, 0, 0] - tracks.points[6, 0, 0, 0], [0.01] * 5, atol=1e-6)


@pytest.mark.parametrize("size", [(128, 128), SIZE])
def test_amplify_grid_in_its_own_coordinates(size):
    grid = to_amplify(Amplify().queries(size)[:, 1:].astype(np.float64), size)
    steps = -0.95 + 0.1 * np.arange(20)
    n = np.arange(400)
    np.testing.assert_allclose(grid, np.stack([steps[n % 20], steps[n // 20]], -1), atol=1e-6)


def test_amplify_windows_equal_the_original_preprocessing(shared):
    folder = shared / "golden/amplify/preprocess"
    inputs, outputs = np.load(folder / "inputs.npz"), np.load(folder / "outputs.npz")
    video = inputs["video"].transpose(0, 2, 3, 1)
    size, horizon = video.shape[1:3], outputs["tracks"].shape[1]

    class Brightness(Fake):
        """The original's stand-in: a point moves by the frame's mean / 255 pixels, visible where that is > 0.5."""

        def track(self, features, queries, span=None):
            queries, span = check_queries(queries, len(features), span)
            mean = features[frame_indices(len(features), span)].mean((1, 2, 3))[:, None] / 255
            points = queries[None, :, 1:] + mean[..., None] / [size[1], size[0]]
            return Tracks(
                points=points.astype(np.float32), visible=np.repeat(mean > 0.5, len(queries), 1), queries=queries
            )

    tracks = Amplify(side=4, horizon=horizon).annotate(
        Clip(Brightness(), video, len(video), size), clip_rng("a", "b", 0)
    )
    np.testing.assert_allclose(to_cotracker_queries(tracks.queries, size), outputs["grid_cotracker"][0], atol=1e-4)
    pixels = tracks.points * [size[1], size[0]] - 0.5
    np.testing.assert_allclose(pixels, outputs["tracks"], atol=1e-4)
    np.testing.assert_array_equal(tracks.visible, outputs["vis"] > 0.5)


def test_atm_keeps_what_moves_and_tracks_it_again():
    def speed(x):
        return np.where(x > 0.5, 0.02, 0.0)  # 2.56 px a frame: variance 60 px^2; the left half rests

    fake = Fake(speed)
    tracks = Atm().annotate(clip(fake), clip_rng("a", "front", 0))
    (first, _), (second, _) = fake.asked
    assert tracks.points.shape == (10, 1098, 2)
    np.testing.assert_array_equal(tracks.queries, second)
    # First pass: two 7 x 7 grids in ATM's coordinates, then distinct pixel centres, each with its own frame.
    grid = to_atm(first[:98, 1:].astype(np.float64), SIZE)
    np.testing.assert_allclose(np.unique(grid[:49].round(5)), np.linspace(0.05, 0.85, 7), atol=1e-5)
    np.testing.assert_allclose(np.unique(grid[49:].round(5)), np.linspace(0.15, 0.95, 7), atol=1e-5)
    pixels = to_cotracker_queries(first[98:], SIZE)[:, 1:]
    np.testing.assert_allclose(pixels, pixels.round(), atol=1e-3)
    assert len(np.unique(pixels.round(), axis=0)) == 1000
    assert set(first[:98, 0]) == set(first[98:, 0]) == set(range(10))
    # Second pass: the moving ones repeated in order, times kept, noise of 0.05 image heights.
    for part in (slice(0, 98), slice(98, 1098)):
        kept = first[part][speed(first[part, 1]) > 0]
        expected = np.resize(kept, first[part].shape)
        noise = (second[part] - expected)[:, 1:] * [SIZE[1], SIZE[0]]
        np.testing.assert_array_equal(second[part, 0], expected[:, 0])
        assert 0.75 < noise.std() / (0.05 * SIZE[0]) < 1.25 and abs(noise.mean()) < 1


def test_atm_thresholds_are_ten_square_pixels_and_nothing():
    slow = 0.004  # 0.51 px a frame: variance 2.4 px^2, between the thresholds 0 of the grid and 10 of the others
    fake = Fake(lambda x: np.where(x > 0.9, 0.02, np.where(x > 0.5, slow, 0.0)))
    Atm().annotate(clip(fake), clip_rng("a", "front", 0))
    (first, _), (second, _) = fake.asked
    assert {x > 0.5 for x in first[np.isin(first[:, 1], first[:98, 1]), 1]} == {True, False}
    assert len(np.unique(second[:98, 0])) > 1
    kept_random = first[98:][first[98:, 1] > 0.9]
    np.testing.assert_array_equal(second[98:, 0], np.resize(kept_random[:, 0], 1000))
    kept_grid = first[:98][first[:98, 1] > 0.5]
    np.testing.assert_array_equal(second[:98, 0], np.resize(kept_grid[:, 0], 98))


def test_atm_keeps_the_same_points_at_any_resolution():
    speeds = 0.007 * np.array([64, 128, 256])  # variance 1.8, 7.4 and 29 px^2: between 10 and 10 only when scaled
    assert (speeds**2 * 9.17 > 10).tolist() == [False, False, True]
    for size in ((64, 64), (256, 256)):
        fake = Fake(lambda x: np.where(x > 0.9, 0.02, np.where(x > 0.5, 0.007, 0.0)))
        Atm(random=200).annotate(Clip(fake, np.zeros((10, *size, 3), np.uint8), 10, size), clip_rng("a", "front", 0))
        (first, _), (second, _) = fake.asked
        fast = first[98:][first[98:, 1] > 0.9]
        np.testing.assert_array_equal(second[98:, 0], np.resize(fast[:, 0], 200))


def test_atm_of_a_still_video_or_a_single_frame_keeps_all_queries():
    for length in (10, 1):
        fake = Fake()
        tracks = Atm(random=50).annotate(clip(fake, length), clip_rng("a", "front", 0))
        np.testing.assert_array_equal(tracks.queries[:, 0], fake.asked[0][0][:, 0])
        assert tracks.points.shape == (length, 148, 2) and np.isfinite(tracks.points).all()


def test_random_queries_depend_on_episode_view_and_seed_alone():
    def queries(*key):
        return Atm(random=20).annotate(clip(Fake()), clip_rng(*key)).queries

    np.testing.assert_array_equal(queries("a", "front", 0), queries("a", "front", 0))
    for other in (("b", "front", 0), ("a", "wrist", 0), ("a", "front", 1)):
        assert not np.array_equal(queries("a", "front", 0), queries(*other))


def test_variance_is_unbiased_and_in_square_pixels():
    points = np.random.default_rng(0).random((7, 3, 2))
    pixels = points * [128, 96]
    expected = ((pixels - pixels.mean(0)) ** 2).sum((0, 2)) / 6
    np.testing.assert_allclose(position_variance(points, SIZE), expected)


def test_layouts_are_made_by_name():
    assert make_layout("grid", side=36) == Grid(side=36)
    for name, options, message in (
        ("spiral", {}, "expected one of atm, amplify, grid"),
        ("atm", {"side": 3}, "does not take side"),
        ("grid", {"side": 0}, "at least 1"),
    ):
        with pytest.raises(UserError, match=message):
            make_layout(name, **options)
