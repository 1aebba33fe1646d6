"""AMPLIFY in closed loop on Block Stack: what action-free videos add to a few demonstrations.

    python benchmarks/amplify_curves.py --out out/curves                      # everything: hours on two CPU cores
    python benchmarks/amplify_curves.py --out out/curves --seeds 0 --only demonstrations --episodes 20
    python benchmarks/amplify_curves.py --out out/curves --report             # only tables, of what is recorded

Three questions, each for every seed (of training and of the demonstrations drawn):

demonstrations  2, 5, 10, 20 of them with motion learned from 100 videos, beside the same network without motion
videos          2 demonstrations; motion learned from 0, 2, 5, 10, 50, 100 videos (0: the demonstrations' own video)
embodiment      2 demonstrations; motion learned from 100 videos of a floating hand, or of the Panda

Motion (tokenizer, then forward dynamics) is always learned from the videos and the first two demonstrations' video.
`cpu` variants, 50 setpoints an episode, exact tracks from the simulator, sentences by the `hashed` encoder. Policies
are rolled out on the same new starts. Every step is a t2p command that is printed; what is done is not done again, nor
are policies whose results are recorded (--results, a line each; here: benchmarks/amplify_curves.jsonl; for a
run of your own give another). Tables: docs/results.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

TASK = "tabletop/block_stack"
LOOK = ("--fps", "10", "--views", "front", "wrist", "--sets", "--renderer", "rays")
DEMONSTRATIONS, VIDEOS = (2, 5, 10, 20), (0, 2, 5, 10, 50, 100)
OTHERS = ("hand", "panda")  # embodiments of other videos
FIRST_ROLLOUT = 5000  # seeds of the rollouts
QUESTIONS = ("demonstrations", "videos", "embodiment")


@dataclass(frozen=True)
class Policy:
    """One trained policy. demos: demonstrations; motion: (embodiment, videos) that motion is learned from, or None."""

    seed: int
    demos: int
    motion: tuple[str, int] | None

    @property
    def name(self) -> str:
        motion = "alone" if self.motion is None else "{}{}".format(*self.motion)
        return f"{motion}_demos{self.demos}_seed{self.seed}"


@dataclass
class Bench:
    """Runs commands, each once. out: where everything goes; results: a line for each policy that was rolled out;
    extra: settings of every training."""

    out: Path
    results: Path
    episodes: int
    extra: list[str]
    locks: dict[str, threading.Lock] = field(default_factory=dict)
    guard: threading.Lock = field(default_factory=threading.Lock)

    def once(self, name: str, *command: str) -> None:
        """Runs `t2p command` unless it was done; its output goes to OUT/logs."""
        with self.guard:
            lock = self.locks.setdefault(name, threading.Lock())
        with lock:
            mark = self.out / "done" / name
            if mark.exists():
                return
            print(f"$ t2p {shlex.join(command)}", flush=True)
            for folder in ("done", "logs"):
                (self.out / folder).mkdir(parents=True, exist_ok=True)
            environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(self.out / "compiled")}
            with open(self.out / "logs" / name, "a") as log:
                subprocess.run(
                    [sys.executable, "-m", "t2p.cli.main", *command],
                    env=environment,
                    stdout=log,
                    stderr=log,
                    check=True,
                )
            mark.touch()

    def data(self, name: str, episodes: int, seed: int, *more: str) -> str:
        """Episodes at 50 setpoints with exact tracks: the folder."""
        raw, made = str(self.out / "recorded" / name), str(self.out / "data" / name)
        self.once(
            f"record_{name}",
            "collect",
            TASK,
            "--out",
            raw,
            "--episodes",
            str(episodes),
            "--seed",
            str(seed),
            *more,
            *LOOK,
        )
        setpoints = ("--source.steps=50", "--source.times=uniform")
        self.once(
            f"import_{name}", "data", "import", "--source", "setpoints", "--input", raw, "--out", made, *setpoints
        )
        follow = ("--tracker", "simulator", "--renderer", "rays", "--layout", "amplify", "--side", "6")
        self.once(f"follow_{name}", "annotate", "--input", made, "--out", made, *follow)
        return made

    def videos(self, embodiment: str) -> str:
        seed = {"xarm7": 1, "hand": 3, "panda": 4}[embodiment]
        return self.data(f"videos_{embodiment}", 100, seed, "--action_free", "--embodiment", embodiment)

    def demos(self, seed: int) -> str:
        return self.data(f"demos_{seed}", 20, 10 + seed)

    def held_out(self) -> str:
        return self.data("held_out", 24, 2)

    def train(self, config: str, workdir: Path, seed: int, *more: str) -> None:
        file = Path(__file__).resolve().parents[1] / "configs/amplify" / config
        options = (f"--config.seed={seed}", f"--config.data.validation.held_out.path={self.held_out()}")
        self.once(
            f"train_{workdir.name}",
            "train",
            "--config",
            str(file),
            "--workdir",
            str(workdir),
            *options,
            *more,
            *self.extra,
        )

    def motion(self, seed: int, embodiment: str, videos: int) -> Path:
        """Tokenizer and forward dynamics: the latter's folder."""
        name = f"{embodiment}{videos}_seed{seed}"
        sources = source("demos", self.demos(seed), 2, 20)
        if videos:
            sources += source("videos", self.videos(embodiment), videos, 100)
        else:
            sources = source("videos", self.demos(seed), 2, 20)
        tokens, dynamics = self.out / f"tokens_{name}", self.out / f"dynamics_{name}"
        self.train("motion_tokenizer.py:cpu", tokens, seed, *sources)
        self.train("forward_dynamics.py:cpu", dynamics, seed, f"--config.init_from.tokenizer.path={tokens}", *sources)
        return dynamics

    def policy(self, policy: Policy) -> None:
        """Trains it and rolls it out, unless its result is recorded."""
        if policy.name in self.recorded():
            return
        workdir = self.out / f"policy_{policy.name}"
        sources = source("demos", self.demos(policy.seed), policy.demos, 20)
        if policy.motion is None:
            self.train("inverse_dynamics.py:cpu_alone", workdir, policy.seed, *sources)
        else:
            dynamics = self.motion(policy.seed, *policy.motion)
            start = f"--config.init_from.forward_dynamics.path={dynamics}"
            self.train("inverse_dynamics.py:cpu", workdir, policy.seed, start, *sources)
        rollouts = ("--episodes", str(self.episodes), "--first_seed", str(FIRST_ROLLOUT), "--num_envs", "25")
        self.once(
            f"rollout_{policy.name}_{self.episodes}",
            *("rollout", "--task", TASK, "--checkpoint", str(workdir), *rollouts, "--renderer", "rays"),
            *("--workers", "1", "--films", "1", "--out", str(self.out / f"rollout_{policy.name}_{self.episodes}")),
        )
        self.record(policy)

    def record(self, policy: Policy) -> None:
        """Adds the rollouts' result to the file."""
        file = self.out / f"rollout_{policy.name}_{self.episodes}" / "success.json"
        (found,) = json.loads(file.read_text())["policies"].values()
        won = round(found["success"] * found["episodes"])
        row = {"policy": policy.name, "episodes": found["episodes"], "won": won, "commit": commit(), "date": today()}
        with self.guard, open(self.results, "a") as lines:
            lines.write(json.dumps(row) + "\n")

    def recorded(self) -> dict[str, dict[str, Any]]:
        """{policy's name: its result with as many episodes}."""
        lines = self.results.read_text().splitlines() if self.results.exists() else []
        rows = [json.loads(line) for line in lines]
        return {row["policy"]: row for row in rows if row["episodes"] == self.episodes}


