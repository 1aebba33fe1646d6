"""Evaluation of predicted tracks: rules, masks and measures on tracks whose answers are known."""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np
import pytest

from t2p.eval import tracks
from t2p.io import UserError
from t2p.types import ANY_VIEW, Batch, FieldWindow, Prediction, Tracks, WindowSpec

STEPS, POINTS, SIZE = 5, 3, (20, 40)
WINDOW = WindowSpec(
    views=("front",),
    one_view=True,
    images=FieldWindow((0,)),
    track_set="exact",
    tracks=FieldWindow(tuple(range(STEPS))),
    text=True,
)


def batch(velocity: np.ndarray, rows: int = 4, mask: np.ndarray | None = None) -> Batch:
    """Rows whose points move by velocity [N, 2] (pixels a step) in evaluation_window(WINDOW); row r shows the grey
    value r and carries the text [r]."""
    times = np.arange(-2, STEPS, dtype=np.float32)[:, None, None]
    points = 0.5 + times * velocity.astype(np.float32) / np.array(SIZE[::-1], np.float32)
    points = np.repeat(points[None], rows, 0)
    images = np.arange(rows, dtype=np.uint8)[:, None, None, None, None] * np.ones((1, 1 + STEPS, *SIZE, 3), np.uint8)
    found = Tracks(points, np.ones(points.shape[:-1], bool), None, np.ones(points.shape[:2], bool))
    text = np.arange(rows, dtype=np.float32)[:, None]
    return Batch(images={ANY_VIEW: images}, tracks={"exact": {ANY_VIEW: found}}, text=text, mask=mask)


@dataclass(frozen=True)
class Oracle:
    """Moves all points right by a tenth of the width a step where image and sentence belong together."""

    def predict(self, variables, batch, rng):
        points = batch.tracks["exact"][ANY_VIEW].points
        steps = jnp.arange(STEPS)[None, :, None, None] * jnp.array([0.1, 0.0])
        fits = batch.images[ANY_VIEW][:, 0, 0, 0, 0] == batch.text[:, 0]
        moved = points[:, :1] + jnp.where(fits[:, None, None, None], steps, -steps)
        return Prediction(Tracks(moved, jnp.ones(moved.shape[:-1], bool)))


def right(pixels: float) -> np.ndarray:
    return np.array([[pixels, 0.0]] * POINTS)


def clips(velocity: np.ndarray, **kwargs) -> tracks.Clips:
    return tracks.gather(WINDOW, [batch(velocity, **kwargs)])


def test_window_puts_two_frames_in_front_and_all_pictures_behind() -> None:
    window = tracks.evaluation_window(WINDOW)
    assert window.tracks.offsets == (-2, -1, 0, 1, 2, 3, 4)
    assert window.images.offsets == (0, 0, 1, 2, 3, 4)
    resampled = tracks.evaluation_window(replace(WINDOW, track_steps=9))
    assert resampled.tracks.offsets == WINDOW.tracks.offsets


def test_track_sets_without_a_past_are_measured_without_the_velocity_rule() -> None:
    assert tracks.evaluation_window(WINDOW, history=False).tracks.offsets == WINDOW.tracks.offsets
    given = batch(right(4))
    found = given.tracks["exact"][ANY_VIEW]
    cut = found.replace(points=found.points[:, 2:], visible=found.visible[:, 2:], valid=found.valid[:, 2:])
    whole = tracks.gather(WINDOW, [given.replace(tracks={"exact": {ANY_VIEW: cut}})], history=False)
    assert whole.history is None and whole.truth.points.shape[1] == STEPS
    assert "constant velocity" not in tracks.predictions(Oracle(), {}, whole)


def test_few_films_are_kept_evenly_spread_over_all_rows() -> None:
    films = tracks.Films(6)
    for start in range(0, 100, 10):
        films.add(np.arange(start, start + 10)[:, None, None, None, None] * np.ones((1, 2, 1, 1, 3), np.uint8))
        assert len(films._kept) <= 6
    chosen = films.chosen(3)
    assert list(chosen) == [0, 32, 96]
    assert all((film == row).all() for row, film in chosen.items())


