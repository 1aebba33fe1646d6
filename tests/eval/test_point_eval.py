"""Evaluation of tracks in space: errors made by hand, masks, refusals, and the page."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import pytest

from t2p.eval import plots3d, points, points_report, report
from t2p.io import UserError
from t2p.types import Batch, FieldWindow, Prediction, Tracks, WindowSpec

T, N = 4, 40
WINDOW = WindowSpec(views=("front",), whole=True, track_set="exact", tracks=FieldWindow(tuple(range(T + 1))))
POSE = np.array([[0.0, 0, -1, 1], [1, 0, 0, 0], [0, -1, 0, 0.5], [0, 0, 0, 1]])


def batch(rows: int = 3, *, cameras: bool = True, mask: np.ndarray | None = None, dims: int = 3) -> Batch:
    """Rows whose first two points move right: 30 mm and 2 mm a step; the others stay."""
    rng = np.random.default_rng(0)
    first = rng.uniform(0.5, 1.0, (rows, 1, N, dims))
    speed = np.zeros((N, dims))
    speed[:2, 0] = 0.03, 0.002
    moved = (first + np.arange(T + 1)[None, :, None, None] * speed).astype(np.float32)
    visible, valid = np.ones(moved.shape[:-1], bool), np.ones(moved.shape[:2], bool)
    pose = np.broadcast_to(POSE, (rows, 4, 4))
    seen = {"front": (np.broadcast_to(np.eye(3), (rows, 3, 3)), pose if cameras else np.zeros_like(pose))}
    return Batch(
        tracks={"exact": {"front": Tracks(moved, visible, None, valid, "camera")}},
        cameras=seen,
        has={"cameras": np.full(rows, cameras)},
        mask=mask,
    )


def clouds(**kwargs) -> points.Clouds:
    return points.gather(WINDOW, [batch(**kwargs)])


@dataclass(frozen=True)
class Echo:
    """Predicts what the batch's tracks say, shifted; `steps` of them."""

    shift: float = 0.0
    steps: int = T + 1
    space: str = "camera"

    def predict(self, variables, batch, rng):
        found = jnp.asarray(batch.tracks["exact"]["front"].points)[:, : self.steps] + self.shift
        return Prediction(Tracks(found, jnp.ones(found.shape[:-1], bool), space=self.space))


def shifted(given: points.Clouds, metres: float) -> np.ndarray:
    return given.truth.points + np.array([0, metres, 0], np.float32)


def test_errors_are_in_millimetres() -> None:
    given = clouds()
    result = points.measure(given, {"model": shifted(given, 0.003)})["model"]
    for name in points_report.COLUMNS:
        assert result[name] == pytest.approx(3.0, abs=1e-3)
    np.testing.assert_allclose(result["by step"], [3.0] * T, atol=1e-3)


def test_points_that_stay_miss_what_moved() -> None:
    given = clouds()
    result = points.measure(given, points.predictions(Echo(), {}, given))["no motion"]
    mean = np.mean([1, 2, 3, 4])
    assert result["ade"] == pytest.approx((30 + 2) * mean / N, rel=1e-3)
    assert result["ade (moving)"] == pytest.approx(30 * mean, rel=1e-3)  # 8 mm in all do not count as motion
    assert result["5 % ade"] == result["5 % ade (per sample)"] == pytest.approx((30 + 2) * mean / 2, rel=1e-3)
    np.testing.assert_allclose(result["by step"], 32 * np.arange(1, 5) / N, rtol=1e-3)


def test_the_pooled_measure_takes_the_most_moving_of_all_samples() -> None:
    """Where one sample moves and the others do not, pooled and per-sample trajectories differ."""
    given = clouds()
    speed = np.zeros((3, 1, N, 1), np.float32)
    speed[0, :, :6] = 0.1  # 5 % of 3 x 40 trajectories
    moved = given.truth.points[:, :1] + np.arange(T + 1)[None, :, None, None] * speed * np.array([1, 0, 0], np.float32)
    given = points.Clouds(given.batch, given.truth.replace(points=moved), given.poses)
    result = points.measure(given, {"still": np.broadcast_to(moved[:, :1], moved.shape)})["still"]
    assert result["5 % ade"] == pytest.approx(250, rel=1e-3)
    assert result["5 % ade (per sample)"] == pytest.approx(250 / 3, rel=1e-3)


