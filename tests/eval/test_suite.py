"""All tasks of a suite: rates, what is counted, going on, the page over all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from nudge import Nudge, Push, variables

from t2p.eval import success, suite
from t2p.eval.success import Entry, Loaded
from t2p.io import UserError
from t2p.sim import registry
from t2p.sim.libero.protocols import PROTOCOLS, find_protocol

LOADED = [
    Loaded(name, seed, name, Nudge(), variables(), {"step": 1}) for name, seed in (("a", 0), ("a", 1), ("b", None))
]


def settings(**changes) -> suite.Settings:
    given = {"num_envs": 2, "workers": 0, "renderer": "rays", "films": 0, "about": "protocol test"}
    given["command"] = "t2p rollout --suite things"
    return suite.Settings("things", range(2), {}, **(given | changes))


@pytest.fixture
def pushing(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every task is to push; -> the tasks that were begun."""
    begun: list[str] = []

    def on_task(loaded, task, options, any_task=False):
        begun.append(task)
        return [
            Entry(x.name, x.seed, x.directory, x.policy, x.variables, {"config": {}} | x.meta, Push()) for x in loaded
        ]

    monkeypatch.setattr(success, "on_task", on_task)
    return begun


def test_each_task_and_all_together(tmp_path: Path, pushing: list[str]) -> None:
    told: list[str] = []
    found = suite.run(LOADED, ("things/one", "things/two"), settings(), tmp_path, told=told.append)
    assert pushing == ["things/one", "things/two"] and len(told) == 6  # two policies, their difference
    for task in ("one", "two"):
        assert (tmp_path / task / "report.html").exists() and (tmp_path / task / "episodes/a-1.jsonl").exists()
        each = json.loads((tmp_path / task / "success.json").read_text())["policies"]
        assert found["policies"]["a"]["tasks"][f"things/{task}"] == each["a"]["success"]
    assert found["policies"]["a"]["episodes"] == 8 and found["policies"]["b"]["episodes"] == 4
    assert json.loads((tmp_path / "success.json").read_text()) == found
    page = (tmp_path / "report.html").read_text()
    assert 'href="one/report.html"' in page and "protocol test" in page and "still to come" not in page


@pytest.mark.parametrize("fault", ["trained on others", "actions"])
def test_what_a_policy_is_not_for_is_told_before_the_first_rollout(fault: str, tmp_path: Path, pushing, monkeypatch):
    told = success.on_task

    def on_task(loaded, task, *given):
        if fault == "actions" and task == "things/two":
            raise UserError("the policy's actions are 'nods'")
        return told(loaded, task, *given)

    monkeypatch.setattr(success, "on_task", on_task)
    trained = {"step": 1, "tasks": ["things/one"] if fault == "trained on others" else []}
    loaded, tasks = [replace(LOADED[0], meta=trained)], ("things/one", "things/two", "things/three")
    message = "trained on things/one, not on things/two, things/three; " if trained["tasks"] else "actions are 'nods'"
    with pytest.raises(UserError, match=message):
        suite.run(loaded, tasks, settings(), tmp_path, told=lambda line: None)
    assert not list(tmp_path.iterdir())
    if trained["tasks"]:
        found = suite.run(loaded, tasks, settings(any_task=True), tmp_path, told=lambda line: None)
        assert found["tasks"] == list(tasks)


def test_going_on_reads_what_is_there(tmp_path: Path, pushing: list[str]) -> None:
    suite.run(LOADED, ("things/one",), settings(), tmp_path, told=lambda line: None)
    before = (tmp_path / "one/episodes/b.jsonl").read_text()
    page = tmp_path / "one/report.html"
    page.write_text("as it was")  # with its films, which take as long as the episodes
    both = ("things/one", "things/two")
    found = suite.run(LOADED, both, settings(), tmp_path, told=lambda line: None)
    assert (tmp_path / "one/episodes/b.jsonl").read_text() == before and page.read_text() == "as it was"
    again = suite.run(LOADED, both, settings(), tmp_path, told=lambda line: None)
    assert again == found and again["policies"]["a"]["times"]["policy"] > 0
    suite.run(LOADED, both, settings(films=1), tmp_path, told=lambda line: None)
    assert "<video" in page.read_text()  # other films are wanted


def test_a_suites_rate_is_the_mean_over_its_tasks() -> None:
    def of(rate: float, *seeds: float) -> dict:
        each = {str(i): value for i, value in enumerate(seeds)}
        return {"success": rate, "episodes": 20, "training_seeds": each, "failed": 1, "times": {"policy": 2.0}}

    summaries = {"x/1": {"policies": {"p": of(0.5, 0.4, 0.6)}}, "x/2": {"policies": {"p": of(1.0, 1.0, 1.0)}}}
    p = suite.summarise(summaries, settings())["policies"]["p"]
    assert p["success"] == 0.75 and p["episodes"] == 40 and p["failed"] == 2 and p["times"] == {"policy": 4.0}
    assert p["training_seeds"] == pytest.approx([0.7, 0.8])
    assert p["std_over_training_seeds"] == pytest.approx(0.0707, abs=1e-4)
    assert p["low"] == pytest.approx(0.598, abs=1e-3) and p["high"] == pytest.approx(
        0.858, abs=1e-3
    )  # Wilson, 30 of 40
    line = suite.ledger_line(settings(), "p", p)
    assert line.startswith("| p | things (protocol test), 2 tasks | 75.0% [59.8%, 85.8%] of 40, 2 training seeds")
    assert "| `t2p rollout --suite things` |" in line and "commit" in line and "CPU cores" in line


def test_suites_are_what_names_begin_with() -> None:
    assert registry.suite("tabletop") == ("tabletop/block_stack", "tabletop/open_microwave", "tabletop/right_glass")
    with pytest.raises(UserError, match=r"unknown suite 'table'.*tabletop"):
        registry.suite("table")
    with pytest.raises(UserError, match="no suite 'things'"):
        suite.run(LOADED, (), settings(), Path("nowhere"))


def test_protocols() -> None:
    atm, amplify, openpi = (PROTOCOLS[name] for name in ("atm", "amplify", "openpi"))
    assert [atm.state(k) for k in range(atm.count("libero_goal"))] == sorted([*range(0, 50, 5), *range(1, 50, 5)])
    assert atm.steps("libero_90") == 600
    assert amplify.count("libero_10") == 10 and amplify.count("libero_90") == 1 and amplify.state(9) == 9
    assert [openpi.steps(s) for s in ("libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90")] == [
        *(220, 280, 300, 520, 400)
    ]
    assert openpi.settle == 10 and openpi.idle[6] == -1
    with pytest.raises(UserError, match=r"unknown protocol 'atm2'.*atm, amplify"):
        find_protocol("atm2")
