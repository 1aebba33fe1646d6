"""Predicted tracks and attention are drawn in the pictures of their own views; computation is counted by actions."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from nudge import Nudge, Push, variables

from t2p import checkpoint
from t2p.cli.config import load_config
from t2p.eval import computation, insights, rollout_report, success, suite
from t2p.eval.films import film
from t2p.eval.insights import Insight, heated, insight, moments, with_attention, with_tracks
from t2p.eval.overlay import draw_paths, draw_tracks
from t2p.eval.rollout import Record, Rollouts, rollout
from t2p.eval.success import Entry
from t2p.methods.registry import make_stage
from t2p.train.statistics import with_statistics
from t2p.types import Observation, Observe

VIEWS = ("side", "top")  # not in the order of the task's
SIZE = (48, 64)
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
PLACES = {"side": (0.2, 0.3), "top": (0.7, 0.8)}  # where tracks begin; they go right by 0.2
BRIGHT = {"side": (0, 3), "top": (2, 1)}  # rows and columns of the patch that is looked at, of 3 x 4
LAYERS = 2


@dataclass(frozen=True)
class Gaze(Nudge):
    """Rests, and tells tracks and attention in its two views. Its first layer looks elsewhere."""

    tracks: bool = True
    attention: bool = True

    @property
    def observe(self) -> Observe:
        return Observe(images=VIEWS, size=SIZE)

    def act(self, variables, state, obs, rng):
        action, state, _ = super().act({"params": {"speed": 0.0}}, state, obs, rng)
        aux = {}
        if self.tracks:
            went = jnp.linspace(0, 0.2, 5)[:, None] * jnp.array([1.0, 0.0])
            starts = jnp.array([PLACES[view] for view in VIEWS])
            tracks = starts[:, None] + went
            aux["tracks"] = jnp.broadcast_to(tracks[None, :, :, None], (len(rng), 2, 5, 3, 2))
        if self.attention:
            looks = jnp.full((len(rng), LAYERS, 2, 3, 4), 0.01).at[:, 0, :, 1, 1].set(0.9)
            for v, view in enumerate(VIEWS):
                looks = looks.at[:, 1, v, *BRIGHT[view]].set(0.3)
            aux["attention"] = looks
        return action, state, aux


@pytest.fixture(scope="module")
def told():
    (one,) = film(Gaze(), variables(), Push(), [0], "rays")
    return one


def coloured(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(x, y) in [0, 1] of the pixels that have a colour."""
    rows, columns = np.nonzero(np.ptp(picture.astype(int), axis=-1) > 60)
    return (columns + 0.5) / picture.shape[1], (rows + 0.5) / picture.shape[0]


def test_decisions_are_kept_ten_times_a_second_with_what_was_seen(told) -> None:
    assert told.record.steps == 20 and told.record.seconds == pytest.approx(0.4)
    assert [one.seconds for one in told.insights] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    first = told.insights[0]
    assert list(first.pictures) == list(first.tracks) == list(first.attention) == list(VIEWS)
    assert all(picture.shape == (*SIZE, 3) for picture in first.pictures.values())
    assert all(first.attention[view].shape == (LAYERS, 3, 4) for view in VIEWS)
    above = [(first.pictures[view][..., 1].astype(int) - first.pictures[view][..., 0] > 60).mean() for view in VIEWS]
    assert above[1] > above[0] > 0  # the green box is nearer to the camera above it
    assert told.frames.shape[1:3] != SIZE  # the third-person film is another


def test_tracks_are_drawn_in_their_own_view(told) -> None:
    grey = {view: np.full((*SIZE, 3), 128, np.uint8) for view in VIEWS}
    whole = with_tracks(replace(told.insights[0], pictures=grey))
    body = whole[whole.shape[0] - 6 - 336 : -6]  # 48 x 64 enlarged sevenfold, under titles
    for left, view in ((6, "side"), (6 + 448 + 6, "top")):
        x, y = coloured(body[:, left : left + 448])
        start_x, start_y = PLACES[view]
        assert x.min() == pytest.approx(start_x, abs=0.03) and x.max() == pytest.approx(start_x + 0.2, abs=0.03)
        assert y.min() > start_y - 0.03 and y.max() < start_y + 0.03