def commit() -> str:
    """That of the code that runs, or "" outside of a repository."""
    command = ("git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD")
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def today() -> str:
    return date.today().isoformat()


def source(name: str, folder: str, episodes: int, of: int) -> list[str]:
    """Its first episodes, each as often as those of other sources."""
    key = f"--config.data.sources.{name}"
    return [f"{key}.path={folder}", f"{key}.fraction={episodes / of}", f"{key}.weight={float(episodes)}"]


def policies(questions: Sequence[str], seeds: Sequence[int]) -> list[Policy]:
    """Those that the questions need, of one seed after the other."""
    return list(dict.fromkeys(p for seed in seeds for question in questions for _, p in rows(question, seed)))


def rows(question: str, seed: int) -> list[tuple[str, Policy]]:
    """(what a table calls it, the policy)."""
    own, alone = ("xarm7", 100), "inverse only"
    if question == "demonstrations":
        kinds = ((alone, None), ("motion of 100 videos", own))
        return [(f"{n}, {kind}", Policy(seed, n, motion)) for n in DEMONSTRATIONS for kind, motion in kinds]
    if question == "videos":
        return [(f"{n} videos", Policy(seed, 2, ("xarm7", n))) for n in VIDEOS]
    others = [(f"100 videos of the {name}", Policy(seed, 2, (name, 100))) for name in OTHERS]
    return [("own video only", Policy(seed, 2, ("xarm7", 0))), *others, (alone, Policy(seed, 2, None))]


