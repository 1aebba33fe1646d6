"""Success on all tasks of a suite: each task's own report, and one over all of them.

A suite's rate is the mean over its tasks (all have as many episodes); its interval is Wilson's over all episodes. Where
a policy was trained several times the spread over training seeds is that of the suite's rates.
"""

from __future__ import annotations

import html
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import jax
import mujoco
import numpy as np

from t2p import checkpoint
from t2p.eval import computation, report, rollout_report, success
from t2p.eval.rollout import Rollouts, add_times
from t2p.eval.rollout_report import PARTS, shares
from t2p.eval.success import Entry, Loaded
from t2p.eval.watch import Watch
from t2p.io import UserError, read_json, write_json
from t2p.metrics.success import wilson

Counts = Mapping[str, Mapping[str, Any]]  # of a policy by task: success.summarise's "policies"


@dataclass(frozen=True)
class Settings:
    """How a suite is rolled out. options: of its tasks; about: what the report's head says (the protocol, say);
    command: how it is run again; films, recorded: of each task and policy; the rest as success.run_all has it."""

    suite: str
    seeds: Sequence[int]
    options: Mapping[str, Any]
    num_envs: int
    workers: int
    renderer: str
    films: int = 1
    recorded: int = 0
    any_task: bool = False
    about: str = ""
    command: str = ""