def test_the_rule_decides_which_steps_count() -> None:
    given = clouds()
    visible = given.truth.visible.copy()
    visible[:, 1] = False  # hidden at the first step: the second counts by the paper's rule only
    hidden = points.Clouds(given.batch, given.truth.replace(visible=visible), given.poses)
    wrong = given.truth.points.copy()
    wrong[:, 1:3] += np.array([0, 0.009, 0], np.float32)
    released, paper = (points.measure(hidden, {"m": wrong}, rule)["m"] for rule in (True, False))
    assert released["ade"] == pytest.approx(0, abs=1e-3) and paper["ade"] == pytest.approx(3, abs=1e-3)
    assert (
        np.isnan(released["by step"][:2]).all() and np.isnan(paper["by step"][0]) and not np.isnan(paper["by step"][1])
    )
    assert "seen_before" in points.RULES[True] and "paper" in points.RULES[False]


def test_padding_does_not_count() -> None:
    given = clouds()
    valid = given.truth.valid.copy()
    valid[:, 3:] = False
    short = points.Clouds(given.batch, given.truth.replace(valid=valid), given.poses)
    wrong = given.truth.points.copy()
    wrong[:, 3:] += 1
    result = points.measure(short, {"m": wrong})["m"]
    assert result["ade"] == 0 and np.isnan(result["by step"][2:]).all()


def test_a_stage_is_not_shown_what_it_should_predict() -> None:
    given = clouds()
    predicted = points.predictions(Echo(), {}, given, batch_size=2)
    np.testing.assert_array_equal(predicted["model"], predicted["no motion"])


def test_rows_that_fill_up_a_batch_are_left_out() -> None:
    given = points.gather(WINDOW, [batch(3), batch(3, mask=np.array([True, False, False]))])
    assert given.rows == len(given.poses) == 4


def test_up_is_known_from_the_camera_or_taken_from_the_picture() -> None:
    np.testing.assert_array_equal(clouds().poses[0], POSE)
    np.testing.assert_array_equal(clouds(cameras=False).poses[0], plots3d.LEVEL)
    bare = points.gather(WINDOW, [batch().replace(cameras={})])
    np.testing.assert_array_equal(bare.poses[2], plots3d.LEVEL)


def test_what_is_predicted_is_told_without_computing_it() -> None:
    assert points.prediction_kind(Echo(), {}, batch()) == "space"
    assert points.prediction_kind(Echo(space="image"), {}, batch()) == "picture"


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(UserError, match=r"predicts tracks of shape \[4, 40, 3\] where the data has \[5, 40, 3\]"):
        points.predictions(Echo(steps=T), {}, clouds())
    with pytest.raises(UserError, match="exact holds image tracks"):
        clouds(dims=2)
    with pytest.raises(UserError, match="no examples"):
        points.gather(WINDOW, [])
    first_only = WindowSpec(views=("front",), track_set="exact", tracks=FieldWindow((0,)))
    with pytest.raises(UserError, match="t2p rollout"):
        points.evaluation_window(first_only)
    assert points.evaluation_window(WINDOW).cameras


def test_the_page_has_all_pieces(tmp_path) -> None:
    given = clouds()
    predicted = points.predictions(Echo(shift=0.01), {}, given)
    result = points.measure(given, predicted)
    sections = points_report.point_sections(given, predicted, result, "<p>curves</p>", "some stage; data: a < b.")
    text = report.write_report(tmp_path / "report.html", "t", sections).read_text()
    assert text.count(plots3d.library()) == 1
    text = text.replace(plots3d.library(), "")
    assert text.count("plotly-graph-div") == 3 and " src=" not in text
    for piece in ("3 samples of 40 points", "a &lt; b", "seen_before", "no motion", "5 % ade (per sample)", "setpoint"):
        assert piece in text
    assert "<p>curves</p>" in text
    bare = points_report.point_sections(given, predicted, result, "", "note")
    assert len(bare) == len(sections) - 1