@pytest.mark.parametrize("steps", [STEPS, 2 * STEPS])
def test_films_of_clips_that_end_hold_their_last_frame(steps: int) -> None:
    given = batch(right(4), rows=1)
    film = given.images[ANY_VIEW]
    film[0, 1:] = np.arange(1, STEPS + 1, dtype=np.uint8)[:, None, None, None]
    film[0, 4:] = 0  # the clip ends after the film's third frame
    window = WINDOW if steps == STEPS else replace(WINDOW, track_steps=steps)
    before = 2 if steps == STEPS else 0
    valid = np.arange(-before, steps)[None] < 0.6 * steps
    shape = (1, before + steps, POINTS)
    found = Tracks(np.zeros((*shape, 2), np.float32), np.ones(shape, bool), None, valid)
    kept = tracks.gather(window, [given.replace(tracks={"exact": {ANY_VIEW: found}})]).frames[0]
    assert kept[:, 0, 0, 0].tolist() == [1, 2, 3, 3, 3]


def test_rules_know_their_motion() -> None:
    found = clips(right(4))
    np.testing.assert_allclose(tracks.constant_velocity(found), found.truth.points, atol=1e-6)
    result = tracks.measure(found, {"still": tracks.no_motion(found)})["still"]
    squares = (4.0 * np.arange(1, STEPS)) ** 2 / 2  # per coordinate, over x and y, steps after the first
    assert result["mse (moving)"] == pytest.approx(squares.mean(), rel=1e-5)
    assert result["ade (all)"] == pytest.approx(10.0, rel=1e-5)
    np.testing.assert_allclose(result["by step"], [0, 4, 8, 12, 16], rtol=1e-5)


def test_a_model_that_reads_its_cues_suffers_without_them() -> None:
    found = clips(right(4))
    predicted = tracks.predictions(Oracle(), {}, found, batch_size=3)
    result = tracks.measure(found, predicted)
    assert result["model"]["mse (moving)"] < 1e-6
    for who in ("model, image of another clip", "model, sentence of another clip"):
        assert result[who]["mse (moving)"] > 100
    # Image and sentence of one other clip belong together: this oracle is not fooled by that.
    assert result["model, image and sentence of another clip"]["mse (moving)"] < 1e-6


def test_one_clip_alone_has_no_other_to_take_cues_from() -> None:
    found = clips(right(5))
    several, alone = (tracks.predictions(Oracle(), {}, found, others=others) for others in (True, False))
    several, alone = ({who: x + 0.01 for who, x in predicted.items()} for predicted in (several, alone))  # none exact
    assert set(several) - set(alone) == {
        f"model, {what} of another clip" for what in ("image and sentence", "image", "sentence")
    }
    measures = tracks.measure(found, several)
    assert tracks.measure(found, alone) == {who: measures[who] for who in alone}
    ratios = tracks.verdict(measures)
    assert ratios.pop("another clip's cues / model") > 0
    assert tracks.verdict(tracks.measure(found, alone)) == ratios


def test_filling_rows_hidden_points_and_padding_do_not_count() -> None:
    given = batch(right(4), mask=np.array([True, True, True, False]))
    found = given.tracks["exact"][ANY_VIEW]
    found.visible[0] = False
    found.valid[1, :1] = False  # no frame two before t: the row has no constant velocity
    found.valid[2, 5:] = False  # steps 3 and 4 are padding
    collected = tracks.gather(WINDOW, [given])
    assert collected.rows == 3
    where = tracks.counted(collected)
    assert not where[0].any() and not where[1].any()
    np.testing.assert_array_equal(where[2, :, 0], [False, True, True, False, False])


def test_points_that_stay_within_two_pixels_are_not_moving() -> None:
    velocity = np.array([[0.4, 0.0], [0.6, 0.0], [0.0, -3.0]])  # 1.6, 2.4 and 12 pixels in four steps
    found = clips(velocity)
    where = tracks.counted(found)
    np.testing.assert_array_equal(tracks.moving(found, where)[0, 0], [False, True, True])


def test_nothing_to_measure_is_said() -> None:
    with pytest.raises(UserError, match="no point moves more than 2"):
        still = clips(right(0))
        tracks.measure(still, {"still": tracks.no_motion(still)})
    with pytest.raises(UserError, match="no examples"):
        tracks.gather(WINDOW, [])