def run(
    loaded: Sequence[Loaded],
    tasks: Sequence[str],
    settings: Settings,
    out: Path,
    watch: Watch | None = None,
    told: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Rolls all policies out on every task, OUT/<task>/ each, which goes on with what is there (a task that is done
    keeps its page and films); OUT/report.html and OUT/success.json are written anew after each task. -> what
    success.json holds. UserError before the first rollout where a policy is not for one of the tasks."""
    if not tasks:
        raise UserError(f"there is no suite {settings.suite!r}")
    success.check_trained(loaded, tasks, settings.any_task)
    entries = {task: success.on_task(loaded, task, settings.options, settings.any_task) for task in tasks}
    summaries: dict[str, dict[str, Any]] = {}
    result: dict[str, Any] = {}
    note = ""
    for task, found in entries.items():
        folder = out / task.partition("/")[2]
        runs = success.run_all(
            found, settings.seeds, folder, settings.num_envs, settings.workers, settings.renderer, watch
        )
        summaries[task], note = _of_task(found, runs, folder, settings), success.task_note(found[0].task)
        for line in summaries[task]["lines"]:
            told(f"{task}: {line}")
        result = summarise(summaries, settings, note)
        write_json(out / "success.json", result)
        write(out / "report.html", result, summaries, len(tasks))
    return result


def _of_task(found: Sequence[Entry], runs: Sequence[Rollouts], folder: Path, settings: Settings) -> dict[str, Any]:
    summary, page = success.summarise(found, runs), folder / "report.html"
    shown = {"films": settings.films, "recorded": settings.recorded}
    if not any(run.ran for run in runs) and page.exists() and _stored(folder) == _plain({**summary, "shown": shown}):
        return summary
    rollout_report.write(page, found, runs, summary, settings.films, settings.renderer, settings.recorded)
    write_json(folder / "success.json", {**summary, "shown": shown})
    return summary


def _stored(folder: Path) -> Any:
    path = folder / "success.json"
    return read_json(path) if path.exists() else None


def _plain(value: Any) -> Any:
    """As it is when it has been written and read."""
    return json.loads(json.dumps(value))


def summarise(summaries: Mapping[str, Mapping[str, Any]], settings: Settings, note: str = "") -> dict[str, Any]:
    """{"policies": {name: rate over the suite, interval, by task, over training seeds}, "lines": what to print}. note:
    what the tasks say beside every result."""
    names = list(next(iter(summaries.values()))["policies"])
    policies = {name: _over_tasks({task: s["policies"][name] for task, s in summaries.items()}) for name in names}
    about = {"suite": settings.suite, "about": settings.about, "mujoco": mujoco.__version__, "note": note}
    lines = [ledger_line(settings, name, p) for name, p in policies.items()] + ([note] if note else [])
    return {**about, "tasks": list(summaries), "policies": policies, "lines": lines}


def _over_tasks(tasks: Counts) -> dict[str, Any]:
    rates = {task: p["success"] for task, p in tasks.items()}
    count = sum(p["episodes"] for p in tasks.values())
    low, high = wilson(sum(round(p["success"] * p["episodes"]) for p in tasks.values()), count)
    each = [list(p["training_seeds"].values()) for p in tasks.values()]
    of_seeds = np.mean(each, axis=0)  # the suite's rate for each training seed
    return {
        "success": float(np.mean(list(rates.values()))),
        "low": low,
        "high": high,
        "episodes": count,
        "tasks": rates,
        "training_seeds": of_seeds.tolist(),
        "std_over_training_seeds": float(np.std(of_seeds, ddof=1)) if len(of_seeds) > 1 else None,
        "failed": sum(p["failed"] for p in tasks.values()),
        "times": add_times([p["times"] for p in tasks.values()]),
        "computation": computation.together(
            [p.get("computation", {}) for p in tasks.values()], [p["episodes"] for p in tasks.values()]
        ),
    }


def ledger_line(settings: Settings, name: str, p: Mapping[str, Any]) -> str:
    """One line for a table of results (docs/results.md)."""
    spread = p["std_over_training_seeds"]
    seeds = f", {len(p['training_seeds'])} training seeds: std {spread:.1%}" if spread is not None else ""
    what = f"{settings.suite}{f' ({settings.about})' if settings.about else ''}, {len(p['tasks'])} tasks"
    rate = f"{p['success']:.1%} [{p['low']:.1%}, {p['high']:.1%}] of {p['episodes']}{seeds}"
    where = f"{checkpoint.revision()}, MuJoCo {mujoco.__version__}, {machine()}, {date.today().isoformat()}"
    return f"| {name} | {what} | {rate} | `{settings.command}` | {where} |"


def machine() -> str:
    """What the policies ran on."""
    kinds = Counter(device.device_kind for device in jax.local_devices())
    found = ", ".join(f"{count} x {kind}" for kind, count in kinds.items() if kind != "cpu")
    return f"{os.cpu_count()} CPU cores" + (f", {found}" if found else "")


def write(path: Path, result: Mapping[str, Any], summaries: Mapping[str, Mapping[str, Any]], wanted: int) -> Path:
    """The page over all tasks so far. wanted: how many there are in the suite."""
    policies = result["policies"]
    rates = {name: (p["success"], p["low"], p["high"]) for name, p in policies.items()}
    dots = {n: p["training_seeds"] for n, p in policies.items() if len(p["training_seeds"]) > 1}
    missing = wanted - len(summaries)
    so_far = f" {missing} of {wanted} tasks are still to come." if missing else ""
    head = f"Rates are means over {len(summaries)} tasks; intervals (95 %) are Wilson's over all episodes.{so_far}"
    parts = (result["about"], head, f"MuJoCo {mujoco.__version__}.", result["note"])
    about = report.paragraph(" ".join(part for part in parts if part))
    overall = report.section("Success", about, report.bars(rates, "success, mean over tasks", dots), _spread(policies))
    sections = [overall, _by_task(result), _times(policies), computation.section(policies), _pages(summaries)]
    sections.append(report.section("For a table of results", report.bullets(result["lines"])))
    return report.write_report(path, f"t2p rollout: {result['suite']}", sections)


def _spread(policies: Counts) -> str:
    rows = [
        [
            name,
            f"{p['success']:.1%}",
            f"[{p['low']:.1%}, {p['high']:.1%}]",
            p["episodes"],
            len(p["training_seeds"]),
            "-" if p["std_over_training_seeds"] is None else f"{p['std_over_training_seeds']:.1%}",
            p["failed"],
        ]
        for name, p in policies.items()
    ]
    head = ["policy", "success", "95 % interval", "episodes", "training seeds", "std over them", "physics failed"]
    return report.table(head, rows)


def _by_task(result: Mapping[str, Any]) -> str:
    policies = result["policies"]
    rows = [[task, *(f"{p['tasks'][task]:.1%}" for p in policies.values())] for task in result["tasks"]]
    return report.section("By task", report.table(["task", *policies], rows))


def _times(policies: Counts) -> str:
    rows = []
    for name, p in policies.items():
        if found := shares(p["times"]):
            whole = p["times"]["policy"] + p["times"]["simulator"]
            rows.append([name, *(f"{share:.1%}" for share in found.values()), f"{whole:.1f} s"])
    head = ["policy", "policy", *PARTS, "together"]
    return report.section("Time", report.table(head, rows)) if rows else ""


def _pages(summaries: Mapping[str, Any]) -> str:
    """Links to the tasks' own pages, where the films are."""
    names = [task.partition("/")[2] for task in summaries]
    items = "".join(f'<li><a href="{html.escape(name)}/report.html">{html.escape(name)}</a></li>' for name in names)
    return report.section("Tasks' own pages, with films", f"<ul>{items}</ul>")
