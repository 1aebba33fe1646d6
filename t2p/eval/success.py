"""Success rates: which checkpoints are rolled out on which task, and how their results are told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_collections
import mujoco
import numpy as np
from tqdm import tqdm

from t2p import checkpoint
from t2p.eval import computation
from t2p.eval.rollout import Record, Rollouts, add_times, check_policy, rollout
from t2p.eval.watch import Watch
from t2p.io import UserError
from t2p.methods.base import Counted, Policy, Variables
from t2p.methods.instructed import instruct
from t2p.methods.registry import make_policy, make_stage
from t2p.metrics.success import paired_difference, wilson
from t2p.sim.registry import make_task
from t2p.sim.render import choose_renderer
from t2p.sim.task import Task


@dataclass(frozen=True)
class Entry:
    """One trained policy. name: as the user calls it; seed: of its training, None where it is the only one; flops: of
    one action, None where its stage does not count them."""

    name: str
    seed: int | None
    directory: str
    policy: Policy
    variables: Variables
    meta: Mapping[str, Any]
    task: Task
    flops: float | None = None

    @property
    def label(self) -> str:
        return self.name if self.seed is None else f"{self.name}, training seed {self.seed}"

    @property
    def file(self) -> str:
        """What files about it are called."""
        return self.name if self.seed is None else f"{self.name}-{self.seed}"


@dataclass(frozen=True)
class Loaded:
    """A checkpoint's policy that was not yet told a task; fields as Entry's."""

    name: str
    seed: int | None
    directory: str
    policy: Policy
    variables: Variables
    meta: Mapping[str, Any]
    flops: float | None = None


def load(checkpoints: Sequence[str], which: str) -> list[Loaded]:
    """checkpoints: "DIR" or "NAME=DIR"; a folder of `t2p train --seeds` gives one for each training seed. UserError for
    a checkpoint that is none or is no policy."""
    found = []
    for given in checkpoints:
        name, equals, directory = given.partition("=")
        name, directory = (name, directory) if equals else (Path(given).name, given)
        folders: list[tuple[int | None, str]] = [
            (int(p.name.removeprefix("seed_")), str(p)) for p in sorted(Path(directory).glob("seed_*"))
        ]
        for seed, folder in folders or [(None, directory)]:
            variables, meta = checkpoint.load(folder, which)
            config = ml_collections.ConfigDict(meta["config"])
            found.append(Loaded(name, seed, folder, make_policy(config), variables, meta, _flops(config)))
    labels = [(one.name, one.seed) for one in found]
    if len(set(labels)) < len(labels):
        names = [one.name for one in found]
        raise UserError(f"two checkpoints have the same name: {names}; name them with --checkpoint NAME=DIR")
    return found


def _flops(config: ml_collections.ConfigDict) -> float | None:
    stage = make_stage(config)
    return stage.flops_per_action(config.text.width) if isinstance(stage, Counted) else None


def on_task(found: Sequence[Loaded], task: str, options: Mapping[str, Any], any_task: bool = False) -> list[Entry]:
    """The policies, told the task's sentence where they follow one. UserError for one that was trained on other tasks
    (unless any_task) or cannot act there."""
    return [_entry(one, task, options, any_task) for one in found]


def check_trained(found: Sequence[Loaded], tasks: Sequence[str], any_task: bool = False) -> None:
    """UserError that names all of the tasks (full names) that a policy was not trained on, unless any_task."""
    for one in found:
        trained = one.meta.get("tasks", [])
        if trained and not any_task and (others := [task for task in tasks if task not in trained]):
            raise UserError(
                f"{one.directory} was trained on {', '.join(trained)}, not on {', '.join(others)}; give its task, or "
                "--any_task to see what it does there"
            )


def entries(
    checkpoints: Sequence[str], which: str, task: str, options: Mapping[str, Any], any_task: bool = False
) -> list[Entry]:
    """`load`, then `on_task`."""
    return on_task(load(checkpoints, which), task, options, any_task)


def _entry(one: Loaded, task: str, options: Mapping[str, Any], any_task: bool) -> Entry:
    made = make_task(task, control=one.policy.action, **options)
    check_trained([one], [made.name], any_task)
    check_policy(one.policy, made)
    text = ml_collections.ConfigDict(one.meta["config"]).text
    told, shown = instruct(one.policy, one.variables, text, made.instruction)
    return Entry(one.name, one.seed, one.directory, told, shown, one.meta, made, one.flops)


def run_all(
    found: Sequence[Entry],
    seeds: Sequence[int],
    out: Path,
    num_envs: int,
    workers: int,
    renderer: str,
    watch: Watch | None = None,
) -> list[Rollouts]:
    """Rolls every entry out on the same seeds; episodes go to OUT/episodes/<entry>.jsonl. watch: shows them."""
    chosen, runs = choose_renderer(renderer), []
    for entry in found:
        if note := renderer_note(entry, chosen):
            tqdm.write(note)
        about = {"checkpoint": entry.directory, "step": entry.meta["step"], "mujoco": mujoco.__version__}
        about |= {"renderer": chosen, "git": entry.meta.get("git")}
        if watch is not None:
            watch.begin(entry.label, entry.task, len(seeds))
        with tqdm(total=len(seeds), unit="episode", desc=entry.label) as bar:
            runs.append(
                rollout(
                    entry.policy,
                    entry.variables,
                    entry.task,
                    seeds,
                    num_envs=num_envs,
                    workers=workers,
                    renderer=chosen,
                    file=out / "episodes" / f"{entry.file}.jsonl",
                    about=about,
                    progress=_counting(bar, watch),
                    watch=watch.attached if watch is not None else None,
                )
            )
    return runs


def _counting(bar: Any, watch: Watch | None) -> Callable[[Record], None]:
    won = []

    def note(record: Record) -> None:
        won.append(record.success)
        if watch is not None:
            watch.note(record)
        bar.set_postfix(success=f"{np.mean(won):.1%}", refresh=False)
        bar.update()

    return note


def renderer_note(entry: Entry, renderer: str) -> str:
    """A sentence where a policy that looks at pictures was trained on another renderer's, else ""."""
    seen = entry.meta.get("renderers", [])
    if not entry.policy.observe.images or not seen or renderer in seen:
        return ""
    return (
        f"note: {entry.label} was trained on pictures drawn by {', '.join(seen)}; here they are drawn by {renderer}, "
        f"which looks different (--renderer {seen[0]} takes the same)"
    )