def test_paths_are_the_last_frame_of_a_video_of_tracks() -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (*SIZE, 3), np.uint8)
    tracks, visible = rng.random((6, 9, 2)), rng.random((6, 9)) > 0.2
    video = draw_tracks(np.repeat(picture[None], 6, 0), tracks, visible, trail=6)
    np.testing.assert_array_equal(draw_paths(picture, tracks, visible), video[-1])
    with pytest.raises(ValueError, match=r"expected tracks"):
        draw_paths(picture, tracks[..., :1], visible)


def test_colours_lie_over_the_patch_that_is_looked_at() -> None:
    grey = np.full((*SIZE, 3), 128, np.uint8)
    weights = np.full((3, 4), 0.1)
    weights[2, 1] = 0.4
    picture = heated(grey, weights, (0.1, 0.4)).astype(int)
    assert picture.shape == (240, 320, 3)
    assert (picture[:, 240:] == 128).all() and (picture[:80] == 128).all()  # the least weight leaves the picture
    rows, columns = np.nonzero(np.ptp(picture, axis=-1) > 100)
    assert (rows >= 160).all() and (columns >= 80).all() and (columns < 160).all()
    assert columns.mean() == pytest.approx(119.5, abs=1)
    assert picture[230, 120, 0] > 200 and picture[230, 120, 2] < 170  # yellow
    assert (heated(grey, np.full((3, 4), 0.2), (0.2, 0.2)) == 128).all()


