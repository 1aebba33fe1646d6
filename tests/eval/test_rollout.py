"""Closed-loop evaluation: an episode follows from its seed, whatever ran beside it, before it, or was cut off."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from nudge import FORESEEN, Nudge, Push, variables

from t2p.eval.rollout import Clock, Record, Rollouts, episodes, policy_steps, rollout
from t2p.io import UserError
from t2p.sim.batch import BatchedSim
from t2p.sim.registry import make_task
from t2p.sim.task import task_options

SEEDS = range(8)
ABOUT = {"checkpoint": "here", "step": 3}


def run(seeds=SEEDS, task=None, **options) -> Rollouts:
    options = {"num_envs": 3, "renderer": "rays"} | options
    return rollout(Nudge(), variables(), task or Push(), seeds, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Rollouts, Path]:
    file = tmp_path_factory.mktemp("whole") / "episodes" / "one.jsonl"
    return run(file=file, about=ABOUT), file


def test_episodes_end_in_all_three_ways(whole) -> None:
    records = whole[0].records
    assert [r.seed for r in records] == list(SEEDS)
    won, failed = [r for r in records if r.success], [r for r in records if r.failed]
    assert won and failed and len(won) + len(failed) < len(records)
    assert all(r.steps == 20 and r.seconds == pytest.approx(0.4) for r in records if not r.failed)
    assert all(r.steps == 8 and not r.success for r in failed)
    summary = whole[0].summary()
    assert summary["success"] == len(won) / 8 and summary["failed"] == len(failed)
    assert summary["low"] < summary["success"] < summary["high"]
    assert {"policy", "simulator", "physics", "control", "render", "reset"} == set(whole[0].times)
    assert whole[0].times["simulator"] >= whole[0].times["physics"] > 0


@pytest.mark.parametrize(("num_envs", "workers"), [(1, 0), (8, 0), (5, 2)])
def test_records_do_not_depend_on_environments_and_workers(whole, num_envs: int, workers: int) -> None:
    assert run(num_envs=num_envs, workers=workers).records == whole[0].records


def test_an_episode_does_not_depend_on_which_others_are_asked_for(whole) -> None:
    expected = {r.seed: r for r in whole[0].records}
    assert run(seeds=[6, 1, 4]).records == (expected[6], expected[1], expected[4])


def test_the_keys_of_episodes_and_steps_differ(whole) -> None:
    """Motion sideways is drawn from the keys of each step: were they the same, the tool would drift in a line."""
    seen, seeds = [], [r.seed for r in whole[0].records if not r.failed][:2]
    with BatchedSim(Push(), 2, 0, Nudge().observe, "rays") as sim:
        step = sim.step

        def note(actions, active):
            seen.append(actions[:, 0])
            return step(actions, active)

        sim.step = note  # type: ignore[method-assign]
        list(episodes(Nudge(), variables(), sim, seeds, Clock()))
    sideways = np.stack(seen)
    assert sideways.shape == (20, 2) and len(np.unique(sideways)) == 40


def test_aux_of_every_decision_is_told_with_what_was_seen() -> None:
    seen, told = [], []

    def note(obs, aux):
        seen.append(obs.proprio["tool"].tobytes())
        told.append(aux)

    with BatchedSim(Push(), 2, 0, Nudge(cloud=20).observe, "rays") as sim:
        list(episodes(Nudge(cloud=20), variables(), sim, [0, 1], Clock(), note))
    assert len(told) == 20 and told[0]["tracks"].shape == (2, FORESEEN + 1, 20, 3)
    assert len(set(seen)) == 20  # of its own step each


def test_an_evaluation_that_was_cut_off_goes_on(whole, tmp_path) -> None:
    expected, file = whole
    lines = file.read_text().splitlines(keepends=True)
    made = {**task_options(Push()), "kept": ["world", "box"]}
    assert json.loads(lines[0]) == {"task": "push", "variation": 0, **made, **ABOUT} and len(lines) == 9
    assert made["limit"] == 20 and "name" not in made
    cut = tmp_path / "cut.jsonl"
    cut.write_text("".join(lines[:4]) + lines[4][:15])
    seen: list[Record] = []
    again = run(file=cut, about=ABOUT, progress=seen.append)
    assert again.records == expected.records
    assert sorted(seen, key=lambda r: r.seed) == list(expected.records)
    after = cut.read_text().splitlines(keepends=True)
    assert after[:4] == lines[:4] and sorted(after) == sorted(lines)
    read = run(file=cut, about=ABOUT)  # nothing is left to run
    assert (again.ran, read.ran) == (5, 0) and read.times == again.times and read.times["policy"] > 0
    more = run(seeds=range(9), file=cut, about=ABOUT)
    assert more.records[:8] == expected.records and len(cut.read_text().splitlines()) == 10


def test_a_file_whose_first_line_was_cut_off_is_begun_anew(whole, tmp_path) -> None:
    file = tmp_path / "one.jsonl"
    file.write_text('{"task": "pu')
    assert run(seeds=[0], file=file, about=ABOUT).records == whole[0].records[:1]
    assert len(file.read_text().splitlines()) == 2


def test_the_file_of_another_evaluation_is_refused(whole) -> None:
    before = whole[1].read_bytes()
    with pytest.raises(UserError, match=r"another evaluation \(step differ\)"):
        run(file=whole[1], about={**ABOUT, "step": 4})
    with pytest.raises(UserError, match="checkpoint, step, task"):
        run(task=replace(Push(), name="shove"), file=whole[1], about={})
    with pytest.raises(UserError, match=r"\(limit differ\)"):
        run(task=replace(Push(), limit=19), file=whole[1], about=ABOUT)
    assert whole[1].read_bytes() == before


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(UserError, match=r"osc_delta.*controlled by 'setpoint_pose'.*control='osc_delta'"):
        run(task=make_task("tabletop/block_stack"))
    for seeds in ([1, 1], []):
        with pytest.raises(UserError, match="different seeds"):
            run(seeds=seeds)


def test_the_first_success_ends_an_episode_where_the_task_says_so(whole) -> None:
    stopped = run(task=replace(Push(), stop_at_success=True)).records
    for before, now in zip(whole[0].records, stopped, strict=True):
        assert (now.success, now.failed) == (before.success, before.failed)
        assert now.steps < before.steps if now.success else now == before


def test_a_policy_that_plans_for_fewer_steps_ends_the_episode() -> None:
    records = rollout(Nudge(steps=5), variables(), Push(), [0, 1], num_envs=2, renderer="rays").records
    assert [r.steps for r in records] == [5, 5]


def test_setpoints_are_as_many_as_the_policy_has_but_time_is_the_task_s() -> None:
    task, longer, own = Push(limit=20), Nudge(steps=50), Nudge(steps=None)
    assert [policy_steps(policy, task) for policy in (longer, Nudge(steps=5), own)] == [20, 5, 20]
    stack = make_task("tabletop/block_stack")
    assert [policy_steps(policy, stack) for policy in (longer, Nudge(steps=5), own)] == [50, 5, 9]


def test_variables_are_an_argument_of_the_decision() -> None:
    seeds = [r.seed for r in run().records if r.success]
    assert not rollout(Nudge(), variables(0.0), Push(), seeds, num_envs=2, renderer="rays").successes.any()