def summarise(found: Sequence[Entry], runs: Sequence[Rollouts]) -> dict[str, Any]:
    """{"policies": {name: {...}}, "differences": [...], "lines": what to print}. Spread over rollouts (Wilson's
    interval, all training seeds together) and over training seeds (standard deviation of rates) are told apart."""
    names = list(dict.fromkeys(e.name for e in found))
    policies: dict[str, Any] = {}
    for name in names:
        own = [(e, r) for e, r in zip(found, runs, strict=True) if e.name == name]
        rates = [float(r.successes.mean()) for _, r in own]
        won, count = sum(int(r.successes.sum()) for _, r in own), sum(len(r.records) for _, r in own)
        low, high = wilson(won, count)
        policies[name] = {
            "success": won / count,
            "low": low,
            "high": high,
            "episodes": count,
            "training_seeds": {e.label: rate for (e, _), rate in zip(own, rates, strict=True)},
            "std_over_training_seeds": float(np.std(rates, ddof=1)) if len(rates) > 1 else None,
            "failed": sum(bool(x.failed) for _, r in own for x in r.records),
            "times": add_times([r.times for _, r in own]),
            "computation": computation.together(
                [computation.of_episodes(e.flops, [x.steps for x in r.records]) for e, r in own],
                [len(r.records) for _, r in own],
            ),
        }
    differences = [
        {"first": names[0], "second": name, **_difference(found, runs, names[0], name)} for name in names[1:]
    ]
    about = {"task": found[0].task.name, "mujoco": mujoco.__version__, "policies": policies, "differences": differences}
    notes = [note] if (note := task_note(found[0].task)) else []
    return {**about, "lines": [*map(_line, policies.items()), *map(_difference_line, differences), *notes]}


def task_note(task: Task) -> str:
    """What a task says beside every result (LIBERO's: that another MuJoCo drifts), or ""."""
    return getattr(task, "note", "")


def _difference(found: Sequence[Entry], runs: Sequence[Rollouts], first: str, second: str) -> dict[str, float]:
    """Of episodes that start alike. Training seeds are paired in their order, as far as both policies have them."""
    a, b = ([r.successes for e, r in zip(found, runs, strict=True) if e.name == n] for n in (first, second))
    pairs = list(zip(a, b))
    difference, low, high = paired_difference(
        np.concatenate([x for x, _ in pairs]), np.concatenate([y for _, y in pairs])
    )
    return {"difference": difference, "low": low, "high": high}


def _line(item: tuple[str, Mapping[str, Any]]) -> str:
    name, p = item
    text = f"{name:28s} {p['success']:6.1%}  [{p['low']:.1%}, {p['high']:.1%}]  of {p['episodes']} episodes"
    if p["std_over_training_seeds"] is not None:
        text += f"; over {len(p['training_seeds'])} training seeds: std {p['std_over_training_seeds']:.1%}"
    return text + (f"; physics failed in {p['failed']}" if p["failed"] else "")


def _difference_line(d: Mapping[str, Any]) -> str:
    return f"{d['first']} - {d['second']}: {d['difference']:+.1%} [{d['low']:+.1%}, {d['high']:+.1%}] (same episodes)"