def test_the_figure_has_a_row_for_each_view_and_a_column_for_each_moment(told) -> None:
    grey = {view: np.full((*SIZE, 3), 128, np.uint8) for view in VIEWS}
    chosen = [replace(one, pictures=grey) for one in told.insights]
    figure, ends = with_attention(chosen)
    assert ends == pytest.approx((0.01, 0.3))  # of the last layer
    assert figure.shape == (22 + 2 * (22 + 240 + 6) + 6, 6 + 4 * 326, 3)
    for row, view in enumerate(VIEWS):
        top = 22 + 6 + 22 + row * 268
        for left in range(6, 6 + 4 * 326, 326):
            panel = figure[top : top + 240, left : left + 320].astype(int)
            rows, columns = np.nonzero(panel[..., 1] == panel[..., 1].max())  # where it is yellow
            assert (rows.mean() // 80, columns.mean() // 80) == BRIGHT[view]


def test_moments_are_few_and_keep_first_and_last() -> None:
    many = [Insight(float(i), {}, {}, {}) for i in range(301)]
    assert [one.seconds for one in moments(many)] == [0, 100, 200, 300]
    assert moments(many[:2]) == tuple(many[:2]) and moments([]) == ()


def test_only_what_is_told_of_single_views_counts() -> None:
    obs = Observation(images={view: np.zeros((1, 1, *SIZE, 3), np.uint8) for view in VIEWS})
    assert insight(0.0, obs, {}, VIEWS) is None
    assert insight(0.0, obs, {"tracks": np.zeros((1, 5, 3, 3))}, VIEWS) is None  # in space
    assert insight(0.0, obs, {"tracks": np.zeros((1, 3, 5, 3, 2))}, VIEWS) is None  # of other views
    assert insight(0.0, obs, {"attention": np.zeros((1, LAYERS, 0, 3, 4))}, ()) is None
    one = insight(0.0, obs, {"attention": np.zeros((1, LAYERS, 2, 3, 4))}, VIEWS)
    assert one is not None and not one.tracks and set(one.attention) == set(VIEWS)


def page(tmp_path, policy, count: int = 1) -> str:
    run = rollout(policy, variables(), Push(), [0], num_envs=1, renderer="rays")
    entry = Entry("gaze", 3, "runs/gaze", policy, variables(), {"step": 1, "config": {}}, Push())
    summary = success.summarise([entry], [run])
    return rollout_report.write(tmp_path / "report.html", [entry], [run], summary, count, "rays").read_text()


def test_the_page_shows_what_a_policy_tells(tmp_path) -> None:
    text = page(tmp_path, Gaze())
    assert text.count("<video") == 2 and text.count("data:image/png") == 1
    assert "Figure 7" in text and "Figure 8" in text and "Layer 2 of 2; weights from 1.00% (grey) to 30.00%" in text
    assert (tmp_path / "attention" / "gaze-3" / "0.png").read_bytes().startswith(b"\x89PNG")


def test_attention_alone_keeps_a_few_moments(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(insights, "MOMENTS", 2)
    (one,) = film(Gaze(tracks=False), variables(), Push(), [0], "rays")
    assert [each.seconds for each in one.insights] == pytest.approx([0.0, 0.3])
    text = page(tmp_path, Gaze(tracks=False))
    assert text.count("<video") == 1 and text.count("data:image/png") == 1 and "Figure 8" not in text


def test_a_policy_that_tells_nothing_has_no_figures(tmp_path) -> None:
    text = page(tmp_path, Gaze(tracks=False, attention=False))
    assert text.count("<video") == 1 and "data:image/png" not in text and "Figure" not in text
    assert not (tmp_path / "attention").exists()


def ended(*steps: int) -> Rollouts:
    return Rollouts(tuple(Record(seed, True, "", count, 0.1 * count) for seed, count in enumerate(steps)))


def test_computation_is_that_of_an_action_times_actions(tmp_path) -> None:
    made = [
        Entry(name, seed, name, Nudge(), variables(), {"step": 1, "config": {}}, Push(), flops)
        for name, seed, flops in (("a", 0, 13.0e9), ("a", 1, 13.0e9), ("b", None, None))
    ]
    runs = [ended(100, 600), ended(200, 300), ended(5, 5)]
    policies = success.summarise(made, runs)["policies"]
    want = {"flops_per_action": 13e9, "actions_per_episode": 300, "flops_per_episode": 13e9 * 300}
    assert policies["a"]["computation"] == pytest.approx(want) and policies["b"]["computation"] == {}
    text = computation.section(policies)
    assert "<td>13 GFLOP</td><td>300.0</td><td>3.9 TFLOP</td><td>7.8 TFLOP</td>" in text and "<td>b</td>" not in text
    assert computation.section({"b": policies["b"]}) == ""
    assert computation.of_episodes(13e9, [0, 0]) == {}  # the physics came apart at once


def test_a_suites_computation_is_over_all_episodes(tmp_path) -> None:
    def of(actions: float, episodes: int) -> dict:
        found = {"flops_per_action": 2.0, "actions_per_episode": actions, "flops_per_episode": 2 * actions}
        common = {"success": 1.0, "training_seeds": {"0": 1.0}, "failed": 0, "times": {}}
        return common | {"episodes": episodes, "computation": found}

    settings = suite.Settings("things", range(2), {}, num_envs=1, workers=0, renderer="rays")
    tasks = {"x/1": {"policies": {"p": of(10, 1)}}, "x/2": {"policies": {"p": of(40, 2)}}}
    result = suite.summarise(tasks, settings)
    want = {"flops_per_action": 2.0, "actions_per_episode": 30.0, "flops_per_episode": 60.0}
    assert json.loads(json.dumps(result["policies"]["p"]["computation"])) == want
    assert "<h2>Computation</h2>" in suite.write(tmp_path / "report.html", result, tasks, 2).read_text()


def test_stages_that_count_are_asked(tmp_path) -> None:
    """ATM's: what its track transformer and policy need at the config's sizes. Others say nothing."""
    found, expected = {}, {}
    for method in ("atm", "threepointr"):
        config = with_statistics(load_config(f"{CONFIGS / method / 'policy'}.py:debug"), blank=True)
        meta = {"config": config.to_dict(), "tasks": []}
        checkpoint.export(tmp_path / method, {"params": {"x": np.zeros(2)}, "batch_stats": {}}, meta)
        (loaded,) = success.load([str(tmp_path / method)], "best")
        found[method], expected[method] = loaded.flops, make_stage(config)
    assert found["threepointr"] is None and found["atm"] == expected["atm"].flops_per_action(256) > 1e6
