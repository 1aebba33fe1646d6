"""`t2p rollout`: a policy's success on a simulated task, with intervals, films and a report."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from t2p.io import UserError, write_json

ALL = sys.maxsize  # episodes of --record without a number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--task", metavar="TASK", help="such as tabletop/block_stack")
    what.add_argument(
        "--suite", metavar="SUITE", help="all tasks of tabletop, libero_object, ...: a page each, and one"
    )
    parser.add_argument(
        "--protocol",
        help="LIBERO's tasks: libero (default), atm, amplify, openpi or reset (length, states, how many episodes)",
    )
    parser.add_argument("--profile", help="LIBERO's tasks: faithful (default) or fast pictures")
    parser.add_argument("--libero_root", metavar="DIR", help="LIBERO's own files (default: T2P_LIBERO_ROOT, ...)")
    parser.add_argument(
        "--checkpoint",
        required=True,
        action="append",
        metavar="[NAME=]DIR",
        help="a policy's workdir (of t2p train --seeds: all its seeds); repeat to compare on the same episodes",
    )
    parser.add_argument("--which", default="best", help="best (default), latest, or a step")
    parser.add_argument("--episodes", type=int, metavar="N", help="of each task (default: the protocol's, else 1000)")
    parser.add_argument("--first_seed", type=int, default=0, help="of the episodes (default: 0)")
    parser.add_argument("--num_envs", type=int, default=32, help="environments at once (default: 32)")
    parser.add_argument("--workers", type=int, default=-1, help="processes of the simulator (default: one a core)")
    parser.add_argument("--renderer", default="auto", help="auto (default), egl, osmesa or rays")
    parser.add_argument("--embodiment", help="tabletop tasks: xarm7 (default) or panda")
    parser.add_argument("--any_task", action="store_true", help="also a checkpoint that was trained on another task")
    parser.add_argument("--films", type=int, default=3, help="successes and failures to film of each (default: 3)")
    parser.add_argument(
        "--record",
        type=int,
        nargs="?",
        const=ALL,
        default=0,
        metavar="N",
        help="write videos of the first N episodes (without a number: of all) of each policy to DIR/videos",
    )
    parser.add_argument(
        "--view",
        type=int,
        nargs="?",
        const=0,
        default=None,
        metavar="PORT",
        help="show the running environments in a browser on this machine (without a port: one that is free)",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="where to write; an interrupted run goes on")


def run(args: argparse.Namespace, rest: list[str]) -> int:
    if rest:
        raise UserError(f"unknown arguments {rest}; t2p rollout --help lists what there is")
    results = evaluate(args, Path(args.out))
    for line in results["lines"]:
        print(line)
    print(f"report: {Path(args.out) / 'report.html'}")
    return 0


def evaluate(args: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Everything `t2p rollout` does; returns what it wrote to success.json."""
    from t2p.eval import rollout_report, success

    count = _episodes(args)
    if count < 1 or args.num_envs < 1 or min(args.first_seed, args.films, args.record) < 0:
        raise UserError("--episodes and --num_envs must be at least 1, --first_seed, --films and --record at least 0")
    named = ("embodiment", "protocol", "profile", "libero_root")
    options = {name: value for name in named if (value := getattr(args, name))}
    _check_tasks(args, options)
    loaded = success.load(args.checkpoint, args.which)
    workers = (os.cpu_count() or 1) if args.workers < 0 else args.workers
    seeds = range(args.first_seed, args.first_seed + count)
    if args.suite:
        return _suite(args, out, loaded, seeds, options, workers)
    entries = success.on_task(loaded, args.task, options, args.any_task)
    with _watch(args) as watch:
        runs = success.run_all(entries, seeds, out, args.num_envs, workers, args.renderer, watch)
    summary = success.summarise(entries, runs)
    write_json(out / "success.json", summary)
    rollout_report.write(out / "report.html", entries, runs, summary, args.films, args.renderer, args.record)
    return summary


def _check_tasks(args: argparse.Namespace, options: dict[str, Any]) -> None:
    """UserError for what is not there, before checkpoints are read: tasks, their options, LIBERO's files."""
    from t2p.sim import registry
    from t2p.sim.libero.assets import find_assets
    from t2p.sim.libero.suites import SUITES

    if args.task and any(name.startswith(f"{args.task}/") for name in registry.TASKS):
        raise UserError(
            f"--task {args.task} is a whole suite: give --suite {args.task}, or one of its tasks, such as "
            f"{registry.suite(args.task)[0]}"
        )
    for task in registry.suite(args.suite) if args.suite else [args.task]:
        registry.make_task(task, **options)
    if _first(args) in SUITES:
        find_assets(args.libero_root)


def _suite(
    args: argparse.Namespace, out: Path, loaded: Any, seeds: range, options: dict[str, Any], workers: int
) -> dict[str, Any]:
    from t2p.eval import suite
    from t2p.sim import registry

    about = f"protocol {protocol}" if (protocol := _protocol(args)) else ""
    counts = {"num_envs": args.num_envs, "workers": workers, "films": args.films, "recorded": args.record}
    settings = suite.Settings(
        args.suite,
        seeds,
        options,
        renderer=args.renderer,
        any_task=args.any_task,
        about=about,
        command=_command(args),
        **counts,
    )
    with _watch(args) as watch:
        return suite.run(loaded, registry.suite(args.suite), settings, out, watch)


def _episodes(args: argparse.Namespace) -> int:
    """Of each task: as given, else the protocol's."""
    from t2p.sim.libero.protocols import find_protocol

    if args.episodes is not None:
        return args.episodes
    protocol = _protocol(args)
    return find_protocol(protocol).count(_first(args)) if protocol else 1000


def _protocol(args: argparse.Namespace) -> str:
    """LIBERO's, "" elsewhere."""
    from t2p.sim.libero.suites import SUITES

    return (args.protocol or "libero") if _first(args) in SUITES else ""


def _first(args: argparse.Namespace) -> str:
    """The suite, also of a single task."""
    return (args.suite or args.task).partition("/")[0]


def _command(args: argparse.Namespace) -> str:
    """What decides a result, as it is typed."""
    parts = [
        f"--suite {args.suite}" if args.suite else f"--task {args.task}",
        f"--protocol {_protocol(args)}" if _protocol(args) else "",
    ]
    parts += [f"--{name} {value}" for name in ("profile", "embodiment", "episodes") if (value := getattr(args, name))]
    parts += [f"--first_seed {args.first_seed}" if args.first_seed else "", f"--which {args.which}"]
    return " ".join(["t2p rollout", *filter(None, parts)])


def _watch(args: argparse.Namespace) -> AbstractContextManager[Any]:
    """The page that --view asks for."""
    from t2p.eval.watch import Watch

    if args.view is None:
        return nullcontext()
    watch = Watch(args.view, args.renderer)
    print(f"watch: {watch.url}", flush=True)
    return watch
