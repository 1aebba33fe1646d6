"""The report of rollouts: films are of the recorded episodes, true tracks are true, the page needs no network."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

import av
import numpy as np
import pytest
from nudge import FORESEEN, Nudge, Push, variables

from t2p.eval import films, plots3d, report, rollout_report, success
from t2p.eval.films import film
from t2p.eval.rollout import Record, Rollouts, rollout
from t2p.eval.success import Entry
from t2p.geometry.cameras import transform_points

SEEDS = range(8)
POINTS = 150
POLICY = Nudge(cloud=POINTS)


@pytest.fixture(scope="module")
def run() -> Rollouts:
    return rollout(POLICY, variables(), Push(), SEEDS, num_envs=4, renderer="rays")


@pytest.fixture(scope="module")
def made(run: Rollouts) -> dict[str, films.Film]:
    """A film of each kind of ending."""
    ends = {"success": lambda r: r.success, "failed": lambda r: r.failed, "rest": lambda r: not r.success}
    seeds = {end: next(r.seed for r in run.records if fits(r)) for end, fits in ends.items()}
    seeds["rest"] = next(r.seed for r in run.records if not r.success and not r.failed)
    found = {one.record.seed: one for one in film(POLICY, variables(), Push(), list(seeds.values()), "rays")}
    return {end: found[seed] for end, seed in seeds.items()}


def entry(name: str = "nudge", seed: int | None = None) -> Entry:
    meta = {"step": 20, "tasks": ["push"], "config": {}}
    return Entry(name, seed, f"runs/{name}", POLICY, variables(), meta, Push())


def test_films_show_the_recorded_episodes(run, made) -> None:
    recorded = {r.seed: r for r in run.records}
    assert all(one.record == recorded[one.record.seed] for one in made.values())


def test_films_have_ten_pictures_a_second_and_end_with_the_episode(made) -> None:
    for end, count in (("success", 5), ("rest", 5), ("failed", 2)):  # 0.4 s; the first step is at 0.02 s
        frames = made[end].frames
        assert frames.shape == (count, *films.SIZE, 3) and frames.dtype == np.uint8
        assert all(frame.std() > 10 for frame in frames)  # something is to be seen
    moved = made["success"].frames.astype(int)
    assert (np.abs(moved[-1] - moved[0]).max(-1) > 50).mean() > 0.001
    assert (np.abs(moved[-1] - moved[-2]).max(-1) > 50).any()


def test_true_tracks_ride_on_what_is_pushed(run) -> None:
    """The policy sees the box alone: fewer points than it asked for, so that some only fill up."""
    seed = next(r.seed for r in run.records if r.success)
    (one,) = film(Nudge(cloud=60, floor=False), variables(), Push(), [seed], "rays")
    true, predicted = one.foreseen.true, one.foreseen.predicted
    assert true.shape == predicted.shape and true.shape[0] == FORESEEN + 1 and 4 < true.shape[1] < 60
    np.testing.assert_allclose(true[0], predicted[0], atol=1e-6)
    went = transform_points(one.camera.T_base_cam, true[-1]) - transform_points(one.camera.T_base_cam, true[0])
    assert (went[:, 1] < -0.05).all() and np.abs(went[:, 2]).max() < 0.01  # along the world's x: the base is turned
    apart = np.linalg.norm(true[:, :, None] - true[:, None], axis=-1)
    np.testing.assert_allclose(apart[-1], apart[0], atol=1e-6)  # the box is rigid


def test_true_tracks_of_the_floor_stay(made) -> None:
    true = made["success"].foreseen.true
    assert true.shape == (FORESEEN + 1, POINTS, 3)
    heights = transform_points(made["success"].camera.T_base_cam, true[0])[:, 2]
    floor = heights < 0.005
    assert floor.sum() > POINTS / 2
    np.testing.assert_allclose(true[-1, floor], true[0, floor], atol=1e-9)


def test_an_episode_that_broke_is_compared_up_to_there(made) -> None:
    """The eighth step broke it."""
    foreseen = made["failed"].foreseen
    assert made["failed"].record.steps == 8 and foreseen.predicted.shape == foreseen.true.shape == (8, POINTS, 3)


def test_a_task_without_views_is_not_filmed() -> None:
    class Blind(Push):
        @property
        def views(self):
            return {}

    assert list(film(Nudge(), variables(), Blind(), [0], "rays")) == []


def test_tracks_are_drawn_where_the_camera_sees_them(made) -> None:
    """All points stay at one place of the first picture: dots there, on both sides, and nowhere else."""
    one = made["success"]
    points = np.repeat(np.linalg.inv(one.camera.T_base_cam)[:3, 3][None, None] * 0 + [[0.0, 0.0, 0.8]], 5, axis=0)
    grey = np.full_like(one.frames[0], 128)
    picture = rollout_report.drawn(grey, points, points, one.camera).astype(int)
    rows, columns = np.nonzero(np.ptp(picture, axis=-1) > 60)
    width = picture.shape[1]
    assert abs(rows.mean() - picture.shape[0] / 2) < 20  # a title stands above
    left = columns < width / 2
    assert left.any() and (~left).any()
    assert np.ptp(columns[left]) < 20 and abs(columns[left].mean() - width / 4) < 10


def page(tmp_path, entries, runs, count=1) -> str:
    summary = success.summarise(entries, runs)
    return rollout_report.write(tmp_path / "report.html", entries, runs, summary, count, "rays").read_text()


def without_library(text: str) -> str:
    return text.replace(plots3d.library(), "")


def test_the_page_has_all_pieces_and_needs_no_network(run, tmp_path) -> None:
    other = replace(entry("a < b"), policy=Nudge())
    worse = rollout(Nudge(), variables(0.0), Push(), SEEDS, num_envs=8, renderer="rays")
    whole = page(tmp_path, [entry(seed=0), entry(seed=1), other], [run, run, worse])
    assert whole.count(plots3d.library()) == 1
    text = without_library(whole)
    sources = re.findall(r"<[a-z]+ [^>]*?\b(?:src|href)=[\"']?([^\"'>]*)", text)
    assert sources and all(source.startswith(("data:", "#")) for source in sources)
    for title in ("Success", "Training seeds", "Differences on the same episodes", "Time", "Films: nudge"):
        assert f"<h2>{title}</h2>" in text
    assert "Films: a &lt; b" in text and "a < b" not in re.sub(r"<svg.*?</svg>", "", text, flags=re.S)
    assert text.count("<video") == 3  # a success and a failure of the one, a failure of the other
    assert text.count("plotly-graph-div") == text.count("data:image/png") == 2
    won = int(run.successes.sum())
    assert f"{won / 8:.1%}" in text and "nudge, training seed 0, seed" in text
    assert "nudge - a &lt; b" in text and "std over them" in text


def test_nothing_is_filmed_where_no_films_are_wanted(run, tmp_path) -> None:
    text = page(tmp_path, [entry()], [run], count=0)
    assert "<video" not in text and "Plotly" not in text and "Differences" not in text and "Training seeds" not in text


def test_the_film_count_is_of_each_policy_not_of_each_training_seed(run, tmp_path) -> None:
    text = page(tmp_path, [entry(seed=0), entry(seed=1)], [run, run], count=2)
    assert text.count("<video") == 4


def test_videos_of_the_first_episodes_are_written_once(run, tmp_path, monkeypatch) -> None:
    """Also where the page shows no film; the next time only what is missing is filmed."""
    entries, summary = [entry(seed=2)], success.summarise([entry(seed=2)], [run])
    filmed = []
    monkeypatch.setattr(rollout_report, "film", lambda *args: filmed.append(args[3]) or film(*args))
    write = partial(rollout_report.write, tmp_path / "report.html", entries, [run], summary)
    write(0, "rays", recorded=2)
    ends = {r.seed: "success" if r.success else "failure" for r in run.records}
    videos = {p.name: p for p in (tmp_path / "videos" / "nudge-2").iterdir()}
    assert set(videos) == {f"{seed}_{ends[seed]}.mp4" for seed in (0, 1)} and filmed == [[0, 1]]
    with av.open(str(videos[f"0_{ends[0]}.mp4"])) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    (again,) = film(POLICY, variables(), Push(), [0], "rays")
    assert np.abs(np.stack(frames).astype(int) - again.frames).mean() < 4
    write(0, "rays", recorded=3)
    assert filmed == [[0, 1], [2]] and len(list((tmp_path / "videos" / "nudge-2").iterdir())) == 3


def test_shares_of_time_add_up() -> None:
    times = {"policy": 1.0, "simulator": 3.0, "physics": 4.0, "control": 1.0, "render": 1.0, "reset": 0.0}
    found = rollout_report.shares(times)
    assert found == pytest.approx({"policy": 0.25, "physics": 0.5, "control": 0.125, "render": 0.125, "reset": 0.0})
    assert rollout_report.shares({}) == {}


def test_captions_say_why_not() -> None:
    won, lost = Record(4, True, "", 9, 7.25), Record(4, False, "", 1, 0.5)
    broken = Record(4, False, "qpos is not finite", 3, 0.1)
    assert rollout_report.caption(entry(), won, won) == "nudge, seed 4: success after 9 policy steps, 7.2 s"
    assert "no success after 1 policy step, 0.5 s" in rollout_report.caption(entry(), lost, lost)
    assert "came apart" in rollout_report.outcome(broken) and "qpos is not finite" in rollout_report.outcome(broken)
    assert "ended differently" in rollout_report.caption(entry(), won, lost)


def test_bars_are_drawn_for_every_policy() -> None:
    svg = report.bars({"one": (0.5, 0.3, 0.7), "two": (0.0, 0.0, 0.2)}, "success", {"one": [0.4, 0.6]})
    assert svg.startswith("<figure><svg") and svg.count("one") and svg.count("two")


def test_plots_turn_up_up_and_keep_proportions() -> None:
    """A point that rises in the picture of a level camera rises along z."""
    rising = np.array([[[0.1, 0.0, 1.0]], [[0.1, -0.5, 1.0]]])
    text = plots3d.tracks({"true": rising, "predicted": rising}, "a & b")
    assert '"aspectmode":"data"' in text and "a &amp; b" in text and "src=" not in text
    from t2p.eval.plots3d import LEVEL

    np.testing.assert_allclose(transform_points(LEVEL, rising[1, 0]), [0.1, 1.0, 0.5])


def test_departures_from_the_paper_are_told(run, tmp_path) -> None:
    told, earlier = "a smaller <net>", "no floor"
    meta = {"step": 1, "config": {"departures": [told]}, "init_from": {"tracks": {"config": {"departures": [earlier]}}}}
    one = replace(entry(), meta={**entry().meta, **meta})
    page = rollout_report.write(
        tmp_path / "r.html", [one], [run], success.summarise([one], [run]), 0, "rays"
    ).read_text()
    assert "a smaller &lt;net&gt;" in page and "nudge: tracks" in page and earlier in page
    assert report.departures({"departures": ()}) == ""
