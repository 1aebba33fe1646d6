"""Success rates of checkpoints: which are refused, how their results are counted and told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from nudge import Nudge, Push, variables

from t2p import checkpoint
from t2p.cli.config import load_config
from t2p.eval import success
from t2p.eval.rollout import Record, Rollouts
from t2p.eval.success import Entry
from t2p.io import UserError
from t2p.types import Observe

CONFIGS = Path(__file__).resolve().parents[2] / "configs/threepointr"
TASK = "tabletop/block_stack"
XARM = {"embodiment": "xarm7"}


def export(directory: Path, stage: str = "policy", tasks: tuple[str, ...] = (TASK,), variant: str = "debug") -> str:
    """A checkpoint whose config is real and whose variables are not."""
    config = load_config(f"{CONFIGS / stage}.py:{variant}")
    meta = {"config": config.to_dict(), "tasks": list(tasks)}
    checkpoint.export(directory, {"params": {"x": np.zeros(2, np.float32)}, "batch_stats": {}}, meta)
    return str(directory)


def test_entries_are_named_by_folder_or_by_the_user(tmp_path) -> None:
    one = export(tmp_path / "one")
    found = success.entries([one, f"mine={one}"], "best", TASK, XARM)
    assert [e.label for e in found] == ["one", "mine"] and found[1].directory == one
    assert found[0].task.name == TASK and found[0].task.action.kind == "setpoint_pose" and found[0].policy.steps == 9
    with pytest.raises(UserError, match=r"same name.*NAME=DIR"):
        success.entries([one, one], "best", TASK, XARM)


def test_a_folder_of_training_seeds_gives_one_entry_each(tmp_path) -> None:
    for seed in (0, 3):
        export(tmp_path / "all" / f"seed_{seed}")
    found = success.entries([f"ours={tmp_path / 'all'}"], "latest", TASK, XARM)
    assert [(e.name, e.seed, e.label) for e in found] == [
        ("ours", 0, "ours, training seed 0"),
        ("ours", 3, "ours, training seed 3"),
    ]


def test_what_cannot_be_rolled_out_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        success.entries([str(tmp_path / "nowhere")], "best", TASK, XARM)
    with pytest.raises(UserError, match=r"threepointr\.tracks' is no policy"):
        success.entries([export(tmp_path / "tracks", "tracks")], "best", TASK, XARM)
    policy = export(tmp_path / "policy")
    with pytest.raises(UserError, match=r"unknown task.*did you mean"):
        success.entries([policy], "best", "tabletop/block_stuck", XARM)
    with pytest.raises(UserError, match="embodiment must be one of"):
        success.entries([policy], "best", TASK, {"embodiment": "stilt"})
    with pytest.raises(UserError):
        success.entries([policy], "7", TASK, XARM)


def test_another_task_wants_to_be_asked_for(tmp_path) -> None:
    other = export(tmp_path / "other", tasks=("tabletop/right_glass",))
    with pytest.raises(UserError, match=r"trained on tabletop/right_glass, not on tabletop/block_stack.*--any_task"):
        success.entries([other], "best", TASK, XARM)
    assert success.entries([other], "best", TASK, XARM, any_task=True)[0].task.name == TASK
    assert success.entries([export(tmp_path / "unknown", tasks=())], "best", TASK, XARM)


def test_a_task_may_be_called_by_its_number(tmp_path) -> None:
    soup = "libero_object/pick_up_the_alphabet_soup_and_place_it_in_the_basket"
    policy = export(tmp_path / "policy", "../atm/policy", (soup,), "cpu_libero")
    assert success.entries([policy], "best", "libero_object/0", {})[0].task.name == soup
    with pytest.raises(UserError, match="not on libero_object/pick_up_the_cream_cheese"):
        success.entries([policy], "best", "libero_object/1", {})


def entry(name: str, seed: int | None = None, **meta) -> Entry:
    return Entry(name, seed, name, Nudge(), variables(), {"step": 1, **meta}, Push())


def runs(won: str, times: dict | None = None) -> Rollouts:
    """ "+" success, "-" none, "!" failed physics."""
    found = [Record(seed, sign == "+", "bad" if sign == "!" else "", 20, 0.4) for seed, sign in enumerate(won)]
    return Rollouts(tuple(found), times or {})


def test_spread_over_training_seeds_is_apart_from_that_over_rollouts() -> None:
    found = [entry("ours", 0), entry("ours", 1), entry("theirs")]
    summary = success.summarise(found, [runs("++++"), runs("++-!", {"policy": 2.0}), runs("---+")])
    ours, theirs = summary["policies"]["ours"], summary["policies"]["theirs"]
    assert (ours["success"], ours["episodes"], ours["failed"]) == (0.75, 8, 1)
    assert ours["low"] == pytest.approx(0.409, abs=1e-3) and ours["high"] == pytest.approx(0.929, abs=1e-3)  # Wilson
    assert ours["std_over_training_seeds"] == pytest.approx(np.std([1.0, 0.5], ddof=1))
    assert theirs["std_over_training_seeds"] is None
    assert ours["times"] == {"policy": 2.0} and theirs["times"] == {}  # the first run was there already
    (difference,) = summary["differences"]
    assert (difference["first"], difference["second"], difference["difference"]) == ("ours", "theirs", 0.75)
    assert difference["low"] < 0.75 < difference["high"]
    assert "75.0%" in summary["lines"][0] and "physics failed in 1" in summary["lines"][0]
    assert summary["lines"][2].startswith("ours - theirs: +75.0%")


def test_all_entries_see_the_same_episodes_and_go_on(tmp_path) -> None:
    found = [entry("quick", 2), replace(entry("slow"), variables=variables(0.0))]
    first = success.run_all(found, range(4), tmp_path, 4, 0, "rays")
    assert [r.seed for r in first[0].records] == [r.seed for r in first[1].records] == [0, 1, 2, 3]
    assert first[0].successes.any() and not first[1].successes.any()
    assert sorted(p.name for p in (tmp_path / "episodes").glob("*.jsonl")) == ["quick-2.jsonl", "slow.jsonl"]
    again = success.run_all(found, range(4), tmp_path, 2, 0, "rays")
    assert [r.records for r in again] == [r.records for r in first] and again[0].ran == 0
    with pytest.raises(UserError, match=r"step differ"):
        success.run_all([replace(found[0], meta={"step": 2})], range(4), tmp_path, 4, 0, "rays")


def test_a_policy_that_sees_is_told_of_another_renderer() -> None:
    class Seeing(Nudge):
        @property
        def observe(self) -> Observe:
            return Observe(images=("top",))

    seeing = replace(entry("eyes", renderers=["egl"]), policy=Seeing())
    assert "drawn by egl; here they are drawn by rays" in success.renderer_note(seeing, "rays")
    assert not success.renderer_note(seeing, "egl")
    assert not success.renderer_note(entry("blind", renderers=["egl"]), "rays")
