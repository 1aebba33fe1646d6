"""What a policy said of its pictures: kept within bounds, drawn in the right view at the right place."""

from __future__ import annotations

import numpy as np

from t2p.eval.moments import COLUMNS, MOST, Moment, Moments, attended, foretold
from t2p.eval.overlay import draw_ways, heat
from t2p.types import Observation

VIEWS = ("front", "wrist")


def seen(value: int = 90) -> Observation:
    return Observation(images={view: np.full((1, 64, 64, 3), value, np.uint8) for view in VIEWS})


def told(count: int, aux) -> list[Moment]:
    moments = Moments()
    for step in range(count):
        moments.told(seen(step % 256), aux(step))
    return moments.kept


def ways(step: int = 0) -> dict[str, np.ndarray]:
    """One point a view that goes right: in front above the middle, in wrist below."""
    x = np.linspace(0.2, 0.8, 8)
    y = np.array([0.25, 0.75])[:, None].repeat(8, 1)
    return {"tracks": np.stack([np.stack([x, x]), y], -1)[None, :, :, None]}


def test_long_episodes_are_thinned_evenly() -> None:
    kept = told(3 * MOST, ways)
    steps = [m.step for m in kept]
    assert MOST // 2 < len(kept) <= MOST and len(set(np.diff(steps))) == 1 and steps[0] == 0
    assert all(m.pictures["front"][0, 0, 0] == m.step % 256 for m in kept)


def test_points_in_space_and_silence_are_not_kept() -> None:
    assert told(3, lambda step: {"tracks": np.zeros((1, 9, 5, 3))}) == [] and told(3, lambda step: {}) == []
    assert foretold([]) is None and attended([]) is None


def test_each_view_has_its_own_tracks() -> None:
    film = foretold(told(3, ways))
    assert film is not None and film.shape[0] == 3 and film.dtype == np.uint8
    colourful = np.ptp(film[0].astype(int), axis=-1) > 60  # the pictures are grey
    left, right = np.array_split(colourful, 2, axis=1)
    rows = [np.flatnonzero(half.any(1)).mean() / len(half) for half in (left, right)]
    assert rows[0] < 0.45 and rows[1] > 0.6


def test_a_way_ends_in_a_dot() -> None:
    tracks = ways()["tracks"][0, 0]
    drawn = draw_ways(np.full((64, 64, 3), 90, np.uint8), tracks)
    found = np.argwhere(np.ptp(drawn.astype(int), axis=-1) > 60) / len(drawn)
    row, column = found.min(0), found.max(0)
    assert abs(found[:, 0].mean() - 0.25) < 0.01
    assert row[1] > 0.19 and abs(column[1] - 0.8) < 0.02


def test_warm_is_where_attention_lies() -> None:
    values = np.zeros((4, 4))
    values[1, 3] = 2.0
    drawn = heat(np.full((64, 80, 3), 100, np.uint8), values).astype(int)
    red = drawn[..., 0] - drawn[..., 2]
    row, column = np.unravel_index(red.argmax(), red.shape)
    assert abs(row + 0.5 - 24) <= 4 and abs(column + 0.5 - 70) <= 6
    assert red[60, 5] < 0 < red.max()


def test_the_sheet_of_attention_has_the_episodes_moments_and_the_last_layer() -> None:
    def aux(step: int) -> dict[str, np.ndarray]:
        attention = np.zeros((1, 2, len(VIEWS), 4, 4))
        attention[0, 0, :, 0, 0] = 1  # of the first layer: not shown
        attention[0, 1, 0, 0, 3], attention[0, 1, 1, 3, 0] = 1, 1
        return {"attention": attention}

    kept = told(11, aux)
    assert kept[0].tracks is None and kept[0].attention is not None
    np.testing.assert_array_equal(np.argwhere(kept[0].attention), [[0, 0, 3], [1, 3, 0]])
    sheet = attended(kept)
    few = attended(kept[:2])
    assert sheet is not None and few is not None
    assert sheet.shape[1] == (few.shape[1] - 6) // 2 * COLUMNS + 6