def report(bench: Bench, questions: Sequence[str], seeds: Sequence[int]) -> None:
    """Prints a table for each question; OUT/curves.json and OUT/curves.png have the same numbers."""
    tables = {q: [line for at in range(len(rows(q, 0))) if (line := _line(bench, q, at, seeds))] for q in questions}
    for question, lines in tables.items():
        print(f"\n{question}: success, 95 % interval (Wilson, all seeds), of each seed")
        for line in lines:
            each = ", ".join(f"{rate:.0%}" for rate in line["seeds"])
            interval = f"[{line['low']:.1%}, {line['high']:.1%}]"
            print(f"  {line['name']:32s} {line['success']:6.1%}  {interval:16s} of {line['episodes']}  ({each})")
    (bench.out / "curves.json").write_text(json.dumps(tables, indent=2))
    draw(tables, bench.out / "curves.png")


def _line(bench: Bench, question: str, at: int, seeds: Sequence[int]) -> dict[str, Any] | None:
    """One row of a table over the seeds that are done, or None."""
    from t2p.metrics.success import wilson

    recorded = bench.recorded()
    names = [rows(question, seed)[at][1].name for seed in seeds]
    found = [recorded[name] for name in names if name in recorded]
    if not found:
        return None
    name = rows(question, seeds[0])[at][0]
    won, count = sum(row["won"] for row in found), sum(row["episodes"] for row in found)
    low, high = wilson(won, count)
    rates = [row["won"] / row["episodes"] for row in found]
    return {"name": name, "success": won / count, "low": low, "high": high, "episodes": count, "seeds": rates}


def draw(tables: Mapping[str, list[dict[str, Any]]], file: Path) -> None:
    """Success with its interval for every row, a panel a question."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(tables), 3.6), layout="constrained")
    for axes, (question, lines) in zip(figure.subplots(1, len(tables), squeeze=False)[0], tables.items(), strict=True):
        rates = np.array([[line["success"], line["low"], line["high"]] for line in lines]).reshape(-1, 3).T * 100
        places = np.arange(len(lines))[::-1]
        axes.errorbar(rates[0], places, xerr=np.abs(rates[1:] - rates[0]), fmt="o", capsize=3)
        axes.set_yticks(places, [line["name"] for line in lines])
        axes.set(title=question, xlabel="success, %", xlim=(-2, 102), ylim=(-0.5, len(lines) - 0.5))
        axes.grid(axis="x", alpha=0.3)
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--only", nargs="+", default=QUESTIONS, choices=QUESTIONS)
    parser.add_argument("--episodes", type=int, default=25, help="rollouts of each policy (default: 25)")
    parser.add_argument("--jobs", type=int, default=2, help="policies at once (default: 2)")
    recorded = Path(__file__).with_suffix(".jsonl")
    parser.add_argument("--results", type=Path, default=recorded, metavar="FILE", help="recorded results, of any run")
    parser.add_argument("--report", action="store_true", help="run nothing")
    args, overrides = parser.parse_known_args()
    if wrong := [x for x in overrides if not x.startswith("--config.")]:
        parser.error(f"unknown arguments {wrong}; of the configs: --config.KEY=VALUE")
    bench = Bench(args.out, args.results, args.episodes, overrides)
    args.out.mkdir(parents=True, exist_ok=True)
    if not args.report:
        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(bench.policy, policies(args.only, args.seeds)))
    report(bench, args.only, args.seeds)


if __name__ == "__main__":
    main()
