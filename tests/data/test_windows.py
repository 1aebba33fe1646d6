"""Index, padding, masks, point selection, resampling."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import VIEWS, MemoryDataset, frame_value, make_episode, track_sets

from t2p.data.windows import Cutter, Row, Rows, Segment, check_window, draw_points, extent, place, resample
from t2p.io import UserError
from t2p.types import ANY_VIEW, Camera, FieldWindow, WindowSpec

RNG = np.random.default_rng(0)


def spec(**fields) -> WindowSpec:
    return WindowSpec(**{"views": VIEWS, **fields})


def cut(episodes, row: Row, window: WindowSpec, rng=RNG, fields=("images", "goal", "tracks", "actions", "proprio")):
    return Cutter(MemoryDataset(episodes), window, window.track_set, fields).cut(row, rng)


def row(start: int, length: int = 3, episode: int = 0, view: str | None = None) -> Row:
    return Row((Segment(episode, start, length),), view)


def greys(images: np.ndarray) -> list[int]:
    return images[..., 0, 0, 0].tolist()


def test_rows_are_every_start_of_every_episode_and_view():
    rows = Rows([3, 5], [2, 3], [None, None], span=2)
    assert [r.segments[0] for r in rows] == [(3, 0, 2), (3, 1, 1), (5, 0, 2), (5, 1, 2), (5, 2, 1)]
    rows = Rows([3, 5], [2, 1], [VIEWS, ("wrist",)], span=1)
    assert [(r.segments[0].start, r.view) for r in rows] == [
        *[(0, "front"), (0, "wrist"), (1, "front"), (1, "wrist")],
        *[(0, "wrist")],
    ]
    with pytest.raises(IndexError):
        rows[5]


def test_whole_episodes_are_one_row_for_each_view():
    assert [r.segments[0] for r in Rows([3, 5], [2, 30], [None, None], span=10, whole=True)] == [(3, 0, 2), (5, 0, 10)]
    assert [r.view for r in Rows([3], [9], [VIEWS], span=2, whole=True)] == list(VIEWS)


def test_points_drawn_without_replacement_come_once_or_equally_often():
    visible = np.array([True, False, True, True, True])
    assert sorted(draw_points(visible, 4, RNG, replacement=False)) == [0, 2, 3, 4]
    assert len(set(draw_points(visible, 3, RNG, replacement=False))) == 3
    counts = np.bincount(draw_points(visible, 10, RNG, replacement=False), minlength=5)
    assert counts[1] == 0 and set(counts[[0, 2, 3, 4]]) == {2, 3}


def test_cameras_are_those_of_the_episode():
    window = spec(images=FieldWindow((0,)), cameras=True)
    cameras = {v: Camera(np.eye(3) * (i + 1), np.eye(4), (16, 16)) for i, v in enumerate(VIEWS)}
    found = cut([make_episode(0, cameras=cameras)], row(0), window, fields=("images", "cameras"))
    assert found["cameras"]["wrist"]["K"].dtype == np.float32
    np.testing.assert_array_equal(found["cameras"]["wrist"]["K"], 2 * np.eye(3))
    half = make_episode(0, cameras={"front": cameras["front"]})
    assert "cameras" not in cut([half], row(0), window, fields=("images", "cameras"))


def test_extent_is_the_furthest_offset_of_any_field():
    window = spec(images=FieldWindow((-3, 0)), actions=FieldWindow((0, 1, 2)), goal=FieldWindow(("last",)))
    assert extent(window) == 3
    assert extent(spec(images=FieldWindow((-1,)))) == 1


def test_images_repeat_the_edges_or_are_black():
    window = spec(images=FieldWindow((-2, -1, 0, 1)))
    episodes = [make_episode(0, length=3)]
    assert greys(cut(episodes, row(1), window)["images"]["front"]) == [0, 0, 1, 2]
    assert greys(cut(episodes, row(2), window)["images"]["wrist"]) == [100, 101, 102, 102]
    black = spec(images=FieldWindow((-2, -1, 0, 1), pad="zero"))
    assert greys(cut(episodes, row(2), black)["images"]["wrist"]) == [100, 101, 102, 0]
    before = spec(images=FieldWindow((-2, -1), pad="zero"))
    assert cut(episodes, row(0), before)["images"]["front"].tolist() == np.zeros((2, 16, 16, 3)).tolist()


def test_a_black_frame_is_not_read():
    dataset = MemoryDataset([make_episode(0, length=3)])
    window = spec(views=("front",), images=FieldWindow((-1, 0, 1, 2, 3, 4), pad="zero"))
    Cutter(dataset, window, None, ("images",)).cut(row(0), RNG)
    assert dataset.frames_read == 3


def test_last_and_goal_frames():
    episodes = [make_episode(1, length=9)]
    last = cut(episodes, row(2, 4), spec(goal=FieldWindow(("last",))))["goal"]["front"]
    goal = cut(episodes, row(2, 4), spec(goal=FieldWindow(("goal",))))["goal"]["front"]
    assert last.shape == goal.shape == (16, 16, 3)
    assert last[0, 0, 0] == frame_value(1, "front", 8)
    assert goal[0, 0, 0] == frame_value(1, "front", 5)


def test_actions_and_proprio_pad_and_mask():
    window = spec(actions=FieldWindow((0, 1, 2), pad="zero"), proprio=FieldWindow((-1, 0)), proprio_keys=("joint",))
    out = cut([make_episode(2, length=4)], row(3), window)
    assert out["actions"].tolist() == [[2, 3], [0, 0], [0, 0]] and out["actions"].dtype == np.float32
    assert out["action_valid"].tolist() == [True, False, False]
    assert out["proprio"]["joint"].tolist() == [[22], [23]]


def test_fields_that_an_episode_lacks_are_left_out():
    window = spec(actions=FieldWindow((0,)), proprio=FieldWindow((0,)), proprio_keys=("joint", "gripper"))
    assert cut([make_episode(0)], row(0), window).keys() == {"actions", "action_valid"}
    assert cut([make_episode(0)], row(0), window, fields=("images",)) == {}


def test_one_view_is_named_any():
    window = spec(one_view=True, images=FieldWindow((0,)), track_set="dis/grid", tracks=FieldWindow((0, 1)))
    out = cut([make_episode(0)], row(1, view="wrist"), window)
    assert greys(out["images"][ANY_VIEW]) == [101]
    assert out["images"].keys() == out["tracks"].keys() == {ANY_VIEW}


@pytest.mark.parametrize(
    "pad, x, visible", [("repeat", [4, 5, 5, 5], [1, 1, 1, 1]), ("zero", [4, 5, 0, 0], [1, 1, 0, 0])]
)
@pytest.mark.parametrize("track_set", ["dis/grid", "dis/window"])
def test_tracks_past_the_end_are_padded_and_marked(pad, x, visible, track_set):
    window = spec(views=("front",), track_set=track_set, tracks=FieldWindow((0, 1, 2, 3), pad=pad))
    tracks = cut([make_episode(0, length=6)], row(4), window)["tracks"]["front"]
    np.testing.assert_allclose(tracks["points"][:, 0, 0], np.array(x) / 100)
    assert tracks["visible"][:, 0].tolist() == [bool(v) for v in visible]
    assert tracks["valid"].tolist() == [True, True, False, False]


def test_window_tracks_shorter_than_asked_are_refused():
    window = spec(track_set="dis/window", tracks=FieldWindow(tuple(range(5))))
    with pytest.raises(UserError, match="4 steps"):
        cut([make_episode(0)], row(0), window)


def test_points_are_drawn_uniformly_with_replacement_among_the_visible():
    window = spec(views=("front",), track_set="dis/grid", tracks=FieldWindow((0, 1)), num_points=3000)
    tracks = cut([make_episode(0)], row(0), window)["tracks"]["front"]
    names, counts = np.unique(np.round(tracks["points"][0, :, 1] * 10).astype(int), return_counts=True)
    assert names.tolist() == [0, 2, 4]  # the odd ones are never visible
    assert counts.min() > 900
    assert (tracks["points"][:, :, 1] == tracks["points"][:1, :, 1]).all()  # a point stays itself over time
    assert draw_points(np.array([False, True]), 4, RNG).tolist() == [1] * 4
    assert set(draw_points(np.zeros(3, bool), 100, RNG)) == {0, 1, 2}


def test_points_are_those_visible_at_offset_0_and_the_same_with_history_in_front():
    sets = track_sets(6, 6)
    sets["front"].visible[:3] = False
    sets["front"].visible[3:, 5] = True  # seen from frame 3 on
    episodes = [make_episode(0, tracks={"s": sets})]
    drawn = []
    for offsets in ((0, 1), (-2, -1, 0, 1)):
        window = spec(views=("front",), track_set="s", tracks=FieldWindow(offsets), num_points=20)
        tracks = cut(episodes, row(3), window, np.random.default_rng(1))["tracks"]["front"]
        assert tracks["visible"][-2:].all() and not tracks["visible"][:-2].any()
        drawn.append(tracks["points"][-2:])
    np.testing.assert_array_equal(*drawn)
    assert set(np.round(drawn[0][0, :, 1] * 10).astype(int)) == {0, 2, 4, 5}


def test_without_a_visible_or_any_point_an_example_has_no_tracks():
    window = spec(track_set="s", tracks=FieldWindow((0, 1)), num_points=4)
    hidden = track_sets(6, 6)
    for found in hidden.values():
        found.visible[:1] = False
    empty = track_sets(6, 0)
    assert cut([make_episode(0, tracks={"s": hidden})], row(0), window) == {}
    assert cut([make_episode(0, tracks={"s": empty})], row(0), window) == {}
    assert cut([make_episode(0, tracks={"s": hidden})], row(1), window)["tracks"]["front"]["visible"].all()
    half = cut([make_episode(0, tracks={"s": {"front": hidden["front"], "wrist": empty["wrist"]}})], row(1), window)
    assert half["tracks"]["wrist"]["points"].shape == (2, 4, 2) and not half["tracks"]["wrist"]["visible"].any()


def test_resampling_is_linear_and_masks_steps_that_touch_padding():
    points = np.array([0.0, 3.0, 6.0, 6.0], np.float32)[:, None, None] * np.ones((1, 1, 2), np.float32)
    visible = np.array([True, False, True, True])[:, None]
    out = resample({"points": points, "visible": visible, "valid": np.array([True, True, True, False])}, 16)
    np.testing.assert_allclose(
        out["points"][:, 0, 0], np.interp(np.linspace(0, 3, 16), range(4), points[:, 0, 0]), atol=1e-6
    )
    assert out["points"].dtype == np.float32
    assert out["valid"].tolist() == [True] * 11 + [False] * 5  # step 10 of 15 falls on old step 2
    assert out["visible"][:, 0].tolist() == [True] + [False] * 9 + [True] * 6


def test_track_steps_resample_the_window():
    window = spec(views=("front",), track_set="dis/grid", tracks=FieldWindow((0, 1, 2, 3)), track_steps=7)
    tracks = cut([make_episode(0, length=6)], row(3), window)["tracks"]["front"]
    np.testing.assert_allclose(tracks["points"][:, 0, 0], [0.03, 0.035, 0.04, 0.045, 0.05, 0.05, 0.05], atol=1e-6)
    assert tracks["valid"].tolist() == [True] * 5 + [False] * 2


def test_a_row_may_span_episodes():
    episodes = [make_episode(0, length=4), make_episode(1, length=5)]
    both = Row((Segment(0, 2, 2), Segment(1, 0, 3)))
    lengths = [4, 5].__getitem__
    where = place(both, (-3, 0, 1, 2, 6, 7, "goal", "last"), lengths)
    assert where.episode.tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    assert where.frame.tolist() == [0, 2, 3, 0, 4, 4, 2, 4]
    assert where.valid.tolist() == [False, True, True, True, True, False, True, True]
    out = cut(episodes, both, spec(images=FieldWindow((1, 2, 3)), actions=FieldWindow((0, 1, 2, 3))))
    assert greys(out["images"]["front"]) == [3, 10, 11]
    assert out["actions"].tolist() == [[0, 2], [0, 3], [1, 0], [1, 1]]


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"views": ()}, "no view"),
        ({"tracks": FieldWindow((0,))}, "track_set"),
        ({"goal": FieldWindow((0, 1))}, "one image"),
        ({"proprio": FieldWindow((0,))}, "proprio_keys"),
    ],
)
def test_contradictory_windows_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        check_window(spec(**fields))
