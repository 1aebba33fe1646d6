"""Tracks are drawn where they are, in their colours, fading; videos can be read back."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from t2p.eval.overlay import contact_sheet, draw_tracks, enlarge, rainbow, write_image, write_video

RED, BLUE = np.array([[255, 0, 0]], np.uint8), np.array([[0, 0, 255]], np.uint8)


def clip(length=6, height=320, width=400):
    return np.full((length, height, width, 3), 128, np.uint8)


def centre(image):
    """Mean (x, y) in [0, 1] of what is red."""
    red = np.maximum(image[..., 0].astype(float) - image[..., 1], 0)
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    return np.array([(columns * red).sum() / image.shape[1], (rows * red).sum() / image.shape[0]]) / red.sum()


def test_a_point_is_drawn_where_it_is():
    place = np.array([0.7312, 0.215])
    tracks = np.broadcast_to(place, (6, 1, 2))
    drawn = draw_tracks(clip(), tracks, np.ones((6, 1), bool), colors=RED)
    assert drawn.shape == (6, 320, 400, 3)
    np.testing.assert_allclose(centre(drawn[3]), place, atol=0.1 / 400)
    small = draw_tracks(clip(height=32, width=40), tracks, np.ones((6, 1), bool), colors=RED)
    assert small.shape == (6, 320, 400, 3)
    np.testing.assert_allclose(centre(small[0]), place, atol=0.1 / 400)


def test_the_frames_given_are_not_drawn_upon():
    frames = clip()
    draw_tracks(frames, np.full((6, 1, 2), 0.5), np.ones((6, 1), bool))
    assert (frames == 128).all()


def test_trails_fade_and_end():
    tracks = np.stack([np.linspace(0.1, 0.9, 6), np.full(6, 0.5)], -1)[:, None]
    drawn = draw_tracks(clip(), tracks, np.ones((6, 1), bool), colors=RED, trail=4)[5].astype(int)
    redness = [drawn[155:165, round(x * 400), 0].max() - 128 for x in (tracks[:-1, 0, 0] + tracks[1:, 0, 0]) / 2]
    assert redness[0] == 0  # older than the trail
    assert all(a < b for a, b in pairwise(redness))


def test_hidden_points_leave_no_dot_and_no_trail():
    tracks = np.stack([np.linspace(0.1, 0.9, 6), np.full(6, 0.5)], -1)[:, None]
    visible = np.array([1, 1, 0, 0, 1, 1], bool)[:, None]
    drawn = draw_tracks(clip(), tracks, visible, colors=RED)
    assert (drawn[2] != 128).any() and centre(drawn[1])[0] < 0.3
    assert (drawn[3][:, 150:] == 128).all()
    gap = drawn[5][:, int(0.3 * 400) : int(0.7 * 400)]
    assert (gap == 128).all()


def test_points_outside_and_broken_points_do_no_harm():
    tracks = np.zeros((6, 4, 2))
    tracks[:, 1], tracks[:, 2], tracks[:, 3] = 1e9, np.nan, (-0.5, 0.5)
    visible = np.ones((6, 4), bool)
    assert draw_tracks(clip(), tracks, visible).shape == (6, 320, 400, 3)


def test_truth_stands_on_the_left_in_the_same_colours():
    still, ones = np.full((2, 1, 2), 0.5), np.ones((2, 1), bool)
    both = draw_tracks(clip(2), still + 0.2, ones, colors=BLUE, truth=(still - 0.2, ones))
    blue = np.abs(both[0].astype(int) - BLUE[0]).max(-1) < 40
    half = both.shape[2] // 2
    assert blue[:, :half].sum() > 5 and blue[:, half:].sum() > 5
    assert np.nonzero(blue[:, :half])[0].mean() < np.nonzero(blue[:, half:])[0].mean()  # truth is higher up


@pytest.mark.parametrize(
    ("tracks", "visible"), [((6, 3, 3), (6, 3)), ((5, 3, 2), (5, 3)), ((6, 3, 2), (3, 6)), ((6, 2), (6,))]
)
def test_other_shapes_are_refused(tracks, visible):
    with pytest.raises(ValueError, match="expected"):
        draw_tracks(clip(), np.zeros(tracks), np.ones(visible, bool))


def test_colours_differ_and_depend_on_places_alone():
    points = np.random.default_rng(0).random((50, 2))
    colors = rainbow(points)
    assert len(np.unique(colors, axis=0)) > 40
    order = np.random.default_rng(1).permutation(50)
    np.testing.assert_allclose(rainbow(points[order]).astype(int), colors[order], atol=1)  # rounding
    assert rainbow(points[:1]).shape == (1, 3)


@pytest.mark.parametrize("size", [(64, 96), (33, 47)])
def test_videos_come_back(tmp_path, size):
    import av

    frames = np.stack([np.full((*size, 3), v, np.uint8) for v in (10, 90, 170, 250)])
    write_video(tmp_path / "a.mp4", frames, 12.5)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert float(stream.average_rate) == 12.5
        back = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    assert [b.shape[:2] for b in back] == [(size[0] + size[0] % 2, size[1] + size[1] % 2)] * 4
    np.testing.assert_allclose([b.mean() for b in back], [10, 90, 170, 250], atol=4)
    with pytest.raises(ValueError, match="fps"):
        write_video(tmp_path / "b.mp4", frames, 0)
    assert not (tmp_path / "b.mp4").exists()


def test_contact_sheet_holds_every_picture(tmp_path):
    from PIL import Image

    pictures = [np.broadcast_to(np.uint8([v, 0, 200]), (20, 30, 3)) for v in (1, 2, 3)]
    sheet = contact_sheet([pictures[:2], pictures[2:]], ["one", ""], ["a", "b"])
    assert [(sheet == (v, 0, 200)).all(-1).sum() for v in (1, 2, 3)] == [600] * 3
    write_image(tmp_path / "sheet.png", sheet)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "sheet.png")), sheet)
    assert enlarge(np.zeros((1, 100, 700, 3), np.uint8)).shape == (1, 400, 2800, 3)
